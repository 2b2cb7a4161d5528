"""The program ``train``: raw scans in, a trained, tracked and scored run out."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, open_dict

from spineseg.config import check, program
from spineseg.errors import ConfigError, DataError

if TYPE_CHECKING:
    import lightning

    from spineseg.data.loading import CaseDataModule
    from spineseg.data.splits import Split
    from spineseg.models.nnunet_settings import PlannedSettings
    from spineseg.runs import Run

# What a resumed run may change: where it runs and what is scored after it, not what is trained.
HARDWARE = ("accelerator", "devices", "num_nodes", "strategy", "precision", "enable_progress_bar")
SPLITS = ("train", "val", "test")
# The value that chooses the best checkpoint (CONTRACTS): of detectors by their classes, of label maps Dice.
MONITORS = {"vertebra": "val/mask_map50", "levels": "val/mask_map50_named"}
LABEL_MAP_MONITOR = "val/dice"


@program("train")
def main(cfg: DictConfig) -> None:
    """Fit, then predict and score the splits that are asked for."""
    from spineseg.runs import create_run, find_run, read_config

    overrides = command_line_overrides()
    if in_sweep() and has_processes(cfg):
        run_apart(overrides)
        return
    if cfg.resume is not None:
        run = find_run(cfg.resume, Path(cfg.paths.runs))
        cfg = resumed_config(read_config(run), cfg, overrides)
        check_train(cfg)
        fit_and_score(cfg, run)
    else:
        check_train(cfg)
        # The data is looked at before a run folder exists: a missing set leaves nothing behind.
        fit_and_score(cfg, lambda settled: create_run(settled, overrides))


def command_line_overrides() -> list[str]:
    """What stood on the command line, of a sweep its part for this job; empty when called from Python."""
    from hydra.core.hydra_config import HydraConfig

    return list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []


def in_sweep() -> bool:
    """Whether this is a job of `-m`."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def has_processes(cfg: DictConfig) -> bool:
    """Whether Lightning may start more processes for the training."""
    return str(cfg.trainer.get("devices", 1)) != "1" or "ddp" in str(cfg.trainer.get("strategy", ""))


def run_apart(overrides: list[str]) -> None:
    """Run a job of a sweep by a command of its own, and wait for its end.

    The processes that Lightning starts repeat their parent's command line: the job's here, the whole sweep's otherwise.
    Nor could a second job start processes in an interpreter whose first one has joined a process group.

    Raises:
        DataError: it failed; what it printed says why.
    """
    import signal
    import subprocess

    with subprocess.Popen([sys.executable, "-m", "spineseg.train", *overrides]) as job:
        before = signal.signal(signal.SIGTERM, lambda *_: job.send_signal(signal.SIGTERM))
        try:
            code = job.wait()
        finally:
            signal.signal(signal.SIGTERM, before)
    if code in (130, 143):
        sys.exit(code)
    if code:
        raise DataError(f"a job of the sweep ended with {code}: {' '.join(overrides)}")


def check_train(cfg: DictConfig) -> None:
    """Check the configuration and settle what follows from it, before any file is read."""
    if "checkpoints" in cfg.callbacks and cfg.callbacks.checkpoints is not None:
        with open_dict(cfg):
            if cfg.callbacks.checkpoints.monitor == "auto":
                detector = str(cfg.task.get("_target_")).endswith(".InstanceSegmentation2D")
                by_classes = MONITORS.get(str(cfg.data.get("classes")), "val/mask_map50")
                cfg.callbacks.checkpoints.monitor = by_classes if detector else LABEL_MAP_MONITOR
    check(cfg)
    epochs = cfg.trainer.get("max_epochs")
    if epochs is None or epochs < 1:
        raise ConfigError(
            f"trainer.max_epochs={epochs}: the learning rate's schedule needs a number of epochs from 1 on; "
            "trainer.max_time may end a run before it"
        )
    unknown = sorted(set(cfg.score_splits) - set(SPLITS))
    if unknown:
        raise ConfigError(f"score_splits: expected any of {', '.join(SPLITS)}, found {', '.join(unknown)}")


def resumed_config(kept: DictConfig, given: DictConfig, overrides: list[str]) -> DictConfig:
    """The run's own configuration with the hardware that is asked for now.

    Args:
        kept: of the run.
        given: composed from this command line.
        overrides: of this command line.

    Raises:
        ConfigError: another override than hardware: the numbers would be of two configurations.
    """
    allowed = {"resume", "trainer", "data.workers", "paths.runs", "score_splits", *(f"trainer.{k}" for k in HARDWARE)}
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
            # Precision is of the numbers, too: another machine's preset does not change it, its own name does.
            if key in given.trainer and (f"trainer.{key}" in named or ("trainer" in named and key != "precision")):
                kept.trainer[key] = given.trainer[key]
        if "data.workers" in named:
            kept.data.workers = given.data.workers
        if "score_splits" in named:
            kept.score_splits = given.score_splits
    return kept


def fit_and_score(cfg: DictConfig, run_or_maker: Any) -> None:
    """Train, predict, evaluate; the last lines printed are mAP50 and Dice.

    Args:
        cfg: root configuration.
        run_or_maker: the run to resume, or a function that makes a new one of the configuration as it is settled once
            the data has been looked at.
    """
    # Heavy imports wait until the configuration is known to be right.
    import lightning
    from lightning.pytorch.loggers import Logger

    from spineseg.callbacks.panels import Pictures
    from spineseg.checkpoints import read_checkpoint, steps_done
    from spineseg.hardware import build_trainer, training_threads
    from spineseg.lineage import check_ancestor, check_same_data, facts, seen_subjects
    from spineseg.provenance import write_provenance
    from spineseg.ranks import run_of_all
    from spineseg.runs import Run, best_checkpoint, find_run
    from spineseg.scoring import score_split
    from spineseg.targets import build, plain
    from spineseg.trained import TrainedModel, build_datamodule, build_task, load_weights

    resumed = run_or_maker if isinstance(run_or_maker, Run) else None
    # A run that was killed before its first checkpoint goes on from its start.
    saved = resumed is not None and resumed.last.is_file()
    cfg, plan = settled(cfg)
    datamodule = build_datamodule(cfg)
    # Cheap questions first: are there files, can the weights be had; then the audit, which reads all of them.
    if not datamodule.source.download:
        datamodule.source.cases()
    # Weights of a new network are the only draw from the global generator.
    lightning.seed_everything(cfg.seed, verbose=False)
    task = build_task(cfg, datamodule, pretrained=not saved)
    split = datamodule.split()
    resumed_step = None if resumed is None else 0
    seen: dict[str, list[str]] = {}
    if resumed is not None and resumed.provenance.is_file():
        check_same_data(resumed, datamodule)
    if resumed is not None and saved:
        resumed_step = steps_done(read_checkpoint(resumed.last))
    else:
        ancestor = find_run(cfg.init_from, Path(cfg.paths.runs)) if cfg.init_from is not None else None
        if ancestor is not None:
            check_ancestor(ancestor, datamodule)
            load_weights(task, best_checkpoint(ancestor))
        seen = {"seen_subjects": seen_subjects(datamodule, ancestor)}
    callbacks = [build(node, lightning.Callback) for node in cfg.callbacks.values() if node is not None]
    for callback in callbacks:
        if isinstance(callback, Pictures):
            callback.simulated = datamodule.prepared.simulated
    trainer = build_trainer(cfg.trainer, logger=False, callbacks=callbacks)
    run = resumed or run_of_all(trainer, lambda: run_or_maker(cfg))
    # The trainer knows the process's rank, which decides who makes the folder that loggers and callbacks write to.
    trainer._default_root_dir = str(run.root)  # type: ignore[attr-defined]  # set by a connector
    trainer.loggers = loggers = [
        build(node, Logger, run_folder=run.root, resumed_step=resumed_step)  # type: ignore[type-abstract]
        for node in cfg.logger.values()
        if node is not None
    ]
    if trainer.is_global_zero:
        write_provenance(run, **facts(cfg, datamodule, task, trainer), **seen)
        if plan is not None:
            plan.write(run.root / "nnunet.json")
        announce(run, datamodule, split, task)
        for logger in loggers:
            logger.log_hyperparams(dict(plain(cfg)) | {"simulated": datamodule.prepared.simulated})
    with training_threads(datamodule.loader_workers, trainer):
        fit(trainer, task, datamodule, run, resume=saved)
    if trainer.world_size > 1:
        trainer.strategy.barrier()
        if not trainer.is_global_zero:
            return
    write_provenance(run, fit_seconds=round(task.fit_seconds, 1))
    seconds = task.fit_seconds
    threshold = load_weights(task, best_checkpoint(run))
    model = TrainedModel(task, datamodule, threshold, simulated=datamodule.prepared.simulated)
    for name in cfg.score_splits:
        score_split(cfg, run, model, name, loggers, fit_seconds=seconds)
    for logger in loggers:
        close = getattr(logger, "close", None)
        if close is not None:
            close()


def settled(cfg: DictConfig) -> "tuple[DictConfig, PlannedSettings | None]":
    """The configuration with what nnU-Net's planner decides, where the recipe leaves that to it, and the plan."""
    if "architecture" not in cfg.model or cfg.model.architecture is not None:
        return cfg, None
    from spineseg.planning import planned

    return planned(cfg)


def fit(trainer: "lightning.Trainer", task: Any, datamodule: Any, run: "Run", *, resume: bool) -> None:
    """Fit; a run that is stopped ends with 143 (SIGTERM, after a save) or 130 (Ctrl-C) and says how to go on."""
    from lightning.pytorch.utilities.exceptions import SIGTERMException

    try:
        trainer.fit(task, datamodule=datamodule, ckpt_path=run.last if resume else None, weights_only=True)
    except SystemExit as stop:
        # Lightning ends the process with 0 or 1 here, which a scheduler would take for done or failed.
        if trainer.is_global_zero:
            print(f"stopped; go on with: python -m spineseg.train resume={run.root}", file=sys.stderr, flush=True)
        sys.exit(143 if isinstance(stop, SIGTERMException) else 130)


def announce(run: "Run", datamodule: "CaseDataModule", split: "Split", task: Any) -> None:
    """Say what is about to be trained on what."""
    prepared = datamodule.prepared
    kind = "simulated " if prepared.simulated else ""
    counts = ", ".join(f"{len(getattr(split, name))} {name}" for name in SPLITS)
    print(f"run {run.root}")
    print(f"{kind}{prepared.root.name}: {len(prepared.cases)} cases ({counts}), {datamodule.channels} channels")
    size = sum(parameter.numel() for parameter in task.net.parameters()) / 1e6
    print(f"{type(task.net).__name__} with {size:.1f} M parameters, classes: {', '.join(task.classes)}")
    if prepared.exclusions.note is not None:
        print(prepared.exclusions.note)
    if datamodule.overfit:
        print(f"OVERFIT CHECK: trained and validated on {datamodule.overfit} alone")


if __name__ == "__main__":
    main()
