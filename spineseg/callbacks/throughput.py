"""Training speed and memory in the log."""

import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from spineseg.costs import peak_memory
from spineseg.progress import inside_epoch


class Throughput(Callback):
    """Logs `train/images_per_second` and `train/iterations_per_second` over the batches since the last logged step.

    Waiting for the loader counts; validation and the first batch of an epoch (workers starting) do not. Images of all
    ranks count; images are slices or patches, an iteration is a batch. At the end of an epoch come the first
    process's peaks of memory so far, `train/peak_ram_mb` and, where there is a GPU, `train/peak_vram_mb`.
    """

    def __init__(self) -> None:
        self._images = 0
        self._iterations = 0
        self._seconds = 0.0
        self._mark: float | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A run that goes on inside an epoch times its first batch from here: the row is logged as in any other run."""
        self._mark = time.perf_counter() if inside_epoch(trainer) else None

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the clock: what lay between two epochs is not training."""
        self._mark = None

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the clock before validation inside an epoch."""
        self._mark = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the batch; log at the trainer's `log_every_n_steps`."""
        now = time.perf_counter()
        if self._mark is not None:
            self._seconds += now - self._mark
            self._images += int(batch["images"].shape[0]) * trainer.world_size
            self._iterations += 1
        self._mark = now
        if self._seconds > 0 and trainer._logger_connector.should_update_logs:
            speeds = {
                "train/images_per_second": self._images / self._seconds,
                "train/iterations_per_second": self._iterations / self._seconds,
            }
            pl_module.log_dict(speeds, on_step=True, on_epoch=False, batch_size=1)
            self._images, self._iterations, self._seconds = 0, 0, 0.0

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the peaks of memory so far."""
        peaks = {f"train/{name}": value for name, value in peak_memory().items()}
        pl_module.log_dict(peaks, on_step=False, on_epoch=True, batch_size=1)

    def state_dict(self) -> dict[str, Any]:
        """Return what was counted since the last logged step."""
        return {"images": self._images, "iterations": self._iterations, "seconds": self._seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it."""
        self._images, self._seconds = int(state_dict["images"]), float(state_dict["seconds"])
        self._iterations = int(state_dict.get("iterations", 0))
