"""One recipe, in the words of both trainers."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from spineseg.config import compose
from spineseg.models.nnunet_settings import PlannedSettings


@dataclass(frozen=True)
class Recipe:
    """What both trainers are given; the rest is nnU-Net's (loss, augmentation, SGD 0.99, poly, deep supervision).

    Planned for real, then made small enough for two processor cores: ``shrunk`` replaces spacing, patch and features.
    Head–foot mirroring is off in both, since it makes names untrue, and so is mirroring at prediction.
    """

    scans: str | None = None  # a set in the Kaggle layout; null simulates six small scans
    spacing_mm: float = 3.0
    patch: tuple[int, int, int] = (24, 48, 64)  # x, y, z
    features: tuple[int, ...] = (12, 24, 48, 96)
    iterations: int = 40  # an epoch
    epochs: int = 5
    short_epochs: int = 2  # for a speed alone
    seeds: tuple[int, ...] = (0, 1, 2)
    threads: int = 2
    batch: int = 2

    @classmethod
    def read(cls, work: Path) -> "Recipe":
        """The recipe that a work folder was made for."""
        content = json.loads((work / "recipe.json").read_text())
        return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in content.items()})

    def write(self, work: Path) -> None:
        """Keep it; a folder holds the jobs of one recipe."""
        file = work / "recipe.json"
        if file.is_file() and Recipe.read(work) != self:
            raise SystemExit(f"error: {file} is of other settings ({file.read_text()}); give another --work")
        file.write_text(json.dumps(asdict(self)))


def shrunk(plans: dict[str, Any], recipe: Recipe) -> dict[str, Any]:
    """nnU-Net's plans with this recipe's spacing, patch and features; everything else stays as it was planned."""
    small = json.loads(json.dumps(plans))
    node = small["configurations"]["3d_fullres"]
    turn = small["transpose_forward"]
    stages = len(recipe.features)
    node["spacing"] = [recipe.spacing_mm] * 3
    node["patch_size"] = [recipe.patch[2 - axis] for axis in turn]
    node["batch_size"] = recipe.batch
    node["architecture"]["arch_kwargs"].update(
        n_stages=stages,
        features_per_stage=list(recipe.features),
        kernel_sizes=[[3, 3, 3]] * stages,
        strides=[[1, 1, 1]] + [[2, 2, 2]] * (stages - 1),
        n_conv_per_stage=[2] * stages,
        n_conv_per_stage_decoder=[2] * (stages - 1),
    )
    small["configurations"] = {"3d_fullres": node}
    return dict(small)


def our_config(
    recipe: Recipe,
    work: Path,
    settings: PlannedSettings | None = None,
    *,
    name: str = "none",
    seed: int = 0,
    precision: str = "32",
    epochs: int = 1,
) -> DictConfig:
    """The configuration of ``spineseg.train``; without settings only its source and split mean anything."""
    cfg = compose(
        "train",
        [
            "+experiment=nnunet_kaggle",
            f"paths.data={work / 'data'}",
            f"paths.runs={work / 'runs'}",
            f"paths.prepared={work / 'prepared'}",
            f"data.source.root={recipe.scans or work / 'data' / 'simulated' / 'kaggle'}",
            f"data.split_file={work / 'split.json'}",
            f"data.epoch_patches={recipe.iterations * recipe.batch}",
            "data.foreground=0.5",  # what nnU-Net's 0.33 is with batches of two
            "data.workers=0",
            f"run.name={name}",
            f"seed={seed}",
            "score_splits=[test]",
            "trainer=cpu",
            f"trainer.precision={precision}",
            f"trainer.max_epochs={epochs}",
            f"trainer.check_val_every_n_epoch={epochs}",
            "trainer.num_sanity_val_steps=0",
            "callbacks.panels=null",
            "callbacks.volume_panels=null",
            "callbacks.early_stopping=null",
            "callbacks.ema=null",  # nnU-Net averages nothing
            "logger.wandb=null",
        ],
    )
    for key, value in (settings.keys() if settings is not None else {}).items():
        OmegaConf.update(cfg, key, value, force_add=True)
    return cfg
