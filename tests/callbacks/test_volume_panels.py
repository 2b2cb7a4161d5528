"""Pictures of volumes in three planes, in square pixels."""

from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader

from spineseg.callbacks.panels import HEADER_PX, Panels
from spineseg.callbacks.volume_panels import VolumePanels, spine_middle, square, volume_rows
from spineseg.errors import ConfigError

SHAPE = (10, 16, 12)


def volume(seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    labels = np.zeros(SHAPE, np.uint8)
    labels[3:8, 4:9, 1:6], labels[3:8, 4:9, 7:11] = 2, 1
    image = torch.from_numpy(rng.integers(-1000, 1000, SHAPE).astype(np.int16))
    return {"case": f"v{seed}", "image": image, "labels": torch.from_numpy(labels), "spacing_mm": (2.0, 1.0, 1.0)}


@settings(deadline=None, max_examples=20)
@given(x=st.integers(0, 9), y=st.integers(0, 15), z=st.integers(0, 11))
def test_three_planes_meet_in_one_voxel(x: int, y: int, z: int) -> None:
    """One marked voxel shows once in each plane, head up, front left, the patient's right on the left."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[x, y, z] = 1
    rows = volume_rows(
        np.zeros(SHAPE, np.int16),
        labels,
        np.zeros_like(labels),
        spacing_mm=(1.0, 1.0, 1.0),
        window_hu=(-200.0, 1000.0),
        names=["vertebra"],
    )
    places = [np.argwhere(np.ptp(reference.astype(int), axis=-1)).tolist() for _, reference, _ in rows]
    assert places == [[[11 - z, 15 - y]], [[11 - z, 9 - x]], [[15 - y, 9 - x]]]
    assert not any(np.ptp(found.astype(int), axis=-1).any() for _, _, found in rows)


def test_pixels_are_square() -> None:
    plane = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert square(plane, (1.0, 1.0)).tolist() == plane.tolist()
    assert square(plane, (3.0, 1.0)).shape == (9, 4)
    assert square(plane, (0.5, 1.0)).tolist() == np.repeat(plane, 2, axis=1).tolist()


def test_the_middle_of_nothing_is_the_volumes() -> None:
    assert spine_middle(np.zeros((5, 7, 9), np.uint8)) == (2, 3, 4)


class Task(lightning.LightningModule):
    """Validates volumes with a prediction that misses the first class."""

    classes = ("L1", "L2")

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(1, 1)

    def training_step(self, batch: torch.Tensor, batch_index: int) -> torch.Tensor:
        return self.net(batch).sum()

    def validation_step(self, batch: dict[str, Any], batch_index: int) -> dict[str, Any]:
        labels = batch["labels"].numpy().copy()
        labels[labels == 1] = 0
        return {"labels": labels}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.net.parameters(), lr=0.1)


def test_volumes_are_drawn_and_slices_left_to_the_other(tmp_path: Path) -> None:
    callbacks = [Panels(every_n_epochs=2), VolumePanels(every_n_epochs=2, cases=2, height_px=48, simulated=True)]
    trainer = lightning.Trainer(
        max_epochs=3,
        accelerator="cpu",
        default_root_dir=tmp_path,
        callbacks=callbacks,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    volumes = DataLoader([volume(i) for i in range(3)], batch_size=None)
    trainer.fit(Task(), DataLoader(torch.ones(2, 1)), volumes)
    names = sorted(path.name for path in (tmp_path / "panels").iterdir())
    assert names == ["epoch_0001.png", "epoch_0002.png"]
    with Image.open(tmp_path / "panels" / names[0]) as picture:
        array = np.asarray(picture).astype(int)
    assert array.shape[0] == HEADER_PX + 6 * 48
    # The sagittal row: an image without colour, two levels in the reference, one in the prediction.
    width = round(48 * 16 / 12)
    row = array[HEADER_PX : HEADER_PX + 48]
    coloured = [(np.ptp(row[:, i * width : (i + 1) * width], axis=-1) > 0).sum() for i in range(3)]
    assert coloured[0] == 0 and coloured[1] > coloured[2] > 0


def test_impossible_settings() -> None:
    with pytest.raises(ConfigError, match="cases=0"):
        VolumePanels(cases=0)
    with pytest.raises(ConfigError, match="too small"):
        VolumePanels(height_px=3)
