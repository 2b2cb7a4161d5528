"""Score a whole predictions folder: the evaluation folder with its table, detections and summary."""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import pandas as pd

from spineseg.data.files import write_json, write_text
from spineseg.errors import DataError
from spineseg.metrics import PROTOCOL
from spineseg.metrics.cases import score_case
from spineseg.metrics.detection import DEFAULT_SCORE_THRESHOLD
from spineseg.metrics.detections_table import write_detections
from spineseg.metrics.edges import EdgeDecision, EdgePolicy
from spineseg.metrics.intervals import BOOTSTRAP_SUBJECTS, LEAST_SUBJECTS, RESAMPLES
from spineseg.metrics.means import LEAST_SUBJECTS_PER_LEVEL
from spineseg.metrics.references import Reference
from spineseg.metrics.summary import Results, SplitScores, summarise
from spineseg.metrics.tables import (
    MEAN_TABLES,
    error_table,
    identification_table,
    localisation_table,
    mean_tables,
    named_level_list,
)
from spineseg.predictions.store import PredictionFolder, open_predictions
from spineseg.vertebrae import LEVELS, level_name

METRICS_FORMAT: Final = "metrics 1"
SUMMARY_FORMAT: Final = "summary 1"
_HEAD: Final = ("format", "run", "source", "split", "case", "subject")
_TAIL: Final = ("level", "space", "protocol", "metric", "parameter", "value", "edge", "status", "seed", "fold")


def evaluate_folder(
    references: Sequence[Reference],
    predictions: Path,
    output: Path,
    *,
    edge: EdgePolicy,
    run: str,
    split: str,
    simulated: bool,
    seed: int | None = None,
    fold: int | None = None,
    prediction_convention: str = "verse",
    resamples: int = RESAMPLES,
) -> Results:
    """Score a predictions folder; write ``metrics.csv``, ``detections.parquet`` and ``summary.json`` into ``output``.

    Args:
        references: the cases that are scored, each of which needs a prediction.
        predictions: folder of ``predict``, or of label maps named by case.
        output: the evaluation folder.
        edge: how levels cut by the field of view are scored.
        run: name for the tables.
        split: name of the split.
        simulated: whether the data was made by ``simulate``.
        seed: of the training, for the tables.
        fold: of the cross-validation, for the tables.
        prediction_convention: of label values, where the folder does not say.
        resamples: of the intervals from 20 subjects on.

    Returns:
        The split's entry of ``results.json``: metric → value, low, high, subjects.

    Raises:
        DataError: a reference without a prediction (all are named), or one that lies on another grid.
    """
    folder = open_predictions(predictions)
    _check_references(references, folder)
    rows: list[pd.DataFrame] = []
    detections: list[pd.DataFrame] = []
    edges: dict[str, dict[str, list[str]]] = {}
    levels, detector = [], []
    for reference in _progress(references):
        prediction = folder.read(reference.case, prediction_convention)
        scored = score_case(
            reference.load(),
            prediction,
            edge=edge,
            cut_levels=reference.cut_levels,
            reference_named=reference.named,
            score_threshold=folder.score_threshold,
        )
        where = {"source": reference.source, "case": reference.case, "subject": reference.subject}
        rows.append(scored.rows.assign(**where))
        detections.append(scored.detections.assign(**where))
        levels.append(reference.named and prediction.kind == "levels")
        detector.append(prediction.slices is not None and prediction.slice_kind == "detections")
        edges[reference.case] = _edge_entry(scored.edge, reference.named, prediction.kind == "levels")
    scores = SplitScores(
        rows=pd.concat(rows, ignore_index=True),
        detections=pd.concat(detections, ignore_index=True),
        subjects=tuple(sorted({reference.subject for reference in references})),
        named=all(levels),
        detector=all(detector),
    )
    results = summarise(scores, resamples=resamples)
    constants = {"format": METRICS_FORMAT, "run": run, "split": split, "protocol": PROTOCOL, "edge": edge}
    table = scores.rows.assign(**constants, seed=seed, fold=fold)[[*_HEAD, *_TAIL]]
    write_text(output / "metrics.csv", table.to_csv(index=False))
    write_detections(output / "detections.parquet", scores.detections)
    write_json(
        output / "summary.json",
        {
            "format": SUMMARY_FORMAT,
            "protocol": PROTOCOL,
            "run": run,
            "split": split,
            "seed": seed,
            "fold": fold,
            "simulated": simulated,
            "edge": edge,
            "cases": len(references),
            "subjects": list(scores.subjects),
            "score_threshold": folder.score_threshold,
            "notes": _notes(scores, folder, references, simulated=simulated),
            "metrics": results,
            "dice": mean_tables(scores, "dice"),
            "means": {
                " ".join(filter(None, key)): mean_tables(scores, *key) for key in MEAN_TABLES if key != ("dice", "")
            },
            "identification": identification_table(scores),
            "localisation": localisation_table(scores),
            "errors": error_table(scores),
            "map_named": named_level_list(scores),
            "ignored_references": sum(len(entry["ignored"]) for entry in edges.values()),
            "dropped_predictions": sum(len(entry["dropped"]) for entry in edges.values()),
            "edges": edges,
            "provenance": dict(folder.provenance),
        },
    )
    return results


def _check_references(references: Sequence[Reference], folder: PredictionFolder) -> None:
    if not references:
        raise DataError("no reference case to score; name at least one in reference= or subjects=")
    names = [reference.case for reference in references]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"reference cases occur twice: {', '.join(twice)}; give each its own id")
    if missing := [name for name in names if name not in folder.files or name in folder.failures]:
        listed = "; ".join(f"{name} ({folder.failures[name]})" if name in folder.failures else name for name in missing)
        raise DataError(
            f"{folder.root}: {len(missing)} of {len(names)} reference cases have no prediction: {listed}. "
            "Predict them (an empty label map is a valid prediction), or name the cases to score in subjects=<csv>."
        )


def _edge_entry(edge: EdgeDecision, reference_named: bool, prediction_named: bool) -> dict[str, list[str]]:
    """Names of the levels that the field of view took out of a case's score; numbers where nothing is named."""

    def names(labels: Sequence[int], named: bool) -> list[str]:
        return [level_name(label) if named and label in LEVELS else str(label) for label in labels]

    return {"ignored": names(edge.ignored, reference_named), "dropped": names(edge.dropped, prediction_named)}


def _notes(
    scores: SplitScores, folder: PredictionFolder, references: Sequence[Reference], *, simulated: bool
) -> list[str]:
    """What a table must say beside the numbers."""
    n, notes = len(scores.subjects), []
    if simulated:
        notes.append("simulated data: descriptive only")
    if n < LEAST_SUBJECTS:
        notes.append(f"n = {n}: no intervals below {LEAST_SUBJECTS} subjects")
    elif n < BOOTSTRAP_SUBJECTS:
        notes.append(f"n = {n}, interval approximate")
    if scores.detector and folder.score_threshold is None:
        notes.append(f"no score threshold from validation: the exclusive map takes {DEFAULT_SCORE_THRESHOLD}")
    found = scores.detections[scores.detections["set"] == "exclusive"]
    if not scores.detector and (found["score"] == 1).all():
        notes.append("label maps without probabilities: all scores are 1, so that AP holds no ranking")
    if scores.named and len(scores.subjects) < LEAST_SUBJECTS_PER_LEVEL:
        notes.append("fewer than 3 subjects: named mAP over all levels")
    if extra := sorted(set(folder.files) - {reference.case for reference in references}):
        shown = ", ".join(extra[:5]) + (", …" if len(extra) > 5 else "")
        notes.append(f"{len(extra)} predictions have no reference here and were not scored: {shown}")
    return notes


def _progress(references: Sequence[Reference]) -> Iterable[Reference]:
    if not sys.stderr.isatty():
        return references
    from rich.progress import track

    return track(references, description="evaluate", transient=True)
