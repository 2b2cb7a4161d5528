"""The main command end to end on a tiny set: train, score, kill, resume, load again."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from spineseg.checkpoints import COSTS, differences, read_checkpoint, steps_done
from spineseg.config import compose
from spineseg.errors import ConfigError, DataError
from spineseg.runs import find_run
from spineseg.trained import load_model
from spineseg.volumes import read_grid

TINY = [
    "+experiment=yolo_csi",
    "+preset=quick",
    "data/source=folder",
    "model.scale=n",
    "data.pixel_mm=2",
    "data.fold=2",  # the hash gives five subjects no case in folds 0 and 1
    "data.image_size=[64,64]",
    "data.batch_size=4",
    "data.epoch_slices=16",
    "data.workers=0",
    "trainer.max_epochs=2",
    "trainer.check_val_every_n_epoch=1",
    "trainer.accelerator=cpu",
    "trainer.precision=32-true",
    "callbacks.panels.every_n_epochs=1",
    "trainer.log_every_n_steps=1",
]


def arguments(scans: Path, work: Path, *more: str) -> list[str]:
    places = [f"data.source.root={scans}", f"paths.prepared={work / 'prepared'}", f"paths.runs={work / 'runs'}"]
    return [*TINY, *places, *more]


def train(scans: Path, work: Path, *more: str) -> None:
    from spineseg.train import main

    main(compose("train", arguments(scans, work, *more)))


@pytest.fixture(scope="module")
def trained(scans: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; returns its working folder."""
    work = tmp_path_factory.mktemp("work")
    train(scans, work, "score_splits=[val,test]")
    return work


def log_rows(log: Path) -> list[tuple[int, str]]:
    with log.open() as stream:
        return [(int(row["step"]), row["name"]) for row in csv.DictReader(stream)]


def test_a_run_folder_is_complete(trained: Path) -> None:
    run = find_run(trained / "runs" / "csi2014" / "yolo_csi")
    for name in ("config.yaml", "overrides.txt", "provenance.json", "log.csv", "results.json"):
        assert (run.root / name).is_file(), name
    for name in ("best.ckpt", "last.ckpt"):
        assert (run.checkpoints / name).is_file() and (run.checkpoints / f"{name}.sha256").is_file()
        assert torch.load(run.checkpoints / name, weights_only=True)
    assert list((run.root / "panels").glob("*.png"))
    names = {name for _, name in log_rows(run.log)}
    assert {"train/loss", "val/mask_map50", "val/box_map50", "val/mask_map50_95", "val/dice", "lr/weights"} <= names
    assert {"train/images_per_second", "train/box_loss", "val/loss"} <= names
    provenance = json.loads(run.provenance.read_text())
    assert provenance["simulated"] is False and provenance["classes"] == ["vertebra"]
    assert provenance["seed"] == 0 and provenance["parameters"] > 1e6 and provenance["flops"] > 1e6


def test_results_follow_the_contract(trained: Path) -> None:
    run = find_run(trained / "runs" / "csi2014" / "yolo_csi")
    results = json.loads(run.results.read_text())
    assert results["format"] == "results 1" and results["protocol"] == "1.0" and results["simulated"] is False
    assert set(results["splits"]) == {"val", "test"}
    for metrics in results["splits"].values():
        for name in ("mask_map50", "box_map50", "mask_map50_95", "mask_map50_native", "dice_spine", "pq"):
            assert 0 <= metrics[name]["value"] <= 1, name
            assert metrics[name]["low"] is None and metrics[name]["subjects"] < 5
        for name in ("mask_map50_named", "dice"):
            assert metrics[name]["value"] is None and metrics[name]["status"] == "n/a"
    assert results["cost"]["fit_seconds"] > 0


def test_predictions_lie_on_the_native_grid(trained: Path, scans: Path) -> None:
    run = find_run(trained / "runs" / "csi2014" / "yolo_csi")
    files = sorted(run.predictions("test").glob("*.nii.gz"))
    assert files
    for path in files:
        native = read_grid(scans / path.name.removesuffix(".nii.gz") / "ct.nii.gz")
        found = read_grid(path)
        assert found.shape == native.shape
        np.testing.assert_array_equal(found.affine, native.affine)
    folder = json.loads((run.predictions("test") / "predictions.json").read_text())
    assert folder["complete"] and 0 <= (folder["score_threshold"] or 0) <= 1


def test_a_loaded_model_predicts_what_the_run_predicted(trained: Path, scans: Path, tmp_path: Path) -> None:
    from spineseg.predict import main

    run = find_run(trained / "runs" / "csi2014" / "yolo_csi")
    (case, *_) = sorted(path.name.removesuffix(".nii.gz") for path in run.predictions("test").glob("*.nii.gz"))
    main(
        compose(
            "predict",
            [
                f"run={run.root}",
                f"input={scans / case}/ct.nii.gz",
                f"output={tmp_path}",
                "trainer.accelerator=cpu",
                "trainer.precision=32-true",
            ],
        )
    )
    earlier = json.loads((run.predictions("test") / f"{case}.json").read_text())
    again = json.loads((tmp_path / "ct.json").read_text())
    assert again["slices"] == earlier["slices"]
    assert load_model(run).task.levels == ()


def test_the_last_lines_are_map_and_dice(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = find_run(trained / "runs" / "csi2014" / "yolo_csi")
    from spineseg.train import main

    cfg = compose("train", [f"resume={run.root}", f"paths.runs={trained / 'runs'}", "trainer=cpu"])
    main(cfg)
    lines = capsys.readouterr().out.strip().splitlines()
    assert any("mask_map50_native" in line for line in lines[-9:])
    assert "dice_spine" in lines[-1]


THREE_EPOCHS = ["trainer.max_epochs=3", "score_splits=[]", "optim.nominal_batch=12"]


def command(*overrides: str) -> list[str]:
    return [sys.executable, "-m", "spineseg.train", *overrides]


@pytest.fixture
def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}  # sums have the same bits with equal threads alone


@pytest.fixture(scope="module")
def undisturbed(scans: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("undisturbed")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command(*arguments(scans, work, *THREE_EPOCHS)), check=True, env=environment)
    return work


@pytest.mark.parametrize(("minutes", "workers"), [("null", 0), ("0", 1)])
def test_killed_and_resumed_equals_undisturbed(
    scans: Path, tmp_path: Path, undisturbed: Path, environment: dict[str, str], minutes: str, workers: int
) -> None:
    """SIGKILL in the second of three epochs, with saves by epoch or after every batch; three batches make a step.

    The log has no gap and no duplicate, the final checkpoint is the same bits, and loader processes change nothing.
    """
    killed = tmp_path / "killed"
    more = [*THREE_EPOCHS, f"callbacks.checkpoints.every_n_minutes={minutes}", f"data.workers={workers}"]
    process = subprocess.Popen(command(*arguments(scans, killed, *more)), env=environment)
    folder = killed / "runs" / "csi2014" / "yolo_csi" / "latest"
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        if (folder / "log.csv").is_file() and any(step >= 5 for step, _ in log_rows(folder / "log.csv")):
            break
        time.sleep(0.02)
    family = psutil.Process(process.pid).children(recursive=True)
    loaders = [child for child in family if any("forkserver" in word for word in child.cmdline())]
    assert bool(loaders) == bool(workers)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the run ended before it could be killed"
    assert not psutil.wait_procs(loaders, timeout=60)[1], "loader processes outlive the training"
    identity = (folder / "wandb" / "id").read_text()
    steps = steps_done(read_checkpoint(folder / "checkpoints" / "last.ckpt"))
    assert steps == 4 if minutes == "null" else steps >= 5
    subprocess.run(command(f"resume={folder}", f"paths.runs={killed / 'runs'}"), check=True, env=environment)
    runs = [find_run(work / "runs" / "csi2014" / "yolo_csi") for work in (undisturbed, killed)]
    assert len(list((killed / "runs" / "csi2014" / "yolo_csi").glob("20*"))) == 1
    assert (folder / "wandb" / "id").read_text() == identity
    left, right = ([row for row in log_rows(run.log) if row[1] not in COSTS] for run in runs)
    assert len(set(right)) == len(right)
    assert sorted(left) == sorted(right)
    assert differences(*(read_checkpoint(run.last) for run in runs)) == []


def test_killed_before_its_first_checkpoint(
    scans: Path, tmp_path: Path, undisturbed: Path, environment: dict[str, str]
) -> None:
    """Where nothing was saved yet, `resume=` begins at the beginning, in the same folder."""
    (whole,) = (undisturbed / "runs" / "csi2014" / "yolo_csi").glob("20*")
    folder = tmp_path / "runs" / "csi2014" / "yolo_csi" / "killed"
    shutil.copytree(whole, folder, ignore=shutil.ignore_patterns("*.ckpt*", "provenance.json", "wandb", "panels"))
    (folder / "log.csv").write_text("step,epoch,name,value\n0,0,train/loss,9.0\n1,0,train/lo")
    subprocess.run(command(f"resume={folder}", f"paths.runs={tmp_path / 'runs'}"), check=True, env=environment)
    assert sorted(path.name for path in folder.parent.iterdir()) == ["killed"]
    assert differences(*(read_checkpoint(root / "checkpoints" / "last.ckpt") for root in (whole, folder))) == []
    left, right = (log_rows(root / "log.csv") for root in (whole, folder))
    assert sorted(left) == sorted(right)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.split_file=nowhere.json", "nowhere.json"),
        ("data.overfit=case9", "unknown case case9"),
        ("score_splits=[tests]", "score_splits: expected any of train, val, test, found tests"),
        ("data.image_size=[60,64]", "multiples of 32"),
    ],
)
def test_mistakes_are_named(scans: Path, trained: Path, override: str, message: str) -> None:
    with pytest.raises((ConfigError, DataError), match=message):
        train(scans, trained, override)


def test_a_resumed_run_keeps_its_configuration(trained: Path) -> None:
    from omegaconf import OmegaConf

    from spineseg.train import resumed_config

    kept = OmegaConf.create({"trainer": {"accelerator": "cpu", "max_epochs": 2}, "data": {"workers": 0}})
    given = OmegaConf.create({"trainer": {"accelerator": "gpu", "max_epochs": 9}, "data": {"workers": 4}})
    changed = resumed_config(kept, given, ["resume=x", "trainer=gpu"])
    assert changed.trainer.accelerator == "gpu" and changed.trainer.max_epochs == 2 and changed.data.workers == 0
    # A number depends on the precision: another machine's preset leaves it.
    kept.trainer.precision, given.trainer.precision = "32-true", "auto"
    assert resumed_config(kept, given, ["trainer=gpu"]).trainer.precision == "32-true"
    assert resumed_config(kept, given, ["trainer=gpu", "trainer.precision=auto"]).trainer.precision == "auto"
    with pytest.raises(ConfigError, match=r"optim\.lr0=1"):
        resumed_config(kept, given, ["resume=x", "optim.lr0=1"])


def test_weights_of_a_run_that_saw_the_test_subjects_are_refused(scans: Path, trained: Path) -> None:
    run = find_run(trained / "runs" / "csi2014" / "yolo_csi")
    with pytest.raises(DataError, match="was trained on folder:case3, which this run validates or tests on"):
        train(scans, trained, f"init_from={run.root}", "data.overfit=case3")
    train(scans, trained, f"init_from={run.root}", "trainer.max_epochs=1", "score_splits=[]", "run.name=child")


def test_a_run_does_not_go_on_with_other_data(trained: Path, scans: Path, tmp_path: Path) -> None:
    from spineseg.train import main

    copy = tmp_path / "run"
    shutil.copytree(find_run(trained / "runs" / "csi2014" / "yolo_csi").root, copy)
    provenance = json.loads((copy / "provenance.json").read_text())
    (copy / "provenance.json").write_text(json.dumps({**provenance, "split_hash": "0" * 64}))
    with pytest.raises(DataError, match="the split has changed since this run began"):
        main(compose("train", [f"resume={copy}"]))


def test_the_best_checkpoint_follows_the_classes() -> None:
    from spineseg.train import check_train

    for classes, monitor in (("vertebra", "val/mask_map50"), ("levels", "val/mask_map50_named")):
        cfg = compose("train", ["+experiment=yolo_csi", f"data.classes={classes}"])
        check_train(cfg)
        assert cfg.callbacks.checkpoints.monitor == cfg.callbacks.early_stopping.monitor == monitor


def test_a_terminated_run_is_saved_and_ends_with_143(scans: Path, tmp_path: Path, environment: dict[str, str]) -> None:
    """In the middle of a long epoch; a scheduler's SIGTERM reaches the loader's processes, too."""
    more = ["trainer.max_epochs=2", "score_splits=[]", "callbacks.panels=null", "logger.wandb.mode=disabled"]
    more += ["data.epoch_slices=4000", "data.workers=1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "spineseg.train", *arguments(scans, tmp_path, *more)],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    folder = tmp_path / "runs" / "csi2014" / "yolo_csi" / "latest"
    deadline = time.monotonic() + 300
    while process.poll() is None and time.monotonic() < deadline:
        if (folder / "log.csv").is_file() and len(log_rows(folder / "log.csv")) > 20:
            break
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 143, errors
    assert "stopped; go on with: python -m spineseg.train resume=" in errors
    saved = read_checkpoint(folder / "checkpoints" / "last.ckpt")
    # The values of the last batch travel in the checkpoint; all others are in the log.
    assert steps_done(saved) == max(step for step, _ in log_rows(folder / "log.csv")) + 2
    assert saved["unlogged"]["step"] == steps_done(saved) - 1 and "train/loss" in saved["unlogged"]["values"]


def test_a_missing_set_leaves_no_run_behind(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="simulate"):
        train(tmp_path / "none", tmp_path, "data/source=csi2014")
    assert not (tmp_path / "runs").exists()
