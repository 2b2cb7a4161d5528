"""Every file of conf/sweep and conf/study composes, and each of its axes names a key that a recipe has."""

import re
import shlex
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import DictConfig, OmegaConf, open_dict

from spineseg.config import check, compose, conf_dir
from spineseg.errors import ConfigError
from spineseg.studies.matrix import cells, read_axes
from spineseg.studies.matrix import jobs as jobs_of_study
from spineseg.studies.search import distributions, override
from spineseg.targets import nearest, plain

CONF = conf_dir()
SWEEPS = sorted((CONF / "sweep").glob("*.yaml"))
STUDIES = sorted((CONF / "study").glob("*.yaml"))
COMMAND = re.compile(r"^# python -m spineseg\.train (-m .*)$", re.MULTILINE)


def comments(path: Path) -> list[str]:
    lines = path.read_text().splitlines()
    return [line.removeprefix("# ") for line in lines if line.startswith("# ") and "@package" not in line]


def jobs(parameters: Mapping[str, Any]) -> list[list[str]]:
    """The jobs as Hydra's own sweeper makes them."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser

    words = [f"{key}={value}" for key, value in parameters.items()]
    (batch,) = BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(words), None)
    return batch


def axes(parameters: Mapping[str, Any]) -> Iterator[list[str]]:
    """Each value of each axis on its own, beside the first values of the others."""
    every = jobs(parameters)
    seen: set[str] = set()
    for job in every:
        if not seen.issuperset(job):
            yield job
        seen.update(job)


def all_keys(cfg: Any, path: str = "") -> list[str]:
    if not isinstance(cfg, DictConfig):
        return [path]
    return [path, *(key for name in cfg for key in all_keys(cfg._get_node(name), f"{path}.{name}".lstrip(".")))]


def fits(cfg: DictConfig, overrides: list[str]) -> None:
    """Put overrides into a composed configuration, and see that each key was there."""
    for each in overrides:
        key, _, value = each.partition("=")
        if key.startswith("+"):
            continue
        known = all_keys(cfg)
        assert key.lstrip("~") in known, f"{key}: no such key; {nearest(key, known)}"
        parent, _, last = key.lstrip("~").rpartition(".")
        node = OmegaConf.select(cfg, parent) if parent else cfg
        with open_dict(cfg):
            if key.startswith("~"):
                del node[last]
            else:
                node[last] = yaml.safe_load(value)


@cache
def recipe_config(recipe: str, *overrides: str) -> DictConfig:
    return compose("train", [f"+experiment={recipe}", *overrides])


def ends(found: Any) -> list[Any]:
    """Values at the ends of what a search may draw."""
    return list(found.choices) if hasattr(found, "choices") else [found.low, found.high]


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_sweep_asks_its_question_and_names_its_command(path: Path) -> None:
    assert path.read_text().startswith("# @package _global_\n# ")
    said = comments(path)
    assert said[0].endswith((".", "?"))
    command = COMMAND.search(path.read_text())
    assert command is not None
    assert f"+sweep={path.stem}" in command[1].split()
    assert yaml.safe_load(path.read_text())["run"]["group"] == path.stem


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_axis_of_a_sweep_names_a_key(path: Path) -> None:
    command = COMMAND.search(path.read_text())
    assert command is not None
    given = [word for word in shlex.split(command[1]) if word != "-m" and not word.startswith("+sweep=")]
    parameters = yaml.safe_load(path.read_text())["hydra"]["sweeper"]["params"]
    assert len(jobs(parameters)) > 1
    for job in axes(parameters):
        (recipe,) = [word.partition("=")[2] for word in [*job, *given] if word.startswith("+experiment=")]
        cfg = recipe_config(recipe).copy()
        fits(cfg, job)
        check(cfg)
    # Once as Hydra composes a job: the sweep's parameters, then the command line.
    check(compose("train", [*jobs(parameters)[-1], *given, f"+sweep={path.stem}"]))


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_study_asks_its_question(path: Path) -> None:
    text = path.read_text()
    assert text.startswith("# @package _global_\n# ")
    assert comments(path)[0].endswith((".", "?"))
    content = yaml.safe_load(text)
    assert content["study"]["name"] == path.stem
    assert content["study"]["question"].endswith("?")


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_every_axis_of_a_study_names_a_key(path: Path) -> None:
    cfg = compose("study", [f"+study={path.stem}"])
    check(cfg)
    assert jobs_of_study(cfg.study, "val")
    asked: Any = plain(cfg.study)
    preset = [] if asked["preset"] is None else [f"+preset={asked['preset']}"]
    axes_of_study = read_axes(asked["axes"])
    for recipe in asked["recipes"]:
        common = [*asked["overrides"], *asked["recipe_overrides"].get(recipe, ())]
        base = recipe_config(recipe, *preset, *common)
        for axis in axes_of_study:
            for overrides in axis.levels.values():
                changed = base.copy()
                fits(changed, list(overrides))
                check(changed)
        for name, found in distributions(plain(cfg.search.space)).items() if cfg.search.space else ():
            changed = base.copy()
            fits(changed, [override(name, value) for value in ends(found)])
            check(changed)
    if axes_of_study:  # once as Hydra does it, with the last label of each axis
        last = [override for axis in axes_of_study for override in list(axis.levels.values())[-1]]
        check(compose("train", [f"+experiment={asked['recipes'][0]}", *preset, *common, *last]))


def test_mosaic_is_compared_within_one_kind_of_classes() -> None:
    """A baseline in both axes would add the effect of the classes to that of mosaic."""
    from spineseg.reporting.study_arms import Arm, baseline_of

    cfg = compose("study", ["+study=mosaic"])
    labels = dict.fromkeys(tuple(sorted(cell.labels.items())) for cell in cells(cfg.study))
    arms = [Arm(dict(each), (), {}, {}) for each in labels]
    for arm in arms:
        base = baseline_of(arm, arms, plain(cfg.study.baseline))
        assert (base is None) == (arm.labels["mosaic"] == "without")
        assert base is None or arms[base].labels == {**arm.labels, "mosaic": "without"}


def test_a_learning_curve_has_as_many_steps_everywhere() -> None:
    asked: Any = plain(compose("study", ["+study=learning_curve"]).study)
    steps = set()
    for recipe in asked["recipes"]:
        data = recipe_config(recipe, *asked["recipe_overrides"].get(recipe, ())).data
        # nnU-Net's plan sets the batch, of which 500 patches are 250 as published.
        steps.add((data.get("epoch_slices") or data.epoch_patches) // (data.batch_size or 2))
    assert steps == {250}
    sweep = yaml.safe_load((CONF / "sweep" / "learning_curve.yaml").read_text())["hydra"]["sweeper"]["params"]
    for recipe in sweep["+experiment"].split(","):
        assert asked["recipe_overrides"][recipe] == [f"data.epoch_slices={sweep['data.epoch_slices']}"]


def test_searches_that_are_compared_have_equal_trials() -> None:
    searches = [compose("study", [f"+study={path.stem}"]) for path in STUDIES if path.stem.startswith("search_")]
    assert len(searches) > 1
    assert len({(cfg.search.trials, cfg.search.sampler, len(cfg.search.space)) for cfg in searches}) == 1


def test_misspelt_axis_is_named_with_the_nearest_key() -> None:
    cfg = compose("train", ["+experiment=yolo_csi"])
    with pytest.raises(AssertionError, match=r"data\.contxt: no such key; did you mean 'data\.context'"):
        fits(cfg, ["data.contxt=1"])
    with pytest.raises(ConfigError, match=r"data\.contxt"):
        compose("train", ["+experiment=yolo_csi", "data.contxt=1"])


@pytest.mark.parametrize("path", sorted((CONF / "hydra" / "launcher").glob("*.yaml")), ids=lambda path: path.stem)
def test_launcher_composes_on_what_the_plugin_has(path: Path) -> None:
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir

    compose("simulate")  # its schema is known from here on
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        chosen = [f"hydra/launcher={path.stem}"]
        launcher = hydra_compose("simulate", chosen, return_hydra_config=True).hydra.launcher
    own = {key: value for key, value in yaml.safe_load(path.read_text()).items() if key != "defaults"}
    assert launcher._target_.startswith("hydra_plugins.")
    assert {key: launcher[key] for key in own} == own
