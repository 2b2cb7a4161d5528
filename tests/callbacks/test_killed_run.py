"""A run killed at the worst moments goes on: the log and W&B's merged history have no gap and no duplicate."""

import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch

from spineseg.callbacks.checkpoints import Checkpoints
from spineseg.callbacks.ema import EMA
from spineseg.checkpoints import read_checkpoint, steps_done
from spineseg.loggers.table import TableLogger, read_table
from spineseg.loggers.wandb import STEP, WandbLogger
from spineseg.loggers.wandb_files import read_history


class Kill(Checkpoints):
    """Kills the process right after the save of epoch 1, or in the middle of epoch 2."""

    def __init__(self, moment: str) -> None:
        super().__init__()
        self.moment = moment

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        super().on_train_epoch_end(trainer, pl_module)
        if self.moment == "after_save" and trainer.current_epoch == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.moment == "in_epoch" and trainer.current_epoch == 2 and batch_idx == 2:
            os.kill(os.getpid(), signal.SIGKILL)


def train(folder: Path, moment: str = "never") -> None:
    """Train four epochs in a folder, from its last checkpoint if there is one."""
    spec = importlib.util.spec_from_file_location("tiny", Path(__file__).parent / "conftest.py")
    assert spec is not None
    assert spec.loader is not None
    tiny = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tiny)
    last = folder / "checkpoints" / "last.ckpt"
    resumed = steps_done(read_checkpoint(last)) if last.is_file() else None
    wandb = WandbLogger(folder, resumed)
    trainer = lightning.Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        max_epochs=4,
        log_every_n_steps=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[EMA(0.9, 3.0), Kill(moment)],
        logger=[TableLogger(folder, resumed), wandb],
    )
    data = tiny.loader(0, 6), tiny.loader(100, 4)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums of two processes are equal to the bit with equal threads alone
    trainer.fit(tiny.TinyTask(2), *data, ckpt_path=last if resumed else None, weights_only=True)
    torch.set_num_threads(threads)
    wandb.close()


@pytest.fixture(scope="module", autouse=True)
def _no_account(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("WANDB")]:
            patch.delenv(name)
        for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
            patch.setenv(name, str(tmp_path_factory.mktemp("wandb")))
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    train(folder)
    return folder


@pytest.mark.parametrize("moment", ["after_save", "in_epoch"])
def test_killed_and_resumed_equals_uninterrupted(whole: Path, tmp_path: Path, moment: str) -> None:
    command = [sys.executable, __file__, str(tmp_path), moment]
    # A run of its own has its own W&B helper process; this one's is named in the environment.
    environment = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=environment)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert steps_done(read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")) == 6
    train(tmp_path)

    expected = read_table(whole / "log.csv")
    found = read_table(tmp_path / "log.csv")
    assert sorted(found, key=lambda row: (row.step, row.name)) == sorted(expected, key=lambda row: (row.step, row.name))

    run_id = (tmp_path / "wandb" / "id").read_text().strip()
    history = [
        (int(row.values[STEP]), name, float(value))
        for row in read_history(tmp_path, run_id)
        for name, value in row.values.items()
        if not name.startswith("_") and name not in (STEP, "epoch")
    ]
    assert sorted(history) == sorted((row.step, row.name, row.value) for row in expected)

    mine, theirs = (read_checkpoint(root / "checkpoints" / "last.ckpt") for root in (tmp_path, whole))
    assert all(bool((mine["state_dict"][name] == value).all()) for name, value in theirs["state_dict"].items())


if __name__ == "__main__":
    train(Path(sys.argv[1]), sys.argv[2])
