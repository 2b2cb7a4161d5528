"""A study as a W&B sweep: the same trainings, drawn and watched by W&B's server in place of the study's ledger.

``python -m spineseg.studies.wandb_sweep search_yolo > sweep.yaml``, then ``wandb sweep sweep.yaml`` and, on as many
machines as there are, ``wandb agent …``. What W&B's format cannot say is refused: a label that stands for several
overrides, a combination that is left out.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

import yaml
from omegaconf import DictConfig

from spineseg.config import compose
from spineseg.errors import ConfigError, SpinesegError
from spineseg.studies.matrix import Axis, checked_overrides, read_axes
from spineseg.targets import plain

METHODS: Final = {"tpe": "bayes", "random": "random", "grid": "grid"}
PROGRAM: Final = ("${env}", "python", "-m", "spineseg.train")
ARGUMENTS: Final = "${args_no_hyphens}"


def sweep_file(cfg: DictConfig) -> dict[str, Any]:
    """What ``wandb sweep`` takes, of a composed ``study``.

    Args:
        cfg: root configuration of ``study``.

    Raises:
        ConfigError: naming what a W&B sweep cannot say.
    """
    study: Any = plain(cfg.study)
    search: Any = plain(cfg.search) if cfg.search.space else None
    _refuse(study)
    recipes, overrides = (
        list(map(str, study["recipes"])),
        list(checked_overrides(study["overrides"], "study.overrides")),
    )
    parameters: dict[str, Any] = {}
    fixed = []
    if len(recipes) == 1:
        fixed = [f"+experiment={recipes[0]}"]
        overrides += checked_overrides(study["recipe_overrides"].get(recipes[0]), "study.recipe_overrides")
    else:
        parameters["+experiment"] = {"values": recipes}
    if search is None:
        for axis in read_axes(study["axes"]):
            key, values = _axis(axis)
            parameters[key] = {"values": values}
    else:
        parameters |= {str(name): parameter(str(name), node) for name, node in search["space"].items()}
    for key, values in (("seed", study["seeds"]), ("data.fold", study["folds"])):
        if len(values) > 1:
            parameters[key] = {"values": list(values)}
        else:
            fixed.append(f"{key}={values[0]}")
    split = str(study["split"] or ("test" if search is None else "val"))
    fixed += [f"score_splits=[{split}]", f"logger.wandb.group={study['name']}", "logger.wandb.mode=online"]
    # A preset stands after the recipe, which W&B may choose; an axis wins over what all jobs have.
    preset = [] if study["preset"] is None else [f"+preset={study['preset']}"]
    metric = str((search or {}).get("metric") or study["metric"])
    content: dict[str, Any] = {
        "description": str(study["question"]),
        "name": str(study["name"]),
        "method": METHODS[search["sampler"]] if search is not None else "grid",
        "metric": {"name": f"{split}/{metric}", "goal": (search or {}).get("direction", "maximize")},
        "parameters": parameters,
        "command": [*PROGRAM, *fixed, *overrides, ARGUMENTS, *preset],
    }
    if search is not None:
        content["run_cap"] = int(cfg.trials or search["trials"])
        if search["pruner"] == "hyperband":
            content["early_terminate"] = {"type": "hyperband", "min_iter": max(1, int(search["warmup_epochs"]))}
    return content


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the sweep of a study: its name, then overrides of ``study``."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0].startswith("-"):
        sys.exit("usage: python -m spineseg.studies.wandb_sweep <study> [key=value …] > sweep.yaml")
    try:
        content = sweep_file(compose("study", [f"+study={given[0]}", *given[1:]]))
    except SpinesegError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    print(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), end="")


def _refuse(study: Mapping[str, Any]) -> None:
    if study["design"] != "full" or study["skip"]:
        raise ConfigError("study.design, study.skip: a W&B sweep tries every combination; expected full, and no skip")
    if study["recipe_overrides"] and len(study["recipes"]) > 1:
        raise ConfigError("study.recipe_overrides: a W&B sweep has one command for all recipes; name one recipe")


def _axis(axis: Axis) -> tuple[str, list[Any]]:
    """The key that all labels of an axis set, and its values."""
    keys = {override.partition("=")[0] for overrides in axis.levels.values() for override in overrides}
    if len(keys) != 1 or any(len(overrides) != 1 for overrides in axis.levels.values()) or min(keys)[0] in "~+":
        raise ConfigError(
            f"study.axes.{axis.name}: a parameter of a W&B sweep is one key; expected the same one in every label, "
            f"found {', '.join(sorted(keys)) or 'none'}"
        )
    # As text: W&B writes a value as Python does, None and True, and Hydra reads it as YAML does.
    return keys.pop(), [overrides[0].partition("=")[2] for overrides in axis.levels.values()]


def parameter(name: str, node: Mapping[str, Any]) -> dict[str, Any]:
    """W&B's distribution of a parameter of ``search.space``.

    >>> parameter("optim.lr0", {"low": 0.001, "high": 0.1, "log": True})
    {'distribution': 'log_uniform_values', 'min': 0.001, 'max': 0.1}
    """
    if "choices" in node:
        return {"values": ["null" if value is None else value for value in node["choices"]]}
    low, high, step = node["low"], node["high"], node.get("step")
    whole = all(isinstance(each, int) for each in (low, high, *([] if step is None else [step])))
    if whole:
        if node.get("log", False):
            raise ConfigError(f"search.space.{name}: W&B draws no whole numbers on a logarithmic scale; give choices")
        return {"values": list(range(low, high + 1, step))} if step else {"min": low, "max": high}
    if step is not None:
        count = round((high - low) / step) + 1
        return {"values": [min(high, low + index * step) for index in range(count)]}
    return {"distribution": "log_uniform_values" if node.get("log", False) else "uniform", "min": low, "max": high}


if __name__ == "__main__":
    main()
