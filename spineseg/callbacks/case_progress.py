"""How far a prediction is: a bar over the cases and one inside the case on a terminal, one line a case elsewhere."""

import sys
import time
from collections.abc import Container

import lightning
from lightning.pytorch import Trainer
from rich.progress import Progress as Bars
from rich.progress import TaskID

from spineseg.data.scans import ScanBatch, VolumeScan
from spineseg.geometry import Grid, canonical_grid


class CaseProgress(lightning.Callback):
    """Count the cases while ``Trainer.predict`` runs; to stand after the callback that writes them.

    Args:
        total: number of scans.
        failures: of the callback that writes, as they come.
    """

    def __init__(self, total: int, failures: Container[str] = ()) -> None:
        self.total, self.failures, self._done = total, failures, 0
        self._bars = Bars(transient=True) if sys.stdout.isatty() else None
        self._cases: TaskID | None = None
        self._inside: TaskID | None = None
        self._started = time.perf_counter()

    def on_predict_start(self, trainer: Trainer, pl_module: lightning.LightningModule) -> None:
        """Show the bars."""
        self._started = time.perf_counter()
        if self._bars is not None:
            self._cases = self._bars.add_task("scans", total=self.total)
            self._inside = self._bars.add_task("reading", total=None)
            self._bars.start()

    def on_predict_batch_start(
        self,
        trainer: Trainer,
        pl_module: lightning.LightningModule,
        batch: ScanBatch | VolumeScan,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Name the case that has been read."""
        if self._bars is not None and self._inside is not None:
            self._bars.update(self._inside, description=batch["case"])

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: lightning.LightningModule,
        outputs: object,
        batch: ScanBatch | VolumeScan,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Move on by some slices, or by a case."""
        last = bool(batch.get("last", True))
        if self._bars is not None and self._inside is not None and not last:
            slices = canonical_grid(Grid(batch["native_shape"], batch["native_affine"])).shape[0]  # type: ignore[arg-type]  # a list of lists
            self._bars.update(self._inside, total=slices, completed=batch["indices"][-1] + 1)  # type: ignore[typeddict-item]  # of slices
        if not last:
            return
        self._done += 1
        if self._bars is not None and self._cases is not None and self._inside is not None:
            self._bars.update(self._cases, completed=self._done)
            # Rich takes a total of None for "as it was".
            self._bars.remove_task(self._inside)
            self._inside = self._bars.add_task("reading", total=None)
        else:
            what = "failed" if batch["case"] in self.failures else "predicted"
            seconds = time.perf_counter() - self._started
            print(f"{self._done}/{self.total}  {batch['case']}: {what} in {seconds:.1f} s", flush=True)
        self._started = time.perf_counter()

    def teardown(self, trainer: Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Take the bars away, also after an error."""
        if self._bars is not None:
            self._bars.stop()
