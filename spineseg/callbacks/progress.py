"""A progress bar on a terminal, one line an epoch elsewhere."""

import sys

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar

DETAILS = "val/dice_"  # one value a level: for the log, not for a line


class Progress(RichProgressBar):
    """Rich's bar where standard output is a terminal; in a log file, one line an epoch with the monitored values.

    Args:
        refresh_rate: Batches between two updates of the bar.
        leave: Whether the bars of past epochs stay.
    """

    def __init__(self, refresh_rate: int = 1, leave: bool = False) -> None:
        super().__init__(refresh_rate=refresh_rate, leave=leave)
        self._terminal = sys.stdout.isatty()
        if not self._terminal:
            self.disable()

    def enable(self) -> None:
        """Show the bar, if there is a terminal to show it on (Lightning calls this on rank 0)."""
        if self._terminal:
            super().enable()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the line."""
        super().on_train_epoch_end(trainer, pl_module)
        if self._terminal or not trainer.is_global_zero:
            return
        # Lightning keeps the last validation's values: shown again, they would look like this epoch's.
        validated = (trainer.current_epoch + 1) % (trainer.check_val_every_n_epoch or 1) == 0
        kinds = ("train/", "val/") if validated else ("train/",)
        values = {
            name: float(value)
            for name, value in trainer.callback_metrics.items()
            if name.startswith(kinds) and not name.startswith(DETAILS)
        }
        # The mean over the epoch stands for the value of its last logged batch.
        means = {name.removesuffix("_epoch"): value for name, value in values.items() if name.endswith("_epoch")}
        plain = {name: value for name, value in values.items() if not name.endswith(("_step", "_epoch"))}
        shown = "  ".join(f"{name} {value:.4g}" for name, value in (plain | means).items())
        print(f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}  {shown}", flush=True)
