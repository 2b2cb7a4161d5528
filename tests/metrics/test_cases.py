"""Rows of one case: Dice of levels, of the spine, and their statuses."""

import math

import numpy as np
import pandas as pd
import pytest

from spineseg.errors import DataError
from spineseg.geometry import Volume
from spineseg.metrics.cases import score_case
from spineseg.predictions.store import CasePrediction, LabelKind

AFFINE = np.array([[0.0, 0, 1.5, -20], [-2.0, 0, 0, 7], [0, 3, 0, 11], [0, 0, 0, 1]])  # stored in another axis order


def volume(spans: dict[int, tuple[int, int]], dtype: type = np.uint8) -> Volume:
    labels = np.zeros((16, 60, 12), dtype)  # the second axis runs to superior
    for label, (z0, z1) in spans.items():
        labels[4:12, z0:z1, 3:9] = label
    return Volume(labels, AFFINE)


REFERENCE = volume({19: (50, 60), 20: (38, 48), 21: (26, 36), 22: (14, 24)})


def scored(prediction: Volume, kind: LabelKind = "levels", **options: object) -> pd.DataFrame:
    rows = score_case(REFERENCE, CasePrediction("c", prediction, kind), edge="ignore", **options).rows  # type: ignore[arg-type]
    plain = rows[(rows["space"] == "3d") & (rows["parameter"] == "")]
    return plain.set_index(["metric", "level"])[["value", "status"]]


def test_levels_are_scored_by_name_with_their_status() -> None:
    # L1 perfect; L2 half; L3 missing; T12 cut; L5 invented between L1 and L2.
    found = scored(volume({19: (51, 60), 20: (38, 48), 21: (26, 31), 24: (36, 38)}))
    assert tuple(found.loc[("dice", "L1")]) == (1.0, "ok")
    assert tuple(found.loc[("dice", "L2")]) == (pytest.approx(2 / 3), "ok")
    assert tuple(found.loc[("dice", "L3")]) == (0.0, "missed")
    assert tuple(found.loc[("dice", "L5")]) == (0.0, "spurious")
    assert found.loc[("dice", "T12"), "status"] == "ignored"
    # 15 planes of 30 found, 2 invented: 2 × 15 ÷ (30 + 17).
    assert tuple(found.loc[("dice_spine", "")]) == (pytest.approx(30 / 47), "ok")


def test_renamed_levels_lose_their_dice_and_keep_the_spines() -> None:
    found = scored(volume({21: (38, 48), 22: (26, 36), 23: (14, 24)}))
    assert found.loc[("dice", "L2"), "value"] == 0
    assert found.loc[("dice_spine", ""), "value"] == 1


def test_one_class_models_have_the_spines_dice_only() -> None:
    found = scored(volume({1: (50, 60), 2: (38, 48), 3: (26, 36), 4: (14, 24)}, np.uint16), "instances")
    assert found.loc[("dice_spine", ""), "value"] == 1
    assert found.loc[("dice", ""), "status"] == "n/a"


def test_the_policies_differ_at_the_cut_level() -> None:
    prediction = CasePrediction("c", volume({20: (38, 48), 21: (26, 36), 22: (14, 24)}), "levels")
    spine = {}
    for edge in ("ignore", "count", "crop"):
        rows = score_case(REFERENCE, prediction, edge=edge).rows  # type: ignore[arg-type]
        spine[edge] = rows.loc[rows["metric"] == "dice_spine", "value"].item()
    assert spine["ignore"] == spine["crop"] == 1
    assert spine["count"] == pytest.approx(2 * 30 / (40 + 30))


def test_the_cut_levels_of_the_source_win_over_the_faces() -> None:
    assert scored(REFERENCE).loc[("dice", "T12"), "status"] == "ignored"
    assert scored(REFERENCE, cut_levels=()).loc[("dice", "T12"), "status"] == "ok"


def test_a_case_without_reference_levels_is_empty() -> None:
    nothing = volume({})
    for prediction in (nothing, REFERENCE):
        rows = score_case(nothing, CasePrediction("c", prediction, "levels"), edge="ignore").rows
        assert set(rows[rows["level"] == ""]["status"]) == {"empty"}
        assert math.isnan(rows[rows["metric"] == "dice_spine"]["value"].item())


def test_another_grid_is_refused() -> None:
    affine = AFFINE.copy()
    affine[0, 3] += 5
    shifted = Volume(REFERENCE.array, affine)
    with pytest.raises(DataError, match=r"case 'c'.*grid"):
        scored(shifted)
    with pytest.raises(DataError, match="shape"):
        scored(Volume(REFERENCE.array[:-1], AFFINE))
