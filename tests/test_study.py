"""The program ``study`` as a shell sees it; but for one, its jobs are a script that stands in for ``train``."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from spineseg.config import compose
from spineseg.errors import ConfigError
from spineseg.runs import find_run
from spineseg.studies.folder import Job, StudyFolder

STUB = Path(__file__).parent / "studies" / "stub_train.py"
# The hash gives five subjects no case in folds 0 and 1.
COMMON = ("study.name=tested", "study.question=Does it end?", "study.recipes=[yolo_csi]", "study.preset=quick")
SEEDS = "study.seeds=[0,1,2,3]"


@dataclass
class StudyUnderTest:
    """A working folder, and the command that starts a study in it."""

    work: Path
    given: list[str]

    @property
    def folder(self) -> StudyFolder:
        return StudyFolder(self.work / "runs" / "studies" / "tested")

    def start(self, *more: str, **variables: str) -> "subprocess.Popen[str]":
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "STUB_LOG": str(self.work / "stub.log"), **variables}
        environment["STUB_MENDED"] = str(self.work / "mended")
        line = [sys.executable, "-m", "spineseg.study", *COMMON, "study.folds=[2]", *self.given, *more]
        return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment, text=True)

    def run(self, *more: str, code: int = 0, **variables: str) -> str:
        process = self.start(*more, **variables)
        said, _ = process.communicate(timeout=300)
        assert process.returncode == code, said
        return said

    def notes(self, what: str) -> Counter[str]:
        """How often each job has started, resumed or ended."""
        log = self.work / "stub.log"
        lines = log.read_text().splitlines() if log.is_file() else []
        return Counter(name for kind, name in map(str.split, lines) if kind == what)

    def rows(self) -> list[dict[str, str]]:
        with self.folder.ledger.open() as stream:
            return list(csv.DictReader(stream))

    def jobs(self) -> list[Job]:
        return self.folder.all_jobs() if self.folder.study.is_file() else []


def until(condition: object, process: "subprocess.Popen[str]") -> None:
    assert callable(condition)
    deadline = time.monotonic() + 240
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
        time.sleep(0.02)


def steps(folder: StudyFolder, name: str) -> int:
    run = folder.run(name)
    file = None if run is None else run.root / "steps"
    return int(file.read_text()) if file is not None and file.is_file() else 0


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("prepared")


@pytest.fixture
def study(scans: Path, prepared: Path, tmp_path: Path) -> StudyUnderTest:
    given = [f"study.overrides=['data/source=folder','data.source.root={scans}']", f"paths.prepared={prepared}"]
    return StudyUnderTest(
        tmp_path, [*given, f"paths.runs={tmp_path / 'runs'}", f"study.command=[{sys.executable},{STUB}]"]
    )


def test_killed_it_goes_on_and_does_nothing_twice(study: StudyUnderTest) -> None:
    """SIGKILL in the second job: its training dies too, and is resumed from its last step by the next start."""
    process = study.start(SEEDS, STUB_STEP_S="0.5")
    until(lambda: any(job.state == "done" for job in study.jobs()), process)
    names = study.folder.plan()
    until(lambda: steps(study.folder, names[1]) >= 3, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert study.folder.read_job(names[1]).state == "running"
    said = study.run(SEEDS)
    assert "4 of 4 jobs done" in said
    rows = study.rows()
    assert [row["job"] for row in rows] == list(names) and {row["state"] for row in rows} == {"done"}
    assert study.notes("end") == dict.fromkeys(names, 1)
    assert study.notes("start") == dict.fromkeys(names, 1) and study.notes("resume") == {names[1]: 1}
    assert [row["attempts"] for row in rows] == ["1", "2", "1", "1"]
    assert float(rows[1]["seconds"]) > 1.0, "the killed attempt's time is lost"
    # Made again from the jobs' files alone.
    before = study.folder.ledger.read_text()
    study.folder.ledger.unlink()
    assert "4 of them settled" in study.run(SEEDS)
    assert study.folder.ledger.read_text() == before and study.notes("end").total() == 4


def test_failed_and_crashed_jobs_are_named_and_run_again_alone(study: StudyUnderTest) -> None:
    levels = "user: ['optim.momentum=0.11'], fine: [], bug: ['optim.momentum=0.12'], crash: ['optim.momentum=0.13']"
    axis = f"++study.axes={{kind: {{{levels}, empty: ['optim.momentum=0.15']}}}}"
    said = study.run(axis, code=1)
    rows = {row["kind"]: row for row in study.rows()}
    assert {kind: row["state"] for kind, row in rows.items()} == {**dict.fromkeys(rows, "failed"), "fine": "done"}
    assert rows["user"]["error"] == "case7: no such scan; put it there"
    assert rows["bug"]["error"] == "ZeroDivisionError: a bug"
    assert rows["crash"]["error"] == "killed by signal 9 (SIGKILL)"
    assert rows["empty"]["error"] == "ended well, but left no results of the split test"
    assert "1 of 5 jobs done" in said and said.count("failed: ") == 4
    assert "ZeroDivisionError: a bug" in said
    started = study.notes("start")
    study.run(axis, code=1)
    assert study.notes("start") == started and not study.notes("resume"), "failed jobs run again only when asked"
    (study.work / "mended").touch()
    assert "5 of 5 jobs done" in study.run(axis, "retry=failed")
    assert study.notes("resume") == {rows[kind]["job"]: 1 for kind in ("user", "bug", "crash", "empty")}


def test_a_full_disk_ends_the_study_and_the_job_goes_on_later(study: StudyUnderTest) -> None:
    axis = "++study.axes={kind: {full: ['optim.momentum=0.14'], fine: []}}"
    said = study.run(axis, code=1)
    assert "free some space and start the study again" in said
    assert [job.state for job in study.jobs()] == ["interrupted", "pending"]
    (study.work / "mended").touch()
    study.run(axis)
    assert {job.state for job in study.jobs()} == {"done"} and study.notes("end").total() == 2


def test_terminated_it_lets_its_job_save(study: StudyUnderTest) -> None:
    process = study.start(SEEDS, STUB_STEP_S="0.5")
    until(lambda: any(steps(study.folder, job.hash) for job in study.jobs()), process)
    process.terminate()
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 143, said
    assert study.jobs()[0].state == "interrupted" and "interrupted: " in said
    study.run(SEEDS)
    assert study.notes("end").total() == 4


def test_a_search_of_two_workers_one_of_which_is_killed(study: StudyUnderTest) -> None:
    space = "++search.space={optim.lr0: {low: 0.001, high: 0.1, log: true}}"
    search = ["launcher=joblib", "workers=2", "study.split=val", "search.sampler=random", space]
    process = study.start(*search, "trials=8", STUB_STEP_S="0.2")
    until(lambda: sum(job.state == "done" for job in study.jobs()) >= 2, process)
    children = psutil.Process(process.pid).children()  # one of them is Python's own, of the preparation
    workers = [child for child in children if "spineseg.studies.workers" in child.cmdline()]
    assert len(workers) == 2
    workers[0].kill()
    said, _ = process.communicate(timeout=240)
    assert process.returncode == 1 and "8 of 8 trials" in said and "ended with signal 9" in said
    assert study.notes("end").total() == len(study.notes("end")) == 8
    first = study.rows()
    assert [row["trial"] for row in first] == [str(number) for number in range(8)], "a trial was lost or renumbered"
    said = study.run(*search, "trials=10")
    assert "10 of 10 trials" in said and re.search(r"best: trial \d+, ", said)
    second = study.rows()
    assert second[:8] == first and len(second) == 10
    best = max(second, key=lambda row: float(row["value"]))
    assert f"best: trial {best['trial']}, {float(best['value']):.4f}, optim.lr0={best['optim.lr0']}" in said


def test_two_workers_of_submitit_on_one_study(study: StudyUnderTest) -> None:
    said = study.run(SEEDS, "launcher=submitit_local", "workers=2", STUB_STEP_S="0.3")
    assert "4 of 4 jobs done" in said
    assert study.notes("end") == dict.fromkeys(study.folder.plan(), 1)
    assert len(list((study.folder.root / "workers").glob("*/*_result.pkl"))) == 2


def test_a_preempted_worker_saves_is_queued_again_and_goes_on(study: StudyUnderTest) -> None:
    """SIGUSR1, as Slurm sends it before the time is up; submitit queues the worker again."""
    process = study.start(SEEDS, "launcher=submitit_local", "workers=1", STUB_STEP_S="0.4")
    until(lambda: any(steps(study.folder, job.hash) for job in study.jobs()), process)
    (worker,) = (
        each
        for each in psutil.Process(process.pid).children(recursive=True)
        if "submitit.core._submit" in each.cmdline()
    )
    worker.send_signal(signal.SIGUSR1)
    said, _ = process.communicate(timeout=240)
    assert process.returncode == 0, said
    names = study.folder.plan()
    assert study.notes("end") == dict.fromkeys(names, 1) and study.notes("resume").total() == 1
    assert sorted(job.attempts for job in study.jobs()) == [1, 1, 1, 2]


def plan(study: StudyUnderTest, *more: str) -> None:
    from spineseg.study import main

    main(compose("study", [*COMMON, "study.folds=[2]", *study.given, *more]))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            ["++study.axes={a: {x: ['data.workers=1'], y: ['data.workers=2']}}"],
            "are one training: they differ in nothing",
        ),
        (["workers=2"], "expected launcher=joblib"),
        (["study.name=a/b"], "expected a plain folder name"),
        (["hardware=['trainer.max_epochs=1']"], r"hardware: trainer\.max_epochs is not of the machine alone"),
        (["++search.space={optim.lr0: {low: 1, high: 2}}", "study.split=test"], "looks at test data"),
        (["++search.space={optim.lr0: {low: 1, high: 2}}", SEEDS], "a trial is one training"),
        (["study.command=null", "++study.axes={a: {x: ['+optim.lr00=1']}}"], r"optim\.lr00: .*did you mean 'lr0'"),
    ],
)
def test_mistakes_are_named_before_anything_runs(study: StudyUnderTest, more: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan(study, *more)
    assert not study.notes("start") and not list(study.folder.jobs.glob("*/2*"))


def test_without_a_name_the_studies_are_listed() -> None:
    from spineseg.study import main

    with pytest.raises(ConfigError, match=r"give \+study=<name>; there are: .*side_by_side"):
        main(compose("study", []))


TINY = (
    *("model.scale=n", "data.pixel_mm=4", "data.image_size=[64,64]", "data.batch_size=4", "data.epoch_slices=8"),
    *("data.workers=0", "trainer.max_epochs=1", "trainer.check_val_every_n_epoch=1", "callbacks.panels=null"),
)


def test_a_job_that_trains(scans: Path, prepared: Path, tmp_path: Path) -> None:
    listed = ",".join(f"'{each}'" for each in ("data/source=folder", f"data.source.root={scans}", *TINY))
    hardware = "hardware=['trainer.accelerator=cpu','trainer.precision=32-true']"
    given = [f"study.overrides=[{listed}]", "study.metric=dice_spine", hardware, f"paths.prepared={prepared}"]
    study = StudyUnderTest(tmp_path, [*given, f"paths.runs={tmp_path / 'runs'}"])
    assert "1 of 1 jobs done" in study.run()
    (job,) = study.jobs()
    run = find_run(study.folder.job(job.hash))
    assert run.root == (study.folder.root / str(job.run)).resolve()
    results = json.loads(run.results.read_text())
    assert job.value == results["splits"]["test"]["dice_spine"]["value"]
    provenance = json.loads(run.provenance.read_text())
    assert (job.data_hash, job.split_hash) == (provenance["data_hash"], provenance["split_hash"])
    assert "group: tested" in run.config.read_text() and job.epochs == 1


def test_a_summary_that_cannot_be_drawn_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What failed is told, and the exit code is that of the jobs."""
    from spineseg.loggers import study_summary
    from spineseg.study import summarise

    def broken(root: Path, figures: Path) -> bool:
        raise KeyError("flip")

    monkeypatch.setattr(study_summary, "log_study", broken)
    summarise(StudyFolder(tmp_path))
    assert "KeyError: 'flip'" in capsys.readouterr().err
