"""Speed in the log; one line an epoch where there is no terminal."""

import csv
import time
from pathlib import Path
from typing import Any

import pytest

from spineseg.callbacks.progress import Progress
from spineseg.callbacks.throughput import Throughput
from spineseg.loggers.table import TableLogger, read_table


def test_images_per_second_counts_images_over_training_time(fit: Any, tiny: Any, tmp_path: Path) -> None:
    task = tiny()
    task.on_train_batch_start = lambda *_: time.sleep(0.05)
    task.on_validation_epoch_start = lambda: time.sleep(0.5)
    fit(task, [Throughput()], loggers=[TableLogger(tmp_path)])
    rows = read_table(tmp_path / "log.csv")
    speeds = [row.value for row in rows if row.name == "train/images_per_second"]
    assert len(speeds) == 4  # of three batches an epoch, the first starts the clock
    assert all(2 < speed <= 2 / 0.05 for speed in speeds)  # neither the validation's pause nor half the images
    iterations = [row.value for row in rows if row.name == "train/iterations_per_second"]
    assert iterations == pytest.approx([speed / 2 for speed in speeds])
    peaks = [row.value for row in rows if row.name == "train/peak_ram_mb"]
    assert len(peaks) == 2 and 10 < peaks[0] <= peaks[1]


def test_one_line_an_epoch_without_a_terminal(fit: Any, tiny: Any, capsys: pytest.CaptureFixture[str]) -> None:
    fit(tiny(), [Progress()], enable_progress_bar=True)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch ")]
    assert [line.split("  ")[0] for line in lines] == ["epoch 1/2", "epoch 2/2"]
    assert all("val/loss" in line for line in lines)


def test_an_epoch_without_validation_repeats_no_older_value(
    fit: Any, tiny: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    fit(tiny(), [Progress()], max_epochs=4, enable_progress_bar=True, check_val_every_n_epoch=2)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch ")]
    assert ["val/loss" in line for line in lines] == [False, True, False, True]


def test_table_has_its_columns(fit: Any, tiny: Any, tmp_path: Path) -> None:
    fit(tiny(), [], loggers=[TableLogger(tmp_path)])
    with (tmp_path / "log.csv").open() as stream:
        assert next(csv.reader(stream)) == ["step", "epoch", "name", "value"]
