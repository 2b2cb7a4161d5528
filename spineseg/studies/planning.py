"""From what a study asks to jobs with names: composed, checked, and told apart by their hash."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from spineseg.config import compose
from spineseg.errors import ConfigError
from spineseg.studies.folder import Job
from spineseg.studies.identity import PLACES, DataIdentity, job_hash, set_seed_and_fold
from spineseg.studies.matrix import JobSpec, cells, job_of, jobs, quoted
from spineseg.studies.running import Places
from spineseg.targets import nearest, plain

Identities = Callable[[DictConfig], DataIdentity]
# What `hardware=` may say, beside the loggers: all of it is left out of a job's hash.
HARDWARE = ("trainer", *(f"trainer.{name}" for name in PLACES["trainer"]), "data.workers")


def checked_hardware(hardware: Iterable[str]) -> tuple[str, ...]:
    """Overrides of a machine, none of which moves a number: two jobs of one name would not be one training.

    Raises:
        ConfigError: naming one that does, or that is no override.
    """
    found = tuple(hardware)
    for each in found:
        key = each.lstrip("+~").partition("=")[0]
        if "=" not in each and not each.startswith("~"):
            raise ConfigError(f"hardware: {each!r} is no override; expected key=value")
        if key not in HARDWARE and key != "logger" and not key.startswith("logger."):
            raise ConfigError(
                f"hardware: {key} is not of the machine alone, and would move numbers without a trace "
                f"({nearest(key, list(HARDWARE))}); what moves numbers goes to study.overrides"
            )
    return found


def compose_job(overrides: tuple[str, ...], places: Places) -> DictConfig:
    """The configuration of ``train`` that a job has on this machine, but for hardware and the run's folder."""
    from hydra.core.global_hydra import GlobalHydra

    where = (("data", places.data), ("prepared", places.prepared), ("runs", places.runs))
    state = GlobalHydra.instance()
    own, state.hydra = state.hydra, None  # of the program `study` itself: Hydra composes one at a time
    try:
        return compose("train", [*overrides, *(f"paths.{name}={quoted(value)}" for name, value in where)])
    finally:
        state.hydra = own


def make_job(
    spec: JobSpec, places: Places, preset: str | None, identities: Identities, cfg: DictConfig | None = None
) -> Job:
    """Name a job; its data is prepared on the way.

    Args:
        spec: what it is.
        places: of this machine.
        preset: of the study.
        identities: says which data it sees.
        cfg: its configuration, if it is composed already.

    Raises:
        ConfigError: it does not compose.
        DataError: its data is not there or not right.
    """
    cfg = cfg or compose_job(spec.overrides, places)
    data = identities(cfg)
    name = job_hash(cfg, data, preset)
    epochs = int(OmegaConf.select(cfg, "trainer.max_epochs") or 1)
    return Job(name, spec.labels, spec.overrides, data.simulated, data.data_hash, data.split_hash, epochs)


def plan_matrix(cfg: DictConfig, split: str, places: Places, identities: Identities) -> dict[str, Job]:
    """The jobs of a matrix by their names, in the order of the table.

    Args:
        cfg: root configuration of ``study``.
        split: which one is scored.
        places: of this machine.
        identities: says which data a job sees.

    Raises:
        ConfigError: one that does not compose, or two that are the same training under two labels.
        DataError: data that is not there or not right.
    """
    composed: dict[tuple[str, ...], DictConfig] = {}
    planned: dict[str, Job] = {}
    by_labels = {tuple(cell.labels.values()): cell for cell in cells(cfg.study)}
    for spec in jobs(cfg.study, split):
        *labels, seed, fold = spec.labels.values()
        cell = by_labels[tuple(labels)]
        if cell.overrides not in composed:  # half a second each; seed and fold are put in by hand
            composed[cell.overrides] = compose_job(cell.overrides, places)
        job_cfg = set_seed_and_fold(composed[cell.overrides], seed, fold)
        job = make_job(spec, places, cfg.study.preset, identities, job_cfg)
        other = planned.setdefault(job.hash, job)
        if other is not job:
            raise ConfigError(
                f"study: {_shown(other.labels)} and {_shown(job.labels)} are one training: they differ in nothing that "
                "moves a number (hardware, paths and loggers do not); take one of them out"
            )
    return planned


def search_base(cfg: DictConfig, split: str) -> JobSpec:
    """What every trial of a search has.

    Raises:
        ConfigError: more than one recipe, seed or fold; axes; test data.
    """
    study: Any = plain(cfg.study)
    if len(study["recipes"]) != 1 or len(study["seeds"]) != 1 or len(study["folds"]) != 1 or study["axes"]:
        raise ConfigError(
            "search: a trial is one training; expected one of study.recipes, study.seeds and study.folds and no "
            "study.axes (what they say may go to study.overrides)"
        )
    if split == "test":
        raise ConfigError("study.split=test: a search that looks at test data chooses by it; expected val")
    (cell,) = cells(cfg.study)
    return job_of(cell, study["seeds"][0], study["folds"][0], split)


def check_jobs(planned: Mapping[str, Job], known: set[str], places: Places) -> None:
    """Check the configurations of the jobs that are new, as ``train`` would, before anything is started.

    What ``hardware`` adds may be new where no job is: then the first one is checked with it.

    Raises:
        ConfigError: a misspelt key, with the nearest one.
    """
    from spineseg.train import check_train

    checked: set[tuple[str, ...]] = set()
    settled = known - set(list(planned)[: 1 if places.hardware else 0])
    for job in planned.values():
        cell = tuple(each for each in job.overrides if not each.startswith(("seed=", "data.fold=")))
        if job.hash not in settled and cell not in checked:
            checked.add(cell)
            try:
                check_train(compose_job((*job.overrides, *places.hardware), places))
            except ConfigError as error:
                raise ConfigError(f"study: {_shown(job.labels)}: {error}") from error


def monitor_of(spec: JobSpec, places: Places) -> str:
    """The value that chooses a run's best checkpoint, which a pruner judges by."""
    from spineseg.train import check_train

    cfg = compose_job(spec.overrides, places)
    check_train(cfg)
    return str(OmegaConf.select(cfg, "callbacks.checkpoints.monitor"))


def _shown(labels: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {label}" for name, label in labels.items())
