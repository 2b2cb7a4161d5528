"""The task of finding vertebrae as instances in sagittal slices."""

import math
import time
from typing import Any

import lightning
import numpy as np
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from spineseg.data.scans import ScanBatch
from spineseg.data.slices import SliceBatch
from spineseg.errors import DataError
from spineseg.models.detections import Detections, SliceDetections, draw, draw_in_boxes, draw_on, suppress
from spineseg.models.yolo import InstanceTargets, YOLOv8Seg
from spineseg.predictions.instances import SliceInstances
from spineseg.predictions.masks import encode_crop
from spineseg.tasks.monitors import Found, MonitoredSlice, monitor_slice, monitors
from spineseg.tasks.optim import GROUPS, Optimization
from spineseg.vertebrae import level_id


class InstanceSegmentation2D(lightning.LightningModule):
    """Train a 2D instance segmenter on sagittal slices.

    Optimisation is manual, since Ultralytics' way of summing gradients differs from Lightning's: its number of summed
    batches rises during the warm-up, and sums are not divided.

    Args:
        net: the network with its loss.
        optimization: optimiser, schedule, warm-up, accumulation and clipping.
        classes: name of each class in the network's order: levels, or ``vertebra`` alone.
        channels_last: memory format of the network; faster with 16-bit convolutions.
    """

    def __init__(
        self, net: YOLOv8Seg, optimization: Optimization, classes: tuple[str, ...], channels_last: bool = True
    ) -> None:
        """Take the parts; nothing is built here."""
        super().__init__()
        self.automatic_optimization = False
        self.net, self.optimization, self.classes = net, optimization, classes
        self.channels_last = channels_last
        self.levels: tuple[int, ...] = () if classes == ("vertebra",) else tuple(level_id(name) for name in classes)
        if channels_last:
            self.net.to(memory_format=torch.channels_last)
        # Set by the validation that a checkpoint is chosen by, and kept with it.
        self.score_threshold: float | None = None
        self._summed = 0
        self._gradients: dict[str, Tensor] = {}
        self._earlier_seconds, self._started = 0.0, time.perf_counter()
        self._monitored: list[MonitoredSlice] = []
        self._losses: list[tuple[float, int]] = []
        # The batch's loss terms and rates; whether they are logged; sums over the epoch's batches, and their number.
        self._terms: dict[str, Tensor] = {}
        self._rates: list[float] = []
        self._logged = False
        self._totals, self._batches = torch.zeros(0, dtype=torch.float64), 0

    def forward(self, images: Tensor) -> list[Detections]:
        """Detections of images (B, C, Y, Z), drawn at their pixels."""
        return self.detect(images)

    @property
    def fit_seconds(self) -> float:
        """Time of the fit so far, over all resumes, up to the last checkpoint of each."""
        return self._earlier_seconds + time.perf_counter() - self._started

    def on_train_start(self) -> None:
        """Put gradients back that were summed, but not yet used, when the checkpoint was written."""
        self._started = time.perf_counter()
        for name, parameter in self.net.named_parameters():
            if name in self._gradients:
                parameter.grad = self._gradients[name].to(parameter)
        self._gradients = {}

    def training_step(self, batch: SliceBatch, batch_index: int) -> None:
        """Sum gradients; step when enough batches are summed."""
        optimizer = self.optimizers(use_pl_optimizer=True)
        batches = int(self.trainer.num_training_batches)
        slices = len(batch["images"]) * self.trainer.world_size
        epochs = self.trainer.max_epochs or 1
        seen = self.current_epoch * batches + batch_index
        rates, momentum, summed = self.optimization.settings_at(
            seen, self.current_epoch, epochs=epochs, batches=batches, batch_size=slices
        )
        self.optimization.apply(optimizer.optimizer, rates, momentum)  # type: ignore[union-attr]  # one optimiser
        loss, parts = self._loss(self.net(self._formatted(batch["images"])), batch)
        self._check_finite(loss, batch)
        # The gradient of all processes' slices summed, not averaged, as on one device.
        self.manual_backward(loss * self.trainer.world_size)
        self._summed += 1
        if self._summed >= summed:
            optimizer.step()  # type: ignore[union-attr]
            optimizer.zero_grad()  # type: ignore[union-attr]
            self._summed = 0
        # Ultralytics' fifth term is for other heads, and always 0 here.
        terms = {f"train/{name}": value for name, value in parts.items() if name != "sem_loss"}
        self._terms, self._rates = {"train/loss": loss.detach() / len(batch["images"]), **terms}, rates
        self._log_batch()

    def on_train_batch_end(self, outputs: Any, batch: SliceBatch, batch_index: int) -> None:
        """Log the batch if a callback has just ended the training: Lightning writes a row then."""
        if self.trainer._logger_connector.should_update_logs and not self._logged:
            self._log_terms()

    def _log_batch(self) -> None:
        """Log the batch's values where a row is written, and the epoch's means at its last batch.

        Lightning's `log` takes half a millisecond a value, whether a logger sees the value or not.
        """
        values = torch.stack(list(self._terms.values())).double()
        self._totals = self._totals + values if self._batches else values
        self._batches += 1
        self._logged = self.trainer._logger_connector.should_update_logs
        if self._logged:
            self._log_terms()
        if self.trainer.is_last_batch:
            means = (self._totals / self._batches).float()
            self.log_dict(
                {f"{name}_epoch": mean for name, mean in zip(self._terms, means, strict=True)},
                on_step=False,
                on_epoch=True,
                batch_size=1,
                sync_dist=True,
            )
            self._batches = 0

    def _log_terms(self) -> None:
        self.log("train/loss", self._terms["train/loss"], prog_bar=True)
        self.log_dict({name: value for name, value in self._terms.items() if name != "train/loss"})
        self.log_dict({f"lr/{name}": rate for name, rate in zip(GROUPS, self._rates, strict=True)})

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Clip here: with 16-mixed the gradients are unscaled by now, before it they are not."""
        if self.optimization.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.net.parameters(), self.optimization.clip_norm)

    def on_validation_model_zero_grad(self) -> None:
        """Keep the gradients that are summed, but not yet used: Lightning would drop them before a validation."""

    def on_validation_start(self) -> None:
        """Validate with the running statistics of process 0, whose are saved; the EMA has put its own in their place.

        DDP would send them before every batch, but processes may have unequally many.
        """
        if self.trainer.world_size > 1:
            for buffer in self.buffers():
                torch.distributed.broadcast(buffer, 0)
            if isinstance(self.trainer.strategy.model, DistributedDataParallel):
                self.trainer.strategy.model.broadcast_buffers = False

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
        parts = [mine]
        if self.trainer.world_size > 1:
            parts = [mine] * self.trainer.world_size
            torch.distributed.all_gather_object(parts, mine)
        values = monitors([item for slices, _ in parts for item in slices], num_classes=len(self.classes))
        losses = [item for _, part in parts for item in part]
        # An exact sum: the same for every order and number of processes.
        values["loss"] = math.fsum(loss for loss, _ in losses) / sum(count for _, count in losses)
        self.score_threshold = values.get("score_threshold")
        shown = {"mask_map50", "mask_map50_named", "dice"}
        for name, value in values.items():
            # Every process holds the same value, so nothing is left to reduce.
            self.log(f"val/{name}", value, prog_bar=name in shown, rank_zero_only=False)

    def predict_step(self, batch: ScanBatch, batch_index: int) -> list[SliceInstances]:
        """Detections of each slice as they are (PROTOCOL 5.7), drawn on the native pixels."""
        if not batch["indices"]:
            return []
        found = suppress(self.net.decode(self._formatted(batch["images"])))
        return [
            self._instances(index, item, batch["size"], batch["step"])
            for index, item in zip(batch["indices"], found, strict=True)
        ]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """One optimiser; its rates are set at every batch, so there is no scheduler with a state of its own."""
        datamodule = self.trainer.datamodule  # type: ignore[attr-defined]  # set by fit(datamodule=…)
        return self.optimization.build(self.net, datamodule.batch_size * self.trainer.world_size)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what the next batch depends on beside the weights: the summed gradients, and the score threshold."""
        checkpoint["spineseg"] = {
            "score_threshold": self.score_threshold,
            "seconds": self.fit_seconds,
            "summed": self._summed,
            "totals": self._totals.clone(),
            "batches": self._batches,
            "gradients": {
                name: parameter.grad.detach().clone()
                for name, parameter in self.net.named_parameters()
                if self._summed and parameter.grad is not None
            },
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take back what ``on_save_checkpoint`` kept."""
        kept = checkpoint.get("spineseg", {})
        self.score_threshold = kept.get("score_threshold")
        self._earlier_seconds = kept.get("seconds", 0.0)
        self._summed = kept.get("summed", 0)
        self._totals, self._batches = kept.get("totals", self._totals), kept.get("batches", 0)
        self._gradients = kept.get("gradients", {})

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

    def _check_finite(self, loss: Tensor, batch: SliceBatch) -> None:
        """Stop at a loss that is not a number, before such weights are averaged or saved.

        On a GPU only where values are logged anyway, since asking waits for the device; with a gradient scaler not at
        all, since it skips such steps itself.
        """
        if self.trainer.precision == "16-mixed":
            return
        if loss.device.type != "cpu" and self.trainer.global_step % (self.trainer.log_every_n_steps or 1):  # type: ignore[attr-defined]
            return
        if not bool(torch.isfinite(loss)):
            slices = ", ".join(f"{ref.case} x={ref.x}" for ref in batch["refs"])
            raise DataError(
                f"epoch {self.current_epoch}: the loss is {float(loss)}; the slices of the batch: {slices}. "
                "Lower optim.lr0, or use trainer.precision=32; the checkpoint before is whole"
            )

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
