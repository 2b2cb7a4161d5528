"""From a study's file to its jobs: recipes × labels of the axes × seeds × folds."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from omegaconf import DictConfig, OmegaConf

from spineseg.errors import ConfigError
from spineseg.targets import nearest

# What the study itself says of each job; an override of it would make the folder's names and the table untrue.
RESERVED = ("run.group", "run.name", "paths", "resume", "seed", "data.fold", "score_splits", "experiment", "preset")
# Names of the ledger's own columns.
FACTORS = ("recipe", "seed", "fold")


@dataclass(frozen=True)
class Cell:
    """One combination of a recipe and a label of every axis; its jobs differ in seed and fold.

    Attributes:
        labels: ``recipe`` and each axis → label, in the order of the study's file.
        overrides: for ``train``, without seed and fold.
    """

    labels: Mapping[str, str]
    overrides: tuple[str, ...]


@dataclass(frozen=True)
class JobSpec:
    """One training of a study.

    Attributes:
        labels: what stands in its row of the table: recipe, axes, seed, fold; of a search also the parameters.
        overrides: for ``train``, all that moves a number.
    """

    labels: Mapping[str, Any]
    overrides: tuple[str, ...]


@dataclass(frozen=True)
class Axis:
    """One factor: label → overrides."""

    name: str
    levels: Mapping[str, tuple[str, ...]]


def read_axes(node: Mapping[str, Any]) -> tuple[Axis, ...]:
    """The axes of a study's file.

    Raises:
        ConfigError: an axis without labels, a label that YAML took for a truth value, what is no override.
    """
    axes = []
    for name, levels in node.items():
        if name in (*FACTORS, "job", "overrides", "state", "value", "seconds", "attempts", "error", "trial"):
            raise ConfigError(f"study.axes.{name}: that is a column of the ledger; expected another name")
        if not isinstance(levels, Mapping) or not levels:
            raise ConfigError(f"study.axes.{name}: expected label: [overrides, …], found {levels!r}")
        read = {}
        for label, overrides in levels.items():
            where = f"study.axes.{name}.{label}"
            if isinstance(label, bool):
                raise ConfigError(f"{where}: YAML reads this label as a truth value; put it in quotation marks")
            read[str(label)] = checked_overrides(overrides, where)
        axes.append(Axis(str(name), read))
    return tuple(axes)


def checked_overrides(found: Any, where: str) -> tuple[str, ...]:
    """A list of overrides, none of which says what the study says itself.

    Raises:
        ConfigError: naming the key of the study's file.
    """
    listed = [] if found is None else [found] if isinstance(found, str) else found
    if not isinstance(listed, Sequence) or not all(isinstance(each, str) for each in listed):
        raise ConfigError(f"{where}: expected a list of overrides such as [data.pixel_mm=2], found {found!r}")
    for each in listed:
        key = each.lstrip("+~").partition("=")[0].partition("@")[0]
        if "=" not in each and not each.startswith("~"):
            raise ConfigError(f"{where}: {each!r} is no override; expected key=value")
        if any(key == name or key.startswith(f"{name}.") for name in RESERVED):
            raise ConfigError(f"{where}: {key} is for the study to say: study.seeds, folds, split, recipes, preset")
    return tuple(listed)


def cells(cfg: DictConfig) -> tuple[Cell, ...]:
    """The combinations that a study's file asks for, in its order.

    Args:
        cfg: the node ``study``.

    Raises:
        ConfigError: a baseline or a skipped combination that names what there is not.
    """
    study: Any = OmegaConf.to_container(cfg)  # ${paths.data} in an override is for each machine to fill in
    axes = read_axes(study["axes"])
    if not study["recipes"]:
        raise ConfigError("study.recipes: expected at least one of conf/experiment, found none")
    common = checked_overrides(study["overrides"], "study.overrides")
    factors = {"recipe": list(study["recipes"]), **{axis.name: list(axis.levels) for axis in axes}}
    baseline = _baseline(study["baseline"], factors)
    unknown = set(study["recipe_overrides"]) - set(factors["recipe"])
    if unknown:
        raise ConfigError(f"study.recipe_overrides.{min(unknown)}: {nearest(min(unknown), factors['recipe'])}")
    chosen = _one_factor(factors, baseline) if study["design"] == "one_factor" else _full(factors)
    preset = [] if study["preset"] is None else [f"+preset={study['preset']}"]
    made = []
    for labels in chosen:
        recipe = labels["recipe"]
        own = checked_overrides(study["recipe_overrides"].get(recipe), f"study.recipe_overrides.{recipe}")
        factor = [override for axis in axes for override in axis.levels[labels[axis.name]]]
        made.append(Cell(labels, (f"+experiment={recipe}", *preset, *common, *own, *factor)))
    return tuple(made)


def job_of(cell: Cell, seed: int, fold: int, split: str) -> JobSpec:
    """One training of a cell."""
    own = (f"seed={seed}", f"data.fold={fold}", f"score_splits=[{split}]")
    return JobSpec({**cell.labels, "seed": seed, "fold": fold}, (*cell.overrides, *own))


def jobs(cfg: DictConfig, split: str) -> tuple[JobSpec, ...]:
    """All trainings of a matrix: fold by fold and seed by seed, so that a whole table is there early.

    Args:
        cfg: the node ``study``.
        split: which one is scored.

    Raises:
        ConfigError: nothing to do, something named twice, a ``skip`` that leaves out nothing.
    """
    study: Any = OmegaConf.to_container(cfg)
    for name in ("recipes", "seeds", "folds"):
        if len(set(study[name])) != len(study[name]) or not study[name]:
            raise ConfigError(f"study.{name}: expected each once and at least one, found {study[name]}")
    skips = [_known_skip(skip, study) for skip in study["skip"]]
    made, used = [], set()
    for fold, seed, cell in product(study["folds"], study["seeds"], cells(cfg)):
        job = job_of(cell, seed, fold, split)
        matching = {
            index
            for index, skip in enumerate(skips)
            if all(str(job.labels[name]) == label for name, label in skip.items())
        }
        used |= matching
        if not matching:
            made.append(job)
    for index, skip in enumerate(skips):
        if index not in used:
            raise ConfigError(f"study.skip: no combination has {skip}; is a label misspelt?")
    if not made:
        raise ConfigError("study.skip leaves out every job")
    return tuple(made)


def quoted(value: Any) -> str:
    r"""A value as Hydra's grammar takes it, whatever is in it.

    >>> print(quoted("Ann's scans"))
    'Ann\'s scans'
    """
    # A backslash means itself, unless a quotation mark or the end follows.
    escaped = re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + found[2].replace("'", "\\'"), str(value))
    return f"'{escaped}'"


def _baseline(found: Mapping[str, Any], factors: Mapping[str, list[str]]) -> dict[str, str]:
    baseline = {}
    for name, label in found.items():
        if name not in factors:
            raise ConfigError(f"study.baseline.{name}: no such axis; {nearest(name, list(factors))}")
        if str(label) not in factors[name]:
            raise ConfigError(f"study.baseline.{name}={label}: no such label; {nearest(str(label), factors[name])}")
        baseline[name] = str(label)
    return baseline


def _full(factors: Mapping[str, list[str]]) -> Iterator[dict[str, str]]:
    for labels in product(*factors.values()):
        yield dict(zip(factors, labels, strict=True))


def _one_factor(factors: Mapping[str, list[str]], baseline: Mapping[str, str]) -> Iterator[dict[str, str]]:
    missing = [name for name, labels in factors.items() if name not in baseline and len(labels) > 1]
    if missing:
        raise ConfigError(f"study.design=one_factor needs study.baseline.{missing[0]}: one of {factors[missing[0]]}")
    start = {name: baseline.get(name, labels[0]) for name, labels in factors.items()}
    yield start
    for name, labels in factors.items():
        for label in labels:
            if label != start[name]:
                yield {**start, name: label}


def _known_skip(skip: Any, study: Mapping[str, Any]) -> dict[str, str]:
    names = [*FACTORS, *map(str, study["axes"])]
    if not isinstance(skip, Mapping) or not skip:
        raise ConfigError(f"study.skip: expected {{axis: label, …}}, found {skip!r}")
    for name in skip:
        if name not in names:
            raise ConfigError(f"study.skip: {name}: no such axis; {nearest(str(name), names)}")
    return {str(name): str(label) for name, label in skip.items()}
