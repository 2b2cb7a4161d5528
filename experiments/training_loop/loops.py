"""The task's training loop under Lightning, and the same work in a bare loop."""

from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import lightning
import torch
from torch import Tensor, nn

from spineseg.callbacks.ema import EMA, floating_state
from spineseg.callbacks.progress import Progress
from spineseg.callbacks.throughput import Throughput
from spineseg.data.slices import SliceBatch
from spineseg.hardware import build_trainer
from spineseg.loggers.table import TableLogger
from spineseg.loggers.wandb import WandbLogger
from spineseg.models.yolo import InstanceTargets
from spineseg.tasks.instance2d import InstanceSegmentation2D
from spineseg.tasks.optim import Optimization

Batches = Callable[[], Iterable[SliceBatch]]
Time = Callable[[], float]  # seconds: of the wall, or of the processor


class Nothing(nn.Module):
    """A network of one parameter that costs nothing, with the interface of YOLOv8Seg that training uses."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """One number."""
        return {"boxes": self.weight * images[0, 0, 0, 0]}

    def loss(self, raw: dict[str, Tensor], targets: InstanceTargets) -> tuple[Tensor, dict[str, Tensor]]:
        """The number, under all of the loss's names."""
        total = raw["boxes"].sum()
        return total, {f"{name}_loss": total.detach() for name in ("box", "seg", "cls", "dfl", "sem")}


class Clock(lightning.Callback):
    """Notes the time after each training batch."""

    def __init__(self, time: Time) -> None:
        self.time = time
        self.times: list[float] = []

    def on_train_batch_end(self, *_: Any) -> None:
        """Note it."""
        self.times.append(self.time())


class Given(lightning.LightningDataModule):
    """Batches from a function; has what the task and Lightning ask of a data module."""

    def __init__(self, batches: Batches, count: int, batch_size: int) -> None:
        super().__init__()
        self.batches, self.count, self.batch_size = batches, count, batch_size

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[SliceBatch]:
        return iter(self.batches())

    def train_dataloader(self) -> "Given":
        """The batches themselves."""
        return self

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """As the project's data module does it; the batches are on the processor already."""
        return batch


def bare(
    net: nn.Module, optimization: Optimization, batches: Iterable[SliceBatch], precision: str, time: Time
) -> list[float]:
    """Forward, loss, backward, clip, step and average, and nothing else; seconds of each batch after the first.

    Args:
        net: in channels_last, with its loss.
        optimization: optimiser and clipping; a step a batch.
        batches: taken one by one, so that a loader's time counts.
        precision: ``bf16-mixed`` or ``32-true``.
        time: what is measured.
    """
    optimizer = optimization.build(net, 1)
    averages, weights = ([value.detach().clone() for value in floating_state(net).values()], floating_state(net))
    net.train()
    times = []
    for batch in batches:
        images = batch["images"].contiguous(memory_format=torch.channels_last)
        targets = {name: batch[name] for name in ("index_map", "classes", "boxes", "batch_index")}
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
            loss, _ = net.loss(net(images), targets)
        loss.backward()
        if optimization.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(net.parameters(), optimization.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            torch._foreach_lerp_(averages, list(weights.values()), 0.01)
        times.append(time())
    return [b - a for a, b in pairwise(times)]


def framework(
    net: Any,
    optimization: Optimization,
    batches: Batches,
    count: int,
    precision: str,
    time: Time,
    folder: Path,
    *,
    loggers: bool,
) -> list[float]:
    """The same by the task under Lightning with the recipe's callbacks; seconds of each batch after the first.

    Args:
        net: with its loss.
        optimization: as in ``bare``.
        batches: makes the batches of the epoch.
        count: their number.
        precision: as in ``bare``.
        time: as in ``bare``.
        folder: where log.csv and W&B's files go.
        loggers: whether values are logged to both.
    """
    size = len(next(iter(batches()))["refs"])
    clock = Clock(time)
    tracked: list[Any] = [TableLogger(folder), WandbLogger(folder, mode="offline")] if loggers else []
    node = {"_target_": "lightning.Trainer", "accelerator": "cpu", "precision": precision, "max_epochs": 1}
    node |= {"log_every_n_steps": 10, "enable_model_summary": False, "limit_val_batches": 0}
    trainer = build_trainer(
        node,
        logger=tracked or False,
        callbacks=[EMA(), Throughput(), Progress(), clock],
        default_root_dir=str(folder),
    )
    task = InstanceSegmentation2D(net, optimization, ("vertebra",))
    trainer.fit(task, datamodule=Given(batches, count, size))
    for logger in tracked:
        if isinstance(logger, WandbLogger):
            logger.close()
    return [b - a for a, b in pairwise(clock.times)]
