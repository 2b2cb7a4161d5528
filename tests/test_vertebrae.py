"""The vocabulary: levels, conventions and the maps between them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spineseg.errors import ConfigError, DataError
from spineseg.vertebrae import (
    CONVENTIONS,
    LEVELS,
    ORDER,
    convention_map,
    csi2014_convention,
    in_convention,
    level_id,
    level_name,
    rank,
    relabel,
)


@pytest.mark.parametrize("level", LEVELS)
def test_names_and_ids_are_inverse(level: int) -> None:
    assert level_id(level_name(level)) == level


def test_order_runs_down_the_column() -> None:
    names = [level_name(level) for level in ORDER]
    assert names[:8] == ["C1", "C2", "C3", "C4", "C5", "C6", "C7", "T1"]
    assert names[18:] == ["T12", "T13", "L1", "L2", "L3", "L4", "L5", "L6", "sacrum", "coccyx"]
    assert sorted(ORDER) == sorted(LEVELS)
    assert [rank(level) for level in ORDER] == list(range(28))


def test_colours_of_neighbours_differ() -> None:
    colours = np.array([LEVELS[level].color for level in ORDER], float)
    assert np.abs(np.diff(colours, axis=0)).sum(1).min() > 150
    assert len({tuple(colour) for colour in colours}) == len(ORDER)


def test_arithmetic_of_the_published_conventions() -> None:
    """Kaggle = 51 − TotalSegmentator v2 = 42 − v1 over C1 to S1, Kaggle = VerSe up to L5."""
    assert all(convention_map("totalsegmentator_v2", "kaggle").table[v] == 51 - v for v in range(26, 51))
    v1 = convention_map("totalsegmentator_v1", "kaggle").table
    assert all(v1[v] == 42 - v for v in range(18, 42)) and v1[92] == 25
    assert all(convention_map("kaggle", "verse").table[v] == v for v in range(1, 25))
    assert convention_map("kaggle", "verse").table[25] == 26
    assert all(convention_map("csi2014", "verse").table[100 * k] == 25 - k for k in range(1, 18))


@pytest.mark.parametrize("source", CONVENTIONS)
@pytest.mark.parametrize("target", CONVENTIONS)
def test_maps_are_inverse_where_nothing_is_lost(source: str, target: str) -> None:
    there, back = convention_map(source, target), convention_map(target, source)
    assert all(back.table[new] == old for old, new in there.table.items())
    assert len(there.table) + len(there.lost) == len(CONVENTIONS[source].table)


def test_map_names_what_is_lost() -> None:
    assert convention_map("verse", "csi2014").lost == ("T13", "L6", "sacrum", "coccyx")
    assert convention_map("kaggle", "totalsegmentator_v2").lost == ()


@pytest.mark.parametrize("name", CONVENTIONS)
def test_levels_in_a_convention_are_read_back(name: str) -> None:
    levels = np.array([0, *CONVENTIONS[name].table.values()], np.uint8)
    there = in_convention(levels, name, what="a scan")
    np.testing.assert_array_equal(relabel(there, CONVENTIONS[name].table, what="a scan"), levels)


def test_a_level_that_a_convention_lacks_is_named() -> None:
    with pytest.raises(DataError, match=r"a scan: T13, L6 cannot be written as convention=kaggle.*convention=verse"):
        in_convention(np.array([0, level_id("L6"), 20, level_id("T13")], np.uint8), "kaggle", what="a scan")


def test_csi_anchor_moves_the_table() -> None:
    assert csi2014_convention(100, "L4").table[1600] == level_id("T1")
    assert csi2014_convention(1700, "T1").table == csi2014_convention(100, "L5").table
    with pytest.raises(ConfigError, match="multiple of 100"):
        csi2014_convention(150)
    with pytest.raises(ConfigError, match="sacrum"):
        csi2014_convention(100, "sacrum")


@given(st.lists(st.sampled_from(sorted(CONVENTIONS["csi2014"].table)), min_size=1, max_size=30))
def test_relabel_equals_the_table(values: list[int]) -> None:
    table = CONVENTIONS["csi2014"].table
    array = np.array([0, *values])
    for dtype in (np.int16, np.uint16, np.float32):
        result = relabel(array.astype(dtype), table, what="mask")
        assert result.tolist() == [0, *(table[v] for v in values)]
        assert result.dtype == np.uint8


@pytest.mark.parametrize("value", [300, -1, 70000, 2**40])
def test_unknown_labels_are_named_and_never_wrap(value: int) -> None:
    with pytest.raises(DataError, match=rf"a/mask\.nii: unknown label {value}; expected 1-24, 26"):
        relabel(np.array([0, 5, value]), {**{v: v for v in range(1, 25)}, 26: 26}, what="a/mask.nii")


def test_interpolated_masks_are_refused() -> None:
    with pytest.raises(DataError, match="not whole numbers"):
        relabel(np.array([0.0, 1.5]), {1: 1, 2: 2}, what="mask")


def test_known_other_structures_are_dropped() -> None:
    convention = CONVENTIONS["totalsegmentator_v2"]
    mask = np.array([0, 1, 27, 117, 25])
    assert relabel(mask, convention.table, what="mask", drop=convention.other).tolist() == [0, 0, 24, 0, 0]


def test_relabel_of_values_far_apart() -> None:
    assert relabel(np.array([0, 5, 10**6]), {5: 1, 10**6: 2}, what="mask").tolist() == [0, 1, 2]


def test_unknown_names_are_errors() -> None:
    with pytest.raises(ConfigError, match="T14"):
        level_id("T14")
    with pytest.raises(ConfigError, match="29"):
        level_name(29)
    with pytest.raises(ConfigError, match="verse"):
        convention_map("vers", "kaggle")


def test_an_unknown_label_points_to_every_key_that_names_the_convention() -> None:
    with pytest.raises(DataError, match=r"config in prepare, prediction_convention= or reference_convention="):
        relabel(np.array([99]), {1: 1}, what="mask")
