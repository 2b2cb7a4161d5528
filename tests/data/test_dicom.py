"""DICOM series as volumes: their grid as SimpleITK has it, their values in HU, and series that are damaged."""

import shutil
import zipfile
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.dataset import Dataset
from pydicom.pixels import get_decoder
from pydicom.uid import CTImageStorage, JPEG2000Lossless, RLELossless, generate_uid
from scipy import ndimage

from spineseg.data.dicom import find_series
from spineseg.errors import DataError
from spineseg.geometry import Volume, index_to_mm
from tests.data.dicom_cases import Write, enhanced, only, values


def by_simpleitk(folder: Path) -> Volume:
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) @ np.diag(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    return Volume(sitk.GetArrayFromImage(image).transpose(2, 1, 0), np.diag([-1.0, -1, 1, 1]) @ affine)


def turned(degrees: float, axis: int) -> tuple[float, ...]:
    """Row and column of an axial image turned about an axis of the patient."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    i, j = [n for n in range(3) if n != axis]
    turn = np.eye(3)
    turn[i, i], turn[i, j], turn[j, i], turn[j, j] = c, -s, s, c
    return tuple(np.round(turn[:, :2].T.ravel(), 6))


@pytest.mark.parametrize(
    ("orientation", "up"),
    [
        ((1, 0, 0, 0, 1, 0), 1.25),
        ((1, 0, 0, 0, 1, 0), -1.25),  # fed feet first: files run down
        ((-1, 0, 0, 0, -1, 0), 0.7),  # prone
        ((0, 1, 0, 0, 0, -1), 2.0),  # sagittal
        ((1, 0, 0, 0, 0, -1), 2.0),  # coronal
        (turned(20, 0), 1.5),
        (turned(-7, 1), 1.5),
    ],
)
def test_the_grid_is_that_of_simpleitk(
    tmp_path: Path, write_series: Write, orientation: tuple[float, ...], up: float
) -> None:
    row, column = np.reshape(orientation, (2, 3))
    step = np.cross(row, column) * up
    write_series(tmp_path, values(), step=tuple(step), orientation=orientation)
    volume, expected = only(tmp_path).read(), by_simpleitk(tmp_path)
    assert volume.grid.distance_mm(expected.grid) < 1e-4
    np.testing.assert_allclose(volume.affine, expected.affine, atol=1e-4)
    np.testing.assert_array_equal(volume.array, expected.array)


def test_real_slices_lie_where_simpleitk_puts_them(real_ct: Path) -> None:
    folder = real_ct / "dicom_3_slices"
    volume, expected = only(folder).read(), by_simpleitk(folder)
    np.testing.assert_allclose(volume.affine, expected.affine, atol=1e-4)
    measured = expected.array > -1100
    np.testing.assert_array_equal(volume.array[measured], expected.array[measured])
    assert set(np.unique(expected.array[~measured])) == {-3024} and (volume.array[~measured] == -1024).all()


def test_names_and_instance_numbers_say_nothing(tmp_path: Path, write_series: Write) -> None:
    paths = write_series(tmp_path / "a", values())
    before = only(tmp_path / "a").read()
    for path, k in zip(paths, (4, 2, 5, 0, 3, 1), strict=True):
        path.rename(path.with_name(f"IM{k}"))  # no suffix either
    after = only(tmp_path / "a").read()
    np.testing.assert_array_equal(after.array, before.array)
    np.testing.assert_array_equal(after.affine, before.affine)


def test_each_slice_has_its_own_rescale(tmp_path: Path, write_series: Write) -> None:
    write_series(tmp_path, values(), rescale=lambda k: (0.5 + 0.25 * k, -1024 + 10 * k))
    np.testing.assert_allclose(only(tmp_path).read().array, values(), atol=1)  # half a step of 1.75
    np.testing.assert_array_equal(only(tmp_path).read().array, by_simpleitk_of_each(tmp_path))


def by_simpleitk_of_each(folder: Path) -> np.ndarray:
    """Each slice read by itself: SimpleITK's series reader takes the first slice's rescale for all."""
    slices = [sitk.ReadImage(str(path)) for path in sorted(folder.iterdir())]
    slices.sort(key=lambda image: image.GetOrigin()[2])
    return np.rint(np.concatenate([sitk.GetArrayFromImage(image) for image in slices])).transpose(2, 1, 0)


def test_a_series_without_rescale_is_taken_as_stored_and_a_mixed_one_refused(
    tmp_path: Path, write_series: Write
) -> None:
    write_series(tmp_path / "none", values(), rescale=lambda k: None)
    series = only(tmp_path / "none")
    np.testing.assert_array_equal(series.read().array, values())
    assert "no RescaleSlope" in series.notes()[0]
    write_series(tmp_path / "some", values(), rescale=lambda k: (1, -1024) if k else None)
    with pytest.raises(DataError, match=r"1 of 6 slices have no RescaleSlope"):
        only(tmp_path / "some").read()


@pytest.mark.parametrize(("stored", "element"), [(-2000, -2000), (-2000, None), (-2000, 63536), (-1500, -1500)])
def test_padding_becomes_air(tmp_path: Path, write_series: Write, stored: int, element: int | None) -> None:
    hu = values()
    hu[:3] = stored - 1024

    def edit(image: Dataset, k: int) -> None:
        if element is not None:
            image.add_new(0x00280120, "US" if element > 32767 else "SS", element)

    write_series(tmp_path, hu, edit=edit)
    found = only(tmp_path).read().array
    assert (found[:3] == -1024).all()
    np.testing.assert_array_equal(found[3:], hu[3:])


def test_a_padding_value_inside_the_body_is_no_padding(tmp_path: Path, write_series: Write) -> None:
    hu = values()
    hu[:3] = 40
    write_series(tmp_path, hu, PixelPaddingValue=40 + 1024)
    np.testing.assert_array_equal(only(tmp_path).read().array, hu)


LARGE = (64, 72, 3)  # the least that JPEG 2000 is written for


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless])
def test_compressed_pixels_are_read(tmp_path: Path, write_series: Write, syntax: pydicom.uid.UID) -> None:
    write_series(tmp_path, values(LARGE), edit=lambda image, k: image.compress(syntax))
    np.testing.assert_array_equal(only(tmp_path).read().array, values(LARGE))


def test_a_missing_decoder_is_named(tmp_path: Path, write_series: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    write_series(tmp_path, values(LARGE), edit=lambda image, k: image.compress(JPEG2000Lossless))
    decoder = get_decoder(JPEG2000Lossless)
    monkeypatch.setattr(decoder, "_available", {})
    monkeypatch.setattr(decoder, "_unavailable", {"pylibjpeg": ("pylibjpeg>=2.0", "pylibjpeg-openjpeg>=2.0")})
    with pytest.raises(DataError, match=r"JPEG 2000.*pylibjpeg-openjpeg.*spineseg\[dicom\]"):
        only(tmp_path).read()


def test_short_pixel_data_is_named(tmp_path: Path, write_series: Write) -> None:
    write_series(tmp_path / "a", values(), edit=lambda i, k: setattr(i, "PixelData", i.PixelData[: 100 if k else None]))
    with pytest.raises(DataError, match=r"\.dcm: pixel data of 100 bytes, expected 240"):
        only(tmp_path / "a").read()
    paths = write_series(tmp_path / "cut", values())
    paths[2].write_bytes(paths[2].read_bytes()[:-50])
    with pytest.raises(DataError, match=paths[2].name):
        only(tmp_path / "cut").read()


def test_files_cut_in_their_header_are_broken_cases(tmp_path: Path, write_series: Write) -> None:
    paths = write_series(tmp_path / "good", values())
    for name, content in (("cut.dcm", paths[0].read_bytes()[:300]), ("empty.dcm", b""), ("text.dcm", b"hello" * 99)):
        (tmp_path / "bad").mkdir(exist_ok=True)
        (tmp_path / "bad" / name).write_bytes(content)
    found = find_series(tmp_path)
    assert [series.case for series in found.series] == [tmp_path.name]
    assert list(found.broken) == ["bad_unreadable"] and "3 files" in found.broken["bad_unreadable"]


def test_members_damaged_inside_a_zip_are_broken_cases(tmp_path: Path, write_series: Write) -> None:
    write_series(tmp_path / "s", values())
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted((tmp_path / "s").iterdir()):
            archive.write(path, path.name)
        (first, *_) = archive.infolist()
    content = bytearray((tmp_path / "a.zip").read_bytes())
    start = first.header_offset + 30 + len(first.filename)
    content[start : start + 60] = bytes([255]) * 60
    (tmp_path / "a.zip").write_bytes(bytes(content))
    found = find_series(tmp_path / "a.zip")
    assert list(found.broken) == ["a_unreadable"] and first.filename in found.broken["a_unreadable"]


def test_a_missing_slice_is_a_gap_at_its_place(tmp_path: Path, write_series: Write) -> None:
    paths = write_series(tmp_path, values())
    paths[3].unlink()
    with pytest.raises(DataError, match=r"gap at z = 104\.00 mm: .* 4\.00 mm away, .* 2\.00 mm apart: 1 missing"):
        only(tmp_path).read()


def test_irregular_spacing_is_refused(tmp_path: Path, write_series: Write) -> None:
    def edit(image: Dataset, k: int) -> None:
        image.ImagePositionPatient = [-20, -30, 100 + (2 * k if k < 4 else 8 + 2.7 * (k - 4))]

    write_series(tmp_path, values(), edit=edit)
    with pytest.raises(DataError, match=r"irregular spacing at z = 108\.00 mm: slices are 2\.00 to 2\.70 mm apart"):
        only(tmp_path).read()


def test_rounded_positions_are_regular(tmp_path: Path, write_series: Write) -> None:
    def edit(image: Dataset, k: int) -> None:
        image.ImagePositionPatient = [-20, -30, round(100 + 0.625 * k, 2)]

    write_series(tmp_path, values(), edit=edit)
    assert only(tmp_path).read().spacing_mm[2] == pytest.approx(0.625, abs=0.002)


def test_duplicates(tmp_path: Path, write_series: Write) -> None:
    paths = write_series(tmp_path / "a", values())
    shutil.copy(paths[2], tmp_path / "a" / "copy.dcm")
    found = find_series(tmp_path / "a")
    assert found.left_out == ("1 second copies of a slice",)
    np.testing.assert_array_equal(found.series[0].read().array, values())
    # Two phases under one UID: nobody can tell which slices belong together.
    uid = generate_uid()
    write_series(tmp_path / "b", values(), SeriesInstanceUID=uid)
    write_series(tmp_path / "b" / "again", values() + 1, SeriesInstanceUID=uid)
    with pytest.raises(DataError, match=r"6 slices lie where another does, the first at z = 100\.00 mm"):
        only(tmp_path / "b").read()


@pytest.mark.parametrize(
    ("keyword", "value", "match"),
    [
        ("PixelSpacing", [1.6, 1.4], "several pixel spacings"),
        ("ImageOrientationPatient", [0, 1, 0, 1, 0, 0], "several directions"),
        ("ImagePositionPatient", [-15, -30, 104], "beside the line"),
        ("ImageOrientationPatient", [1, 0, 0, 1, 0, 0], "length 1 at right angles"),
        ("PixelSpacing", [0, 1], "two positive numbers"),
        ("PixelSpacing", None, "PixelSpacing is None"),
        ("RescaleSlope", 0, "a slope that is not 0"),
        ("RescaleSlope", 100, "int16|-32768 to 32767"),
        ("PhotometricInterpretation", "MONOCHROME1", "expected MONOCHROME2"),
    ],
)
def test_a_slice_that_differs_is_named(
    tmp_path: Path, write_series: Write, keyword: str, value: object, match: str
) -> None:
    write_series(tmp_path, values(), edit=lambda image, k: k == 2 and setattr(image, keyword, value))
    found = find_series(tmp_path)
    if found.broken:
        assert match in " ".join(found.broken.values())
    else:
        with pytest.raises(DataError, match=match):
            found.series[0].read()


def test_mixed_sizes_are_refused(tmp_path: Path, write_series: Write) -> None:
    uid = generate_uid()
    write_series(tmp_path / "a", values(), SeriesInstanceUID=uid)
    write_series(tmp_path / "b", values((8, 12, 2)), SeriesInstanceUID=uid, origin=(-20, -30, 112))
    with pytest.raises(DataError, match=r"6 of 12 × 10, 2 of 12 × 8"):
        only(tmp_path).read()


@pytest.mark.parametrize("across", [(0.0, 0.7, 0.0), (0.0, -0.7, 0.0), (0.31, 0.5, 0.0)])
def test_a_tilted_gantry_is_taken_out(tmp_path: Path, write_series: Write, across: tuple[float, float, float]) -> None:
    """A body that is a smooth function of place, seen through a sheared stack, is the same function on the grid."""

    def body(mm: np.ndarray) -> np.ndarray:
        return 300 * np.sin(mm[..., 0] / 9) + 200 * np.cos(mm[..., 1] / 11) + 5 * mm[..., 2]

    step = np.add(across, (0, 0, 2.0))
    shape, spacing, origin = (40, 50, 12), (0.8, 0.7), np.array([-20.0, -30, 100])
    i, j, k = np.meshgrid(*map(np.arange, shape), indexing="ij")
    place = origin + np.stack([i * spacing[1], j * spacing[0], 0 * k], -1) + k[..., None] * step
    write_series(tmp_path, np.rint(body(place)), step=tuple(step), origin=tuple(origin), spacing=spacing)
    series = only(tmp_path)
    volume = series.read()
    axes = volume.affine[:3, :3] / np.linalg.norm(volume.affine[:3, :3], axis=0)
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-9)
    np.testing.assert_allclose(volume.spacing_mm, (0.7, 0.8, 2.0))
    index = np.stack(np.meshgrid(*map(np.arange, volume.shape), indexing="ij"), -1)
    lps = index_to_mm(volume.affine, index) * (-1, -1, 1)
    stack = volume.array != -1024
    assert stack.sum() >= np.prod(shape)
    # All of it but its rim, where pixels are half air.
    inside = ndimage.binary_erosion(stack, np.ones((3, 3, 1)))
    assert inside.sum() > 0.8 * np.prod(shape)
    np.testing.assert_allclose(volume.array[inside], body(lps)[inside], atol=2.5)
    degrees = np.degrees(np.arctan(np.linalg.norm(across) / 2))
    assert f"{degrees:.1f}°" in series.notes()[0]


def test_labels_go_back_through_a_tilt_to_the_slices_they_came_from(tmp_path: Path, write_series: Write) -> None:
    labels = np.zeros((40, 50, 12), np.uint8)
    labels[10:20, 15:30, 3:9] = 20
    labels[22:30, 15:30, 3:9] = 21
    # As bright slices through the same shear: what they become on the grid, labelled, goes back.
    write_series(tmp_path, labels * 50.0, step=(0.3, -0.9, 2.0))
    stack = only(tmp_path).stack()
    grid = only(tmp_path).read().array
    found = np.where(grid > 1025, 21, np.where(grid > 500, 20, 0)).astype(np.uint8)
    back = stack.to_slices(found).transpose(2, 1, 0)
    for level in (20, 21):
        dice = 2 * np.sum((back == level) & (labels == level)) / (np.sum(back == level) + np.sum(labels == level))
        assert dice > 0.9
    upright = only(tmp_path).stack()
    assert upright.to_slices(np.zeros(upright.grid.shape, np.uint8)).shape == (12, 50, 40)


def test_an_enhanced_multiframe_ct_is_one_series(tmp_path: Path, write_series: Write) -> None:
    paths = write_series(tmp_path / "classic", values())
    expected = only(tmp_path / "classic").read()
    (tmp_path / "enhanced").mkdir()
    enhanced(paths, tmp_path / "enhanced" / "a.dcm")
    for where in (tmp_path / "enhanced", tmp_path / "enhanced" / "a.dcm"):
        found = only(where)
        np.testing.assert_array_equal(found.read().array, expected.array)
        np.testing.assert_allclose(found.read().affine, expected.affine)
    assert found.case == "a" and len(found.headers()) == 1


def test_a_series_that_does_not_fit_is_refused_before_it_is_read(tmp_path: Path, write_series: Write) -> None:
    write_series(tmp_path, values())
    with pytest.raises(DataError, match=r"10 × 12 × 6 voxels needs about .* GB, but memory_limit_gb=1e-06"):
        only(tmp_path).read(1e-6)


def test_what_is_no_slice_is_left_out(tmp_path: Path, write_series: Write) -> None:
    secondary = "1.2.840.10008.5.1.4.1.1.7"
    write_series(tmp_path / "s", values(), SOPClassUID=secondary)
    write_series(tmp_path / "t", values(), edit=lambda image, k: image.__delattr__("ImagePositionPatient"))
    (tmp_path / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")
    found = find_series(tmp_path)
    assert not found.series and not found.broken
    assert "6 that are no CT images" in found.left_out[0] and "6 without a place" in found.left_out[1]
    assert CTImageStorage != secondary
