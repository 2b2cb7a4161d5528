"""A preset's parts: what `+preset=quick` means for the model, the data and the optimiser that a recipe has chosen.

Hydra expands a later entry of the defaults list before the earlier ones are known, so that a preset's file cannot ask
which model an experiment chose. The parts are therefore added to the command line: `+preset=quick` becomes
`+preset=quick +preset/quick/model=unet3d …` for every file `conf/preset/quick/<group>/<choice>.yaml` that the recipe's
choices name.
"""

from collections.abc import Callable, Mapping
from itertools import product
from pathlib import Path

import yaml

from spineseg.errors import ConfigError

# Gives the chosen option of each group for a list of overrides.
Choices = Callable[[list[str]], Mapping[str, str | None]]


def with_parts(arguments: list[str], conf: Path, choices: Choices) -> list[str]:
    """Return the arguments with the parts of their preset behind it.

    Args:
        arguments: of the command line; flags and overrides.
        conf: folder of the YAML files.
        choices: composes overrides and says which option each group has.

    Raises:
        ConfigError: a preset before the experiment, which would then win without a word; or a sweep over recipes that
            need different parts.
    """
    names = [_group(argument) for argument in arguments]
    if "preset" not in names:
        return arguments
    position = names.index("preset")
    if "experiment" in names[position:]:
        raise ConfigError("+preset= stands before +experiment=, where the experiment overrides it; put it after")
    preset = arguments[position].partition("=")[2]
    groups = sorted(path.name for path in (conf / "preset" / preset).glob("*") if path.is_dir())
    if not groups or any(name.startswith(f"preset/{preset}/") for name in names):
        return arguments  # a child process repeats what its parent was given, parts included
    swept = _swept(arguments, conf)
    found = {tuple(_parts(jobs, preset, groups, conf, choices)) for jobs in _jobs([*swept, *arguments])}
    if len(found) > 1:
        raise ConfigError(
            f"+preset={preset} in one sweep over recipes of different kinds ({len(found)} in all): it means another "
            "model or other data for each; sweep them one kind at a time"
        )
    return [*arguments[: position + 1], *found.pop(), *arguments[position + 1 :]]


def _parts(overrides: list[str], preset: str, groups: list[str], conf: Path, choices: Choices) -> list[str]:
    chosen = choices([each for each in overrides if _group(each) != "preset"])
    parts = ((group, chosen.get(group)) for group in groups)
    return [
        f"+preset/{preset}/{group}={option}"
        for group, option in parts
        if (conf / "preset" / preset / group / f"{option}.yaml").is_file()
    ]


def _swept(arguments: list[str], conf: Path) -> list[str]:
    """What the files of `+sweep=` put before the command line."""
    files = [
        conf / "sweep" / f"{argument.partition('=')[2]}.yaml" for argument in arguments if _group(argument) == "sweep"
    ]
    contents = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in files if path.is_file()]
    return [
        f"{key}={value}"
        for content in contents
        for key, value in content.get("hydra", {}).get("sweeper", {}).get("params", {}).items()
    ]


def _jobs(arguments: list[str]) -> list[list[str]]:
    """The overrides that choose groups, once for each job of a sweep."""
    named = [each.partition("=") for each in arguments if not each.startswith("-") and "=" in each]
    # A key has dots, a group has none; what is no group is harmless here, but may be a list with commas.
    groups = [(key, value.split(",")) for key, _, value in named if "." not in key and not value.startswith(("[", "{"))]
    options = product(*(values for _, values in groups))
    return [[f"{key}={value}" for (key, _), value in zip(groups, job, strict=True)] for job in options]


def _group(argument: str) -> str:
    return argument.lstrip("+").partition("=")[0].partition("@")[0]
