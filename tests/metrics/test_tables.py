"""What the summary says beside the headline numbers, from cases with known damage."""

import numpy as np
import pandas as pd
import pytest

from spineseg.geometry import Volume
from spineseg.metrics.cases import score_case
from spineseg.metrics.summary import SplitScores, summarise
from spineseg.metrics.tables import MEAN_TABLES, error_table, identification_table, localisation_table, mean_tables
from spineseg.predictions.store import CasePrediction, LabelKind

AFFINE = np.diag([3.0, 2.0, 3.0, 1.0])


def column(*levels: int, up: int = 0) -> Volume:
    """Vertebrae of 26 ml, 33 mm apart, cranial first; 0 leaves one out, ``up`` moves all by so many voxels of 3 mm."""
    labels = np.zeros((16, 24, 60), np.uint8)
    for n, level in enumerate(levels):
        top = 55 - 11 * n + up
        labels[3:13, 4:20, top - 9 : top] = level
    return Volume(labels, AFFINE)


def split(*cases: tuple[str, Volume, Volume], kind: LabelKind = "levels") -> SplitScores:
    rows, detections = [], []
    for n, (subject, reference, prediction) in enumerate(cases):
        scored = score_case(reference, CasePrediction(f"c{n}", prediction, kind), edge="count")
        where = {"source": "s", "case": f"c{n}", "subject": subject}
        rows.append(scored.rows.assign(**where))
        detections.append(scored.detections.assign(**where))
    subjects = tuple(sorted({subject for subject, _, _ in cases}))
    return SplitScores(pd.concat(rows), pd.concat(detections), subjects, named=kind == "levels", detector=False)


LUMBAR, THORACIC = column(19, 20, 21, 22), column(12, 13, 14, 15)
SCORES = split(
    ("a", LUMBAR, LUMBAR),
    ("a", LUMBAR, column(19, 20, 21, 0)),  # a second scan without L3
    ("b", THORACIC, column(13, 14, 15, 16)),  # shifted by one
    ("c", column(), column(20)),  # no vertebra, one invented
)


def test_identification_is_pooled_and_split_by_anchors() -> None:
    found = identification_table(SCORES)
    assert found["all"] == {
        "cases": 4,
        "id": 7 / 12,
        "id_precision": 7 / 12,
        "levels": 12,
        "levels_per_case": 3,
        "crumbs": 0,
    }
    assert (found["anchored"]["cases"], found["anchored"]["id"]) == (2, 7 / 8)
    assert (found["unanchored"]["cases"], found["unanchored"]["id"]) == (2, 0)
    assert summarise(SCORES)["id"]["value"] == 7 / 12


def test_rates_of_the_results_weigh_levels_cases_and_subjects_as_the_protocol_says() -> None:
    results = summarise(SCORES)
    # Subject a: (1 + 3/4) ÷ 2; subject b: 0; subject c has no level.
    assert results["id_case"]["value"] == pytest.approx((7 / 8 + 0) / 2)
    assert results["id_precision"] == {"value": 7 / 12, "low": None, "high": None, "subjects": 3}
    assert results["all_right"] == {"value": 0.25, "low": None, "high": None, "subjects": 2, "levels": 4.0}
    # Dice by name: L3 of a is 1 and 0 in its two scans.
    assert results["dice"]["value"] == pytest.approx((3.5 / 4 + 0) / 2)
    # With what was invented: T9 in b; L1 in c alone.
    assert results["dice_union"]["value"] == pytest.approx((3.5 / 4 + 0 + 0) / 3)
    assert results["hd95"]["found"] == 10 / 12


def test_localisation_names_three_errors_each_with_the_share_found() -> None:
    moved = split(("a", LUMBAR, column(19, 20, 0, 22, up=1)), ("b", THORACIC, column(13, 14, 15, 16)))
    found = localisation_table(moved)
    # Shifted names lie a vertebra off; T9 is no level of the reference and T5 is not predicted.
    assert found["d"] == pytest.approx({"median": 18.0, "mean": 18.0, "p95": 33.0, "found": 6 / 8})
    assert found["d_free"] == pytest.approx({"median": 0.0, "mean": 9 / 7, "p95": 3.0, "found": 7 / 8})
    assert found["d_identified"] == pytest.approx({"median": 3.0, "mean": 3.0, "p95": 3.0, "found": 3 / 8})


def test_the_errors_of_a_split_sum_to_what_is_missing() -> None:
    found = error_table(SCORES)
    results = summarise(SCORES)
    terms = [found[term] for term in ("naming", "mixed", "outline", "missed")]
    assert terms == pytest.approx([0.5, 0, 0, 1 / 16])
    assert sum(terms) == pytest.approx(found["one_minus_dice"], abs=1e-12)
    assert [results[f"error_{term}"]["value"] for term in ("naming", "missed")] == pytest.approx([0.5, 1 / 16])
    assert found["shift"] == {"0": 7, "+1": 4}
    assert (found["cases"], found["coherently_shifted_cases"], found["mixed_cases"]) == (4, 1, 0)
    # The vertebra invented where there is none.
    assert found["spurious_levels_per_case"] == 0.25
    assert found["spurious_ml_per_case"] == pytest.approx(10 * 16 * 9 * 18 / 1000 / 4)


def test_means_of_every_level_metric() -> None:
    for metric, parameter in MEAN_TABLES:
        table = mean_tables(SCORES, metric, parameter)
        assert table["case_mean"] == pytest.approx(7 / 16), metric
        assert table["pooled"] == pytest.approx(7 / 12), metric
        assert table["region"]["L"] == pytest.approx(2.5 / 3), metric
        assert table["region"]["C"] is None
        assert table["level_mean"] == {"value": None, "levels": []}


def test_one_class_models_have_the_tables_that_need_no_name() -> None:
    numbered = split(("a", LUMBAR, column(1, 2, 3, 0, up=1)), kind="instances")
    assert identification_table(numbered) == {} and mean_tables(numbered, "dice") == {}
    assert localisation_table(numbered) == {"d_free": {"median": 3.0, "mean": 3.0, "p95": 3.0, "found": 0.75}}
    assert set(error_table(numbered)) == {"cases", "spurious_levels_per_case", "spurious_ml_per_case", "mixed_cases"}
    results = summarise(numbered)
    assert results["d_free_mm"]["value"] == 3 and results["d_free_mm"]["found"] == 0.75
    for name in ("id", "all_right", "nsd", "hd95", "centroid_error_mm", "error_naming", "dice_union"):
        assert results[name] == {"value": None, "status": "n/a"}, name


def test_medians_say_so_where_nothing_was_found() -> None:
    results = summarise(split(("a", LUMBAR, column())))
    assert results["hd95"] == {"value": None, "status": "n/a", "found": 0.0}
    assert results["id"]["value"] == 0
    assert results["id_precision"] == {"value": None, "status": "n/a"}


def test_medians_have_an_interval_from_fifty_subjects_on() -> None:
    few = [(f"s{n:02d}", LUMBAR, column(19, 20, 21, 22, up=n % 2)) for n in range(2)]
    scores = split(*few)
    copies = [
        scores.rows.assign(subject=scores.rows["subject"] + str(k), case=scores.rows["case"] + str(k))
        for k in range(25)
    ]
    rows, nothing = pd.concat(copies), scores.detections.iloc[:0]
    subjects = tuple(sorted(rows["subject"].unique()))
    fifty = SplitScores(rows, nothing, subjects, named=True, detector=False)
    results = summarise(fifty, resamples=100)
    entry = results["centroid_error_mm"]
    assert entry["low"] == 0 and entry["value"] == 1.5 and entry["high"] == 3 and entry["quartiles"] == [0, 3]
    assert results["id"]["low"] == results["id"]["value"] == 1
    assert results["all_right"]["low"] == pytest.approx(0.9287, abs=1e-3)
    fewer = SplitScores(rows[rows["subject"] != subjects[0]], nothing, subjects[1:], named=True, detector=False)
    assert summarise(fewer, resamples=100)["centroid_error_mm"]["low"] is None
