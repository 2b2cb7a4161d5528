"""What the field of view took out of a score, and what stands beside the headline's numbers (PROTOCOL 1, 4 and 7)."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from spineseg.metrics.entries import NOT_APPLICABLE as NO_VALUE
from spineseg.metrics.entries import Results, mean_entry
from spineseg.metrics.intervals import RESAMPLES
from spineseg.metrics.summary import metric_rows
from spineseg.reporting.cells import Cell, median, plain, result
from spineseg.reporting.models import ScoredModel, every_run, score_models
from spineseg.reporting.runs import SUMMARY, Table, load_run
from spineseg.reporting.tables import MODEL, Rows, table_of

# Where observers agree to less than 0.75 mm (PROTOCOL 4).
_FINE: Final = "csi2014"
_BESIDE: Final = {"Dice": "dice", "Dice, whole spine": "dice_spine", "id": "id", "mAP50": "mask_map50"}


def field_table(models: Sequence[ScoredModel]) -> Table:
    """Levels left out by the field of view, NSD at the other tolerances, ASSD; under ``count`` also ``ignore``."""
    runs = every_run(models)
    fine = all((run.metrics["source"] == _FINE).all() for run in runs)
    counting = any(run.summary["edge"] == "count" for run in runs)
    points = any("id_points" in model.results for model in models)
    rows: Rows = []
    for model in models:
        row = {MODEL: plain(model.name)}
        for heading, key in (
            ("references ignored", "ignored_references"),
            ("predictions dropped", "dropped_predictions"),
        ):
            row[heading] = _count(model, key)
        for tau in (1, 3) if fine else (3,):
            row[f"NSD {tau} mm"] = result(_nsd(model, tau))
        row["ASSD (mm)"] = median(model.results.get("assd"))
        if points:
            row["id_points"] = result(model.results.get("id_points"))
        if counting:
            beside = _under_ignore(model)
            row |= {f"{heading}, edge = ignore": result(beside.get(name)) for heading, name in _BESIDE.items()}
        rows.append(row)
    notes = [
        "Ignored: reference levels cut by the field of view, in no number; dropped: predicted levels that left the "
        "score with them; both of all scans, mean over seeds. NSD: case_mean (missed = 0); ASSD: median over found "
        "levels, with their share."
    ]
    if points:
        notes.append("id_points: identification against the set's own points.")
    if counting:
        notes.append("edge = ignore: the same predictions without the levels that the field of view cuts.")
    return table_of("field_of_view", models, "Field of view and tolerances", rows, notes)


def _count(model: ScoredModel, key: str) -> Cell:
    found = [run.summary.get(key) for run in model.runs]
    known = [int(value) for value in found if value is not None]
    if len(known) < len(found):
        return plain("–")
    value = sum(known) / len(model.seeds)
    return Cell(f"{value:g}" if value.is_integer() else f"{value:.1f}", value)


def _nsd(model: ScoredModel, tau: int) -> dict[str, object]:
    return mean_entry(metric_rows(model.rows, "nsd", f"tau={tau}"), RESAMPLES) if model.named else dict(NO_VALUE)


def _under_ignore(model: ScoredModel) -> Results:
    """The model's numbers with ``ignore``, which lie in a folder of each evaluation; empty where one is missing."""
    folders = [run.evaluation / "ignore" for run in model.runs]
    if not all((folder / SUMMARY).is_file() for folder in folders):
        return {}
    told = [
        replace(load_run(folder), recipe=run.recipe, config={}, seed=run.seed, fold=run.fold)
        for folder, run in zip(folders, model.runs, strict=True)
    ]
    (found,) = score_models(told)
    return found.results
