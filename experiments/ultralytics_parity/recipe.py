"""One recipe, in the words of both trainers."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Recipe:
    """What both trainers are given; the rest is at Ultralytics' defaults in both (EMA, loss gains, statistics).

    No mosaic and no flips: neither belongs on a spine, and a mosaic excludes Ultralytics' rectangular images.
    """

    scans: str | None = None  # a set in CSI 2014's layout; null simulates ten small scans
    pixel_mm: float = 1.5
    epochs: int = 8
    batch: int = 8
    seeds: tuple[int, ...] = (0, 1, 2)
    threads: int = 2
    train_slices: int | None = None  # the first so many, to try the script; null takes all
    lr0: float = 0.002
    lrf: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup_epochs: float = 1.0
    brightness: float = 0.4
    scale: float = 0.2
    translate: float = 0.05
    masks: str = "polygon"  # what ours trains on: outlines as YOLO's converters write them, as theirs does; or bitmap

    @classmethod
    def read(cls, work: Path) -> "Recipe":
        """The recipe that a work folder was made for."""
        content = json.loads((work / "recipe.json").read_text())
        return cls(**{**content, "seeds": tuple(content["seeds"])})

    def write(self, work: Path) -> None:
        """Keep it; a folder holds the jobs of one recipe."""
        file = work / "recipe.json"
        if file.is_file() and Recipe.read(work) != self:
            raise SystemExit(f"error: {file} is of other settings ({file.read_text()}); give another --work")
        file.write_text(json.dumps(asdict(self)))


def data_overrides(recipe: Recipe, work: Path) -> list[str]:
    """The data of our program: what ``slices`` exports, and what our trainer reads."""
    return [
        "+experiment=yolo_csi",
        f"paths.data={work / 'data'}",
        f"paths.runs={work / 'runs'}",
        f"data.source.root={recipe.scans or work / 'data' / 'simulated' / 'csi2014'}",
        f"data.pixel_mm={recipe.pixel_mm}",
        f"data.batch_size={recipe.batch}",
        "data.augmentation.mosaic=0",
        f"data.augmentation.scale={recipe.scale}",
        f"data.augmentation.translate={recipe.translate}",
        f"data.augmentation.brightness={recipe.brightness}",
    ]


def our_overrides(
    recipe: Recipe, work: Path, *, name: str, seed: int, precision: str, size: list[int], workers: int
) -> list[str]:
    """Overrides of ``spineseg.train``; nothing is scored by it, and no pictures are drawn."""
    return [
        *data_overrides(recipe, work),
        f"data.masks={recipe.masks}",
        f"data.workers={workers}",
        f"run.name={name}",
        f"seed={seed}",
        "score_splits=[]",
        "model.scale=n",
        "model.weights=null",
        f"data.image_size=[{size[0]},{size[1]}]",
        f"data.epoch_slices={recipe.train_slices or 'null'}",
        "optim.optimizer=AdamW",
        "optim.schedule=cosine",
        *(f"optim.{key}={getattr(recipe, key)}" for key in ("lr0", "lrf", "momentum", "weight_decay", "warmup_epochs")),
        f"optim.warmup_momentum={recipe.momentum}",
        "optim.warmup_bias_lr=0",
        f"optim.nominal_batch={recipe.batch}",
        "trainer=cpu",
        f"trainer.precision={precision}",
        f"trainer.max_epochs={recipe.epochs}",
        f"trainer.check_val_every_n_epoch={recipe.epochs}",  # as Ultralytics with val=False: after the last epoch
        "trainer.num_sanity_val_steps=0",
        "callbacks.panels=null",
        "callbacks.early_stopping=null",
        "logger.wandb=null",
    ]


def their_settings(
    recipe: Recipe, work: Path, *, name: str, seed: int, cache: bool, size: list[int], workers: int
) -> dict[str, Any]:
    """Settings of Ultralytics' trainer.

    ``rect`` gives it images of the pictures' own shape, all alike, which it then shuffles as square ones.
    """
    return {
        "model": "yolov8n-seg.yaml",
        "data": str(work / "export" / "data.yaml"),
        "project": str(work / "theirs"),
        "name": name,
        "exist_ok": True,
        "pretrained": False,
        "epochs": recipe.epochs,
        "batch": recipe.batch,
        "imgsz": max(size),
        "rect": True,
        "device": "cpu",
        "workers": workers,
        "amp": False,
        "seed": seed,
        "deterministic": False,
        "cache": "ram" if cache else False,
        "val": False,
        "plots": False,
        "verbose": False,
        "optimizer": "AdamW",
        "cos_lr": True,
        **{key: getattr(recipe, key) for key in ("lr0", "lrf", "momentum", "weight_decay", "warmup_epochs")},
        "warmup_momentum": recipe.momentum,
        "warmup_bias_lr": 0.0,
        "nbs": recipe.batch,
        "mosaic": 0.0,
        "close_mosaic": 0,
        "hsv_h": 0.0,
        "hsv_s": 0.0,
        "hsv_v": recipe.brightness,
        "translate": recipe.translate,
        "scale": recipe.scale,
        "fliplr": 0.0,
    }
