import io
from dataclasses import replace
from pathlib import Path

import pytest

from spineseg.studies.board import Board
from spineseg.studies.estimate import Cost, epochs_left, estimate, known_costs
from spineseg.studies.folder import Job, StudyFolder, publish

JOB = Job("a", {"recipe": "yolo_csi", "seed": 0, "fold": 0}, (), False, "d", "s", epochs=10)
COSTS = {"yolo_csi": Cost(60.0, 1000, "a finished job")}


def test_time_goes_with_epochs_and_workers() -> None:
    jobs = [replace(JOB, hash=name, epochs=epochs) for name, epochs in (("a", 10), ("b", 20), ("c", 30))]
    alone = estimate(jobs, COSTS, 1, {})
    assert (alone.jobs, alone.seconds, alone.disk_bytes) == (3, 3600.0, 3000)
    assert estimate(jobs, COSTS, 2, {}).seconds == 1800.0
    assert estimate(jobs, COSTS, 9, {}).seconds == 1800.0, "no shorter than the longest job"
    assert estimate(jobs, COSTS, 1, {"c": 5}).seconds == 2100.0
    done = [replace(job, state="done") for job in jobs]
    assert estimate(done, COSTS, 1, {}).seconds == 0.0


def test_what_is_unknown_is_said() -> None:
    found = estimate([JOB, replace(JOB, labels={"recipe": "unet_csi"})], COSTS, 1, {})
    assert found.seconds is None and found.disk_bytes is None and found.unknown == ("unet_csi",)


def test_costs_come_from_finished_jobs_else_from_single_runs(tmp_path: Path) -> None:
    folder, runs = StudyFolder(tmp_path / "study"), tmp_path / "runs"
    assert known_costs(folder, [JOB], runs) == {}
    run = runs / "csi2014" / "yolo_csi" / "2026-01-01_00-00-00"
    publish(run / "config.yaml", "format: config 1\ntrainer: {max_epochs: 5}\n")
    publish(run / "results.json", '{"format": "results 1", "cost": {"fit_seconds": 100}}')
    (found,) = known_costs(folder, [JOB], runs).values()
    assert found.seconds_an_epoch == 20.0 and "single run" in found.source
    done = replace(JOB, state="done", seconds=70.0)
    folder.write_job(done)
    publish(folder.job("a") / "weights", "x" * 5000)
    (found,) = known_costs(folder, [done, replace(JOB, hash="b")], runs).values()
    assert found.seconds_an_epoch == 7.0 and found.disk_bytes > 5000 and found.source == "1 finished job of yolo_csi"


def test_epochs_left_follow_the_log(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path)
    assert epochs_left(None, 10) == 10
    publish(folder.job("a") / "2026" / "config.yaml", "")
    publish(folder.job("a") / "2026" / "log.csv", "step,epoch,name,value\n1,0,x,1\n9,6,x,1\n9,6")
    assert epochs_left(folder.run("a"), 10) == 4


def test_a_line_a_change_without_a_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = StudyFolder(tmp_path)
    folder.write_job(JOB)
    with Board(folder, "title", 2, 1, tmp_path, JOB) as board:
        for job in (replace(JOB, state="running"), replace(JOB, state="done", value=0.5, seconds=100.0)):
            board._look()
            folder.write_job(job)
            board._look()
            board._look()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["running", "done"]
    assert "0.5000" in lines[1] and "1 of 2, about 1 min 40 s left" in lines[1]


def test_the_live_table_names_failures_first(tmp_path: Path) -> None:
    from rich.console import Console

    folder = StudyFolder(tmp_path)
    jobs = [replace(JOB, hash=f"{number:03d}", state="done", value=0.5) for number in range(40)]
    jobs.append(replace(JOB, hash="bad", state="failed", error="case7: no such scan"))
    stream = io.StringIO()
    Console(file=stream, width=200).print(Board(folder, "title", 50, 1, tmp_path)._table(jobs))
    text = stream.getvalue()
    assert "case7: no such scan" in text and "and 17 more, in study.csv" in text and "41 of 50" in text
