"""The task of label maps on patches and whole volumes, on a problem that a tiny network learns."""

from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from spineseg.data.normalization import Normalization
from spineseg.data.patches import PatchRef
from spineseg.errors import DataError
from spineseg.loggers.table import TableLogger, read_table
from spineseg.models.unet import dynunet
from spineseg.predictions.streaming import SlidingWindow, StreamedLabels, slice_instances
from spineseg.tasks.losses import dice_cross_entropy
from spineseg.tasks.optim import Optimization
from spineseg.tasks.semantic3d import SemanticSegmentation3D

CLASSES = ("L1", "L2")
NORMALIZATION = Normalization(low=-200.0, high=1000.0, mean=100.0, sd=300.0)
PATCH = (16, 16, 32)


def volume(seed: int, size: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """HU and labels: a wide block below a narrow one, anywhere."""
    rng = np.random.default_rng(seed)
    hu = rng.normal(0, 20, size).astype(np.int16)
    labels = np.zeros(size, np.uint8)
    x, y, z = (int(rng.integers(0, n - m + 1)) for n, m in zip(size, (12, 12, 26), strict=True))
    labels[x : x + 12, y : y + 12, z : z + 12] = 2
    labels[x + 3 : x + 9, y + 3 : y + 9, z + 14 : z + 26] = 1
    hu[labels == 1] = 300
    hu[labels == 2] = 700
    return hu, labels


def patches(seeds: range) -> dict[str, Any]:
    items = [volume(seed, PATCH) for seed in seeds]
    return {
        "images": torch.from_numpy(np.stack([NORMALIZATION(hu) for hu, _ in items])[:, None]),
        "labels": torch.from_numpy(np.stack([labels for _, labels in items])[:, None]),
        "refs": [PatchRef(f"case{seed}", (0, 0, 0)) for seed in seeds],
    }


def whole(seed: int, spacing_x: float = 2.0) -> dict[str, Any]:
    hu, labels = volume(seed, (20, 24, 40))
    image = torch.from_numpy(hu)
    return {"case": f"v{seed}", "image": image, "labels": torch.from_numpy(labels), "spacing_mm": (spacing_x, 2, 2)}


class Data(lightning.LightningDataModule):
    def __init__(self, train: list[dict[str, Any]], val: list[dict[str, Any]]) -> None:
        super().__init__()
        self.train, self.val, self.batch_size = train, val, len(train[0]["images"])

    def train_dataloader(self) -> DataLoader[dict[str, Any]]:
        return DataLoader(self.train, batch_size=None)  # type: ignore[arg-type]

    def val_dataloader(self) -> DataLoader[dict[str, Any]]:
        return DataLoader(self.val, batch_size=None)  # type: ignore[arg-type]


def task_of() -> SemanticSegmentation3D:
    torch.manual_seed(0)
    net = dynunet(1, 3, features=(8, 16, 16), strides=(1, 2, 2), supervised=1, norm="group")
    optim = Optimization(optimizer="AdamW", lr0=0.01, momentum=0.9, nominal_batch=None, warmup_epochs=0.0)
    return SemanticSegmentation3D(
        net, dice_cross_entropy(batch_dice=True), optim, CLASSES, PATCH, NORMALIZATION, SlidingWindow(overlap=0.25)
    )


def trainer_of(folder: Path, epochs: int, **settings: Any) -> lightning.Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    options = {"accelerator": "cpu", "logger": [TableLogger(folder)], "log_every_n_steps": 1, **settings}
    return lightning.Trainer(max_epochs=epochs, default_root_dir=folder, num_sanity_val_steps=0, **quiet, **options)


VOLUMES = [whole(100), whole(101, spacing_x=5.0)]


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> tuple[SemanticSegmentation3D, Path]:
    folder = tmp_path_factory.mktemp("run")
    task = task_of()
    data = Data([patches(range(4 * i, 4 * i + 4)) for i in range(6)], VOLUMES)
    trainer_of(folder, 4, check_val_every_n_epoch=4).fit(task, datamodule=data)
    return task.eval(), folder


def test_it_learns(fitted: tuple[SemanticSegmentation3D, Path]) -> None:
    rows = read_table(fitted[1] / "log.csv")
    losses = [row.value for row in rows if row.name == "train/loss"]
    assert np.mean(losses[-3:]) < 0.5 * np.mean(losses[:3])
    last = {row.name: row.value for row in rows if row.name.startswith("val/")}
    assert last["val/dice"] > 0.6 and last["val/mask_map50_named"] > 0.5
    assert "val/loss" not in last


def test_dice_is_that_of_all_validation_voxels(fitted: tuple[SemanticSegmentation3D, Path]) -> None:
    task, folder = fitted
    counts = np.zeros((2, 2))
    for batch in VOLUMES:
        predicted, reference = task.stream(batch["image"]).labels, batch["labels"].numpy()
        for i in (1, 2):
            counts[0, i - 1] += 2 * ((predicted == i) & (reference == i)).sum()
            counts[1, i - 1] += (predicted == i).sum() + (reference == i).sum()
    last = {row.name: row.value for row in read_table(folder / "log.csv")}
    for name, value in zip(CLASSES, counts[0] / counts[1], strict=True):
        assert last[f"val/dice_{name}"] == pytest.approx(value, rel=1e-6)
    assert last["val/dice"] == pytest.approx((counts[0] / counts[1]).mean(), rel=1e-6)


def test_the_monitored_slices_are_the_protocols(fitted: tuple[SemanticSegmentation3D, Path]) -> None:
    """Every third mm at 2 mm a slice; all of them at 5 mm; with the score that a prediction's instances have."""
    task, _ = fitted
    for i, batch in enumerate(VOLUMES):
        task.validation_step(batch, i)
    monitored, task._monitored, task._agreements = task._monitored, [], []
    keys = [item.key for item in monitored]
    assert [x for case, x in keys if case == "v101"] == list(range(20))
    assert [x for case, x in keys if case == "v100"] == [0, 2, 3, 4, 6, 8, 9, 10, 12, 14, 15, 16, 18]
    for found in slice_instances(task.stream(VOLUMES[1]["image"]), task.levels):
        (item,) = (item for item in monitored if item.key == ("v101", found.index))
        np.testing.assert_allclose(item.scores, found.scores, rtol=1e-6)
        assert [task.levels[i] for i in item.classes] == found.levels.tolist()


def test_prediction_lies_on_the_native_grid(fitted: tuple[SemanticSegmentation3D, Path]) -> None:
    task, _ = fitted
    batch = {
        "case": "a",
        "image": VOLUMES[0]["image"],
        "native_shape": (60, 40, 24),
        "native_affine": np.eye(4).tolist(),
        "canonical_shape": (40, 24, 60),
        "step": (0.5, 1.0, 2 / 3),
        "error": None,
    }
    streamed = task.predict_step(batch, 0)
    assert streamed is not None and streamed.labels.shape == (40, 24, 60)
    assert task.predict_step({**batch, "error": "unreadable"}, 0) is None


def test_a_full_gpu_is_the_scans_error(monkeypatch: pytest.MonkeyPatch) -> None:
    task = task_of().eval()
    image = VOLUMES[0]["image"]
    batch = {"case": "a", "image": image, "canonical_shape": tuple(image.shape), "step": (1.0, 1.0, 1.0), "error": None}

    def full(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 80 GiB")

    with monkeypatch.context() as patch:
        patch.setattr(task.net, "forward", full)
        for count, lower in ((1, "crop the scan"), (4, "lower memory_limit_gb")):
            task.inferer = SlidingWindow(windows_a_batch=count)
            found = task.predict_step(batch, 0)
            assert isinstance(found, DataError) and found.__traceback__ is None
            assert f"(CUDA out of memory. Tried to allocate 2.00 GiB); {lower}" in str(found)
    assert isinstance(task.predict_step(batch, 0), StreamedLabels)
    task.inferer = SlidingWindow(memory_limit_gb=1e-4)
    assert "memory_limit_gb=0.0001" in str(task.predict_step(batch, 0))


class Stop(lightning.Callback):
    """Saves in the middle of an epoch, and stops."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.fit_loop.epoch_loop.total_batch_idx == 3:
            trainer.save_checkpoint(self.path)


def test_summed_gradients_travel_in_the_checkpoint(tmp_path: Path) -> None:
    """Three batches make a step; a run that goes on after the fourth ends with the same weights."""

    def fit(folder: Path, resume: Path | None, *callbacks: lightning.Callback, epochs: int = 2) -> dict[str, Any]:
        task = task_of()
        task.optimization = Optimization(
            optimizer="SGD", lr0=0.05, momentum=0.9, nominal_batch=6, warmup_epochs=0.0, schedule="poly"
        )
        data = Data([patches(range(2 * i, 2 * i + 2)) for i in range(4)], [])
        trainer = trainer_of(folder, epochs, callbacks=list(callbacks), limit_val_batches=0)
        trainer.fit(task, datamodule=data, ckpt_path=resume, weights_only=True)
        return task.net.state_dict()

    path = tmp_path / "middle.ckpt"
    whole_run = fit(tmp_path / "whole", None, Stop(path))
    saved = torch.load(path, weights_only=True)
    assert saved["spineseg"]["summed"] == 1 and saved["spineseg"]["gradients"]
    resumed = fit(tmp_path / "resumed", path)
    for name, value in whole_run.items():
        assert torch.equal(value, resumed[name]), name


def test_a_loss_that_is_no_number_names_the_patches(tmp_path: Path) -> None:
    batch = patches(range(2))
    batch["images"][0] = float("nan")
    with pytest.raises(DataError, match=r"case0 .0, 0, 0., case1"):
        trainer_of(tmp_path, 1, limit_val_batches=0).fit(task_of(), datamodule=Data([batch], []))
