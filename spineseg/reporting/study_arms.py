"""The arms of a study: jobs that differ in seed and fold only, and how far each lies from its baseline (PROTOCOL 8)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import pandas as pd

from spineseg.metrics.intervals import Floats
from spineseg.metrics.means import subject_values
from spineseg.metrics.summary import MEANS, metric_rows
from spineseg.reporting.runs import ScoredRun
from spineseg.reporting.statistics import (
    PairedComparison,
    beyond_rerun_noise,
    holm_of_pairs,
    paired_comparison,
    sd_of_seeds,
    sd_of_subjects,
    why_not_tested,
)
from spineseg.reporting.study_results import StudyResults, factors, group_jobs
from spineseg.studies.folder import Job

# PROTOCOL 8.6: all else is secondary, and not tested.
PRIMARY: Final = ("dice", "id_case")
# `id` is tested on per-subject rates (PROTOCOL 8.6).
PER_SUBJECT: Final = {"id": "id_case"}
SUBJECT_METRICS: Final = tuple(mean.name for mean in MEANS)
# Bounded metrics in which a subject that nobody predicted scores 0; an error or a distance has no such value.
WORST_IS_ZERO: Final = tuple(name for name in SUBJECT_METRICS if not name.startswith("error_"))


@dataclass(frozen=True, eq=False)
class Arm:
    """One row of a study's table.

    Attributes:
        labels: recipe and axes → label.
        jobs: all of its seeds and folds, whatever became of them.
        runs: those that are done, by job.
        people: fold → the subjects that it tests, as far as any run of the recipe knows.
    """

    labels: Mapping[str, str]
    jobs: tuple[Job, ...]
    runs: Mapping[str, ScoredRun]
    people: Mapping[int, tuple[str, ...]]

    @property
    def done(self) -> int:
        """Jobs that are."""
        return sum(job.state == "done" for job in self.jobs)

    @property
    def failed(self) -> int:
        """Jobs that ended without a value."""
        return sum(job.state == "failed" for job in self.jobs)

    @cached_property
    def seeds(self) -> tuple[int, ...]:
        """Seeds with a job that is done."""
        return tuple(sorted({int(job.labels["seed"]) for job in self.jobs if job.state == "done"}))

    def values(self, metric: str, *, failures: bool = False) -> pd.DataFrame:
        """Values (subjects, seeds) of a mean of ``results.json``; NaN where a job is missing or nothing applies.

        Args:
            metric: of ``SUBJECT_METRICS``.
            failures: whether the subjects of a failed job score 0 (PROTOCOL 8.9); else they have no value.
        """
        mean = next(mean for mean in MEANS if mean.name == metric)
        cells: dict[int, dict[str, float]] = {}
        for job in self.jobs:
            cell = cells.setdefault(int(job.labels["seed"]), {})
            run = self.runs.get(job.hash)
            if run is not None:
                if run.summary["metrics"].get(metric, {"value": None})["value"] is None:
                    continue
                cell |= subject_values(metric_rows(run.metrics, mean.metric, mean.parameter, statuses=mean.statuses))
            elif failures and job.state == "failed" and metric in WORST_IS_ZERO:
                cell |= dict.fromkeys(self.people.get(int(job.labels["fold"]), ()), 0.0)
        return pd.DataFrame(cells, dtype=np.float64).sort_index().dropna(how="all")

    def subjects(self, metric: str) -> dict[str, float]:
        """Subject → mean over its seeds."""
        return {str(subject): float(value) for subject, value in self.values(metric).mean(axis=1).items()}

    def sd_seed(self, metric: str) -> float | None:
        """Rerun noise, over the subjects that every seed has; None for one seed."""
        whole = _array(self.values(metric).dropna())
        return sd_of_seeds(whole) if len(whole) else None

    def sd_subject(self, metric: str) -> float | None:
        """Standard deviation over subjects of their means over seeds; None for one subject."""
        means = np.array(list(self.subjects(metric).values()))[:, None]
        return sd_of_subjects(means) if len(means) else None


@dataclass(frozen=True)
class Delta:
    """An arm against its baseline on the subjects that both have.

    Attributes:
        arm: index of the arm.
        base: index of its baseline.
        found: the paired comparison, arm minus baseline.
        p: corrected over the deltas of the study (Holm); None where PROTOCOL 8 allows no test.
        beyond_noise: whether the difference exceeds what a rerun moves (PROTOCOL 8.7); None where seeds are too few.
    """

    arm: int
    base: int
    found: PairedComparison
    p: float | None
    beyond_noise: bool | None


def arms_of(study: StudyResults) -> list[Arm]:
    """The arms of a matrix in the ledger's order."""
    people = _people(study)
    arms = []
    for jobs in group_jobs(study.jobs).values():
        labels = factors(jobs[0])
        runs = {job.hash: study.runs[job.hash] for job in jobs if job.hash in study.runs}
        arms.append(Arm(labels, tuple(jobs), runs, people.get(labels["recipe"], {})))
    return arms


def baseline_of(arm: Arm, arms: Sequence[Arm], baseline: Mapping[str, str]) -> int | None:
    """Index of the arm that an arm is compared with: its own labels, with those of the baseline put in.

    None for a baseline itself, and where the study left that combination out.
    """
    wanted = {**arm.labels, **baseline}
    if wanted == dict(arm.labels):
        return None
    return next((index for index, other in enumerate(arms) if dict(other.labels) == wanted), None)


def deltas(
    arms: Sequence[Arm], baseline: Mapping[str, str], metric: str, *, simulated: bool
) -> tuple[list[Delta], str]:
    """Each arm against its baseline, and why there is no test where there is none (else an empty text)."""
    metric = PER_SUBJECT.get(metric, metric)
    if not baseline or metric not in SUBJECT_METRICS:
        return [], "" if not baseline else f"{metric} is pooled over subjects: no paired differences"
    pairs = [(index, baseline_of(arm, arms, baseline)) for index, arm in enumerate(arms)]
    compared: list[tuple[int, int, PairedComparison]] = []
    reasons = set()
    family = len({index for pair in pairs if pair[1] is not None for index in pair})
    for index, base in pairs:
        if base is None:
            continue
        first, second = arms[index].subjects(metric), arms[base].subjects(metric)
        both = sorted(first.keys() & second.keys())
        reason = why_not_tested(len(both), family, simulated=simulated)
        if metric not in PRIMARY:
            reason = reason or f"{metric} is a secondary endpoint"
        # A test of what is left after failures would leave them out of the denominator.
        if arms[index].done < len(arms[index].jobs) or arms[base].done < len(arms[base].jobs):
            reason = reason or "jobs are missing"
        reasons |= {reason} - {None}
        ours, theirs = (np.array([values[subject] for subject in both]) for values in (first, second))
        compared.append((index, base, paired_comparison(ours, theirs, test=reason is None)))
    corrected = holm_of_pairs({(str(index), str(base)): found.p for index, base, found in compared})
    made = [
        Delta(index, base, found, corrected[str(index), str(base)], _beyond(arms[index], arms[base], metric, found))
        for index, base, found in compared
    ]
    return made, "; ".join(sorted(map(str, reasons)))


def _beyond(arm: Arm, base: Arm, metric: str, found: PairedComparison) -> bool | None:
    counts = (len(arm.seeds), len(base.seeds))
    if min(counts) < 3:
        return None
    return beyond_rerun_noise(found.mean, (arm.sd_seed(metric), base.sd_seed(metric)), counts)


def _people(study: StudyResults) -> dict[str, dict[int, tuple[str, ...]]]:
    """Recipe → fold → the subjects that it tests, learnt from the runs that are done."""
    known: dict[str, dict[int, tuple[str, ...]]] = {}
    for job in study.jobs:
        run = study.runs.get(job.hash)
        if run is not None:
            subjects = tuple(sorted(map(str, run.summary["subjects"])))
            known.setdefault(str(job.labels["recipe"]), {})[int(job.labels["fold"])] = subjects
    return known


def _array(values: pd.DataFrame) -> Floats:
    return values.to_numpy(np.float64)
