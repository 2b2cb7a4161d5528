"""Pictures of a few validation volumes in three planes, with reference and prediction, every few epochs."""

from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from numpy.typing import NDArray

from spineseg.callbacks.panels import Pictures, Pixels, draw_instances, reference_masks, to_gray
from spineseg.errors import ConfigError

Row = tuple[Pixels, Pixels, Pixels]
# The axes that stay when a plane is cut: sagittal, coronal, axial.
PLANES = ((1, 2), (0, 2), (0, 1))


class VolumePanels(Pictures):
    """Pictures of volumes, for tasks whose validation step gives `labels` (X, Y, Z); in that of slices it does nothing.

    Each of the first validation cases is cut in the sagittal, the coronal and the axial plane through the middle of
    its spine: head up, front on the left; in the others the patient's right is on the left, as radiologists have it.

    Args:
        every_n_epochs: Epochs between two pictures; the last epoch always has one.
        cases: Cases of a picture.
        window_hu: HU that are drawn black and white.
        height_px: Height of a row.
        simulated: Whether the picture must say that its scans are simulated.
    """

    def __init__(
        self,
        every_n_epochs: int = 5,
        cases: int = 1,
        window_hu: tuple[float, float] = (-200.0, 1000.0),
        height_px: int = 320,
        simulated: bool = False,
    ) -> None:
        super().__init__(every_n_epochs, height_px, simulated)
        if cases < 1 or not window_hu[0] < window_hu[1]:
            raise ConfigError(f"VolumePanels: cases={cases}, window_hu={window_hu}; expected ≥ 1 and low < high")
        self.cases = cases
        self.window_hu = (window_hu[0], window_hu[1])
        self._rows: list[Row] = []

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the last picture."""
        self._rows = []

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Draw the case, if it is one of the first."""
        if batch_idx >= self.cases or "spacing_mm" not in batch or not self.due(trainer):
            return
        self._rows += volume_rows(
            batch["image"].cpu().numpy(),
            batch["labels"].cpu().numpy(),
            outputs["labels"],
            spacing_mm=tuple(float(step) for step in batch["spacing_mm"]),
            window_hu=self.window_hu,
            names=list(getattr(pl_module, "classes", ())),
        )

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write and log what was drawn."""
        if self._rows:
            self.publish(trainer, self._rows)
        self._rows = []


def volume_rows(
    image: NDArray[np.int16],
    reference: NDArray[np.uint8],
    prediction: NDArray[np.uint8],
    *,
    spacing_mm: tuple[float, ...],
    window_hu: tuple[float, float],
    names: list[str],
) -> list[Row]:
    """Image, reference and prediction in the sagittal, the coronal and the axial plane through the spine's middle.

    Args:
        image: (X, Y, Z) HU.
        reference: (X, Y, Z) class indices, 0 background.
        prediction: the same.
        spacing_mm: along X, Y, Z; pixels are drawn square.
        window_hu: HU that are drawn black and white.
        names: of the classes from 1 on.
    """
    middle = spine_middle(reference)
    count = max(len(names), 1)
    rows = []
    for kept in PLANES:
        (cut,) = {0, 1, 2} - set(kept)
        steps = (spacing_mm[kept[0]], spacing_mm[kept[1]])
        hu, truth, found = (
            square(np.take(array, middle[cut], axis=cut), steps) for array in (image, reference, prediction)
        )
        gray = to_gray(torch.from_numpy(np.clip(hu, *window_hu).astype(np.float32))[None])
        labels = names if len(names) > 1 else [""] * count
        # A class keeps its colour, whether the other map holds it or not.
        rows.append(
            (
                gray,
                draw_instances(gray, reference_masks(truth, count), labels),
                draw_instances(gray, reference_masks(found, count), labels),
            )
        )
    return rows


def spine_middle(labels: NDArray[np.uint8]) -> tuple[int, int, int]:
    """The median voxel of all vertebrae along each axis; of the volume where there are none.

    >>> spine_middle(np.pad(np.ones((1, 3, 1), np.uint8), ((2, 4), (0, 0), (1, 0))))
    (2, 1, 1)
    """
    places = np.nonzero(labels)
    if not len(places[0]):
        places = tuple(np.arange(size) for size in labels.shape)
    x, y, z = (int(np.median(axis)) for axis in places)
    return x, y, z


def square(plane: NDArray[Any], steps_mm: tuple[float, float]) -> NDArray[Any]:
    """A plane with square pixels as fine as its finer axis: the value at each new pixel's centre.

    >>> square(np.array([[1, 2]]), (2.0, 1.0)).tolist()
    [[1, 2], [1, 2]]
    """
    finest = min(steps_mm)
    picks = []
    for size, step in zip(plane.shape, steps_mm, strict=True):
        length = max(round(size * step / finest), 1)
        picks.append(np.minimum(((np.arange(length) + 0.5) * finest / step).astype(int), size - 1))
    return plane[np.ix_(*picks)]
