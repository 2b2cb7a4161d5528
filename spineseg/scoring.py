"""From a fitted model to numbers: predict a split with the best weights, evaluate it, write and print the results."""

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig

from spineseg.data.loading import CaseDataModule
from spineseg.data.scans import Scan
from spineseg.errors import DataError
from spineseg.evaluate import evaluate_folder
from spineseg.metrics.references import case_reference
from spineseg.predict import draw_overlays, predict_scans
from spineseg.provenance import peak_memory
from spineseg.runs import Run, write_results
from spineseg.trained import TrainedModel

# The last lines on the screen, in this order.
HEADLINES = ("mask_map50_native", "mask_map50", "box_map50", "mask_map50_named", "id", "nsd", "dice", "dice_spine")


def score_split(
    cfg: DictConfig,
    run: Run,
    model: TrainedModel,
    datamodule: CaseDataModule,
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
        datamodule: gives the split and the source.
        split_name: ``train``, ``val`` or ``test``.
        loggers: those that take final values get them.
        fit_seconds: for the cost.

    Raises:
        DataError: a scan that could not be read or predicted; nothing is scored then.
    """
    source = datamodule.source
    cases = [datamodule.prepared.case(case_id) for case_id in getattr(datamodule.split(), split_name)]
    if not cases:
        print(f"{split_name}: no cases in this split, nothing to score")
        return
    scans = [Scan(case.id, partial(source.read_image, case)) for case in cases]
    folder = run.predictions(split_name)
    started = time.perf_counter()
    failures = predict_scans(
        model,
        scans,
        folder,
        trainer=cfg.trainer,
        outputs=("nifti", "json"),
        provenance={"run": run.name, "split": split_name},
    )
    predict_seconds = time.perf_counter() - started
    if failures:
        listed = "\n  ".join(f"{case}: {reason}" for case, reason in failures.items())
        raise DataError(f"{split_name}: {len(failures)} of {len(cases)} scans failed, so it is not scored:\n  {listed}")
    draw_overlays(scans, folder, skip=(), simulated=model.simulated)
    metrics = evaluate_folder(
        [case_reference(source, case) for case in cases],
        folder,
        run.evaluation(split_name),
        edge=source.edge,
        run=run.name,
        split=split_name,
        simulated=model.simulated,
        seed=int(cfg.seed),
        fold=datamodule.fold,
    )
    cost = {
        "fit_seconds": round(fit_seconds, 1),
        "predict_seconds_a_case": round(predict_seconds / len(cases), 2),
        "parameters": sum(parameter.numel() for parameter in model.task.net.parameters()),
        **peak_memory(),
    }
    write_results(run, {split_name: metrics}, simulated=model.simulated, cost=cost)
    for logger in loggers:
        log_summary = getattr(logger, "log_summary", None)
        if log_summary is not None:
            log_summary({f"{split_name}/{name}": entry["value"] for name, entry in metrics.items()})
    print_scores(run, split_name, metrics, model, len(cases))


def print_scores(run: Run, split_name: str, metrics: dict[str, Any], model: TrainedModel, cases: int) -> None:
    """Print the headline numbers of a split, and what they must not be taken for."""
    notes = ["simulated"] if model.simulated else []
    notes += [f"overfit check on {model.overfit}"] if model.overfit else []
    print(f"{split_name}: {cases} case{'s' * (cases != 1)}{', ' * bool(notes)}{', '.join(notes)} → {run.results}")
    for name in HEADLINES:
        if name in metrics:
            value = metrics[name]["value"]
            print(f"  {name:<18} {'n/a' if value is None else format(value, '.4f')}")
