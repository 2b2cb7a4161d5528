"""Rows of a case's label maps: every metric of a mask against itself and after known damage."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from spineseg.geometry import Volume
from spineseg.metrics.case_rows import NAMED_CASE_METRICS, NAMED_LEVEL_METRICS, TOLERANCES_MM
from spineseg.metrics.cases import score_case
from spineseg.metrics.localisation import body_centre_mm
from spineseg.predictions.store import CasePrediction, LabelKind
from spineseg.vertebrae import ORDER, convention, relabel
from spineseg.volumes import read_volume

AFFINE = np.diag([3.0, 2.0, 1.0, 1.0])
LEVELS = (18, 19, 20, 21, 22)


def column(levels: tuple[int, ...] = LEVELS) -> Volume:
    """Vertebrae 30 mm apart, cranial first: a body of 36 × 28 × 20 mm, an arch and a thin process behind it."""
    labels = np.zeros((24, 40, 30 * len(levels) + 10), np.uint8)
    for n, level in enumerate(levels):
        top = labels.shape[2] - 5 - 30 * n
        labels[6:18, 20:34, top - 20 : top] = level
        labels[11:13, 6:20, top - 14 : top - 10] = level
    return Volume(labels, AFFINE)


REFERENCE = column()


def scored(
    prediction: Volume,
    reference: Volume = REFERENCE,
    kind: LabelKind = "levels",
    edge: str = "count",
    **options: object,
) -> pd.DataFrame:
    case = CasePrediction("c", prediction, kind)
    rows = score_case(reference, case, edge=edge, **options).rows  # type: ignore[arg-type]
    return rows[rows["space"] == "3d"]


def of(rows: pd.DataFrame, metric: str, parameter: str = "") -> dict[str, float]:
    found = rows[(rows["metric"] == metric) & (rows["parameter"] == parameter)]
    return dict(zip(found["level"], found["value"], strict=True))


def case_value(rows: pd.DataFrame, metric: str) -> float:
    return of(rows, metric)[""]


def renamed(volume: Volume, step: int) -> Volume:
    """Every level takes the name of another in the column of a subject without T13 and L6."""
    names = [level for level in ORDER if level not in (28, 25)]
    table = np.zeros(29, np.uint8)
    for place, level in enumerate(names):
        if 0 <= place + step < len(names):
            table[level] = names[place + step]
    return volume.with_array(table[volume.array])


def check_identity(rows: pd.DataFrame, levels: int) -> None:
    for metric, parameter in NAMED_LEVEL_METRICS:
        expected = 1.0 if metric in ("dice", "nsd", "identified") else 0.0
        found = of(rows, metric, parameter)
        assert len(found) == levels and set(found.values()) == {expected}, metric
    assert set(of(rows, "d_free_mm").values()) == {0.0}
    for metric in ("id", "id_precision", "id_f1", "all_right", "dice_spine"):
        assert case_value(rows, metric) == 1, metric
    for metric in ("spurious_levels", "spurious_ml", "mixed_case", "coherently_shifted"):
        assert case_value(rows, metric) == 0, metric
    for metric in ("identified_levels", "predicted_levels", "visible_levels"):
        assert case_value(rows, metric) == levels, metric


def check_shifted(rows: pd.DataFrame, levels: int) -> None:
    for metric, expected in (("dice", 0), ("identified", 0), ("error_naming", 1), ("shift", 1), ("d_free_mm", 0)):
        found = of(rows[rows["status"] != "spurious"], metric)
        assert len(found) == levels
        assert list(found.values()) == pytest.approx([expected] * levels), metric
    for term in ("mixed", "outline", "missed"):
        assert max(map(abs, of(rows, f"error_{term}").values())) < 1e-12
    assert case_value(rows, "coherently_shifted") == 1
    assert (case_value(rows, "id"), case_value(rows, "all_right")) == (0, 0)
    assert (case_value(rows, "spurious_levels"), case_value(rows, "dice_spine")) == (0, 1)


def test_a_mask_against_itself() -> None:
    check_identity(scored(REFERENCE), len(LEVELS))


def test_names_shifted_by_one() -> None:
    rows = scored(renamed(REFERENCE, 1))
    check_shifted(rows, len(LEVELS))
    # The first level is no longer there by name, the others lie a vertebra off.
    assert of(rows, "centroid_error_mm") == {
        "T11": pytest.approx(math.nan, nan_ok=True),
        **dict.fromkeys(("T12", "L1", "L2", "L3"), pytest.approx(30)),
    }


def real_mask(real_ct: Path) -> Volume:
    volume = read_volume(real_ct / "chest_1p5mm" / "vertebrae.nii.gz")
    rule = convention("totalsegmentator_v2")
    return volume.with_array(relabel(volume.array, rule.table, what="chest", drop=rule.other))


def test_a_real_mask_against_itself_and_shifted_by_one(real_ct: Path) -> None:
    reference = real_mask(real_ct)
    levels = len(np.unique(reference.array)) - 1
    check_identity(scored(reference, reference), levels)
    check_shifted(scored(renamed(reference, 1), reference), levels)


def test_the_terms_of_a_damaged_real_mask_sum_to_what_is_missing(real_ct: Path) -> None:
    reference = real_mask(real_ct)
    random = np.random.default_rng(0)
    labels = np.roll(reference.array, 2, axis=2)
    labels[random.random(labels.shape) < 0.2] = 0
    labels[labels == 15] = 16
    labels[: labels.shape[0] // 2][labels[: labels.shape[0] // 2] == 12] = 11
    rows = scored(reference.with_array(labels), reference, edge="ignore")
    counted = rows[rows["status"].isin(["ok", "missed"])]
    dice = of(counted, "dice")
    total = sum(
        np.array(list(of(counted, f"error_{term}").values())) for term in ("naming", "mixed", "outline", "missed")
    )
    assert list(of(counted, "error_naming")) == list(dice)
    np.testing.assert_allclose(total, 1 - np.array(list(dice.values())), atol=1e-12)
    assert 0 < case_value(rows, "id") < 1


def test_a_missing_level_is_missed_by_every_metric_that_can_say_so() -> None:
    rows = scored(column((18, 19, 0, 21, 22)))
    missed = rows[(rows["level"] == "L1")].set_index(["metric", "parameter"])
    for metric, parameter in [("dice", ""), *(("nsd", f"tau={tau}") for tau in TOLERANCES_MM), ("identified", "")]:
        assert tuple(missed.loc[(metric, parameter), ["value", "status"]]) == (0, "missed"), metric
    for metric in ("hd95", "assd", "centroid_error_mm", "d_free_mm", "shift"):
        value, status = missed.loc[(metric, ""), ["value", "status"]]
        assert math.isnan(value) and status == "missed", metric
    assert missed.loc[("error_missed", ""), "value"] == 1
    assert (case_value(rows, "id"), case_value(rows, "id_precision"), case_value(rows, "all_right")) == (0.8, 1, 0)


def test_an_invented_level_costs_precision_but_no_mean_over_the_reference() -> None:
    labels = REFERENCE.array.copy()
    labels[0:3, 0:6, 0:30] = 23
    rows = scored(REFERENCE.with_array(labels))
    extra = rows[rows["level"] == "L4"].set_index(["metric", "parameter"])
    assert set(extra["status"]) == {"spurious"}
    assert extra.loc[("dice", ""), "value"] == extra.loc[("nsd", "tau=2"), "value"] == 0
    assert math.isnan(extra.loc[("hd95", ""), "value"]) and math.isnan(extra.loc[("assd", ""), "value"])
    assert "identified" not in extra.index.get_level_values("metric")
    assert (case_value(rows, "id"), case_value(rows, "all_right")) == (1, 0)
    assert case_value(rows, "id_precision") == pytest.approx(5 / 6)
    assert case_value(rows, "spurious_ml") == pytest.approx(3 * 6 * 30 * 6 / 1000)


def test_a_crumb_leaves_identification_and_stays_in_dice() -> None:
    labels = REFERENCE.array.copy()
    labels[labels == 20] = 0
    labels[8:12, 25:30, 80:83] = 20  # 60 voxels of 6 mm³: 0.36 ml
    labels[0:2, 0:5, 0:5] = 23  # another crumb
    rows = scored(REFERENCE.with_array(labels))
    assert (case_value(rows, "crumbs"), case_value(rows, "predicted_levels")) == (2, 4)
    crumb = rows[rows["level"] == "L1"].set_index(["metric", "parameter"])
    assert tuple(crumb.loc[("dice", ""), ["status"]]) == ("ok",) and crumb.loc[("dice", ""), "value"] > 0
    assert crumb.loc[("hd95", ""), "status"] == "ok"
    for metric in ("identified", "centroid_error_mm", "d_free_mm"):
        assert crumb.loc[(metric, ""), "status"] == "missed", metric
    assert case_value(rows, "id_precision") == 1
    assert case_value(rows, "spurious_levels") == 0


def test_a_moved_mask_has_the_distance_it_was_moved_by() -> None:
    moved = REFERENCE.with_array(np.roll(REFERENCE.array, 3, axis=2))
    rows = scored(moved)
    for metric in ("centroid_error_mm", "d_free_mm", "hd95"):
        assert list(of(rows, metric).values()) == pytest.approx([3.0] * 5), metric
    assert all(0 < value < 3 for value in of(rows, "assd").values())
    values = [of(rows, "nsd", f"tau={tau}")["L1"] for tau in (1, 2, 3)]
    assert values == sorted(values) and values[-1] == 1 > values[0]


def test_one_class_models_have_what_needs_no_name() -> None:
    numbers = np.array([0, *[0] * 17, 1, 2, 3, 4, 5], np.uint16)
    rows = scored(REFERENCE.with_array(np.roll(numbers[REFERENCE.array], 2, axis=2)), kind="instances")
    for metric, _ in (*NAMED_LEVEL_METRICS, *((name, "") for name in NAMED_CASE_METRICS)):
        found = rows[rows["metric"] == metric]
        assert set(found["status"]) == {"n/a"} and set(found["level"]) == {""}, metric
    assert of(rows, "d_free_mm") == dict.fromkeys(("T11", "T12", "L1", "L2", "L3"), pytest.approx(2.0))
    assert 0.8 < case_value(rows, "dice_spine") < 1
    assert case_value(rows, "spurious_levels") == 0


def test_c1_is_measured_by_its_centre_of_mass_on_both_sides() -> None:
    reference = column((1, 2, 3))
    numbers = np.zeros(29, np.uint16)
    numbers[[1, 2, 3]] = 7, 8, 9
    for prediction, kind in ((reference, "levels"), (reference.with_array(numbers[reference.array]), "instances")):
        assert set(of(scored(prediction, reference, kind), "d_free_mm").values()) == {0.0}  # type: ignore[arg-type]
    mass = body_centre_mm(reference.array == 1, AFFINE, level=1)
    assert np.linalg.norm(mass - body_centre_mm(reference.array == 1, AFFINE)) > 0.9


def test_cut_levels_are_no_misses() -> None:
    labels = REFERENCE.array.copy()
    labels[labels == 20] = 0
    rows = scored(REFERENCE.with_array(labels), edge="ignore", cut_levels=(18,))
    assert case_value(rows, "visible_levels") == 4
    assert case_value(rows, "id") == 0.75
    assert set(rows[rows["level"] == "T11"]["status"]) == {"ignored"}


def test_anchors_are_those_of_the_reference() -> None:
    assert case_value(scored(REFERENCE), "anchored") == 1
    assert case_value(scored(REFERENCE, cut_levels=(20,)), "anchored") == 0
    thoracic = column((12, 13, 14))
    assert case_value(scored(thoracic, thoracic), "anchored") == 0


def test_without_a_reference_only_counts_remain() -> None:
    rows = scored(REFERENCE, REFERENCE.with_array(np.zeros_like(REFERENCE.array)))
    assert set(rows[rows["level"] == ""]["status"]) == {"empty"}
    assert math.isnan(case_value(rows, "id")) and case_value(rows, "id_precision") == 0
    assert (case_value(rows, "predicted_levels"), case_value(rows, "spurious_levels")) == (5, 5)


@pytest.mark.parametrize("edge", ["ignore", "count", "crop"])
def test_every_policy_gives_a_perfect_prediction_full_marks(edge: str) -> None:
    labels = REFERENCE.array[:, :, :-10]  # T11 meets the upper face
    reference = Volume(np.ascontiguousarray(labels), AFFINE)
    rows = scored(reference, reference, edge=edge)
    levels = 5 if edge == "count" else 4
    counted = rows[rows["status"] != "ignored"]
    check_identity(counted, levels)


def test_vertebrae_that_are_only_numbered_get_no_names() -> None:
    reference = column()
    rows = scored(reference, reference, reference_named=False)
    assert set(of(rows, "d_free_mm")) == {str(level) for level in np.unique(reference.array) if level}
