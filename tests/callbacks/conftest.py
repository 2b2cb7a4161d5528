"""The smallest task that has what the callbacks touch: manual steps, batch statistics, validation, detections."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.utils.data import DataLoader

SIZE = (24, 40)  # Y, Z


@dataclass
class Drawn:
    boxes: Tensor
    scores: Tensor
    classes: Tensor
    masks: Tensor


class TinyTask(lightning.LightningModule):
    def __init__(self, steps_every: int = 1) -> None:
        super().__init__()
        self.automatic_optimization = False
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 1, 1))
        self.classes = ("L1", "L2")
        self.steps_every = steps_every
        self.monitor_values: list[float] = []
        self.seen_in_validation: dict[str, Tensor] = {}

    def training_step(self, batch: dict[str, Tensor], batch_index: int) -> None:
        optimizer = self.optimizers()
        loss = (self.net(batch["images"]) - 1).square().mean()
        self.manual_backward(loss)
        if (self.current_epoch * 3 + batch_index + 1) % self.steps_every == 0:
            optimizer.step()
            optimizer.zero_grad()
        self.log("train/loss", loss)
        self.log("train/epoch_loss", loss, on_step=False, on_epoch=True)

    def validation_step(self, batch: dict[str, Tensor], batch_index: int) -> None:
        self.seen_in_validation = {name: value.clone() for name, value in self.net.state_dict().items()}
        self.log("val/loss", (self.net(batch["images"]) - 1).square().mean())

    def on_validation_epoch_end(self) -> None:
        if self.monitor_values and not self.trainer.sanity_checking:
            self.log("val/score", self.monitor_values[self.current_epoch])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.net.parameters(), lr=0.05, momentum=0.9)

    def detect(self, images: Tensor) -> list[Drawn]:
        masks = torch.zeros(len(images), 2, *images.shape[2:], dtype=torch.bool)
        masks[:, 0, 4:12, 20:30] = masks[:, 1, 4:12, 5:15] = True
        boxes = torch.tensor([[4, 20, 12, 30], [4, 5, 12, 15]])
        return [Drawn(boxes, torch.tensor([0.9, 0.1]), torch.tensor([0, 1]), mask) for mask in masks]


def sample(index: int) -> dict[str, Tensor]:
    """A slice as a pure function of its number; every third has an instance."""
    images = torch.randn(3, *SIZE, generator=torch.Generator().manual_seed(index))
    index_map = torch.zeros(SIZE, dtype=torch.uint8)
    if index % 3 == 0:
        index_map[5:11, 21:29] = 1
    return {"images": images, "index_map": index_map}


def collate(samples: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    index_map = torch.stack([item["index_map"] for item in samples])
    owners = torch.tensor([index for index, item in enumerate(samples) if item["index_map"].any()])
    return {
        "images": torch.stack([item["images"] for item in samples]),
        "index_map": index_map,
        "batch_index": owners,
        "classes": torch.zeros(len(owners)),
    }


def loader(first: int, count: int) -> DataLoader[dict[str, Tensor]]:
    return DataLoader([sample(first + index) for index in range(count)], batch_size=2, collate_fn=collate)


Fit = Callable[..., lightning.Trainer]


@pytest.fixture
def fit(tmp_path: Path) -> Fit:
    """Return a function that trains: three batches of two, two validation batches an epoch."""

    def run(
        task: lightning.LightningModule,
        callbacks: list[Callback],
        *,
        folder: Path = tmp_path,
        resume: Path | None = None,
        loggers: list[Any] | None = None,
        **settings: Any,
    ) -> lightning.Trainer:
        options = {"max_epochs": 2, "log_every_n_steps": 1, "enable_progress_bar": False, **settings}
        trainer = lightning.Trainer(
            accelerator="cpu",
            default_root_dir=folder,
            callbacks=callbacks,
            logger=loggers or False,
            enable_model_summary=False,
            enable_checkpointing=any(isinstance(each, lightning.pytorch.callbacks.Checkpoint) for each in callbacks),
            **options,
        )
        trainer.fit(task, loader(0, 6), loader(100, 4), ckpt_path=resume, weights_only=True)
        return trainer

    return run


@pytest.fixture
def tiny() -> type[TinyTask]:
    """Return the class of the task."""
    return TinyTask
