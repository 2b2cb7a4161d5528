"""The store: prepared volumes on disk, fast to read by sagittal slice and by patch.

One folder a case: ``image.b2nd`` (int16 HU), ``label.b2nd`` (uint8 level ids) and ``meta.json`` (grids, counts, key).
A case is built under another name, its ``meta.json`` last, and then renamed: what bears the case's name is whole.

Chunks of 16×128×128 voxels with blocks of 2×64×64, bit-shuffled LZ4: on a noisy 256×256×400 volume a sagittal slice
took 0.5 ms and a 64³ patch 1.7 ms on one thread, at the size that ZSTD with byte shuffle had (1.1 and 7 ms).
"""

import json
import os
import shutil
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal, cast

import blosc2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from spineseg.data.cases import column_order
from spineseg.data.files import link_or_copy, read_json, write_json
from spineseg.errors import ConfigError, DataError
from spineseg.geometry import (
    Affine,
    Grid,
    SpacingMm,
    Volume,
    canonical,
    resample_image,
    resample_labels_to,
)

STORE_FORMAT: Final = "store 1"
CHUNKS: Final = (16, 128, 128)
BLOCKS: Final = (2, 64, 64)
PREPARE: Final = "python -m spineseg.prepare"

Box = tuple[slice, slice, slice]
# How images come to a store's spacing; masks take the nearest label in either.
Resampling = Literal["linear", "cubic"]
_ORDERS: Final[dict[str, Literal[1, 3]]] = {"linear": 1, "cubic": 3}


def spacing_key(spacing_mm: SpacingMm, resampling: Resampling = "linear") -> str:
    """Folder name of a store: its spacing, and how images came to it where that is not linear.

    >>> spacing_key((None, None, None), "cubic"), spacing_key((None, 0.5, 1.0)), spacing_key((1.5, 1.5, 1.5), "cubic")
    ('native', 'native_0.5_1', '1.5_1.5_1.5-cubic')
    """
    if resampling not in _ORDERS:
        raise ConfigError(f"data.resampling={resampling}: expected {' or '.join(_ORDERS)}")
    if all(value is None for value in spacing_mm):
        return "native"
    name = "_".join("native" if value is None else f"{value:g}" for value in spacing_mm)
    return name if resampling == "linear" else f"{name}-{resampling}"


def as_spacing(value: Sequence[float | None] | None) -> SpacingMm:
    """Turn the config's ``data.spacing_mm`` (null, or three numbers or nulls) into a spacing."""
    if value is None:
        return None, None, None
    if len(value) != 3 or any(v is not None and not v > 0 for v in value):
        raise DataError(f"data.spacing_mm={list(value)}: expected null or three positive numbers or nulls (x, y, z)")
    x, y, z = (None if v is None else float(v) for v in value)
    return x, y, z


def build_case(
    folder: Path,
    image: Volume,
    labels: Volume | None,
    spacing_mm: SpacingMm,
    key: str,
    resampling: Resampling = "linear",
) -> None:
    """Write one case to the store, atomically; a case of that name is replaced.

    Args:
        folder: the case's folder, ``<store>/<case id>``.
        image: int16 HU on the native grid.
        labels: uint8 level ids on the native grid (orientation apart), or None.
        spacing_mm: spacing (x, y, z) in mm of the canonical grid to store; None keeps an axis.
        key: hash of content and settings; ``stored_key`` gives it back.
        resampling: of the image, ``linear`` (averaging where voxels get larger) or ``cubic``; masks take the nearest.
    """
    upright = resample_image(canonical(image), spacing_mm, _ORDERS[resampling])
    meta: dict[str, Any] = {
        "format": STORE_FORMAT,
        "key": key,
        "shape": list(upright.shape),
        "affine": upright.affine.tolist(),
        "native_shape": list(image.shape),
        "native_affine": image.affine.tolist(),
    }
    partial = folder.with_name(f".partial-{os.getpid()}-{folder.name}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        _write_array(partial / "image.b2nd", upright.array.astype(np.int16, copy=False))
        if labels is not None:
            label = resample_labels_to(canonical(labels), upright.grid).array.astype(np.uint8, copy=False)
            _write_array(partial / "label.b2nd", label)
            meta |= _label_facts(label)
        write_json(partial / "meta.json", meta)
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def stored_key(folder: Path) -> str | None:
    """Key of a stored case; None if there is none, or one that is not whole or of another version."""
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    whole = isinstance(meta, dict) and meta.get("format") == STORE_FORMAT and (folder / "image.b2nd").is_file()
    return str(meta.get("key")) if whole else None


def adopt_case(source: Path, target: Path) -> None:
    """Give a stored case of another prepared folder a second name here, without reading volumes."""
    partial = target.with_name(f".partial-{os.getpid()}-{target.name}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        for path in sorted(source.iterdir()):
            link_or_copy(path, partial / path.name)
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


class StoredCase:
    """One prepared case: canonical RAS+, int16 HU and uint8 level ids.

    Arrays are opened on first use, once in each process, and never travel with a pickle, so that a loader's workers
    each have their own.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __getstate__(self) -> dict[str, Path]:
        return {"folder": self.folder}

    def __repr__(self) -> str:
        return f"StoredCase({str(self.folder)!r})"

    @cached_property
    def meta(self) -> dict[str, Any]:
        """What ``meta.json`` holds."""
        return read_json(self.folder / "meta.json", STORE_FORMAT, PREPARE)

    @property
    def id(self) -> str:
        """The case's id."""
        return self.folder.name

    @property
    def key(self) -> str:
        """Hash of content and settings."""
        return str(self.meta["key"])

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of voxels along X, Y, Z."""
        return cast(tuple[int, int, int], tuple(self.meta["shape"]))

    @cached_property
    def affine(self) -> Affine:
        """Voxel → mm, RAS+ (4, 4)."""
        return np.array(self.meta["affine"], np.float64)

    @property
    def grid(self) -> Grid:
        """The stored, canonical grid."""
        return Grid(self.shape, self.affine)

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance of neighbouring stored voxels along X, Y, Z in mm."""
        return self.grid.spacing_mm

    @cached_property
    def native(self) -> Grid:
        """The grid of the case's own file."""
        x, y, z = self.meta["native_shape"]
        return Grid((x, y, z), np.array(self.meta["native_affine"], np.float64))

    @property
    def has_label(self) -> bool:
        """Whether the case has a mask."""
        return "label_voxels" in self.meta

    @cached_property
    def label_voxels(self) -> NDArray[np.int64]:
        """Number of labelled voxels in each sagittal slice, (X,); zeros without a mask."""
        return np.array(self.meta.get("label_voxels", [0] * self.shape[0]), np.int64)

    @cached_property
    def level_boxes(self) -> dict[int, Box]:
        """Box of each level's voxels, half-open; empty without a mask."""
        boxes = self.meta.get("level_boxes", {})
        return {int(level): cast(Box, tuple(slice(*bounds) for bounds in box)) for level, box in boxes.items()}

    def read_image(self, x0: int, x1: int) -> NDArray[np.int16]:
        """Sagittal slices x0 to x1 (excluded), HU, (x1 - x0, Y, Z)."""
        return self.read_image_box((slice(x0, x1), slice(None), slice(None)))

    def read_label(self, x: int) -> NDArray[np.uint8]:
        """Level ids of one sagittal slice, (Y, Z)."""
        return cast(NDArray[np.uint8], self.read_label_box((slice(x, x + 1), slice(None), slice(None)))[0])

    def read_image_box(self, box: Box) -> NDArray[np.int16]:
        """HU of a box; it must lie inside the volume."""
        return cast(NDArray[np.int16], self._read("image.b2nd", self._image, box))

    def read_label_box(self, box: Box) -> NDArray[np.uint8]:
        """Level ids of a box; it must lie inside the volume; zeros without a mask."""
        if not self.has_label:
            shape = [len(range(*part.indices(n))) for part, n in zip(box, self.shape, strict=True)]
            return np.zeros(shape, np.uint8)
        return cast(NDArray[np.uint8], self._read("label.b2nd", self._label, box))

    def _read(self, name: str, array: Any, box: Box) -> NDArray[Any]:
        low = [part.start or 0 for part in box]
        high = [length if part.stop is None else part.stop for part, length in zip(box, self.shape, strict=True)]
        plain = all(part.step in (None, 1) for part in box)
        if not plain or min(low) < 0 or any(stop > length for stop, length in zip(high, self.shape, strict=True)):
            raise DataError(f"{self.folder}: box {box} lies outside the stored shape {self.shape}")
        out = np.empty([stop - start for start, stop in zip(low, high, strict=True)], array.dtype)
        try:
            # Indexing comes here too, by a way that is made for much more than boxes: a fifth of a slice's time.
            return cast(NDArray[Any], array.get_slice_numpy(out, (low, high)))
        except (RuntimeError, ValueError) as error:
            raise _damaged(self.folder / name, error) from error

    @cached_property
    def _image(self) -> Any:
        return _open_array(self.folder / "image.b2nd")

    @cached_property
    def _label(self) -> Any:
        return _open_array(self.folder / "label.b2nd")


def open_store(folder: Path, ids: Iterable[str]) -> dict[str, StoredCase]:
    """Open cases of a store; volumes are opened when first read.

    Raises:
        DataError: naming all cases that are not there, or are not whole.
    """
    cases = {case_id: StoredCase(folder / case_id) for case_id in ids}
    missing = [case_id for case_id, case in cases.items() if stored_key(case.folder) is None]
    if missing:
        raise DataError(
            f"{folder}: no whole prepared volume of {', '.join(missing[:10])}{' …' if len(missing) > 10 else ''} "
            f"({len(missing)} of {len(cases)}); `{PREPARE}` builds what is missing"
        )
    return cases


def _label_facts(label: NDArray[np.uint8]) -> dict[str, Any]:
    """Counts and boxes that spare later stages a read of the whole volume."""
    boxes: dict[str, list[list[int]]] = {}
    voxels: dict[str, int] = {}
    found = dict(enumerate(ndimage.find_objects(label), start=1))
    for level in column_order(level for level, box in found.items() if box is not None):
        box = found[level]
        boxes[str(level)] = [[part.start, part.stop] for part in box]
        voxels[str(level)] = int(np.count_nonzero(label[box] == level))
    return {
        "label_voxels": np.count_nonzero(label, axis=(1, 2)).tolist(),
        "level_voxels": voxels,
        "level_boxes": boxes,
    }


def _write_array(path: Path, array: NDArray[Any]) -> None:
    packed = blosc2.asarray(
        np.ascontiguousarray(array),
        chunks=tuple(min(c, n) for c, n in zip(CHUNKS, array.shape, strict=True)),
        blocks=tuple(min(b, n) for b, n in zip(BLOCKS, array.shape, strict=True)),
        cparams=blosc2.CParams(
            codec=blosc2.Codec.LZ4,
            clevel=5,
            filters=[blosc2.Filter.BITSHUFFLE],
            typesize=array.dtype.itemsize,
            nthreads=1,
        ),
        dparams=blosc2.DParams(nthreads=1),
    )
    # Written by Python, whose error says when the disk is full; blosc2's names no reason.
    path.write_bytes(packed.to_cframe())


def _open_array(path: Path) -> Any:
    # One thread: blosc2's thread pool does not survive the fork of a loader's worker.
    blosc2.set_nthreads(1)
    try:
        return blosc2.open(str(path), mode="r", dparams=blosc2.DParams(nthreads=1), mmap_mode="r")
    except (RuntimeError, ValueError, OSError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(
        f"{path}: the prepared volume is damaged ({error}); delete the folder {path.parent} and run `{PREPARE}` again"
    )
