"""VerSe's centroid files: ours are read as theirs, and theirs point at the vertebrae of their masks."""

import json
from pathlib import Path

import numpy as np
import pytest

from spineseg.errors import DataError
from spineseg.geometry import Grid, Volume, canonical, mm_to_index
from spineseg.predictions.centres import label_centres_mm
from spineseg.predictions.point_files import point_file, read_points, write_points
from spineseg.volumes import read_volume

GRID = Grid((40, 50, 60), np.array([[0, 0, 2.0, -10], [-0.5, 0, 0, 3], [0, -1.0, 0, 7], [0, 0, 0, 1]]))


def test_points_come_back_in_mm(tmp_path: Path) -> None:
    centres = {24: np.array([3.0, -4, -30]), 28: np.array([1.0, -2, -20]), 19: np.array([0.0, 0, 0])}
    write_points(tmp_path / "a_ctd.json", centres, GRID)
    content = json.loads((tmp_path / "a_ctd.json").read_text())
    assert content[0] == {"direction": ["P", "I", "R"]}
    assert [point["label"] for point in content[1:]] == [19, 28, 24]  # cranial to caudal
    back = read_points(tmp_path / "a_ctd.json", GRID)
    for level, centre in centres.items():
        np.testing.assert_allclose(back[level], centre, atol=0.05 * 2)  # a decimal of a voxel
    assert point_file({}, GRID) == [{"direction": ["P", "I", "R"]}]


@pytest.mark.parametrize("name", ["verse010", "gl003"])
def test_real_points_lie_at_the_vertebrae_of_their_mask(real_ct: Path, tmp_path: Path, name: str) -> None:
    folder = real_ct / "verse_masks"
    labels = read_volume(folder / f"{name}_vertebrae.nii.gz")
    theirs = read_points(folder / f"{name}_centroids.json", labels.grid)
    upright: Volume = canonical(labels)
    ours = label_centres_mm(upright.array.astype(np.uint8), upright.affine, named=True)
    write_points(tmp_path / "a_ctd.json", ours, labels.grid)
    ours = read_points(tmp_path / "a_ctd.json", labels.grid)
    shared = set(theirs) & set(ours)
    assert len(shared) >= 5
    distances = {level: float(np.linalg.norm(theirs[level] - ours[level])) for level in shared}
    assert np.median(list(distances.values())) < 4, distances
    for level in shared - {1}:  # the middle of the ring is no bone
        i, j, k = np.rint(mm_to_index(labels.affine, theirs[level])).astype(int)
        assert (labels.array[i - 3 : i + 4, j - 3 : j + 4, k - 3 : k + 4] == level).any()


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("[]", "no VerSe centroid file"),
        ("{", "no VerSe centroid file"),
        ('[{"direction": ["R", "A", "S"]}]', "points along RAS, but the scan's axes run PIR"),
        ('[{"direction": ["P", "I", "R"]}, {"label": 40, "X": 1, "Y": 2, "Z": 3}]', "unknown label 40"),
        ('[{"direction": ["P", "I", "R"]}, {"label": 20, "X": 1, "Y": 2}]', "no VerSe centroid file"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str, match: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DataError, match=match):
        read_points(tmp_path / "a.json", GRID)
