"""The task of label maps on slices, on a problem that a tiny network learns."""

from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from spineseg.data.slices import SliceRef
from spineseg.errors import DataError
from spineseg.loggers.table import TableLogger, read_table
from spineseg.models.unet import unet2d
from spineseg.predictions.masks import decode
from spineseg.tasks.label_maps import class_labels
from spineseg.tasks.losses import dice_cross_entropy
from spineseg.tasks.optim import Optimization
from spineseg.tasks.semantic2d import SemanticSegmentation2D

CLASSES = ("T12", "L1", "L2")
LEVELS = (19, 20, 21)
SIZE = (32, 64)


def slice_of(seed: int) -> tuple[Tensor, Tensor, list[int]]:
    """An image (1, Y, Z) whose blocks are as bright as their level, its index map and classes."""
    rng = np.random.default_rng(seed)
    image = rng.normal(0, 0.05, SIZE).astype(np.float32)
    index_map = np.zeros(SIZE, np.uint8)
    classes = sorted(rng.permutation(3)[: rng.integers(1, 4)].tolist())
    for i, level in enumerate(classes):
        y, z = rng.integers(2, 16), 4 + 20 * i
        image[y : y + 12, z : z + 14] += 0.3 * (level + 1)
        index_map[y : y + 12, z : z + 14] = i + 1
    return torch.from_numpy(image)[None], torch.from_numpy(index_map), classes


def batch_of(seeds: range) -> dict[str, Any]:
    items = [slice_of(seed) for seed in seeds]
    return {
        "images": torch.stack([image for image, _, _ in items]),
        "index_map": torch.stack([index_map for _, index_map, _ in items]),
        "classes": torch.tensor([float(c) for _, _, classes in items for c in classes]),
        "boxes": torch.zeros(sum(len(classes) for _, _, classes in items), 4),
        "batch_index": torch.tensor([float(i) for i, (_, _, classes) in enumerate(items) for _ in classes]),
        "refs": [SliceRef(f"case{seed % 2}", seed) for seed in seeds],
    }


class Data(lightning.LightningDataModule):
    def __init__(self, train: list[dict[str, Any]], val: list[dict[str, Any]]) -> None:
        super().__init__()
        self.train, self.val, self.batch_size = train, val, len(train[0]["images"])

    def train_dataloader(self) -> DataLoader[dict[str, Any]]:
        return DataLoader(self.train, batch_size=None)  # type: ignore[arg-type]

    def val_dataloader(self) -> DataLoader[dict[str, Any]]:
        return DataLoader(self.val, batch_size=None)  # type: ignore[arg-type]


def task_of(classes: tuple[str, ...] = CLASSES, batch_dice: bool = True, **settings: Any) -> SemanticSegmentation2D:
    torch.manual_seed(0)
    net = unet2d(1, len(classes) + 1, features=(8, 16, 16), strides=(1, 2))
    optim = {"optimizer": "AdamW", "lr0": 0.01, "momentum": 0.9, "nominal_batch": None, "warmup_epochs": 0.0}
    given = {name: settings.pop(name) for name in tuple(settings) if name in Optimization.__dataclass_fields__}
    loss = dice_cross_entropy(batch_dice=batch_dice)
    return SemanticSegmentation2D(net, loss, Optimization(**{**optim, **given}), classes, **settings)


def trainer_of(folder: Path, epochs: int, **settings: Any) -> lightning.Trainer:
    options = {"accelerator": "cpu", "logger": [TableLogger(folder)], "log_every_n_steps": 1, **settings}
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    return lightning.Trainer(max_epochs=epochs, default_root_dir=folder, num_sanity_val_steps=0, **quiet, **options)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> tuple[SemanticSegmentation2D, Path]:
    folder = tmp_path_factory.mktemp("run")
    task = task_of()
    data = Data([batch_of(range(8 * i, 8 * i + 8)) for i in range(8)], [batch_of(range(100, 106))])
    trainer_of(folder, 20).fit(task, datamodule=data)
    return task.eval(), folder


def test_it_learns(fitted: tuple[SemanticSegmentation2D, Path]) -> None:
    rows = read_table(fitted[1] / "log.csv")
    losses = [row.value for row in rows if row.name == "train/loss"]
    assert np.mean(losses[-4:]) < 0.3 * np.mean(losses[:4])
    last = {row.name: row.value for row in rows if row.name.startswith("val/")}
    assert last["val/dice"] > 0.8 and last["val/mask_map50_named"] > 0.6
    assert {"val/loss", "val/mask_map50", "val/dice_T12", "val/dice_L2"} <= last.keys()
    assert not {"val/score_threshold"} & last.keys()


def test_dice_is_that_of_all_validation_voxels(fitted: tuple[SemanticSegmentation2D, Path]) -> None:
    task, folder = fitted
    batch = batch_of(range(100, 106))
    reference = class_labels(batch["index_map"], batch["classes"], batch["batch_index"])[:, 0].numpy()
    with torch.no_grad():
        predicted = task(batch["images"]).argmax(1).numpy()
    expected = {
        name: 2 * ((predicted == i) & (reference == i)).sum() / ((predicted == i).sum() + (reference == i).sum())
        for i, name in enumerate(CLASSES, start=1)
    }
    last = {row.name: row.value for row in read_table(folder / "log.csv")}
    for name, value in expected.items():
        assert last[f"val/dice_{name}"] == pytest.approx(value, rel=1e-6)
    assert last["val/dice"] == pytest.approx(np.mean(list(expected.values())), rel=1e-6)


def test_summed_batches_are_one_batch(tmp_path: Path) -> None:
    """Two batches of four under `nominal_batch: 8` make the step of one batch of eight."""
    weights = []
    for size in (4, 8):
        task = task_of(batch_dice=False, optimizer="SGD", nominal_batch=8, clip_norm=0.1, weight_decay=0.0)
        data = Data([batch_of(range(i, i + size)) for i in range(0, 16, size)], [batch_of(range(2))])
        trainer_of(tmp_path / str(size), 2, limit_val_batches=0).fit(task, datamodule=data)
        weights.append(task.net.state_dict())
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], rtol=1e-5, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


def scan_batch(size: tuple[int, int], step: tuple[float, float]) -> dict[str, Any]:
    return {
        "case": "a",
        "images": torch.rand(2, 1, *SIZE),
        "indices": [4, 5],
        "size": size,
        "step": step,
        "native_shape": (9, *size),
        "native_affine": np.eye(4).tolist(),
        "last": True,
        "error": None,
    }


def test_native_slices(fitted: tuple[SemanticSegmentation2D, Path]) -> None:
    """At the network's own pixels the prediction is the argmax; on a finer grid each class covers the same region."""
    task, _ = fitted
    batch = scan_batch(SIZE, (1.0, 1.0))
    batch["images"] = batch_of(range(200, 202))["images"]
    with torch.no_grad():
        logits = task(batch["images"])
        own = task.predict_step(batch, 0)
        fine = task.predict_step({**batch, "size": (80, 160), "step": (0.4, 0.4)}, 0)
    labels, probabilities = logits.argmax(1).numpy(), logits.softmax(1).numpy()
    for image, (found, finer) in enumerate(zip(own, fine, strict=True)):
        assert found.index == 4 + image and found.size == SIZE and found.classes == LEVELS
        assert sorted(found.levels.tolist()) == [LEVELS[i - 1] for i in np.unique(labels[image]) if i]
        for i, level in enumerate(found.levels.tolist()):
            mask = labels[image] == LEVELS.index(level) + 1
            assert np.array_equal(decode(found.masks[i]), mask)
            mean = probabilities[image][:, mask].mean(axis=1)
            assert found.scores[i] == pytest.approx(mean[LEVELS.index(level) + 1], rel=1e-5)
            assert found.probabilities is not None
            np.testing.assert_allclose(found.probabilities[i], mean[1:] / mean[1:].sum(), rtol=1e-4)
        for level, rle in zip(finer.levels.tolist(), finer.masks, strict=True):
            area = decode(rle).sum() * 0.4**2
            coarse = (labels[image] == LEVELS.index(level) + 1).sum()
            assert abs(area - coarse) < 0.15 * coarse + 8
    assert task.predict_step({**batch, "indices": [], "images": torch.zeros(0, 1, 32, 32)}, 0) == []


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_not_finite_are_refused(bad: float) -> None:
    task = task_of().eval()
    with torch.no_grad():
        next(p for name, p in task.net.named_parameters() if name.endswith("bias")).fill_(bad)
    with torch.no_grad(), pytest.raises(DataError, match="logits that are not finite"):
        task.predict_step(scan_batch(SIZE, (1.0, 1.0)), 0)


def test_detect_is_what_panels_draw(fitted: tuple[SemanticSegmentation2D, Path]) -> None:
    task, _ = fitted
    images = batch_of(range(3))["images"]
    task.train()
    found = task.detect(images)
    assert task.net.training
    task.eval()
    with torch.no_grad():
        labels = task(images).argmax(1)
    for image, item in enumerate(found):
        assert item.masks.shape == (len(item.classes), *SIZE) and item.masks.dtype == torch.bool
        drawn = (item.masks * (item.classes[:, None, None] + 1)).sum(0)
        assert torch.equal(drawn, labels[image])
        assert ((item.scores > 0.25) & (item.scores <= 1)).all()


def test_one_class_has_dice_alone(tmp_path: Path) -> None:
    task = task_of(("vertebra",))
    batch = batch_of(range(4))
    batch["classes"] = torch.zeros_like(batch["classes"])
    trainer_of(tmp_path, 1).fit(task, datamodule=Data([batch], [batch]))
    names = {row.name for row in read_table(tmp_path / "log.csv") if row.name.startswith("val/")}
    assert names == {"val/dice", "val/loss"}
    with torch.no_grad():
        found = task.eval().predict_step(scan_batch(SIZE, (1.0, 1.0)), 0)
    assert all(len(item) <= 1 and item.levels.sum() == 0 and item.probabilities is None for item in found)


def test_mixed_precision_trains_and_validates(tmp_path: Path) -> None:
    task = task_of()
    data = Data([batch_of(range(8 * i, 8 * i + 8)) for i in range(4)], [batch_of(range(4))])
    trainer_of(tmp_path, 3, precision="bf16-mixed").fit(task, datamodule=data)
    losses = [row.value for row in read_table(tmp_path / "log.csv") if row.name == "train/loss"]
    assert np.isfinite(losses).all() and losses[-1] < losses[0]


class Uncompilable(nn.Module):
    """A network that a compiler which always fails meets."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.conv(images)


def test_a_compiler_that_fails_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        def call(*_: Any, **__: Any) -> Any:
            raise RuntimeError("no compiler here")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    task = SemanticSegmentation2D(Uncompilable(), dice_cross_entropy(), Optimization(), CLASSES, compile=True)
    images = torch.rand(1, 1, 32, 32)
    with pytest.warns(UserWarning, match="no compiler here"):
        first = task(images)
    assert torch.equal(task(images), first)
    assert list(task.net.state_dict()) == ["conv.weight", "conv.bias"]
