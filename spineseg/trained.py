"""A trained model with all that belongs to it, rebuilt from its run's folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import lightning
from omegaconf import DictConfig
from torch import nn

from spineseg.checkpoints import read_checkpoint
from spineseg.data.datamodules import SliceDataModule
from spineseg.data.slices import SliceReader
from spineseg.errors import ConfigError, DataError
from spineseg.provenance import read_provenance
from spineseg.runs import Run, best_checkpoint, read_config
from spineseg.targets import build
from spineseg.tasks.instance2d import InstanceSegmentation2D
from spineseg.tasks.optim import Optimization
from spineseg.vertebrae import level_name


@dataclass(frozen=True)
class TrainedModel:
    """What prediction needs.

    Attributes:
        task: the task with its weights.
        reader: window, context and classes.
        pixel_mm: side of a network pixel.
        batch_size: slices a batch.
        score_threshold: from validation; None if the run had none.
        simulated: whether it was trained on simulated data.
        overfit: the case it was trained and validated on alone, if so.
        hu_offset: what the training data's source adds to stored values to give HU.
    """

    task: InstanceSegmentation2D
    reader: SliceReader
    pixel_mm: float
    batch_size: int
    score_threshold: float | None
    simulated: bool
    overfit: str | None
    hu_offset: float


def build_datamodule(cfg: DictConfig) -> SliceDataModule:
    """The data module of a training configuration; no file is read yet."""
    return build(cfg.data, SliceDataModule)


def build_task(cfg: DictConfig, datamodule: SliceDataModule, *, pretrained: bool) -> InstanceSegmentation2D:
    """The task of a training configuration with its network and optimisation.

    Args:
        cfg: root configuration of ``train``.
        datamodule: gives the channels and classes.
        pretrained: whether to load the weights that ``model.weights`` names; not where a checkpoint follows.
    """
    classes = datamodule.reader.levels if datamodule.reader.classes == "levels" else ()
    given = {} if pretrained else {"weights": None}
    net = build(cfg.model, nn.Module, channels=datamodule.channels, num_classes=datamodule.num_classes, **given)
    task = build(
        cfg.task,
        lightning.LightningModule,
        net=net,
        optimization=build(cfg.optim, Optimization),
        classes=tuple(level_name(level) for level in classes) or ("vertebra",),
    )
    if not isinstance(task, InstanceSegmentation2D):
        raise ConfigError(f"task._target_: expected a task of spineseg's, found {type(task).__name__}")
    return task


def load_weights(task: InstanceSegmentation2D, checkpoint: Path) -> float | None:
    """Put a checkpoint's weights into a task; returns the score threshold kept with them.

    Raises:
        DataError: the checkpoint belongs to another network.
    """
    content = read_checkpoint(checkpoint)
    try:
        task.load_state_dict(content["state_dict"])
    except RuntimeError as error:
        detail = " ".join(str(error).split())[:300]
        raise DataError(
            f"{checkpoint}: its weights are not those of the network that the config builds: {detail}"
        ) from error
    task.score_threshold = content.get("spineseg", {}).get("score_threshold")
    return task.score_threshold


def load_model(run: Run, checkpoint: Literal["best", "last"] = "best") -> TrainedModel:
    """Rebuild the model of a run.

    Args:
        run: the run's folder.
        checkpoint: ``best`` (by its monitor) or ``last``.
    """
    if checkpoint not in ("best", "last"):
        raise ConfigError(f"checkpoint={checkpoint}: expected best or last")
    cfg = read_config(run)
    datamodule = build_datamodule(cfg)
    task = build_task(cfg, datamodule, pretrained=False)
    threshold = load_weights(task, best_checkpoint(run) if checkpoint == "best" else run.last)
    task.eval()
    return trained_model(task, datamodule, threshold, simulated=bool(read_provenance(run)["simulated"]))


def trained_model(
    task: InstanceSegmentation2D, datamodule: SliceDataModule, threshold: float | None, *, simulated: bool
) -> TrainedModel:
    """Put together what prediction needs."""
    return TrainedModel(
        task=task,
        reader=datamodule.reader,
        pixel_mm=datamodule.pixel_mm,
        batch_size=datamodule.batch_size,
        score_threshold=threshold,
        simulated=simulated,
        overfit=datamodule.overfit,
        hu_offset=datamodule.source.hu_offset,
    )
