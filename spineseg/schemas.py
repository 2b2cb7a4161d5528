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
    labelling: bool = True
    memory_limit_gb: float | None = None
    pixel_mm: float | None = None
    mask_ratio: int | None = None
    like: str | None = None
    paths: PathsConfig = field(default_factory=PathsConfig)
    trainer: dict[str, Any] = field(default_factory=dict)


@dataclass
class EvaluateConfig:
    """Root of `evaluate`."""

    reference: str = REQUIRED
    prediction: str = REQUIRED
    reference_convention: str = "verse"
    prediction_convention: str = "verse"
    prediction_labels: str | None = field(default=None, metadata={"choices": (None, "levels", "instances")})
    subjects: str | None = None
    edge: str | None = field(default=None, metadata={"choices": (None, "ignore", "count", "crop")})
    by_part: bool = False
    worst: int = 10
    output: str = REQUIRED
    paths: PathsConfig = field(default_factory=PathsConfig)


@dataclass
class StudyNode:
    """What is asked, and the jobs that answer it."""

    name: str = REQUIRED
    question: str = REQUIRED
    output: str | None = None  # null: <paths.runs>/studies/<study.name>
    recipes: list[str] = REQUIRED  # type: ignore[assignment]  # OmegaConf's mark
    preset: str | None = None
    overrides: list[str] = field(default_factory=list)
    recipe_overrides: dict[str, list[str]] = field(default_factory=dict)
    axes: dict[str, Any] = field(default_factory=dict)
    baseline: dict[str, Any] = field(default_factory=dict)
    design: str = _one_of("full", "full", "one_factor")
    skip: list[Any] = field(default_factory=list)
    seeds: list[int] = field(default_factory=lambda: [0])
    folds: list[int] = field(default_factory=lambda: [0])
    metric: str = "dice"
    split: str | None = field(default=None, metadata={"choices": (None, "train", "val", "test")})
    command: list[str] | None = None


@dataclass
class SearchNode:
    """How a search draws its trials; without a space it is none, and the study is a matrix."""

    sampler: str = _one_of("tpe", "tpe", "random", "grid")
    trials: int = 20
    seed: int = 0
    space: dict[str, Any] = field(default_factory=dict)
    direction: str = _one_of("maximize", "maximize", "minimize")
    metric: str | None = None  # null: study.metric
    pruner: str | None = field(default=None, metadata={"choices": (None, "median", "hyperband")})
    monitor: str | None = None  # of log.csv, for the pruner; null: what chooses the best checkpoint
    warmup_epochs: int = 5  # before which nothing is pruned


@dataclass
class LauncherNode:
    """Where the workers of a study run (conf/launcher)."""

    kind: str = _one_of("basic", "basic", "joblib", "submitit_local", "submitit_slurm")
    workers: int = 1
    timeout_min: int = 1440
    requeues: int = 20
    gpus: int = 0
    cpus: int = 1
    memory_gb: float | None = None
    signal_delay_s: int = 120
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    additional: dict[str, Any] = field(default_factory=dict)
    setup: list[str] = field(default_factory=list)


@dataclass
class StudyConfig:
    """Root of `study`."""

    study: StudyNode = field(default_factory=StudyNode)
    search: SearchNode = field(default_factory=SearchNode)
    launcher: LauncherNode = field(default_factory=LauncherNode)
    paths: PathsConfig = field(default_factory=PathsConfig)
    retry: str | None = field(default=None, metadata={"choices": (None, "failed")})
    trials: int | None = None
    workers: int | None = None
    hardware: list[str] = field(default_factory=list)
    lease_timeout_s: float = 180.0


@dataclass
class ReportConfig:
    """Root of `report`; `runs` may hold globs."""

    runs: list[str] = field(default_factory=list)
    study_folder: str | None = None  # `study=` on the command line
    output: str = REQUIRED
    split: str = "test"
    title: str | None = None
    labels: dict[str, str] = field(default_factory=dict)
    unscored: str = _one_of("refuse", "refuse", "list")
    worst: int = 3
    resamples: int = 10_000
    html: bool = True
    paths: PathsConfig = field(default_factory=PathsConfig)


SCHEMAS: dict[str, type] = {
    "simulate": SimulateConfig,
    "prepare": PrepareConfig,
    "train": TrainConfig,
    "predict": PredictConfig,
    "evaluate": EvaluateConfig,
    "report": ReportConfig,
    "study": StudyConfig,
}
