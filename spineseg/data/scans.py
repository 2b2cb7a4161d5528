"""Whole scans to predict on: every native sagittal slice, in batches, at the network's pixel size."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from spineseg.data.slices import STRIDE, SliceReader
from spineseg.errors import DataError
from spineseg.geometry import Volume, canonical, resample_image


@dataclass(frozen=True)
class Scan:
    """A scan to predict on: ``read`` gives it in HU on its native grid."""

    case: str
    read: Callable[[], Volume]


class ScanBatch(TypedDict):
    """Some slices of one scan, in order along X of its canonical grid.

    ``error`` is set, and ``images`` empty, when the scan could not be read: one bad scan does not stop the rest.
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
        worker = get_worker_info()
        mine = self.scans[worker.id :: worker.num_workers] if worker is not None else self.scans
        for scan in mine:
            try:
                native = scan.read()
            except DataError as error:
                yield self._failed(scan.case, str(error))
                continue
            yield from self._batches(scan.case, native)

    def _batches(self, case: str, native: Volume) -> Iterator[ScanBatch]:
        volume = canonical(native)
        hu = np.clip(np.nan_to_num(volume.array, nan=-1024.0), -32768, 32767).astype(np.int16)
        small = resample_image(volume.with_array(hu), (None, self.pixel_mm, self.pixel_mm))
        pad = [(0, 0), *((0, -side % STRIDE) for side in small.shape[1:])]
        stack = np.pad(small.array, pad, constant_values=-1024)
        step = (volume.spacing_mm[1] / self.pixel_mm, volume.spacing_mm[2] / self.pixel_mm)
        for start in range(0, len(stack), self.batch_size):
            indices = list(range(start, min(start + self.batch_size, len(stack))))
            images = [self.reader.window(stack, index, count_before=self.reader.context) for index in indices]
            yield ScanBatch(
                case=case,
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
