"""The task of finding vertebrae as instances in sagittal slices."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from spineseg.data.scans import ScanBatch
from spineseg.data.slices import SliceBatch
from spineseg.models.detections import Detections, SliceDetections, draw, draw_in_boxes, draw_on, suppress
from spineseg.models.yolo import InstanceTargets, YOLOv8Seg
from spineseg.predictions.instances import SliceInstances
from spineseg.predictions.masks import encode_crop
from spineseg.predictions.native_grid import check_finite
from spineseg.tasks.monitors import Found, MonitoredSlice, monitor_slice, monitors
from spineseg.tasks.optim import Optimization
from spineseg.tasks.optimized import OptimizedTask, exact_mean


class InstanceSegmentation2D(OptimizedTask[SliceBatch]):
    """Train a 2D instance segmenter on sagittal slices.

    Args:
        net: the network with its loss.
        optimization: optimiser, schedule, warm-up, accumulation and clipping.
        classes: name of each class in the network's order: levels, or ``vertebra`` alone.
        channels_last: memory format of the network; faster with 16-bit convolutions.
        compile: whether to use ``torch.compile``; where it fails, a warning says so and training goes on without.
    """

    averaged = False  # Ultralytics' loss is the sum over the batch
    net: YOLOv8Seg

    def __init__(
        self,
        net: YOLOv8Seg,
        optimization: Optimization,
        classes: tuple[str, ...],
        channels_last: bool = True,
        compile: bool = False,
    ) -> None:
        """Take the parts; nothing is built here."""
        super().__init__(net, optimization, classes, compile)
        self.channels_last = channels_last
        if channels_last:
            self.net.to(memory_format=torch.channels_last)
        self._monitored: list[MonitoredSlice] = []
        self._losses: list[tuple[float, int]] = []

    def forward(self, images: Tensor) -> list[Detections]:
        """Detections of images (B, C, Y, Z), drawn at their pixels."""
        return self.detect(images)

    def training_loss(self, batch: SliceBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss summed over the batch; logged as a mean a slice, beside its parts."""
        loss, parts = self._loss(self.outputs(self._formatted(batch["images"])), batch)
        # Ultralytics' fifth term is for other heads, and always 0 here.
        terms = {f"train/{name}": value for name, value in parts.items() if name != "sem_loss"}
        return loss, {"train/loss": loss.detach() / len(batch["images"]), **terms}

    def samples(self, batch: SliceBatch) -> str:
        """Case and position of each slice."""
        return ", ".join(f"{ref.case} x={ref.x}" for ref in batch["refs"])

    def validation_step(self, batch: SliceBatch, batch_index: int) -> None:
        """Detect, draw, match; the values are computed when all slices are seen."""
        raw = self.net.decode(self._formatted(batch["images"]))
        loss, _ = self._loss(raw.raw, batch)
        self._losses.append((float(loss), len(batch["images"])))
        height, width = batch["index_map"].shape[1:]
        owners = batch["batch_index"].cpu().numpy()
        sides = batch["boxes"].cpu().numpy().astype(np.float64)[:, [1, 0, 3, 2]] * [height, width, height, width]
        classes, maps = batch["classes"].cpu().numpy().astype(np.int64), batch["index_map"].cpu().numpy()
        for image, (item, ref) in enumerate(zip(suppress(raw), batch["refs"], strict=True)):
            mine = owners == image
            centre, half = sides[mine, :2], sides[mine, 2:] / 2
            boxes, crops = draw_in_boxes(item, (height, width))
            found = Found(boxes, item.scores.cpu().double().numpy(), item.classes.cpu().numpy(), crops)
            self._monitored.append(
                monitor_slice(
                    (ref.case, ref.x), found, maps[image], classes[mine], np.hstack([centre - half, centre + half])
                )
            )

    def on_validation_epoch_end(self) -> None:
        """Pool the slices of all processes."""
        mine, self._monitored, self._losses = (self._monitored, self._losses), [], []
        parts = self.gathered(mine)
        values = monitors([item for slices, _ in parts for item in slices], num_classes=len(self.classes))
        values["loss"] = exact_mean([item for _, losses in parts for item in losses])
        self.score_threshold = values.get("score_threshold")
        self.log_validation(values, frozenset({"mask_map50", "mask_map50_named", "dice"}))

    def predict_step(self, batch: ScanBatch, batch_index: int) -> list[SliceInstances]:
        """Detections of each slice as they are (PROTOCOL 5.7), drawn on the native pixels.

        Raises:
            DataError: logits that are not finite.
        """
        if not batch["indices"]:
            return []
        raw = self.net.decode(self._formatted(batch["images"]))
        check_finite(raw.boxes, raw.scores, raw.coefficients, raw.prototypes)
        found = suppress(raw)
        return [
            self._instances(index, item, batch["size"], batch["step"])
            for index, item in zip(batch["indices"], found, strict=True)
        ]

    def detect(self, images: Tensor) -> list[Detections]:
        """Detections of images (B, C, Y, Z) in 0..1, drawn at their pixels; puts the network in evaluation mode."""
        training = self.net.training
        self.net.eval()
        with torch.no_grad():
            found = [draw(item, (images.shape[2], images.shape[3])) for item in suppress(self.net.decode(images))]
        self.net.train(training)
        return found

    def _instances(
        self, index: int, found: SliceDetections, size: tuple[int, int], step: tuple[float, float]
    ) -> SliceInstances:
        boxes, crops = draw_on(found, size, step)
        masks = tuple(encode_crop(crop, corner, size) for crop, corner in crops)
        classes = found.classes.cpu().numpy()
        levels = np.array([self.levels[i] for i in classes] if self.levels else np.zeros(len(classes)), np.int64)
        whole = np.array([crop.any() for crop, _ in crops], bool)
        instances = SliceInstances(
            index=index,
            size=size,
            masks=masks,
            scores=found.scores.float().cpu().numpy(),
            levels=levels,
            boxes=boxes,
            probabilities=found.distributions.float().cpu().numpy() if self.levels else None,
            classes=self.levels,
        )
        return instances.take(whole)

    def _loss(self, raw: dict[str, Any], batch: SliceBatch) -> tuple[Tensor, dict[str, Tensor]]:
        targets = InstanceTargets(
            index_map=batch["index_map"],
            classes=batch["classes"],
            boxes=batch["boxes"],
            batch_index=batch["batch_index"],
        )
        return self.net.loss(raw, targets)

    def _formatted(self, images: Tensor) -> Tensor:
        return images.contiguous(memory_format=torch.channels_last) if self.channels_last else images
