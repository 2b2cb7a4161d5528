"""The program ``train``: raw scans in, a trained, tracked and scored run out."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from spineseg.config import check, program

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger

    from spineseg.data.datamodules import SliceDataModule
    from spineseg.runs import Run
    from spineseg.trained import TrainedModel

# What a resumed run may change: where it runs and what is scored after it, not what is trained.
HARDWARE = ("accelerator", "devices", "num_nodes", "strategy", "precision", "enable_progress_bar")
SHOWN = ("mask_map50_native", "mask_map50", "box_map50", "mask_map50_named", "dice", "dice_spine")


@program("train")
def main(cfg: DictConfig) -> None:
    """Fit, then predict and score the splits that are asked for."""
    from spineseg.runs import create_run, find_run, read_config

    overrides = command_line_overrides()
    if cfg.resume is not None:
        run = find_run(cfg.resume, Path(cfg.paths.runs))
        cfg = resumed_config(read_config(run), cfg, overrides)
        check(cfg)
        fit_and_score(cfg, run, resume=True)
    else:
        check(cfg)
        # The data is looked at before a run folder exists: a missing set leaves nothing behind.
        fit_and_score(cfg, None, resume=False, make_run=lambda: create_run(cfg, overrides))


def command_line_overrides() -> list[str]:
    """What stood on the command line; empty when the program was called from Python."""
    from hydra.core.hydra_config import HydraConfig

    return list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []


def resumed_config(kept: DictConfig, given: DictConfig, overrides: list[str]) -> DictConfig:
    """The run's own configuration with the hardware that is asked for now.

    Args:
        kept: of the run.
        given: composed from this command line.
        overrides: of this command line.

    Raises:
        ConfigError: another override than hardware: the numbers would be of two configurations.
    """
    from omegaconf import open_dict

    from spineseg.errors import ConfigError

    allowed = {
        "resume",
        "trainer",
        "data.workers",
        "paths.runs",
        "score_splits",
        *(f"trainer.{key}" for key in HARDWARE),
    }
    other = [each for each in overrides if each.lstrip("+~").partition("=")[0] not in allowed]
    if other:
        raise ConfigError(
            f"resume= goes on with the run's own configuration; {', '.join(other)} cannot change it. "
            "Only hardware (trainer=…, trainer.devices=…, data.workers=…) and score_splits= may differ; "
            "init_from= starts a new run"
        )
    named = {each.lstrip("+").partition("=")[0] for each in overrides}
    with open_dict(kept):
        for key in HARDWARE:
            if key in given.trainer and ("trainer" in named or f"trainer.{key}" in named):
                kept.trainer[key] = given.trainer[key]
        if "data.workers" in named:
            kept.data.workers = given.data.workers
        if "score_splits" in named:
            kept.score_splits = given.score_splits
    return kept


def fit_and_score(cfg: DictConfig, run: "Run | None", *, resume: bool, make_run: Any = None) -> None:
    """Train, predict, evaluate; the last lines printed are mAP50 and Dice."""
    # Heavy imports wait until the configuration is known to be right.
    import lightning
    from lightning.pytorch.loggers import Logger

    from spineseg.callbacks.panels import Panels
    from spineseg.checkpoints import read_checkpoint, steps_done
    from spineseg.errors import DataError
    from spineseg.hardware import build_trainer
    from spineseg.provenance import write_provenance
    from spineseg.runs import best_checkpoint, find_run
    from spineseg.targets import build
    from spineseg.trained import build_datamodule, build_task, load_weights, trained_model

    datamodule = build_datamodule(cfg)
    # Cheap questions first: are there files, can the weights be had; then the audit, which reads all of them.
    if not datamodule.source.download:
        datamodule.source.cases()
    # Weights of a new network are the only draw from the global generator.
    lightning.seed_everything(cfg.seed, verbose=False)
    task = build_task(cfg, datamodule, pretrained=not resume)
    split = datamodule.split()
    if cfg.init_from is not None and not resume:
        load_weights(task, best_checkpoint(find_run(cfg.init_from, Path(cfg.paths.runs))))
    run = run or make_run()
    assert run is not None
    steps = None
    if resume and not run.last.is_file():
        raise DataError(f"{run.root}: no checkpoint to resume from; it ended before its first epoch: start it again")
    if resume:
        steps = steps_done(read_checkpoint(run.last))
    loggers = [
        build(node, Logger, run_folder=run.root, resumed_step=steps)  # type: ignore[type-abstract]
        for node in cfg.logger.values()
        if node is not None
    ]
    callbacks = [build(node, lightning.Callback) for node in cfg.callbacks.values() if node is not None]
    for callback in callbacks:
        if isinstance(callback, Panels):
            callback.simulated = datamodule.prepared.simulated
    trainer = build_trainer(cfg.trainer, logger=loggers, callbacks=callbacks, default_root_dir=str(run.root))
    write_provenance(run, **facts(cfg, datamodule, task, trainer))
    if trainer.is_global_zero:
        announce(run, datamodule, split)
        for logger in loggers:
            logger.log_hyperparams(_plain(cfg) | {"simulated": datamodule.prepared.simulated})
    started = time.perf_counter()
    trainer.fit(task, datamodule=datamodule, ckpt_path=run.last if resume else None, weights_only=True)
    if trainer.interrupted:
        raise KeyboardInterrupt
    seconds = time.perf_counter() - started
    if trainer.world_size > 1:
        trainer.strategy.barrier()
        if not trainer.is_global_zero:
            return
    write_provenance(run, fit_seconds=round(seconds, 1))
    threshold = load_weights(task, best_checkpoint(run))
    model = trained_model(task, datamodule, threshold, simulated=datamodule.prepared.simulated)
    for name in cfg.score_splits:
        score(cfg, run, model, datamodule, name, loggers, fit_seconds=seconds)
    for logger in loggers:
        close = getattr(logger, "close", None)
        if close is not None:
            close()


def facts(cfg: DictConfig, datamodule: "SliceDataModule", task: Any, trainer: Any) -> dict[str, Any]:
    """What provenance.json cannot find out by itself."""
    from spineseg.data.files import sha256_of_text

    prepared = datamodule.prepared
    return {
        "seed": int(cfg.seed),
        "fold": datamodule.fold,
        "precision": str(trainer.precision),
        "devices": trainer.num_devices * trainer.num_nodes,
        "simulated": prepared.simulated,
        "overfit": datamodule.overfit,
        "data": prepared.root.name,
        "data_hash": sha256_of_text((prepared.root / "cases.csv").read_text(encoding="utf-8")),
        "split_hash": sha256_of_text((prepared.root / "splits.json").read_text(encoding="utf-8")),
        "parameters": sum(parameter.numel() for parameter in task.net.parameters()),
        "classes": list(task.classes),
    }


def announce(run: "Run", datamodule: "SliceDataModule", split: Any) -> None:
    """Say what is about to be trained on what."""
    prepared = datamodule.prepared
    kind = "simulated " if prepared.simulated else ""
    counts = ", ".join(
        f"{len(ids)} {name}" for name, ids in (("train", split.train), ("val", split.val), ("test", split.test))
    )
    print(f"run {run.root}")
    print(f"{kind}{prepared.root.name}: {len(prepared.cases)} cases ({counts}), {datamodule.channels} channels")
    if datamodule.overfit:
        print(f"OVERFIT CHECK: trained and validated on {datamodule.overfit} alone")


def score(
    cfg: DictConfig,
    run: "Run",
    model: "TrainedModel",
    datamodule: "SliceDataModule",
    split_name: str,
    loggers: "list[Logger]",
    *,
    fit_seconds: float,
) -> None:
    """Predict a split with the best weights, evaluate it, write and print the results."""
    from functools import partial

    from spineseg.data.scans import Scan
    from spineseg.errors import ConfigError, DataError
    from spineseg.evaluate import Reference, evaluate_folder
    from spineseg.predict import predict_scans
    from spineseg.provenance import peak_memory
    from spineseg.runs import write_results

    split, prepared, source = datamodule.split(), datamodule.prepared, datamodule.source
    if split_name not in ("train", "val", "test"):
        raise ConfigError(f"score_splits: expected train, val or test, found {split_name}")
    cases = [prepared.case(case_id) for case_id in getattr(split, split_name)]
    if not cases:
        print(f"{split_name}: no cases in this split, nothing to score")
        return
    started = time.perf_counter()
    failures = predict_scans(
        model,
        [Scan(case.id, partial(source.read_image, case)) for case in cases],
        run.predictions(split_name),
        trainer=cfg.trainer,
        provenance={"run": run.name, "split": split_name},
    )
    predict_seconds = time.perf_counter() - started
    if failures:
        listed = "\n  ".join(f"{case}: {reason}" for case, reason in failures.items())
        raise DataError(f"{split_name}: {len(failures)} of {len(cases)} scans failed, so it is not scored:\n  {listed}")
    references = [
        Reference(case.id, case.subject, partial(source.read_labels, case), case.cut_levels, case.source)
        for case in cases
    ]
    metrics = evaluate_folder(
        references,
        run.predictions(split_name),
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


def print_scores(run: "Run", split_name: str, metrics: dict[str, Any], model: "TrainedModel", cases: int) -> None:
    """Print the headline numbers of a split."""
    notes = ["simulated"] if model.simulated else []
    notes += [f"overfit check on {model.overfit}"] if model.overfit else []
    print(f"{split_name}: {cases} case{'s' * (cases != 1)}{', ' * bool(notes)}{', '.join(notes)} → {run.results}")
    for name in SHOWN:
        if name in metrics:
            value = metrics[name]["value"]
            print(f"  {name:<18} {'n/a' if value is None else format(value, '.4f')}")


def _plain(cfg: DictConfig) -> dict[str, Any]:
    from spineseg.targets import plain

    return dict(plain(cfg))


if __name__ == "__main__":
    main()
