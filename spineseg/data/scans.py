"""Whole scans to predict on: their native sagittal slices in batches, or volumes, at the network's spacing."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from spineseg.data.plausibility import check_hounsfield
from spineseg.data.slices import STRIDE, SliceReader, padding
from spineseg.data.sources.base import as_hounsfield
from spineseg.data.store import Resampling
from spineseg.errors import DataError
from spineseg.geometry import SpacingMm, Volume, canonical, resample_image, resampled_grid
from spineseg.memory import check_room
from spineseg.volumes import read_grid, read_volume

if TYPE_CHECKING:
    from spineseg.data.dicom import Series


@dataclass(frozen=True)
class Scan:
    """A scan to predict on.

    Attributes:
        case: id.
        read: gives it in HU on its native grid.
        series: where it is DICOM, its slices.
        unreadable: whether it is known that ``read`` will fail.
    """

    case: str
    read: Callable[[], Volume]
    series: "Series | None" = None
    unreadable: bool = False


def read_scan(
    path: Path, *, hu_offset: float | None, source_offset: float = 0, memory_limit_gb: float | None = None
) -> Volume:
    """Read a file as int16 HU on its native grid; see ``to_hounsfield``.

    Args:
        path: NIfTI, MetaImage or NRRD.
        hu_offset: added to the stored values.
        source_offset: that of the data the network was trained on.
        memory_limit_gb: what does not fit is refused before it is read; None = what the machine has left.

    Raises:
        DataError: unreadable, too large, or see ``to_hounsfield``.
    """
    check_room(read_grid(path).shape, what=str(path), limit_gb=memory_limit_gb)
    return to_hounsfield(read_volume(path), hu_offset=hu_offset, source_offset=source_offset, what=str(path))


def read_series(
    series: "Series", *, hu_offset: float | None, source_offset: float = 0, memory_limit_gb: float | None = None
) -> Volume:
    """Read a DICOM series as int16 HU; its own rescale is applied first. Arguments as ``read_scan``'s."""
    return to_hounsfield(
        series.read(memory_limit_gb), hu_offset=hu_offset, source_offset=source_offset, what=series.case
    )


def to_hounsfield(stored: Volume, *, hu_offset: float | None, source_offset: float, what: str) -> Volume:
    """Turn stored values to int16 HU.

    Args:
        stored: values as the file's header scales them.
        hu_offset: added to them, whatever they look like. None: 0, or, where that gives no HU and ``source_offset``
            does, the latter; a note says so.
        source_offset: that of the data the network was trained on.
        what: the file or case, for messages.

    Raises:
        DataError: voxels that are not finite, values beyond int16, or, without ``hu_offset``, no HU.
    """
    if hu_offset is not None:
        return stored.with_array(as_hounsfield(stored.array, hu_offset, what=what))
    hu = as_hounsfield(stored.array, 0, what=what)
    wrong = check_hounsfield(hu, None).fatal
    if not wrong:
        return stored.with_array(hu)
    if source_offset:
        shifted = as_hounsfield(stored.array, source_offset, what=what)
        verdict = check_hounsfield(shifted, None)
        if not verdict.fatal and not verdict.findings:
            print(
                f"note: {what}: stored values are no HU; {source_offset:+g}, the offset of the data that the model was "
                "trained on, makes them so and was added (hu_offset=0 takes them as they are)"
            )
            return stored.with_array(shifted)
    raise DataError(f"{what}: {'; '.join(wrong)}. Here the key is hu_offset=<number>, which is taken as it is")


class ScanBatch(TypedDict):
    """Some slices of one scan, in order along X of its canonical grid.

    ``error`` is set, and ``images`` empty, when the scan could not be read or brought to the network's spacing: one bad
    scan does not stop the rest.
    """

    case: str
    images: Tensor  # (B, C, Y, Z) float32 in 0..1, network pixels
    indices: list[int]  # position of each slice along X
    size: tuple[int, int]  # (Y, Z) of the canonical native slice
    step: tuple[float, float]  # network pixels a native pixel, along Y and Z
    native_shape: tuple[int, int, int]
    native_affine: list[list[float]]
    last: bool
    error: str | None


class ScanSlices(IterableDataset[ScanBatch]):
    """Slices of scans, read one scan at a time; loader workers share the scans out.

    Args:
        scans: what to predict on.
        reader: window, context and classes of the network.
        pixel_mm: side of a network pixel.
        batch_size: slices a batch.
        rank: of this process among
        world: processes, which share the scans.
    """

    def __init__(
        self,
        scans: Sequence[Scan],
        reader: SliceReader,
        *,
        pixel_mm: float,
        batch_size: int,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        """Keep the arguments; scans are read when their turn comes."""
        super().__init__()
        self.scans, self.reader = list(scans)[rank::world], reader
        self.pixel_mm, self.batch_size = pixel_mm, batch_size

    def __iter__(self) -> Iterator[ScanBatch]:
        """Batches of all slices of each scan in turn."""
        for scan in _share(self.scans):
            try:
                yield from self._batches(scan)
            except (DataError, MemoryError) as error:
                yield self._failed(scan.case, failure_reason(scan.case, error))

    def _batches(self, scan: Scan) -> Iterator[ScanBatch]:
        native = _read(scan)
        volume, small = _resampled(native, (None, self.pixel_mm, self.pixel_mm), 1, what=f"scan '{scan.case}'")
        pad = [(0, 0), *((0, padding(side)) for side in small.shape[1:])]
        stack = np.pad(small.array, pad, constant_values=-1024)
        step = (volume.spacing_mm[1] / self.pixel_mm, volume.spacing_mm[2] / self.pixel_mm)
        for start in range(0, len(stack), self.batch_size):
            indices = list(range(start, min(start + self.batch_size, len(stack))))
            images = [self.reader.window(stack, index) for index in indices]
            yield ScanBatch(
                case=scan.case,
                images=torch.from_numpy(np.ascontiguousarray(np.stack(images).transpose(0, 3, 1, 2))),
                indices=indices,
                size=(volume.shape[1], volume.shape[2]),
                step=step,
                native_shape=native.shape,
                native_affine=native.affine.tolist(),
                last=indices[-1] == len(stack) - 1,
                error=None,
            )

    def _failed(self, case: str, reason: str) -> ScanBatch:
        return ScanBatch(
            case=case,
            images=torch.zeros((0, self.reader.channels, STRIDE, STRIDE)),
            indices=[],
            size=(0, 0),
            step=(1.0, 1.0),
            native_shape=(0, 0, 0),
            native_affine=[],
            last=True,
            error=reason,
        )


class VolumeScan(TypedDict):
    """A whole scan at the network's spacing.

    ``error`` is set, and ``image`` empty, when the scan could not be read or brought to the network's spacing: one bad
    scan does not stop the rest.
    """

    case: str
    image: Tensor  # (X, Y, Z) int16 HU, canonical
    native_shape: tuple[int, int, int]
    native_affine: list[list[float]]
    canonical_shape: tuple[int, int, int]  # of the native grid made canonical
    step: tuple[float, float, float]  # network voxels a voxel of the canonical native grid, along X, Y, Z
    error: str | None


class ScanVolumes(IterableDataset[VolumeScan]):
    """Whole scans, read one at a time; loader workers share them out.

    Args:
        scans: what to predict on.
        spacing_mm: (x, y, z) of a network voxel; None keeps an axis as it is.
        resampling: how images come to that spacing, as in training.
        rank: of this process among
        world: processes, which share the scans.
    """

    def __init__(
        self,
        scans: Sequence[Scan],
        spacing_mm: SpacingMm,
        *,
        resampling: Resampling = "linear",
        rank: int = 0,
        world: int = 1,
    ) -> None:
        """Keep the arguments; scans are read when their turn comes."""
        super().__init__()
        self.scans, self.spacing_mm = list(scans)[rank::world], spacing_mm
        self.resampling: Resampling = resampling

    def __len__(self) -> int:
        """Scans of this process. What has a length is not read ahead by Lightning: one scan at a time is in memory."""
        return len(self.scans)

    def __iter__(self) -> Iterator[VolumeScan]:
        """Each scan in turn."""
        for scan in _share(self.scans):
            try:
                found = self._whole(scan)
            except (DataError, MemoryError) as error:
                found = _unread(scan.case, failure_reason(scan.case, error))
            yield found

    def _whole(self, scan: Scan) -> VolumeScan:
        native = _read(scan)
        order: Literal[1, 3] = 3 if self.resampling == "cubic" else 1
        volume, small = _resampled(native, self.spacing_mm, order, what=f"scan '{scan.case}'")
        x, y, z = (old / new for old, new in zip(volume.spacing_mm, small.spacing_mm, strict=True))
        return VolumeScan(
            case=scan.case,
            image=torch.from_numpy(np.ascontiguousarray(small.array)),
            native_shape=native.shape,
            native_affine=native.affine.tolist(),
            canonical_shape=volume.shape,
            step=(x, y, z),
            error=None,
        )


def failure_reason(case: str, error: DataError | MemoryError) -> str:
    """Why a scan could not be predicted, in words that help its user."""
    if isinstance(error, DataError):
        return str(error)
    return f"scan '{case}': too little memory to read and prepare it; crop it, or predict it on a larger machine"


def _share(scans: Sequence[Scan]) -> Sequence[Scan]:
    """The scans of this loader worker."""
    worker = get_worker_info()
    return scans[worker.id :: worker.num_workers] if worker is not None else scans


def _read(scan: Scan) -> Volume:
    """A scan in int16 HU; refused as in training, for a voxel that is not finite is no air."""
    native = scan.read()
    return native.with_array(as_hounsfield(native.array, 0, what=f"scan '{scan.case}'"))


def _resampled(native: Volume, spacing_mm: SpacingMm, order: Literal[1, 3], *, what: str) -> tuple[Volume, Volume]:
    """A scan in canonical axes, and at the network's spacing.

    Raises:
        DataError: no room for the latter, as where a header gives a spacing far too large.
    """
    volume = canonical(native)
    apart = " × ".join(f"{step:g}" for step in native.spacing_mm)
    shape = resampled_grid(volume.grid, spacing_mm).shape
    # For as many voxels as it has there was room before it was read.
    if math.prod(shape) > math.prod(native.shape):
        check_room(shape, what=f"{what}, whose voxels of {apart} mm are brought to the network's spacing")
    return volume, resample_image(volume, spacing_mm, order)


def _unread(case: str, reason: str) -> VolumeScan:
    return VolumeScan(
        case=case,
        image=torch.zeros((0, 0, 0), dtype=torch.int16),
        native_shape=(0, 0, 0),
        native_affine=[],
        canonical_shape=(0, 0, 0),
        step=(1.0, 1.0, 1.0),
        error=reason,
    )
