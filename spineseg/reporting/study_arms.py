"""The arms of a study: jobs that differ in seed and fold only, and how far each lies from its baseline (PROTOCOL 8)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd

from spineseg.metrics.intervals import Floats
from spineseg.metrics.means import subject_values
from spineseg.metrics.summary import MEANS, metric_rows
from spineseg.reporting.comparisons import PRIMARY
from spineseg.reporting.runs import ScoredRun
from spineseg.reporting.statistics import (
    LEAST_SEEDS,
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

# `id` is tested on per-subject rates (PROTOCOL 8.6).
PER_SUBJECT: Final = {"id": "id_case"}
SUBJECT_METRICS: Final = tuple(mean.name for mean in MEANS)
# Bounded metrics in which a subject that nobody predicted scores 0; an error or a distance has no such value.
WORST_IS_ZERO: Final = tuple(name for name in SUBJECT_METRICS if not name.startswith("error_"))
# Data and fold → the subjects that it tests, whatever the recipe.
People = Mapping[tuple[str, int], tuple[str, ...]]


@dataclass(frozen=True, eq=False)
class Arm:
    """One row of a study's table.

    Attributes:
        labels: recipe and axes → label.
        jobs: all of its seeds and folds, whatever became of them.
        runs: those that are done, by job.
        people: who is tested, as far as any run of the study knows.
    """

    labels: Mapping[str, str]
    jobs: tuple[Job, ...]
    runs: Mapping[str, ScoredRun]
    people: People

    @property
    def done(self) -> int:
        """Jobs that are."""
        return sum(job.state == "done" for job in self.jobs)

    @property
    def failed(self) -> int:
        """Jobs that ended without a value."""
        return sum(job.state == "failed" for job in self.jobs)

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
                cell |= dict.fromkeys(self.people.get(_tested(job), ()), 0.0)
        return pd.DataFrame(cells, dtype=np.float64).sort_index().dropna(how="all")

    def subjects(self, metric: str) -> dict[str, float]:
        """Subject → mean over its seeds."""
        return {str(subject): float(value) for subject, value in self.values(metric).mean(axis=1).items()}

    def reruns(self, metric: str) -> Floats:
        """Values (subjects, seeds) without a hole: of seeds that have any, the subjects that all of these have."""
        return _array(self.values(metric).dropna(axis=1, how="all").dropna())

    def sd_seed(self, metric: str) -> float | None:
        """Rerun noise, over the subjects that every seed has; None for one seed."""
        whole = self.reruns(metric)
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
        beyond_noise: whether the difference exceeds what a rerun moves (PROTOCOL 8.7); None where that is not known:
            seeds are too few, or jobs are missing.
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
        arms.append(Arm(labels, tuple(jobs), runs, people))
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
    arms: Sequence[Arm], baseline: Mapping[str, str], metric: str, *, refused: str | None
) -> tuple[list[Delta], str]:
    """Each arm against its baseline, and why there is no test where there is none (else an empty text).

    Args:
        arms: of a study.
        baseline: factor → label that differences are taken to.
        metric: of the study.
        refused: why nothing may be tested, whatever the numbers; None where it may.
    """
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
        reason = refused or why_not_tested(len(both), family)
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
    sds = (arm.sd_seed(metric), base.sd_seed(metric))
    counts = (arm.reruns(metric).shape[1], base.reruns(metric).shape[1])
    # The mean of an arm with holes is of other subjects in each seed: no rerun is like the next.
    whole = all(each.done == len(each.jobs) for each in (arm, base))
    if not whole or min(counts) < LEAST_SEEDS or None in sds:
        return None
    return beyond_rerun_noise(found.mean, sds, counts)


def _people(study: StudyResults) -> People:
    """Who is tested in each fold, learnt from the runs that are done."""
    known: dict[tuple[str, int], tuple[str, ...]] = {}
    for job in study.jobs:
        run = study.runs.get(job.hash)
        if run is not None:
            known[_tested(job)] = tuple(sorted(map(str, run.summary["subjects"])))
    return known


def _tested(job: Job) -> tuple[str, int]:
    """What says who a job tests; its split's hash also holds who it trains on."""
    return job.data_hash, int(job.labels["fold"])


def _array(values: pd.DataFrame) -> Floats:
    return values.to_numpy(np.float64)
