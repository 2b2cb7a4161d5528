"""Run folders and evaluation folders as reports read them, and which runs make one row."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any, cast

import pytest

from spineseg.data.files import write_json
from spineseg.errors import ConfigError, DataError, FormatError
from spineseg.provenance import PROVENANCE_FORMAT
from spineseg.report import find_runs
from spineseg.reporting.build import _notes
from spineseg.reporting.comparability import check_comparable, check_held_out
from spineseg.reporting.models import score_models
from spineseg.reporting.runs import ScoredRun, load_runs
from spineseg.reporting.settings import label_runs
from spineseg.runs import Run
from spineseg.trained import TrainedModel, origin
from tests.reporting.scored_runs import write_evaluation, write_run


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds of a model of two folds each, and the threshold baseline, on the same four people."""
    folder = tmp_path_factory.mktemp("runs")
    for seed in (0, 1):
        for fold, subjects in ((0, (0, 1)), (1, (2, 3))):
            write_run(folder, "unet_csi", seed=seed, fold=fold, subjects=subjects)
    write_evaluation(folder / "threshold", "threshold", subjects=range(4))
    return folder


def loaded(runs: Path) -> list[ScoredRun]:
    return load_runs(sorted((runs / "csi" / "unet_csi").iterdir()))


def test_a_run_is_read_with_its_cost_and_its_predictions(runs: Path) -> None:
    first = loaded(runs)[0]
    assert (first.recipe, first.seed, first.fold, first.split, first.simulated) == ("unet_csi", 0, 0, "test", True)
    assert first.name == f"csi/unet_csi/{first.root and first.root.name}"
    assert first.predictions is not None and (first.predictions / "case00.nii.gz").is_file()
    assert first.cost["parameters"] == 1_500_000 and first.cost["seconds_a_scan"] == 1.5
    assert (first.cost["train_peak_mb"], first.cost["train_memory"]) == (2000.0, "RAM")
    assert set(first.metrics["level"]) == {"", "T12", "L1", "L2", "L3"}
    assert first.metrics["value"].dtype == float
    assert first.config["optim"]["lr0"] == 0.002


def test_seconds_are_those_of_the_scored_scans(tmp_path: Path) -> None:
    path = write_run(tmp_path, "unet_csi", subjects=range(2))
    file = path / "predictions" / "test" / "predictions.json"
    content = json.loads(file.read_text())
    content["cases"]["another"] = {**content["cases"]["case00"], "seconds": 100.0}
    file.write_text(json.dumps(content))
    assert load_runs([path])[0].cost["seconds_a_scan"] == 1.5


def test_seeds_that_evaluate_scored_are_known_from_their_predictions(runs: Path, tmp_path: Path) -> None:
    (scores,) = load_runs([runs / "threshold" / "scores"])
    content = json.loads((scores.evaluation / "summary.json").read_text())
    for seed in (0, 1):
        folder = shutil.copytree(scores.evaluation, tmp_path / str(seed))
        told = {"run": f"csi/unet_csi/2026-01-01_00-00-0{seed}", "seed": seed, "fold": 2}
        (folder / "summary.json").write_text(json.dumps({**content, "run": told["run"], "provenance": told}))
    (model,) = score_models(load_runs([tmp_path / "0", tmp_path / "1"]))
    assert (model.name, list(model.seeds), model.folds) == ("unet_csi", ["0", "1"], (2,))
    assert model.trained and model.sd_seed("dice_spine") == 0


def test_predictions_of_one_run_say_its_seed_and_fold(tmp_path: Path) -> None:
    runs = [Run(tmp_path / str(seed)) for seed in (3, 4)]
    for run, seed in zip(runs, (3, 4), strict=True):
        write_json(run.provenance, {"format": PROVENANCE_FORMAT, "seed": seed, "fold": 1})
    model = TrainedModel(cast(Any, None), cast(Any, None), None, simulated=False)
    found = origin(runs[:1], model, "best")
    assert (found["seed"], found["fold"]) == (3, 1)
    # An ensemble has no seed of its own: its members have.
    assert "seed" not in origin(runs, dataclasses.replace(model, members=(model, model)), "best")


def test_a_run_that_is_still_being_made_is_not_found(runs: Path) -> None:
    folder = runs / "csi" / "unet_csi"
    every = sorted(folder.iterdir())
    partial = shutil.copytree(every[0], folder / ".partial-2026")
    try:
        for pattern in (f"{folder}/*", "csi/*/*"):
            assert find_runs([pattern], runs)[0] == every
        # A folder above that is hidden is no reason.
        hidden = shutil.copytree(every[0], runs / ".hidden" / "runs" / "one")
        assert find_runs([f"{runs}/.hidden/runs/*"], runs)[0] == [hidden]
    finally:
        shutil.rmtree(partial)
        shutil.rmtree(runs / ".hidden", ignore_errors=True)


def test_an_evaluation_folder_inside_a_run_is_that_run(runs: Path) -> None:
    run = loaded(runs)[0]
    (again,) = load_runs([run.evaluation])
    assert (again.root, again.name, again.recipe) == (run.root, run.name, run.recipe)
    (baseline,) = load_runs([runs / "threshold" / "scores"])
    assert (baseline.root, baseline.name, baseline.recipe, baseline.seed) == (None, "threshold", "threshold", None)
    assert baseline.predictions is not None and dict(baseline.config) == {}
    assert baseline.predictions.resolve() == (runs / "threshold" / "predictions").resolve()


def test_what_is_not_there_is_said(runs: Path, tmp_path: Path) -> None:
    run = loaded(runs)[0].root
    assert run is not None
    with pytest.raises(DataError, match=r"split 'val' was not evaluated \(evaluated: test\)"):
        load_runs([run], split="val")
    with pytest.raises(DataError, match="neither a run"):
        load_runs([tmp_path])
    with pytest.raises(DataError, match="named twice"):
        load_runs([run, run / "evaluation" / "test"])
    copy = shutil.copytree(run / "evaluation" / "test", tmp_path / "scores")
    text = (copy / "metrics.csv").read_text()
    (copy / "metrics.csv").write_text(text.replace("metrics 1", "metrics 9"))
    with pytest.raises(FormatError, match="metrics 9"):
        load_runs([copy])


def test_runs_are_found_by_glob_name_and_latest(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = runs / "csi" / "unet_csi"
    every = sorted(folder.iterdir())
    (folder / "latest").symlink_to(every[-1].name)
    try:
        assert find_runs([f"{folder}/*"], runs) == (every, [])
        assert find_runs(["csi/unet_csi"], runs)[0] == [every[-1]]
        assert find_runs(["csi/*/latest", str(runs / "threshold" / "scores")], runs)[0] == [
            every[-1],
            (runs / "threshold" / "scores").resolve(),
        ]
        monkeypatch.chdir(runs)
        assert find_runs(["csi/unet_csi/*-1"], Path("elsewhere"))[0] == [path for path in every if path.name[-1] == "1"]
        with pytest.raises(DataError, match="no run and no evaluation"):
            find_runs(["csi/nobody/*"], runs)
        with pytest.raises(DataError, match="no run there"):
            find_runs(["csi/unet_cs"], runs)
        shutil.move(every[0] / "evaluation", runs / "aside")
        assert find_runs([f"{folder}/*"], runs) == (every[1:], every[:1])
    finally:
        (folder / "latest").unlink()
        if (runs / "aside").exists():
            shutil.move(runs / "aside", every[0] / "evaluation")


def test_seeds_and_folds_of_one_recipe_are_one_model(runs: Path) -> None:
    (model,) = score_models(loaded(runs))
    assert (model.name, len(model.runs), list(model.seeds), model.folds) == ("unet_csi", 4, ["0", "1"], (0, 1))
    assert model.subjects == tuple(f"subject0{n}" for n in range(4))
    values = model.values("dice")
    assert values.shape == (4, 2)
    assert model.results["dice"]["value"] == pytest.approx(values.to_numpy().mean())
    assert model.results["dice"]["subjects"] == 4
    one = [run for run in loaded(runs) if run.seed == 0]
    (single,) = score_models(one[:1])
    assert single.results == dict(one[0].summary["metrics"])


def test_other_settings_are_another_model_and_say_which(runs: Path) -> None:
    first, second, *_ = loaded(runs)
    other = dataclasses.replace(second, config={**second.config, "optim": {"optimizer": "SGD", "lr0": 0.002}})
    assert label_runs([first, other], {}) == ["unet_csi (optimizer AdamW)", "unet_csi (optimizer SGD)"]
    assert label_runs([first, second], {"unet_csi": "U-Net"}) == ["U-Net", "U-Net"]
    twin = dataclasses.replace(second, recipe="yolo_csi")
    with pytest.raises(ConfigError, match="unet_csi and yolo_csi are both called 'U-Net'"):
        label_runs([first, twin], {"unet_csi": "U-Net", "yolo_csi": "U-Net"})
    with pytest.raises(ConfigError, match="yolo_csi and unet_csi are both called 'yolo_csi'"):
        label_runs([twin, first], {"unet_csi": "yolo_csi"})
    # What nnU-Net planned from each fold's cases is no other model; the same keys are, where nobody planned.
    planned = {**first.config, "planner": {"preset": "x"}, "model": {"architecture": 1}}
    runs_of = [dataclasses.replace(first, config={**planned, "model": {"architecture": n}}) for n in (1, 2)]
    assert len(set(label_runs(runs_of, {}))) == 1
    unplanned = [dataclasses.replace(run, config={**run.config, "planner": {}}) for run in runs_of]
    assert len(set(label_runs(unplanned, {}))) == 2


def test_a_case_scored_twice_with_one_seed_is_refused(runs: Path) -> None:
    first, *_ = loaded(runs)
    twin = dataclasses.replace(first, name="csi/unet_csi/twin")
    with pytest.raises(DataError, match=r"case 'case00' was scored by .* and by csi/unet_csi/twin"):
        score_models([first, twin])
    with pytest.raises(DataError, match="its seeds scored different cases"):
        score_models(loaded(runs)[:3])


def test_models_scored_on_other_cases_or_by_other_rules_are_not_compared(runs: Path) -> None:
    (baseline,) = load_runs([runs / "threshold" / "scores"])
    everything = loaded(runs)
    check_comparable(score_models([*everything, baseline]))
    with pytest.raises(DataError, match=r"different cases: only 'unet_csi': none; only 'threshold': case02, case03"):
        check_comparable(score_models([everything[0], baseline]))
    for key, value, words in (("edge", "count", "edge="), ("protocol", "9.9", "version of the protocol")):
        other = dataclasses.replace(baseline, summary={**baseline.summary, key: value})
        with pytest.raises(DataError, match=f"differ in .*{words}.* and {value}"):
            check_comparable(score_models([*everything, other]))
    with pytest.raises(DataError, match="split 'test' and threshold on 'val'"):
        check_comparable(score_models([*everything, dataclasses.replace(baseline, split="val")]))
    rows = baseline.metrics.copy()
    rows.loc[(rows["metric"] == "visible_levels") & (rows["case"] == "case01"), "value"] = 3
    with pytest.raises(DataError, match=r"different references: levels of case 'case01' 4.0 and 3.0 \(1 of 4"):
        check_comparable(score_models([*everything, dataclasses.replace(baseline, metrics=rows)]))
    renamed = baseline.metrics.assign(subject="subject00")
    with pytest.raises(DataError, match="subject of case 'case01'"):
        check_comparable(score_models([*everything, dataclasses.replace(baseline, metrics=renamed)]))


def test_a_test_subject_that_was_trained_on_is_refused(runs: Path) -> None:
    everything = loaded(runs)
    seen = {**everything[0].provenance, "train_subjects": ["phantom:subject01", "phantom:subject09"]}
    leaked = [dataclasses.replace(everything[0], provenance=seen), *everything[1:]]
    with pytest.raises(DataError, match="was trained on phantom:subject01"):
        check_comparable(score_models(leaked))
    overfit = dataclasses.replace(everything[0], provenance={**seen, "overfit": "case01"})
    check_comparable(score_models([overfit, *everything[1:]]))


def test_scores_without_a_split_are_checked_for_leakage_and_the_training_split_is_not(runs: Path) -> None:
    (baseline,) = load_runs([runs / "threshold" / "scores"])
    seen = {"train_subjects": ["phantom:subject01"]}
    for split in ("", "val"):
        leaked = dataclasses.replace(baseline, split=split, provenance=seen)
        with pytest.raises(DataError, match="was trained on phantom:subject01"):
            check_held_out(leaked)
    with pytest.raises(DataError, match="was trained on phantom:subject01"):
        check_held_out(dataclasses.replace(baseline, provenance={"seen_subjects": ["phantom:subject01"]}))
    check_held_out(dataclasses.replace(baseline, split="train", provenance=seen))
    check_held_out(dataclasses.replace(baseline, provenance={**seen, "overfit": "case01"}))


def test_a_run_without_a_split_does_not_hide_that_others_differ(runs: Path) -> None:
    everything = loaded(runs)
    (baseline,) = load_runs([runs / "threshold" / "scores"])
    other = dataclasses.replace(baseline, name="other", recipe="other", split="val")
    with pytest.raises(DataError, match="split 'test' and other on 'val'"):
        check_comparable(score_models([baseline, *everything, other]))
    assert "threshold: split not recorded." in _notes(score_models([baseline]), (), simulated=True)


def test_seeds_and_models_made_on_different_data_are_refused(runs: Path) -> None:
    everything = loaded(runs)
    changed = [
        dataclasses.replace(run, provenance={**run.provenance, "data_hash": "a" * 64}) if run.seed else run
        for run in everything
    ]
    with pytest.raises(DataError, match=r"model 'unet_csi': csi/unet_csi/\S+ and csi/unet_csi/\S+ were made on diff"):
        check_comparable(score_models(changed))
    real = [dataclasses.replace(run, simulated=not run.seed) for run in everything]
    with pytest.raises(DataError, match=r"model 'unet_csi': .* is of simulated data and .* of real data"):
        check_comparable(score_models(real))
    twin = [dataclasses.replace(run, recipe="twin", name=f"twin/{run.name}") for run in changed]
    with pytest.raises(DataError, match=r"csi/unet_csi/\S+ and twin/csi/unet_csi/\S+ were made on different data"):
        check_comparable(score_models([*everything[:2], *twin[2:]]))
    (baseline,) = load_runs([runs / "threshold" / "scores"])
    with pytest.raises(DataError, match=r"csi/unet_csi/.* is of simulated data and threshold of real data"):
        check_comparable(score_models([*everything, dataclasses.replace(baseline, simulated=False)]))
    # A network from simulated scans may be compared on real patients with one from real scans.
    known = {**baseline.summary, "provenance": {"simulated": True}}
    told = [dataclasses.replace(run, simulated=False) for run in everything]
    check_comparable(score_models([*told, dataclasses.replace(baseline, summary=known)]))


def test_every_seed_has_to_be_scored_against_the_same_reference(runs: Path) -> None:
    everything = loaded(runs)
    rows = everything[-1].metrics.copy()
    rows.loc[(rows["metric"] == "visible_levels") & (rows["case"] == "case03"), "value"] = 3
    mixed = [*everything[:-1], dataclasses.replace(everything[-1], metrics=rows)]
    assert everything[-1].seed == 1
    with pytest.raises(DataError, match=r"unet_csi, seed 0 \(csi/.*unet_csi, seed 1 \(csi/.*levels of case 'case03'"):
        check_comparable(score_models(mixed))
