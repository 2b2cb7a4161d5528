"""Reading and writing volumes: round trips in every format, and files that are damaged."""

import gzip
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from spineseg.errors import DataError
from spineseg.geometry import Volume, canonical, restore
from spineseg.volumes import is_volume, read_grid, read_volume, stem, write_volume

SUFFIXES = [".nii", ".nii.gz", ".mhd", ".mha", ".nrrd"]


def example(dtype: type = np.int16) -> Volume:
    rng = np.random.default_rng(1)
    affine = np.array([[0, 0.5, 0, 3], [-0.75, 0, 0, -8], [0, 0, 1.25, 20], [0, 0, 0, 1.0]])
    return Volume(rng.integers(0, 100, (4, 6, 5)).astype(dtype), affine)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_round_trip(tmp_path: Path, suffix: str, dtype: type) -> None:
    volume = example(dtype)
    path = tmp_path / "sub" / f"case 1|ü{suffix}"
    write_volume(path, volume)
    back = read_volume(path)
    np.testing.assert_array_equal(back.array, volume.array)
    np.testing.assert_allclose(back.affine, volume.affine, atol=1e-6)
    assert back.array.dtype == dtype
    assert read_grid(path).distance_mm(back.grid) == 0
    assert not [p for p in path.parent.iterdir() if "partial" in p.name]


def test_nifti_affines_are_kept_to_the_bit(tmp_path: Path) -> None:
    affine = np.array(example().affine)
    affine[:3, 3] = np.float32(0.1), np.float32(-33.3), np.float32(1e3 / 3)
    write_volume(tmp_path / "a.nii.gz", Volume(example().array, affine))
    np.testing.assert_array_equal(read_volume(tmp_path / "a.nii.gz").affine, affine)


def test_the_extension_travels_in_the_header(tmp_path: Path) -> None:
    write_volume(tmp_path / "a.nii.gz", example(), extension={"24": "L5"})
    (kept,) = nib.load(tmp_path / "a.nii.gz").header.extensions
    assert json.loads(kept.get_content()) == {"24": "L5"}


def test_plain_nifti_under_a_gz_name_is_read(tmp_path: Path) -> None:
    write_volume(tmp_path / "a.nii", example())
    (tmp_path / "a.nii").rename(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(read_volume(tmp_path / "a.nii.gz").array, example().array)
    assert read_grid(tmp_path / "a.nii.gz").shape == (4, 6, 5)


def test_rescaled_nifti_is_scaled_once(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.arange(8, dtype=np.int16).reshape(2, 2, 2), np.eye(4))
    image.header.set_slope_inter(2, -1000)
    nib.save(image, tmp_path / "a.nii")
    np.testing.assert_allclose(
        read_volume(tmp_path / "a.nii").array.ravel()[:3], nib.load(tmp_path / "a.nii").get_fdata().ravel()[:3]
    )


def test_singleton_axes_are_dropped_and_others_refused(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.zeros((2, 3, 4, 1), np.int16), np.eye(4)), tmp_path / "a.nii")
    assert read_volume(tmp_path / "a.nii").shape == (2, 3, 4)
    assert read_grid(tmp_path / "a.nii").shape == (2, 3, 4)
    nib.save(nib.Nifti1Image(np.zeros((2, 3, 4, 2), np.int16), np.eye(4)), tmp_path / "b.nii")
    with pytest.raises(DataError, match=r"b\.nii: expected a volume of three axes"):
        read_volume(tmp_path / "b.nii")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_truncated_files_are_named(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"scan{suffix}"
    write_volume(path, example())
    cut = path.with_suffix(".raw") if suffix == ".mhd" else path
    cut.write_bytes(cut.read_bytes()[:-60] if suffix != ".nii.gz" else cut.read_bytes()[: len(cut.read_bytes()) // 2])
    with pytest.raises(DataError, match=cut.name.replace(".", r"\.")):
        read_volume(path)


def test_a_flipped_bit_in_gzip_is_found(tmp_path: Path) -> None:
    path = tmp_path / "scan.nii.gz"
    write_volume(path, example())
    data = bytearray(path.read_bytes())
    for position in (-5, -20, len(data) // 2):
        damaged = bytearray(data)
        damaged[position] ^= 0xFF
        path.write_bytes(bytes(damaged))
        with pytest.raises(DataError, match=r"scan\.nii\.gz"):
            read_volume(path)


def test_missing_empty_and_foreign_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_volume(tmp_path / "gone.nii.gz")
    (tmp_path / "empty.nii.gz").touch()
    with pytest.raises(DataError, match="0 bytes"):
        read_volume(tmp_path / "empty.nii.gz")
    (tmp_path / "text.txt").write_text("hello")
    with pytest.raises(DataError, match="unknown volume suffix"):
        read_volume(tmp_path / "text.txt")
    (tmp_path / "noise.nii.gz").write_bytes(gzip.compress(b"not a volume" * 100))
    for read in (read_volume, read_grid):
        with pytest.raises(DataError, match=r"noise\.nii\.gz"):
            read(tmp_path / "noise.nii.gz")
    write_volume(tmp_path / "a.mhd", example())
    (tmp_path / "a.raw").unlink()
    with pytest.raises(DataError, match=r"a\.raw is missing"):
        read_volume(tmp_path / "a.mhd")


def test_an_mhd_whose_size_is_written_with_a_point_is_read(tmp_path: Path) -> None:
    write_volume(tmp_path / "a.mhd", example())
    text = (tmp_path / "a.mhd").read_text()
    (line,) = [line for line in text.splitlines() if line.startswith("DimSize")]
    (tmp_path / "a.mhd").write_text(text.replace(line, f"{line}.0"))
    np.testing.assert_array_equal(read_volume(tmp_path / "a.mhd").array, example().array)
    (tmp_path / "a.mhd").write_text(text.replace(line, f"{line}x"))
    with pytest.raises(DataError, match=r"a\.mhd: DimSize"):
        read_volume(tmp_path / "a.mhd")


@pytest.mark.parametrize("degrees", [0.0, 0.9, 1.1, 15.0])
def test_axes_that_are_not_at_right_angles_are_refused_with_the_angle(tmp_path: Path, degrees: float) -> None:
    turned = np.array([[0.6, -0.8, 0], [0.8, 0.6, 0], [0, 0, 1]])
    skewed = np.array([[1, 0, 0], [0, 1, np.sin(np.radians(degrees))], [0, 0, np.cos(np.radians(degrees))]])
    affine = np.eye(4)
    affine[:3, :3] = turned @ skewed @ np.diag([0.5, 0.5, 2])
    path = tmp_path / "tilted.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros((3, 4, 5), np.int16), affine), path)
    for read in (read_volume, read_grid):
        if degrees < 1:
            np.testing.assert_array_equal(read(path).affine, affine.astype(np.float32))
        else:
            with pytest.raises(DataError, match=rf"tilted.*{degrees:.1f}° off right angles"):
                read(path)


def test_the_sform_wins_and_a_qform_alone_is_read(tmp_path: Path) -> None:
    sform, qform = np.diag([2.0, 2, 2, 1]), np.diag([3.0, 3, 3, 1])
    image = nib.Nifti1Image(np.zeros((3, 4, 5), np.int16), None)
    image.set_qform(qform, code=1)
    nib.save(image, tmp_path / "q.nii")
    image.set_sform(sform, code=1)
    nib.save(image, tmp_path / "s.nii")
    for name, expected in (("q", qform), ("s", sform)):
        np.testing.assert_array_equal(read_volume(tmp_path / f"{name}.nii").affine, expected)
        np.testing.assert_array_equal(read_grid(tmp_path / f"{name}.nii").affine, expected)


@pytest.mark.parametrize("slope", [0.0, float("nan")])
def test_a_slope_of_nothing_leaves_values_as_stored(tmp_path: Path, slope: float) -> None:
    image = nib.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.eye(4))
    block = bytearray(image.to_bytes())
    block[112:120] = np.array([slope, 7], np.float32).tobytes()
    (tmp_path / "a.nii").write_bytes(bytes(block))
    np.testing.assert_array_equal(read_volume(tmp_path / "a.nii").array, np.asarray(image.dataobj))


@pytest.mark.parametrize("spacing", [0.0, float("nan"), float("inf")])
def test_impossible_spacing_is_named(tmp_path: Path, spacing: float) -> None:
    image = nib.Nifti1Image(np.zeros((2, 3, 4), np.int16), np.diag([1.0, 1, 2, 1]))
    block = bytearray(image.to_bytes())
    block[320:324] = np.float32(spacing).tobytes()  # the distance along Z, of the sform
    (tmp_path / "a.nii").write_bytes(bytes(block))
    for read in (read_volume, read_grid):
        with pytest.raises(DataError, match=r"a\.nii: .*spacing"):
            read(tmp_path / "a.nii")


def test_names() -> None:
    assert stem(Path("x/case1_label.nii.gz")) == "case1_label"
    assert is_volume(Path("A.NII.GZ")) and not is_volume(Path("a.json"))


def test_real_scans_round_trip(real_ct: Path, tmp_path: Path) -> None:
    paths = [path for path in sorted(real_ct.rglob("*")) if is_volume(path)]
    assert len(paths) >= 8
    for path in paths:
        volume = read_volume(path)
        assert read_grid(path).distance_mm(volume.grid) == 0
        back = restore(canonical(volume), volume.grid)
        np.testing.assert_array_equal(back.array, volume.array)
        np.testing.assert_array_equal(back.affine, volume.affine)
