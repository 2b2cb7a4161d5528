"""last.ckpt every epoch, best.ckpt by the monitored value, never a NaN."""

import math
from pathlib import Path
from typing import Any

import pytest

from spineseg.callbacks.checkpoints import Checkpoints
from spineseg.callbacks.ema import EMA
from spineseg.checkpoints import read_checkpoint, seal_path, steps_done
from spineseg.errors import ConfigError, DataError


@pytest.mark.parametrize(
    ("values", "mode", "best"),
    [
        ([0.1, 0.5, 0.3], "max", 1),
        ([0.1, 0.5, 0.3], "min", 0),
        ([math.nan, 0.2, math.nan], "max", 1),
        ([0.4, 0.4, 0.4], "max", 0),
    ],
)
def test_best_follows_the_monitor(
    fit: Any, tiny: Any, tmp_path: Path, values: list[float], mode: Any, best: int
) -> None:
    task = tiny()
    task.monitor_values = values
    fit(task, [Checkpoints("val/score", mode)], max_epochs=3)
    assert read_checkpoint(tmp_path / "checkpoints" / "best.ckpt")["epoch"] == best
    last = read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")
    assert last["epoch"] == 2
    assert steps_done(last) == 9
    names = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert names == {"best.ckpt", "best.ckpt.sha256", "last.ckpt", "last.ckpt.sha256"}


def test_nan_alone_is_never_best(fit: Any, tiny: Any, tmp_path: Path) -> None:
    task = tiny()
    task.monitor_values = [math.nan, math.nan]
    fit(task, [Checkpoints("val/score")])
    assert not (tmp_path / "checkpoints" / "best.ckpt").exists()
    assert (tmp_path / "checkpoints" / "last.ckpt").exists()


def test_epoch_without_an_optimiser_step_is_saved(fit: Any, tiny: Any, tmp_path: Path) -> None:
    fit(tiny(steps_every=1000), [Checkpoints()])
    assert read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")["epoch"] == 1


def test_best_is_remembered_by_a_resumed_run(fit: Any, tiny: Any, tmp_path: Path) -> None:
    values = [0.5, 0.2, 0.3, 0.4]
    task = tiny()
    task.monitor_values = values
    fit(task, [Checkpoints("val/score")])
    resumed = tiny()
    resumed.monitor_values = values
    last = tmp_path / "checkpoints" / "last.ckpt"
    fit(resumed, [Checkpoints("val/score")], resume=last, max_epochs=4)
    assert read_checkpoint(last)["epoch"] == 3
    assert read_checkpoint(tmp_path / "checkpoints" / "best.ckpt")["epoch"] == 0


def test_monitor_that_is_never_logged_is_an_error(fit: Any, tiny: Any) -> None:
    with pytest.raises(ConfigError, match=r"checkpoints\.monitor=val/scroe: never logged; logged were: .*val/loss"):
        fit(tiny(), [Checkpoints("val/scroe")])


def test_every_n_epochs_keeps_the_last_epoch(fit: Any, tiny: Any, tmp_path: Path) -> None:
    fit(tiny(), [Checkpoints(every_n_epochs=2), EMA()], max_epochs=3)
    assert read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")["epoch"] == 2


def test_folder_that_cannot_be_written_is_named(fit: Any, tiny: Any, tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("in the way")
    with pytest.raises(DataError, match="could not be written"):
        fit(tiny(), [Checkpoints()])


def test_seal_is_what_sha256sum_prints(fit: Any, tiny: Any, tmp_path: Path) -> None:
    fit(tiny(), [Checkpoints()], max_epochs=1)
    digest, name = seal_path(tmp_path / "checkpoints" / "last.ckpt").read_text().split()
    assert (len(digest), name) == (64, "last.ckpt")


@pytest.mark.parametrize("settings", [{"mode": "best"}, {"every_n_epochs": 0}])
def test_impossible_settings(settings: Any) -> None:
    with pytest.raises(ConfigError, match="expected max or min"):
        Checkpoints("x", **settings)
