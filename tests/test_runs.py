"""A run folder: made once, found again, without secrets, read without trust."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import DictConfig, OmegaConf

from spineseg.errors import ConfigError, DataError, FormatError
from spineseg.provenance import read_provenance, write_provenance
from spineseg.runs import (
    Run,
    best_checkpoint,
    create_run,
    find_run,
    read_config,
    read_results,
    shareable,
    write_results,
)


@pytest.fixture
def cfg(tmp_path: Path) -> DictConfig:
    return OmegaConf.create(
        {
            "run": {"group": "g", "name": "n", "tags": ["a"]},
            "paths": {"runs": str(tmp_path / "runs")},
            "seed": 3,
            "twice": "${seed}",
            "logger": {"wandb": {"api_key": "s3cr3t", "mode": "offline"}},
        }
    )


def test_new_run_has_its_files_and_is_the_latest(cfg: DictConfig, tmp_path: Path) -> None:
    first = create_run(cfg, ["seed=3", "logger.wandb.api_key=s3cr3t"])
    second = create_run(cfg)
    assert first.root != second.root
    assert first.root.parent == tmp_path / "runs" / "g" / "n"
    assert (first.root.parent / "latest").resolve() == second.root
    assert first.overrides.read_text() == "seed=3\n"
    assert first.checkpoints.is_dir()
    assert first.name.startswith("g/n/")


def test_no_secret_is_written(cfg: DictConfig) -> None:
    run = create_run(cfg, ["logger.wandb.api_key=s3cr3t"])
    write_provenance(run)
    assert not any("s3cr3t" in path.read_text() for path in run.root.rglob("*") if path.is_file())
    assert read_config(run).logger.wandb.mode == "offline"


def test_config_reads_back_resolved_and_closed(cfg: DictConfig) -> None:
    back = read_config(create_run(cfg))
    assert (back.seed, back.twice, list(back.run.tags)) == (3, 3, ["a"])
    with pytest.raises(AttributeError):
        _ = back.sed


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("format: config 2\nseed: 1\n", FormatError, "expected format 'config 1', found 'config 2'"),
        ("seed: 1\n", FormatError, "found 'None'"),
        ("- 1\n", FormatError, "found 'None'"),
        ("format: config 1\nseed: ${oc.env:HOME}\n", FormatError, "may not"),
        ("format: config 1\nx: [{y: '${seed}'}]\n", FormatError, "may not"),
        ("format: config 1\nx: !!python/object/apply:os.system ['true']\n", DataError, "cannot be read"),
        ("{", DataError, "cannot be read"),
    ],
)
def test_foreign_config_is_refused(tmp_path: Path, text: str, error: Any, message: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(error, match=message):
        read_config(Run(tmp_path))


@pytest.mark.parametrize("name", ["../out", "a/b", "", ".hidden"])
def test_name_must_be_a_folder_name(cfg: DictConfig, name: str) -> None:
    cfg.run.name = name
    with pytest.raises(ConfigError, match=r"run\.name"):
        create_run(cfg)


def test_unwritable_place_is_named(cfg: DictConfig, tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("in the way")
    with pytest.raises(DataError, match=r"set paths\.runs="):
        create_run(cfg)


def test_run_is_found_in_every_way(cfg: DictConfig, tmp_path: Path) -> None:
    run = create_run(cfg)
    run.last.write_bytes(b"")
    runs = tmp_path / "runs"
    for where in (run.root, run.root.parent, run.root.parent / "latest", run.last, "g/n", f"g/n/{run.root.name}"):
        assert find_run(where, runs) == Run(run.root.resolve())
    with pytest.raises(DataError, match=rf"did you mean 'g/n/{run.root.name}'"):
        find_run(f"g/m/{run.root.name}", runs)


def test_a_run_is_whole_or_not_there(cfg: DictConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped just before the folder gets its name: nothing is found."""

    def stop(self: Path, target: Path) -> Path:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", stop)
        with pytest.raises(KeyboardInterrupt):
            create_run(cfg)
    with pytest.raises(DataError, match="no run there"):
        find_run("g/n", Path(cfg.paths.runs))
    run = create_run(cfg)
    assert sorted(path.name for path in run.root.parent.iterdir() if path.name[0] != ".") == [run.root.name, "latest"]
    assert run.config.is_file() and run.overrides.is_file() and run.checkpoints.is_dir()


def test_best_checkpoint_falls_back_to_the_last(cfg: DictConfig) -> None:
    run = create_run(cfg)
    with pytest.raises(DataError, match="no checkpoint"):
        best_checkpoint(run)
    run.last.write_bytes(b"")
    assert best_checkpoint(run) == run.last
    run.best.write_bytes(b"")
    assert best_checkpoint(run) == run.best


def test_results_gather_over_splits(cfg: DictConfig) -> None:
    run = create_run(cfg)
    score = {"dice": {"value": 0.5, "low": None, "high": None, "subjects": 2}}
    write_results(run, {"test": score}, simulated=True, cost={"seconds": 1.0})
    write_results(run, {"train": score}, simulated=True)
    results = read_results(run)
    assert results["splits"] == {"test": score, "train": score}
    assert (results["format"], results["protocol"], results["simulated"]) == ("results 1", "1.0", True)
    assert results["cost"] == {"seconds": 1.0}
    run.results.write_text(json.dumps({**results, "format": "results 9"}))
    with pytest.raises(FormatError, match="results 9"):
        read_results(run)


def test_provenance_grows(cfg: DictConfig) -> None:
    run = create_run(cfg)
    write_provenance(run, seed=3, simulated=True)
    started = read_provenance(run)["started"]
    write_provenance(run, seconds=7.0)
    facts = read_provenance(run)
    assert (facts["seed"], facts["seconds"], facts["started"]) == (3, 7.0, started)
    assert facts["versions"]["numpy"]
    assert facts["peak_ram_mb"] > 10
    assert facts["hardware"]["cores"] >= 1


def test_provenance_names_neither_machine_nor_user(cfg: DictConfig) -> None:
    import getpass
    import platform

    run = create_run(cfg)
    write_provenance(run)
    content = json.dumps({key: value for key, value in read_provenance(run).items() if key != "git"})
    assert platform.node() not in content
    assert f"/{getpass.getuser()}/" not in content


def test_shareable_keeps_settings_and_cuts_paths() -> None:
    content = yaml.safe_load("{a: {root: /x/patient, token: t, n: 1}, b: [~/y/z, text], c: ../q/r, rel: data/csi}")
    assert shareable(content) == {
        "a": {"root": "…/patient", "n": 1},
        "b": ["…/z", "text"],
        "c": "…/r",
        "rel": "data/csi",
    }
