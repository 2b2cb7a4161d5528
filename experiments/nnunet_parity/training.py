"""Both trainers, each in a process of its own: weights, iterations a second, Dice on the test subjects."""

import json
import os
import time
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import scans
import torch
from recipe import Recipe, our_config

from spineseg.data.sources import Source
from spineseg.metrics.folder import evaluate_folder
from spineseg.metrics.references import Reference
from spineseg.models.nnunet import nnunet_folders
from spineseg.models.nnunet_raw import data_set_name
from spineseg.volumes import read_volume, write_volume

METRICS = ("dice_spine", "dice")
# By the wall, and by the processor, which counts what a process and its threads did whatever else the machine does.
SPEEDS = ("iterations_a_second", "iterations_a_processor_second")
Stamps = list[list[tuple[float, float]]]


def now() -> tuple[float, float]:
    """Seconds of both clocks."""
    return time.perf_counter(), time.process_time()


class Clock(lightning.Callback):
    """When each batch ended, by epoch."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self.stamps: Stamps = []

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Start a row."""
        self.stamps.append([])

    def on_train_batch_end(self, *_: Any) -> None:
        """Note the time."""
        self.stamps[-1].append(now())

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Write the times where the job reads them."""
        self.path.write_text(json.dumps(self.stamps))


def speeds(stamps: Stamps) -> dict[str, float | None]:
    """From the end of an epoch's first batch to that of its last: reading, augmentation and steps, no validation."""
    found: dict[str, float | None] = {}
    for clock, name in enumerate(SPEEDS):
        spans = [(len(epoch) - 1, epoch[-1][clock] - epoch[0][clock]) for epoch in stamps if len(epoch) > 1]
        count, seconds = sum(n for n, _ in spans), sum(s for _, s in spans)
        found[name] = round(count / seconds, 3) if seconds else None
    return found


def ours(recipe: Recipe, work: Path, *, name: str, seed: int, precision: str, epochs: int) -> dict[str, Any]:
    """``spineseg.train`` in this process; it scores the test subjects itself."""
    from omegaconf import OmegaConf

    from spineseg.runs import find_run
    from spineseg.train import main

    torch.set_num_threads(recipe.threads)
    clock = work / "jobs" / f".{name}-clock.json"
    cfg = our_config(recipe, work, scans.settings(work), name=name, seed=seed, precision=precision, epochs=epochs)
    # A target must be a class of a loaded module; this file is imported as `training`.
    node = {"_target_": "training.Clock", "path": str(clock)}
    OmegaConf.update(cfg, "callbacks.clock", node, force_add=True)
    started = time.perf_counter()
    main(cfg)
    run = find_run(f"{cfg.run.group}/{name}", work / "runs")
    results = json.loads((run.root / "results.json").read_text())["splits"]["test"]
    return {
        "weights": str(run.root),
        **speeds(json.loads(clock.read_text())),
        "seconds": round(time.perf_counter() - started, 1),
        "threads": torch.get_num_threads(),
        "precision": precision,
        **{metric: results[metric]["value"] for metric in METRICS},
    }


def theirs(recipe: Recipe, work: Path, *, name: str, seed: int, epochs: int) -> dict[str, Any]:
    """nnU-Net's trainer in this process, one process and the recipe's threads, as ours; then its predictor."""
    prepared, source, split = scans.opened(recipe, work)
    root = work / "nnunet"
    # Its loader in this process, as ours is.
    os.environ["nnUNet_n_proc_DA"] = "0"  # noqa: SIM112  its names
    started = time.perf_counter()
    with nnunet_folders(root):
        # A folder a seed: it names its own by data set and plans.
        os.environ["nnUNet_results"] = str(work / "theirs" / name)  # noqa: SIM112
        trainer, stamps = _trainer(recipe, root / "nnUNet_preprocessed" / data_set_name(source), seed, epochs)
        trainer.run_training()
        folder = Path(trainer.output_folder_base)
        predictions = work / "predictions" / name
        _predict(folder, root / "test", split.test, source, predictions)
    references = [
        Reference(case.id, case.subject, partial(source.read_labels, case), case.cut_levels, case.source)
        for case in map(prepared.case, split.test)
    ]
    results = evaluate_folder(
        references,
        predictions,
        work / "evaluation" / name,
        edge=source.edge,
        run=name,
        split="test",
        simulated=prepared.simulated,
        seed=seed,
    )
    return {
        "weights": str(folder / "fold_0" / "checkpoint_final.pth"),
        **speeds(stamps),
        "seconds": round(time.perf_counter() - started, 1),
        "threads": torch.get_num_threads(),
        "precision": "32",
        **{metric: results[metric]["value"] for metric in METRICS},
    }


def _trainer(recipe: Recipe, folder: Path, seed: int, epochs: int) -> tuple[Any, Stamps]:
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    torch.set_num_threads(recipe.threads)
    np.random.seed(seed)  # noqa: NPY002  its draws are global
    torch.manual_seed(seed)
    plans = json.loads((folder / "nnUNetPlans.json").read_text()) | {"continue_training": False}
    dataset = json.loads((folder / "dataset.json").read_text())
    trainer = nnUNetTrainer(plans, "3d_fullres", 0, dataset, device=torch.device("cpu"))
    trainer.num_epochs, trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch = (
        epochs,
        recipe.iterations,
        1,
    )
    configure = trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size
    turn = plans["transpose_forward"]
    # Its axis of our z, head–foot: SimpleITK's first.
    allowed = tuple(i for i in range(3) if turn[i] != 0)

    def without_head_foot() -> Any:
        rotation, flat, read, _ = configure()
        trainer.inference_allowed_mirroring_axes = allowed
        return rotation, flat, read, allowed

    trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size = without_head_foot
    stamps: Stamps = []
    step, begin = trainer.train_step, trainer.on_train_epoch_start

    def timed_step(batch: Any) -> Any:
        result = step(batch)
        stamps[-1].append(now())
        return result

    def timed_begin() -> None:
        stamps.append([])
        begin()

    trainer.train_step, trainer.on_train_epoch_start = timed_step, timed_begin
    return trainer, stamps


def _predict(folder: Path, images: Path, cases: tuple[str, ...], source: Source, output: Path) -> None:
    """Label maps of the test scans by its predictor, with our level ids; no mirroring, as ours."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(folder), use_folds=(0,))
    raw = output.with_name(f"{output.name}-classes")
    raw.mkdir(parents=True, exist_ok=True)
    predictor.predict_from_files_sequential(
        [[str(images / f"{case}_0000.nii.gz")] for case in cases], [str(raw / case) for case in cases]
    )
    table = np.zeros(256, np.uint8)
    table[1 : len(source.levels) + 1] = source.levels
    for case in cases:
        found = read_volume(raw / f"{case}.nii.gz")
        write_volume(output / f"{case}.nii.gz", found.with_array(table[found.array.astype(np.uint8)]))
