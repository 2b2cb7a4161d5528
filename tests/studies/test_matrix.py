from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from spineseg.errors import ConfigError
from spineseg.schemas import StudyNode
from spineseg.studies.matrix import cells, jobs, quoted

AXES = {
    "mosaic": {"with": ["data.augmentation.mosaic=1.0"], "without": ["data.augmentation.mosaic=0.0"]},
    "size": {1.0: "data.pixel_mm=1", 0.5: ["data.pixel_mm=0.5", "data.image_size=[640, 640]"], "own": None},
}


def node(**study: Any) -> Any:
    given = {"name": "x", "question": "y", "recipes": ["yolo_csi", "unet_csi"], "axes": AXES, **study}
    return OmegaConf.merge(OmegaConf.structured(StudyNode), given)


def test_every_combination_once() -> None:
    made = jobs(node(seeds=[0, 1, 2], folds=[0, 3]), "test")
    assert len(made) == 2 * 2 * 3 * 3 * 2
    assert len({tuple(job.labels.values()) for job in made}) == len(made)
    assert len({job.overrides for job in made}) == len(made)
    first = made[0]
    assert dict(first.labels) == {"recipe": "yolo_csi", "mosaic": "with", "size": "1.0", "seed": 0, "fold": 0}
    assert first.overrides == (
        *("+experiment=yolo_csi", "data.augmentation.mosaic=1.0", "data.pixel_mm=1"),
        *("seed=0", "data.fold=0", "score_splits=[test]"),
    )


def test_a_whole_table_comes_before_the_next_seed_and_fold() -> None:
    made = jobs(node(seeds=[0, 1], folds=[0, 1]), "test")
    order = [(job.labels["fold"], job.labels["seed"]) for job in made]
    assert order == sorted(order)
    assert {job.labels["recipe"] for job in made[: len(made) // 4]} == {"yolo_csi", "unet_csi"}


def test_one_factor_at_a_time() -> None:
    baseline = {"recipe": "unet_csi", "mosaic": "without", "size": 0.5}
    made = cells(node(design="one_factor", baseline=baseline))
    assert len(made) == 1 + 1 + 1 + 2
    assert dict(made[0].labels) == {"recipe": "unet_csi", "mosaic": "without", "size": "0.5"}
    for cell in made[1:]:
        assert sum(cell.labels[name] != str(label) for name, label in baseline.items()) == 1
    with pytest.raises(ConfigError, match=r"study\.baseline\.recipe"):
        cells(node(design="one_factor", baseline={"mosaic": "with", "size": 0.5}))


def test_order_of_overrides() -> None:
    """What is said for fewer jobs stands later, and wins."""
    (cell, *_) = cells(node(preset="quick", overrides=["optim.lr0=1"], recipe_overrides={"yolo_csi": ["optim.lr0=2"]}))
    assert cell.overrides[:4] == ("+experiment=yolo_csi", "+preset=quick", "optim.lr0=1", "optim.lr0=2")


def test_skip_leaves_out_what_matches() -> None:
    made = jobs(node(seeds=[0, 1], skip=[{"recipe": "unet_csi", "mosaic": "with"}, {"seed": 1, "size": 0.5}]), "test")
    assert len(made) == 24 - 6 - 3
    assert not any(job.labels["seed"] == 1 and job.labels["size"] == "0.5" for job in made)


def test_interpolations_are_left_to_each_machine() -> None:
    cfg = OmegaConf.create({"paths": {"data": "here"}, "study": node(overrides=["data.source.root=${paths.data}/x"])})
    assert "data.source.root=${paths.data}/x" in cells(cfg.study)[0].overrides


@pytest.mark.parametrize(
    ("study", "message"),
    [
        ({"axes": {"a": {True: []}}}, "quotation marks"),
        ({"axes": {"a": {}}}, r"study\.axes\.a"),
        ({"axes": {"seed": {"x": []}}}, "column of the ledger"),
        ({"axes": {"a": {"x": ["pixel"]}}}, "expected key=value"),
        ({"axes": {"a": {"x": [{"data.pixel_mm": 1}]}}}, r"study\.axes\.a\.x"),
        ({"overrides": ["seed=3"]}, "seed is for the study to say"),
        ({"overrides": ["+experiment=unet_csi"]}, "experiment is for the study to say"),
        ({"overrides": ["paths.runs=x"]}, r"paths\.runs is for the study"),
        ({"baseline": {"mosaik": "with"}}, "did you mean 'mosaic'"),
        ({"baseline": {"mosaic": "withut"}}, "did you mean 'without'"),
        ({"recipe_overrides": {"yolo_csy": []}}, "did you mean 'yolo_csi'"),
        ({"skip": [{"mosaic": "wit"}]}, "no combination has"),
        ({"skip": [{"mosaik": "with"}]}, "did you mean 'mosaic'"),
        ({"skip": [{"recipe": "unet_csi"}, {"recipe": "yolo_csi"}]}, "leaves out every job"),
        ({"seeds": [1, 1]}, r"study\.seeds"),
        ({"recipes": []}, r"study\.recipes"),
    ],
)
def test_mistakes_are_named(study: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        jobs(node(**study), "test")


@settings(max_examples=50, deadline=None)
@given(
    st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]) | st.sampled_from(" '\\\"${},=[]"), min_size=1)
)
def test_whatever_is_quoted_reaches_hydra_as_it_was(text: str) -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    (parsed,) = OverridesParser.create().parse_overrides([f"paths.data={quoted(text)}"])
    assert parsed.value() == text


def test_a_label_of_a_file_is_a_text(tmp_path: Path) -> None:
    read = yaml.safe_load("axes: {size: {1.0: [data.pixel_mm=1], 2: [data.pixel_mm=2]}}")
    assert [cell.labels["size"] for cell in cells(node(**read, recipes=["yolo_csi"]))] == ["1.0", "2"]
