"""Other tools' folders, both rules of the edge, points, parts and tables: from end to end."""

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from spineseg.errors import DataError
from spineseg.evaluate import Reference, find_references
from spineseg.geometry import Volume
from spineseg.metrics.references import default_edge, is_simulated
from spineseg.predictions.point_files import write_points
from spineseg.volumes import write_volume
from tests.evaluation_cases import evaluated, summary_of, turned

AFFINE = np.array([[0.0, 0, 3, -20], [-2.0, 0, 0, 7], [0, 2.5, 0, 11], [0, 0, 0, 1]])


def column(*levels: int, top: int = 55, size: int = 12) -> Volume:
    labels = np.zeros((16, 62, 10), np.uint8)
    for row, level in enumerate(levels):
        z = top - 15 * row
        labels[3:12, max(z - size, 0) : z, 2:8] = level
    return Volume(labels, AFFINE)


def layout(name: str, folder: Path, cases: dict[str, Volume]) -> None:
    for case, volume in cases.items():
        if name == "nnunet":
            write_volume(folder / f"{case}.nii.gz", volume)
            (folder / "dataset.json").write_text("{}")
        elif name == "verse":
            write_volume(folder / "derivatives" / f"sub-{case}" / f"{case}_seg-vert_msk.nii.gz", volume)
        elif name == "mha":
            write_volume(folder / f"{case}.mha", volume)
        else:
            for level in range(19, 25):
                mask = (volume.array == level).astype(np.uint8)
                place = folder / case / f"vertebrae_{'T12' if level == 19 else f'L{level - 19}'}.nii.gz"
                write_volume(place, volume.with_array(mask))


@pytest.mark.parametrize("tool", ["nnunet", "verse", "mha", "totalsegmentator"])
def test_every_layout_scores_the_same_and_a_deleted_prediction_is_named(tmp_path: Path, tool: str) -> None:
    cases = {f"c{n}": column(19, 20, 21, 22, top=60 - n) for n in range(3)}
    layout("nnunet", tmp_path / "reference", cases)
    layout(tool, tmp_path / "tool", {c: turned(v, "PIR").with_array(_without_l3(v)) for c, v in cases.items()})
    references = find_references(tmp_path / "reference")
    results = evaluated(references, tmp_path / "tool", tmp_path / "e")
    assert results["id"]["value"] == 3 / 4 and results["dice"]["value"] == 3 / 4
    assert results["mask_map50"]["scores"] == "all 1"
    for found in (path for path in sorted((tmp_path / "tool").rglob("*c1*")) if path.exists()):
        shutil.rmtree(found) if found.is_dir() else found.unlink()
    with pytest.raises(DataError, match=r"1 of 3 reference cases have no prediction: c1\."):
        evaluated(references, tmp_path / "tool", tmp_path / "again")
    assert not (tmp_path / "again").exists()


def _without_l3(volume: Volume) -> np.ndarray:
    array = turned(volume, "PIR").array
    return np.where(array == 22, 0, array).astype(np.uint8)


def test_grids_that_differ_are_refused_in_mm(tmp_path: Path) -> None:
    truth = column(19, 20, 21)
    write_volume(tmp_path / "reference" / "a.nii.gz", truth)
    moved = AFFINE.copy()
    moved[2, 3] += 1.25
    write_volume(tmp_path / "moved" / "a.nii.gz", turned(Volume(truth.array, moved), "LAS"))
    write_volume(tmp_path / "short" / "a.nii.gz", Volume(truth.array[:, 4:], AFFINE))
    references = find_references(tmp_path / "reference")
    with pytest.raises(DataError, match=r"case 'a'.*1\.25 mm"):
        evaluated(references, tmp_path / "moved", tmp_path / "e")
    with pytest.raises(
        DataError, match=r"case 'a'.*shape \(16, 58, 10\).*expected \(16, 62, 10\).*10\.00 mm elsewhere"
    ):
        evaluated(references, tmp_path / "short", tmp_path / "e")


def test_where_everything_counts_the_cut_levels_are_left_out_beside(tmp_path: Path) -> None:
    for n in range(3):
        write_volume(tmp_path / "reference" / f"c{n}.nii.gz", column(19, 20, 21, 22, top=62))
        write_volume(tmp_path / "tool" / f"c{n}.nii.gz", column(0, 20, 21, 22, top=62))
    references = find_references(tmp_path / "reference")
    counted = evaluated(references, tmp_path / "tool", tmp_path / "count", edge="count")
    ignored = evaluated(references, tmp_path / "tool", tmp_path / "ignore", edge="ignore")
    assert (counted["dice"]["value"], ignored["dice"]["value"]) == (3 / 4, 1)
    beside = summary_of(tmp_path / "count")
    assert beside["beside"]["ignore"] == ignored == summary_of(tmp_path / "count" / "ignore")["metrics"]
    assert (beside["ignored_references"], summary_of(tmp_path / "count" / "ignore")["ignored_references"]) == (0, 3)
    one = [pd.read_csv(tmp_path / place / "metrics.csv") for place in ("count/ignore", "ignore")]
    pd.testing.assert_frame_equal(*one)
    assert summary_of(tmp_path / "ignore")["beside"] == {}


@pytest.mark.parametrize("codes", ["LPS", "PIR"])
def test_identification_against_the_sets_own_points(tmp_path: Path, codes: str) -> None:
    place = tmp_path / "set" / "derivatives" / "sub-x"
    truth = column(19, 20, 21, 22)
    write_volume(place / "sub-x_seg-vert_msk.nii.gz", truth)
    grid = turned(truth, codes).grid
    # The set's points say that the four are called T11 to L2.
    centres = {level - 1: _middle(truth, level) for level in (20, 21, 22)} | {18: _middle(truth, 19)}
    write_points(place / "sub-x_seg-subreg_ctd.json", centres, grid)
    references = find_references(tmp_path / "set")
    assert references[0].subject == "sub-x"
    for name, levels, right in (("same", (19, 20, 21, 22), 0), ("points", (18, 19, 20, 21), 3)):
        write_volume(tmp_path / name / "sub-x.nii.gz", column(*levels))
        results = evaluated(references, tmp_path / name, tmp_path / f"e_{name}", edge="count")
        # T11 has a point and no mask, L3 a mask and no point: neither is in both.
        assert results["id_points"]["value"] == right / 3 and results["id_points"]["point_levels"] == 3
        assert results["id"]["value"] == (1 if name == "same" else 0)
    table = pd.read_csv(tmp_path / "e_points" / "metrics.csv")
    errors = table[table["metric"] == "point_error_mm"]["value"]
    assert len(errors) == 3 and (errors < 0.5).all()


def _middle(volume: Volume, level: int) -> np.ndarray:
    index = np.argwhere(volume.array == level).mean(axis=0)
    return nib.affines.apply_affine(volume.affine, index)


def test_parts_are_instances_of_their_own_beside(tmp_path: Path) -> None:
    for n in range(3):
        two = column(20, 21).array
        two[3:12, 46:50] = 0  # L1 in two parts, of 9 × 3 and 9 × 2 pixels
        write_volume(tmp_path / "reference" / f"c{n}.nii.gz", Volume(two, AFFINE))
        upper = two.copy()
        upper[3:12, 43:46] = 0
        write_volume(tmp_path / "tool" / f"c{n}.nii.gz", Volume(upper, AFFINE))
    results = evaluated(
        find_references(tmp_path / "reference"), tmp_path / "tool", tmp_path / "e", edge="count", by_part=True
    )
    by_part = summary_of(tmp_path / "e")["by_part"]
    assert results["mask_map50"]["value"] == pytest.approx(1)  # 5 of 8 rows: IoU 0.625
    assert by_part["mask_map50"]["value"] == pytest.approx(67 / 101)  # two of three parts
    assert (tmp_path / "e" / "detections_by_part.parquet").is_file()


def many(tmp_path: Path, count: int) -> list[Reference]:
    random = np.random.default_rng(0)
    for n in range(count):
        write_volume(tmp_path / "reference" / f"c{n:02d}.nii.gz", column(19, 20, 21, 22))
        damaged = column(19, 20, 0 if n % 7 == 0 else 21, 22).array
        damaged[:, :: int(random.integers(4, 9))] = 0
        write_volume(tmp_path / "tool" / f"c{n:02d}.nii.gz", Volume(damaged, AFFINE))
    return find_references(tmp_path / "reference")


def test_tables_hold_what_the_rows_say(tmp_path: Path) -> None:
    references = many(tmp_path, 20)
    results = evaluated(references, tmp_path / "tool", tmp_path / "e", edge="count", resamples=200, worst=3)
    rows = pd.read_csv(tmp_path / "e" / "metrics.csv")
    tables = tmp_path / "e" / "tables"
    names = ("overall", "per_region", "per_level", "per_case", "identification", "worst_cases")
    found = {name: pd.read_csv(tables / f"{name}.csv") for name in names}
    for name in names:
        text = (tables / f"{name}.md").read_text()
        assert "SIMULATED" in text and "Protocol 1.0" in text and str(tmp_path) not in text
    dice = rows[(rows["metric"] == "dice") & rows["status"].isin(["ok", "missed"])]
    level = found["per_level"].set_index(["metric", "level"])
    assert level.loc[("dice", "L2"), "value"] == pytest.approx(dice[dice["level"] == "L2"]["value"].mean())
    assert level.loc[("hd95", "L2"), "found"] == pytest.approx(17 / 20)
    assert level.loc[("dice", "L2"), "low"] < level.loc[("dice", "L2"), "value"] < level.loc[("dice", "L2"), "high"]
    assert list(found["per_level"]["level"].unique()) == ["T12", "L1", "L2", "L3"]
    assert set(found["per_region"]["region"]) == {"T7-T12", "L"}
    cases = found["per_case"].set_index("case")
    assert cases.loc["c00", "dice"] == pytest.approx(dice[dice["case"] == "c00"]["value"].mean())
    assert list(found["worst_cases"]["case"]) == list(cases["dice"].sort_values(kind="stable").index[:3])
    overall = found["overall"].set_index(["metric", found["overall"]["mean"].fillna("")])
    assert overall.loc[("dice", ""), "value"] == pytest.approx(results["dice"]["value"])
    assert overall.loc[("dice", "pooled"), "value"] == pytest.approx(dice["value"].mean())
    # Student's interval beside the bootstrap's from 20 subjects on.
    values = dice.groupby("subject")["value"].mean()
    ends = stats.t.interval(0.95, 19, values.mean(), values.sem())
    assert results["dice"]["method"] == "bca"
    assert results["dice"]["t"] == pytest.approx(list(ends))
    assert overall.loc[("dice", ""), ["t_low", "t_high"]].tolist() == pytest.approx(list(ends))


def test_tables_of_few_subjects_have_no_interval_and_no_list_that_was_not_asked_for(tmp_path: Path) -> None:
    evaluated(many(tmp_path, 4), tmp_path / "tool", tmp_path / "e", edge="count", worst=0)
    tables = tmp_path / "e" / "tables"
    assert not (tables / "worst_cases.csv").exists()
    for name in ("overall", "per_level", "per_region"):
        table = pd.read_csv(tables / f"{name}.csv")
        assert table["low"].isna().all() and "[0" not in (tables / f"{name}.md").read_text()


def test_one_mask_of_all_vertebrae_is_scored_unnamed_and_the_note_says_what_the_edge_took(tmp_path: Path) -> None:
    for case, top in (("cut", 62), ("whole", 55)):
        truth = column(20, 21, 22, top=top)
        if case == "cut":
            truth.array[3:13, 50:62, 2:8] = 20  # the largest vertebra is the one at the face
        write_volume(tmp_path / "reference" / f"{case}.nii.gz", truth)
        write_volume(tmp_path / "tool" / f"{case}.nii.gz", truth.with_array((truth.array > 0).astype(np.uint8)))
    references = find_references(tmp_path / "reference")
    notes, spine = {}, {}
    for edge in ("ignore", "count", "crop"):
        output = tmp_path / edge
        results = evaluated(references, tmp_path / "tool", output, edge=edge, prediction_labels="instances")
        assert results["dice"] == {"value": None, "status": "n/a"}
        spine[edge] = results["dice_spine"]["value"]
        notes[edge] = [note for note in summary_of(output)["notes"] if "only predicted object" in note]
    assert spine == {"ignore": 0.5, "count": 1.0, "crop": 1.0}
    assert notes["count"] == notes["crop"] == []
    (note,) = notes["ignore"]
    assert " in cut;" in note and "edge=crop or edge=count" in note
    assert "in cut;" in (tmp_path / "count" / "ignore" / "tables" / "overall.md").read_text()
    assert summary_of(tmp_path / "crop")["prediction_labels"] == "instances"


def test_excels_byte_order_mark_is_no_part_of_a_column(tmp_path: Path) -> None:
    write_volume(tmp_path / "reference" / "a.nii.gz", column(20, 21))
    (tmp_path / "people.csv").write_text("case,subject\na,anna\n", encoding="utf-8-sig")
    (found,) = find_references(tmp_path / "reference", subjects=tmp_path / "people.csv")
    assert found.subject == "anna"


def test_only_what_prepare_wrote_counts_as_prepared(tmp_path: Path) -> None:
    scan = tmp_path / "reference" / "a.nii.gz"
    write_volume(scan, column(20, 21))
    # Somebody's own list beside the masks.
    (tmp_path / "reference" / "cases.csv").write_text("case\na\n")
    assert [each.case for each in find_references(tmp_path / "reference")] == ["a"]
    assert default_edge(tmp_path / "reference") == "ignore" and not is_simulated(tmp_path / "reference")
    for where in (scan, tmp_path / "reference" / "cases.csv"):
        assert default_edge(where) == "ignore" and not is_simulated(where)
        with pytest.raises(DataError, match=r"expected a folder, or prepare's cases.csv"):
            find_references(where)
