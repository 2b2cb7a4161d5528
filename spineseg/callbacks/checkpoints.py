"""`last.ckpt` every epoch and `best.ckpt` by a monitored value."""

import contextlib
import math
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from spineseg.checkpoints import publish
from spineseg.errors import ConfigError, DataError


class Checkpoints(Checkpoint):
    """Saves the whole training state at the end of every epoch, atomically and sealed by SHA-256.

    Lightning's ModelCheckpoint is not used because it skips an epoch without an optimiser step (accumulation), counts
    versions into the file's name after a resume, keeps absolute paths in its state and takes NaN for a score.

    The epoch's values are logged after its checkpoint is saved. They travel in the checkpoint, so that a run killed in
    between logs them on resume: the log has no gap.

    Args:
        monitor: Name of the logged value that chooses `best.ckpt`; null keeps only `last.ckpt`.
        mode: Whether a higher (`max`) or a lower (`min`) value is better; NaN is never better.
        every_n_epochs: Epochs between two saves of `last.ckpt`; a better value is always saved.
    """

    def __init__(
        self, monitor: str | None = None, mode: Literal["max", "min"] = "max", every_n_epochs: int = 1
    ) -> None:
        if mode not in ("max", "min") or every_n_epochs < 1:
            raise ConfigError(
                f"checkpoints: mode={mode}, every_n_epochs={every_n_epochs}; expected max or min, and ≥ 1"
            )
        self.monitor = monitor
        self.mode = mode
        self.every_n_epochs = every_n_epochs
        self.best_value: float | None = None
        self.best_epoch: int | None = None
        self._unlogged: dict[str, Any] | None = None

    def folder(self, trainer: Trainer) -> Path:
        """Return the folder of the checkpoints, below the run folder."""
        return Path(trainer.default_root_dir) / "checkpoints"

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save, first under the name `best.ckpt` if it is, so that `last.ckpt` never knows a best that is not there."""
        better = self._is_better(trainer)
        due = (trainer.current_epoch + 1) % self.every_n_epochs == 0 or trainer.current_epoch + 1 == trainer.max_epochs
        if trainer.sanity_checking or trainer.fast_dev_run or not (better or due):  # type: ignore[attr-defined]
            return
        folder = self.folder(trainer)
        partial = folder / ".partial.ckpt"
        names = ["best.ckpt", "last.ckpt"] if better else ["last.ckpt"]
        try:
            if trainer.is_global_zero:
                folder.mkdir(parents=True, exist_ok=True)
            trainer.save_checkpoint(partial)
            if trainer.is_global_zero:
                publish(partial, [folder / name for name in names])
        except OSError as error:
            with contextlib.suppress(OSError):
                partial.unlink()
            raise DataError(
                f"{folder}: the checkpoint of epoch {trainer.current_epoch} could not be written ({error}); "
                "the one before is whole: make room and go on with resume="
            ) from error
        trainer.strategy.barrier()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Store the values of this epoch that are logged only after the save."""
        values = trainer._logger_connector.metrics["log"]
        plain = {name: float(value) for name, value in values.items()}
        step = trainer.fit_loop.epoch_loop._batches_that_stepped - 1
        checkpoint["unlogged"] = {"step": step, "epoch": trainer.current_epoch, "values": plain}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Remember the values that the killed run may not have logged any more."""
        self._unlogged = checkpoint.get("unlogged")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Hand them to the loggers that can tell whether they have them."""
        if self._unlogged is None:
            return
        for logger in trainer.loggers:
            log_missing = getattr(logger, "log_missing", None)
            if log_missing is not None:
                log_missing({**self._unlogged["values"], "epoch": self._unlogged["epoch"]}, self._unlogged["step"])
        self._unlogged = None

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run must know to choose the best."""
        return {"best_value": self.best_value, "best_epoch": self.best_epoch, "monitor": self.monitor}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the best so far from a checkpoint that monitored the same value."""
        if state_dict["monitor"] == self.monitor:
            self.best_value, self.best_epoch = state_dict["best_value"], state_dict["best_epoch"]

    def _is_better(self, trainer: Trainer) -> bool:
        if self.monitor is None:
            return False
        value = trainer.callback_metrics.get(self.monitor)
        if value is None:
            # Epochs without validation have no value; a run that never logs it has a misspelt name.
            if trainer.val_dataloaders is None or (trainer.current_epoch + 1) % (trainer.check_val_every_n_epoch or 1):
                return False
            names = ", ".join(sorted(trainer.callback_metrics)) or "nothing"
            raise ConfigError(f"checkpoints.monitor={self.monitor}: never logged; logged were: {names}")
        number = float(torch.as_tensor(value).float().cpu())
        if math.isnan(number):
            return False
        ahead = self.best_value is None or (
            number > self.best_value if self.mode == "max" else number < self.best_value
        )
        if ahead:
            self.best_value, self.best_epoch = number, trainer.current_epoch
        return ahead
