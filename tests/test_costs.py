"""What a case costs is not what the case before it cost."""

import sys
import time

import numpy as np
import pytest

from spineseg.costs import CaseMeter, peak_memory


def test_seconds_run_from_the_start_of_the_case() -> None:
    meter = CaseMeter()
    time.sleep(0.05)
    assert meter.read()["seconds"] >= 0.05
    meter.start()
    assert meter.read()["seconds"] < 0.05


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the system does not forget a peak")
def test_a_small_case_after_a_large_one_has_a_small_peak_and_the_process_keeps_its_own() -> None:
    meter = CaseMeter()
    block = np.ones(200_000_000, np.uint8)
    large = meter.read()["peak_mb"]
    del block
    meter.start()
    small = meter.read()["peak_mb"]
    assert large - small > 150
    assert peak_memory()["peak_ram_mb"] >= round(large, 1)
