"""What a streamed prediction will need, before it begins."""

import itertools
import math
from dataclasses import dataclass
from typing import Final

import psutil

from spineseg.errors import DataError
from spineseg.predictions.native_grid import CHUNK_VALUES
from spineseg.predictions.strips import Order, sums_shapes
from spineseg.predictions.windows import Size, Windows

# Of a window's logits in float32: what the network and its library hold at a time, windows before and after included.
NETWORK_LOGITS: Final = 8
# Of the logits that are compared at a time: softmax, one-hot, interpolation and copies.
CHUNK_COPIES: Final = 8


@dataclass(frozen=True)
class Forecast:
    """Memory of a prediction, and what follows from it.

    Attributes:
        mb: all of it, 10⁶ bytes.
        order: axes of sweep, across and along.
        windows_a_batch: as many as asked for, or fewer.
    """

    mb: float
    order: Order
    windows_a_batch: int


def forecast_mb(windows: Windows, grid: Size, num_classes: int, *, order: Order, windows_a_batch: int) -> float:
    """Memory in MB (10⁶ bytes): image, labels, confidence, sums, what is resampled at a time, an allowance for the net.

    Args:
        windows: of the volume.
        grid: (X, Y, Z) of the native grid.
        num_classes: channels of the logits.
        order: axes of sweep, across and along.
        windows_a_batch: windows at a time.
    """
    voxels = 2 * math.prod(windows.shape) + 2 * math.prod(grid)
    sums = sum(4 * num_classes * math.prod(shape) for shape in sums_shapes(windows, order))
    # The plane that interpolation along the sweep keeps.
    halo = 0 if windows.shape == grid else 4 * num_classes * windows.padded[order[1]] * windows.padded[order[2]]
    by_slice = 8 * grid[0] * num_classes * (num_classes + 1)
    window = 4 * num_classes * math.prod(windows.patch)
    chunk = 4 * CHUNK_VALUES * CHUNK_COPIES
    return (voxels + sums + halo + by_slice + windows_a_batch * NETWORK_LOGITS * window + chunk) / 1e6


def forecast(windows: Windows, grid: Size, num_classes: int, windows_a_batch: int, limit_gb: float | None) -> Forecast:
    """The order of axes that needs least, and as many windows at a time as the limit lets through.

    Raises:
        DataError: not even one window at a time fits.
    """
    limit_mb = psutil.virtual_memory().available / 1e6 if limit_gb is None else limit_gb * 1e3
    orders: list[Order] = list(itertools.permutations(range(3)))  # type: ignore[arg-type]  # three at a time
    for batch in range(windows_a_batch, 0, -1):
        found = [
            Forecast(
                forecast_mb(windows, grid, num_classes, order=order, windows_a_batch=batch),
                order,
                batch,
            )
            for order in orders
        ]
        least = min(found, key=lambda one: one.mb)
        if least.mb <= limit_mb:
            return least
    what = "the machine has left" if limit_gb is None else f"memory_limit_gb={limit_gb:g} allows"
    raise DataError(
        f"a volume of {' × '.join(map(str, windows.shape))} voxels with {num_classes} classes on a native grid of "
        f"{' × '.join(map(str, grid))} needs about {least.mb / 1e3:.2f} GB, but {what} {limit_mb / 1e3:.2f} GB; "
        "crop the scan, predict it on a larger machine, or train at a larger spacing"
    )
