"""Tiny spines in the layouts of real data sets, for the tests of this folder."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from spineseg.geometry import Grid, Volume, canonical_grid, restore
from spineseg.volumes import write_volume

Spine = Callable[..., tuple[Volume, Volume]]


def spine(
    levels: Sequence[int] = (20, 21, 22),
    *,
    seed: int = 0,
    axes: str = "RAS",
    turn_deg: float = 0.0,
    spacing_mm: tuple[float, float, float] = (2.0, 2.5, 3.0),
    margin: int = 3,
) -> tuple[Volume, Volume]:
    """An image (int16 HU) and a mask (uint8 ids): blocks of bone in a body in air, `levels` from cranial to caudal."""
    rng = np.random.default_rng(seed)
    shape = (14, 16, 4 * len(levels) + 2 * margin)
    image = rng.normal(-995, 8, shape)
    image[2:-2, 2:-2] = rng.normal(40, 15, (10, 12, shape[2]))
    image[3:-3, 2] = rng.normal(-100, 10, (8, shape[2]))
    labels = np.zeros(shape, np.uint8)
    for position, level in enumerate(levels):
        top = shape[2] - margin - 4 * position
        labels[4:10, 5:11, top - 3 : top] = level
    # No two seeds have the same mask: that would be a finding.
    labels[4 + seed % 6, 5 + seed // 6 % 6, shape[2] - margin - 1] = 0
    image[labels > 0] = rng.normal(300, 60, int((labels > 0).sum()))
    angle = np.deg2rad(turn_deg)
    affine = np.diag([*spacing_mm, 1.0])
    affine[:3, :3] = (
        np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]]) @ affine[:3, :3]
    )
    affine[:3, 3] = (-20.0, 15.5, 300.0)
    upright = Grid(shape, affine)
    native = _grid_with_axes(upright, axes)
    return (
        restore(Volume(np.clip(image, -1024, 3071).astype(np.int16), affine), native),
        restore(Volume(labels, affine), native),
    )


def _grid_with_axes(upright: Grid, axes: str) -> Grid:
    """The grid whose canonical form is `upright` and whose axes carry the given codes."""
    order = ["RL", "AP", "SI"]
    step = np.zeros((4, 4))
    step[3, 3] = 1
    shape = [0, 0, 0]
    for axis, code in enumerate(axes):
        target = next(i for i, pair in enumerate(order) if code in pair)
        shape[axis] = upright.shape[target]
        forward = code == order[target][0]
        step[target, axis] = 1 if forward else -1
        step[target, 3] = 0 if forward else upright.shape[target] - 1
    grid = Grid((shape[0], shape[1], shape[2]), upright.affine @ step)
    assert canonical_grid(grid).shape == upright.shape
    return grid


@pytest.fixture
def make_spine() -> Spine:
    return spine


@pytest.fixture
def make_csi(tmp_path: Path) -> Callable[..., Path]:
    """Write a CSI 2014 folder: `caseN` and `caseN_label`, T1-L5, values 0-4095, masks in hundreds or 1-24."""

    def write(
        count: int = 3, suffix: str = ".mhd", style: str = "hundreds", root: Path | None = None, axes: str = "LPS"
    ) -> Path:
        root = root or tmp_path / "csi2014"
        for number in range(1, count + 1):
            image, labels = spine(range(8, 25), seed=number, axes=axes)
            stored = np.clip(image.array.astype(np.int32) + 1000, 0, 4095).astype(np.int16)
            values = labels.array.astype(np.int16)
            if style == "hundreds":
                values = np.where(values > 0, 100 * (25 - values), 0).astype(np.int16)
            write_volume(root / f"case{number}{suffix}", image.with_array(stored))
            write_volume(root / f"case{number}_label{suffix}", labels.with_array(values))
        return root

    return write


@pytest.fixture
def make_folder(tmp_path: Path) -> Callable[..., Path]:
    """Write `<case>/ct.nii.gz` and `<case>/vertebrae.nii.gz`, VerSe ids."""

    def write(count: int = 6, root: Path | None = None) -> Path:
        root = root or tmp_path / "folder"
        for number in range(count):
            image, labels = spine((19, 20, 21, 22), seed=number, axes=("RAS", "PIR", "LPS")[number % 3])
            write_volume(root / f"s{number}" / "ct.nii.gz", image)
            write_volume(root / f"s{number}" / "vertebrae.nii.gz", labels)
        return root

    return write
