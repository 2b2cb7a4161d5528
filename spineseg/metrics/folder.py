"""Score a whole predictions folder: the evaluation folder with its table, detections and summary."""

import os
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pandas as pd

from spineseg.errors import DataError
from spineseg.metrics.cases import CaseScores, MapPair, on_reference_grid
from spineseg.metrics.detection import DEFAULT_SCORE_THRESHOLD
from spineseg.metrics.edges import EdgeDecision, EdgePolicy
from spineseg.metrics.entries import Results
from spineseg.metrics.evaluation import METRICS_FORMAT as METRICS_FORMAT
from spineseg.metrics.evaluation import SUMMARY_FORMAT as SUMMARY_FORMAT
from spineseg.metrics.evaluation import Evaluation
from spineseg.metrics.intervals import BOOTSTRAP_SUBJECTS, LEAST_SUBJECTS, RESAMPLES
from spineseg.metrics.means import FEW_SUBJECTS, LEAST_SUBJECTS_PER_LEVEL
from spineseg.metrics.points import reference_points_mm
from spineseg.metrics.protocol_table import EvaluatedModel, protocol_table, write_protocol_table
from spineseg.metrics.protocols import pool_cases, protocol_case, write_protocol_cases
from spineseg.metrics.references import Reference
from spineseg.metrics.summary import SplitScores
from spineseg.predictions.layouts import label_files
from spineseg.predictions.store import CasePrediction, LabelKind, PredictionFolder, open_predictions
from spineseg.vertebrae import LEVELS, level_name
from spineseg.volumes import read_grid

# Cases in the list of the worst.
WORST: Final = 10


@dataclass(frozen=True, eq=False)
class _Gathered:
    """What the cases add up to under one rule of the field of view; ``emptied`` have lost their only object to it."""

    rows: list[pd.DataFrame] = field(default_factory=list)
    detections: list[pd.DataFrame] = field(default_factory=list)
    parts: list[pd.DataFrame] = field(default_factory=list)
    edges: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    emptied: list[str] = field(default_factory=list)

    def add(self, scored: CaseScores, reference: Reference, prediction: CasePrediction) -> None:
        where = _where(reference)
        self.rows.append(scored.rows.assign(**where))
        self.detections.append(scored.detections.assign(**where))
        if scored.parts is not None:
            self.parts.append(scored.parts.assign(**where))
        self.edges[reference.case] = _edge_entry(scored.edge, reference.named, prediction.kind == "levels")
        edge = scored.edge
        # An only object that overlaps no vertebra at all was not given to one, and scores 0 under every rule.
        alone = not edge.kept and len(edge.dropped) == len(edge.given_to_cut) == 1
        if edge.policy == "ignore" and edge.levels and alone:
            self.emptied.append(reference.case)

    def notes(self) -> list[str]:
        """What a table of this rule must say on top."""
        if not self.emptied:
            return []
        return [
            "the only predicted object overlaps a cut vertebra most and left the score with it (edge=ignore), so that "
            f"dice_spine is 0, in {', '.join(self.emptied)}; edge=crop or edge=count scores one mask of all vertebrae"
        ]


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
    prediction_labels: LabelKind | None = None,
    reference_settings: Mapping[str, Any] | None = None,
    resamples: int = RESAMPLES,
    by_part: bool = False,
    worst: int = WORST,
) -> Results:
    """Score a predictions folder; write ``metrics.csv``, ``detections.parquet``, ``summary.json`` and ``tables/``.

    Under ``count`` the same with ``ignore`` comes into the folder ``ignore`` and into ``summary.json`` (PROTOCOL 7).
    Beside them the same predictions under other tools' rules: ``protocols.csv`` and ``tables/protocols``.

    Args:
        references: the cases that are scored, each of which needs a prediction.
        predictions: folder of ``predict``, or of label maps in one of ``predictions.layouts``.
        output: the evaluation folder.
        edge: how levels cut by the field of view are scored.
        run: name for the tables.
        split: name of the split.
        simulated: whether the data was made by ``simulate``.
        seed: of the training, for the tables.
        fold: of the cross-validation, for the tables.
        prediction_convention: of label values, where the folder does not say.
        prediction_labels: what they are, where it does not say; None = levels.
        reference_settings: where the references are from and how they were read, for ``summary.json``.
        resamples: of the intervals from 20 subjects on.
        by_part: match slices by 8-connected part, too: ``by_part`` of ``summary.json`` (PROTOCOL 5.2).
        worst: length of the list of the worst cases; 0 = none.

    Returns:
        The split's entry of ``results.json``: metric → value, low, high, subjects.

    Raises:
        DataError: references without a readable prediction, or whose prediction lies on another grid; all are named.
    """
    folder = open_predictions(predictions)
    _check_references(references, folder)
    rules: tuple[EdgePolicy, ...] = (edge, "ignore") if edge == "count" else (edge,)
    gathered = {rule: _Gathered() for rule in rules}
    levels, detector, under_rules = [], [], []
    failures: list[str] = []
    for reference in _progress(references):
        try:
            truth = reference.load()
            read = folder.read(reference.case, prediction_convention, prediction_labels)
            prediction = on_reference_grid(read, truth.grid)
            points_mm = None if reference.points is None else reference_points_mm(reference.points, truth.grid)
        except DataError as error:
            failures.append(str(error))
        if failures:
            continue  # nothing can be written any more; the other cases are looked at for what else is wrong
        pair = MapPair.of(truth, prediction, cut_levels=reference.cut_levels, reference_named=reference.named)
        options: dict[str, Any] = {"points_mm": points_mm, "by_part": by_part}
        by_rule = {rule: pair.score(rule, score_threshold=folder.score_threshold, **options) for rule in rules}
        for rule, scored in by_rule.items():
            gathered[rule].add(scored, reference, prediction)
        # Distances between masks that `crop` has cut are not those that other tools would see.
        known = None if edge == "crop" else by_rule[edge].rows
        where = _where(reference)
        under_rules.append(protocol_case(truth, prediction, where, reference_named=reference.named, scored=known))
        levels.append(reference.named and prediction.kind == "levels")
        detector.append(prediction.slices is not None and prediction.slice_kind == "detections")
    if failures:
        raise _unscored(failures, len(references))
    found = {
        rule: SplitScores(
            rows=pd.concat(all_of.rows, ignore_index=True),
            detections=pd.concat(all_of.detections, ignore_index=True),
            subjects=tuple(sorted({reference.subject for reference in references})),
            named=all(levels),
            detector=all(detector),
        )
        for rule, all_of in gathered.items()
    }
    notes = _notes(found[edge], folder, references, simulated=simulated)
    facts = {
        **{"run": run, "split": split, "seed": seed, "fold": fold, "simulated": simulated},
        "score_threshold": folder.score_threshold,
        "provenance": dict(folder.provenance),
        # From here to there, so that both folders can move together.
        "predictions": os.path.relpath(predictions, output),
        "prediction_convention": folder.convention or prediction_convention,
        "prediction_labels": prediction_labels,
        "reference": dict(reference_settings or {}),
        "resamples": resamples,
    }
    evaluations = {
        rule: Evaluation(
            {**facts, "notes": [*notes, *all_of.notes()]},
            rule,
            found[rule],
            pd.concat(all_of.parts, ignore_index=True) if by_part else None,
            all_of.edges,
            resamples,
        )
        for rule, all_of in gathered.items()
    }
    numbers = {rule: evaluation.results() for rule, evaluation in evaluations.items()}
    if "ignore" not in rules[1:] and (output / "ignore" / "summary.json").is_file():
        shutil.rmtree(output / "ignore")  # of an earlier evaluation under another rule
    for rule in rules[1:]:
        evaluations[rule].write(output / rule, numbers[rule], beside={edge: numbers[edge]}, worst=worst)
    beside: dict[str, Results] = {rule: numbers[rule] for rule in rules[1:]}
    evaluations[edge].write(output, numbers[edge], beside=beside, worst=worst)
    write_protocol_cases(output, pool_cases(under_rules), run=run, split=split)
    compared = protocol_table([EvaluatedModel.of_folder(run, output)])
    write_protocol_table(output / "tables", compared, simulated=simulated)
    return numbers[edge]


def _where(reference: Reference) -> dict[str, str]:
    return {"source": reference.source, "case": reference.case, "subject": reference.subject}


def _check_references(references: Sequence[Reference], folder: PredictionFolder) -> None:
    if not references:
        raise DataError("no reference case to score; name at least one in reference= or subjects=")
    names = [reference.case for reference in references]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"reference cases occur twice: {', '.join(twice)}; give each its own id")
    if missing := [name for name in names if name not in folder.files or name in folder.failures]:
        listed = "; ".join(f"{name} ({folder.failures[name]})" if name in folder.failures else name for name in missing)
        others = sorted(set(folder.files) - set(names))
        raise DataError(
            f"{folder.root}: {len(missing)} of {len(names)} reference cases have no prediction: {listed}. "
            "Predict them (an empty label map is a valid prediction), or name the cases to score in subjects=<csv>."
            + (f" Predictions of no reference there: {_listed(others)}." if others else "")
        )

    unreadable = []
    for name in names:
        try:
            for path in label_files(folder.files[name]):
                read_grid(path)
        except DataError as error:
            unreadable.append(str(error))
    if unreadable:
        raise _unscored(unreadable, len(names))


def _unscored(reasons: Sequence[str], total: int) -> DataError:
    listed = "\n  ".join(reasons)
    return DataError(f"{len(reasons)} of {total} cases cannot be scored, so that none is:\n  {listed}")


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
    if scores.unranked:
        notes.append("label maps without probabilities: all scores are 1, so that AP holds no ranking")
    if scores.named and len(scores.subjects) < LEAST_SUBJECTS_PER_LEVEL:
        notes.append(f"{FEW_SUBJECTS}: named mAP over all levels")
    if extra := sorted(set(folder.files) - {reference.case for reference in references}):
        notes.append(f"{len(extra)} predictions have no reference here and were not scored: {_listed(extra)}")
    return notes


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")


def _progress(references: Sequence[Reference]) -> Iterable[Reference]:
    if not sys.stderr.isatty():
        return references
    from rich.progress import track

    return track(references, description="evaluate", transient=True)
