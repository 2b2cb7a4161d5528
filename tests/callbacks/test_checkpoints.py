"""last.ckpt by epochs and minutes, best.ckpt by the monitored value, never a NaN; a resume from each is exact."""

import math
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import lightning
import pytest
from lightning.pytorch.callbacks import EarlyStopping
from torch.utils.data import DataLoader

from spineseg.callbacks.checkpoints import Checkpoints
from spineseg.callbacks.ema import EMA
from spineseg.callbacks.throughput import Throughput
from spineseg.checkpoints import COSTS, differences, read_checkpoint, seal_path, steps_done
from spineseg.config import build, compose
from spineseg.data.sampling import DrawSampler
from spineseg.errors import ConfigError, DataError
from spineseg.loggers.table import TableLogger, read_table
from spineseg.progress import position
from spineseg.targets import plain


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


@pytest.mark.parametrize("monitor", [None, "val/nothing"])
def test_early_stopping_lets_a_run_go_without_validation(fit: Any, tiny: Any, tmp_path: Path, monitor: Any) -> None:
    node = {**plain(compose("train", ["+experiment=yolo_csi"]).callbacks)["early_stopping"], "monitor": monitor}
    fit(tiny(), [build(node, EarlyStopping), Checkpoints(None)], max_epochs=3)
    assert read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")["epoch"] == 2


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


class Draws(lightning.LightningDataModule):
    """Three batches of two an epoch, other samples in each; two validation batches."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.module = module

    def train_dataloader(self) -> Any:
        assert self.trainer is not None
        epoch, batches = position(self.trainer)
        sampler = DrawSampler(6, epoch=epoch, taken=2 * batches)
        samples = [self.module.sample(index) for index in range(18)]
        return DataLoader(samples, batch_size=2, sampler=sampler, collate_fn=self.module.collate)

    def val_dataloader(self) -> Any:
        return self.module.loader(100, 4)


class At(lightning.Callback):
    """Does something at the start of a batch of the run, counted from 0."""

    def __init__(self, batch: int, action: Any) -> None:
        self.batch, self.action = batch, action

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.current_epoch * 3 + batch_idx == self.batch:
            self.action()


@pytest.fixture
def module() -> Any:
    import importlib.util

    spec = importlib.util.spec_from_file_location("tiny", Path(__file__).parent / "conftest.py")
    assert spec is not None and spec.loader is not None
    tiny = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tiny)
    return tiny


def train(
    module: Any, folder: Path, *more: Any, minutes: float | None = 0.0, resume: bool = False, **settings: Any
) -> Any:
    """Three epochs of draws with a log; from the folder's last checkpoint if asked."""
    last = folder / "checkpoints" / "last.ckpt"
    steps = steps_done(read_checkpoint(last)) if resume else None
    task = module.TinyTask()
    task.monitor_values = [0.2, 0.9, 0.3]
    trainer = lightning.Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        logger=TableLogger(folder, steps),
        callbacks=[*more, EMA(0.9, 3.0), Throughput(), Checkpoints("val/score", every_n_minutes=minutes)],
        enable_model_summary=False,
        enable_progress_bar=False,
        **{"max_epochs": 3, "log_every_n_steps": 2, **settings},
    )
    trainer.fit(task, datamodule=Draws(module), ckpt_path=last if resume else None, weights_only=True)
    return trainer


def rows(folder: Path) -> list[Any]:
    """The log without times' values: a row of them must be there, too."""
    found = [(row.step, row.name, row.value) for row in read_table(folder / "log.csv")]
    return sorted((step, name, 0 if name in COSTS else value) for step, name, value in found)


@pytest.mark.parametrize("every_n_steps", [1, 2])
def test_resume_from_every_batch_is_exact(module: Any, tmp_path: Path, every_n_steps: int) -> None:
    """A copy of the folder before each batch is what a kill there would leave; the log is cut or filled up."""
    whole = tmp_path / "whole"
    copies = [At(batch, lambda batch=batch: shutil.copytree(whole, tmp_path / str(batch))) for batch in range(1, 9)]
    train(module, whole, *copies, log_every_n_steps=every_n_steps)
    expected = read_checkpoint(whole / "checkpoints" / "last.ckpt")
    for batch in range(1, 9):
        folder = tmp_path / str(batch)
        # After the last batch of an epoch there is no save before its validation; the epoch's own follows.
        assert steps_done(read_checkpoint(folder / "checkpoints" / "last.ckpt")) == batch
        train(module, folder, resume=True, log_every_n_steps=every_n_steps)
        assert differences(expected, read_checkpoint(folder / "checkpoints" / "last.ckpt")) == []
        assert rows(folder) == rows(whole)
        best = [read_checkpoint(root / "checkpoints" / "best.ckpt") for root in (whole, folder)]
        assert differences(*best) == [] and best[0]["epoch"] == 1


def test_without_minutes_only_epochs_are_saved(module: Any, tmp_path: Path) -> None:
    def look() -> None:
        seen.append(steps_done(read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")))

    seen: list[int] = []
    train(module, tmp_path, At(5, look), At(8, look), minutes=None)
    train(module, tmp_path / "long", minutes=60.0)
    assert seen == [3, 6]


@pytest.mark.parametrize(("batch", "saved"), [(4, 5), (5, 6), (8, 9)])
def test_sigterm_saves_where_it_is_and_ends(module: Any, tmp_path: Path, batch: int, saved: int) -> None:
    """In the middle of an epoch after the batch at work; in its last batch after the epoch's validation."""
    whole, folder = tmp_path / "whole", tmp_path / "ended"
    train(module, whole, minutes=None)
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit):
        train(module, folder, At(batch, lambda: os.kill(os.getpid(), signal.SIGTERM)), minutes=None)
    assert signal.getsignal(signal.SIGTERM) == handler
    last = folder / "checkpoints" / "last.ckpt"
    assert steps_done(read_checkpoint(last)) == saved
    train(module, folder, resume=True, minutes=None)
    assert differences(read_checkpoint(whole / "checkpoints" / "last.ckpt"), read_checkpoint(last)) == []
    assert rows(folder) == rows(whole)


def test_a_run_that_was_stopped_early_stays_stopped(module: Any, tmp_path: Path) -> None:
    """Killed between the save and the end, it would else train on."""
    stopping = EarlyStopping("val/score", mode="max", patience=1)
    train(module, tmp_path, stopping, max_epochs=9)
    log, last = (tmp_path / "log.csv").read_text(), tmp_path / "checkpoints" / "last.ckpt"
    assert steps_done(read_checkpoint(last)) == 9
    train(module, tmp_path, EarlyStopping("val/score", mode="max", patience=1), resume=True, max_epochs=9)
    assert steps_done(read_checkpoint(last)) == 9
    assert (tmp_path / "log.csv").read_text() == log


def test_monitored_values_are_there_before_the_next_validation(module: Any, tmp_path: Path) -> None:
    class Seen(lightning.Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            values.append(float(trainer.callback_metrics["val/score"]))
            raise KeyboardInterrupt

    values: list[float] = []
    with pytest.raises(SystemExit):
        train(module, tmp_path, At(4, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    with pytest.raises(SystemExit):
        train(module, tmp_path, Seen(), resume=True)
    assert values == pytest.approx([0.2])


def test_files_of_a_killed_save_are_removed(module: Any, tmp_path: Path) -> None:
    train(module, tmp_path, max_epochs=1)
    (tmp_path / "checkpoints" / ".partial-12-last.ckpt").write_bytes(b"half")
    train(module, tmp_path, resume=True, max_epochs=2)
    assert not list((tmp_path / "checkpoints").glob(".partial*"))


@pytest.mark.parametrize("settings", [{"mode": "best"}, {"every_n_epochs": 0}, {"every_n_minutes": -1}])
def test_impossible_settings(settings: Any) -> None:
    with pytest.raises(ConfigError, match="expected max or min"):
        Checkpoints("x", **settings)
