"""The task of naming voxels: trained on patches, validated and used on whole volumes by a sliding window."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from spineseg.data.normalization import Normalization
from spineseg.data.patches import PatchBatch, VolumeBatch
from spineseg.data.scans import VolumeScan
from spineseg.errors import ConfigError, DataError
from spineseg.metrics.slices import slice_indices
from spineseg.predictions.forecast import out_of_memory
from spineseg.predictions.streaming import SlidingWindow, StreamedLabels
from spineseg.tasks.label_maps import agreement, monitor_labels
from spineseg.tasks.losses import LabelMapLoss
from spineseg.tasks.optim import Optimization
from spineseg.tasks.semantic import SemanticSegmentation


class SemanticSegmentation3D(SemanticSegmentation[PatchBatch]):
    """Train a network that gives each voxel of a patch a class.

    Args:
        net: logits (B, K, X, Y, Z) of patches (B, 1, X, Y, Z), in training mode maybe a list of them, the finest first.
        loss: of the logits and labels (B, 1, X, Y, Z).
        optimization: optimiser, schedule, warm-up, accumulation and clipping.
        classes: name of each class but the background: levels, or ``vertebra`` alone.
        patch_size: (X, Y, Z) of a patch in voxels, at the spacing it is trained at.
        normalization: from HU to what the network sees.
        inferer: the sliding window.
        compile: whether to use ``torch.compile``; where it fails, a warning says so and training goes on without.
    """

    def __init__(
        self,
        net: nn.Module,
        loss: LabelMapLoss,
        optimization: Optimization,
        classes: tuple[str, ...],
        patch_size: Sequence[int],
        normalization: Normalization,
        inferer: SlidingWindow,
        compile: bool = False,
    ) -> None:
        """Take the parts; nothing is built here."""
        super().__init__(net, loss, optimization, classes, compile)
        if len(patch_size) != 3:
            raise ConfigError(f"data.patch_size: expected [X, Y, Z], found {list(patch_size)}")
        self.patch_size = (patch_size[0], patch_size[1], patch_size[2])
        self.normalization, self.inferer = normalization, inferer

    def training_loss(self, batch: PatchBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean loss of the batch, over all resolutions that the network gives."""
        loss = self.loss(self.outputs(batch["images"]), batch["labels"])
        return loss, {"train/loss": loss.detach()}

    def samples(self, batch: PatchBatch) -> str:
        """Case and first voxel of each patch."""
        return ", ".join(f"{ref.case} {ref.corner}" for ref in batch["refs"])

    def validation_step(self, batch: VolumeBatch, batch_index: int) -> dict[str, NDArray[np.uint8]]:
        """Predict a whole case on the store's grid; count all voxels, match the sagittal slices of PROTOCOL §5.1.

        There is no validation loss: a sliding window keeps no logits.

        Returns:
            ``labels`` (X, Y, Z), for the callbacks that draw them.
        """
        streamed = self.stream(batch["image"])
        labels = batch["labels"].cpu().numpy()
        self._agreements.append(agreement((batch["case"], -1), streamed.labels, labels, self.num_classes))
        if self.levels:
            for x in slice_indices(len(labels), batch["spacing_mm"][0]):
                scores = streamed.sums[x].diagonal() / np.maximum(streamed.counts[x], 1)
                self._monitored.append(monitor_labels((batch["case"], x), streamed.labels[x], scores, labels[x]))
        return {"labels": streamed.labels}

    def predict_step(self, batch: VolumeScan, batch_index: int) -> StreamedLabels | DataError | None:
        """The label map of a scan on its native grid in canonical axes.

        None of a scan that could not be read; the error of one that could not be predicted, which stops no other.
        """
        if batch["error"] is not None:
            return None
        try:
            return self.stream(batch["image"], batch["canonical_shape"], batch["step"])
        except DataError as error:
            # Its frames hold what lies on the device.
            found = error.with_traceback(None)
        except torch.OutOfMemoryError as error:
            several = self.inferer.windows_a_batch > 1
            lower = "lower memory_limit_gb, for fewer windows at a time" if several else "crop the scan"
            found = out_of_memory(error, lower)
        torch.cuda.empty_cache()
        return found

    def stream(
        self,
        image: Tensor,
        grid: tuple[int, int, int] | None = None,
        step: tuple[float, float, float] | None = None,
    ) -> StreamedLabels:
        """Slide over an image.

        Args:
            image: (X, Y, Z) int16 HU at the network's spacing.
            grid: shape of the result, with the same field of view; None: the image's.
            step: network voxels a voxel of the result; None: as the shapes have it.
        """
        return self.inferer(
            self,
            image.cpu().numpy(),
            patch_size=self.patch_size,
            normalization=self.normalization,
            num_classes=self.num_classes,
            grid=grid,
            step=step,
            device=self.device,
        )
