"""What a plan refuses before a run begins."""

import pytest

from spineseg.errors import ConfigError
from spineseg.planning import check_patch

STRIDES = [[1, 1, 1], [2, 2, 2], [1, 2, 2], [1, 2, 4]]  # in all 2, 8, 16


@pytest.mark.parametrize("patch", [(2, 8, 16), (6, 24, 80)])
def test_a_patch_that_the_network_can_halve_is_taken(patch: tuple[int, int, int]) -> None:
    check_patch(patch, STRIDES)


@pytest.mark.parametrize("patch", [(3, 8, 16), (2, 12, 16), (2, 8, 24)])
def test_another_is_refused_with_what_fits(patch: tuple[int, int, int]) -> None:
    with pytest.raises(ConfigError, match=r"data.patch_size=.*multiples of \[2, 8, 16\]"):
        check_patch(patch, STRIDES)
