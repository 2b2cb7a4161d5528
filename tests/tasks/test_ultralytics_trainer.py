"""Training steps are those of Ultralytics' own trainer: same rates, same weights, same averages, batch by batch."""

import copy
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
import yaml
from torch import Tensor
from torch.utils.data import DataLoader

from spineseg.callbacks.ema import EMA
from spineseg.config import conf_dir
from spineseg.models.yolo import YOLOv8Seg, mask_targets
from spineseg.tasks.instance2d import InstanceSegmentation2D
from spineseg.tasks.optim import Optimization

CLASSES = ("T12", "L1")


def batch_of(seed: int, count: int, size: int = 64) -> dict[str, Any]:
    """A batch of noise with two instances an image, none in the first, in the form that our data module gives."""
    generator = torch.Generator().manual_seed(seed)
    index_map = torch.zeros((count, size, size), dtype=torch.uint8)
    boxes, classes, batch_index = [], [], []
    for image in range(1, count):
        for i in range(2):
            y, x = (int(v) for v in torch.randint(0, 8, (2,), generator=generator))
            y0, x0 = y + 28 * i, x
            index_map[image, y0 : y0 + 20, x0 : x0 + 40] = i + 1
            boxes.append([(x0 + 20) / size, (y0 + 10) / size, 40 / size, 20 / size])
            classes.append(float((image + i) % 2))
            batch_index.append(float(image))
    return {
        "images": torch.rand((count, 3, size, size), generator=generator),
        "index_map": index_map,
        "classes": torch.tensor(classes),
        "boxes": torch.tensor(boxes),
        "batch_index": torch.tensor(batch_index),
        "refs": [],
    }


class Batches:
    """What Ultralytics' trainer asks of a loader; the same batches in every epoch."""

    drop_last, num_workers = True, 0

    def __init__(self, batches: list[dict[str, Any]]) -> None:
        self.batches = batches
        self.batch_size = len(batches[0]["images"])
        self.dataset = self.sampler = range(self.batch_size * len(batches))

    def __len__(self) -> int:
        return len(self.batches)

    def reset(self) -> None: ...

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for batch in self.batches:
            yield {
                "img": batch["images"],
                "batch_idx": batch["batch_index"],
                "cls": batch["classes"],
                "bboxes": batch["boxes"],
                "masks": mask_targets(batch["index_map"]),
            }


class NoValidation:
    """Ultralytics validates after the last epoch whatever it is told; here that says nothing."""

    def __init__(self) -> None:
        self.metrics = self
        self.keys: list[str] = []

    def __call__(self, trainer: Any) -> dict[str, float]:
        return {"fitness": 0.0}


Row = tuple[list[float], float | None, float]  # rates of weights, norms, biases; momentum; a weight's sum


def theirs(
    net: torch.nn.Module, batches: list[dict[str, Any]], folder: Path, **settings: Any
) -> tuple[list[Row], dict[str, Tensor], dict[str, Tensor]]:
    """Run Ultralytics' own training loop; returns a row a batch, the weights and their average."""
    from ultralytics.models.yolo.segment import SegmentationTrainer
    from ultralytics.utils import callbacks

    class Trainer(SegmentationTrainer):
        def get_dataset(self) -> dict[str, Any]:
            return {"train": "", "val": "", "nc": 2, "names": dict(enumerate(CLASSES)), "channels": 3}

        def get_dataloader(self, *_: Any, **__: Any) -> Batches:
            return Batches(batches)

        def get_validator(self) -> NoValidation:
            return NoValidation()

        def preprocess_batch(self, batch: dict[str, Any]) -> dict[str, Any]:
            return batch

        def save_metrics(self, metrics: dict[str, Any]) -> None: ...

        def save_model(self) -> bool:
            return False

        def final_eval(self) -> None: ...

    rows: list[Row] = []

    def record(trainer: Any) -> None:
        groups = {group["param_group"]: group for group in trainer.optimizer.param_groups}
        rates = [groups[name]["lr"] for name in ("weight", "bn", "bias")]
        rows.append((rates, groups["bn"].get("momentum"), float(groups["weight"]["params"][0].detach().double().sum())))

    given = {"model": "yolov8n-seg.yaml", "project": str(folder), "device": "cpu", "plots": False, "val": False}
    nothing = {event: [] for event in callbacks.get_default_callbacks()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(callbacks, "add_integration_callbacks", lambda _: None)
        trainer = Trainer(overrides={**given, "amp": False, "deterministic": False, **settings}, _callbacks=nothing)
        trainer.add_callback("on_train_batch_end", record)
        trainer.model = net
        trainer.train()
    return rows, net.state_dict(), trainer.ema.ema.state_dict()


class Recorder(lightning.Callback):
    """A row a batch, as of Ultralytics' trainer."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: Any, *_: Any) -> None:
        groups = pl_module.optimizers(use_pl_optimizer=False).param_groups
        total = float(groups[0]["params"][0].detach().double().sum())
        self.rows.append(([group["lr"] for group in groups], groups[1].get("momentum"), total))


class Data(lightning.LightningDataModule):
    def __init__(self, batches: list[dict[str, Any]]) -> None:
        super().__init__()
        self.batches, self.batch_size = batches, len(batches[0]["images"])

    def train_dataloader(self) -> DataLoader[dict[str, Any]]:
        return DataLoader(self.batches, batch_size=None)  # type: ignore[arg-type]


def ours(
    net: YOLOv8Seg, batches: list[dict[str, Any]], optimization: Optimization, epochs: int
) -> tuple[list[Row], dict[str, Tensor], dict[str, Tensor]]:
    """The same with our task, callback and Lightning."""
    average = EMA(**keys("callbacks/default", "ema"))
    recorder = Recorder()
    task = InstanceSegmentation2D(net, optimization, CLASSES, channels_last=False)
    trainer = lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=[average, recorder],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(task, datamodule=Data(batches))
    prefix = "net.model."
    averaged = {name.removeprefix(prefix): value for name, value in average._average.items()}
    return recorder.rows, net.model.state_dict(), averaged


def keys(file: str, *path: str) -> dict[str, Any]:
    """The keys of a node of conf/ without its target."""
    node = yaml.safe_load((conf_dir() / f"{file}.yaml").read_text())
    for part in path:
        node = node[part]
    return {key: value for key, value in node.items() if key != "_target_"}


@pytest.fixture(autouse=True)
def _torch_as_it_was() -> Iterator[None]:
    """Ultralytics' trainer sets the number of threads."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def compare(
    tmp_path: Path, optimization: Optimization, *, epochs: int, batches: int, slices: int, **settings: Any
) -> tuple[list[Row], list[Row]]:
    torch.manual_seed(0)
    net = YOLOv8Seg(channels=3, num_classes=2, scale="n")
    given = [batch_of(seed, slices) for seed in range(batches)]
    other = copy.deepcopy(net.model)
    torch.set_num_threads(1)
    expected, weights, averaged = theirs(other, given, tmp_path, epochs=epochs, batch=slices, **settings)
    found, own_weights, own_averaged = ours(net, given, optimization, epochs)
    assert len(found) == len(expected) == epochs * batches
    for batch, (mine, his) in enumerate(zip(found, expected, strict=True)):
        assert mine[0] == pytest.approx(his[0], rel=1e-12, abs=1e-15), f"rates of batch {batch}"
        assert mine[1] == (None if his[1] is None else pytest.approx(his[1], rel=1e-12)), f"momentum of batch {batch}"
        assert mine[2] == pytest.approx(his[2], rel=1e-5, abs=1e-5), f"weights after batch {batch}"
    for name, value in weights.items():
        torch.testing.assert_close(own_weights[name], value, rtol=1e-5, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
    for name, value in own_averaged.items():
        torch.testing.assert_close(value, averaged[name], rtol=1e-5, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
    return found, expected


def test_sgd_is_ultralytics_default_step_by_step(tmp_path: Path) -> None:
    """``conf/optim/sgd.yaml`` against SGD with every other setting left at Ultralytics' default.

    Five epochs of five batches of 16: a warm-up of three epochs, in which the number of summed batches rises to four.
    """
    o = Optimization(**keys("optim/sgd"))
    found, _ = compare(tmp_path, o, epochs=5, batches=5, slices=16, optimizer="SGD")
    steps = 1 + sum(before[2] != after[2] for before, after in pairwise(found))
    assert steps < len(found), "gradients of several batches are summed"


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_adamw_is_ultralytics_step_by_step(tmp_path: Path, schedule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step a batch, and a warm-up that ends inside the first epoch.

    Ours runs torch's fused kernel on a CPU too, theirs does not. The last bit in which they differ grows where
    gradients are near zero, since AdamW divides by their size, so that here both run the plain one.
    """
    plain = torch.optim.AdamW
    monkeypatch.setattr(torch.optim, "AdamW", lambda *args, fused=False, **kwargs: plain(*args, **kwargs))
    o = Optimization(**{**keys("optim/adamw"), "schedule": schedule, "nominal_batch": 4, "warmup_epochs": 0.5})
    names = ("lr0", "lrf", "momentum", "weight_decay", "warmup_epochs", "warmup_momentum", "warmup_bias_lr")
    settings = {name: getattr(o, name) for name in names}
    compare(
        tmp_path, o, epochs=3, batches=4, slices=4, optimizer="AdamW", nbs=4, cos_lr=schedule == "cosine", **settings
    )


def test_a_run_shorter_than_a_nominal_batch(tmp_path: Path) -> None:
    """Ultralytics caps the number of summed batches at the run's: without a warm-up, its last batch makes a step."""
    o = Optimization(**{**keys("optim/sgd"), "warmup_epochs": 0.0})
    found, _ = compare(tmp_path, o, epochs=2, batches=2, slices=2, optimizer="SGD", warmup_epochs=0.0)
    assert found[0][2] == found[-2][2] != found[-1][2]
