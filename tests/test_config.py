"""Every file of conf/ is composed, and each key of each target is bound to the signature of what it names."""

from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from spineseg.config import check, compose, conf_dir
from spineseg.errors import ConfigError
from spineseg.schemas import SCHEMAS

CONF = conf_dir()
FILES = sorted(CONF.rglob("*.yaml"))
PROGRAMS = sorted(path.stem for path in CONF.glob("*.yaml") if path.stem in SCHEMAS)
EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))
SWEEPS = sorted(path.stem for path in (CONF / "sweep").glob("*.yaml"))
PRESETS = sorted(path.stem for path in (CONF / "preset").glob("*.yaml"))
# Groups whose every option must fit into `train`, with the key that chooses it.
GROUPS = ("data/source", "model", "optim", "task", "trainer", "callbacks", "logger", "paths")
OPTIONS = [
    f"{group}={path.stem}" for group in GROUPS for path in sorted((CONF / group).glob("*.yaml")) if path.is_file()
]
ROOT = "data.source.root=somewhere"


def test_every_program_has_a_file() -> None:
    files = {path.stem for path in CONF.glob("*.yaml")} - {"hydra_settings"}
    assert files == set(PROGRAMS)


@pytest.mark.parametrize("name", PROGRAMS)
def test_program_composes(name: str) -> None:
    check(compose(name), complete=False)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiment_composes_and_binds(name: str) -> None:
    check(compose("train", [f"+experiment={name}", ROOT]))


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiment_with_preset_composes_and_binds(name: str, preset: str) -> None:
    check(compose("train", [f"+experiment={name}", f"+preset={preset}", ROOT]))


def test_sweeps_compose_and_bind() -> None:
    for name in SWEEPS:  # a loop, since there may be none
        check(compose("train", [f"+experiment={EXPERIMENTS[0]}", f"+sweep={name}", ROOT]))


@pytest.mark.parametrize("option", OPTIONS)
def test_option_composes_and_binds(option: str) -> None:
    check(compose("train", [option]), complete=False)


def test_only_paths_reads_the_environment() -> None:
    readers = [path.relative_to(CONF) for path in FILES if "oc." in path.read_text()]
    assert readers == [Path("paths/default.yaml")]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CONF)))
def test_file_is_plain_yaml_without_machine_paths(path: Path) -> None:
    text = path.read_text()
    yaml.safe_load(text)  # refuses tags that make Python objects
    assert not any(mark in text for mark in ("/home/", "/root/", "http://", "https://", "file://"))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiment_leaves_the_loggers_alone(name: str) -> None:
    content = yaml.safe_load((CONF / "experiment" / f"{name}.yaml").read_text())
    assert "logger" not in content


def test_paths_follow_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPINESEG_DATA", "elsewhere")
    cfg = compose("simulate")
    assert (cfg.paths.data, cfg.output) == ("elsewhere", "elsewhere/simulated/csi2014")


def test_preset_wins_over_the_recipe_and_the_command_line_over_both() -> None:
    recipe = compose("train", ["+experiment=yolo_csi"]).trainer.max_epochs
    quick = compose("train", ["+experiment=yolo_csi", "+preset=quick"]).trainer.max_epochs
    assert quick < recipe
    assert compose("train", ["trainer.max_epochs=3", "+experiment=yolo_csi", "+preset=quick"]).trainer.max_epochs == 3


def test_preset_before_experiment_is_refused() -> None:
    with pytest.raises(ConfigError, match="put it after"):
        compose("train", ["+preset=quick", "+experiment=yolo_csi"])


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["sed=1"], "did you mean 'seed'"),
        (["trainer.max_epoch=1"], "did you mean 'max_epochs'"),
        (["paths.dta=x"], "did you mean 'data'"),
        (["+experiment=yolo_cis"], "^experiment=yolo_cis: no such choice; did you mean 'yolo_csi'"),
        (["data/source=kagle"], "^data/source=kagle: no such choice; did you mean 'kaggle'"),
        (["optim.lr=1"], "did you mean 'lr0' or 'lrf'"),
    ],
)
def test_misspelt_on_the_command_line(overrides: list[str], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        compose("train", overrides)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("+trainer.max_epoch=1", r"trainer\.max_epoch: .*did you mean 'max_epochs'"),
        ("+callbacks.ema.decey=0.9", r"callbacks\.ema\.decey: .*did you mean 'decay'"),
        ("+callbacks.chekpoints.monitor=x", r"callbacks\.chekpoints: .*did you mean 'checkpoints'"),
        ("+nonsense.a=1", "nonsense: no such key"),
        ("+run.tag=[a]", r"run\.tag: .*did you mean 'tags'"),
    ],
)
def test_misspelt_key_that_hydra_merges_silently(override: str, expected: str) -> None:
    """An experiment file merges such keys like `+`: without a word."""
    with pytest.raises(ConfigError, match=expected):
        check(compose("train", ["+experiment=yolo_csi", ROOT, override]))


def test_a_study_is_reported_by_the_name_of_a_folder_of_conf() -> None:
    assert (conf_dir() / "study").is_dir()  # which Hydra would take `study=` for a choice of
    cfg = compose("report", ["study=runs/studies/side_by_side", "output=report"])
    assert cfg.study_folder == "runs/studies/side_by_side"


def test_closed_choice() -> None:
    with pytest.raises(ConfigError, match=r"layout=csi2015: .*did you mean 'csi2014'"):
        check(compose("simulate", ["layout=csi2015"]))


def test_required_value_is_named() -> None:
    cfg = OmegaConf.structured(SCHEMAS["evaluate"])
    with pytest.raises(ConfigError, match="output, prediction, reference; give it as output="):
        check(cfg)
