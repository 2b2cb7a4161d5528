"""Pictures of fixed validation slices, drawn as they are looked at."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch.loggers import CSVLogger
from PIL import Image

from spineseg.callbacks.panels import HEADER_PX, Panels, draw_instances, reference_masks, to_gray, upright
from spineseg.errors import ConfigError


@given(y=st.integers(0, 4), z=st.integers(0, 6))
def test_head_is_up_and_front_is_left(y: int, z: int) -> None:
    plane = np.zeros((5, 7), np.uint8)
    plane[y, z] = 1
    ((row, column),) = np.argwhere(upright(plane))
    assert (row, column) == (6 - z, 4 - y)


def test_gray_spans_its_own_range() -> None:
    image = torch.stack([torch.zeros(2, 2), torch.tensor([[0.0, 0.4], [1.0, 0.0]]), torch.ones(2, 2)])
    assert to_gray(image).tolist() == [[0, 102], [255, 0]]
    assert to_gray(torch.zeros(1, 2, 2)).max() == 0


def test_outline_is_coloured_and_the_rest_untouched() -> None:
    gray = np.full((20, 30), 100, np.uint8)
    mask = np.zeros((1, 20, 30), bool)
    mask[0, 5:15, 10:20] = True
    drawn = draw_instances(gray, mask, [""])
    assert drawn.shape == (30, 20, 3)
    changed = (drawn != 100).any(-1)
    assert np.array_equal(changed, upright(mask[0].astype(np.uint8)).astype(bool))
    assert draw_instances(gray, mask[:0], []).shape == (30, 20, 3)


def test_reference_masks_are_the_index_map() -> None:
    index_map = np.array([[0, 1], [2, 1]])
    masks = reference_masks(index_map, 2)
    assert np.array_equal((masks * np.array([1, 2])[:, None, None]).sum(0), index_map)


class Pictures(CSVLogger):
    """A logger that takes pictures."""

    taken: list[tuple[str, int | None]]

    def log_image(self, key: str, images: list[Any], step: int | None = None) -> None:
        self.taken = [*getattr(self, "taken", []), (key, step)]


def test_pictures_come_when_they_are_due_and_show_the_fullest_slices(fit: Any, tiny: Any, tmp_path: Path) -> None:
    logger = Pictures(tmp_path)
    panels = Panels(every_n_epochs=2, slices=2, height_px=64, simulated=True)
    fit(tiny(), [panels], max_epochs=4, loggers=[logger])
    names = sorted(path.name for path in (tmp_path / "panels").iterdir())
    assert names == ["epoch_0001.png", "epoch_0003.png"]
    assert [key for key, _ in logger.taken] == ["val/panels"] * 2
    with Image.open(tmp_path / "panels" / names[0]) as picture:
        assert picture.height == HEADER_PX + 2 * 64
        array = np.asarray(picture)
    # Validation slices 100 to 103; 102 has the instance of the second stretch, drawn in colour in the middle column.
    width = array.shape[1] // 3
    second = array[HEADER_PX + 64 :, width : 2 * width].astype(int)
    assert (np.ptp(second, axis=-1) > 0).any()
    assert (np.ptp(array[HEADER_PX:, :width].astype(int), axis=-1) == 0).all()


def test_sanity_check_draws_nothing(fit: Any, tiny: Any, tmp_path: Path) -> None:
    fit(tiny(), [Panels()], max_epochs=0, num_sanity_val_steps=2)
    assert not (tmp_path / "panels").exists()


def test_impossible_settings() -> None:
    with pytest.raises(ConfigError, match="too small"):
        Panels(every_n_epochs=0)
