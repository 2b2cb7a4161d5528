"""What a streamed prediction will need, before it begins."""

import itertools
import math
from dataclasses import dataclass
from typing import Final, NamedTuple

import psutil
import torch

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
    return _parts(windows, grid, num_classes, order=order, windows_a_batch=windows_a_batch).mb


class _Parts(NamedTuple):
    """Memory of a prediction in MB: what the processor holds, and what lies where the network does."""

    host_mb: float
    device_mb: float

    @property
    def mb(self) -> float:
        """All of it."""
        return self.host_mb + self.device_mb


def _parts(windows: Windows, grid: Size, num_classes: int, *, order: Order, windows_a_batch: int) -> _Parts:
    voxels = 2 * math.prod(windows.shape) + 2 * math.prod(grid)
    sums = sum(4 * num_classes * math.prod(shape) for shape in sums_shapes(windows, order))
    # The plane that interpolation along the sweep keeps.
    halo = 0 if windows.shape == grid else 4 * num_classes * windows.padded[order[1]] * windows.padded[order[2]]
    by_slice = 8 * grid[0] * num_classes * (num_classes + 1)
    window = 4 * num_classes * math.prod(windows.patch)
    chunk = 4 * CHUNK_VALUES * CHUNK_COPIES
    on_device = sums + halo + windows_a_batch * NETWORK_LOGITS * window + chunk
    return _Parts((voxels + by_slice) / 1e6, on_device / 1e6)


def forecast(
    windows: Windows,
    grid: Size,
    num_classes: int,
    windows_a_batch: int,
    limit_gb: float | None,
    device: torch.device | None = None,
) -> Forecast:
    """The order of axes that needs least, and as many windows at a time as the limits let through.

    Args:
        windows: of the volume.
        grid: (X, Y, Z) of the native grid.
        num_classes: channels of the logits.
        windows_a_batch: windows at a time, at most.
        limit_gb: of all memory, 10⁹ bytes; None = what the machine has left for what the processor holds.
        device: of the network; on a GPU sums and windows have to fit into what is free there.

    Raises:
        DataError: not even one window at a time fits.
    """
    on_gpu = device is not None and device.type == "cuda"
    limit_mb = psutil.virtual_memory().available / 1e6 if limit_gb is None else limit_gb * 1e3
    free_mb = free_gpu_mb(device) if on_gpu else math.inf
    orders: list[Order] = list(itertools.permutations(range(3)))  # type: ignore[arg-type]  # three at a time
    for batch in range(windows_a_batch, 0, -1):
        every = [_parts(windows, grid, num_classes, order=order, windows_a_batch=batch) for order in orders]
        least, order = min(zip(every, orders, strict=True), key=lambda one: one[0].mb)
        # What lies on a GPU takes nothing of what the machine has left.
        counted_mb = least.host_mb if on_gpu and limit_gb is None else least.mb
        if counted_mb <= limit_mb and least.device_mb <= free_mb:
            return Forecast(least.mb, order, batch)
    needs = (
        f"a volume of {' × '.join(map(str, windows.shape))} voxels with {num_classes} classes on a native grid of "
        f"{' × '.join(map(str, grid))} needs about "
    )
    if counted_mb <= limit_mb:
        raise DataError(
            f"{needs}{least.device_mb / 1e3:.2f} GB of the GPU, but it has {free_mb / 1e3:.2f} GB left; end what else "
            "uses it, predict with trainer.accelerator=cpu, crop the scan, or train at a larger spacing"
        )
    what = "the machine has left" if limit_gb is None else f"memory_limit_gb={limit_gb:g} allows"
    raise DataError(
        f"{needs}{counted_mb / 1e3:.2f} GB, but {what} {limit_mb / 1e3:.2f} GB; crop the scan, predict it on a larger "
        "machine, or train at a larger spacing"
    )


def free_gpu_mb(device: torch.device | None) -> float:
    """What a GPU has left for this process in MB: what nobody holds, and what PyTorch keeps for whoever asks next."""
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return (torch.cuda.mem_get_info(device)[0] + kept) / 1e6


def out_of_memory(error: torch.OutOfMemoryError, lower: str) -> DataError:
    """What to say of a case that met the end of a GPU's memory.

    Args:
        error: PyTorch's, whose first sentences say how much was asked for.
        lower: what the user can lower.
    """
    reason = ". ".join(str(error).split(". ")[:2])
    return DataError(
        f"the GPU has too little memory for this scan ({reason}); {lower}, end what else uses the GPU, or predict with "
        "trainer.accelerator=cpu"
    )
