"""A study's folder as its tables take it: what was asked, what became of each job, and the runs behind them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from spineseg.errors import DataError
from spineseg.reporting.cells import Cell, frames
from spineseg.reporting.runs import ScoredRun, Table, is_scored, load_run
from spineseg.studies.folder import STUDY, Job, StudyFolder

# Labels in which the jobs of one arm differ.
REPEATS = ("seed", "fold")


@dataclass(frozen=True, eq=False)
class StudyResults:
    """A study on disk.

    Attributes:
        folder: where it lies.
        name: of the study.
        question: that it answers, one line.
        metric: name of ``results.json`` that jobs are judged by.
        split: that is scored.
        baseline: factor → label that differences are taken to.
        search: of a search: sampler, space, …; None for a matrix.
        jobs: in the order of the plan, failed and unfinished ones too.
    """

    folder: StudyFolder
    name: str
    question: str
    metric: str
    split: str
    baseline: Mapping[str, str]
    search: Mapping[str, Any] | None
    jobs: tuple[Job, ...]

    @cached_property
    def runs(self) -> Mapping[str, ScoredRun]:
        """Job → its scored run, for jobs that are done."""
        return {job.hash: self._run(job) for job in self.jobs if job.state == "done"}

    @property
    def simulated(self) -> bool:
        """Whether any of the data was made by ``simulate``; jobs that never came to an end know it, too."""
        return any(job.simulated for job in self.jobs)

    def _run(self, job: Job) -> ScoredRun:
        run = self.folder.run(job.hash)
        if run is None:
            raise DataError(
                f"{self.folder.job(job.hash)}: this job is said to be done, but has no run folder; "
                f"remove it and go on with `{STUDY} +study={self.name}`"
            )
        if not is_scored(run.root, split=self.split):
            raise DataError(
                f"{run.root}: its split '{self.split}' was not evaluated; score it with "
                f"`python -m spineseg.train resume={run.root} score_splits=[{self.split}]`"
            )
        return replace(load_run(run.root, split=self.split), seed=job.labels.get("seed"), fold=job.labels.get("fold"))


def read_study(root: Path) -> StudyResults:
    """Read a study's folder; jobs that are not done are in it, too, and those of an earlier plan are not.

    Raises:
        DataError: no study there, or a damaged one.
        FormatError: of another version.
    """
    folder = StudyFolder(root)
    content = folder.read_study()
    plan = set(folder.plan())
    try:
        study, search = content, content.get("search")
        return StudyResults(
            folder=folder,
            name=str(study["name"]),
            question=str(study["question"]),
            metric=str((search or {}).get("metric") or study["metric"]),
            split=str(study.get("split") or ("test" if search is None else "val")),
            baseline={str(key): str(label) for key, label in study["baseline"].items()},
            search=search,
            jobs=tuple(job for job in folder.all_jobs() if search is not None or job.hash in plan),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{folder.study}: a damaged entry ({error!r}); `{STUDY}` writes it") from error


def factors(job: Job) -> dict[str, str]:
    """Recipe and axes of a job: its labels but for seed and fold."""
    return {name: str(label) for name, label in job.labels.items() if name not in REPEATS}


def group_jobs(jobs: Sequence[Job]) -> dict[tuple[str, ...], list[Job]]:
    """Jobs that differ in seed and fold only, by the labels that they share."""
    groups: dict[tuple[str, ...], list[Job]] = {}
    for job in jobs:
        groups.setdefault(tuple(factors(job).values()), []).append(job)
    return groups


def study_table(
    study: StudyResults, name: str, what: str, rows: Sequence[Mapping[str, Cell]], notes: Sequence[str]
) -> Table:
    """A table of a study; its caption says SIMULATED where any data is."""
    texts, numbers = frames(rows)
    simulated = "SIMULATED data. " if study.simulated else ""
    return Table(name, f"{simulated}{what}", texts, tuple(notes), values=numbers)
