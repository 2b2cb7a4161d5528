"""A worker's part in a search: adopt what a dead worker left, ask for the next trial, run it, tell its value."""

import functools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spineseg.studies.folder import Job
from spineseg.studies.identity import DataIdentities
from spineseg.studies.leases import held
from spineseg.studies.matrix import JobSpec
from spineseg.studies.planning import make_job
from spineseg.studies.pruning import Watch
from spineseg.studies.search import JOB, Trials, override

if TYPE_CHECKING:
    from spineseg.studies.workers import Worker


class Searcher:
    """Searches with others, on one journal.

    Args:
        worker: runs the jobs.
    """

    def __init__(self, worker: "Worker") -> None:
        self._worker, self._folder = worker, worker.folder
        self._spec = worker.asked["search"]
        self._trials = Trials(worker.folder, self._spec)
        self._identities = DataIdentities()

    def steps(self) -> Iterator[bool]:
        """Whether something was done, again and again; ends when all trials are over."""
        while True:
            left = [trial for trial in self._trials.open() if trial[1] not in self._worker.interrupted]
            # A job that is somebody else's is asked for again later; a new trial is only begun where none is free.
            if any(self._attempt(number, name) for number, name in left) or self._begin():
                yield True
            elif left:
                yield False
            else:
                return

    def _begin(self) -> bool:
        """Ask for a trial and write its job down; whoever comes first runs it."""
        with held(self._worker.observer, self._folder.root / "asking"):
            trial = self._trials.ask()
            if trial is None:
                return False
            job = self._job(trial.params)
            self._folder.add_job(job)
            trial.set_user_attr(JOB, job.hash)
            return True

    def _attempt(self, number: int, name: str) -> bool:
        if self._spec["pruner"] is None:
            return self._worker.attempt(name, after=functools.partial(self._tell, number))
        trial, log = self._trials.adopt(number), functools.partial(self._log, name)
        watch = Watch(trial, log, self._spec["monitor"], self._spec["direction"])
        return self._worker.attempt(name, watch, functools.partial(self._tell, number))

    def _tell(self, number: int, job: Job) -> None:
        # A failed trial that is tried again has the same job; it counts once, under its new number.
        numbers = tuple(sorted({*job.trials, number} - {self._trials.replaced_by(number)}))
        if numbers != job.trials:
            job = replace(job, trials=numbers)
            self._folder.write_job(job)
            self._folder.write_ledger()
        self._trials.tell(number, job)

    def _log(self, name: str) -> Path | None:
        run = self._folder.run(name)
        return None if run is None else run.log

    def _job(self, params: dict[str, Any]) -> Job:
        base = self._worker.asked["base"]
        drawn = [override(name, value) for name, value in params.items()]
        labels = {"recipe": base["labels"]["recipe"], **params, **base["labels"]}
        spec = JobSpec(labels, (*base["overrides"], *drawn))
        return make_job(spec, self._worker.settings.places, self._worker.asked["preset"], self._identities)
