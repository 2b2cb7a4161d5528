"""Our code against the conformance kit, and the kit's brute force against what was worked out by hand."""

import json
import math
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spineseg.geometry import Volume, canonical
from spineseg.metrics.cases import score_case
from spineseg.metrics.pooling import ap_from_detections
from spineseg.predictions.instances import SliceInstances
from spineseg.predictions.slicing import slice_labels
from spineseg.predictions.store import CasePrediction
from spineseg.vertebrae import level_id

sys.path.insert(0, str(Path(__file__).parent))
import brute_force

pytestmark = pytest.mark.filterwarnings("ignore:Please import:DeprecationWarning")  # of surface-distance
FILES = sorted(brute_force.CASES.glob("*.json"))
POLICIES = brute_force.POLICIES


def read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    assert content["format"] == "conformance 1"
    return content


def same(found: float | None, expected: float | None) -> bool:
    if found is None or expected is None:
        return found is expected or (found is not None and math.isnan(found))
    return found == pytest.approx(expected, abs=1e-6)


def volume(case: dict[str, Any], side: str) -> Volume:
    labels = np.zeros(case["shape"], np.uint8)
    for box in case[side]:
        labels[tuple(slice(*ends) for ends in box["box"])] = level_id(box["level"]) if box["level"] else 0
    return Volume(labels, np.diag([*case["spacing_mm"], 1.0]))


def with_scores(labels: Volume, scores: dict[str, float]) -> dict[int, SliceInstances]:
    by_level = {level_id(name): score for name, score in scores.items()}
    found = {}
    for s in slice_labels(canonical(labels).array):
        values = np.array([by_level.get(int(level), 1.0) for level in s.levels], np.float32)
        found[s.index] = SliceInstances(s.index, s.size, s.masks, values, s.levels, s.boxes)
    return found


def ours(case: dict[str, Any], policy: Any, turn: tuple[int, ...] = (0, 1, 2)) -> dict[str, Any]:
    """The cells of the kit by our code; the volumes are stored with their axes in the order ``turn``."""
    reference, prediction = (stored(volume(case, side), turn) for side in ("reference", "prediction"))
    slices = with_scores(prediction, case["scores"]) if "scores" in case else None
    cut = case.get("cut_levels")
    scored = score_case(
        reference,
        CasePrediction("c", prediction, "levels", slices),
        edge=policy,
        cut_levels=None if cut is None else tuple(level_id(name) for name in cut),
    )
    names = scored.rows["metric"] + (" " + scored.rows["parameter"]).where(scored.rows["parameter"] != "", "")
    rows = scored.rows.assign(name=names)
    volumes = rows[(rows["space"] == "3d")]
    cells: dict[str, Any] = {"levels": {}, "case": {}, "slices": {}}
    for row in volumes.to_dict("records"):
        place = cells["levels"].setdefault(row["level"], {}) if row["level"] else cells["case"]
        place[row["name"]] = [row["value"], row["status"]]
    for row in rows[rows["space"] == "2d"].to_dict("records"):
        cells["slices"][row["metric"]] = row["value"]
    table = scored.detections.assign(source="", case="c", subject="c")
    for shape in ("mask", "box"):
        for named in (False, True):
            ap = ap_from_detections(table, which="exclusive", shape=shape, named=named, subjects=["c"])  # type: ignore[arg-type]
            suffix = "_named" if named else ""
            cells["slices"] |= {f"{shape}_map50{suffix}": ap[0], f"{shape}_map50_95{suffix}": ap.mean()}
    return cells


def stored(volume: Volume, turn: tuple[int, ...]) -> Volume:
    return Volume(np.ascontiguousarray(volume.array.transpose(turn)), volume.affine[:, [*turn, 3]])


def differences(found: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """What is not as the kit has it; cells that the kit does not name are none of its business."""
    wrong = []
    for level, cells in expected["levels"].items():
        for metric, (value, status) in cells.items():
            have = found["levels"].get(level, {}).get(metric, [math.nan, "no row"])
            if have[1] != status or not same(have[0], value):
                wrong.append(f"{level} {metric}: {have}, expected {[value, status]}")
    if extra := {n for n, cells in found["levels"].items() if "dice" in cells} - set(expected["levels"]):
        wrong.append(f"rows of {extra}, which the kit has not")
    for metric, (value, status) in expected["case"].items():
        have = found["case"].get(metric, [math.nan, "no row"])
        if have[1] != status or not same(have[0], value):
            wrong.append(f"case {metric}: {have}, expected {[value, status]}")
    wrong += [
        f"slices {metric}: {found['slices'].get(metric)}, expected {value}"
        for metric, value in expected["slices"].items()
        if not same(found["slices"].get(metric), value)
    ]
    return wrong


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_number_is_the_kits(path: Path, policy: str) -> None:
    case = read(path)
    assert differences(ours(case, policy), case["expected"][policy]) == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_axes_of_the_file_do_not_matter(path: Path) -> None:
    case = read(path)
    assert differences(ours(case, "ignore", (2, 0, 1)), case["expected"]["ignore"]) == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_kit_holds_what_its_brute_force_gives(path: Path) -> None:
    case = read(path)
    assert brute_force.rounded(brute_force.score(case)) == case["expected"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_kit_holds_what_was_worked_out_by_hand(path: Path) -> None:
    case = read(path)
    assert case["by_hand"]
    for policy, values in case["by_hand"].items():
        for name, formula in values.items():
            where, metric = name.split(" ", 1)
            cells = case["expected"][policy]
            found = cells[where][metric] if where in ("case", "slices") else cells["levels"][where][metric]
            found = found[0] if isinstance(found, list) else found
            assert same(found, None if formula is None else by_hand(str(formula))), (policy, name, found, formula)


def by_hand(formula: str) -> float:
    """A formula of whole numbers with + - * / and parentheses, exactly."""
    assert set(formula) <= set("0123456789.+-*/() "), formula
    pieces = "".join(f"Fraction('{part}')" if part[0].isdigit() else part for part in _pieces(formula))
    return float(eval(pieces, {"Fraction": Fraction}))


def _pieces(formula: str) -> list[str]:
    import re

    return re.findall(r"[\d.]+|[-+*/()]", formula)


def test_a_wrong_number_is_told() -> None:
    case = read(FILES[0])
    expected = case["expected"]["count"]
    expected["levels"]["L1"]["dice"][0] += 1e-5
    expected["levels"]["L2"]["hd95"][1] = "missed"
    expected["case"]["id"][0] = None
    expected["slices"]["pq"] -= 1e-5
    assert len(differences(ours(case, "count"), expected)) == 4


def test_there_are_enough_cases_and_every_status_occurs() -> None:
    assert len(FILES) >= 12
    cells = [read(path)["expected"][policy] for path in FILES for policy in POLICIES]
    statuses = {status for found in cells for level in found["levels"].values() for _, status in level.values()}
    statuses |= {status for found in cells for _, status in found["case"].values()}
    assert statuses == {"ok", "missed", "spurious", "ignored", "empty"}
