"""Fixtures that several test folders share."""

import os
from pathlib import Path

import pytest


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
