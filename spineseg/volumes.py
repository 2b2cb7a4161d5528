"""Reading and writing volumes: NIfTI through nibabel; MetaImage, NRRD and what else ITK knows through SimpleITK."""

import gzip
import json
import math
import os
import zlib
from pathlib import Path
from typing import Any, Final

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from spineseg.errors import DataError
from spineseg.geometry import Affine, Array, Grid, Volume

NIFTI_SUFFIXES: Final = (".nii", ".nii.gz")
ITK_SUFFIXES: Final = (".mhd", ".mha", ".nrrd", ".nhdr")
_RAS_FROM_LPS: Final = np.diag([-1.0, -1.0, 1.0, 1.0])
# Header extension code 6 is NIfTI's plain comment; ours holds JSON.
_COMMENT: Final = 6
# Axes may be off a right angle by this much: headers are rounded (some of VerSe's are), and distances along a row stay
# true to 1 − cos 1° = 0.02 %. A tilted gantry is off by far more.
MAX_SKEW_DEGREES: Final = 1.0


def is_volume(path: Path) -> bool:
    """Whether the file name is one of a volume that can be read here."""
    return path.name.lower().endswith(NIFTI_SUFFIXES + ITK_SUFFIXES)


def stem(path: Path) -> str:
    """File name without the volume's suffix: ``case1_label.nii.gz`` → ``case1_label``."""
    for suffix in (*NIFTI_SUFFIXES[::-1], *ITK_SUFFIXES):
        if path.name.lower().endswith(suffix):
            return path.name[: -len(suffix)]
    return path.stem


def read_volume(path: Path) -> Volume:
    """Read a volume on its native grid: values as stored (scaled where the header says so), affine in RAS+.

    NIfTI: sform where its code is set, else qform (nibabel's rule), for images and masks alike. Plain NIfTI under a
    ``.nii.gz`` name is read. Singleton axes after the third are dropped. Axes within ``MAX_SKEW_DEGREES`` of right
    angles are taken for orthogonal; the affine itself stays as it was found.

    Raises:
        DataError: missing, empty, truncated or damaged file, unknown suffix, not three axes, impossible spacing, axes
            that are not at right angles.
    """
    _check_file(path)
    if path.name.lower().endswith(NIFTI_SUFFIXES):
        array, affine = _read_nifti(path)
    else:
        array, affine = _read_itk(path)
    while array.ndim > 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if not np.issubdtype(array.dtype, np.number):
        raise DataError(f"{path}: expected one number a voxel, found {array.dtype} (a colour picture?)")
    if array.ndim != 3:
        raise DataError(f"{path}: expected a volume of three axes, found shape {array.shape}")
    return _named(path, array, affine)


def read_grid(path: Path) -> Grid:
    """Read the grid of a volume from its header alone.

    Raises:
        DataError: as ``read_volume``, except for damage that shows only in the values.
    """
    _check_file(path)
    try:
        if path.name.lower().endswith(NIFTI_SUFFIXES):
            with gzip.open(path) if _is_gzip(path) else path.open("rb") as stream:
                header = nib.Nifti1Header.from_fileobj(stream)
            shape, affine = header.get_data_shape(), header.get_best_affine()
        else:
            reader = sitk.ImageFileReader()
            reader.SetFileName(str(path))
            reader.ReadImageInformation()
            shape = reader.GetSize()
            affine = _itk_affine(reader.GetSpacing(), reader.GetOrigin(), reader.GetDirection())
    except (WrapStructError, HeaderDataError, RuntimeError, OSError, ValueError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: the header cannot be read ({_first_line(error)})") from error
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    try:
        grid = Grid(tuple(shape), affine)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    _check_angles(path, grid.affine)
    return grid


def write_volume(path: Path, volume: Volume, *, extension: dict[str, Any] | None = None) -> None:
    """Write a volume atomically; the suffix chooses the format.

    NIfTI keeps the affine to the float32 of its header (bit-equal when it came from one). A ``.mhd`` gets its ``.raw``
    beside it. Both carry ``extension`` as JSON in a header comment.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # The unfinished file keeps the suffix (writers choose by it) and never bears the final name.
    partial = path.with_name(f".partial-{os.getpid()}-{path.name}")
    try:
        if path.name.lower().endswith(NIFTI_SUFFIXES):
            _write_nifti(partial, volume, extension)
        elif path.name.lower().endswith(".mhd"):
            _write_mhd(partial, path, volume, extension)
        elif path.name.lower().endswith(ITK_SUFFIXES):
            sitk.WriteImage(_to_itk(volume), str(partial), useCompression=True)
        else:
            raise DataError(f"{path}: unknown volume suffix; expected {', '.join(NIFTI_SUFFIXES + ITK_SUFFIXES)}")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _check_file(path: Path) -> None:
    if not is_volume(path):
        raise DataError(f"{path}: unknown volume suffix; expected {', '.join(NIFTI_SUFFIXES + ITK_SUFFIXES)}")
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty (0 bytes); copy or download it again")


def _named(path: Path, array: Array, affine: Affine) -> Volume:
    try:
        volume = Volume(array, affine)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    _check_angles(path, volume.affine)
    return volume


def _check_angles(path: Path, affine: Affine) -> None:
    """Refuse axes that are far from right angles, as those of an uncorrected gantry tilt are."""
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    cosines = np.abs((axes.T @ axes)[np.triu_indices(3, 1)])
    skew = float(np.degrees(np.arcsin(min(1.0, cosines.max()))))
    if skew > MAX_SKEW_DEGREES:
        raise DataError(
            f"{path}: the axes are {skew:.1f}° off right angles, expected at most {MAX_SKEW_DEGREES:g}°: a tilted "
            "gantry, or a damaged header; resample the scan to a grid with right angles, or read its DICOM files"
        )


def _is_gzip(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(2) == b"\x1f\x8b"


def _read_nifti(path: Path) -> tuple[Array, Affine]:
    try:
        # Unpacked to its end, so that a wrong checksum shows; nibabel stops reading before it.
        image: Any = nib.Nifti1Image.from_bytes(
            gzip.decompress(path.read_bytes()) if _is_gzip(path) else path.read_bytes()
        )
        slope, intercept = image.dataobj.slope, image.dataobj.inter
        if slope == 1 and intercept == 0:
            array = np.asarray(image.dataobj)
        else:
            array = image.get_fdata(dtype=np.float32, caching="unchanged")
        return np.ascontiguousarray(array), np.asarray(image.affine, np.float64)
    except (ImageFileError, WrapStructError, HeaderDataError, OSError, ValueError, EOFError, zlib.error) as error:
        raise DataError(
            f"{path}: the file cannot be read to its end ({_first_line(error)}); it is cut short or damaged: "
            "copy or download it again"
        ) from error


def _read_itk(path: Path) -> tuple[Array, Affine]:
    if path.name.lower().endswith(".mhd"):
        _check_raw(path)
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise DataError(f"{path}: the file cannot be read ({_first_line(error)}); copy or download it again") from error
    if image.GetNumberOfComponentsPerPixel() != 1 or image.GetDimension() != 3:
        raise DataError(f"{path}: expected one value a voxel on three axes, found shape {image.GetSize()}")
    array = sitk.GetArrayFromImage(image).transpose(2, 1, 0)
    return np.ascontiguousarray(array), _itk_affine(image.GetSpacing(), image.GetOrigin(), image.GetDirection())


def _check_raw(path: Path) -> None:
    """Name a short or missing ``.raw``: ITK's own message names neither the file nor the sizes."""
    lines = [line.partition("=") for line in path.read_text(errors="replace").splitlines()]
    header = {key.strip(): value.strip() for key, equals, value in lines if equals}
    name = header.get("ElementDataFile", "")
    if name in ("", "LOCAL") or "LIST" in name or "%" in name or header.get("CompressedData", "").lower() == "true":
        return
    raw = path.parent / name
    if not raw.is_file():
        raise DataError(f"{path}: its data file {raw.name} is missing; put it beside the header")
    sizes = {"MET_CHAR": 1, "MET_UCHAR": 1, "MET_SHORT": 2, "MET_USHORT": 2, "MET_INT": 4, "MET_UINT": 4}
    sizes |= {"MET_FLOAT": 4, "MET_DOUBLE": 8, "MET_LONG": 4, "MET_ULONG": 4}
    element = sizes.get(header.get("ElementType", ""))
    if element is None or not header.get("DimSize"):
        return
    try:
        # Some programs write whole numbers as ``5.0``, which ITK reads.
        expected = element * math.prod(int(float(n)) for n in header["DimSize"].split())
    except (ValueError, OverflowError) as error:
        raise DataError(f"{path}: DimSize is '{header['DimSize']}'; expected three whole numbers") from error
    found = raw.stat().st_size
    if found < expected:
        raise DataError(
            f"{raw}: truncated: {found:,} bytes found, {expected:,} expected from {path.name} "
            f"({header['DimSize']} × {element} bytes); copy or download it again"
        )


def _itk_affine(spacing: tuple[float, ...], origin: tuple[float, ...], direction: tuple[float, ...]) -> Affine:
    if len(spacing) != 3:
        raise ValueError(f"expected three axes, found {len(spacing)}")
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(direction, (3, 3)) @ np.diag(spacing)
    affine[:3, 3] = origin
    return _RAS_FROM_LPS @ affine


def _to_itk(volume: Volume) -> sitk.Image:
    affine = _RAS_FROM_LPS @ volume.affine
    image = sitk.GetImageFromArray(np.ascontiguousarray(volume.array.transpose(2, 1, 0)))
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    image.SetDirection((affine[:3, :3] / spacing).ravel().tolist())
    return image


def _write_mhd(partial: Path, path: Path, volume: Volume, extension: dict[str, Any] | None) -> None:
    raw = path.with_suffix(".raw")
    sitk.WriteImage(_to_itk(volume), str(partial))
    partial_raw = partial.with_suffix(".raw")
    header = partial.read_text().replace(partial_raw.name, raw.name)
    if extension is not None:
        header = header.replace("NDims", f"Comment = {json.dumps(extension)}\nNDims", 1)
    partial.write_text(header)
    partial_raw.replace(raw)


def _write_nifti(path: Path, volume: Volume, extension: dict[str, Any] | None) -> None:
    image = nib.Nifti1Image(volume.array, volume.affine)
    image.set_sform(volume.affine, code=1)
    image.set_qform(volume.affine, code=1)
    image.header.set_xyzt_units("mm")
    if extension is not None:
        image.header.extensions.append(nib.nifti1.Nifti1Extension(_COMMENT, json.dumps(extension).encode()))
    nib.save(image, path)


def _first_line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__
