"""The tables of a study: what each arm scores, how far it lies from its baseline, and what did not come to an end."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from spineseg.errors import DataError
from spineseg.metrics import PROTOCOL
from spineseg.metrics.intervals import interval, mean_statistic
from spineseg.reporting.cells import NOT_COMPUTED, Cell, median, number, p_value, plain, result
from spineseg.reporting.models import ScoredModel, score_models
from spineseg.reporting.places import without_places
from spineseg.reporting.runs import Table
from spineseg.reporting.statistics import minimal_detectable_effect
from spineseg.reporting.study_arms import PER_SUBJECT, SUBJECT_METRICS, Arm, Delta, arms_of, deltas
from spineseg.reporting.study_results import StudyResults, read_study, shown_factors, study_table
from spineseg.reporting.study_search import search_tables
from spineseg.studies.folder import STUDY

# Beside the study's own metric, in this order.
FURTHER: Final = ("dice", "dice_spine", "nsd", "id", "mask_map50", "mask_map50_named")
MEDIANS: Final = ("hd95", "centroid_error_mm")


def study_tables(folder: Path) -> list[Table]:
    """The tables of a study's folder; see ``tables_of``.

    Raises:
        DataError: no study there, or no job of it is done.
    """
    return tables_of(read_study(folder))


def study_figures(folder: Path, output: Path) -> dict[str, Path]:
    """Draw a study's folder; see ``figures_of``."""
    return figures_of(read_study(folder), output)


def tables_of(study: StudyResults) -> list[Table]:
    """The tables of a study.

    Of a matrix: ``study`` (each arm in the study's own metric, seeds averaged inside a subject), ``study_ablation``
    (deltas to the baseline), ``study_metrics`` (further ones) and ``study_jobs`` (what has no value). Of a search: see
    ``search_tables``, and ``study_jobs``.

    Raises:
        DataError: no job of it is done.
    """
    if not any(job.state == "done" for job in study.jobs):
        raise DataError(
            f"{study.folder.root}: no job of {len(study.jobs)} is done; go on with `{STUDY} +study={study.name}`"
        )
    if study.search is not None:
        return [*search_tables(study), _jobs(study)]
    arms = arms_of(study)
    shown = shown_factors([arm.labels for arm in arms])
    made, reason = deltas(arms, study.baseline, study.metric, refused=study.untested)
    models = [_model(arm) for arm in arms]
    tables = [_study(study, arms, models, shown)]
    if made:
        tables.append(_ablation(study, arms, made, reason, shown))
    return [*tables, _metrics(study, arms, models, shown), _jobs(study)]


def figures_of(study: StudyResults, output: Path) -> dict[str, Path]:
    """Draw a study: name → PNG file below ``output``, with its PDF beside it; see ``study_figures.py``."""
    from spineseg.reporting.study_figures import matrix_figures, search_figures

    if study.search is not None:
        return search_figures(study, output)
    arms = arms_of(study)
    return matrix_figures(study, arms, shown_factors([arm.labels for arm in arms]), output)


def _study(
    study: StudyResults, arms: Sequence[Arm], models: Sequence[ScoredModel | None], shown: Sequence[str]
) -> Table:
    metric = PER_SUBJECT.get(study.metric, study.metric)
    rows = []
    for arm, model in zip(arms, models, strict=True):
        row = _head(arm, shown) | {"jobs": _count(arm)}
        if metric in SUBJECT_METRICS:
            values = np.array(list(arm.subjects(metric).values()))
            row["subjects"] = _whole(len(values))
            row[metric] = _mean(values)
            if any(other.failed for other in arms):
                row[f"{metric}, failures 0"] = _mean(
                    arm.values(metric, failures=True).mean(axis=1).to_numpy(np.float64)
                )
            row |= {"sd seed": number(arm.sd_seed(metric)), "sd subject": number(arm.sd_subject(metric))}
            row["MDE"] = number(minimal_detectable_effect(len(values)) * (arm.sd_subject(metric) or np.nan))
        else:
            row["subjects"] = _whole(len(model.subjects) if model else 0)
            row[metric] = result(None if model is None else model.results.get(metric))
        rows.append(row)
    notes = [
        f"{metric}: seeds are averaged inside a subject, the subject is the unit (protocol {PROTOCOL}, 8).",
        "sd seed: of reruns, over seeds of the mean; sd subject: over subjects of their means.",
        "MDE: least difference a paired test would find (80 %, two-sided 5 %) if differences had the sd of subjects.",
    ]
    if any(arm.failed for arm in arms):
        notes.append("failures 0: a failed job's subjects score 0; otherwise they are left out of that seed's mean.")
    return study_table(study, "study", study.question, rows, notes)


def _ablation(
    study: StudyResults, arms: Sequence[Arm], made: Sequence[Delta], reason: str, shown: Sequence[str]
) -> Table:
    metric = PER_SUBJECT.get(study.metric, study.metric)
    rows = []
    for delta in made:
        ends = delta.found.ends
        rows.append(
            _head(arms[delta.arm], shown)
            | {
                "baseline": plain(", ".join(arms[delta.base].labels[name] for name in shown)),
                "subjects": _whole(delta.found.n),
                f"Δ {metric}": _signed(delta.found.mean, ends.low, ends.high, delta.found.n),
                "sd of Δ": number(delta.found.sd),
                "MDE": number(delta.found.mde),
                "beyond rerun noise": plain(
                    "–" if delta.beyond_noise is None else "yes" if delta.beyond_noise else "no"
                ),
                "p (Holm)": p_value(delta.p) if delta.p is not None else plain("n/a"),
            }
        )
    stated = ", ".join(f"{name} {label}" for name, label in study.baseline.items())
    notes = [
        f"Δ: arm minus its baseline ({stated}; else the arm's own labels), paired over subjects, seeds averaged first.",
        "beyond rerun noise: |Δ| > 2 · sd seed · √(2/k), k ≥ 3 seeds; without it no difference is claimed. –: unknown.",
    ]
    if reason:
        notes.append(f"No test: {reason}.")
    return study_table(study, "study_ablation", f"Differences from the baseline in {metric}", rows, notes)


def _metrics(
    study: StudyResults, arms: Sequence[Arm], models: Sequence[ScoredModel | None], shown: Sequence[str]
) -> Table:
    rows = []
    for arm, model in zip(arms, models, strict=True):
        found: Mapping[str, Any] = {} if model is None else model.results
        row = _head(arm, shown) | {"jobs": _count(arm)}
        row["subjects"] = plain(NOT_COMPUTED) if model is None else _whole(len(model.subjects))
        row |= {name: result(found.get(name)) for name in FURTHER}
        row |= {f"{name} (median, mm)": median(found.get(name)) for name in MEDIANS}
        seconds = [job.seconds for job in arm.jobs if job.state == "done"]
        rows.append(row | {"minutes a job": number(float(np.mean(seconds)) / 60 if seconds else None, 1)})
    notes = ["Intervals: 95 %, over subjects; none below 5."]
    if any(arm.done < len(arm.jobs) for arm in arms):
        notes.append(
            "Arms whose jobs are not all done are of those subjects alone that their jobs scored: not to be compared "
            "with the others (PROTOCOL 8.9)."
        )
    if any(model is None for model in models):
        notes.append(
            "–: seeds of this arm scored different subjects (jobs are missing), so that they cannot be pooled."
        )
    return study_table(study, "study_metrics", "Further metrics of each arm", rows, notes)


def _jobs(study: StudyResults) -> Table:
    """Every job that is not done, and how many are."""
    rows: list[Mapping[str, Cell]] = []
    for job in study.jobs:
        if job.state not in ("done", "pruned"):
            said = ", ".join(f"{name} {label}" for name, label in job.labels.items())
            cells = {"job": plain(job.hash), "what": plain(said), "state": plain(job.state)}
            error = without_places(job.error or "", (study.folder.root.absolute(),))
            rows.append(cells | {"attempts": _whole(job.attempts), "error": plain(error)})
    states = [job.state for job in study.jobs]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    if not rows:
        rows = [{name: plain("none") for name in ("job", "what", "state", "attempts", "error")}]
    return study_table(study, "study_jobs", f"Jobs without a value (of {len(states)} jobs {counts})", rows, [])


def _model(arm: Arm) -> ScoredModel | None:
    """An arm's runs as one model; None where its seeds did not score the same subjects."""
    runs = [replace(run, config={}) for run in arm.runs.values()]
    if not runs:
        return None
    try:
        (model,) = score_models(runs)
    except DataError:
        return None
    return model


def _head(arm: Arm, shown: Sequence[str]) -> dict[str, Cell]:
    return {name: plain(arm.labels[name]) for name in shown}


def _count(arm: Arm) -> Cell:
    missing = len(arm.jobs) - arm.done
    failed = f", {arm.failed} failed" if arm.failed else f", {missing} to come" if missing else ""
    return Cell(f"{arm.done} of {len(arm.jobs)}{failed}", float(arm.done))


def _mean(values: np.ndarray[Any, np.dtype[np.float64]]) -> Cell:
    if not len(values):
        return plain("n/a")
    ends = interval(mean_statistic(values), len(values), mean_of=values)
    return result({"value": float(values.mean()), "low": ends.low, "high": ends.high, "subjects": len(values)})


def _signed(value: float, low: float | None, high: float | None, n: int) -> Cell:
    if np.isnan(value):  # nobody was scored by both
        return plain(NOT_COMPUTED)
    ends = "" if low is None or high is None else f" [{low:+.3f}, {high:+.3f}]"
    return Cell(f"{value:+.3f}{ends}", value, low, high, n=n)


def _whole(value: int) -> Cell:
    return Cell(str(value), float(value))
