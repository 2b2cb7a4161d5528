"""A study as a W&B sweep: what W&B's own agent would start is what the study would."""

import itertools
from typing import Any

import pytest
import yaml

from spineseg.config import compose, conf_dir
from spineseg.errors import ConfigError
from spineseg.studies.matrix import jobs
from spineseg.studies.wandb_sweep import ARGUMENTS, main, parameter, sweep_file

STUDIES = sorted(path.stem for path in (conf_dir() / "study").glob("*.yaml"))


def started(sweep: dict[str, Any], drawn: dict[str, Any]) -> list[str]:
    """The arguments of `train` that W&B's agent makes of a draw."""
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

    arguments = create_sweep_command_args({"args": {name: {"value": value} for name, value in drawn.items()}})
    words: list[str] = []
    for word in create_sweep_command(list(sweep["command"])):
        words += arguments["args_no_hyphens"] if word == ARGUMENTS else [word]
    assert words[:4] == ["${env}", "python", "-m", "spineseg.train"]
    return words[4:]


def numbers(cfg: Any) -> dict[str, Any]:
    return {name: cfg[name] for name in ("seed", "data", "model", "task", "optim", "trainer", "callbacks")}


def test_matrix_becomes_a_grid_of_the_same_trainings() -> None:
    cfg = compose("study", ["+study=flips", "study.preset=quick", "study.folds=[0]", "study.seeds=[0,1]"])
    sweep = sweep_file(cfg)
    assert sweep["method"] == "grid"
    values = {name: node["values"] for name, node in sweep["parameters"].items()}
    draws = [dict(zip(values, draw, strict=True)) for draw in itertools.product(*values.values())]
    expected = jobs(cfg.study, "test")
    assert len(draws) == len(expected)
    by_labels = {
        (f"[{'' if a == 'none' else ','.join(a)}]", f"[{'' if b == 'none' else b}]", seed): job
        for job in expected
        for a, b, seed in [(job.labels["training"], job.labels["prediction"], job.labels["seed"])]
    }
    for draw in (draws[0], draws[-1]):
        key = (draw["data.augmentation.mirror_axes"], draw["task.inferer.mirror_axes"], draw["seed"])
        mine, theirs = compose("train", started(sweep, draw)), compose("train", list(by_labels[key].overrides))
        assert numbers(mine) == numbers(theirs)
        assert list(mine.score_splits) == list(theirs.score_splits)


def test_search_becomes_ws_and_bs_distributions() -> None:
    sweep = sweep_file(compose("study", ["+study=search_yolo", "trials=7"]))
    assert (sweep["method"], sweep["run_cap"]) == ("bayes", 7)
    assert sweep["metric"] == {"name": "val/dice", "goal": "maximize"}
    rate = sweep["parameters"]["optim.lr0"]
    assert rate == {"distribution": "log_uniform_values", "min": 0.001, "max": 0.1}
    assert sweep["parameters"]["data.context"] == {"values": [0, 1, 2]}
    drawn = {name: node.get("values", [node.get("min")])[0] for name, node in sweep["parameters"].items()}
    cfg = compose("train", started(sweep, drawn))
    assert cfg.optim.lr0 == 0.001
    assert cfg.logger.wandb.group == "search_yolo"


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_is_exported_or_refused_by_name(name: str) -> None:
    cfg = compose("study", [f"+study={name}"])
    try:
        sweep = sweep_file(cfg)
    except ConfigError as error:
        assert "study." in str(error)
        return
    assert yaml.safe_load(yaml.safe_dump(sweep)) == sweep
    assert sweep["parameters"] or len(cfg.study.recipes) == 1


def test_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    main(["classes"])
    assert yaml.safe_load(capsys.readouterr().out)["name"] == "classes"
    with pytest.raises(SystemExit):
        main(["speed"])
    assert "study.axes.pixel_mm" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        ({"low": 1, "high": 5}, {"min": 1, "max": 5}),
        ({"low": 8, "high": 32, "step": 8}, {"values": [8, 16, 24, 32]}),
        ({"low": 0.0, "high": 0.5, "step": 0.25}, {"values": [0.0, 0.25, 0.5]}),
        ({"low": 0.0, "high": 0.5}, {"distribution": "uniform", "min": 0.0, "max": 0.5}),
        ({"choices": [None, "a"]}, {"values": ["null", "a"]}),
    ],
)
def test_distributions(node: dict[str, Any], expected: dict[str, Any]) -> None:
    assert parameter("data.x", node) == expected


def test_whole_numbers_on_a_logarithmic_scale_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"search\.space\.data\.batch_size"):
        parameter("data.batch_size", {"low": 2, "high": 64, "log": True})
