"""Where a training run is, read from Lightning's loops, and what its checkpoints leave out of that.

Left out are values on their way to the log, and means of an epoch that is not over.
"""

from typing import Any

import torch
from lightning.pytorch import Trainer


def inside_epoch(trainer: Trainer) -> bool:
    """Whether an epoch has begun whose training is not over; also asked of a checkpoint that was just read."""
    progress: Any = trainer.fit_loop.epoch_progress.current
    return bool(progress.ready > progress.processed)


def position(trainer: Trainer) -> tuple[int, int]:
    """Epochs that a run has behind it and batches of the one it is in; (0, 0) for a new run.

    To be asked before the epoch loop starts, when a checkpoint's progress is as it was written.
    """
    epochs: Any = trainer.fit_loop.epoch_progress.current
    batches: Any = trainer.fit_loop.epoch_loop.batch_progress.current
    return int(epochs.processed), int(batches.processed) if inside_epoch(trainer) else 0


def unlogged(trainer: Trainer) -> dict[str, Any]:
    """Return the values that are logged only after the save: those of the batch, or of the epoch, that has just ended.

    Returns:
        `step` (batches before the one that has just ended), `epoch` and `values` by name.
    """
    connector, inside = trainer._logger_connector, inside_epoch(trainer)
    batches: Any = trainer.fit_loop.epoch_loop.batch_progress.total
    values = connector.metrics["log"] if connector.should_update_logs or not inside else {}
    return {
        "step": batches.processed - 1,
        "epoch": trainer.current_epoch,
        "values": {name: float(value) for name, value in values.items()},
    }


def log_missing(trainer: Trainer, kept: dict[str, Any]) -> None:
    """Hand the values to the loggers that can tell whether they have them."""
    for logger in trainer.loggers:
        take = getattr(logger, "log_missing", None)
        if take is not None:
            take({**kept["values"], "epoch": kept["epoch"]}, kept["step"])


def epoch_means(trainer: Trainer) -> dict[str, list[float]]:
    """Return sum and weight of each value that `log(on_epoch=True)` averages over the epoch, so far; {} at its end."""
    if not inside_epoch(trainer):
        return {}
    items = dict(trainer.fit_loop.epoch_loop._results.valid_items())
    means = {key: item for key, item in items.items() if item.meta.on_epoch and item.meta.is_mean_reduction}
    return {key: [float(item.value), float(item.cumulated_batch_size)] for key, item in means.items() if item.is_tensor}


def add_means(trainer: Trainer, kept: dict[str, list[float]]) -> dict[str, list[float]]:
    """Add them to those of the first batch after a resume; as a + b = b + a, the sum is that of the whole run.

    Returns:
        Those that were not logged in this batch, and have to wait for a later one.
    """
    results = trainer.fit_loop.epoch_loop._results
    for key in kept.keys() & results.keys():
        (value, weight), item = kept[key], results[key]
        item.value = item.value + torch.tensor(value, dtype=item.value.dtype, device=item.value.device)
        item.cumulated_batch_size = item.cumulated_batch_size + int(weight)
    return {key: pair for key, pair in kept.items() if key not in results}
