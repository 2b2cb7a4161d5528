"""Optimisation as Ultralytics or nnU-Net do it: each part a setting, each value a function of the position."""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from spineseg.errors import ConfigError

GROUPS = ("weights", "norms", "biases")
POLY_POWER = 0.9


@dataclass(frozen=True)
class Optimization:
    """Optimiser, schedule, warm-up and accumulation; the defaults are Ultralytics' for a given optimiser.

    Args:
        optimizer: SGD (Nesterov) or AdamW.
        lr0: learning rate after the warm-up.
        lrf: last learning rate as a share of ``lr0``; ``poly`` goes to 0 and has none.
        schedule: ``linear``, ``cosine`` or nnU-Net's ``poly``, (1 − epoch ÷ epochs)^0.9; by epoch.
        momentum: SGD's momentum, AdamW's first beta.
        weight_decay: of weights, for the nominal batch.
        decay_all: whether norms and biases decay too, as in nnU-Net.
        warmup_epochs: epochs in which rates and momentum rise; at least one epoch is left after them.
        warmup_momentum: momentum at the start.
        warmup_bias_lr: learning rate of the biases at the start (the others start at 0).
        nominal_batch: gradients are summed until this many slices are seen (rising during the warm-up); null steps at
            every batch.
        clip_norm: gradients are clipped to this norm; null does not clip.
    """

    optimizer: Literal["SGD", "AdamW"] = "SGD"
    lr0: float = 0.01
    lrf: float = 0.01
    schedule: Literal["linear", "cosine", "poly"] = "linear"
    momentum: float = 0.937
    weight_decay: float = 5e-4
    decay_all: bool = False
    warmup_epochs: float = 3.0
    warmup_momentum: float = 0.8
    warmup_bias_lr: float = 0.1
    nominal_batch: int | None = 64
    clip_norm: float | None = 10.0

    def __post_init__(self) -> None:
        """Check the closed choices."""
        if self.optimizer not in ("SGD", "AdamW"):
            raise ConfigError(f"optim.optimizer must be SGD or AdamW, found {self.optimizer}")
        if self.schedule not in ("linear", "cosine", "poly"):
            raise ConfigError(f"optim.schedule must be linear, cosine or poly, found {self.schedule}")

    def build(self, net: nn.Module, batch_size: int) -> torch.optim.Optimizer:
        """The optimiser with three groups: weights (decayed), norms, biases (decayed if all are)."""
        groups: list[dict[str, Any]] = [
            {"params": params, "weight_decay": 0.0, "name": name}
            for name, params in zip(GROUPS, parameter_groups(net), strict=True)
        ]
        summed = self.summed_batches(batch_size)
        nominal = self.nominal_batch or batch_size * summed
        for group in groups if self.decay_all else groups[:1]:
            group["weight_decay"] = self.weight_decay * batch_size * summed / nominal
        if self.optimizer == "AdamW":
            return torch.optim.AdamW(groups, lr=self.lr0, betas=(self.momentum, 0.999), weight_decay=0.0, fused=True)
        return torch.optim.SGD(groups, lr=self.lr0, momentum=self.momentum, nesterov=True)

    def summed_batches(self, batch_size: int) -> int:
        """Batches whose gradients make one step, after the warm-up."""
        return 1 if self.nominal_batch is None else max(round(self.nominal_batch / batch_size), 1)

    def warmup_batches(self, epochs: int, batches: int) -> int:
        """Batches of the warm-up in a run of ``epochs`` of ``batches``."""
        return round(min(self.warmup_epochs, max(epochs - 1, 0)) * batches)

    def decay(self, epoch: int, epochs: int) -> float:
        """The schedule's factor on ``lr0`` in an epoch (from 0)."""
        if self.schedule == "cosine":
            return (1 - math.cos(epoch * math.pi / epochs)) / 2 * (self.lrf - 1) + 1
        if self.schedule == "poly":
            return float(max(1 - epoch / epochs, 0) ** POLY_POWER)
        return max(1 - epoch / epochs, 0) * (1 - self.lrf) + self.lrf

    def settings_at(
        self, batch: int, epoch: int, *, epochs: int, batches: int, batch_size: int
    ) -> tuple[list[float], float, int]:
        """Learning rates of the three groups, momentum and number of summed batches at a batch of the run.

        Args:
            batch: batches seen in the run before this one.
            epoch: epoch of this batch, from 0.
            epochs: epochs of the run.
            batches: batches an epoch.
            batch_size: slices a batch, over all processes.
        """
        rate = self.lr0 * self.decay(epoch, epochs)
        # Never more than the run has: a run shorter than one nominal batch still makes a step.
        summed = min(self.summed_batches(batch_size), max(epochs * batches, 1))
        warm = self.warmup_batches(epochs, batches)
        if not warm or batch > warm:
            return [rate] * 3, self.momentum, summed
        share = batch / warm
        rates = [rate * share, rate * share, self.warmup_bias_lr + (rate - self.warmup_bias_lr) * share]
        momentum = self.warmup_momentum + (self.momentum - self.warmup_momentum) * share
        return rates, momentum, max(1, round(1 + (summed - 1) * share))

    def apply(self, optimizer: torch.optim.Optimizer, rates: list[float], momentum: float) -> None:
        """Set the groups' learning rates and momentum."""
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
            if "momentum" in group:
                group["momentum"] = momentum


def parameter_groups(net: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter], list[nn.Parameter]]:
    """Parameters as Ultralytics groups them: weights to decay, weights of normalisation layers, biases."""
    norms = tuple(value for key, value in vars(nn).items() if "Norm" in key)
    groups: tuple[list[nn.Parameter], list[nn.Parameter], list[nn.Parameter]] = ([], [], [])
    for module in net.modules():
        for name, parameter in module.named_parameters(recurse=False):
            place = 2 if "bias" in name else 1 if isinstance(module, norms) else 0
            groups[place].append(parameter)
    return groups
