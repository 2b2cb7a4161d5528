"""A trained model with all that belongs to it, rebuilt from its run's folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from omegaconf import DictConfig
from torch import nn

from spineseg.checkpoints import read_checkpoint
from spineseg.data.datamodules import PatchDataModule, SliceDataModule
from spineseg.data.loading import CaseDataModule
from spineseg.errors import ConfigError, DataError
from spineseg.provenance import read_provenance
from spineseg.runs import Run, best_checkpoint, read_config
from spineseg.targets import build, resolve
from spineseg.tasks.instance2d import InstanceSegmentation2D
from spineseg.tasks.optim import Optimization
from spineseg.tasks.semantic2d import SemanticSegmentation2D
from spineseg.tasks.semantic3d import SemanticSegmentation3D
from spineseg.vertebrae import level_name

Task = InstanceSegmentation2D | SemanticSegmentation2D | SemanticSegmentation3D
# Which data each kind of task trains on.
READS: dict[type, type] = {
    InstanceSegmentation2D: SliceDataModule,
    SemanticSegmentation2D: SliceDataModule,
    SemanticSegmentation3D: PatchDataModule,
}


@dataclass(frozen=True)
class TrainedModel:
    """What prediction needs.

    Attributes:
        task: the task with its weights.
        datamodule: how scans become the batches that the network was trained on.
        score_threshold: from validation; None if the run had none.
        simulated: whether it was trained on simulated data.
    """

    task: Task
    datamodule: CaseDataModule
    score_threshold: float | None
    simulated: bool

    @property
    def overfit(self) -> str | None:
        """The case it was trained and validated on alone, if so."""
        return self.datamodule.overfit

    @property
    def hu_offset(self) -> float:
        """What the training data's source adds to stored values to give HU."""
        return self.datamodule.source.hu_offset


def build_datamodule(cfg: DictConfig) -> CaseDataModule:
    """The data module of a training configuration; no file is read yet."""
    return build(cfg.data, CaseDataModule)  # type: ignore[type-abstract]


def build_task(cfg: DictConfig, datamodule: CaseDataModule, *, pretrained: bool) -> Task:
    """The task of a training configuration with its network and optimisation.

    Args:
        cfg: root configuration of ``train``.
        datamodule: gives the channels and classes, and of patches their size and normalisation.
        pretrained: whether to load the weights that ``model.weights`` names; not where a checkpoint follows.

    Raises:
        ConfigError: a task of another kind, or one that cannot read this data.
    """
    kind = resolve(cfg.task._target_, "task")
    reads = READS.get(kind)
    if reads is None or not isinstance(datamodule, reads):
        raise ConfigError(
            f"task={kind.__name__} with data={type(datamodule).__name__}: expected one of "
            + ", ".join(f"{task.__name__} with {data.__name__}" for task, data in READS.items())
        )
    names = tuple(level_name(level) for level in datamodule.class_levels) or ("vertebra",)
    # Label maps have a channel for the background, detectors have none.
    outputs = len(names) + (kind is not InstanceSegmentation2D)
    given: dict[str, Any] = {} if pretrained or "weights" not in cfg.model else {"weights": None}
    net = build(cfg.model, nn.Module, channels=datamodule.channels, num_classes=outputs, **given)
    more: dict[str, Any] = {}
    if isinstance(datamodule, PatchDataModule):
        more = {"patch_size": datamodule.patch_size, "normalization": datamodule.normalization}
    task: Task = build(cfg.task, kind, net=net, optimization=build(cfg.optim, Optimization), classes=names, **more)
    return task


def load_weights(task: Task, checkpoint: Path) -> float | None:
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
    return TrainedModel(task, datamodule, threshold, simulated=bool(read_provenance(run)["simulated"]))
