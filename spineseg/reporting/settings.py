"""Which runs are seeds and folds of one model: those whose configurations differ in nothing that changes it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from spineseg.errors import ConfigError
from spineseg.reporting.runs import ScoredRun

# What may differ between two runs of one model: where it ran, what it drew, which subjects it saw.
_FREE: Final = (
    *("seed", "data.seed", "data.fold", "run", "paths", "logger", "resume", "score_splits", "init_from"),
    *("data.workers", "data.prepared_root", "data.source.root", "data.source.download"),
    *("trainer.accelerator", "trainer.devices", "trainer.strategy", "trainer.num_nodes", "trainer.precision"),
    *("trainer.log_every_n_steps", "trainer.enable_model_summary", "trainer.enable_progress_bar"),
    *("callbacks.panels", "callbacks.volume_panels", "callbacks.progress", "callbacks.throughput"),
)
# What nnU-Net's planner settles from the training cases, which differ between folds.
_PLANNED: Final = (
    *("data.spacing_mm", "data.patch_size", "data.batch_size", "data.normalization", "data.augmentation.axes"),
    *("model.architecture", "task.loss.batch_dice"),
)
SHOWN_SETTINGS: Final = 3


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys of a run's configuration that make the model what it is, with their values.

    >>> settings({"seed": 1, "optim": {"lr0": 0.01}, "data": {"fold": 2, "pixel_mm": 1.5}})
    {'optim.lr0': 0.01, 'data.pixel_mm': 1.5}
    """
    free = _FREE + (_PLANNED if config.get("planner") else ())
    kept = {key: value for key, value in _flat(config) if not _below(key, free)}
    # Weights to begin with differ between folds, as they must; whether there were any is the model's.
    return kept | ({"init_from": "given"} if config.get("init_from") else {})


def label_runs(runs: Sequence[ScoredRun], labels: Mapping[str, str]) -> list[str]:
    """Name of each run's model: its recipe, with the settings that tell models of one recipe apart.

    Args:
        runs: all runs of a report.
        labels: recipe → what to print instead.

    Raises:
        ConfigError: two recipes would be printed alike, and so become one model.
    """
    printed: dict[str, str] = {}
    for recipe in dict.fromkeys(run.recipe for run in runs):
        other = printed.setdefault(labels.get(recipe, recipe), recipe)
        if other != recipe:
            raise ConfigError(
                f"labels: {other} and {recipe} are both called '{labels.get(recipe, recipe)}'; seeds and folds of one "
                "recipe alone make one model, so give each recipe a label of its own"
            )
    named: list[str] = []
    by_recipe: dict[str, list[dict[str, Any]]] = {}
    every = [settings(run.config) for run in runs]
    for run, own in zip(runs, every, strict=True):
        by_recipe.setdefault(run.recipe, []).append(own)
    telling = {recipe: sorted(_differing(found)) for recipe, found in by_recipe.items()}
    for run, own in zip(runs, every, strict=True):
        shown = [f"{key.rpartition('.')[2]} {own.get(key)}" for key in telling[run.recipe]]
        name = labels.get(run.recipe, run.recipe)
        named.append(f"{name} ({', '.join(shown)})" if shown else name)
    return [_shortened(name) for name in named] if _tell_apart(named) else named


def _differing(all_settings: Sequence[Mapping[str, Any]]) -> set[str]:
    first = all_settings[0]
    return {key for each in all_settings for key in {*first, *each} if first.get(key) != each.get(key)}


def _tell_apart(names: Sequence[str]) -> bool:
    return len({_shortened(name) for name in names}) == len(set(names))


def _shortened(name: str) -> str:
    head, bracket, rest = name.partition(" (")
    parts = rest.rstrip(")").split(", ")
    if not bracket or len(parts) <= SHOWN_SETTINGS:
        return name
    return f"{head} ({', '.join(parts[:SHOWN_SETTINGS])}, …)"


def _flat(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _below(key: str, places: Sequence[str]) -> bool:
    return any(key == place or key.startswith(f"{place}.") for place in places)
