"""From final logits, block by block, to labels on the native grid, their confidence, and sums of probabilities."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spineseg.errors import DataError
from spineseg.predictions.strips import Order
from spineseg.predictions.windows import Size

CHUNK_VALUES = 2**18  # logits resampled at a time


@dataclass(frozen=True, eq=False)
class Axis:
    """Linear interpolation along one axis between grids with the same outer corners, as ``F.interpolate`` does.

    ``low`` and ``high`` (n,) are the two voxels that each new one lies between, ``share`` (n,) that of ``high``;
    ``changed`` is whether the grids differ.
    """

    size: int
    changed: bool
    low: NDArray[np.int64]
    high: NDArray[np.int64]
    share: NDArray[np.float32]

    def between(self, start: int, stop: int) -> tuple[int, int]:
        """Range of the new voxels whose ``high`` is one of ``start`` to ``stop``."""
        first, last = np.searchsorted(self.high, [start, stop])
        return int(first), int(last)

    def resample(self, block: Tensor, dim: int, first: int, last: int, origin: int) -> Tensor:
        """New voxels ``first`` to ``last`` along ``dim`` of a block whose first voxel there is ``origin``."""
        if not self.changed:
            return block.narrow(dim, first - origin, last - first)
        index = [torch.from_numpy(side[first:last] - origin).to(block.device) for side in (self.low, self.high)]
        shape = [-1 if n == dim else 1 for n in range(block.ndim)]
        share = torch.from_numpy(self.share[first:last]).to(block.device).view(shape)
        low, high = (block.index_select(dim, side) for side in index)
        return low.lerp_(high, share)


def axis_between(size: int, new_size: int, step: float | None = None) -> Axis:
    """How ``size`` voxels become ``new_size``; border voxels stand for what lies outside.

    The outer corner of the first voxel stays; ``step`` is a new voxel's length in old ones, None: that of the last
    voxel stays as well.
    """
    length = size / new_size if step is None else step
    centres = np.clip((np.arange(new_size) + 0.5) * length - 0.5, 0, size - 1)
    low = np.floor(centres).astype(np.int64)
    if size == new_size and np.isclose(length, 1, rtol=1e-6):
        return Axis(size, False, np.arange(size), np.arange(size), np.zeros(size, np.float32))
    return Axis(size, True, low, np.minimum(low + 1, size - 1), (centres - low).astype(np.float32))


def check_finite(*outputs: Tensor) -> None:
    """Refuse what a network gives where it is no number: no class would be the most probable, and no instance found.

    Raises:
        DataError: saying what to do.
    """
    if not all(bool(torch.isfinite(values).all()) for values in outputs):
        raise DataError(
            "the network gave logits that are not finite; predict in full precision (trainer.precision=32-true), and "
            "check that its training did not diverge"
        )


class Labelling:
    """Takes logits in the order of ``StripSums`` and keeps what CONTRACTS asks of them.

    Where the grids differ, the last voxels before a block are kept along each axis, for voxels between two blocks.

    Args:
        shape: (X, Y, Z) of the logits.
        grid: (X, Y, Z) of the native grid with the same field of view.
        order: axes of sweep, across and along.
        num_classes: channels.
        device: of the logits.
        step: voxels of the logits a native one, along X, Y, Z; None = the outer corners of both grids are the same.
    """

    def __init__(
        self,
        shape: Size,
        grid: Size,
        order: Order,
        num_classes: int,
        device: torch.device,
        step: tuple[float, float, float] | None = None,
    ) -> None:
        """Reserve the results."""
        self.order = order
        self._axes = [axis_between(shape[axis], grid[axis], None if step is None else step[axis]) for axis in order]
        self.labels: NDArray[np.uint8] = np.zeros(grid, np.uint8)
        self.confidence: NDArray[np.uint8] = np.zeros(grid, np.uint8)
        self.counts: NDArray[np.int64] = np.zeros((grid[0], num_classes), np.int64)
        self.sums: NDArray[np.float64] = np.zeros((grid[0], num_classes, num_classes), np.float64)
        self._classes = torch.arange(num_classes, device=device)
        # By axis: the last plane (K, 1, across, along), row (K, planes, 1, along) and column (K, planes, rows, 1).
        self._last: dict[int, Tensor] = {}

    def add(self, block: Tensor, start: Size) -> None:
        """Take final logits (K, sweep, across, along) that begin at ``start``."""
        sweep, across, along = self._axes
        stop = tuple(first + n for first, n in zip(start, block.shape[1:], strict=True))
        planes, rows, columns = (axis.between(*ends) for axis, *ends in zip(self._axes, start, stop, strict=True))
        block = self._with_last(block, start)
        origin = [end - n for end, n in zip(stop, block.shape[1:], strict=True)]
        section = max((planes[1] - planes[0]) * (rows[1] - rows[0]), block.shape[1] * block.shape[2])
        section *= max(1, -(-along.size // len(along.low)))
        step = max(1, CHUNK_VALUES // (len(block) * section))
        for first in range(*columns, step):
            part = along.resample(block, 3, first, min(first + step, columns[1]), origin[2])
            part = across.resample(part, 2, *rows, origin[1])
            part = sweep.resample(part, 1, *planes, origin[0])
            if part.numel():
                self._label(part, (planes[0], rows[0], first))

    def _with_last(self, block: Tensor, start: Size) -> Tensor:
        """The block with the last voxels before it along each axis that is resampled; its own are kept for the next."""
        for dim, axis in enumerate(self._axes, start=1):
            if not axis.changed:
                continue
            if not any(start[dim - 1 :]):
                # The first block of the volume, of its planes, or of its strip.
                ahead = [other.size for other in self._axes[dim:]]
                self._last[dim] = block.new_zeros((*block.shape[:dim], 1, *ahead))
            beside = (slice(first, first + n) for first, n in zip(start[dim:], block.shape[dim + 1 :], strict=True))
            kept = self._last[dim][(slice(None),) * (dim + 1) + tuple(beside)]
            last = block.narrow(dim, block.shape[dim] - 1, 1)
            if start[dim - 1]:
                block = torch.cat([kept, block], dim=dim)
            kept.copy_(last)
        return block

    def _label(self, logits: Tensor, start: tuple[int, int, int]) -> None:
        """Label native voxels (K, sweep, across, along) that begin at ``start``."""
        # Back to (K, x, y, z).
        back = [self.order.index(axis) for axis in range(3)]
        logits = logits.permute(0, *(axis + 1 for axis in back))
        where = tuple(slice(start[axis], start[axis] + n) for axis, n in zip(back, logits.shape[1:], strict=True))
        # By slice: (X, K, Y × Z).
        shares = torch.softmax(logits.transpose(0, 1).flatten(2), dim=1)
        best, label = shares.max(dim=1)
        check_finite(best)
        shape = logits.shape[1:]
        self.labels[where] = label.view(shape).to(torch.uint8).cpu().numpy()
        self.confidence[where] = (best * 255).round_().view(shape).to(torch.uint8).cpu().numpy()
        chosen = (label[:, None] == self._classes[:, None]).to(shares.dtype)
        self.counts[where[0]] += chosen.sum(dim=2).to(torch.int64).cpu().numpy()
        self.sums[where[0]] += torch.bmm(chosen, shares.transpose(1, 2)).double().cpu().numpy()
