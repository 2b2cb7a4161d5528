"""The threshold baseline: what is bright, largest and closed; and its predictions folder."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import binary_closing

from spineseg.data.scans import Scan
from spineseg.errors import DataError
from spineseg.geometry import Volume
from spineseg.metrics.cases import score_case
from spineseg.predictions.store import open_predictions
from spineseg.predictions.threshold import ThresholdSettings, predict_threshold, threshold_spine
from spineseg.volumes import write_volume

PLAIN = ThresholdSettings(smoothing_mm=0.0, closing_mm=0.0)
OBLIQUE = np.array([[0.0, -1.2, 0.0, 5.0], [1.5, 0.0, 0.0, -7.0], [0.0, 0.0, 2.0, 3.0], [0.0, 0.0, 0.0, 1.0]])


def scan_of(mask: np.ndarray, *, bone: int = 400, affine: np.ndarray | None = None) -> Volume:
    array = np.where(mask, np.int16(bone), np.int16(40)).astype(np.int16)
    return Volume(array, np.eye(4) if affine is None else affine)


def box(shape: tuple[int, int, int], low: int, high: int) -> np.ndarray:
    mask = np.zeros(shape, dtype=bool)
    mask[low:high, low:high, low:high] = True
    return mask


@pytest.mark.parametrize("value", [-1024, 0, 149])
def test_nothing_bright_gives_an_empty_mask(value: int) -> None:
    found = threshold_spine(Volume(np.full((9, 8, 7), value, np.int16), np.eye(4)))
    assert found.array.dtype == np.uint8
    assert not found.array.any()


def test_a_bright_box_is_found() -> None:
    truth = box((30, 30, 30), 8, 22)
    found = threshold_spine(scan_of(truth)).array > 0
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.95


def test_the_native_grid_is_kept() -> None:
    image = scan_of(box((20, 24, 16), 4, 12), affine=OBLIQUE)
    found = threshold_spine(image)
    assert found.shape == image.shape
    np.testing.assert_array_equal(found.affine, OBLIQUE)


def test_only_the_largest_component_stays() -> None:
    large, small = box((40, 40, 40), 20, 35), box((40, 40, 40), 2, 9)
    found = threshold_spine(scan_of(large | small), PLAIN).array > 0
    np.testing.assert_array_equal(found, large)


def test_components_that_touch_at_a_corner_are_two() -> None:
    large, small = box((20, 20, 20), 2, 10), box((20, 20, 20), 10, 14)
    np.testing.assert_array_equal(threshold_spine(scan_of(large | small), PLAIN).array > 0, large)


def test_closing_fills_a_hole_and_leaves_the_outside() -> None:
    whole = box((30, 30, 30), 8, 22)
    pierced = whole.copy()
    pierced[13:16, 13:16, 13:16] = False
    closed = threshold_spine(scan_of(pierced), ThresholdSettings(smoothing_mm=0.0, closing_mm=3.0)).array > 0
    np.testing.assert_array_equal(closed, whole)


def test_closing_keeps_what_touches_the_border_and_adds_no_border() -> None:
    mask = np.zeros((12, 12, 60), dtype=bool)
    mask[0:6, 3:9, :] = True
    closed = threshold_spine(scan_of(mask), ThresholdSettings(smoothing_mm=0.0, closing_mm=4.0)).array > 0
    np.testing.assert_array_equal(closed, mask)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), radius=st.sampled_from([1.0, 2.0, 3.0]))
def test_closing_agrees_with_scipys_on_any_mask(seed: int, radius: float) -> None:
    # Long enough for several pieces, so that their seams are compared too.
    mask = np.random.default_rng(seed).random((9, 8, 110)) > 0.7
    image = scan_of(mask)
    component = threshold_spine(image, PLAIN).array > 0
    found = threshold_spine(image, ThresholdSettings(smoothing_mm=0.0, closing_mm=radius)).array > 0
    reach = int(radius)
    grid = np.ogrid[-reach : reach + 1, -reach : reach + 1, -reach : reach + 1]
    ball = sum(axis**2 for axis in grid) <= radius**2
    expected = binary_closing(np.pad(component, 4), ball)[4:-4, 4:-4, 4:-4]
    np.testing.assert_array_equal(found, expected)


@given(low=st.floats(60, 200), high=st.floats(201, 380))
@settings(max_examples=10, deadline=None)
def test_a_higher_threshold_never_adds_bright_voxels(low: float, high: float) -> None:
    ramp = np.broadcast_to(np.linspace(0, 400, 20, dtype=np.float32)[:, None, None], (20, 6, 6))
    image = Volume(np.rint(ramp).astype(np.int16), np.eye(4))
    many, few = (threshold_spine(image, ThresholdSettings(hu, 0.0, 0.0)).array for hu in (low, high))
    assert (few <= many).all()


def test_its_folder_is_scored_as_one_unnamed_object(tmp_path: Path) -> None:
    truth = box((30, 30, 30), 8, 22)
    image = scan_of(truth)

    def broken() -> Volume:
        raise DataError("scan.nii: truncated")

    def large() -> Volume:
        raise MemoryError

    scans = [Scan("good", lambda: image), Scan("bad", broken), Scan("large", large)]
    failures = predict_threshold(scans, tmp_path / "out")
    assert failures["bad"] == "scan.nii: truncated" and "scan 'large': too little memory" in failures["large"]
    folder = open_predictions(tmp_path / "out")
    assert folder.kinds == {"good": "instances"}
    assert dict(folder.failures) == failures
    assert folder.provenance["run"] == "threshold"
    reference = Volume(truth.astype(np.uint8) * 20, image.affine)
    rows = score_case(reference, folder.read("good"), edge="ignore").rows
    assert float(rows.loc[rows["metric"] == "dice_spine", "value"].iloc[0]) > 0.95


def test_predict_offers_it_as_a_run(tmp_path: Path) -> None:
    truth = box((30, 30, 30), 8, 22)
    # A block of bone in air: without air or fat the reader would not take the values for HU.
    image = Volume(np.where(truth, 400, -1000).astype(np.int16), np.eye(4))
    write_volume(tmp_path / "scans" / "bone.nii.gz", image)
    command = [sys.executable, "-m", "spineseg.predict", "run=threshold", "outputs=[nifti]"]
    places = [f"input={tmp_path / 'scans'}", f"output={tmp_path / 'out'}"]
    done = subprocess.run([*command, *places], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "1 of 1 scans predicted" in done.stdout
    found = open_predictions(tmp_path / "out").read("bone")
    assert (found.kind, found.labels.array.max()) == ("instances", 1)
