"""AP from the detections table, for any draw of subjects, against plain repetition."""

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from spineseg.metrics.detection import average_precision
from spineseg.metrics.detections_table import COLUMNS, REFERENCE, STATE_COLUMNS, state_columns
from spineseg.metrics.intervals import interval
from spineseg.metrics.pooling import ApPool, ap_from_detections, counts_by_subject, named_levels

SUBJECTS = ("a", "b", "c", "d", "e", "f")


def table(seed: int, n: int = 400) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    kinds = random.choice(["exclusive", "native", REFERENCE], n)
    found = pd.DataFrame(
        {
            "set": kinds,
            "source": "s",
            "case": "c",
            "subject": random.choice(SUBJECTS, n),
            "slice": 0,
            "level": random.integers(19, 22, n),
            "score": random.random(n).round(2),
            "area_mm2": 100.0,
            "counted": random.random(n) < 0.9,
            "iou": random.random(n),
        }
    )
    assert tuple(found.columns) == COLUMNS
    return found.assign(**{column: random.choice([0, 1, 1, 2], n).astype(np.int8) for column in STATE_COLUMNS})


def by_hand(found: pd.DataFrame, level: int | None) -> NDArray[np.float64]:
    rows = found[found["set"] == "exclusive"]
    references = found[(found["set"] == REFERENCE) & found["counted"]]
    if level is not None:
        rows, references = rows[rows["level"] == level], references[references["level"] == level]
    columns = state_columns("mask", named=level is not None)
    return average_precision(rows["score"].to_numpy(), rows[columns].to_numpy().T, len(references))


@pytest.mark.parametrize("seed", range(5))
def test_ap_equals_that_of_the_concatenated_detections(seed: int) -> None:
    found = table(seed)
    agnostic = ap_from_detections(found, which="exclusive", shape="mask", named=False)
    np.testing.assert_allclose(agnostic, by_hand(found, None), atol=1e-12)
    named = ap_from_detections(found, which="exclusive", shape="mask", named=True, levels=[19, 20, 21])
    np.testing.assert_allclose(named, np.mean([by_hand(found, level) for level in (19, 20, 21)], axis=0), atol=1e-12)


@pytest.mark.parametrize("named", [False, True])
def test_a_subject_drawn_twice_counts_twice(named: bool) -> None:
    found = table(7)
    weights = np.array([2.0, 0, 1, 3, 0, 1])
    pool = ApPool.build(found, SUBJECTS, which="native", shape="box", named=named, levels=[19, 20, 21])
    times = found["subject"].map(dict(zip(SUBJECTS, weights.astype(int), strict=True)))
    repeated = found.loc[found.index.repeat(times)]
    expected = ap_from_detections(repeated, which="native", shape="box", named=named, levels=[19, 20, 21])
    np.testing.assert_allclose(pool.values(weights[None])[0], expected, atol=1e-12)


def test_leaving_a_subject_out_equals_a_table_without_it() -> None:
    found = table(9)
    pool = ApPool.build(found, SUBJECTS, which="exclusive", shape="mask", named=False)
    for n, subject in enumerate(SUBJECTS):
        weights = np.ones((1, 6))
        weights[0, n] = 0
        rest = ap_from_detections(found[found["subject"] != subject], which="exclusive", shape="mask", named=False)
        np.testing.assert_allclose(pool.values(weights)[0], rest, atol=1e-12)
    half = interval(pool.statistic(threshold=0), 6)
    assert half.method == "jackknife t"
    assert half.low is not None
    assert half.low < pool.values(np.ones((1, 6)))[0, 0]


def test_named_levels_need_three_subjects_unless_there_are_fewer() -> None:
    found = table(1)
    kept = found[~((found["level"] == 21) & found["subject"].isin(["c", "d", "e", "f"]))]
    assert named_levels(kept, SUBJECTS) == ((19, 20), False)
    assert named_levels(kept, ("a", "b")) == ((19, 20, 21), True)


def test_no_reference_gives_nan() -> None:
    found = table(2)
    alone = found[found["set"] != REFERENCE]
    assert np.isnan(ap_from_detections(alone, which="exclusive", shape="mask", named=False)).all()
    assert np.isnan(ap_from_detections(alone, which="exclusive", shape="mask", named=True)).all()


def test_counts_add_up() -> None:
    found = table(3)
    sums = counts_by_subject(found, SUBJECTS)
    rows = found[(found["set"] == "exclusive") & (found["mask_agnostic_50"] == 1)]
    assert sums[:, 0].sum() == len(rows)
    assert sums[:, 3].sum() == pytest.approx(rows["iou"].sum())
    assert sums[:, [0, 2]].sum() == ((found["set"] == REFERENCE) & found["counted"]).sum()


@pytest.mark.parametrize("n", [3, 40, 400])
def test_many_draws_at_once_equal_each_by_itself(n: int) -> None:
    found = table(n, n)
    pool = ApPool.build(found, SUBJECTS, which="exclusive", shape="mask", named=False)
    weights = np.random.default_rng(n).multinomial(6, np.full(6, 1 / 6), size=50).astype(float)
    weights = np.concatenate([weights, np.eye(6), np.zeros((1, 6))])
    together = pool.values(weights)
    for row, expected in zip(weights, together, strict=True):
        times = found["subject"].map(dict(zip(SUBJECTS, row.astype(int), strict=True)))
        np.testing.assert_allclose(by_hand(found.loc[found.index.repeat(times)], None), expected, atol=1e-12)
