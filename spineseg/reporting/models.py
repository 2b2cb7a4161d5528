"""Seeds and folds of one model as one row: seeds averaged inside a subject, folds pooled over subjects (PROTOCOL 8)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import pandas as pd

from spineseg.errors import DataError
from spineseg.metrics.detection import Counts
from spineseg.metrics.detections_table import DetectionSet, Shape, read_detections
from spineseg.metrics.entries import NOT_APPLICABLE, Results, entry_of, statistic_entry
from spineseg.metrics.intervals import (
    BOOTSTRAP_SUBJECTS,
    RESAMPLES,
    Statistic,
    interval,
    mean_statistic,
    t_interval,
)
from spineseg.metrics.means import subject_values
from spineseg.metrics.pooling import ApPool, counts_by_subject, named_levels
from spineseg.metrics.summary import MEANS, SplitScores, ap_results, mean_of_statistics, metric_rows, summarise
from spineseg.reporting.runs import DETECTIONS, ScoredRun
from spineseg.reporting.settings import label_runs
from spineseg.reporting.statistics import sd_of_seeds, sd_of_subjects

_EVERY_SEED: Final = "none"


@dataclass(frozen=True, eq=False)
class ScoredModel:
    """One model of a report.

    Attributes:
        name: as tables print it.
        runs: its seeds and folds.
        seeds: each seed's folds pooled, by seed; ``none`` for what was not trained here.
        subjects: everybody who was scored, sorted.
        results: the numbers of ``results.json`` over all of them.
    """

    name: str
    runs: tuple[ScoredRun, ...]
    seeds: Mapping[str, SplitScores]
    subjects: tuple[str, ...]
    results: Results

    @property
    def trained(self) -> bool:
        """Whether a training run stands behind it: its folder is at hand, or its predictions say its seed."""
        return any(run.root is not None or run.seed is not None for run in self.runs)

    @property
    def folds(self) -> tuple[int, ...]:
        """Folds of the cross-validation that it has."""
        return tuple(sorted({run.fold for run in self.runs if run.fold is not None}))

    @property
    def named(self) -> bool:
        """Whether its levels were scored as classes."""
        return all(scores.named for scores in self.seeds.values())

    @property
    def detector(self) -> bool:
        """Whether its slice instances are a detector's own."""
        return all(scores.detector for scores in self.seeds.values())

    @cached_property
    def rows(self) -> pd.DataFrame:
        """Rows of all seeds; a case scored under several seeds is as many cases of its subject."""
        parts = [
            scores.rows.assign(case=scores.rows["case"] + (f" seed {seed}" if len(self.seeds) > 1 else ""))
            for seed, scores in self.seeds.items()
        ]
        return pd.concat(parts, ignore_index=True)

    @cached_property
    def pooled(self) -> SplitScores:
        """All seeds together: right for means and ratios, not for a ranking, which is each seed's own."""
        detections = pd.concat([scores.detections for scores in self.seeds.values()], ignore_index=True)
        return SplitScores(self.rows, detections, self.subjects, self.named, self.detector)

    def values(self, name: str) -> pd.DataFrame:
        """Values (subjects, seeds) of a mean of ``results.json``, ``dice`` or ``id_case``; empty where n/a."""
        return values_by_subject(self.seeds, name, self.named)

    def sd_seed(self, name: str) -> float | None:
        """Standard deviation over seeds of a mean, None for one seed."""
        values = self.values(name)
        return sd_of_seeds(values.to_numpy(np.float64)) if len(values) else None

    def sd_subject(self, name: str) -> float | None:
        """Standard deviation over subjects, None for one subject."""
        values = self.values(name)
        return sd_of_subjects(values.to_numpy(np.float64)) if len(values) else None

    def ap_statistic(self, *, which: DetectionSet, shape: Shape, named: bool, threshold: int | None) -> Statistic:
        """Average precision as a statistic of subjects, mean over the seeds, each with its own ranking."""
        pools = _pools(self.seeds, self.subjects, which=which, shape=shape, named=named)
        return mean_of_statistics([pool.statistic(threshold=threshold) for pool in pools])


def score_models(
    runs: Sequence[ScoredRun], *, labels: Mapping[str, str] | None = None, resamples: int = RESAMPLES
) -> list[ScoredModel]:
    """Group runs into models, in the order of their first run.

    Args:
        runs: all that a report compares.
        labels: recipe → name in tables.
        resamples: of the intervals from 20 subjects on.

    Raises:
        DataError: two runs of one model scored a case with the same seed, or its seeds scored different cases.
    """
    groups: dict[str, list[ScoredRun]] = {}
    for name, run in zip(label_runs(runs, labels or {}), runs, strict=True):
        groups.setdefault(name, []).append(run)
    return [_model(name, tuple(members), resamples) for name, members in groups.items()]


def every_run(models: Sequence[ScoredModel]) -> list[ScoredRun]:
    """The runs of all models."""
    return [run for model in models for run in model.runs]


def values_by_subject(seeds: Mapping[str, SplitScores], name: str, named: bool) -> pd.DataFrame:
    """Values (subjects, seeds) of a mean over subjects; empty where it does not apply."""
    mean = next(mean for mean in MEANS if mean.name == name)
    if mean.named and not named:
        return pd.DataFrame(columns=list(seeds), dtype=np.float64)
    found = {
        seed: subject_values(metric_rows(scores.rows, mean.metric, mean.parameter, statuses=mean.statuses))
        for seed, scores in seeds.items()
    }
    return pd.DataFrame(found, dtype=np.float64).sort_index().dropna(how="all")


def _model(name: str, runs: tuple[ScoredRun, ...], resamples: int) -> ScoredModel:
    by_seed: dict[str, list[ScoredRun]] = {}
    for run in runs:
        by_seed.setdefault(_EVERY_SEED if run.seed is None else str(run.seed), []).append(run)
    _check_cases(name, by_seed)
    seeds = {seed: _pool_folds(members) for seed, members in sorted(by_seed.items())}
    subjects = next(iter(seeds.values())).subjects
    if len(runs) == 1:
        results: Results = dict(runs[0].summary["metrics"])
    elif len(seeds) == 1:
        results = summarise(next(iter(seeds.values())), resamples=resamples)
    else:
        results = _results_of_seeds(seeds, subjects, resamples)
    return ScoredModel(name, runs, seeds, subjects, results)


def _check_cases(name: str, by_seed: Mapping[str, Sequence[ScoredRun]]) -> None:
    sets: dict[str, set[str]] = {}
    for seed, members in by_seed.items():
        owner: dict[str, ScoredRun] = {}
        for run in members:
            for case in run.metrics["case"].unique():
                if case in owner:
                    raise DataError(
                        f"model '{name}': case '{case}' was scored by {owner[case].name} and by {run.name}, both with "
                        f"seed {seed}; give one of them, or give each model a run.name of its own"
                    )
                owner[case] = run
        sets[seed] = set(owner)
    first_seed, first = next(iter(sets.items()))
    for seed, cases in sets.items():
        if cases != first:
            raise DataError(
                f"model '{name}': its seeds scored different cases: only seed {first_seed}: "
                f"{listed(first - cases)}; only seed {seed}: {listed(cases - first)}; give every seed the same folds"
            )


def _pool_folds(runs: Sequence[ScoredRun]) -> SplitScores:
    detections = pd.concat([read_detections(run.evaluation / DETECTIONS) for run in runs], ignore_index=True)
    people = {str(subject) for run in runs for subject in run.summary["subjects"]}
    return SplitScores(
        rows=pd.concat([run.metrics for run in runs], ignore_index=True),
        detections=detections.astype({"subject": str, "case": str, "set": str, "source": str}),
        subjects=tuple(sorted(people)),
        named=all(_is_named(run) for run in runs),
        detector=all(_is_detector(run) for run in runs),
    )


def _is_named(run: ScoredRun) -> bool:
    rows = run.metrics[run.metrics["metric"] == "dice"]
    return bool((rows["status"] != "n/a").any())


def _is_detector(run: ScoredRun) -> bool:
    return run.summary["metrics"].get("mask_map50_native", NOT_APPLICABLE)["value"] is not None


def _results_of_seeds(seeds: Mapping[str, SplitScores], subjects: tuple[str, ...], resamples: int) -> Results:
    """As ``summarise``, with the ranking of each seed its own and every mean's seeds averaged inside the subject."""
    named = all(scores.named for scores in seeds.values())
    detector = all(scores.detector for scores in seeds.values())
    detections = pd.concat([scores.detections for scores in seeds.values()], ignore_index=True)
    rows = pd.concat([scores.rows for scores in seeds.values()], ignore_index=True)
    # Sums and medians over (seed, scan, level) rows are those of the seeds' means, since all seeds have the same rows.
    results = summarise(SplitScores(rows, detections.iloc[:0], subjects, named, detector), resamples=resamples)

    def pools(which: DetectionSet, shape: Shape, by_name: bool) -> list[ApPool]:
        return _pools(seeds, subjects, which=which, shape=shape, named=by_name)

    unranked = all(scores.unranked for scores in seeds.values())
    results |= ap_results(pools, len(subjects), named=named, detector=detector, unranked=unranked, resamples=resamples)
    counts = counts_by_subject(detections, subjects)

    def statistic(metric: str) -> Statistic:
        return lambda weights: np.array([getattr(Counts(*sums), metric) for sums in (weights @ counts).tolist()])

    for metric in ("precision", "recall", "f1", "pq"):
        results[metric] = statistic_entry(statistic(metric), len(subjects), resamples)
    for mean in MEANS:
        values = values_by_subject(seeds, mean.name, named).mean(axis=1).to_numpy(np.float64)
        if len(values):
            ends = interval(mean_statistic(values), len(values), mean_of=values, resamples=resamples)
            results[mean.name] = entry_of(float(values.mean()), ends, len(values))
            if len(values) >= BOOTSTRAP_SUBJECTS:
                beside = t_interval(values)
                results[mean.name]["t"] = [beside.low, beside.high]
    return results


def _pools(
    seeds: Mapping[str, SplitScores], subjects: Sequence[str], *, which: DetectionSet, shape: Shape, named: bool
) -> list[ApPool]:
    levels = named_levels(next(iter(seeds.values())).detections, subjects)[0] if named else None
    return [
        ApPool.build(scores.detections, subjects, which=which, shape=shape, named=named, levels=levels)
        for scores in seeds.values()
    ]


def listed(cases: set[str], most: int = 5) -> str:
    """Some names for a message."""
    shown = sorted(cases)
    return (", ".join(shown[:most]) + (f", … ({len(shown)})" if len(shown) > most else "")) or "none"
