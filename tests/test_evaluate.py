"""The evaluation folder from end to end, for our own predictions and for another tool's label maps."""

import csv
import json
import math
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from spineseg.config import compose
from spineseg.data.preparation import prepare_source
from spineseg.data.sources.folder import Folder
from spineseg.data.sources.kaggle import Kaggle
from spineseg.errors import DataError, FormatError
from spineseg.evaluate import Reference, evaluate_folder, find_references, main
from spineseg.geometry import Volume, canonical
from spineseg.metrics.detections_table import read_detections
from spineseg.metrics.intervals import RESAMPLES
from spineseg.metrics.pooling import ap_from_detections
from spineseg.metrics.references import default_edge
from spineseg.predictions.instances import SliceInstances
from spineseg.predictions.slicing import slice_labels
from spineseg.predictions.store import LabelKind, PredictionWriter
from spineseg.volumes import write_volume

AFFINE = np.array([[0.0, 0, 3, -20], [-2.0, 0, 0, 7], [0, 2.5, 0, 11], [0, 0, 0, 1]])
NAMES = [f"case{n}" for n in range(6)]
# AP50 with all scores 1, beside every exclusive AP50: without an interval.
CONSTANTS = {f"{box}ap50_constant{suffix}" for box in ("", "box_") for suffix in ("", "_named")}
CONTRACT = {
    *(f"{shape}_map50{suffix}" for shape in ("mask", "box") for suffix in ("", "_named", "_native")),
    *(f"{shape}_map50_95{suffix}" for shape in ("mask", "box") for suffix in ("", "_named", "_native")),
    *("dice", "dice_spine", "pq", "precision", "recall", "f1"),
    *CONSTANTS,
    *("dice_union", "nsd", "id", "id_case", "id_precision", "id_f1", "all_right"),
    *("hd95", "assd", "centroid_error_mm", "d_free_mm"),
    *("error_naming", "error_mixed", "error_outline", "error_missed"),
}
# Medians in mm over the levels found, which have quartiles and an interval from 50 subjects on only.
DISTANCES = {"hd95", "assd", "centroid_error_mm", "d_free_mm"}
ERRORS = {"error_naming", "error_mixed", "error_outline", "error_missed"}
NAMELESS = {"dice_spine", "d_free_mm", "pq", "precision", "recall", "f1", "ap50_constant", "box_ap50_constant"}


def truth(n: int) -> Volume:
    random = np.random.default_rng(n)
    labels = np.zeros((16, 62, 10), np.uint8)
    for row, level in enumerate((19, 20, 21, 22)):
        z = 50 - 15 * row + int(random.integers(-1, 2))
        labels[3:12, z : z + 10 - int(random.integers(0, 3)), 2:8] = level
    return Volume(labels, AFFINE)


def predicted(n: int) -> Volume:
    labels = truth(n).array.copy()
    labels[:, ::9] = 0
    labels[3:6, 46:48, 2:8] = 24 if n == 0 else 0
    if n == 1:
        labels[labels == 20] = 0
    return Volume(labels, AFFINE)


def references(count: int = 6) -> list[Reference]:
    return [Reference(NAMES[n], f"subject{n}", partial(truth, n), None, "phantom") for n in range(count)]


def write(folder: Path, kind: LabelKind = "levels", *, count: int = 6, threshold: float | None = 0.3) -> None:
    with PredictionWriter(folder, provenance={"run": "a", "split": "test"}, score_threshold=threshold) as writer:
        for n in range(count):
            labels = predicted(n)
            slices = slice_labels(canonical(labels).array)
            scored = [
                SliceInstances(s.index, s.size, s.masks, 0.5 + 0.01 * s.levels, s.levels * (kind == "levels"), s.boxes)
                for s in slices
            ]
            writer.write(NAMES[n], labels, kind, scored, seconds=1.0, peak_mb=10.0)


def evaluated(predictions: Path, output: Path, count: int = 6, **options: Any) -> dict[str, dict[str, Any]]:
    settings = {"edge": "ignore", "run": "a", "split": "test", "simulated": True, "seed": 3, "fold": 1, **options}
    return evaluate_folder(references(count), predictions, output, **settings)


def test_a_named_detector_gets_every_number_of_the_contract(tmp_path: Path) -> None:
    write(tmp_path / "p")
    results = evaluated(tmp_path / "p", tmp_path / "e")
    assert set(results) == CONTRACT
    for name, entry in results.items():
        assert entry["subjects"] == 6
        if name in DISTANCES:
            assert entry["low"] is None and entry["quartiles"][0] <= entry["value"] <= entry["quartiles"][1], name
            assert 0 < entry["found"] <= 1
        elif name not in ERRORS:
            assert 0 < entry["value"] <= 1, name
        if name not in {*DISTANCES, *CONSTANTS}:
            assert entry["low"] <= entry["value"] <= entry["high"], name
    # One of 24 levels was not predicted.
    assert results["id"]["value"] == results["hd95"]["found"] == 23 / 24
    # One case has a level too many, one a level too few.
    assert (results["all_right"]["value"], results["all_right"]["levels"]) == (4 / 6, 4)
    assert sum(results[name]["value"] for name in ERRORS) == pytest.approx(1 - results["dice"]["value"], abs=1e-12)
    assert results["dice_union"]["value"] < results["dice"]["value"]
    table = pd.read_csv(tmp_path / "e" / "metrics.csv")
    assert list(table.columns[:6]) == ["format", "run", "source", "split", "case", "subject"]
    assert set(table["protocol"].astype(str)) == {"1.0"}
    levels = table[(table["metric"] == "dice") & table["status"].isin(["ok", "missed"])]
    assert results["dice"]["value"] == pytest.approx(levels.groupby("subject")["value"].mean().mean())
    assert set(table["status"]) == {"ok", "missed", "spurious"}
    summary = json.loads((tmp_path / "e" / "summary.json").read_text())
    assert summary["metrics"] == results
    assert summary["simulated"] is True
    assert any("n = 6, interval approximate" in note for note in summary["notes"])
    assert summary["map_named"] == {"levels": ["T12", "L1", "L2", "L3"], "all_levels": False}


def test_ap_can_be_computed_again_from_the_detections_alone(tmp_path: Path) -> None:
    write(tmp_path / "p")
    results = evaluated(tmp_path / "p", tmp_path / "e")
    table = read_detections(tmp_path / "e" / "detections.parquet")
    found = ap_from_detections(table, which="exclusive", shape="mask", named=True)
    assert found[0] == pytest.approx(results["mask_map50_named"]["value"])
    assert found.mean() == pytest.approx(results["mask_map50_95_named"]["value"])
    table.assign(format="detections 9").to_parquet(tmp_path / "other.parquet")
    with pytest.raises(FormatError, match="detections 9"):
        read_detections(tmp_path / "other.parquet")


def test_a_one_class_model_has_no_named_numbers(tmp_path: Path) -> None:
    write(tmp_path / "p", "instances")
    results = evaluated(tmp_path / "p", tmp_path / "e")
    for name in CONTRACT:
        if name not in NAMELESS and ("named" in name or "map50" not in name):
            assert results[name] == {"value": None, "status": "n/a"}, name
        else:
            assert results[name]["value"] > 0, name


def test_below_five_subjects_there_is_no_interval(tmp_path: Path) -> None:
    write(tmp_path / "p")
    results = evaluated(tmp_path / "p", tmp_path / "e", count=4)
    assert all(entry["low"] is None and entry["high"] is None for entry in results.values())


def test_from_twenty_subjects_on_the_bootstrap_takes_over(tmp_path: Path) -> None:
    with PredictionWriter(tmp_path / "p", provenance={}) as writer:
        for n in range(20):
            writer.write(f"case{n}", predicted(n % 6), "levels", None, seconds=1.0, peak_mb=1.0)
    people = [Reference(f"case{n}", f"subject{n:02d}", partial(truth, n % 6)) for n in range(20)]
    results = evaluate_folder(
        people, tmp_path / "p", tmp_path / "e", edge="ignore", run="", split="", simulated=True, resamples=200
    )
    for name in ("mask_map50", "mask_map50_95_named", "dice", "pq"):
        assert results[name]["low"] <= results[name]["value"] <= results[name]["high"]


def test_cases_without_a_prediction_are_all_named(tmp_path: Path) -> None:
    write(tmp_path / "p", count=4)
    with pytest.raises(DataError, match=r"2 of 6 .*case4; case5"):
        evaluated(tmp_path / "p", tmp_path / "e")
    assert not (tmp_path / "e").exists()


def test_whatever_cannot_be_scored_is_named_before_anything_is_written(tmp_path: Path) -> None:
    write(tmp_path / "p")
    (tmp_path / "p" / "case1.nii.gz").write_bytes(b"")
    write_volume(tmp_path / "p" / "case4.nii.gz", Volume(np.zeros((2, 2, 2, 2), np.uint8)[..., 0], AFFINE))
    with pytest.raises(DataError, match=r"1 of 6 cases cannot be scored(?s:.*)case1.*0 bytes"):
        evaluated(tmp_path / "p", tmp_path / "e")
    write(tmp_path / "p")
    for n in (1, 4):  # headers that can be read, of other grids
        write_volume(tmp_path / "p" / f"{NAMES[n]}.nii.gz", Volume(np.zeros((3, 3, 3), np.uint8), AFFINE))
        (tmp_path / "p" / f"{NAMES[n]}.json").unlink()
    with pytest.raises(DataError, match=rf"2 of 6 cases cannot be scored(?s:.*){NAMES[1]}(?s:.*){NAMES[4]}"):
        evaluated(tmp_path / "p", tmp_path / "e")
    assert not (tmp_path / "e").exists()


def test_nothing_of_an_earlier_evaluation_stays(tmp_path: Path) -> None:
    write(tmp_path / "p")
    evaluated(tmp_path / "p", tmp_path / "e", edge="count", by_part=True)
    assert (tmp_path / "e" / "ignore" / "summary.json").is_file()
    assert (tmp_path / "e" / "detections_by_part.parquet").is_file()
    evaluated(tmp_path / "p", tmp_path / "e", edge="crop", reference_settings={"folder": "masks"})
    assert not (tmp_path / "e" / "ignore").exists()
    assert not (tmp_path / "e" / "detections_by_part.parquet").exists()
    summary = json.loads((tmp_path / "e" / "summary.json").read_text())
    assert (summary["reference"], summary["resamples"], summary["edge"]) == ({"folder": "masks"}, RESAMPLES, "crop")
    for table in sorted((tmp_path / "e" / "tables").glob("*.csv")):
        said = pd.read_csv(table)
        assert set(said["protocol"].astype(str)) == {"1.0"} and said["simulated"].all(), table.name


@pytest.mark.parametrize(
    ("line", "what"),
    [("case1", "a case and its subject"), ("case1,", "a case and its subject"), ("case0,bert", "stands there twice")],
)
def test_a_subjects_table_with_gaps_is_refused(tmp_path: Path, line: str, what: str) -> None:
    for n in range(2):
        write_volume(tmp_path / "reference" / f"{NAMES[n]}.nii.gz", truth(n))
    (tmp_path / "subjects.csv").write_text(f"case,subject\ncase0,anna\n{line}\n")
    with pytest.raises(DataError, match=f"line 3.*{what}"):
        find_references(tmp_path / "reference", subjects=tmp_path / "subjects.csv")


def test_who_shows_no_vertebra_is_no_unit_of_identification(tmp_path: Path) -> None:
    write(tmp_path / "p")
    people = [*references(5), Reference(NAMES[5], "subject5", lambda: truth(5).with_array(0 * truth(5).array))]
    results = evaluate_folder(people, tmp_path / "p", tmp_path / "e", edge="ignore", run="", split="", simulated=True)
    assert (results["id"]["subjects"], results["id_precision"]["subjects"]) == (5, 6)


def test_two_scans_of_a_subject_are_one_unit(tmp_path: Path) -> None:
    write(tmp_path / "p")
    people = [Reference(r.case, f"subject{n // 2}", r.load) for n, r in enumerate(references())]
    results = evaluate_folder(people, tmp_path / "p", tmp_path / "e", edge="ignore", run="", split="", simulated=True)
    assert {entry["subjects"] for entry in results.values()} == {3}


def perfect(name: str) -> float:
    return 0.0 if name in DISTANCES | ERRORS else 1.0


def test_a_perfect_prediction_is_perfect_under_every_policy(tmp_path: Path) -> None:
    with PredictionWriter(tmp_path / "p", provenance={}) as writer:
        for n in range(6):
            labels = truth(n)
            writer.write(NAMES[n], labels, "levels", slice_labels(canonical(labels).array), seconds=1.0, peak_mb=1.0)
    for edge in ("ignore", "count", "crop"):
        for name, entry in evaluated(tmp_path / "p", tmp_path / edge, edge=edge).items():
            assert entry["value"] == pytest.approx(perfect(name)), (edge, name)


def real_maps(real_ct: Path, folder: Path) -> None:
    folder.mkdir()
    for name in ("abdomen_3mm", "chest_1p5mm"):
        content = (real_ct / name / "vertebrae.nii.gz").read_bytes()
        (folder / f"{name}.nii.gz").write_bytes(content)


def run_program(*overrides: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-m", "spineseg.evaluate", *overrides], capture_output=True, text=True)


def test_the_program_scores_another_tools_folder(real_ct: Path, tmp_path: Path) -> None:
    real_maps(real_ct, tmp_path / "reference")
    real_maps(real_ct, tmp_path / "prediction")
    done = run_program(
        f"reference={tmp_path / 'reference'}",
        f"prediction={tmp_path / 'prediction'}",
        f"output={tmp_path / 'out'}",
        "reference_convention=totalsegmentator_v2",
        "prediction_convention=totalsegmentator_v2",
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert any("all scores are 1" in note for note in summary["notes"])
    for name, entry in summary["metrics"].items():
        assert entry["value"] is None if "native" in name else math.isclose(entry["value"], perfect(name)), name


def test_the_program_says_in_one_line_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = run_program(*(f"{key}={tmp_path / 'empty'}" for key in ("reference", "prediction", "output")))
    assert done.returncode == 1
    assert "error: " in done.stderr
    assert "Traceback" not in done.stderr


def test_a_table_names_the_subjects_and_the_cases(tmp_path: Path) -> None:
    for n in range(3):
        write_volume(tmp_path / "reference" / f"{NAMES[n]}.nii.gz", truth(n))
    with (tmp_path / "subjects.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([["case", "subject"], ["case0", "anna"], ["case2", "anna"]])
    found = find_references(tmp_path / "reference", subjects=tmp_path / "subjects.csv")
    assert [(r.case, r.subject) for r in found] == [("case0", "anna"), ("case2", "anna")]
    np.testing.assert_array_equal(found[0].load().array, truth(0).array)
    assert [r.subject for r in find_references(tmp_path / "reference")] == NAMES[:3]
    with (tmp_path / "subjects.csv").open("a", newline="") as stream:
        csv.writer(stream).writerow(["case7", "bert"])
    with pytest.raises(DataError, match="case7"):
        find_references(tmp_path / "reference", subjects=tmp_path / "subjects.csv")


def test_scoring_needs_neither_torch_nor_ultralytics() -> None:
    code = (
        "import sys, pkgutil, importlib\n"
        "import spineseg.metrics, spineseg.predictions.store, spineseg.evaluate, spineseg.data.prepared\n"
        "for module in pkgutil.iter_modules(spineseg.metrics.__path__, 'spineseg.metrics.'):\n"
        "    importlib.import_module(module.name)\n"
        "print([name for name in ('torch', 'ultralytics', 'lightning', 'monai') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_a_prepared_source_says_how_cut_levels_are_scored(tmp_path: Path) -> None:
    image = np.where(truth(0).array > 0, 400, 40).astype(np.int16)
    image[:, :3] = -1000
    write_volume(tmp_path / "raw" / "a" / "ct.nii.gz", Volume(image, AFFINE))
    write_volume(tmp_path / "raw" / "a" / "vertebrae.nii.gz", truth(0))
    settings: dict[str, Any] = {"prepared_root": tmp_path, "spacing_mm": (None, None, None), "split_seed": 0}
    for edge in ("count", "ignore"):
        folder = prepare_source(Folder(tmp_path / "raw", edge=edge), workers=1, **settings)
        assert default_edge(folder) == default_edge(folder / "cases.csv") == edge
    assert default_edge(tmp_path / "raw") == "ignore"
    assert Kaggle(tmp_path).edge == "count"


def test_the_program_takes_the_sources_rule_unless_one_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "p")
    monkeypatch.setattr("spineseg.metrics.references.find_references", lambda *_, **__: references())
    monkeypatch.setattr("spineseg.metrics.references.default_edge", lambda _: "count")
    for override, expected in (("edge=null", "count"), ("edge=ignore", "ignore")):
        output = tmp_path / expected
        main(compose("evaluate", ["reference=r", f"prediction={tmp_path / 'p'}", f"output={output}", override]))
        assert json.loads((output / "summary.json").read_text())["edge"] == expected
    assert compose("evaluate").edge is None
