"""A preset's parts follow the recipe's choices."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from spineseg.config import compose, conf_dir
from spineseg.errors import ConfigError
from spineseg.presets import with_parts


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    for part in ("model/small", "model/other", "optim/sgd"):
        path = tmp_path / "preset" / "quick" / f"{part}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


def choices(overrides: list[str]) -> Mapping[str, str | None]:
    """Recipe `<model>_<optim>`; a group on the command line wins."""
    given = dict(each.lstrip("+").split("=") for each in overrides)
    model, optim = given["experiment"].split("_")
    return {"model": given.get("model", model), "optim": optim}


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["+experiment=small_sgd", "+preset=quick", "seed=1"], ["model=small", "optim=sgd"]),
        (["model=other", "+experiment=small_sgd", "+preset=quick"], ["model=other", "optim=sgd"]),
        (["+experiment=unknown_none", "+preset=quick"], []),
        (
            ["-m", "+experiment=small_sgd,small_sgd", "+preset=quick", "seed=1,2", "a.b=[1,2]"],
            ["model=small", "optim=sgd"],
        ),
        (["+experiment=small_sgd"], []),
    ],
)
def test_parts_stand_right_behind_the_preset(conf: Path, arguments: list[str], parts: list[str]) -> None:
    found = with_parts(arguments, conf, choices)
    added = [f"+preset/quick/{part}" for part in parts]
    assert [each for each in found if each not in added] == arguments
    if added:
        start = found.index("+preset=quick") + 1
        assert found[start : start + len(added)] == added


def test_given_again_nothing_is_added(conf: Path) -> None:
    once = with_parts(["+experiment=small_sgd", "+preset=quick"], conf, choices)
    assert with_parts(once, conf, choices) == once


def test_sweep_over_kinds_of_recipes_is_refused(conf: Path) -> None:
    with pytest.raises(ConfigError, match="recipes of different kinds"):
        with_parts(["-m", "+experiment=small_sgd,other_sgd", "+preset=quick"], conf, choices)


@pytest.mark.parametrize("path", sorted((conf_dir() / "preset").glob("*/*/*.yaml")), ids=lambda path: path.stem)
def test_every_part_belongs_to_an_option(path: Path) -> None:
    assert (conf_dir() / path.parent.name / path.name).is_file()


def test_the_command_line_wins_over_a_part() -> None:
    cfg = compose("train", ["+experiment=yolo_csi", "+preset=quick", "model.scale=l"])
    assert (cfg.model.scale, cfg.model.weights) == ("l", None)
