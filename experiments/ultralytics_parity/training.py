"""Both trainers, each in a process of its own: weights, images a second, peak memory."""

import json
import resource
import time
from pathlib import Path
from typing import Any

import lightning
import torch
from recipe import Recipe, our_overrides, their_settings

import spineseg.models.yolo  # noqa: F401  first: sets what Ultralytics reads at import (no downloads, no settings at home)


class Clock(lightning.Callback):
    """When each batch ended, by epoch, as ``their`` callback notes it."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self.stamps: list[list[float]] = []

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Start a row."""
        self.stamps.append([])

    def on_train_batch_end(self, *_: Any) -> None:
        """Note the time."""
        self.stamps[-1].append(time.perf_counter())

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Write the times where the job reads them."""
        self.path.write_text(json.dumps(self.stamps))


def images_a_second(stamps: list[list[float]], batch: int) -> float | None:
    """Over full batches but each epoch's first: reading, augmentation and steps, no validation."""
    spans = [(len(epoch) - 1, epoch[-1] - epoch[0]) for epoch in stamps if len(epoch) > 1]
    count, seconds = sum(n for n, _ in spans), sum(s for _, s in spans)
    return round(batch * count / seconds, 3) if seconds else None


def resident_mb() -> float:
    """Memory of this process now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def peak_mb() -> float:
    """Most memory of this process so far (Linux: kilobytes)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def ours(
    recipe: Recipe, work: Path, *, name: str, seed: int, precision: str, size: list[int], workers: int = 0
) -> dict[str, Any]:
    """``spineseg.train`` in this process; it leaves each loader process a processor."""
    # All that a run imports, so that the baseline holds it.
    from spineseg.config import compose
    from spineseg.runs import find_run
    from spineseg.train import main

    torch.set_num_threads(recipe.threads)
    clock = work / "jobs" / f".{name}-clock.json"
    overrides = our_overrides(recipe, work, name=name, seed=seed, precision=precision, size=size, workers=workers)
    # A target must be a class of a loaded module; this file is imported as `training`.
    cfg = compose("train", [*overrides, "+callbacks.clock._target_=training.Clock", f"+callbacks.clock.path={clock}"])
    baseline, started = resident_mb(), time.perf_counter()
    main(cfg)
    seconds, peak = time.perf_counter() - started, peak_mb()
    run = find_run(f"csi2014/{name}", work / "runs")
    stamps = json.loads(clock.read_text())
    return {
        "weights": str(run.root),
        "images_a_second": images_a_second(stamps, recipe.batch),
        "memory_mb": round(peak - baseline, 1),
        "baseline_mb": round(baseline, 1),
        "seconds": round(seconds, 1),
        "threads": torch.get_num_threads(),
        "precision": precision,
    }


def theirs(
    recipe: Recipe, work: Path, *, name: str, seed: int, cache: bool, size: list[int], workers: int = 0
) -> dict[str, Any]:
    """Ultralytics' trainer in this process, with its threads set back to the recipe's."""
    import polars  # noqa: F401  its trainer imports it when it saves: part of the baseline, not of the training
    from ultralytics.models.yolo.segment import SegmentationTrainer, SegmentationValidator  # noqa: F401

    stamps: list[list[float]] = []
    threads: list[int] = []

    def start(trainer: Any) -> None:
        torch.set_num_threads(recipe.threads)  # its device selection takes one thread on two cores

    def epoch(trainer: Any) -> None:
        stamps.append([])
        threads.append(torch.get_num_threads())

    def batch(trainer: Any) -> None:
        stamps[-1].append(time.perf_counter())

    baseline, started = resident_mb(), time.perf_counter()
    settings = their_settings(recipe, work, name=name, seed=seed, cache=cache, size=size, workers=workers)
    trainer = SegmentationTrainer(overrides=settings)
    for event, callback in (("on_train_start", start), ("on_train_epoch_start", epoch), ("on_train_batch_end", batch)):
        trainer.add_callback(event, callback)
    trainer.train()
    seconds, peak = time.perf_counter() - started, peak_mb()
    count = len(trainer.train_loader.dataset)
    if count % recipe.batch:  # the last batch of an epoch is smaller
        stamps = [epoch_stamps[:-1] for epoch_stamps in stamps]
    return {
        "weights": str(trainer.best if trainer.best.is_file() else trainer.last),
        "images_a_second": images_a_second(stamps, recipe.batch),
        "memory_mb": round(peak - baseline, 1),
        "baseline_mb": round(baseline, 1),
        "seconds": round(seconds, 1),
        "threads": threads[-1],
        "precision": "32",
    }
