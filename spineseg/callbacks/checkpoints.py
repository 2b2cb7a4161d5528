"""`last.ckpt` by epochs and by minutes, and `best.ckpt` by a monitored value."""

import contextlib
import math
import signal
import threading
import time
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException

from spineseg.checkpoints import publish
from spineseg.errors import ConfigError, DataError
from spineseg.progress import add_means, epoch_means, log_missing, unlogged


class Checkpoints(Checkpoint):
    """Saves the whole training state, atomically and sealed by SHA-256, so that a resumed run ends in the same bits.

    - At the end of every epoch or every few, and between two batches when the last save is some minutes old. After an
      epoch's last batch it waits for the validation that follows.
    - On SIGTERM after the batch at work, or after the epoch's end if that is nearer; the process then ends.
    - Several processes decide together, so that all save at the same batch.

    Lightning's ModelCheckpoint is not used because it skips an epoch without an optimiser step (accumulation), counts
    versions into the file's name after a resume, keeps absolute paths in its state and takes NaN for a score.

    What Lightning leaves out of a checkpoint is added: values that are logged only after the save (a run killed in
    between logs them on resume, so that the log has no gap), means of an epoch that is not over (in several processes,
    the first one's), the monitored values, and whether training was told to stop.

    Args:
        monitor: Name of the logged value that chooses `best.ckpt`; null keeps only `last.ckpt`.
        mode: Whether a higher (`max`) or a lower (`min`) value is better; NaN is never better.
        every_n_epochs: Epochs between two saves of `last.ckpt`; a better value is always saved.
        every_n_minutes: Minutes after which it is saved inside an epoch too; null: only at the end of epochs.
    """

    def __init__(
        self,
        monitor: str | None = None,
        mode: Literal["max", "min"] = "max",
        every_n_epochs: int = 1,
        every_n_minutes: float | None = 10.0,
    ) -> None:
        if mode not in ("max", "min") or every_n_epochs < 1 or (every_n_minutes is not None and every_n_minutes < 0):
            raise ConfigError(
                f"checkpoints: mode={mode}, every_n_epochs={every_n_epochs}, every_n_minutes={every_n_minutes}; "
                "expected max or min, ≥ 1, and ≥ 0 or null"
            )
        self.monitor = monitor
        self.mode = mode
        self.every_n_epochs = every_n_epochs
        self.every_n_minutes = every_n_minutes
        self.best_value: float | None = None
        self.best_epoch: int | None = None
        self._restored: dict[str, Any] = {}
        self._saved_at = time.monotonic()
        self._terminated = False

    def folder(self, trainer: Trainer) -> Path:
        """Return the folder of the checkpoints, below the run folder."""
        return Path(trainer.default_root_dir) / "checkpoints"

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log what the killed run could not any more, and remove the files that it left half written."""
        if "unlogged" in self._restored:
            log_missing(trainer, self._restored["unlogged"])
        if trainer.is_global_zero:
            for path in self.folder(trainer).glob(".partial*"):
                path.unlink(missing_ok=True)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take over SIGTERM: Lightning's handler ends the run without a save, and each process at its own batch."""
        monitored = self._restored.get("monitored", {})
        trainer._logger_connector._callback_metrics.update({k: torch.tensor(v) for k, v in monitored.items()})
        self._saved_at = time.monotonic()
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._terminate)  # Lightning puts the former handler back after the fit

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save if it is time to, or if the process was told to end.

        Raises:
            SIGTERMException: It was told to end, and is saved.
        """
        self._restored["means"] = add_means(trainer, self._restored.get("means", {}))
        # A run that went on from here would leave the validation out.
        validates = trainer.fit_loop.epoch_loop.batch_progress.is_last_batch or (
            bool(trainer.val_check_batch) and (batch_idx + 1) % trainer.val_check_batch == 0  # type: ignore[operator]
        )
        if validates or trainer.should_stop or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        minutes = (time.monotonic() - self._saved_at) / 60
        due = self.every_n_minutes is not None and minutes >= self.every_n_minutes
        if not _any(trainer, due or self._terminated):
            return
        self._save(trainer, ["last.ckpt"])
        self._end_if_told(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save, first under the name `best.ckpt` if it is, so that `last.ckpt` never knows a best that is not there.

        Raises:
            SIGTERMException: The process was told to end, and is saved.
        """
        better = self._is_better(trainer)
        due = (trainer.current_epoch + 1) % self.every_n_epochs == 0 or trainer.current_epoch + 1 == trainer.max_epochs
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        if _any(trainer, better or due or trainer.should_stop or self._terminated):
            self._save(trainer, ["best.ckpt", "last.ckpt"] if better else ["last.ckpt"])
        self._end_if_told(trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add what Lightning leaves out."""
        checkpoint["unlogged"] = unlogged(trainer)
        checkpoint["means"] = epoch_means(trainer)
        checkpoint["monitored"] = {name: float(value) for name, value in trainer.callback_metrics.items()}
        checkpoint["stopped"] = trainer.should_stop

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Remember it; a run that was stopped early, and killed before it ended, trains no further."""
        self._restored = {key: checkpoint[key] for key in ("unlogged", "means", "monitored") if key in checkpoint}
        trainer.should_stop = bool(checkpoint.get("stopped", False))

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run must know to choose the best."""
        return {"best_value": self.best_value, "best_epoch": self.best_epoch, "monitor": self.monitor}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the best so far from a checkpoint that monitored the same value."""
        if state_dict["monitor"] == self.monitor:
            self.best_value, self.best_epoch = state_dict["best_value"], state_dict["best_epoch"]

    def _save(self, trainer: Trainer, names: list[str]) -> None:
        """Write one file under one or two names.

        Raises:
            DataError: It cannot be written.
        """
        folder = self.folder(trainer)
        partial = folder / ".partial.ckpt"
        try:
            # Not trainer.save_checkpoint, which holds the file in memory and leaves it in /tmp when it is killed.
            content = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
            if trainer.is_global_zero:
                folder.mkdir(parents=True, exist_ok=True)
                with partial.open("wb") as stream:
                    torch.save(content, stream)
                publish(partial, [folder / name for name in names])
        except OSError as error:
            with contextlib.suppress(OSError):
                partial.unlink()
            raise DataError(
                f"{folder}: the checkpoint of epoch {trainer.current_epoch} could not be written ({error}); "
                "the one before is whole: make room and go on with resume="
            ) from error
        trainer.strategy.barrier()
        self._saved_at = time.monotonic()

    def _terminate(self, *_: Any) -> None:
        self._terminated = True

    def _end_if_told(self, trainer: Trainer) -> None:
        if _any(trainer, self._terminated):
            raise SIGTERMException

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


def _any(trainer: Trainer, decision: bool) -> bool:
    """Whether any process decides so."""
    return decision if trainer.world_size == 1 else trainer.strategy.reduce_boolean_decision(decision, all=False)
