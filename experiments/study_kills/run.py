"""Kill studies, let jobs fail and crash, kill a worker of a search, and look what is left. See README.md."""

import argparse
import csv
import os
import platform
import random
import re
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from spineseg import __version__
from spineseg.studies.folder import Job, StudyFolder
from spineseg.studies.processes import JOB_VARIABLE
from spineseg.studies.search import Trials

HERE: Final = Path(__file__).parent
STUB: Final = HERE.parent.parent / "tests" / "studies" / "stub_train.py"
# A YOLOv8n from scratch, one epoch of two batches of four small slices; validation of some slices, scores of a subject.
TINY: Final = (
    "trainer=cpu",
    "data.pixel_mm=4",
    "data.image_size=[64,64]",
    "data.batch_size=4",
    "data.epoch_slices=8",
    "data.workers=0",
    "data.validation_step_mm=30",
    "trainer.max_epochs=1",
    "trainer.check_val_every_n_epoch=1",
    "callbacks.panels=null",
    "logger.wandb=null",
)
# What differs between two studies that were asked the same.
COSTS: Final = ("seconds", "attempts")


@dataclass(frozen=True)
class Check:
    """One line of the table."""

    part: str
    what: str
    expected: str
    found: str

    @property
    def holds(self) -> bool:
        """Whether what was found is what was expected."""
        return self.expected == self.found


class Studies:
    """Starts studies in a working folder.

    Args:
        work: the folder.
        real: whether jobs are trainings; else a script that stands in for them.
        root: the scans.
    """

    def __init__(self, work: Path, *, real: bool, root: Path) -> None:
        self.work, self.real, self._root = work, real, root
        work.mkdir(parents=True, exist_ok=True)

    def folder(self, name: str) -> StudyFolder:
        """A study's folder."""
        return StudyFolder(self.work / "runs" / "studies" / name)

    def start(self, name: str, *more: str) -> "subprocess.Popen[bytes]":
        """Start a study, or go on with it."""
        common = [f"data.source.root={self._root}", *(TINY if self.real else ())]
        listed = ",".join(f"'{each}'" for each in common)
        given = [
            f"study.name={name}",
            "study.question=What is left after a kill?",
            "study.recipes=[yolo_csi]",
            "study.preset=quick",
            "study.metric=mask_map50" if self.real else "study.metric=dice",
            f"study.overrides=[{listed}]",
            f"paths.prepared={self.work / 'prepared'}",
            f"paths.runs={self.work / 'runs'}",
        ]
        given += [] if self.real else [f"study.command=['{sys.executable}','{STUB}']"]
        log = self.work / f"{name}.txt"
        environment = {**os.environ, "STUB_LOG": str(self.stub_log(name)), "STUB_STEP_S": "0.5"}
        environment["STUB_MENDED"] = str(self.mended)
        with log.open("ab") as stream:
            line = [sys.executable, "-m", "spineseg.study", *given, *more]
            return subprocess.Popen(line, stdout=stream, stderr=subprocess.STDOUT, env=environment)

    @property
    def mended(self) -> Path:
        """While this file is there, nothing ails the stub's jobs."""
        return self.work / "mended"

    def stub_log(self, name: str) -> Path:
        """Where the stub's jobs of a study say that they start and end."""
        return self.work / f"{name}_stub.log"

    def run(self, name: str, *more: str) -> int:
        """Run a study to its end; returns the exit code."""
        return self.start(name, *more).wait()

    def ends(self, name: str) -> Counter[str]:
        """How often each job of a study has come to its scores."""
        folder, found = self.folder(name), Counter[str]()
        if not self.real:
            lines = map(str.split, self.stub_log(name).read_text().splitlines())
            return Counter(job for kind, job in lines if kind == "end")
        for path in folder.jobs.glob("*/output.txt"):
            scored = re.findall(r"^(?:val|test): .* → .*results\.json$", path.read_text(), re.MULTILINE)
            found[path.parent.name] += len(scored)
        return found


def rows(folder: StudyFolder) -> list[dict[str, str]]:
    """The ledger."""
    with folder.ledger.open(encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def without_costs(found: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """The rows without what a kill may change."""
    return [{name: value for name, value in row.items() if name not in COSTS} for row in found]


def kills(studies: Studies, rng: random.Random) -> list[Check]:
    """Twelve jobs, three kills at random instants; beside a study of the same jobs that was left alone."""
    part, seeds = "12 jobs, three SIGKILLs", "study.seeds=[0,1,2,3,4,5]"
    more = [seeds, axis("momentum", {"low": "optim.momentum=0.9", "high": "optim.momentum=0.95"})]
    codes = [studies.run("undisturbed", *more)]
    if codes != [0]:
        sys.exit(f"the undisturbed study has failed; see {studies.work / 'undisturbed.txt'}")
    job_s = statistics.median(float(row["seconds"]) for row in rows(studies.folder("undisturbed")))
    killed, folder = 0, studies.folder("killed")
    for first, last in ((0, 3), (4, 7), (8, 10)):  # jobs that are done by then, so that none comes too late
        after, wait = rng.randint(first, last), rng.uniform(0.0, job_s)
        print(f"kill {killed + 1}: {wait:.1f} s after {after} of 12 jobs", flush=True)
        study = studies.start("killed", *more)
        while study.poll() is None and (len(known(folder)) < 12 or done_of(folder) < after):
            time.sleep(0.05)
        time.sleep(wait)
        killed += study.poll() is None
        study.kill()
        study.wait()
    codes.append(studies.run("killed", *more))
    left, right = rows(studies.folder("undisturbed")), rows(studies.folder("killed"))
    ends = studies.ends("killed")
    return [
        Check(part, "kills while it ran", "3", str(killed)),
        Check(part, "exit codes, undisturbed and killed", "[0, 0]", str(codes)),
        Check(part, "results", "12", str(sum(row["state"] == "done" for row in right))),
        Check(part, "jobs that came to their end more than once", "0", str(sum(count > 1 for count in ends.values()))),
        Check(part, "ends", "12", str(ends.total())),
        Check(
            part,
            "the two tables, but for seconds and attempts, are one",
            "yes",
            yes(without_costs(left) == without_costs(right)),
        ),
    ]


def failures(studies: Studies) -> list[Check]:
    """One job that fails and one that is killed by somebody, beside two that do not; then `retry=failed`."""
    part, folder = "one failing, one crashing job", studies.folder("failures")
    failing, crashing = ("model.weights=nowhere.pt", "0.91") if studies.real else ("optim.momentum=0.11", "0.13")
    kinds = {"good": "optim.momentum=0.9", "failing": failing, "crashing": f"optim.momentum={crashing}"}
    kinds["fine"] = "optim.momentum=0.95"
    axes = axis("kind", kinds)
    study = studies.start("failures", axes)
    if studies.real:
        crash(folder, study)
    codes = [study.wait()]
    first = {row["kind"]: row for row in rows(folder)}
    studies.mended.touch()  # what ailed the stub's jobs; the training's missing weights stay missing
    codes.append(studies.run("failures", axes, "retry=failed"))
    second = {row["kind"]: row for row in rows(folder)}
    again = [name for name in kinds if second[name]["attempts"] != first[name]["attempts"]]
    last = "done failed done done" if studies.real else "done done done done"
    return [
        Check(part, "exit codes, first and with retry=failed", f"[1, {int(studies.real)}]", str(codes)),
        Check(part, "states at first", "done failed failed done", states(first, kinds)),
        Check(part, "cause of the crash", "killed by signal 9 (SIGKILL)", first["crashing"]["error"]),
        Check(part, "cause of the failure", "named", "named" if first["failing"]["error"] else "missing"),
        Check(part, "run again by retry=failed", "['failing', 'crashing']", str(again)),
        Check(part, "states after it", last, states(second, kinds)),
    ]


def search(studies: Studies, rng: random.Random) -> list[Check]:
    """Twenty trials by two workers, one of which is killed; then thirty."""
    part, folder = "a search by two workers, one killed", studies.folder("search")
    space = "++search.space={optim.lr0: {low: 0.001, high: 0.1, log: true}, optim.momentum: {low: 0.8, high: 0.99}}"
    more = ["study.split=val", "search.sampler=tpe", space, "launcher=joblib", "workers=2"]
    study = studies.start("search", *more, "trials=20")
    after = rng.randint(4, 10)
    while study.poll() is None and done_of(folder) < after:
        time.sleep(0.1)
    workers = [each for each in psutil.Process(study.pid).children() if "spineseg.studies.workers" in each.cmdline()]
    victim = workers[rng.randrange(len(workers))]
    print(f"a worker is killed after {after} trials", flush=True)
    victim.kill()
    codes = [study.wait()]
    twenty = trials_of(folder)
    codes.append(studies.run("search", *more, "trials=30"))
    thirty = trials_of(folder)
    ends = studies.ends("search")
    return [
        Check(part, "workers at work when one was killed", "2", str(len(workers))),
        # The ledger is whole, but a worker is missing: that is said, and the exit code is not 0.
        Check(part, "exit codes, trials=20 and trials=30", "[1, 0]", str(codes)),
        Check(part, "finished trials", "20", str(len(twenty))),
        Check(part, "jobs of these", "20", str(len({job for job, _ in twenty.values()}))),
        Check(part, "finished trials with trials=30", "30", str(len(thirty))),
        Check(part, "of these the first twenty as before", "yes", yes(twenty.items() <= thirty.items())),
        Check(part, "jobs that came to their end more than once", "0", str(sum(count > 1 for count in ends.values()))),
        Check(part, "rows of the ledger", "30", str(len(rows(folder)))),
    ]


def axis(name: str, labels: Mapping[str, str]) -> str:
    """One factor on the command line."""
    levels = ", ".join(f"{label}: ['{each}']" for label, each in labels.items())
    return f"++study.axes={{{name}: {{{levels}}}}}"


def crash(folder: StudyFolder, study: "subprocess.Popen[bytes]") -> None:
    """Kill the process of the job that is to crash, while it trains."""
    while study.poll() is None:
        for job in known(folder):
            if job.labels["kind"] == "crashing" and job.state == "running" and folder.run(job.hash) is not None:
                for process in psutil.process_iter():
                    try:
                        if process.environ().get(JOB_VARIABLE, "").endswith(job.hash):
                            process.kill()
                            return
                    except psutil.Error:
                        continue
        time.sleep(0.05)


def known(folder: StudyFolder) -> list[Job]:
    """The jobs so far."""
    return folder.all_jobs() if folder.study.is_file() else []


def done_of(folder: StudyFolder) -> int:
    """How many jobs are done."""
    return sum(job.state == "done" for job in known(folder))


def trials_of(folder: StudyFolder) -> dict[int, tuple[str, float]]:
    """Job and value of each finished trial."""
    trials = Trials(folder, folder.read_study()["search"]).all()
    return {trial.number: (trial.user_attrs["job"], trial.value) for trial in trials if trial.value is not None}


def states(found: dict[str, dict[str, str]], kinds: Iterable[str]) -> str:
    """The states of the jobs in the order of their labels."""
    return " ".join(found[name]["state"] for name in kinds)


def yes(found: bool) -> str:
    """In words."""
    return "yes" if found else "no"


def write(checks: Sequence[Check], *, real: bool, seconds: float) -> None:
    """The table: `table.md` of trainings, `table_stub.md` of the script that stands in for them."""
    kind = "trainings on simulated scans" if real else "jobs of a script that stands in for the training"
    held = sum(check.holds for check in checks)
    lines = [f"{held} of {len(checks)} as expected; {kind}.", ""]
    lines += [
        f"spineseg {__version__}, Python {platform.python_version()}, {os.cpu_count()} cores, {seconds:.0f} s.",
        "",
    ]
    lines += ["| part | what | expected | found | |", "|---|---|---|---|---|"]
    lines += [f"| {c.part} | {c.what} | {c.expected} | {c.found} | {'' if c.holds else '**no**'} |" for c in checks]
    (HERE / ("table.md" if real else "table_stub.md")).write_text("\n".join(lines) + "\n")


def main() -> None:
    """Do all three and write the table; exit code 1 where something is not as expected."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("runs/study_kills"))
    parser.add_argument(
        "--root", type=Path, default=Path("data/simulated/csi2014"), help="scans, as simulate makes them"
    )
    parser.add_argument("--stub", action="store_true", help="a script in place of the training")
    parser.add_argument("--parts", nargs="+", default=["kills", "failures", "search"])
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if given.work.exists():
        sys.exit(f"{given.work} is there; the kills need a new folder")
    studies = Studies(given.work.absolute(), real=not given.stub, root=given.root.absolute())
    rng, started, checks = random.Random(given.seed), time.monotonic(), list[Check]()
    if "kills" in given.parts:
        checks += kills(studies, rng)
    if "failures" in given.parts:
        checks += failures(studies)
    if "search" in given.parts:
        checks += search(studies, rng)
    for check in checks:
        print(
            f"{'ok ' if check.holds else 'NO '} {check.part}: {check.what}: {check.found} (expected {check.expected})"
        )
    if len(given.parts) == 3:
        write(checks, real=studies.real, seconds=time.monotonic() - started)
    sys.exit(not all(check.holds for check in checks))


if __name__ == "__main__":
    main()
