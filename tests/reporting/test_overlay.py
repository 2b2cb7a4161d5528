"""The overlay shows the body the right way round and the labels where they are."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spineseg.geometry import Volume
from spineseg.reporting.overlay import HEADER_PX, HEIGHT_PX, overlay, write_overlay
from spineseg.vertebrae import LEVELS


def scan(flip: bool) -> tuple[Volume, Volume]:
    """Bright at the head and at the front; one label in the middle of the back."""
    hu = np.full((20, 30, 60), -1000, np.int16)
    hu[:, :, 50:] = 1000  # head
    hu[:, 25:, :10] = 1000  # front, low
    labels = np.zeros(hu.shape, np.uint8)
    labels[8:12, 5:15, 20:40] = 24
    affine = np.diag([1.0, 2.0, 1.0, 1.0])
    if flip:
        return Volume(hu[::-1, :, ::-1], np.diag([-1.0, 2.0, -1.0, 1.0])), Volume(
            labels[::-1, :, ::-1], np.diag([-1.0, 2.0, -1.0, 1.0])
        )
    return Volume(hu, affine), Volume(labels, affine)


@pytest.mark.parametrize("flip", [False, True])
def test_head_is_up_and_front_is_left(flip: bool) -> None:
    image, labels = scan(flip)
    picture = np.asarray(overlay(image, labels, named=True, title="a"))
    assert picture.shape[0] == HEADER_PX + HEIGHT_PX
    width = round(HEIGHT_PX * 30 / 60 * 2)
    sagittal = picture[HEADER_PX:, :width, 0].astype(float)
    assert sagittal[: HEIGHT_PX // 8].mean() > 200  # head up
    low = sagittal[-HEIGHT_PX // 8 :]
    assert low[:, : width // 8].mean() > 200 > 50 > low[:, width // 2 :].mean()  # front left
    tinted = picture[HEADER_PX:, width : 2 * width].astype(float)
    difference = np.abs(tinted - picture[HEADER_PX:, :width]).sum(2)
    rows, columns = np.nonzero(difference > 60)
    assert 0.3 < rows.mean() / HEIGHT_PX < 0.7 and columns.mean() > width / 2  # the label lies in the back
    color = tinted[int(rows.mean()) - 60, int(columns.mean())] / 0.4
    np.testing.assert_allclose(color, LEVELS[24].color, atol=8)


def test_numbered_vertebrae_and_empty_maps_are_drawn(tmp_path: Path) -> None:
    image, labels = scan(False)
    write_overlay(tmp_path / "a.png", image, labels.with_array(labels.array // 24 * 40), named=False, title="simulated")
    assert Image.open(tmp_path / "a.png").size[1] == HEADER_PX + HEIGHT_PX
    empty = np.asarray(overlay(image, labels.with_array(np.zeros_like(labels.array)), named=True, title=""))[HEADER_PX:]
    # Two planes, each plain and with nothing over it.
    sagittal, coronal = (round(HEIGHT_PX * size / 60) for size in (30 * 2, 20))
    for left, width in ((0, sagittal), (2 * sagittal, coronal)):
        np.testing.assert_array_equal(empty[:, left : left + width], empty[:, left + width : left + 2 * width])
    assert empty.shape[1] == 2 * (sagittal + coronal)


def test_a_few_slices_are_seen_from_below() -> None:
    """Right and front of the patient: left and up in the picture."""
    hu = np.full((60, 60, 3), -1000, np.int16)
    hu[50:, :30] = 1000  # right, back
    labels = np.zeros(hu.shape, np.uint8)
    labels[5:25, 35:55, 1] = 20
    picture = np.asarray(overlay(Volume(hu, np.eye(4)), Volume(labels, np.eye(4)), named=True, title="a"))
    plain = picture[HEADER_PX:, :HEIGHT_PX].astype(float)
    assert picture.shape == (HEADER_PX + HEIGHT_PX, 2 * HEIGHT_PX, 3)
    assert plain[HEIGHT_PX // 2 + 9 :, : HEIGHT_PX // 8].mean() > 200 > 20 > plain[: HEIGHT_PX // 3].mean()
    tinted = np.abs(picture[HEADER_PX:, HEIGHT_PX:] - plain).sum(2) > 60
    rows, columns = np.nonzero(tinted)
    assert rows.mean() < HEIGHT_PX / 2 < columns.mean()
