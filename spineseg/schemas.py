"""The root of every program's configuration: one dataclass a program, so that an unknown root key is an error.

The nodes below `data`, `model`, `task` and their like are open; `config.check` binds them to the signatures of what
they name. OmegaConf 2.3 knows no Literal: closed choices are field metadata, which `config.check` reads.
"""

from dataclasses import dataclass, field
from typing import Any

REQUIRED = "???"  # OmegaConf's mark of a value that must be given


def _one_of(default: str, *choices: str) -> str:
    """Return a dataclass field whose values are a closed choice."""
    value: str = field(default=default, metadata={"choices": choices})
    return value


@dataclass
class PathsConfig:
    """Where files lie (conf/paths)."""

    data: str = "data"
    prepared: str = "${paths.data}/prepared"
    runs: str = "runs"


@dataclass
class RunConfig:
    """The name of a run: its folder is `<paths.runs>/<group>/<name>/<time>`."""

    group: str = "default"
    name: str = REQUIRED
    tags: list[str] = field(default_factory=list)


@dataclass
class SimulateConfig:
    """Root of `simulate`."""

    layout: str = _one_of("csi2014", "csi2014", "kaggle")
    cases: int = 10
    seed: int = 0
    difficulty: str = _one_of("default", "easy", "default", "hard")
    size: str = _one_of("full", "full", "small")
    output: str = "${paths.data}/simulated/${layout}"
    workers: int | None = None
    paths: PathsConfig = field(default_factory=PathsConfig)


@dataclass
class PrepareDataConfig:
    """What `prepare` needs to know about the data; `train` has the same keys below its open `data` node."""

    source: dict[str, Any] = field(default_factory=dict)
    spacing_mm: list[float | None] = field(default_factory=lambda: [None, None, None])
    resampling: str = _one_of("linear", "linear", "cubic")
    split_seed: int = 0


@dataclass
class PrepareConfig:
    """Root of `prepare`."""

    data: PrepareDataConfig = field(default_factory=PrepareDataConfig)
    export: str | None = field(default=None, metadata={"choices": (None, "yolo", "nnunet")})
    workers: int | None = None
    propose_exclusions: str | None = None
    paths: PathsConfig = field(default_factory=PathsConfig)


@dataclass
class TrainConfig:
    """Root of `train`."""

    run: RunConfig = field(default_factory=RunConfig)
    paths: PathsConfig = field(default_factory=PathsConfig)
    seed: int = 0
    data: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    task: dict[str, Any] = field(default_factory=dict)
    optim: dict[str, Any] = field(default_factory=dict)
    planner: dict[str, Any] = field(default_factory=dict)
    trainer: dict[str, Any] = field(default_factory=dict)
    callbacks: dict[str, Any] = field(default_factory=dict)
    logger: dict[str, Any] = field(default_factory=dict)
    resume: str | None = None
    init_from: str | None = None
    score_splits: list[str] = field(default_factory=lambda: ["test"])


@dataclass
class PredictConfig:
    """Root of `predict`; `run` is a run folder or a list of them."""

    run: Any = REQUIRED
    input: str = REQUIRED
    output: str = REQUIRED
    convention: str = "verse"
    outputs: list[str] = field(default_factory=lambda: ["nifti", "json", "png"])
    checkpoint: str = "best"
    hu_offset: float | None = None
    memory_limit_gb: float | None = None
    paths: PathsConfig = field(default_factory=PathsConfig)
    trainer: dict[str, Any] = field(default_factory=dict)


@dataclass
class EvaluateConfig:
    """Root of `evaluate`."""

    reference: str = REQUIRED
    prediction: str = REQUIRED
    reference_convention: str = "verse"
    prediction_convention: str = "verse"
    subjects: str | None = None
    edge: str | None = field(default=None, metadata={"choices": (None, "ignore", "count", "crop")})
    output: str = REQUIRED
    paths: PathsConfig = field(default_factory=PathsConfig)


SCHEMAS: dict[str, type] = {
    "simulate": SimulateConfig,
    "prepare": PrepareConfig,
    "train": TrainConfig,
    "predict": PredictConfig,
    "evaluate": EvaluateConfig,
}
