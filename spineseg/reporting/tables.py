"""Tables of a report: accuracy, detection, means, identification, errors, levels, cost."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np

from spineseg.metrics.intervals import BOOTSTRAP_SUBJECTS, LEAST_SUBJECTS
from spineseg.metrics.means import LEAST_SUBJECTS_PER_LEVEL
from spineseg.reporting.captions import caption_of, facts_of_table
from spineseg.reporting.cells import Cell, approximate, best_and_second, frames, median, number, plain, result
from spineseg.reporting.comparisons import Pair, claimed_below_best, is_oracle
from spineseg.reporting.models import ScoredModel, every_run
from spineseg.reporting.runs import Table
from spineseg.reporting.standing import why_descriptive

Rows = list[dict[str, Cell]]
MODEL: Final = "Model"
# Heading → name in results.json, where higher is better, and the primary endpoint that tests it.
_HEADLINE: Final = {
    "mAP50": ("mask_map50", None),
    "Dice": ("dice", "dice"),
    "Dice, whole spine": ("dice_spine", None),
    "NSD 2 mm": ("nsd", None),
    "id": ("id", "id_case"),
}
_HD95: Final = "HD95 (mm)"
_DETECTION: Final = {
    "AP50, exclusive": "mask_map50",
    "AP50:95, exclusive": "mask_map50_95",
    "box AP50, exclusive": "box_map50",
    "AP50, named": "mask_map50_named",
    "AP50:95, named": "mask_map50_95_named",
    "AP50, native": "mask_map50_native",
    "box AP50, native": "box_map50_native",
    "AP50, all scores 1": "ap50_constant",
    "precision": "precision",
    "recall": "recall",
    "F1": "f1",
    "PQ": "pq",
}
_NOT_COMPARED: Final = ("AP50, native", "box AP50, native", "AP50, all scores 1")


def headline_table(models: Sequence[ScoredModel], pairs: Sequence[Pair]) -> Table:
    """The table of the paper: comparable numbers with their intervals, and what they cost.

    Args:
        models: its rows.
        pairs: all comparisons, for the daggers.
    """
    rows: Rows = []
    for model in models:
        cells = {heading: result(model.results.get(name)) for heading, (name, _) in _HEADLINE.items()}
        rows.append(
            {
                MODEL: plain(model.name),
                "Runs": plain(runs_of(model)),
                **cells,
                _HD95: median(model.results.get("hd95")),
                **cost_cells(model),
            }
        )
    refused = why_descriptive(every_run(models))
    marks = {} if refused else _marks(models, rows, pairs)
    notes = [
        "mAP50: class-agnostic mask AP at IoU 0.5 of the exclusive slice maps; Dice and NSD: case_mean over named "
        "levels (missed = 0); id: identified ÷ visible levels; HD95: median over found levels, with their share.",
        "Training (h): of one run; peak memory: of training, in RAM or on the GPU; seconds a scan: prediction.",
    ]
    n = len(models[0].subjects)
    if n < LEAST_SUBJECTS:
        notes.append(f"n = {n}: no intervals below {LEAST_SUBJECTS} subjects.")
    elif n < BOOTSTRAP_SUBJECTS:
        notes.append("Intervals: t, and jackknife t of mAP50 and id.")
    else:
        notes.append("Intervals: BCa over subjects; Student's of the means beside them in the CSV file.")
    if marks:
        notes.append("Bold: best; underlined: second.")
    if any("dagger" in each for each in marks.values()):
        notes.append(
            "†: differs from the best value: exact sign-flip test over subjects, p < 0.05 by Holm over all pairs of "
            "the endpoint, and by more than the noise of a rerun."
        )
    if refused:
        notes.append(f"{refused[:1].upper()}{refused[1:]}; nothing is marked and nothing is tested.")
    return replace(table_of("headline", models, "Accuracy and cost", rows, notes), marks=marks)


def detection_table(models: Sequence[ScoredModel]) -> Table:
    """Average precision in all its readings, with what stands beside it."""
    rows = [
        {
            MODEL: plain(model.name),
            **{heading: _detection_cell(model, name) for heading, name in _DETECTION.items()},
            "score threshold": plain(_thresholds(model)),
        }
        for model in models
    ]
    notes: tuple[str, ...] = (
        f"Not to be compared between kinds of model: {', '.join(_NOT_COMPARED[:2])}, detections as they are.",
        "AP50, all scores 1: what is left of exclusive AP50 without the ranking.",
        "Score threshold: of the exclusive map, chosen on validation; 'default' is 0.25, 'label map' needs none.",
    )
    if any(model.named and _over_all_levels(model) for model in models):
        notes += (
            f"All levels: the mean is over every level that occurs, as there are fewer than {LEAST_SUBJECTS_PER_LEVEL} "
            "subjects; otherwise over levels of so many subjects (PROTOCOL 5.5).",
        )
    return table_of("detection", models, "Slice detection", rows, notes)


def _detection_cell(model: ScoredModel, name: str) -> Cell:
    """A number of the detection table; one over all levels for want of subjects says so."""
    cell = result(model.results.get(name))
    marked = name.endswith("_named") and cell.value is not None and _over_all_levels(model)
    if not marked:
        return cell
    return replace(cell, text=f"{cell.text} (all levels)", beside={**cell.beside, "levels": "all levels"})


def _over_all_levels(model: ScoredModel) -> bool:
    return len(model.subjects) < LEAST_SUBJECTS_PER_LEVEL


def cost_cells(model: ScoredModel) -> dict[str, Cell]:
    """Parameters, hours of a training run, its peak memory, seconds a scan; a dash where nobody measured."""
    memories = sorted({run.cost["train_memory"] for run in model.runs if "train_memory" in run.cost})
    memory = _over_runs(model, "train_peak_mb", np.max)
    parameters, hours = _over_runs(model, "parameters", np.mean), _over_runs(model, "fit_seconds", np.mean)
    shown = number(None if memory is None else memory / 1000, 1)
    return {
        "Parameters (M)": number(None if parameters is None else parameters / 1e6, 2),
        "Training (h)": number(None if hours is None else hours / 3600, 2),
        "Peak memory (GB)": Cell(" ".join([shown.text, *memories]), shown.value),
        "Seconds a scan": number(_over_runs(model, "seconds_a_scan", np.mean), 1),
    }


def runs_of(model: ScoredModel) -> str:
    """How many seeds and folds stand behind a row."""
    if not model.trained:
        return "–"
    seeds, folds = len(model.seeds), len(model.folds)
    text = f"{seeds} seed{'s' * (seeds != 1)}"
    return f"{text} × {folds} folds" if folds > 1 else text


def _over_runs(model: ScoredModel, key: str, of: Callable[[list[float]], Any]) -> float | None:
    values = [float(run.cost[key]) for run in model.runs if run.cost.get(key) is not None]
    return float(of(values)) if values else None


def _thresholds(model: ScoredModel) -> str:
    if not model.detector:
        return "label map"
    found = {run.summary.get("score_threshold") for run in model.runs}
    return ", ".join("default" if value is None else f"{value:.2f}" for value in sorted(found, key=str))


def _marks(models: Sequence[ScoredModel], rows: Rows, pairs: Sequence[Pair]) -> dict[tuple[int, str], frozenset[str]]:
    """Marks of the headline's means.

    Medians over found levels are not ranked (PROTOCOL 4): who finds fewer levels may have the smaller distance.
    """
    marks: dict[tuple[int, str], set[str]] = {}
    for heading, (_, endpoint) in _HEADLINE.items():
        values = [None if is_oracle(model) else row[heading].value for model, row in zip(models, rows, strict=True)]
        found = best_and_second(values)
        for row, mark in found.items():
            marks.setdefault((row, heading), set()).add(mark)
        best = [models[row].name for row, mark in found.items() if mark == "best"]
        if endpoint is None or len(best) != 1:
            continue
        below = claimed_below_best(pairs, endpoint, best[0])
        for row, model in enumerate(models):
            if model.name in below:
                marks.setdefault((row, heading), set()).add("dagger")
    return {place: frozenset(found) for place, found in marks.items()}


def table_of(name: str, models: Sequence[ScoredModel], what: str, rows: Rows, notes: Sequence[str]) -> Table:
    """A table without marks."""
    runs = every_run(models)
    texts, values = frames(rows)
    said = (*notes, *approximate(rows))
    return Table(name, caption_of(runs, what), texts, said, values=values, facts=facts_of_table(runs))
