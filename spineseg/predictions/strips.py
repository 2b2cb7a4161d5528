"""Weighted sums of logits over a sweep of windows, held only until no later window touches them."""

import itertools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from spineseg.predictions.windows import Size, Windows

Order = tuple[int, int, int]
Final = Callable[[Tensor, Size], None]


def carried(starts: tuple[int, ...], patch: int) -> int:
    """Most voxels that two neighbouring windows of an axis have in common."""
    return max((first + patch - second for first, second in itertools.pairwise(starts)), default=0)


def sums_shapes(windows: Windows, order: Order) -> tuple[Size, Size, Size]:
    """Shapes (x, y, z) of the buffers of ``StripSums``: shared with the row before, with the strip before, the rest."""
    sweep, across, along = order
    patch, padded = windows.patch, windows.padded
    planes, rows = (carried(windows.starts[axis], patch[axis]) for axis in (sweep, across))
    shapes = []
    for lengths in (
        (planes, padded[across], padded[along]),
        (patch[sweep] - planes, rows, padded[along]),
        (patch[sweep] - planes, patch[across] - rows, patch[along]),
    ):
        by_axis = dict(zip(order, lengths, strict=True))
        shapes.append((by_axis[0], by_axis[1], by_axis[2]))
    return shapes[0], shapes[1], shapes[2]


class StripSums:
    """Sums over windows taken in raster order: rows along the sweep axis, strips of a row, windows of a strip.

    A window's sums lie in three buffers. Its first planes, which the row before may have reached, lie in one over the
    volume's whole cross-section; of its other planes, what the strip before may have reached lies in one as long as the
    volume; the rest in one as long as a window. When a window is in, the part that no later window of its strip touches
    moves: planes and rows that nothing else touches are final and leave, the others go to where the next strip or the
    next row looks for them. So each sum is held once, and memory goes with the smallest cross-section.

    Args:
        windows: of the volume.
        order: sweep axis, axis across strips, axis along strips.
        num_classes: channels of the logits.
        final: called with final sums (K, sweep, across, along) and the voxel of the volume (sweep, across, along) that
            they begin at. They come in raster order of equal ranges, as the windows do.
        device: where the sums lie.
    """

    def __init__(self, windows: Windows, order: Order, num_classes: int, final: Final, device: torch.device) -> None:
        """Reserve the buffers; during the sweep no more than a window's sums are allocated beside them."""
        self.windows, self.order, self.final = windows, order, final
        # As the network writes them: (K, x, y, z).
        self._row, self._strip, self._rest = (
            torch.zeros((num_classes, *shape), device=device) for shape in sums_shapes(windows, order)
        )
        self._weights = [torch.from_numpy(weights).to(device) for weights in windows.weights]

    def corners(self) -> Iterator[list[Size]]:
        """Strip after strip, the indices (along x, y, z) of its windows, in the order in which to add them."""
        rows, strips, places = (range(len(self.windows.starts[axis])) for axis in self.order)
        for row, strip in itertools.product(rows, strips):
            found = []
            for place in places:
                index = dict(zip(self.order, (row, strip, place), strict=True))
                found.append((index[0], index[1], index[2]))
            yield found

    def add(self, index: Size, logits: Tensor) -> None:
        """Add the weighted logits (K, x, y, z) of the window at ``index`` along x, y, z; what is final then leaves."""
        wx, wy, wz = (self._weights[axis][index[axis]] for axis in range(3))
        weights = ((wx[:, None, None] * wy[:, None]) * wz)[None]
        for sums, logit, weight in zip(self._sums_of(index), self._split(logits), self._split(weights), strict=True):
            sums.addcmul_(logit, weight)
        self._leave(index)

    def _split(self, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A window's values (C, x, y, z) in the parts that the buffers hold."""
        sweep, across = self.order[0] + 1, self.order[1] + 1
        first, other = values.tensor_split([self._row.shape[sweep]], dim=sweep)
        second, rest = other.tensor_split([self._strip.shape[across]], dim=across)
        return first, second, rest

    def _sums_of(self, index: Size) -> tuple[Tensor, Tensor, Tensor]:
        """A window's sums: views of the buffers."""
        _, across, along = self.order
        begin, length = self.windows.starts[along][index[along]], self.windows.patch[along]
        first = self._row.narrow(across + 1, self.windows.starts[across][index[across]], self.windows.patch[across])
        return first.narrow(along + 1, begin, length), self._strip.narrow(along + 1, begin, length), self._rest

    def _leave(self, index: Size) -> None:
        """Hand out or move what no later window of the strip touches."""
        sweep, across, along = (axis + 1 for axis in self.order)
        done = [self._done(axis, index[axis]) for axis in self.order]
        row, strip, rest = (sums.narrow(along, 0, done[2]) for sums in self._sums_of(index))
        sums = torch.cat([row, torch.cat([strip, rest], dim=across)], dim=sweep)
        leaving, staying = sums.tensor_split([done[1]], dim=across)
        final, next_row = leaving.tensor_split([done[0]], dim=sweep)
        self._hand_out(final, index)
        _refill(row.narrow(across, 0, done[1]), next_row, sweep)
        _refill(strip, staying.narrow(sweep, row.shape[sweep], strip.shape[sweep]), across)
        _refill(self._rest, self._rest.narrow(along, done[2], self._rest.shape[along] - done[2]).clone(), along)

    def _done(self, axis: int, index: int) -> int:
        """Voxels of a window along an axis that the next one does not touch; all of the last one's."""
        starts = self.windows.starts[axis]
        return starts[index + 1] - starts[index] if index + 1 < len(starts) else self.windows.patch[axis]

    def _hand_out(self, block: Tensor, index: Size) -> None:
        """Give final sums (K, x, y, z) without the air around a small volume."""
        first = [self.windows.starts[axis][index[axis]] for axis in range(3)]
        for axis, (before, size) in enumerate(zip(self.windows.before, self.windows.shape, strict=True)):
            start, stop = max(first[axis], before), min(first[axis] + block.shape[axis + 1], before + size)
            block = block.narrow(axis + 1, start - first[axis], stop - start)
            first[axis] = start - before
        sweep, across, along = self.order
        self.final(block.permute(0, sweep + 1, across + 1, along + 1), (first[sweep], first[across], first[along]))


def _refill(buffer: Tensor, values: Tensor, dim: int) -> None:
    """Overwrite a buffer with values, fewer along ``dim``, and zeros after them."""
    filled, empty = buffer.tensor_split([values.shape[dim]], dim=dim)
    filled.copy_(values)
    empty.zero_()
