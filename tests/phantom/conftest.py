"""One case of each layout, made once: a case costs seconds."""

import pytest

from spineseg.phantom import PhantomOptions, SimulatedCase, simulate_case


@pytest.fixture(scope="session")
def csi_case() -> SimulatedCase:
    return simulate_case(7, 1, PhantomOptions("csi2014", "small"))


@pytest.fixture(scope="session")
def kaggle_case() -> SimulatedCase:
    return simulate_case(7, 2, PhantomOptions("kaggle", "small"))
