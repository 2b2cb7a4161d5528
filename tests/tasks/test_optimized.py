"""What all tasks share about a step, beyond what a training on the CPU shows."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spineseg.errors import DataError
from spineseg.tasks.optim import Optimization
from spineseg.tasks.optimized import OptimizedTask


class Plain(OptimizedTask[Any]):
    averaged = True

    def training_loss(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        raise NotImplementedError

    def samples(self, batch: Any) -> str:
        return "none"


def task_of(scaler: Any = None, precision: str = "32-true") -> Plain:
    torch.manual_seed(0)
    task = Plain(nn.Linear(5, 3), Optimization(optimizer="AdamW", clip_norm=0.5), ("vertebra",))
    plugin = SimpleNamespace(scaler=scaler)
    task._trainer = SimpleNamespace(  # type: ignore[assignment]
        precision_plugin=plugin, precision=precision, current_epoch=0, max_epochs=1, world_size=1, is_last_batch=False
    )
    return task


def gradients(task: Plain, factor: float = 1.0) -> list[Tensor]:
    task.net.zero_grad()
    (task.net(torch.linspace(-1, 1, 20).reshape(4, 5)).square().sum() * factor).backward()
    return [parameter.grad.clone() for parameter in task.net.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("scale", [2.0**8, 2.0**24])
def test_clipping_sees_what_the_scaler_has_not_multiplied(fused: bool, scale: float) -> None:
    """Lightning unscales before the hook, but for fused optimisers, which unscale in their own step."""
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    scaler.scale(torch.zeros(1))  # its scale becomes a tensor with its first loss
    task = task_of(scaler, "16-mixed")
    plain = gradients(task)
    norm = torch.linalg.vector_norm(torch.cat([each.flatten() for each in plain]))
    assert norm > 0.5
    optimizer = torch.optim.AdamW(task.net.parameters(), fused=fused)
    gradients(task, scale)
    if not getattr(optimizer, "_step_supports_amp_scaling", False):
        scaler.unscale_(optimizer)
    task.on_before_optimizer_step(optimizer)
    for parameter, expected in zip(task.net.parameters(), plain, strict=True):
        torch.testing.assert_close(parameter.grad, expected * 0.5 / norm)


def test_a_checkpoint_of_diverged_weights_is_not_written() -> None:
    task = task_of()
    checkpoint: dict[str, Any] = {}
    task._totals = torch.tensor([1.0, 2.0], dtype=torch.float64)
    task.on_save_checkpoint(checkpoint)
    assert checkpoint["spineseg"]["totals"].tolist() == [1.0, 2.0]
    task._totals = torch.tensor([1.0, float("nan")], dtype=torch.float64)
    with pytest.raises(DataError, match=r"not finite.*the checkpoint before is whole"):
        task.on_save_checkpoint(checkpoint)


def test_sums_that_were_saved_go_on_where_the_values_are() -> None:
    task = task_of()
    task._trainer._logger_connector = SimpleNamespace(should_update_logs=False)  # type: ignore[union-attr]
    task._totals, task._batches = torch.tensor([3.0]), 1  # as on another device, or of another type
    task._terms = {"train/loss": torch.tensor(2.0)}
    task._log_batch()
    assert task._totals.tolist() == [5.0] and task._totals.dtype == torch.float64
