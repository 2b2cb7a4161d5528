"""Averaged weights equal Ultralytics', validate in place of the weights, and survive a resume exactly."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback

from spineseg.callbacks.checkpoints import Checkpoints
from spineseg.callbacks.ema import EMA, floating_state
from spineseg.checkpoints import read_checkpoint
from spineseg.errors import ConfigError


class Oracle(Callback):
    """Ultralytics' ModelEMA beside the training."""

    def __init__(self, decay: float, tau: float) -> None:
        self.settings = decay, tau
        self.ema: Any = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        from ultralytics.utils.torch_utils import ModelEMA

        import spineseg.models.yolo  # noqa: F401  sets Ultralytics' environment before it is imported

        self.ema = ModelEMA(pl_module.net, *self.settings)
        self.step = 0

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *rest: Any) -> None:
        if trainer.global_step > self.step:
            self.step = trainer.global_step
            self.ema.update(pl_module.net)


@pytest.mark.parametrize("steps_every", [1, 2])
@pytest.mark.parametrize(("decay", "tau"), [(0.9999, 2000.0), (0.9, 3.0)])
def test_equals_ultralytics_bit_for_bit(fit: Any, tiny: Any, steps_every: int, decay: float, tau: float) -> None:
    ours, oracle = EMA(decay, tau), Oracle(decay, tau)
    fit(tiny(steps_every), [ours, oracle], max_epochs=4)
    assert ours.updates == oracle.ema.updates == 12 // steps_every
    expected = floating_state(oracle.ema.ema)
    assert expected.keys() == {name.removeprefix("net.") for name in ours._average}
    for name, value in expected.items():
        assert torch.equal(ours._average[f"net.{name}"], value), name


def test_average_stands_in_during_validation_alone(fit: Any, tiny: Any) -> None:
    task, ema = tiny(), EMA(0.5, 1.0)
    fit(task, [ema])
    seen = {name: value for name, value in task.seen_in_validation.items() if value.dtype.is_floating_point}
    now = floating_state(task.net)
    for name, value in seen.items():
        assert torch.equal(value, ema._average[f"net.{name}"])
    assert any(not torch.equal(value, seen[name]) for name, value in now.items())


def test_interrupted_validation_gives_the_weights_back(fit: Any, tiny: Any) -> None:
    task, ema = tiny(), EMA(0.5, 1.0)
    before: dict[str, torch.Tensor] = {}

    def stop(*_: Any) -> None:
        before.update({name: value.clone() for name, value in ema._average.items()})
        raise ZeroDivisionError

    task.on_validation_epoch_end = stop
    with pytest.raises(ZeroDivisionError):
        fit(task, [ema], num_sanity_val_steps=0)
    # What lay aside during validation are the weights; they are back, and the average lies aside again.
    for name, value in floating_state(task).items():
        assert torch.equal(value, before[name])


def test_checkpoint_holds_the_average_as_the_model_and_resume_is_exact(fit: Any, tiny: Any, tmp_path: Path) -> None:
    through, whole = tiny(), EMA(0.9, 3.0)
    fit(through, [whole, Checkpoints()], folder=tmp_path / "whole", max_epochs=4)

    fit(tiny(), [EMA(0.9, 3.0), Checkpoints()], folder=tmp_path / "half", max_epochs=2)
    last = tmp_path / "half" / "checkpoints" / "last.ckpt"
    resumed, ema = tiny(), EMA(0.9, 3.0)
    fit(resumed, [ema, Checkpoints()], folder=tmp_path / "half", resume=last, max_epochs=4)

    assert ema.updates == whole.updates == 12
    for name, value in floating_state(through).items():
        assert torch.equal(value, floating_state(resumed)[name]), name
        assert torch.equal(whole._average[name], ema._average[name]), name
    checkpoint = read_checkpoint(last)
    for name, value in ema._average.items():
        assert torch.equal(checkpoint["state_dict"][name], value)
        assert torch.equal(checkpoint["current_model_state"][name], floating_state(resumed)[name])


@pytest.mark.parametrize("settings", [{"decay": 1.0}, {"decay": -0.1}, {"tau": 0.0}])
def test_impossible_settings(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="expected 0 ≤ decay < 1 and tau > 0"):
        EMA(**settings)
