"""From a fitted model to numbers: predict a split with the best weights, evaluate it, write and print the results."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig

from spineseg.costs import peak_memory
from spineseg.data.scans import Scan
from spineseg.errors import DataError
from spineseg.evaluate import evaluate_folder
from spineseg.metrics.references import case_reference
from spineseg.predict import draw_overlays, predict_scans
from spineseg.runs import Run, write_results
from spineseg.trained import TrainedModel

# The last lines on the screen, in this order.
HEADLINES = ("mask_map50_native", "mask_map50", "box_map50", "mask_map50_named", "id", "nsd", "dice", "dice_spine")


def score_split(
    cfg: DictConfig,
    run: Run,
    model: TrainedModel,
    split_name: str,
    loggers: Sequence[Logger],
    *,
    fit_seconds: float,
) -> None:
    """Predict, evaluate and record one split of a run.

    Args:
        cfg: the run's configuration.
        run: its folder.
        model: with the weights to score.
        split_name: ``train``, ``val`` or ``test``.
        loggers: those that take final values get them.
        fit_seconds: for the cost.

    Raises:
        DataError: a scan that could not be read or predicted; nothing is scored then.
    """
    predictions = run.predictions(split_name)
    scored = predict_and_evaluate(
        model,
        split_name,
        predictions,
        run.evaluation(split_name),
        run=run.name,
        trainer=cfg.trainer,
        seed=int(cfg.seed),
    )
    if scored is None:
        print(f"{split_name}: no cases in this split, nothing to score")
        return
    draw_overlays(scored.scans, predictions, skip=(), simulated=model.simulated)
    cases, metrics = len(scored.scans), scored.metrics
    cost = {
        "fit_seconds": round(fit_seconds, 1),
        "predict_seconds_a_case": round(scored.seconds / cases, 2),
        "parameters": sum(parameter.numel() for parameter in model.task.net.parameters()),
        **peak_memory(),
    }
    write_results(run, {split_name: metrics}, simulated=model.simulated, cost=cost)
    for logger in loggers:
        log_summary = getattr(logger, "log_summary", None)
        if log_summary is not None:
            log_summary({f"{split_name}/{name}": entry["value"] for name, entry in metrics.items()})
    print_scores(run, split_name, metrics, model, cases)


@dataclass(frozen=True)
class ScoredSplit:
    """A split's scans, its metrics as ``results.json`` has them, and the seconds that prediction took."""

    scans: list[Scan]
    metrics: dict[str, Any]
    seconds: float


def predict_and_evaluate(
    model: TrainedModel,
    split_name: str,
    predictions: Path,
    evaluation: Path,
    *,
    run: str,
    trainer: Any,
    seed: int,
    labelling: bool = True,
) -> ScoredSplit | None:
    """Predict the native scans of a split and evaluate them; None if the split has no case.

    Args:
        model: with the data module whose split and source are taken.
        split_name: ``train``, ``val`` or ``test``.
        predictions: folder for the predictions.
        evaluation: folder for the tables.
        run: the run's name.
        trainer: configuration node.
        seed: of the training, for the tables.
        labelling: as in ``predict``.

    Raises:
        DataError: a scan that could not be read or predicted; nothing is scored then.
    """
    datamodule = model.datamodule
    source = datamodule.source
    cases = [datamodule.prepared.case(case_id) for case_id in getattr(datamodule.split(), split_name)]
    if not cases:
        return None
    scans = [Scan(case.id, partial(source.read_image, case)) for case in cases]
    started = time.perf_counter()
    failures = predict_scans(
        model,
        scans,
        predictions,
        trainer=trainer,
        outputs=("nifti", "json"),
        labelling=labelling,
        provenance={"run": run, "split": split_name},
    )
    seconds = time.perf_counter() - started
    if failures:
        listed = "\n  ".join(f"{case}: {reason}" for case, reason in failures.items())
        raise DataError(f"{split_name}: {len(failures)} of {len(cases)} scans failed, so it is not scored:\n  {listed}")
    metrics = evaluate_folder(
        [case_reference(source, case) for case in cases],
        predictions,
        evaluation,
        edge=source.edge,
        run=run,
        split=split_name,
        simulated=model.simulated,
        seed=seed,
        fold=datamodule.fold,
    )
    return ScoredSplit(scans, metrics, seconds)


def print_scores(run: Run, split_name: str, metrics: dict[str, Any], model: TrainedModel, cases: int) -> None:
    """Print the headline numbers of a split, and what they must not be taken for."""
    notes = ["simulated"] if model.simulated else []
    notes += [f"overfit check on {model.overfit}"] if model.overfit else []
    print(f"{split_name}: {cases} case{'s' * (cases != 1)}{', ' * bool(notes)}{', '.join(notes)} → {run.results}")
    for name in HEADLINES:
        if name in metrics:
            value = metrics[name]["value"]
            print(f"  {name:<18} {'n/a' if value is None else format(value, '.4f')}")
