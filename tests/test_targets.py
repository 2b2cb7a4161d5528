"""A configuration may come from anywhere: what it names is checked before it is called."""

from dataclasses import dataclass
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from spineseg.callbacks.ema import EMA
from spineseg.config import build, check
from spineseg.errors import ConfigError

HOSTILE = [
    "os.system",
    "posix.system",
    "subprocess.Popen",
    "builtins.eval",
    "builtins.exec",
    "logging.os.system",
    "functools.partial",
    "shutil.rmtree",
    "pathlib.Path.write_text",
    "torch.load",
    "torch.hub.load",
    "lightning.LightningModule.load_from_checkpoint",
    "lightning.pytorch.trainer.trainer.os.system",
    "spineseg.runs.os.system",
    "spineseg.config.functools.partial",
    "spineseg.targets.importlib.import_module",
    "spineseg.config._print_error",
    "spineseg.errors.__builtins__",
    "antigravity.fly",
    "",
    "os",
    "a b.c",
    "../x.y",
    7,
]


@pytest.mark.parametrize("target", HOSTILE)
@pytest.mark.parametrize("partial", [False, True])
def test_hostile_target_is_refused_and_does_nothing(target: object, partial: bool, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    node = {"_target_": target, "command": f"touch {canary}", "_partial_": partial}
    with pytest.raises(ConfigError, match=r"callbacks\.bad\._target_"):
        check(OmegaConf.create({"callbacks": {"bad": node}}))
    with pytest.raises(ConfigError, match="_target_"):
        build(node, object)
    assert not canary.exists()


def test_module_is_not_imported_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w')\nclass Module: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="only modules of spineseg"):
        build({"_target_": "evil.Module"}, object)
    assert not (tmp_path / "canary").exists()


def test_hostile_target_inside_a_good_one() -> None:
    node = {"_target_": "spineseg.callbacks.ema.EMA", "decay": {"_target_": "os.system", "command": "true"}}
    with pytest.raises(ConfigError, match=r"decay\._target_: os\.system is refused"):
        build(node, EMA)


def test_positional_arguments_are_refused() -> None:
    with pytest.raises(ConfigError, match="_args_"):
        build({"_target_": "spineseg.callbacks.ema.EMA", "_args_": [0.5]}, EMA)


@pytest.mark.parametrize(
    ("target", "hint"),
    [
        ("spineseg.callbacks.ema.EMAA", "did you mean 'EMA'"),
        ("spineseg.callbacks.emma.EMA", "did you mean 'ema'"),
        ("lightning.Trainr", "did you mean 'Trainer'"),
    ],
)
def test_misspelt_target(target: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=hint):
        build({"_target_": target}, object)


def test_builds_nested_nodes_with_plain_lists() -> None:
    import torch

    linear = {"_target_": "torch.nn.Linear", "in_features": "${..size}", "out_features": 2}
    cfg = OmegaConf.create({"size": 3, "net": {"_target_": "torch.nn.ModuleList", "modules": [linear]}})
    with pytest.raises(ConfigError, match="net"):  # two levels up is not there: the interpolation is named
        build(cfg.net, torch.nn.Module)
    linear["in_features"] = "${size}"
    net = build(
        OmegaConf.create({"size": 3, "net": {"_target_": "torch.nn.ModuleList", "modules": [linear]}}).net,
        torch.nn.ModuleList,
    )
    assert [(layer.in_features, layer.out_features) for layer in net] == [(3, 2)]


def test_run_time_arguments_arrive_untouched_and_win() -> None:
    @dataclass(frozen=True)
    class Thing:
        path: Path

    thing = Thing(Path("x"))
    ema = build({"_target_": "spineseg.callbacks.ema.EMA", "decay": 0.5}, EMA, tau=thing.path and 7.0)
    assert (ema.decay, ema.tau) == (0.5, 7.0)
    import lightning

    callbacks = [ema]
    trainer = build(
        {"_target_": "lightning.Trainer", "logger": True, "accelerator": "cpu"},
        lightning.Trainer,
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
    )
    assert ema in trainer.callbacks
    assert not trainer.loggers


def test_partial_waits_for_the_rest() -> None:
    import torch

    node = {"_target_": "torch.nn.Linear", "in_features": 3, "_partial_": True}
    make = build(node, object)
    assert isinstance(make(out_features=4), torch.nn.Linear)  # type: ignore[operator]


def test_wrong_kind_wrong_argument_and_missing_value() -> None:
    with pytest.raises(ConfigError, match="makes a EMA, expected a int"):
        build({"_target_": "spineseg.callbacks.ema.EMA"}, int)
    with pytest.raises(ConfigError, match="missing a required argument"):
        build({"_target_": "torch.nn.Linear", "in_features": 3}, object)
    with pytest.raises(ConfigError, match="decay"):
        build(OmegaConf.create({"_target_": "spineseg.callbacks.ema.EMA", "decay": "???"}), EMA)
    with pytest.raises(ConfigError, match="expected keys with a _target_"):
        build({"decay": 1}, EMA)
