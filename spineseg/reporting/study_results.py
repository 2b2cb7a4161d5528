"""A study's folder as its tables take it: what was asked, what became of each job, and the runs behind them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from spineseg.errors import DataError
from spineseg.reporting.captions import caption_of, facts_of_table
from spineseg.reporting.cells import Cell, approximate, frames
from spineseg.reporting.runs import ScoredRun, Table, is_scored, load_run
from spineseg.reporting.standing import warnings_of, why_untested
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
        """Job → its scored run, for jobs that are done; its recipe is what distinguishes the job's arm."""
        names = arm_names(self.jobs) if self.search is None else trial_names(self.jobs)
        return {job.hash: self._run(job, names[job.hash]) for job in self.jobs if job.state == "done"}

    @cached_property
    def telling(self) -> tuple[ScoredRun, ...]:
        """Runs that say what the tables are of: all of a matrix; of a search one that is still there, if any."""
        if self.search is None:
            return tuple(self.runs.values())
        for job in self.jobs:
            run = self.folder.run(job.hash) if job.state == "done" else None
            if run is not None and is_scored(run.root, split=self.split):
                return (load_run(run.root, split=self.split),)
        return ()

    @property
    def simulated(self) -> bool:
        """Whether any of the data was made by ``simulate``; jobs that never came to an end know it, too."""
        return any(job.simulated for job in self.jobs)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What stands on each of its tables and figures."""
        return warnings_of(self.telling, simulated=self.simulated)

    @property
    def untested(self) -> str | None:
        """Why nothing of it is tested; None where tests are allowed."""
        return why_untested(self.telling, simulated=self.simulated)

    def _run(self, job: Job, recipe: str) -> ScoredRun:
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
        loaded = load_run(run.root, split=self.split)
        return replace(loaded, recipe=recipe, seed=job.labels.get("seed"), fold=job.labels.get("fold"))


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


def shown_factors(arms: Sequence[Mapping[str, str]]) -> tuple[str, ...]:
    """Factors in whose labels arms differ; of one arm alone, the recipe."""
    return tuple(name for name in arms[0] if len({arm[name] for arm in arms}) > 1) or ("recipe",)


def arm_names(jobs: Sequence[Job]) -> dict[str, str]:
    """Job → the name of its arm: the labels that tell the arms apart, those of axes behind the axis's name."""
    arms = {job.hash: factors(job) for job in jobs}
    shown = shown_factors(list(arms.values()))
    return {
        name: ", ".join(arm[factor] if factor == "recipe" else f"{factor} {arm[factor]}" for factor in shown)
        for name, arm in arms.items()
    }


def trial_names(jobs: Sequence[Job]) -> dict[str, str]:
    """Job of a search → the numbers of the trials that it is."""
    return {job.hash: f"trial {', '.join(map(str, job.trials))}" for job in jobs}


def group_jobs(jobs: Sequence[Job]) -> dict[tuple[str, ...], list[Job]]:
    """Jobs that differ in seed and fold only, by the labels that they share."""
    groups: dict[tuple[str, ...], list[Job]] = {}
    for job in jobs:
        groups.setdefault(tuple(factors(job).values()), []).append(job)
    return groups


def study_table(
    study: StudyResults, name: str, what: str, rows: Sequence[Mapping[str, Cell]], notes: Sequence[str]
) -> Table:
    """A table of a study, with the caption, the notes and the constant columns that all tables of a report have."""
    texts, numbers = frames(rows)
    said = (*notes, *approximate(rows))
    caption = caption_of(study.telling, what, simulated=study.simulated)
    facts = facts_of_table(study.telling, simulated=study.simulated) | {"split": study.split}
    return Table(name, caption, texts, said, values=numbers, facts=facts)
