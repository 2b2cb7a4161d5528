"""From streamed label maps to files: writes each case that a 3D task predicts while ``Trainer.predict`` runs."""

import time
from collections.abc import Sequence

import lightning
import numpy as np

from spineseg.callbacks.prediction_writer import describe
from spineseg.data.scans import VolumeScan
from spineseg.errors import ConfigError, DataError
from spineseg.geometry import Grid, Volume, canonical_grid, restore
from spineseg.predictions.store import PredictionWriter
from spineseg.predictions.streaming import SlidingWindow, StreamedLabels, slice_instances
from spineseg.provenance import peak_memory
from spineseg.vertebrae import convention_map, relabel
from spineseg.volumes import write_volume

# Apart from the label maps: any volume file beside them would be read as one.
CONFIDENCE_FOLDER = "confidence"


class VolumeWriter(lightning.Callback):
    """Write each scan once its labels are streamed: label map, slice instances, and 255 × the highest probability.

    Before a scan its memory is forecast and printed; one that does not fit fails without compute. A task's
    ``predict_step`` gives ``StreamedLabels``, or the ``DataError`` that stopped it, or None for a scan with an error.

    Args:
        writer: the predictions folder, of slices ``label_map``.
        levels: canonical ids; class index i + 1 is the i-th.
        convention: of the label values in the files.
        slices: whether to write the slice instances beside the label map.

    Attributes:
        failures: reason by case, of scans that could not be read, predicted or written.
    """

    def __init__(
        self, writer: PredictionWriter, levels: Sequence[int], *, convention: str = "verse", slices: bool = True
    ) -> None:
        """Keep the arguments; the first scan's clock starts with prediction."""
        if not levels:
            raise ConfigError("a 3D network without levels: expected classes that are levels; see datamodule.levels")
        self.writer, self.levels, self.with_slices = writer, tuple(int(level) for level in levels), slices
        self.values = convention_map("verse", convention).table
        self.failures: dict[str, str] = {}
        self._started = time.perf_counter()

    def on_predict_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Start the first scan's clock: reading and resampling count."""
        self._started = time.perf_counter()

    def on_predict_batch_start(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        batch: VolumeScan,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Forecast the scan's memory; one that cannot be had becomes the scan's error."""
        inferer = getattr(pl_module, "inferer", None)
        if batch["error"] is not None or not isinstance(inferer, SlidingWindow):
            return
        x, y, z = batch["image"].shape
        try:
            plan = inferer.forecast(
                (x, y, z),
                patch_size=tuple(pl_module.patch_size),  # type: ignore[arg-type]  # a task with an inferer has one
                num_classes=len(self.levels) + 1,
                grid=batch["canonical_shape"],
            )
        except DataError as error:
            batch["error"] = str(error)
            return
        print(f"{batch['case']}: {x} × {y} × {z} voxels for the network, about {plan.mb:,.0f} MB of memory")

    def on_predict_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: StreamedLabels | DataError | None,
        batch: VolumeScan,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write the scan, or say why there is nothing to write."""
        if batch["error"] is not None:
            self._fail(batch["case"], batch["error"])
        elif isinstance(outputs, StreamedLabels):
            try:
                self._write(batch, outputs)
            except DataError as error:
                self._fail(batch["case"], str(error))
        else:
            self._fail(batch["case"], str(outputs) if outputs is not None else "the task gave no label map")
        self._started = time.perf_counter()

    def _fail(self, case: str, reason: str) -> None:
        self.failures[case] = reason
        self.writer.fail(case, reason)
        (self.writer.folder / CONFIDENCE_FOLDER / f"{case}.nii.gz").unlink(missing_ok=True)

    def _write(self, batch: VolumeScan, streamed: StreamedLabels) -> None:
        native = Grid(batch["native_shape"], np.array(batch["native_affine"]))
        grid = canonical_grid(native)
        ids = np.array([0, *self.levels], np.uint8)
        counts, own = streamed.counts.sum(axis=0), streamed.sums.sum(axis=0).diagonal()
        confidence = {level: own[i] / counts[i] for i, level in enumerate(self.levels, start=1) if counts[i]}
        facts = describe(ids[streamed.labels], grid.affine, confidence, named=True)
        slices = slice_instances(streamed, self.levels) if self.with_slices else None
        # Of the few classes, not of the voxels: the same values at a byte a voxel.
        present = np.flatnonzero(counts)
        table = np.zeros(len(counts), np.uint8)
        table[present] = relabel(ids[present], self.values, what=f"prediction of {batch['case']}")
        write_volume(
            self.writer.folder / CONFIDENCE_FOLDER / f"{batch['case']}.nii.gz",
            restore(Volume(streamed.confidence, grid.affine), native),
        )
        # The label map last: a case that the folder lists is whole.
        self.writer.write(
            batch["case"],
            restore(Volume(table[streamed.labels], grid.affine), native),
            "levels",
            slices,
            seconds=time.perf_counter() - self._started,
            peak_mb=peak_memory()["peak_ram_mb"],
            levels=facts,
        )
