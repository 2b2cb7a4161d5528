import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from spineseg.errors import ConfigError
from spineseg.studies.continuing import check_same_kind, check_same_search, renew_jobs
from spineseg.studies.folder import Job, StudyFolder, publish
from spineseg.studies.leases import Observer
from spineseg.studies.running import Measure

JOB = Job("0" * 12, {"recipe": "yolo_csi", "seed": 0, "fold": 2}, ("a=1",), True, "d", "s", state="done", value=0.5)
SEARCH = {
    "preset": "quick",
    "metric": "dice",
    "split": "val",
    "search": {"space": {"optim.lr0": {"low": 0.1, "high": 1.0}}, "direction": "maximize", "sampler": "tpe"},
    "base": {"labels": {}, "overrides": ["+experiment=yolo_csi", "+preset=quick", "seed=0", "data.fold=2"]},
    "data_hash": "d",
    "split_hash": "s",
}


def scored(folder: StudyFolder, job: Job, splits: Mapping[str, Mapping[str, float]]) -> Path:
    """Write a job and a run with results; returns the run's folder."""
    root = folder.job(job.hash) / "2026-01-01_00-00-00"
    publish(root / "config.yaml", "")
    values = {split: {name: {"value": value} for name, value in found.items()} for split, found in splits.items()}
    publish(root / "results.json", json.dumps({"format": "results 1", "splits": values}))
    folder.write_job(job)
    return root


def with_seed(seed: int) -> dict[str, Any]:
    return {"base": {"labels": {}, "overrides": ["+experiment=yolo_csi", "+preset=quick", f"seed={seed}"]}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_seed(1), r"recipe, overrides, seed and fold: .* with seed=0 data\.fold=2, now it is seed=1;"),
        ({"preset": None}, r"study\.preset: .* with quick, now it is None"),
        ({"metric": "nsd"}, r"study\.metric: .* with dice, now it is nsd"),
        ({"split": "train"}, r"study\.split"),
        ({"data_hash": "e"}, "data_hash"),
        ({"split_hash": "e"}, "split_hash"),
        ({"search": {**SEARCH["search"], "direction": "minimize"}}, r"search\.direction"),  # type: ignore[dict-item]
    ],
)
def test_trials_of_another_question_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    folder = StudyFolder(tmp_path)
    check_same_search(folder, SEARCH)
    folder.write_study(SEARCH)
    check_same_search(folder, SEARCH)
    with pytest.raises(ConfigError, match=rf"{message}.*take another study\.name"):
        check_same_search(folder, {**SEARCH, **change})


def test_a_folder_that_does_not_say_what_it_asked_is_refused(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path)
    folder.write_study({name: value for name, value in SEARCH.items() if not name.endswith("hash")})
    with pytest.raises(
        ConfigError, match=r"earlier version, which kept no data_hash, split_hash: .*another study\.name"
    ):
        check_same_search(folder, SEARCH)


def test_matrix_and_search_share_no_folder(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path)
    check_same_kind(folder)
    folder.write_study(SEARCH)
    with pytest.raises(ConfigError, match=r"holds a search, now it is a matrix"):
        check_same_kind(folder)
    folder.write_study({**SEARCH, "search": None})
    check_same_kind(folder)
    with pytest.raises(ConfigError, match=r"holds a matrix, now it is a search"):
        check_same_search(folder, SEARCH)


def test_a_known_job_gets_new_labels_and_their_order(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path)
    scored(folder, JOB, {"test": {"dice": 0.5}})
    labels = {"recipe": "yolo_csi", "flip": "none", "seed": 0, "fold": 2}
    planned = replace(JOB, labels=labels, overrides=("a=1", "b=2"), state="pending", value=None)
    renew_jobs(folder, {JOB.hash: planned}, Measure("dice", "test"), 60)
    found = folder.read_job(JOB.hash)
    assert list(found.labels.items()) == list(labels.items()) and found.overrides == ("a=1", "b=2")
    assert (found.state, found.value) == ("done", 0.5)
    turned = dict(reversed(labels.items()))
    renew_jobs(folder, {JOB.hash: replace(planned, labels=turned)}, Measure("dice", "test"), 60)
    assert list(folder.read_job(JOB.hash).labels) == list(turned)


def test_another_metric_or_split_is_read_from_the_results(tmp_path: Path) -> None:
    """Of jobs that are not planned any more, too: a ledger has one metric."""
    folder = StudyFolder(tmp_path)
    root = scored(folder, JOB, {"test": {"dice": 0.5, "nsd": 0.25}})
    for metric, planned in (("nsd", {JOB.hash: JOB}), ("dice", {}), ("nsd", {})):
        renew_jobs(folder, planned, Measure(metric, "test"), 60)
        assert folder.read_job(JOB.hash).value == {"nsd": 0.25, "dice": 0.5}[metric]
    renew_jobs(folder, {JOB.hash: JOB}, Measure("dice", "val"), 60)
    missing = folder.read_job(JOB.hash)
    assert (missing.state, missing.value) == ("failed", None)
    assert f"python -m spineseg.train resume={root} score_splits=[val]" in str(missing.error)
    scored(folder, missing, {"test": {"dice": 0.5}, "val": {"dice": 0.75}})
    renew_jobs(folder, {JOB.hash: JOB}, Measure("dice", "val"), 60)
    assert folder.read_job(JOB.hash) == replace(JOB, value=0.75)


def test_what_somebody_is_at_or_has_no_results_stays(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path)
    folder.write_job(JOB)
    renew_jobs(folder, {}, Measure("dice", "val"), 60)
    assert folder.read_job(JOB.hash) == JOB
    lease = Observer(60).acquire(folder.leases(JOB.hash))
    assert lease is not None
    planned = {JOB.hash: replace(JOB, labels={"recipe": "other", "seed": 0, "fold": 2})}
    renew_jobs(folder, planned, Measure("dice", "test"), 60)
    assert folder.read_job(JOB.hash) == JOB
    lease.release()
    renew_jobs(folder, planned, Measure("dice", "test"), 60)
    assert folder.read_job(JOB.hash).labels["recipe"] == "other"
