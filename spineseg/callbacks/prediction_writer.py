"""From slices to files: collects a scan's instances while ``Trainer.predict`` runs, lifts and writes them."""

from collections.abc import Mapping
from typing import Any

import lightning
import numpy as np
import torch
from numpy.typing import NDArray

from spineseg.costs import CaseMeter
from spineseg.data.scans import ScanBatch, failure_reason
from spineseg.errors import DataError
from spineseg.geometry import Affine, Grid, Volume, canonical_grid, label_counts, restore
from spineseg.predictions.centres import label_centres_mm
from spineseg.predictions.forecast import out_of_memory
from spineseg.predictions.instances import SliceInstances, exclusive
from spineseg.predictions.labelling import LabellingSettings
from spineseg.predictions.lifting import lift
from spineseg.predictions.naming import most_probable, name_objects
from spineseg.predictions.store import PredictionWriter, SliceKind
from spineseg.vertebrae import in_convention, level_name


class CaseByCase(lightning.LightningModule):
    """A task of slices whose errors are those of one case: its ``predict_step`` gives them to ``ScanWriter``.

    Args:
        task: gives the instances of each slice, or raises what stopped it.
    """

    def __init__(self, task: lightning.LightningModule) -> None:
        """Take the task."""
        super().__init__()
        self.task = task
        self._failed: str | None = None

    def predict_step(self, batch: ScanBatch, batch_index: int) -> list[SliceInstances] | DataError:
        """The task's; after an error, nothing more is computed for that case."""
        if batch["case"] == self._failed:
            return []
        self._failed = None
        try:
            found: list[SliceInstances] = self.task.predict_step(batch, batch_index)
            return found
        except DataError as error:
            # Its frames hold what lies on the device.
            reason = error.with_traceback(None)
        except torch.OutOfMemoryError as error:
            count = len(batch["indices"])
            reason = out_of_memory(error, f"train with less than data.batch_size={count}, the slices at a time")
        torch.cuda.empty_cache()
        self._failed = batch["case"]
        return reason


class ScanWriter(lightning.Callback):
    """Write each scan when its last slice is in; a batch that gave an error (``CaseByCase``) fails its scan.

    Args:
        writer: the predictions folder.
        score_threshold: detections below it stay out of the label map.
        named: whether the model names levels.
        convention: of the label values of a named model's files.
        slices: whether to write the slice instances beside the label map.
        kind: ``detections``, which are made exclusive first, or the slices of a ``label_map``, which are as they are.
        labelling: how a named model's objects get their levels from one another; None: each from its own slices. The
            slice instances keep the model's own names (PROTOCOL 5.5).

    Attributes:
        failures: reason by case, of scans that could not be read, predicted or written.
    """

    def __init__(
        self,
        writer: PredictionWriter,
        *,
        score_threshold: float,
        named: bool,
        convention: str = "verse",
        slices: bool = True,
        kind: SliceKind = "detections",
        labelling: LabellingSettings | None = None,
    ) -> None:
        """Start with no slices."""
        self.writer, self.score_threshold, self.named = writer, score_threshold, named
        self.with_slices, self.kind, self.labelling = slices, kind, labelling
        self.convention = convention
        self.failures: dict[str, str] = {}
        self._slices: list[SliceInstances] = []
        self._error: str | None = None
        self._meter = CaseMeter()

    def on_predict_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Start the first scan's meter: reading and resampling count."""
        self._meter.start()

    def on_predict_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: list[SliceInstances] | DataError,
        batch: ScanBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Collect; lift and write after the last slice of a scan."""
        if isinstance(outputs, DataError):
            self._error = self._error or str(outputs)
        else:
            self._slices += outputs
        if not batch["last"]:
            return
        slices, self._slices = self._slices, []
        reason, self._error = self._error or batch["error"], None
        if reason is not None:
            self._fail(batch["case"], reason)
        else:
            try:
                self._write(batch, slices)
            except (DataError, MemoryError) as error:
                self._fail(batch["case"], failure_reason(batch["case"], error))
        self._meter.start()

    def _fail(self, case: str, reason: str) -> None:
        self.failures[case] = reason
        self.writer.fail(case, reason)

    def _write(self, batch: ScanBatch, slices: list[SliceInstances]) -> None:
        native = Grid(batch["native_shape"], np.array(batch["native_affine"]))
        grid = canonical_grid(native)
        kept = slices
        if self.kind == "detections":
            kept = [exclusive(item, self.score_threshold, named=self.named) for item in slices]
        lifted = lift(kept, grid.shape)
        labels: Any = lifted.labels
        # Of the objects' numbers, the label that each becomes.
        values: NDArray[np.integer] = np.arange(len(lifted.scores) + 1)
        sure = lifted.scores
        if self.named:
            # Two objects of one level stay together.
            levels = np.zeros(len(lifted.scores) + 1, np.uint8)
            if lifted.classes and self.labelling is not None:
                names = name_objects(lifted.labels, grid.affine, lifted.distributions, lifted.classes, self.labelling)
                levels[1:], sure = names.levels, names.confidences
            elif lifted.classes:
                levels[1:] = most_probable(lifted.distributions, lifted.classes)
            values, labels = levels, levels[labels]
        facts = describe(labels, grid.affine, confidences(values, lifted.labels, sure), named=self.named)
        if self.named:
            labels = in_convention(labels, self.convention, what=f"prediction of {batch['case']}")
        self.writer.write(
            batch["case"],
            restore(Volume(labels, grid.affine), native),
            "levels" if self.named else "instances",
            slices if self.with_slices else None,
            **self._meter.read(),
            levels=facts,
        )


def confidences(
    values: NDArray[np.integer], objects: NDArray[np.integer], scores: NDArray[np.float64]
) -> dict[int, float]:
    """Confidence of each label: the mean of its objects' scores, or of how sure their names are, weighted by volume.

    Args:
        values: (N + 1,), the label of each object's number.
        objects: (X, Y, Z), numbers of objects, 1 to N.
        scores: (N,) of the objects.
    """
    volumes = label_counts(objects, len(values)).astype(np.float64)
    volumes[0] = 0
    weighted = volumes * np.concatenate([[0.0], scores])
    present = np.unique(values[volumes > 0])
    return {int(v): float(weighted[values == v].sum() / volumes[values == v].sum()) for v in present}


def describe(
    labels: NDArray[np.integer], affine: Affine, confidence: Mapping[int, float], *, named: bool
) -> dict[str, dict[str, Any]]:
    """Body centre (mm, RAS+) and confidence of each label, by its level's name or, where none is named, its number.

    Args:
        labels: (X, Y, Z), canonical level ids or numbers.
        affine: voxel → mm.
        confidence: of each label that occurs.
        named: whether labels are levels.
    """
    return {
        level_name(label) if named else str(label): {
            "body_centre_mm": [round(float(value), 2) for value in centre],
            "confidence": round(confidence[label], 4),
        }
        for label, centre in label_centres_mm(labels, affine, named=named).items()
    }
