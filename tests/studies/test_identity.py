from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from spineseg.config import compose
from spineseg.studies.identity import PARTS, PLACES, DataIdentities, DataIdentity, job_hash, set_seed_and_fold
from spineseg.targets import plain

DATA = DataIdentity("a" * 64, "b" * 64, simulated=False)
RECIPE = ["+experiment=yolo_csi", "data.source.root=somewhere"]


def name(*more: str) -> str:
    return job_hash(compose("train", [*RECIPE, *more]), DATA, None)


@pytest.fixture(scope="module")
def cfg() -> DictConfig:
    return compose("train", RECIPE)


def test_what_moves_no_number_is_not_in_the_name(cfg: DictConfig) -> None:
    hardware = ["trainer=ddp", "trainer.precision=32-true", "data.workers=3", "trainer.log_every_n_steps=7"]
    places = ["paths.data=/elsewhere", "paths.runs=/elsewhere", "paths.prepared=/elsewhere", "data.source.root=/else"]
    loggers = ["logger.wandb=null", "run.name=x", "run.tags=[y]", "score_splits=[val,test]"]
    watching = ["callbacks.panels=null", "callbacks.checkpoints.every_n_minutes=1"]
    same = ["model.weights=/elsewhere/yolov8s-seg.pt", "optim.lr0=1e-2", "data.pixel_mm=1"]
    assert name(*hardware, *places, *loggers, *watching, *same) == job_hash(cfg, DATA, None)


@pytest.mark.parametrize("overrides", [["data/source=kaggle"], ["optim=adamw"], ["callbacks.ema=null"]])
def test_what_moves_numbers_is(cfg: DictConfig, overrides: list[str]) -> None:
    assert name(*overrides) != job_hash(cfg, DATA, None)


def test_data_split_and_preset_are_in_the_name(cfg: DictConfig) -> None:
    changed = [DataIdentity("c" * 64, DATA.split_hash, False), DataIdentity(DATA.data_hash, "c" * 64, False)]
    names = {job_hash(cfg, data, preset) for data in (DATA, *changed) for preset in (None, "quick")}
    assert len(names) == 6


def leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, Mapping):
        for key, child in node.items():
            yield from leaves(child, f"{path}.{key}" if path else str(key))
    else:
        yield path, node


def test_every_key_of_the_parts_counts_but_for_those_that_are_listed(cfg: DictConfig) -> None:
    """A key that somebody adds is in the name unless PLACES says that it moves nothing."""
    before = job_hash(cfg, DATA, None)
    content = {part: plain(cfg[part]) for part in PARTS}
    assert len(list(leaves(content))) > 60
    for path, value in leaves(content):
        places = any(f"{path}.".startswith(f"{group}.{key}.") for group, keys in PLACES.items() for key in keys)
        other = cfg.copy()
        OmegaConf.set_struct(other, False)
        changed = value + 1 if isinstance(value, int | float) and not isinstance(value, bool) else "something else"
        OmegaConf.update(other, path, changed)
        if path == "seed":  # data.seed follows it
            continue
        assert (job_hash(other, DATA, None) == before) == places, path


def test_seed_and_fold_as_on_the_command_line(cfg: DictConfig) -> None:
    composed = compose("train", [*RECIPE, "seed=3", "data.fold=4"])
    assert plain(set_seed_and_fold(cfg, 3, 4)) == plain(composed)
    assert plain(cfg) == plain(compose("train", RECIPE)), "the given configuration has changed"


def test_data_is_named_as_the_run_will_name_it(scans: Path, prepared: Path) -> None:
    from spineseg.lineage import hashes
    from spineseg.trained import build_datamodule

    overrides = ["data/source=folder", f"data.source.root={scans}", f"paths.prepared={prepared}"]
    for recipe, more in (("yolo_csi", []), ("unet_csi", ["+preset=quick", "data.train_subjects=1"])):
        cfg = compose("train", [f"+experiment={recipe}", *overrides, "data.fold=2", *more])
        found = DataIdentities()(cfg)
        assert {"data_hash": found.data_hash, "split_hash": found.split_hash} == hashes(build_datamodule(cfg))


def test_weights_to_start_from_count_by_content(cfg: DictConfig, tmp_path: Path) -> None:
    for run, weights in (("first", b"1"), ("copy", b"1"), ("other", b"2")):
        folder = tmp_path / "kaggle" / "yolo_kaggle" / run
        (folder / "checkpoints").mkdir(parents=True)
        (folder / "config.yaml").touch()
        (folder / "checkpoints" / "best.ckpt").write_bytes(weights)
    names = []
    for run in ("first", "copy", "other", None):
        child = cfg.copy()
        child.paths.runs, child.init_from = str(tmp_path), run and f"kaggle/yolo_kaggle/{run}"
        names.append(job_hash(child, DATA, None))
    assert names[0] == names[1] and len(set(names)) == 3
