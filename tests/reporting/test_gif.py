"""The animated pass through a scan: small enough, side by side, in the levels' colours, and marked."""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from spineseg.errors import DataError
from spineseg.geometry import Volume
from spineseg.reporting.case_views import CaseView
from spineseg.reporting.gif import write_gif
from spineseg.reporting.overlay import OPACITY, WIDTH_PX
from spineseg.vertebrae import LEVELS


def view(seed: int = 0, simulated: bool = True) -> CaseView:
    rng = np.random.default_rng(seed)
    shape = (44, 50, 84)
    labels = np.zeros(shape, np.uint8)
    for row, level in enumerate((20, 21, 22)):
        labels[10:34, 12:38, 58 - 22 * row : 74 - 22 * row] = level
    hu = ndimage.gaussian_filter(rng.normal(0, 300, shape), 1) + np.where(labels > 0, 400, 40)
    reference = Volume(labels, np.diag([1.0, 1.0, 1.0, 1.0]))
    found = reference.with_array(np.where(labels == 21, 0, labels).astype(np.uint8))
    image = reference.with_array(hu.astype(np.int16))
    return CaseView("case1", "p", "set", image, reference, {"run": found}, {"run": True}, simulated)


def frames(path: Path) -> list[np.ndarray]:
    with Image.open(path) as picture:
        found = []
        for number in range(picture.n_frames):
            picture.seek(number)
            found.append(np.asarray(picture.convert("RGB")).astype(int))
        return found


def near(frame: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    """Pixels whose hue is the colour's: what is left after the gray below is taken off."""
    tint = frame - frame.min(axis=2, keepdims=True)
    expected = OPACITY * (np.array(color) - min(color))
    return np.abs(tint - expected).max(axis=2) < 14


def test_reference_and_prediction_stand_side_by_side_in_the_levels_colours(tmp_path: Path) -> None:
    write_gif(view(), tmp_path / "a.gif")
    shown = frames(tmp_path / "a.gif")
    assert 20 < len(shown) <= 48 and (tmp_path / "a.gif").stat().st_size < 3e6
    middle = shown[len(shown) // 2]
    half = middle.shape[1] // 2
    for level in (20, 21, 22):
        color = LEVELS[level].color
        left, right = near(middle[:, :half], color).mean(), near(middle[:, half:], color).mean()
        assert left > 0.03
        assert (right > 0.03) == (level != 21), LEVELS[level].name
    # Head up: L1 above L3.
    rows = [np.nonzero(near(middle[:, :half], LEVELS[level].color))[0].mean() for level in (20, 22)]
    assert rows[0] < rows[1]
    assert any(np.abs(a - b).max() > 30 for a, b in itertools.pairwise(shown))


def test_front_is_on_the_left(tmp_path: Path) -> None:
    case = view()
    labels = np.zeros(case.volume.shape, np.uint8)
    labels[20:40, 35:48, 40:60] = 20  # Y runs to the front
    labels[20:40, 5:18, 40:60] = 22
    volume = case.volume.with_array(labels)
    write_gif(replace(case, image=None, reference=None, predictions={"run": volume}), tmp_path / "a.gif")
    middle = frames(tmp_path / "a.gif")[0]  # all slices are alike, and drawn once
    columns = [np.nonzero(near(middle, LEVELS[level].color))[1].mean() for level in (20, 22)]
    assert columns[0] < columns[1]


def test_a_simulated_case_is_marked_in_every_frame(tmp_path: Path) -> None:
    write_gif(view(), tmp_path / "a.gif")
    write_gif(view(simulated=False), tmp_path / "b.gif")
    yellow = [
        [int((np.abs(frame - (255, 200, 90)).max(axis=2) < 25).sum()) for frame in frames(tmp_path / name)]
        for name in ("a.gif", "b.gif")
    ]
    assert min(yellow[0]) > 50 and max(yellow[1]) < min(yellow[0]) / 2
    write_gif(replace(view(simulated=False), overfit=True), tmp_path / "c.gif")
    checked = [int((np.abs(frame - (255, 200, 90)).max(axis=2) < 25).sum()) for frame in frames(tmp_path / "c.gif")]
    assert min(checked) > 2 * max(yellow[1])


def test_the_file_keeps_to_its_size(tmp_path: Path) -> None:
    write_gif(view(), tmp_path / "whole.gif")
    limit = (tmp_path / "whole.gif").stat().st_size / 3e6
    write_gif(view(), tmp_path / "small.gif", most_mb=limit)
    assert (tmp_path / "small.gif").stat().st_size <= limit * 1e6
    assert len(frames(tmp_path / "small.gif")) < len(frames(tmp_path / "whole.gif"))
    with pytest.raises(DataError, match="allow more"):
        write_gif(view(), tmp_path / "none.gif", most_mb=0.001)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["small.gif", "whole.gif"]


def test_a_single_axial_slice_is_no_wider_than_a_screen(tmp_path: Path) -> None:
    case = view()
    flat = Volume(case.volume.array[:, :, 60:61].copy(), np.diag([1.0, 1.0, 1.0, 1.0]))
    write_gif(replace(case, image=None, reference=flat, predictions={"run": flat}), tmp_path / "a.gif")
    assert 0 < frames(tmp_path / "a.gif")[0].shape[1] <= 2 * WIDTH_PX + 4


def test_a_run_that_is_labelled_reference_stands_beside_the_reference(tmp_path: Path) -> None:
    write_gif(view(), tmp_path / "a.gif")
    write_gif(view(), tmp_path / "b.gif", label="Reference")
    assert frames(tmp_path / "a.gif")[0].shape == frames(tmp_path / "b.gif")[0].shape


def test_another_run_and_no_run_at_all(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no prediction of unet"):
        write_gif(view(), tmp_path / "a.gif", run="unet")
    with pytest.raises(DataError, match="any run"):
        write_gif(replace(view(), predictions={}), tmp_path / "a.gif")
