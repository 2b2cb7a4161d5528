"""From streamed label maps to files: writes each case that a 3D task predicts while ``Trainer.predict`` runs."""

from collections.abc import Sequence

import lightning
import numpy as np
from numpy.typing import NDArray

from spineseg.callbacks.prediction_writer import confidences, describe
from spineseg.costs import CaseMeter
from spineseg.data.scans import VolumeScan, failure_reason
from spineseg.errors import ConfigError, DataError
from spineseg.geometry import Grid, Volume, canonical_grid, restore
from spineseg.predictions.columns import Floats
from spineseg.predictions.labelling import LabellingSettings
from spineseg.predictions.naming import name_objects
from spineseg.predictions.objects import separate
from spineseg.predictions.store import PredictionWriter
from spineseg.predictions.streaming import SlidingWindow, StreamedLabels, slice_instances
from spineseg.vertebrae import COCCYX, SACRUM, in_convention
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
        labelling: how the label map's objects (``objects.separate``) get their levels from one another; None: as the
            network has it. The slice instances keep the network's own names (PROTOCOL 5.5).

    Attributes:
        failures: reason by case, of scans that could not be read, predicted or written.
    """

    def __init__(
        self,
        writer: PredictionWriter,
        levels: Sequence[int],
        *,
        convention: str = "verse",
        slices: bool = True,
        labelling: LabellingSettings | None = None,
    ) -> None:
        """Keep the arguments; the first scan's clock starts with prediction."""
        if not levels:
            raise ConfigError("a 3D network without levels: expected classes that are levels; see datamodule.levels")
        self.writer, self.levels, self.with_slices = writer, tuple(int(level) for level in levels), slices
        self.labelling, self.convention = labelling, convention
        self.failures: dict[str, str] = {}
        self._meter = CaseMeter()

    def on_predict_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Start the first scan's meter: reading and resampling count."""
        self._meter.start()

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
                device=pl_module.device,
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
            except (DataError, MemoryError) as error:
                self._fail(batch["case"], failure_reason(batch["case"], error))
        else:
            self._fail(batch["case"], str(outputs) if outputs is not None else "the task gave no label map")
        self._meter.start()

    def _fail(self, case: str, reason: str) -> None:
        self.failures[case] = reason
        self.writer.fail(case, reason)
        (self.writer.folder / CONFIDENCE_FOLDER / f"{case}.nii.gz").unlink(missing_ok=True)

    def _write(self, batch: VolumeScan, streamed: StreamedLabels) -> None:
        native = Grid(batch["native_shape"], np.array(batch["native_affine"]))
        grid = canonical_grid(native)
        objects, levels, sure = self._named(streamed, grid)
        facts = describe(levels[objects], grid.affine, confidences(levels, objects, sure), named=True)
        slices = slice_instances(streamed, self.levels) if self.with_slices else None
        # Of the few objects, not of the voxels: the same values at a byte a voxel.
        table = in_convention(levels, self.convention, what=f"prediction of {batch['case']}")
        write_volume(
            self.writer.folder / CONFIDENCE_FOLDER / f"{batch['case']}.nii.gz",
            restore(Volume(streamed.confidence, grid.affine), native),
        )
        # The label map last: a case that the folder lists is whole.
        self.writer.write(
            batch["case"],
            restore(Volume(table[objects], grid.affine), native),
            "levels",
            slices,
            **self._meter.read(),
            levels=facts,
        )

    def _named(self, streamed: StreamedLabels, grid: Grid) -> tuple[NDArray[np.uint8], NDArray[np.uint8], Floats]:
        """Objects (X, Y, Z) from 1, their levels (N + 1, that of 0 is 0), and how sure each is (N,)."""
        counts = streamed.counts.sum(axis=0)
        if self.labelling is None:
            own = streamed.sums.sum(axis=0).diagonal()
            # A class without a voxel is no label of this map.
            levels = np.where(counts > 0, [0, *self.levels], 0).astype(np.uint8)
            return streamed.labels, levels, (own / np.maximum(counts, 1))[1:]
        whole = [i for i, level in enumerate(self.levels, start=1) if level in (SACRUM, COCCYX)]
        x, y, z = np.linalg.norm(grid.affine[:3, :3], axis=0)
        objects, classes = separate(streamed.labels, (float(x), float(y), float(z)), whole)
        distributions = object_distributions(streamed, objects, classes)[:, 1:]
        names = name_objects(objects, grid.affine, distributions, self.levels, self.labelling)
        return objects, np.array([0, *names.levels], np.uint8), names.confidences


def object_distributions(streamed: StreamedLabels, objects: NDArray[np.uint8], classes: NDArray[np.int64]) -> Floats:
    """Mean class probabilities (N, K) of objects, from the sums that were streamed for each slice and class.

    An object has of the sums of its class in a slice the share that it has of the voxels: exact where it is all of its
    class.

    Args:
        streamed: K classes.
        objects: (X, Y, Z), 1 to N.
        classes: (N,), the class that each object is of.
    """
    n = len(classes)
    voxels = np.stack([np.bincount(plane.ravel(), minlength=n + 1)[1:] for plane in objects])
    share = voxels / np.maximum(streamed.counts[:, classes], 1)
    sums = np.einsum("xn,xnk->nk", share, streamed.sums[:, classes])
    return np.asarray(sums / np.maximum(voxels.sum(axis=0), 1)[:, None], np.float64)
