"""Means over subjects and levels (PROTOCOL 3) of a metric's rows."""

from collections.abc import Sequence
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from spineseg.vertebrae import L6, ORDER, T13, level_id, level_name

LEAST_SUBJECTS_PER_LEVEL: Final = 3
# How the note begins that an evaluation makes of it; it is no note of folds together.
FEW_SUBJECTS: Final = f"fewer than {LEAST_SUBJECTS_PER_LEVEL} subjects"

# T13 goes with the lower thoracic levels, L6 with the lumbar ones; the sacrum and the coccyx are in no region.
REGIONS: Final[dict[str, frozenset[int]]] = {
    "C": frozenset(range(1, 8)),
    "T1-T6": frozenset(range(8, 14)),
    "T7-T12": frozenset((*range(14, 20), T13)),
    "L": frozenset((*range(20, 25), L6)),
}


def per_subject_and_level(rows: pd.DataFrame) -> pd.DataFrame:
    """Average several scans of a subject: one row a (subject, level) with ``value``.

    Args:
        rows: columns subject, level (a name; empty for values of a whole case), value; NaN values are left out.
    """
    known = rows[rows["value"].notna()]
    return known.groupby(["subject", "level"], observed=True, sort=True)["value"].mean().reset_index()


def subject_values(rows: pd.DataFrame) -> dict[str, float]:
    """Mean over a subject's levels, for each subject that has a value: what ``case_mean`` averages."""
    means = per_subject_and_level(rows).groupby("subject", observed=True)["value"].mean()
    return {str(subject): float(value) for subject, value in means.items()}


def case_mean(rows: pd.DataFrame) -> float:
    """Mean over subjects of the mean over their reference levels; NaN without a value.

    >>> rows = pd.DataFrame({"subject": ["a", "a", "b"], "level": ["L1", "L2", "L1"], "value": [1.0, 0.0, 1.0]})
    >>> case_mean(rows), pooled(rows)
    (0.75, 0.6666666666666666)
    """
    return _mean(np.array(list(subject_values(rows).values())))


def pooled(rows: pd.DataFrame) -> float:
    """Mean of all values, what most papers print; NaN without a value."""
    return _mean(rows["value"].dropna().to_numpy(np.float64))


def level_means(rows: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Mean over subjects of each level, cranial to caudal, with the number of subjects."""
    grouped = per_subject_and_level(rows).groupby("level", observed=True)["value"]
    table = {str(level): {"value": float(v.mean()), "subjects": float(len(v))} for level, v in grouped}
    return {name: table[name] for name in map(level_name, ORDER) if name in table}


def level_mean(rows: pd.DataFrame) -> tuple[float, tuple[str, ...]]:
    """Mean over levels of their mean over subjects, levels with ≥ 3 subjects only; and those levels."""
    kept = {n: m["value"] for n, m in level_means(rows).items() if m["subjects"] >= LEAST_SUBJECTS_PER_LEVEL}
    return _mean(np.array(list(kept.values()))), tuple(kept)


def region_means(rows: pd.DataFrame) -> dict[str, float]:
    """``case_mean`` of each region's levels; NaN where nobody has one. Levels are names of the vocabulary."""
    ids = rows["level"].map(level_id)
    return {name: case_mean(rows[ids.isin(levels)]) for name, levels in REGIONS.items()}


def share_found(rows: pd.DataFrame) -> float:
    """Share of the reference levels that have a value, |V ∩ P| ÷ |V|; NaN without reference levels.

    Args:
        rows: column status, of one metric: "ok" for levels found, "missed" for the others.

    >>> share_found(pd.DataFrame({"status": ["ok", "ok", "missed", "spurious"]}))
    0.6666666666666666
    """
    counts = rows["status"].value_counts()
    found, missed = int(counts.get("ok", 0)), int(counts.get("missed", 0))
    return found / (found + missed) if found + missed else float("nan")


def subject_sums(rows: pd.DataFrame, metrics: Sequence[str], subjects: Sequence[str]) -> NDArray[np.float64]:
    """Sum (n, M) of case metrics over the scans of each subject.

    Args:
        rows: columns subject, level, metric, value; NaN values count 0.
        metrics: M names.
        subjects: n, in the order of the result.
    """
    cases = rows[(rows["level"] == "") & rows["metric"].isin(metrics)]
    sums = cases.groupby(["subject", "metric"], observed=True)["value"].sum().unstack("metric")
    return sums.reindex(index=list(subjects), columns=list(metrics)).fillna(0.0).to_numpy(np.float64)


def _mean(values: NDArray[np.float64]) -> float:
    return float(values.mean()) if len(values) else float("nan")
