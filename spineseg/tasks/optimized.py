"""What every task does around its optimiser: sums of gradients, rates by position, clipping, logging, exact resume."""

import math
import time
import warnings
from abc import abstractmethod
from typing import Any, ClassVar, Generic, TypedDict, TypeVar

import lightning
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from spineseg.errors import DataError
from spineseg.tasks.optim import GROUPS, Optimization
from spineseg.vertebrae import level_id


class ImageBatch(TypedDict):
    """What every training batch holds, whatever else it does."""

    images: Tensor  # (B, C, …) float32


Batch = TypeVar("Batch", bound=ImageBatch)
Part = TypeVar("Part")


class OptimizedTask(lightning.LightningModule, Generic[Batch]):
    """A task whose optimisation is a function of the position in the run, and whose checkpoints hold all of it.

    Optimisation is manual, since Ultralytics' way of summing gradients differs from Lightning's: its number of summed
    batches rises during the warm-up, and sums are not divided.

    Args:
        net: the network.
        optimization: optimiser, schedule, warm-up, accumulation and clipping.
        classes: name of each class: levels, or ``vertebra`` alone.
        compile: whether to let ``torch.compile`` make the network faster; where it cannot, a warning says so once.

    Attributes:
        averaged: whether the loss is a mean over the batch. Then a step takes the mean gradient of the batches and
            processes it sums; else the sum, as Ultralytics does.
    """

    averaged: ClassVar[bool]

    def __init__(
        self, net: nn.Module, optimization: Optimization, classes: tuple[str, ...], compile: bool = False
    ) -> None:
        """Take the parts; nothing is built here."""
        super().__init__()
        self.automatic_optimization = False
        self.net, self.optimization, self.classes = net, optimization, classes
        self.levels: tuple[int, ...] = () if classes == ("vertebra",) else tuple(level_id(name) for name in classes)
        self._compiled = compile
        if compile:
            # In place, so that the weights keep their names; the work is done at the first call.
            self.net.compile()
        # Set by the validation that a checkpoint is chosen by, where the task has one, and kept with it.
        self.score_threshold: float | None = None
        self._summed = 0
        self._gradients: dict[str, Tensor] = {}
        self._earlier_seconds, self._started = 0.0, time.perf_counter()
        # The batch's loss terms and rates; whether they are logged; sums over the epoch's batches, and their number.
        self._terms: dict[str, Tensor] = {}
        self._rates: list[float] = []
        self._logged = False
        self._totals, self._batches = torch.zeros(0, dtype=torch.float64), 0

    @abstractmethod
    def training_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss to differentiate, and the terms to log by name: ``train/loss`` and others, detached."""

    @abstractmethod
    def samples(self, batch: Batch) -> str:
        """Names of the batch's samples, for an error."""

    def outputs(self, images: Tensor) -> Any:
        """What the network gives, compiled where that works."""
        if not self._compiled:
            return self.net(images)
        try:
            return self.net(images)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            # Whatever the compiler could not do; a fault of the network itself comes again below.
            self._compiled, self.net._compiled_call_impl = False, None
            found = self.net(images)
            reason = " ".join(str(error).split())[:200]
            warnings.warn(f"torch.compile failed, the network runs as it is: {reason}", stacklevel=2)
            return found

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

    def training_step(self, batch: Batch, batch_index: int) -> None:
        """Sum gradients; step when enough batches are summed."""
        optimizer = self.optimizers(use_pl_optimizer=True)
        batches = int(self.trainer.num_training_batches)
        samples = len(batch["images"]) * self.trainer.world_size
        epochs = self.trainer.max_epochs or 1
        seen = self.current_epoch * batches + batch_index
        rates, momentum, summed = self.optimization.settings_at(
            seen, self.current_epoch, epochs=epochs, batches=batches, batch_size=samples
        )
        self.optimization.apply(optimizer.optimizer, rates, momentum)  # type: ignore[union-attr]  # one optimiser
        loss, terms = self.training_loss(batch)
        self._check_finite(loss, batch)
        # DDP averages over processes: undone where the gradient of all samples is summed, as on one device.
        self.manual_backward(loss if self.averaged else loss * self.trainer.world_size)
        self._summed += 1
        if self._summed >= summed:
            optimizer.step()  # type: ignore[union-attr]
            optimizer.zero_grad()  # type: ignore[union-attr]
            self._summed = 0
        self._terms, self._rates = terms, rates
        self._log_batch()

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_index: int) -> None:
        """Log the batch if a callback has just ended the training: Lightning writes a row then."""
        if self.trainer._logger_connector.should_update_logs and not self._logged:
            self._log_terms()

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Average and clip here: with 16-mixed the gradients are unscaled by now, before it they are not."""
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        if scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False):
            # Lightning leaves this to a fused optimiser's own step, which comes after the clipping.
            scaler.unscale_(optimizer)
        if self.averaged and self._summed > 1:
            gradients = [parameter.grad for parameter in self.net.parameters() if parameter.grad is not None]
            torch._foreach_div_(gradients, float(self._summed))
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

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """One optimiser; its rates are set at every batch, so there is no scheduler with a state of its own."""
        datamodule = self.trainer.datamodule  # type: ignore[attr-defined]  # set by fit(datamodule=…)
        return self.optimization.build(self.net, datamodule.batch_size * self.trainer.world_size)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what the next batch depends on beside the weights: the summed gradients, and the score threshold.

        Raises:
            DataError: a loss of this epoch was not finite; the checkpoint before stays the last one.
        """
        if self.trainer.precision != "16-mixed" and not bool(torch.isfinite(self._totals).all()):
            raise self._diverged("a loss since the last checkpoint is not finite")
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

    def gathered(self, mine: Part) -> list[Part]:
        """What each process holds, in the order of processes."""
        parts = [mine] * self.trainer.world_size
        if self.trainer.world_size > 1:
            torch.distributed.all_gather_object(parts, mine)
        return parts

    def log_validation(self, values: dict[str, float], shown: frozenset[str]) -> None:
        """Log values as ``val/<name>``; those in ``shown`` stand in the progress bar."""
        for name, value in values.items():
            # Every process holds the same value, so nothing is left to reduce.
            self.log(f"val/{name}", value, prog_bar=name in shown, rank_zero_only=False)

    def _log_batch(self) -> None:
        """Log the batch's values where a row is written, and the epoch's means at its last batch.

        Lightning's `log` takes half a millisecond a value, whether a logger sees the value or not.
        """
        values = torch.stack(list(self._terms.values()))
        values = values.float() if values.device.type == "mps" else values.double()  # which has no float64
        # A checkpoint's totals come back on the CPU.
        self._totals = self._totals.to(values) + values if self._batches else values
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

    def _check_finite(self, loss: Tensor, batch: Batch) -> None:
        """Stop at a loss that is not a number, before such weights are averaged or saved.

        On a GPU only where values are logged anyway, since asking waits for the device; with a gradient scaler not at
        all, since it skips such steps itself.
        """
        if self.trainer.precision == "16-mixed":
            return
        if loss.device.type != "cpu" and self.trainer.global_step % (self.trainer.log_every_n_steps or 1):  # type: ignore[attr-defined]
            return
        if not bool(torch.isfinite(loss)):
            raise self._diverged(f"the loss is {float(loss.detach())}; the samples of the batch: {self.samples(batch)}")

    def _diverged(self, what: str) -> DataError:
        return DataError(
            f"epoch {self.current_epoch}: {what}. Lower optim.lr0, or use trainer.precision=32; the checkpoint before "
            "is whole"
        )


def exact_mean(losses: list[tuple[float, int]]) -> float:
    """Mean of loss sums over their samples: exact, so the same for every order and number of processes.

    >>> exact_mean([(3.0, 2), (1.0, 2)])
    1.0
    """
    return math.fsum(loss for loss, _ in losses) / sum(count for _, count in losses)
