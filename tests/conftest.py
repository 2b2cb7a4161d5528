"""Fixtures that several test folders share."""

import os
from pathlib import Path

import numpy as np
import pytest

from spineseg.geometry import Volume
from spineseg.volumes import write_volume


@pytest.fixture(scope="session")
def real_ct() -> Path:
    """Return the folder of real CT scans, or skip where the machine has none."""
    named = os.environ.get("SPINESEG_REAL_CT")
    if not named:
        pytest.skip("SPINESEG_REAL_CT is not set: it names the folder of real CT scans")
    folder = Path(named).resolve()
    if not folder.is_dir():
        pytest.skip(f"SPINESEG_REAL_CT={named}: no such folder")
    return folder


@pytest.fixture(scope="session")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five scans with three bright blocks each, stored in another orientation than RAS."""
    folder = tmp_path_factory.mktemp("scans")
    affine = np.array([[0, 0, -3.0, 0], [-2.0, 0, 0, 0], [0, 2.0, 0, 0], [0, 0, 0, 1]])
    for case in range(5):
        rng = np.random.default_rng(case)
        image = rng.normal(40, 10, (32, 44, 8)).astype(np.int16)
        image[:, :, 0] = -1000
        labels = np.zeros(image.shape, np.uint8)
        for i, level in enumerate((24, 23, 22)):
            block = (slice(6 + case, 20), slice(3 + 13 * i, 13 + 13 * i), slice(2, 7))
            image[block], labels[block] = rng.normal(500, 60, image[block].shape), level
        write_volume(folder / f"case{case}" / "ct.nii.gz", Volume(image, affine))
        write_volume(folder / f"case{case}" / "vertebrae.nii.gz", Volume(labels, affine))
    return folder
