"""Means over subjects and levels (PROTOCOL 3)."""

import math

import numpy as np
import pandas as pd
import pytest

from spineseg.metrics.means import (
    case_mean,
    level_mean,
    level_means,
    pooled,
    region_means,
    share_found,
    subject_sums,
    subject_values,
)


def rows(*values: tuple[str, str, str, float]) -> pd.DataFrame:
    return pd.DataFrame(list(values), columns=["subject", "case", "level", "value"])


TABLE = rows(
    ("a", "a1", "T12", 1.0),
    ("a", "a2", "T12", 0.0),  # a second scan of the same person
    ("a", "a1", "L1", 0.8),
    ("b", "b1", "L1", 0.4),
    ("c", "c1", "L1", 0.6),
    ("c", "c1", "L2", np.nan),
)


def test_scans_of_a_subject_are_averaged_first() -> None:
    assert subject_values(TABLE) == pytest.approx({"a": 0.65, "b": 0.4, "c": 0.6})
    assert case_mean(TABLE) == pytest.approx(0.55)
    assert pooled(TABLE) == pytest.approx(0.56)


def test_level_mean_takes_levels_of_three_subjects() -> None:
    assert level_mean(TABLE) == (pytest.approx(0.6), ("L1",))
    assert list(level_means(TABLE)) == ["T12", "L1"]
    assert level_means(TABLE)["T12"] == {"value": 0.5, "subjects": 1.0}


def test_regions_follow_the_case_mean() -> None:
    found = region_means(TABLE)
    assert found["T7-T12"] == pytest.approx(0.5)
    assert found["L"] == pytest.approx(0.6)
    assert math.isnan(found["C"])
    assert math.isnan(case_mean(TABLE.iloc[:0]))


def test_the_share_found_takes_levels_of_the_reference_alone() -> None:
    statuses = ["ok", "missed", "ok", "spurious", "ignored", "ok"]
    assert share_found(pd.DataFrame({"status": statuses})) == 0.75
    assert math.isnan(share_found(pd.DataFrame({"status": ["spurious"]})))


def test_case_values_are_summed_over_the_scans_of_a_subject() -> None:
    table = rows(("a", "a1", "", 2.0), ("a", "a2", "", 3.0), ("b", "b1", "", np.nan), ("a", "a1", "L1", 9.0))
    table["metric"] = "visible_levels"
    other = rows(("b", "b1", "", 4.0)).assign(metric="identified_levels")
    found = subject_sums(pd.concat([table, other]), ["identified_levels", "visible_levels"], ["b", "a", "c"])
    assert found.tolist() == [[4, 0], [0, 5], [0, 0]]
