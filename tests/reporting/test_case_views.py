"""A case as all models see it: the right voxels, from wherever they still are, and which cases come first."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from spineseg.errors import DataError
from spineseg.geometry import Volume, index_to_mm
from spineseg.reporting.case_scores import worst_cases
from spineseg.reporting.case_views import CaseView, case_views, color_of, present_levels, shrunk
from spineseg.vertebrae import LEVELS
from spineseg.volumes import write_volume
from tests.reporting.page_cases import MODELS, World, native, scan, truth


def own(world: World) -> list:
    """Our runs, without the tool whose predictions nobody knows the place of."""
    return [run for name, run in world.runs.items() if name in MODELS]


def view_of(labels: np.ndarray, spacing: tuple[float, float, float]) -> CaseView:
    volume = Volume(labels, np.diag([*spacing, 1.0]))
    hu = volume.with_array(np.where(labels > 0, 500, 0).astype(np.int16))
    return CaseView("c", "s", "", hu, volume, {"a": volume}, {"a": True}, simulated=False)


@pytest.mark.parametrize("number", range(3))
def test_image_reference_and_predictions_are_the_files_voxels_upright(world: World, number: int) -> None:
    view = case_views(own(world), f"case{number}", "tiny")
    assert view.image is not None and view.reference is not None
    np.testing.assert_array_equal(view.image.array, scan(number))
    np.testing.assert_array_equal(view.reference.array, truth(number))
    for run in own(world):
        change, kind = MODELS[run.recipe]
        np.testing.assert_array_equal(view.predictions[run.name].array, change(truth(number), number))
        np.testing.assert_allclose(view.predictions[run.name].affine, view.image.affine)
        assert view.named[run.name] is (kind == "levels")
    assert view.spacing_mm == pytest.approx((3, 2, 2))
    assert view.notes == () and view.subject == f"case{number}"
    assert present_levels(view) == ([19, 20, 21, 22, 23] if number == 0 else [19, 20, 21, 22])


def test_without_the_scans_files_the_store_shows_the_case_and_says_so(world: World, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(world.root, tmp_path / "copy"))
    shutil.rmtree(moved / "raw")
    runs = [replace(run, config={"data": {"prepared_root": str(moved / "prepared")}}) for run in own(world)]
    source = (moved / "prepared" / world.prepared.root.name / "source.json").read_text()
    (moved / "prepared" / world.prepared.root.name / "source.json").write_text(
        source.replace(str(world.root / "raw"), str(moved / "raw"))
    )
    view = case_views(runs, "case1", "tiny")
    assert view.image is not None and view.reference is not None
    assert view.spacing_mm == pytest.approx((3, 4, 4))
    stored, whole = view.reference.array, truth(1)
    for level in (19, 20, 21, 22):  # the same place in mm
        centre = index_to_mm(view.reference.affine, np.argwhere(stored == level).mean(axis=0))
        native = case_views(own(world), "case1").volume
        expected = index_to_mm(native.affine, np.argwhere(whole == level).mean(axis=0))
        np.testing.assert_allclose(centre, expected, atol=2.0)
    assert any("store" in note for note in view.notes) and any("another grid" in note for note in view.notes)


def test_other_data_is_not_taken_for_the_runs_own(world: World) -> None:
    changed = [replace(run, provenance={**run.provenance, "data_hash": "0" * 64}) for run in own(world)]
    view = case_views(changed, "case0", "tiny")
    assert view.image is None and view.reference is None and len(view.predictions) == 3
    (note,) = view.notes
    assert "changed since the run" in note and str(world.root) not in note
    with pytest.raises(DataError, match="case9"):
        case_views(own(world), "case9", "tiny")


def test_another_tools_predictions_stand_beside_a_runs_reference(world: World) -> None:
    tool = replace(world.runs["other_tool"], predictions=world.root / "other")
    alone = case_views([tool], "case0", "tiny")
    assert alone.image is None and alone.reference is None
    assert "label maps only" in alone.notes[0]
    beside = case_views([tool, world.runs["good"]], "case0", "tiny")
    assert beside.reference is not None and list(beside.predictions) == ["other_tool", "tiny/good/2026"]
    kept = case_views([replace(tool, predictions=None), world.runs["good"]], "case0", "tiny")
    assert list(kept.predictions) == ["tiny/good/2026"] and "not kept" in kept.notes[0]


def test_a_prediction_that_cannot_be_read_is_named_and_left_out(world: World, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(world.root / "other", tmp_path / "broken"))
    (folder / "case0.nii.gz").write_bytes(b"no volume")
    view = case_views([world.runs["good"], replace(world.runs["other_tool"], predictions=folder)], "case0")
    assert list(view.predictions) == ["tiny/good/2026"]
    assert any(note.startswith("other_tool: ") and "case0.nii.gz" in note for note in view.notes)
    assert not any(str(tmp_path) in note for note in view.notes)


def test_the_worst_case_is_the_one_with_the_lowest_mean_of_means(world: World) -> None:
    runs = list(world.runs.values())
    scores = worst_cases(runs, 5)
    assert scores[0].case == "case0" and len(scores) == 3
    for score in scores:
        for run in runs:
            rows = run.metrics[run.metrics["case"] == score.case]
            metric = "dice_spine" if run.recipe == "one_class" else "dice"
            values = [row.value for row in rows.itertuples() if row.metric == metric and row.status in ("ok", "missed")]
            assert score.dice[run.name] == pytest.approx(np.mean(values))
        assert score.mean == pytest.approx(np.mean(list(score.dice.values())))
    assert [score.mean for score in scores] == sorted(score.mean for score in scores)
    # The level that `good` misses counts as 0.
    missed = next(score for score in scores if score.case == "case2")
    assert missed.levels["tiny/good/2026"]["L2"] == 0


def test_a_case_of_fewer_runs_stands_behind_those_of_all(world: World) -> None:
    runs = [world.runs["good"], world.runs["shifted"]]
    fewer = replace(runs[0], metrics=runs[0].metrics[runs[0].metrics["case"] != "case0"])
    assert [score.case for score in worst_cases([fewer, runs[1]], 3)][-1] == "case0"
    assert len(worst_cases(runs, 1)) == 1


@pytest.mark.parametrize("seed", range(6))
def test_shrinking_keeps_places_and_respects_its_bounds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = tuple(int(n) for n in rng.integers(20, 70, 3))
    spacing = tuple(float(s) for s in rng.uniform(0.5, 3, 3))
    labels = np.zeros(shape, np.uint8)
    for level in range(1, 4):
        low = [int(rng.integers(0, n - 12)) for n in shape]
        labels[tuple(slice(a, a + 12) for a in low)] = level
    view = view_of(labels, spacing)
    longest, voxels = int(rng.integers(16, 60)), float(rng.integers(3000, 30000))
    small = shrunk(view, longest=longest, voxels=voxels, margin_mm=4)
    assert max(small.volume.shape) <= longest and np.prod(small.volume.shape) <= voxels * 1.15
    assert all(new >= old - 1e-9 for new, old in zip(small.spacing_mm, spacing, strict=True))
    assert small.image is not None and small.image.shape == small.predictions["a"].shape
    for level in np.unique(labels[labels > 0]):
        found = np.argwhere(small.predictions["a"].array == level)
        assert len(found)
        centre = index_to_mm(small.volume.affine, found.mean(axis=0))
        expected = index_to_mm(view.volume.affine, np.argwhere(labels == level).mean(axis=0))
        assert np.all(np.abs(centre - expected) <= 0.75 * np.array(small.spacing_mm))


def test_what_is_small_already_is_only_cut() -> None:
    labels = np.zeros((40, 40, 40), np.uint8)
    labels[15:20, 16:22, 17:25] = 20
    small = shrunk(view_of(labels, (1.0, 1.0, 1.0)), margin_mm=3)
    assert small.volume.shape == (11, 12, 14)
    np.testing.assert_array_equal(np.flatnonzero(small.volume.array.ravel()).size, (labels > 0).sum())
    empty = shrunk(view_of(np.zeros((8, 9, 10), np.uint8), (1.0, 1.0, 1.0)))
    assert empty.volume.shape == (8, 9, 10)


def test_numbers_take_the_levels_colours_in_turn() -> None:
    assert color_of(20, named=True) == LEVELS[20].color
    assert color_of(1, named=False) == LEVELS[1].color
    assert color_of(29, named=False) == LEVELS[1].color
    assert color_of(200, named=True) in {level.color for level in LEVELS.values()}


def test_another_tools_values_are_read_as_they_were_scored(world: World, tmp_path: Path) -> None:
    # TotalSegmentator counts from the sacrum up: T12 is 32, L1 31.
    there = np.where(truth(0) > 0, 51 - truth(0).astype(int), 0).astype(np.uint8)
    write_volume(tmp_path / "case0.nii.gz", native(there))
    tool = replace(
        world.runs["other_tool"],
        predictions=tmp_path,
        summary={**world.runs["other_tool"].summary, "prediction_convention": "totalsegmentator_v2"},
    )
    view = case_views([tool, world.runs["good"]], "case0")
    np.testing.assert_array_equal(view.predictions["other_tool"].array, truth(0))
