"""Real masks from end to end: in other conventions and orientations, shifted by a level, and against real centroids."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from spineseg.evaluate import find_references
from spineseg.geometry import Volume
from spineseg.vertebrae import CONVENTIONS, L6, ORDER, T13, convention, relabel
from spineseg.volumes import read_volume, write_volume
from tests.evaluation_cases import evaluated, summary_of, turned

ORIENTATIONS = ("RAS", "LPS", "PIR", "ASL")
CONVENTION_NAMES = ("verse", "kaggle", "totalsegmentator_v1")


def abdomen(real_ct: Path) -> Volume:
    rule = convention("totalsegmentator_v2")
    volume = read_volume(real_ct / "abdomen_3mm" / "vertebrae.nii.gz")
    return volume.with_array(relabel(volume.array, rule.table, what="abdomen", drop=rule.other))


@pytest.mark.parametrize("name", CONVENTION_NAMES)
def test_a_real_mask_against_itself_in_every_convention_and_orientation(
    real_ct: Path, tmp_path: Path, name: str
) -> None:
    truth = abdomen(real_ct)
    back = {level: value for value, level in CONVENTIONS[name].table.items()}
    values = truth.with_array(np.array([back.get(value, 0) for value in range(29)], np.uint8)[truth.array])
    for codes in ORIENTATIONS:
        write_volume(tmp_path / "reference" / f"{codes}.nii.gz", truth)
        write_volume(tmp_path / "tool" / f"{codes}.nii.gz", turned(values, codes))
    results = evaluated(
        find_references(tmp_path / "reference"), tmp_path / "tool", tmp_path / "e", prediction_convention=name
    )
    for metric, value in (("dice", 1), ("hd95", 0), ("id", 1), ("nsd", 1), ("assd", 0), ("mask_map50_named", 1)):
        assert results[metric]["value"] == value, metric
    assert summary_of(tmp_path / "e")["errors"]["shift"].keys() == {"0"}


def test_a_real_mask_shifted_by_one_level_has_the_right_outlines_and_no_right_name(
    real_ct: Path, tmp_path: Path
) -> None:
    truth = abdomen(real_ct)
    steps = [level for level in ORDER if level not in (T13, L6)]
    table = np.zeros(29, np.uint8)
    table[steps[:-1]] = steps[1:]
    for codes in ORIENTATIONS:
        write_volume(tmp_path / "reference" / f"{codes}.nii.gz", truth)
        write_volume(tmp_path / "tool" / f"{codes}.nii.gz", turned(truth.with_array(table[truth.array]), codes))
    results = evaluated(find_references(tmp_path / "reference"), tmp_path / "tool", tmp_path / "e")
    errors = summary_of(tmp_path / "e")["errors"]
    assert (results["dice"]["value"], results["id"]["value"], results["dice_spine"]["value"]) == (0, 0, 1)
    assert (results["error_naming"]["value"], errors["naming"], errors["missed"]) == (1, 1, 0)
    assert errors["shift"] == {"+1": 4 * 6}  # S1 and L5 to L1; T12 and T11 are cut
    assert errors["coherently_shifted_cases"] == 4
    assert results["mask_map50"]["value"] == 1 and results["mask_map50_named"]["value"] == 0


def test_real_centroids_are_those_of_the_masks_in_any_orientation(real_ct: Path, tmp_path: Path) -> None:
    place = tmp_path / "set" / "derivatives" / "sub-verse010"
    place.mkdir(parents=True)
    source = real_ct / "verse_masks"
    (place / "sub-verse010_seg-vert_msk.nii.gz").write_bytes((source / "verse010_vertebrae.nii.gz").read_bytes())
    (place / "sub-verse010_seg-subreg_ctd.json").write_bytes((source / "verse010_centroids.json").read_bytes())
    truth = read_volume(source / "verse010_vertebrae.nii.gz")
    assert truth.orientation != "RAS"
    write_volume(tmp_path / "tool" / "sub-verse010.nii.gz", turned(truth, "RAS"))
    results = evaluated(find_references(tmp_path / "set"), tmp_path / "tool", tmp_path / "e")
    assert results["id_points"]["value"] == 1
    table = pd.read_csv(tmp_path / "e" / "metrics.csv")
    assert 0 < table[table["metric"] == "point_error_mm"]["value"].max() < 2
