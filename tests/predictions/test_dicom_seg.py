"""DICOM segmentations: read back by highdicom and SimpleITK on the voxels they were made from."""

from collections.abc import Callable
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.uid import SegmentationStorage

from spineseg.data.dicom import Series, find_series
from spineseg.errors import DataError
from spineseg.geometry import Volume
from spineseg.predictions.dicom_seg import dicom_seg, level_code, write_dicom_seg
from spineseg.predictions.extras import Origin
from spineseg.vertebrae import LEVELS, level_name
from tests.data.dicom_cases import enhanced

ORIGIN = Origin("runs/a", simulated=True)
LPS = np.diag([-1.0, -1, 1, 1])


def labels_of(series: Series) -> Volume:
    """Three levels, one of them in one slice alone, and none in the last slice."""
    stack = series.stack()
    labels = np.zeros(stack.grid.shape, np.uint8)
    x, y, z = labels.shape
    labels[x // 8 : x // 3, y // 8 : y // 3, : z - 1] = 20
    labels[x // 2 : x - 2, y // 2 : y - 3, : z - 1] = 21
    labels[1:4, 1:3, 0] = 26
    return Volume(labels, stack.grid.affine)


def by_simpleitk(path: Path) -> Volume:
    """Read by GDCM, which does not know the label maps' SOP class of 2023 yet: given the older one's."""
    image = pydicom.dcmread(path)
    image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = SegmentationStorage
    image.save_as(path.with_name("older.dcm"))
    found = sitk.ReadImage(str(path.with_name("older.dcm")))
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(found.GetDirection(), (3, 3)) @ np.diag(found.GetSpacing())
    affine[:3, 3] = found.GetOrigin()
    return Volume(sitk.GetArrayFromImage(found).transpose(2, 1, 0), LPS @ affine)


def by_highdicom(path: Path) -> Volume:
    """Axes of highdicom's volumes are slices, rows, columns; mm as DICOM has them."""
    found = hd.seg.segread(path).get_volume(combine_segments=True)
    affine = found.affine[:, [2, 1, 0, 3]]
    return Volume(np.asarray(found.array).transpose(2, 1, 0), LPS @ affine)


def check(labels: Volume, found: Volume) -> None:
    """The same label at the same place; readers may run through the slices the other way, and drop empty ones."""
    index = np.argwhere(labels.array)
    mm = index @ labels.affine[:3, :3].T + labels.affine[:3, 3]
    at = (mm - found.affine[:3, 3]) @ np.linalg.inv(found.affine[:3, :3]).T
    np.testing.assert_allclose(at, np.rint(at), atol=1e-2)
    i, j, k = np.rint(at).astype(int).T
    assert min(i.min(), j.min(), k.min()) >= 0
    np.testing.assert_array_equal(found.array[i, j, k], labels.array[tuple(index.T)])
    assert np.count_nonzero(found.array) == len(index)


@pytest.mark.parametrize("up", [2.0, -2.0])
def test_levels_are_read_back_where_they_are(
    tmp_path: Path, write_series: Callable[..., list[Path]], up: float
) -> None:
    paths = write_series(tmp_path / "s", np.zeros((20, 24, 5)), step=(0, 0, up))
    (series,) = find_series(tmp_path / "s").series
    labels = labels_of(series)
    assert write_dicom_seg(tmp_path / "seg.dcm", labels, series, named=True, origin=ORIGIN)
    check(labels, by_highdicom(tmp_path / "seg.dcm"))
    check(labels, by_simpleitk(tmp_path / "seg.dcm"))
    seg, source = hd.seg.segread(tmp_path / "seg.dcm"), pydicom.dcmread(paths[0])
    assert seg.segmentation_type == hd.seg.SegmentationTypeValues.LABELMAP
    for value, name, code in ((20, "L1", "66794005"), (21, "L2", "14293000"), (26, "sacrum", "54735007")):
        segment = seg.get_segment_description(value)
        assert (segment.segment_label, segment.segmented_property_type.value) == (name, code)
        assert segment.segmented_property_type.scheme_designator == "SCT"
        (algorithm,) = segment.SegmentationAlgorithmIdentificationSequence
        assert algorithm.AlgorithmName == "runs/a" and algorithm.AlgorithmVersion
    # It belongs to the study and refers to every slice.
    assert seg.StudyInstanceUID == source.StudyInstanceUID and seg.PatientID == "12345"
    assert seg.FrameOfReferenceUID == source.FrameOfReferenceUID
    (referred,) = seg.ReferencedSeriesSequence
    assert referred.SeriesInstanceUID == source.SeriesInstanceUID
    instances = {item.ReferencedSOPInstanceUID for item in referred.ReferencedInstanceSequence}
    assert instances == {pydicom.dcmread(path).SOPInstanceUID for path in paths}
    assert "SIMULATED" in seg.ContentDescription and "SIMULATED" in seg.SeriesDescription


def test_a_tilted_series_gets_its_labels_on_its_own_slices(
    tmp_path: Path, write_series: Callable[..., list[Path]]
) -> None:
    write_series(tmp_path / "s", np.zeros((20, 24, 6)), step=(0, 0.8, 2.0))  # a pixel a slice
    (series,) = find_series(tmp_path / "s").series
    labels = labels_of(series)
    labels.array[:, :5], labels.array[:, 24:] = 0, 0  # what lies beside some slice
    write_dicom_seg(tmp_path / "seg.dcm", labels, series, named=True, origin=ORIGIN)
    check(labels, by_highdicom_frames(tmp_path / "seg.dcm", labels))


def by_highdicom_frames(path: Path, like: Volume) -> Volume:
    """A sheared object is no volume: its frames, each at its own position, put on the upright grid."""
    seg = hd.seg.segread(path)
    found = np.zeros_like(like.array)
    for frame, plane in zip(seg.PerFrameFunctionalGroupsSequence, seg.pixel_array, strict=True):
        position = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, float) * (-1, -1, 1)
        first = np.linalg.solve(like.affine[:3, :3], position - like.affine[:3, 3])
        i, j, k = np.rint(first).astype(int)
        rows, columns = plane.shape
        found[i : i + columns, j : j + rows, k] = plane.T
    return like.with_array(found)


def test_an_enhanced_file_gets_its_labels_on_its_own_frames(
    tmp_path: Path, write_series: Callable[..., list[Path]]
) -> None:
    """Frames of the file run the other way than the grid does."""
    paths = write_series(tmp_path / "classic", np.zeros((20, 24, 5)))
    (tmp_path / "enhanced").mkdir()
    enhanced(paths, tmp_path / "enhanced" / "a.dcm")
    (series,) = find_series(tmp_path / "enhanced").series
    labels = labels_of(series)
    assert write_dicom_seg(tmp_path / "seg.dcm", labels, series, named=True, origin=ORIGIN)
    check(labels, by_highdicom(tmp_path / "seg.dcm"))
    fewer = Series(series.case, tuple(frame for frame in series.frames if frame.index < 4))
    with pytest.raises(DataError, match=r"a\.dcm: 4 of its 5 frames"):
        dicom_seg(labels_of(fewer), fewer, named=True, origin=ORIGIN)


def test_numbered_and_thresholded_objects_have_no_level(
    tmp_path: Path, write_series: Callable[..., list[Path]]
) -> None:
    write_series(tmp_path / "s", np.zeros((20, 24, 5)))
    (series,) = find_series(tmp_path / "s").series
    labels = labels_of(series)
    numbers = labels.with_array(labels.array.astype(np.uint16) * 100)
    seg = dicom_seg(numbers, series, named=False, origin=Origin("a"))
    assert seg is not None and seg.get_segment_description(2600).segment_label == "Vertebra 2600"
    assert seg.get_segment_description(2000).segmented_property_type.meaning == "Vertebra"
    assert set(np.unique(seg.pixel_array)) == {0, 2000, 2100, 2600}
    bone = dicom_seg(labels, series, named=False, origin=Origin("threshold", learned=False))
    assert bone is not None and bone.get_segment_description(20).segmented_property_type.meaning == "Bone"


def test_an_empty_map_has_no_segmentation(tmp_path: Path, write_series: Callable[..., list[Path]]) -> None:
    write_series(tmp_path / "s", np.zeros((20, 24, 5)))
    (series,) = find_series(tmp_path / "s").series
    empty = labels_of(series).with_array(np.zeros((20, 24, 5), np.uint8))
    (tmp_path / "seg.dcm").touch()
    assert not write_dicom_seg(tmp_path / "seg.dcm", empty, series, named=True, origin=ORIGIN)
    assert not (tmp_path / "seg.dcm").exists()


def test_labels_on_another_grid_are_refused(tmp_path: Path, write_series: Callable[..., list[Path]]) -> None:
    write_series(tmp_path / "s", np.zeros((20, 24, 5)))
    (series,) = find_series(tmp_path / "s").series
    labels = labels_of(series)
    for other in (Volume(labels.array[1:], labels.affine), Volume(labels.array, np.eye(4))):
        with pytest.raises(DataError, match="do not lie on the grid"):
            dicom_seg(other, series, named=True, origin=ORIGIN)


def test_headers_that_lack_a_patient_are_completed_or_named(
    tmp_path: Path, write_series: Callable[..., list[Path]]
) -> None:
    def anonymous(image: pydicom.Dataset, k: int) -> None:
        del image.PatientName, image.PatientID

    write_series(tmp_path / "s", np.zeros((20, 24, 5)), edit=anonymous, SpecificCharacterSet="")
    (series,) = find_series(tmp_path / "s").series
    assert dicom_seg(labels_of(series), series, named=True, origin=ORIGIN) is not None
    write_series(tmp_path / "t", np.zeros((20, 24, 5)), edit=lambda image, k: image.__delattr__("StudyInstanceUID"))
    (series,) = find_series(tmp_path / "t").series
    with pytest.raises(DataError, match="lack what the standard asks for"):
        dicom_seg(labels_of(series), series, named=True, origin=ORIGIN)


def test_real_slices(real_ct: Path, tmp_path: Path) -> None:
    (series,) = find_series(real_ct / "dicom_3_slices").series
    labels = labels_of(series)
    write_dicom_seg(tmp_path / "seg.dcm", labels, series, named=True, origin=ORIGIN)
    check(labels, by_highdicom(tmp_path / "seg.dcm"))
    check(labels, by_simpleitk(tmp_path / "seg.dcm"))


def test_every_level_has_a_code_of_its_own() -> None:
    codes = {level: level_code(level).value for level in LEVELS}
    own = {level: code for level, code in codes.items() if level_name(level) not in ("T13", "L6")}
    assert len(set(own.values())) == len(own) == 26
    assert {codes[level] for level in LEVELS if level not in own} == {"51282000"}
    for level in own:
        assert level_name(level).casefold() in level_code(level).meaning.casefold()
