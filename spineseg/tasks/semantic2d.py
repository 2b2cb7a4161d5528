"""The task of naming the pixels of sagittal slices."""

import torch
from torch import Tensor, nn

from spineseg.data.scans import ScanBatch
from spineseg.data.slices import SliceBatch
from spineseg.models.detections import Detections
from spineseg.predictions.class_slices import slice_classes
from spineseg.predictions.instances import SliceInstances
from spineseg.predictions.native_grid import check_finite
from spineseg.tasks.label_maps import (
    agreement,
    best_classes,
    class_labels,
    label_instances,
    mean_probabilities,
    monitor_labels,
    on_grid,
)
from spineseg.tasks.losses import LabelMapLoss
from spineseg.tasks.optim import Optimization
from spineseg.tasks.semantic import SemanticSegmentation


class SemanticSegmentation2D(SemanticSegmentation[SliceBatch]):
    """Train a network that gives each pixel of a sagittal slice a class, on the same slices as a detector.

    Args:
        net: logits (B, K, Y, Z) of images (B, C, Y, Z), whose sides are multiples of 32.
        loss: of the logits and labels (B, 1, Y, Z).
        optimization: optimiser, schedule, warm-up, accumulation and clipping.
        classes: name of each class but the background: levels, or ``vertebra`` alone.
        channels_last: memory format of the network; faster with 16-bit convolutions.
        compile: whether to use ``torch.compile``; where it fails, a warning says so and training goes on without.
    """

    def __init__(
        self,
        net: nn.Module,
        loss: LabelMapLoss,
        optimization: Optimization,
        classes: tuple[str, ...],
        channels_last: bool = True,
        compile: bool = False,
    ) -> None:
        """Take the parts; nothing is built here."""
        super().__init__(net, loss, optimization, classes, compile)
        self.channels_last = channels_last
        if channels_last:
            self.net.to(memory_format=torch.channels_last)

    def training_loss(self, batch: SliceBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean loss of the batch."""
        loss = self.loss(self.outputs(self._formatted(batch["images"])), labels_of(batch))
        return loss, {"train/loss": loss.detach()}

    def samples(self, batch: SliceBatch) -> str:
        """Case and position of each slice."""
        return ", ".join(f"{ref.case} x={ref.x}" for ref in batch["refs"])

    def validation_step(self, batch: SliceBatch, batch_index: int) -> None:
        """Count and match each slice at network pixels; the values are computed when all are seen."""
        logits, labels = self(self._formatted(batch["images"])), labels_of(batch)
        count = len(logits)
        self._losses.append((float(self.loss(logits, labels)) * count, count))
        references = labels[:, 0].cpu().numpy()
        for plane, reference, ref in zip(logits, references, batch["refs"], strict=True):
            key, predicted = (ref.case, ref.x), best_classes(plane)
            self._agreements.append(agreement(key, predicted, reference, self.num_classes))
            if self.levels:
                scores = mean_probabilities(predicted, plane).diagonal()
                self._monitored.append(monitor_labels(key, predicted, scores, reference))

    def predict_step(self, batch: ScanBatch, batch_index: int) -> list[SliceInstances]:
        """The argmax of each native slice, one instance a level; logits are interpolated, not labels.

        Raises:
            DataError: logits that are not finite.
        """
        if not batch["indices"]:
            return []
        logits = self(self._formatted(batch["images"]))
        # −∞ for a class is a number that softmax takes.
        check_finite(logits.amax(dim=1))
        return [
            label_instances(index, on_grid(plane, batch["size"], batch["step"]), self.levels)
            for index, plane in zip(batch["indices"], logits, strict=True)
        ]

    def detect(self, images: Tensor) -> list[Detections]:
        """The classes of images (B, C, Y, Z) as detections; puts the network in evaluation mode."""
        training = self.net.training
        self.net.eval()
        with torch.no_grad():
            logits = self(self._formatted(images))
        self.net.train(training)
        return [_detections(plane) for plane in logits]

    def _formatted(self, images: Tensor) -> Tensor:
        return images.contiguous(memory_format=torch.channels_last) if self.channels_last else images


def labels_of(batch: SliceBatch) -> Tensor:
    """Class indices (B, 1, Y, Z) uint8 of a batch, 0 background."""
    return class_labels(batch["index_map"], batch["classes"], batch["batch_index"])


def _detections(logits: Tensor) -> Detections:
    """The classes of one image, from its logits (K, Y, Z)."""
    labels = best_classes(logits)
    found, scores = slice_classes(labels), mean_probabilities(labels, logits).diagonal()
    return Detections(
        boxes=torch.from_numpy(found.boxes),
        scores=torch.from_numpy(scores[found.classes + 1]),
        classes=torch.from_numpy(found.classes),
        masks=torch.from_numpy(labels[None] == found.classes[:, None, None] + 1),
    )
