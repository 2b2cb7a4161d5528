"""From slices to files: collects a scan's instances while ``Trainer.predict`` runs, lifts and writes them."""

import time
from typing import Any

import lightning
import numpy as np

from spineseg.data.scans import ScanBatch
from spineseg.errors import DataError
from spineseg.geometry import Grid, Volume, canonical_grid, restore
from spineseg.predictions.instances import SliceInstances, exclusive
from spineseg.predictions.lifting import lift
from spineseg.predictions.store import PredictionWriter
from spineseg.provenance import peak_memory
from spineseg.vertebrae import convention_map, relabel


class ScanWriter(lightning.Callback):
    """Write each scan when its last slice is in.

    Args:
        writer: the predictions folder.
        score_threshold: detections below it stay out of the label map.
        named: whether the model names levels.
        convention: of the label values of a named model's files.
        slices: whether to write the slice instances beside the label map.

    Attributes:
        failures: reason by case, of scans that could not be read or written.
    """

    def __init__(
        self,
        writer: PredictionWriter,
        *,
        score_threshold: float,
        named: bool,
        convention: str = "verse",
        slices: bool = True,
    ) -> None:
        """Start with no slices."""
        self.writer, self.score_threshold, self.named = writer, score_threshold, named
        self.with_slices = slices
        self.values = convention_map("verse", convention).table
        self.failures: dict[str, str] = {}
        self._slices: list[SliceInstances] = []
        self._started = time.perf_counter()

    def on_predict_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Start the first scan's clock: reading and resampling count."""
        self._started = time.perf_counter()

    def on_predict_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: list[SliceInstances],
        batch: ScanBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Collect; lift and write after the last slice of a scan."""
        self._slices += outputs
        if not batch["last"]:
            return
        slices, self._slices = self._slices, []
        if batch["error"] is not None:
            self._fail(batch["case"], batch["error"])
        else:
            try:
                self._write(batch, slices)
            except DataError as error:
                self._fail(batch["case"], str(error))
        self._started = time.perf_counter()

    def _fail(self, case: str, reason: str) -> None:
        self.failures[case] = reason
        self.writer.fail(case, reason)

    def _write(self, batch: ScanBatch, slices: list[SliceInstances]) -> None:
        native = Grid(batch["native_shape"], np.array(batch["native_affine"]))
        grid = canonical_grid(native)
        kept = [exclusive(item, self.score_threshold, named=self.named) for item in slices]
        lifted = lift(kept, grid.shape)
        labels: Any = lifted.labels
        if self.named:
            # An object is the level that its slices vote for; two of one level stay together.
            levels = np.zeros(len(lifted.scores) + 1, np.uint8)
            if lifted.classes:
                levels[1:] = np.asarray(lifted.classes, np.uint8)[lifted.distributions.argmax(axis=1)]
            labels = relabel(levels[labels], self.values, what=f"prediction of {batch['case']}")
        self.writer.write(
            batch["case"],
            restore(Volume(labels, grid.affine), native),
            "levels" if self.named else "instances",
            slices if self.with_slices else None,
            seconds=time.perf_counter() - self._started,
            peak_mb=peak_memory()["peak_ram_mb"],
        )
