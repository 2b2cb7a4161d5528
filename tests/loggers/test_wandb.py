"""W&B holds what the log holds, sends no path, and cannot harm a run."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from spineseg.errors import ConfigError
from spineseg.loggers.table import TableLogger
from spineseg.loggers.wandb import STEP, WandbLogger
from spineseg.loggers.wandb_files import HistoryRow, read_history, read_records, wandb_files


@pytest.fixture(autouse=True)
def _no_account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep an account, a server and settings of this machine out of the tests."""
    for name in [name for name in os.environ if name.startswith("WANDB")]:
        monkeypatch.delenv(name)
    for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "wandb-home"))


def history(folder: Path) -> list[HistoryRow]:
    return read_history(folder, (folder / "wandb" / "id").read_text().strip())


def cells(folder: Path) -> list[tuple[int, str, float]]:
    """Return (step, name, value) of the merged history, sorted."""
    found = []
    for row in history(folder):
        values = {name: value for name, value in row.values.items() if not name.startswith("_") and name != "epoch"}
        step = values.pop(STEP)
        found += [(int(step), name, float(value)) for name, value in values.items()]
    return sorted(found)


def test_offline_file_holds_values_config_tags_group_and_panels(tmp_path: Path) -> None:
    logger = WandbLogger(tmp_path, name="yolo_csi", group="csi2014", tags=["simulated"])
    logger.log_hyperparams({"seed": 1, "data": {"root": f"{tmp_path}/patient_x"}, "api_key": "s3cr3t"})
    logger.log_metrics({"val/mask_map50": 0.1, "val/dice": 0.7, "epoch": 0}, step=4)
    logger.log_image("val/panels", [np.zeros((8, 8, 3), np.uint8)], step=4)
    logger.log_summary({"test/dice": 0.5})
    logger.close()
    assert "WANDB_MODE" not in os.environ

    rows = history(tmp_path)
    assert rows[0].values["val/mask_map50"] == 0.1
    assert rows[0].values[STEP] == 4
    assert any("val/panels" in name for row in rows for name in row.values)
    assert list((tmp_path / "wandb").glob("offline-run-*/files/media/images/val/*.png"))
    (path,) = wandb_files(tmp_path, logger.version or "")
    kinds = {record.WhichOneof("record_type"): record for record in read_records(path)}
    run = kinds["run"].run
    assert (run.run_group, list(run.tags), run.display_name) == ("csi2014", ["simulated"], "yolo_csi")
    assert (run.host, run.project) == ("-", "spineseg")
    records = list(read_records(path))
    config = {item.key: json.loads(item.value_json) for record in records for item in record.config.update}
    assert config["seed"] == 1
    assert config["data"] == {"root": "…/patient_x"}
    summary = {item.key: json.loads(item.value_json) for record in records for item in record.summary.update}
    assert summary["test/dice"] == 0.5


def test_no_file_names_the_machine_the_path_or_a_secret(tmp_path: Path) -> None:
    logger = WandbLogger(tmp_path / "run")
    logger.log_hyperparams({"root": "/scans/of/mister_x", "token": "s3cr3t"})
    logger.log_metrics({"a": 1.0}, step=0)
    logger.close()
    sent = [*wandb_files(tmp_path / "run", logger.version or "")]
    sent += [path for path in (tmp_path / "run" / "wandb").glob("offline-run-*/files/**/*") if path.is_file()]
    assert sent
    content = b"".join(path.read_bytes() for path in sent)
    for word in ("/scans/of", "s3cr3t", platform.node(), "pytest"):
        assert word.encode() not in content.replace(b"pytest==", b"").replace(b"pytest-", b""), word


def test_resumed_run_mends_what_is_missing_and_repeats_nothing(tmp_path: Path) -> None:
    table, tracker = TableLogger(tmp_path), WandbLogger(tmp_path)
    for step in range(4):
        for logger in (table, tracker) if step != 1 else (table,):  # step 1 was flushed too late
            logger.log_metrics({"a": step / 3, "b": -step, "epoch": 0}, step=step)
    tracker.close()
    identity = tracker.version or ""

    table, tracker = TableLogger(tmp_path, resumed_step=3), WandbLogger(tmp_path, resumed_step=3)
    for step in range(3, 6):
        for logger in (table, tracker):
            logger.log_metrics({"a": step / 3, "b": -step, "epoch": 0}, step=step)
    tracker.close()
    assert tracker.version == identity
    assert len(wandb_files(tmp_path, identity)) == 2
    assert cells(tmp_path) == sorted(
        (step, name, value) for step in range(6) for name, value in (("a", step / 3), ("b", -step))
    )
    numbers = [row.row for row in history(tmp_path)]
    assert numbers == sorted(set(numbers))


ALONE = """
import sys, psutil
from pathlib import Path
from spineseg.loggers.wandb import WandbLogger
folder = Path(sys.argv[1])

before = "wandb" in sys.modules
logger = WandbLogger(folder, mode="disabled")
logger.log_hyperparams({"a": 1}); logger.log_metrics({"a": 1.0}, 1); logger.log_image("x", [1], 1)
logger.log_summary({"a": 1.0}); logger.experiment.config.update({}); logger.close()
assert before or "wandb" not in sys.modules
assert not any(folder.iterdir())

logger = WandbLogger(folder)
logger.log_metrics({"a": 1.0}, step=0)
for child in psutil.Process().children(recursive=True):
    child.kill(); child.wait()
for step in range(1, 5):
    logger.log_metrics({"a": 1.0}, step=step)
    logger.log_image("x", ["no.png"], step=step)
logger.log_summary({"a": 1.0})
logger.close()
print("trained on")
"""


def test_disabled_loads_nothing_and_a_killed_service_ends_the_tracking_not_the_run(tmp_path: Path) -> None:
    command = [sys.executable, "-c", ALONE, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "trained on"
    assert done.stderr.count("W&B failed") == 1
    assert "Traceback" not in done.stderr


def test_run_that_was_left_open_is_taken_over(tmp_path: Path) -> None:
    left = WandbLogger(tmp_path)
    left.log_metrics({"a": 0.0}, step=0)
    TableLogger(tmp_path).log_metrics({"a": 0.0}, step=0)
    resumed = WandbLogger(tmp_path, resumed_step=1)
    resumed.log_metrics({"a": 1.0}, step=1)
    resumed.close()
    assert cells(tmp_path) == [(0, "a", 0.0), (1, "a", 1.0)]


def test_folder_in_the_way_ends_the_tracking_not_the_run(tmp_path: Path) -> None:
    (tmp_path / "wandb").write_text("in the way")
    logger = WandbLogger(tmp_path)
    with pytest.warns(UserWarning, match="W&B failed"):
        logger.log_metrics({"a": 1.0}, step=0)
    logger.log_metrics({"a": 1.0}, step=1)
    logger.close()


def test_online_without_a_server_goes_on_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    logger = WandbLogger(tmp_path, mode="online", start_timeout_s=2.0)
    with pytest.warns(UserWarning, match="the run is tracked offline"):
        logger.log_metrics({"a": 1.0}, step=0)
    logger.close()
    assert cells(tmp_path) == [(0, "a", 1.0)]


def test_mode_is_one_of_three(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected offline, online or disabled"):
        WandbLogger(tmp_path, mode="onlin")  # type: ignore[arg-type]


def test_file_cut_short_reads_as_far_as_it_goes(tmp_path: Path) -> None:
    logger = WandbLogger(tmp_path)
    for step in range(300):
        logger.log_metrics({f"value_{number}": step / 7 for number in range(20)}, step=step)
    logger.close()
    (path,) = wandb_files(tmp_path, logger.version or "")
    assert path.stat().st_size > 2 * 32768  # several blocks
    assert [row.row for row in history(tmp_path)] == list(range(300))
    path.write_bytes(path.read_bytes()[:40000])
    numbers = [row.row for row in history(tmp_path)]
    assert numbers == list(range(len(numbers)))
    assert 0 < len(numbers) < 300
