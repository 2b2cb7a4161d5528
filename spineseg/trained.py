"""A trained model with all that belongs to it, rebuilt from its run's folder."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from omegaconf import DictConfig
from torch import nn

from spineseg.checkpoints import read_checkpoint
from spineseg.data.datamodules import PatchDataModule, SliceDataModule
from spineseg.data.loading import CaseDataModule
from spineseg.data.normalization import Normalization
from spineseg.errors import ConfigError, DataError
from spineseg.predictions.ensembles import FromHounsfield, InstanceEnsemble, MeanProbabilities
from spineseg.provenance import read_provenance, subjects_seen
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
        members: of an ensemble, the models that it is made of; else empty.
    """

    task: Task | InstanceEnsemble
    datamodule: CaseDataModule
    score_threshold: float | None
    simulated: bool
    members: tuple["TrainedModel", ...] = ()

    @property
    def overfit(self) -> str | None:
        """The case it, or a member, was trained and validated on alone, if so."""
        return next((m.overfit for m in self.members if m.overfit), self.datamodule.overfit)

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


def load_models(runs: Sequence[Run], checkpoint: Literal["best", "last"] = "best") -> TrainedModel:
    """Rebuild the model of a run, or of several runs as an ensemble.

    Label maps: the softmax is the mean of the members' (``MeanProbabilities``), window by window. Instance models:
    detections are pooled (``ensembles.pool``). The score threshold is the mean of the members' that have one; the
    sliding window is the first's. Members may differ in weights, network and, of volumes, normalisation.

    Args:
        runs: their folders; at least one.
        checkpoint: ``best`` (by its monitor) or ``last``.

    Raises:
        ConfigError: no run, or runs of different tasks, classes or images.
    """
    if not runs:
        raise ConfigError("run=[]: expected a run, or a list of runs to predict as an ensemble")
    models = [load_model(run, checkpoint) for run in runs]
    if len(models) == 1:
        return models[0]
    _check_alike(runs, models)
    thresholds = [m.score_threshold for m in models if m.score_threshold is not None]
    return TrainedModel(
        _united([m.task for m in models]),
        models[0].datamodule,
        sum(thresholds) / len(thresholds) if thresholds else None,
        simulated=any(m.simulated for m in models),
        members=tuple(models),
    )


def origin(runs: Sequence[Run], model: TrainedModel, checkpoint: str) -> dict[str, Any]:
    """What predictions.json says of where a model comes from; of an ensemble, of each member its fold and subjects."""
    names = " + ".join(run.name for run in runs)
    told = [read_provenance(run) for run in runs]
    found: dict[str, Any] = {"run": names, "checkpoint": checkpoint}
    if len(told) == 1:
        # So that a report of what `evaluate` makes of them knows seeds of one recipe apart.
        found |= {key: told[0].get(key) for key in ("seed", "fold")}
    if seen := set[str]().union(*map(subjects_seen, told)):
        # By name, so that a report of these predictions can refuse scores of subjects that a member has seen.
        found["train_subjects"] = sorted(seen)
    if model.members:
        found["members"] = [_member(run, each) for run, each in zip(runs, model.members, strict=True)]
    return found


def _member(run: Run, model: TrainedModel) -> dict[str, Any]:
    told = read_provenance(run)
    subjects = told.get("train_subjects")
    return {
        "run": run.name,
        "fold": told.get("fold"),
        "seed": told.get("seed"),
        "split_hash": told.get("split_hash"),
        # One line a subject, sorted, so that others can compute it.
        "train_subjects_sha256": None
        if subjects is None
        else hashlib.sha256("".join(f"{each}\n" for each in sorted(subjects)).encode()).hexdigest(),
        "score_threshold": model.score_threshold,
        "simulated": model.simulated,
    }


def _united(tasks: Sequence[Task | InstanceEnsemble]) -> Task | InstanceEnsemble:
    """One task of several alike; those of label maps lend the first's."""
    instances = [task for task in tasks if isinstance(task, InstanceSegmentation2D)]
    if instances:
        return InstanceEnsemble(instances).eval()
    maps = [task for task in tasks if isinstance(task, SemanticSegmentation2D | SemanticSegmentation3D)]
    nets: list[nn.Module] = [task.net for task in maps]
    for net in nets:
        # A compiled member that fails could not be taken back through the ensemble.
        net._compiled_call_impl = None
    first = maps[0]
    volumes = [task for task in maps if isinstance(task, SemanticSegmentation3D)]
    norms = [task.normalization for task in volumes]
    if isinstance(first, SemanticSegmentation3D) and len(set(norms)) > 1:
        # As nnU-Net's plans differ by fold: the members see HU, and normalise them each in its way.
        nets = [FromHounsfield(net, norm) for net, norm in zip(nets, norms, strict=True)]
        first.normalization = Normalization(min(n.low for n in norms), max(n.high for n in norms), 0.0, 1.0)
    first.net, first._compiled = MeanProbabilities(nets), False
    return first.eval()


def _check_alike(runs: Sequence[Run], models: Sequence[TrainedModel]) -> None:
    """Refuse an ensemble whose members see different images or name different classes."""
    facts = [_facts(model) for model in models]
    for run, found in zip(runs[1:], facts[1:], strict=True):
        differing = sorted(key for key in facts[0].keys() | found.keys() if facts[0].get(key) != found.get(key))
        if differing:
            listed = "; ".join(f"{key}: {facts[0].get(key)} there, {found.get(key)} here" for key in differing)
            raise ConfigError(
                f"run: {run.name} cannot be in an ensemble with {runs[0].name}: {listed}. Expected runs of one recipe, "
                "such as its folds or seeds; predict with each alone, and compare"
            )


def _facts(model: TrainedModel) -> dict[str, Any]:
    task, data = model.task, model.datamodule
    found: dict[str, Any] = {"task": type(task).__name__, "data.source.hu_offset": model.hu_offset}
    if not isinstance(task, InstanceEnsemble):
        found["classes"] = list(task.classes)
    if isinstance(data, SliceDataModule):
        found |= {"data.pixel_mm": data.pixel_mm, "data.context": data.reader.context}
        found["data.window_hu"] = list(data.reader.window_hu)
    if isinstance(data, PatchDataModule):
        found |= {"data.spacing_mm": list(data.spacing), "data.resampling": data.resampling}
        found["data.patch_size"] = list(data.patch_size)
    return found
