from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from spineseg.data.audit import examine
from spineseg.data.exclusions import Exclusion, write_exclusions
from spineseg.data.sources.kaggle import Kaggle
from spineseg.errors import ConfigError, DataError
from spineseg.geometry import Volume
from spineseg.vertebrae import SACRUM
from spineseg.volumes import write_volume


@pytest.fixture
def root(tmp_path: Path, make_spine: Callable[..., tuple[Volume, Volume]]) -> Path:
    folder = tmp_path / "kaggle" / "spine_segmentation_nnunet_v2"
    for number in (0, 1, 2, 4, 1224):
        image, labels = make_spine((23, 24, SACRUM), seed=number)
        values = np.where(labels.array == SACRUM, 25, labels.array).astype(np.uint8)
        write_volume(folder / "volumes" / f"case_{number:04d}.nii", image)
        write_volume(folder / "segmentations" / f"case_{number:04d}.nii", labels.with_array(values))
    return tmp_path / "kaggle"


def test_numbers_with_gaps_and_25_is_s1(root: Path) -> None:
    for place in (root, root / "spine_segmentation_nnunet_v2"):
        source = Kaggle(place)
        cases = source.cases()
        assert [case.id for case in cases] == ["case_0000", "case_0001", "case_0002", "case_0004", "case_1224"]
        assert set(np.unique(source.read_labels(cases[-1]).array)) == {0, 23, 24, SACRUM}
    report = examine(source, cases[0]).report
    assert report.fatal == () and report.case is not None
    assert report.case.findings == ("spacing: 2 × 2.5 × 3 mm, expected 1.5 mm along each axis",)
    assert len(source.levels) == 25 and source.edge == "count"


def test_nifti_bytes_under_a_gz_name_are_read(root: Path) -> None:
    folder = root / "spine_segmentation_nnunet_v2" / "volumes"
    (folder / "case_0000.nii").rename(folder / "case_0000.nii.gz")
    source = Kaggle(root)
    assert source.read_image(source.cases()[0]).shape == (14, 16, 18)


def test_exclusion_by_list_and_by_file(root: Path, tmp_path: Path) -> None:
    listed = tmp_path / "mixed.csv"
    write_exclusions(listed, [Exclusion("case_0001", "T5 twice"), Exclusion("case_0004", "names shifted")])
    for exclude in (["case_0001", "case_0004"], str(listed)):
        assert [case.id for case in Kaggle(root, exclude=exclude).cases()] == ["case_0000", "case_0002", "case_1224"]
    with pytest.raises(ConfigError, match="case_0003"):
        Kaggle(root, exclude=["case_0003"]).cases()
    with pytest.raises(ConfigError, match="no such file"):
        Kaggle(root, exclude="none.txt")


def test_unpaired_files_are_listed(root: Path) -> None:
    folder = root / "spine_segmentation_nnunet_v2"
    (folder / "volumes" / "case_0002.nii").unlink()
    (folder / "segmentations" / "case_0004.nii").unlink()
    source = Kaggle(root)
    fatal = {case.id: examine(source, case).report.fatal for case in source.cases()}
    assert "case_0002.nii: no such file" in fatal["case_0002"][0]
    assert "has no mask" in fatal["case_0004"][0]
    assert not fatal["case_0000"]


def test_nothing_there_names_download_and_simulation(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"kaggle\.com.*download=true.*simulate layout=kaggle"):
        Kaggle(tmp_path).cases()
