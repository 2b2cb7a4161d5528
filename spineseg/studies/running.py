"""One job, from its lease to its row in the ledger."""

import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from spineseg.runs import Run, find_run
from spineseg.studies.folder import Job, StudyFolder, finished_value
from spineseg.studies.leases import Lease
from spineseg.studies.matrix import quoted
from spineseg.studies.processes import Ending, JobProcess, end_leftovers


@dataclass(frozen=True)
class Places:
    """This machine's: folders and hardware; none of it moves a number.

    Attributes:
        data: ``paths.data``.
        prepared: ``paths.prepared``.
        runs: ``paths.runs``, where ``init_from`` looks.
        hardware: overrides such as ``trainer=gpu``.
    """

    data: str
    prepared: str
    runs: str
    hardware: tuple[str, ...] = ()


@dataclass(frozen=True)
class Measure:
    """What a job's value is: a metric of a split of ``results.json``."""

    metric: str
    split: str


@dataclass
class Stop:
    """Whether this worker is to end, and with which exit code; set by a signal."""

    code: int | None = None


class DiskFullError(Exception):
    """Nothing can be written any more: the worker ends, and its job goes on another time."""


def take_over(folder: StudyFolder, job: Job, lease: Lease) -> Job:
    """End what a dead holder has left of a job, and count its time; the job as it is where its holder gave it back."""
    if lease.abandoned is None:
        return job
    end_leftovers(mark_of(folder, job))
    return replace(job, seconds=round(job.seconds + lease.abandoned.seconds, 1))


def mark_of(folder: StudyFolder, job: Job) -> str:
    """What the processes of a job are known by on this machine."""
    return f"{folder.root.absolute()}:{job.hash}"


@dataclass
class Runner:
    """Runs jobs of a study whose leases this process holds.

    Attributes:
        folder: the study's.
        name: of the study, for W&B.
        measure: what a job's value is.
        places: this machine's.
        command: what runs a job; None: this Python's ``-m spineseg.train``.
        stop: asked between two looks at the job.
        environment: of the jobs, beside this process's own.
        poll_s: seconds between two looks.
        beat_s: seconds between two signs of life.
        grace_s: seconds that a job has to save when it is told to end.
        tick: called at every look.
    """

    folder: StudyFolder
    name: str
    measure: Measure
    places: Places
    command: Sequence[str] | None = None
    stop: Stop = field(default_factory=Stop)
    environment: dict[str, str] = field(default_factory=dict)
    poll_s: float = 0.2
    beat_s: float = 1.0
    grace_s: float = 90.0
    tick: Callable[[], None] = lambda: None
    _current: tuple[Job, Lease, JobProcess, float] | None = None

    def run(self, job: Job, lease: Lease, pruned: Callable[[], bool] = lambda: False) -> Job:
        """Bring a job to its end, or as far as it gets, and write down what became of it.

        Args:
            job: as read after the lease was taken.
            lease: held; the caller gives it back.
            pruned: asked at every look; whether the job is to end because it leads nowhere.

        Raises:
            LeaseLostError: another process has taken it over; nothing is written then.
            DiskFullError: the disk is full.
            OSError: the study's folder cannot be written.
        """
        job = take_over(self.folder, job, lease)
        done = finished_value(job, self.folder.run(job.hash), self.measure.split, self.measure.metric)
        if done is not None and done.state == "done":  # its worker died before it could say so
            return self._write(replace(done, run=self._place_of(self.folder.run(job.hash))))
        job = self._write(replace(job, state="running", attempts=job.attempts + 1, error=None))
        self._sweep(job)
        started = time.monotonic()
        output, mark = self.folder.output(job.hash), mark_of(self.folder, job)
        process = JobProcess(self.command_of(job), output, mark, self._environment(), ours=lease.holds)
        self._current = (job, lease, process, started)
        try:
            ending = self._watch(process, lease, pruned)
        except BaseException:
            process.kill()
            raise
        finally:
            self._current = None
        lease.check()
        return self._write(self._settled(job, ending, time.monotonic() - started))

    def interrupt(self) -> None:
        """Let the job at hand save and end, from within a signal handler; it goes on another time."""
        if self._current is None:
            return
        job, lease, process, started = self._current
        self._current = None
        process.terminate(self.grace_s)
        if lease.holds():
            self._write(self._settled(job, Ending("stopped"), time.monotonic() - started))
        lease.release()

    def command_of(self, job: Job) -> list[str]:
        """What starts a job, or goes on with it."""
        base = list(self.command or (sys.executable, "-m", "spineseg.train"))
        run = self.folder.run(job.hash)
        if run is not None:
            return [
                *base,
                f"resume={quoted(run.root)}",
                f"paths.runs={quoted(self.folder.root.absolute())}",
                f"score_splits=[{self.measure.split}]",  # the study may ask for another one than when the run began
                *filter(_resumable, self.places.hardware),
            ]
        return [
            *base,
            *_absolute_ancestor(job.overrides, self.places.runs),
            *self.places.hardware,
            f"paths.data={quoted(self.places.data)}",
            f"paths.prepared={quoted(self.places.prepared)}",
            # The run's folder is <paths.runs>/<group>/<name>/<time>.
            f"paths.runs={quoted(self.folder.root.absolute())}",
            f"run.group={self.folder.jobs.name}",
            f"run.name={job.hash}",
            *self._tracking(job),
        ]

    def _tracking(self, job: Job) -> list[str]:
        """In W&B a study is a group and a job a run; nothing where W&B is left out."""
        given = (*job.overrides, *self.places.hardware)
        if any(each in ("logger.wandb=null", "~logger.wandb") for each in given):
            return []
        label = " ".join(str(value) for value in job.labels.values())
        return [f"logger.wandb.group={quoted(self.name)}", f"logger.wandb.name={quoted(f'{label} {job.hash}')}"]

    def _watch(self, process: JobProcess, lease: Lease, pruned: Callable[[], bool]) -> Ending | None:
        """How the job ended; None if it was pruned."""
        beat = time.monotonic()
        while True:
            ending = process.poll()
            if ending is not None:
                return ending
            if time.monotonic() - beat >= self.beat_s:
                lease.beat()
                beat = time.monotonic()
            if self.stop.code is not None:
                return process.terminate(self.grace_s)
            if pruned():
                process.terminate(self.grace_s)
                return None
            self.tick()
            time.sleep(self.poll_s)

    def _settled(self, job: Job, ending: Ending | None, seconds: float) -> Job:
        run = self.folder.run(job.hash)
        job = replace(job, seconds=round(job.seconds + seconds, 1), run=self._place_of(run))
        if ending is None:
            return replace(job, state="pruned")
        done = finished_value(job, run, self.measure.split, self.measure.metric)
        if done is not None:
            return done
        if ending.kind == "ended":
            return replace(
                job, state="failed", error=f"ended well, but left no results of the split {self.measure.split}"
            )
        if ending.kind == "failed":
            return replace(job, state="failed", error=ending.cause)
        job = replace(job, state="interrupted", error=ending.cause)
        if ending.kind == "full":
            self._write(job)
            raise DiskFullError(ending.cause)
        return job

    def _place_of(self, run: Run | None) -> str | None:
        return None if run is None else str(run.root.relative_to(self.folder.root))

    def _write(self, job: Job) -> Job:
        self.folder.write_job(job)
        self.folder.write_ledger()
        self.tick()
        return job

    def _sweep(self, job: Job) -> None:
        """Remove what killed attempts have left half written."""
        for path in self.folder.job(job.hash).glob(".partial-*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    def _environment(self) -> dict[str, str]:
        # Within a job of Slurm's Lightning would wait for processes that Slurm starts, and queue the job again itself.
        slurm = {"SLURM_JOB_NAME": "interactive"} if "SLURM_JOB_ID" in os.environ else {}
        return {**slurm, **self.environment}


def _resumable(override: str) -> bool:
    """Whether train takes an override beside resume=: where and how, not what."""
    from spineseg.train import HARDWARE

    key = override.lstrip("+").partition("=")[0]
    return key in ("trainer", "data.workers") or key.removeprefix("trainer.") in HARDWARE


def _absolute_ancestor(overrides: Sequence[str], runs: str) -> list[str]:
    """The overrides with the folder that ``init_from`` names: below a study, ``paths.runs`` is another."""
    found = []
    for each in overrides:
        key, _, value = each.partition("=")
        if key.lstrip("+") == "init_from" and value != "null":
            each = f"{key}={quoted(find_run(value, Path(runs)).root)}"
        found.append(each)
    return found
