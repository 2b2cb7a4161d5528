"""Averaged weights, as Ultralytics averages them."""

import math
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from spineseg.errors import ConfigError


class EMA(Callback):
    """Exponential moving average of all floating-point weights and buffers, equal to Ultralytics' ModelEMA.

    After optimiser step n the average moves towards the weights by 1 − d, d = decay · (1 − exp(−n / tau)). It stands in
    for the weights during validation. In a checkpoint `state_dict` holds the average, which is what a model is loaded
    from, and `current_model_state` the weights that training goes on from.

    Lightning's WeightAveraging is not used: it copies at the first step and has one fixed decay, averages integer
    buffers too, and copies the whole task, metrics included.

    Args:
        decay: Limit of d.
        tau: Steps over which d ramps up.
    """

    def __init__(self, decay: float = 0.9999, tau: float = 2000.0) -> None:
        if not 0 <= decay < 1 or tau <= 0:
            raise ConfigError(f"ema: decay={decay}, tau={tau}; expected 0 ≤ decay < 1 and tau > 0")
        self.decay = decay
        self.tau = tau
        self.updates = 0
        self._average: dict[str, Tensor] = {}
        self._step = 0
        self._swapped = False
        self._pairs: tuple[list[Tensor], list[Tensor]] = ([], [])

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start from the weights, unless a checkpoint brought an average, on the device of the weights."""
        weights = floating_state(pl_module)
        if self._average.keys() != weights.keys():
            self._average = {name: value.detach().clone() for name, value in weights.items()}
        for name, value in weights.items():
            self._average[name] = self._average[name].to(value.device)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count optimiser steps from where the checkpoint stopped; the loops are restored after `on_fit_start`."""
        self._step = trainer.global_step

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """List averages and weights once: walking through the modules takes longer than averaging them."""
        self._pair(pl_module)

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the average, if the optimiser stepped in this batch."""
        if trainer.global_step == self._step:
            return
        self._step = trainer.global_step
        self.updates += 1
        d = self.decay * (1 - math.exp(-self.updates / self.tau))
        if not self._pairs[0]:  # a run that goes on inside an epoch does not start it
            self._pair(pl_module)
        torch._foreach_lerp_(*self._pairs, 1 - d)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the average in the place of the weights; the task then takes process 0's batch statistics for all."""
        if self._average:
            self._swap(pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the weights back."""
        if self._swapped:
            self._swap(pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Put the weights back if validation was interrupted."""
        if self._swapped:
            self._swap(pl_module)

    def state_dict(self) -> dict[str, Any]:
        """Return the number of updates; the average itself is the checkpoint's `state_dict`."""
        return {"updates": self.updates}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the number of updates."""
        self.updates = int(state_dict["updates"])

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Store the average as the model, the weights beside it."""
        if not self._average:
            return
        shown = checkpoint["state_dict"]  # the average during validation, else the weights
        averaged, current = dict(shown), dict(shown)
        (current if self._swapped else averaged).update(self._average)
        checkpoint["state_dict"], checkpoint["current_model_state"] = averaged, current

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Restore both; the model already holds the checkpoint's `state_dict`, the average."""
        if "current_model_state" not in checkpoint:
            return
        self._average = {
            name: value.detach().clone()
            for name, value in checkpoint["state_dict"].items()
            if value.dtype.is_floating_point
        }
        pl_module.load_state_dict(checkpoint["current_model_state"])

    def _pair(self, module: LightningModule) -> None:
        weights = floating_state(module)
        self._pairs = [self._average[name] for name in weights], list(weights.values())

    @torch.no_grad()
    def _swap(self, module: LightningModule) -> None:
        weights = floating_state(module)
        averages, kept = [self._average[name] for name in weights], [value.clone() for value in weights.values()]
        torch._foreach_copy_(list(weights.values()), averages)
        torch._foreach_copy_(averages, kept)
        self._swapped = not self._swapped


def floating_state(module: torch.nn.Module) -> dict[str, Tensor]:
    """Return the floating-point parameters and persistent buffers of a module by name, as the tensors themselves."""
    return {name: value for name, value in module.state_dict().items() if value.dtype.is_floating_point}
