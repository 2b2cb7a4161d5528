"""Weighted sums of logits over a sweep of windows, held only until no later window touches them."""

import itertools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from spineseg.predictions.windows import Windows

Order = tuple[int, int, int]


def carried(starts: tuple[int, ...], patch: int) -> int:
    """Most voxels that two neighbouring windows of an axis have in common."""
    return max((first + patch - second for first, second in itertools.pairwise(starts)), default=0)


def sums_shapes(windows: Windows, order: Order) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes (x, y, z) of the two buffers of ``StripSums``: what is carried to the next row, and the strip."""
    sweep, across, along = order
    carry, strip = [0, 0, 0], [0, 0, 0]
    carry[sweep] = carried(windows.starts[sweep], windows.patch[sweep])
    carry[across], carry[along] = windows.padded[across], windows.padded[along]
    strip[sweep], strip[across] = windows.patch[sweep], windows.patch[across]
    strip[along] = windows.padded[along]
    return tuple(carry), tuple(strip)


class StripSums:
    """Sums over windows taken in raster order: rows along the sweep axis, strips of a row, windows of a strip.

    A strip is as long as the volume along the third axis and as wide as a window along the others. Once its windows
    are in, the part that no later strip of the row touches leaves it: planes that the next row touches go to the
    carry, the others are final. So memory goes with the cross-section and with what windows share, not with the volume.

    Args:
        windows: of the volume.
        order: sweep axis, axis across strips, axis along strips.
        num_classes: channels of the logits.
        final: called with final sums (K, sweep, across, along) and the volume's voxel (sweep, across) that they begin
            at. They come in order: all parts of one range of planes from first to last, then the next range.
        device: where the sums lie.
    """

    def __init__(
        self,
        windows: Windows,
        order: Order,
        num_classes: int,
        final: Callable[[Tensor, int, int], None],
        device: torch.device,
    ) -> None:
        """Reserve both buffers; nothing else is allocated during the sweep."""
        self.windows, self.order, self.final = windows, order, final
        carry, strip = sums_shapes(windows, order)
        axes = (0, *(axis + 1 for axis in order))
        # In memory as the network writes them, (K, x, y, z); seen here as (K, sweep, across, along).
        self._carry = torch.zeros((num_classes, *carry), device=device).permute(axes)
        self._stored = torch.zeros((num_classes, *strip), device=device)
        self._strip = self._stored.permute(axes)
        self._weights = [torch.from_numpy(weights).to(device) for weights in windows.weights]

    def corners(self) -> Iterator[list[tuple[int, int, int]]]:
        """Strip after strip, the indices (along x, y, z) of its windows; what has become final leaves in between."""
        sweep, across, along = self.order
        starts = self.windows.starts
        for row in range(len(starts[sweep])):
            for strip in range(len(starts[across])):
                self._enter(row, strip)
                found = []
                for place in range(len(starts[along])):
                    index = [0, 0, 0]
                    index[sweep], index[across], index[along] = row, strip, place
                    found.append((index[0], index[1], index[2]))
                yield found
                self._leave(row, strip)

    def add(self, index: tuple[int, int, int], logits: Tensor) -> None:
        """Add the weighted logits (K, x, y, z) of the window at ``index`` along x, y, z."""
        wx, wy, wz = (self._weights[axis][index[axis]] for axis in range(3))
        weights = (wx[:, None, None] * wy[:, None]) * wz
        _, across, along = self.order
        start = self.windows.starts[along][index[along]]
        where = self._stored.narrow(along + 1, start, self.windows.patch[along])
        offset = 0
        for begin, length in self._pieces(self.windows.starts[across][index[across]], self.windows.patch[across]):
            where.narrow(across + 1, begin, length).addcmul_(
                logits.narrow(across + 1, offset, length), weights.narrow(across, offset, length)
            )
            offset += length

    def _pieces(self, start: int, length: int) -> Iterator[tuple[int, int]]:
        """Voxels ``start`` to ``start + length`` across, as (begin, length) in the strip, which is a ring."""
        size = self._strip.shape[2]
        while length > 0:
            begin = start % size
            part = min(length, size - begin)
            yield begin, part
            start, length = start + part, length - part

    def _enter(self, row: int, strip: int) -> None:
        """Fill what this strip has and the one before had not: with the carry, elsewhere with 0."""
        sweep, across, _ = self.order
        starts, patch = self.windows.starts, self.windows.patch
        kept = starts[sweep][row - 1] + patch[sweep] - starts[sweep][row] if row else 0
        stop = starts[across][strip] + patch[across]
        start = starts[across][strip - 1] + patch[across] if strip else 0
        # Windows that only touch: nothing is shared, and nothing between them is left out.
        for begin, length in self._pieces(start, stop - start):
            part = self._strip.narrow(2, begin, length)
            if kept:
                part[:, :kept].copy_(self._carry[:, :kept].narrow(2, start, length))
            part[:, kept:].zero_()
            start += length

    def _leave(self, row: int, strip: int) -> None:
        """Hand out what is final; carry what the next row adds to."""
        sweep, across, _ = self.order
        starts, patch = self.windows.starts, self.windows.patch
        plane, start = starts[sweep][row], starts[across][strip]
        stop = starts[across][strip + 1] if strip + 1 < len(starts[across]) else start + patch[across]
        done = starts[sweep][row + 1] - plane if row + 1 < len(starts[sweep]) else patch[sweep]
        for begin, length in self._pieces(start, stop - start):
            part = self._strip.narrow(2, begin, length)
            self._hand_out(part[:, :done], plane, start)
            if done < patch[sweep]:
                self._carry[:, : patch[sweep] - done].narrow(2, start, length).copy_(part[:, done:])
            start += length

    def _hand_out(self, block: Tensor, plane: int, row: int) -> None:
        """Give final sums without the air around a small volume."""
        first = [plane, row, 0]
        for dim, axis in enumerate(self.order):
            before, size = self.windows.before[axis], self.windows.shape[axis]
            start, stop = max(first[dim], before), min(first[dim] + block.shape[dim + 1], before + size)
            block = block.narrow(dim + 1, start - first[dim], stop - start)
            first[dim] = start - before
        self.final(block, first[0], first[1])
