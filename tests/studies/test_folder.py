import csv
import io
from dataclasses import replace
from pathlib import Path

import pytest

from spineseg.errors import DataError, FormatError
from spineseg.studies.folder import Job, StudyFolder, finished_value, ledger_text, publish

JOB = Job("0" * 12, {"recipe": "yolo_csi", "size": "1", "seed": 0, "fold": 2}, ("a=1", "b=2"), True, "d", "s", 3)


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_a_job_is_read_as_it_was_written(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path)
    job = replace(JOB, state="done", value=0.1 + 0.2, seconds=3.5, attempts=2, trials=(3, 9))
    folder.write_job(job)
    assert folder.read_job(job.hash) == job
    assert not list(folder.job(job.hash).glob(".partial*"))


def test_a_job_that_is_there_is_not_added_again(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path)
    done = replace(JOB, state="done", value=0.5)
    folder.add_job(done)
    folder.add_job(JOB)
    assert folder.read_job(JOB.hash) == done


def test_damaged_and_foreign_files_are_named(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path)
    path = folder.job("x") / "job.json"
    for text, error in (("{", DataError), ('{"format": "job 9"}', FormatError), ('{"format": "job 1"}', DataError)):
        publish(path, text)
        with pytest.raises(error, match=r"job\.json"):
            folder.read_job("x")


def test_the_ledger_can_be_made_again_and_keeps_what_is_not_planned_any_more(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path)
    jobs = [replace(JOB, hash=name, state="done", value=1 / 3) for name in ("c", "a", "b")]
    for job in jobs:
        folder.write_job(job)
    folder.write_study({"plan": ["b", "c"]})
    folder.write_ledger()
    first = folder.ledger.read_text()
    assert [row["job"] for row in rows(first)] == ["b", "c", "a"]
    assert float(rows(first)[0]["value"]) == 1 / 3
    folder.ledger.unlink()
    folder.write_ledger()
    assert folder.ledger.read_text() == first


def test_columns_of_the_ledger() -> None:
    (row,) = rows(ledger_text([JOB]))
    factors = ["recipe", "size", "seed", "fold"]
    assert list(row) == ["job", *factors, "overrides", "state", "value", "seconds", "attempts", "error"]
    assert row["overrides"] == "a=1 b=2" and row["value"] == ""


def test_a_trial_is_a_row() -> None:
    """Two trials with the same parameters are one job, and two of the denominator."""
    jobs = [replace(JOB, hash="x", trials=(0, 2)), replace(JOB, hash="y", trials=(1,))]
    assert [(row["trial"], row["job"]) for row in rows(ledger_text(jobs))] == [("0", "x"), ("1", "y"), ("2", "x")]


def test_values_come_from_results(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path)
    assert finished_value(JOB, folder.run(JOB.hash), "test", "dice") is None
    for time in ("2026-01-01_00-00-00", "2026-01-02_00-00-00"):
        publish(folder.job(JOB.hash) / time / "config.yaml", "")
    run = folder.run(JOB.hash)
    assert run is not None and run.root.name == "2026-01-02_00-00-00"
    assert finished_value(JOB, run, "test", "dice") is None
    scores = '"test": {"dice": {"value": null, "status": "n/a"}, "dice_spine": {"value": 0.75}}'
    publish(run.results, f'{{"format": "results 1", "splits": {{{scores}}}}}')
    done = finished_value(JOB, run, "test", "dice_spine")
    assert done is not None and (done.state, done.value) == ("done", 0.75)
    assert finished_value(JOB, run, "val", "dice_spine") is None
    for metric, said in (("dice", "is n/a for this model"), ("dicee", "is not there")):
        failed = finished_value(JOB, run, "test", metric)
        assert failed is not None and failed.state == "failed" and failed.error is not None
        assert said in failed.error and "there: dice_spine" in failed.error
