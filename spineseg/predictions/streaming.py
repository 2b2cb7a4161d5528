"""Sliding-window inference whose memory does not grow with classes × volume: labels come out as windows go in."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spineseg.data.normalization import Normalization
from spineseg.data.sources.base import as_hounsfield
from spineseg.errors import ConfigError, DataError
from spineseg.predictions.class_slices import class_instances
from spineseg.predictions.forecast import Forecast, forecast
from spineseg.predictions.instances import SliceInstances
from spineseg.predictions.native_grid import Labelling
from spineseg.predictions.strips import StripSums
from spineseg.predictions.windows import Size, Windows, lay_windows

AXES = ("x", "y", "z")
Predict = Callable[[Tensor], Tensor]
Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class StreamedLabels:
    """What is known of each voxel of the native canonical grid, and of each sagittal slice.

    Attributes:
        labels: (X, Y, Z), class indices.
        confidence: (X, Y, Z), 255 × the highest class probability.
        counts: (X, K), voxels a slice and class.
        sums: (X, K, K), for each slice and class the summed class probabilities of its voxels.
    """

    labels: NDArray[np.uint8]
    confidence: NDArray[np.uint8]
    counts: NDArray[np.int64]
    sums: NDArray[np.float64]


@dataclass(frozen=True)
class SlidingWindow:
    """Predict a volume by overlapping windows, weighted by a Gaussian, at the memory of a strip of them.

    Logits are averaged over windows, interpolated linearly to the native grid and only then compared, block by block.

    Args:
        overlap: of neighbouring windows, 0 to below 1.
        mirror_axes: axes of test-time augmentation, of ``x``, ``y`` and ``z``: logits are averaged over all
            combinations of flips. Left and right look alike, head and foot do not.
        windows_a_batch: windows that the network sees at a time.
        memory_limit_gb: of what a case needs in all, 10⁹ bytes; None = what the machine has left.
    """

    overlap: float = 0.5
    mirror_axes: tuple[str, ...] = ()
    windows_a_batch: int = 1
    memory_limit_gb: float | None = None

    def __post_init__(self) -> None:
        """Check the values; a list of axes from a configuration becomes a tuple."""
        object.__setattr__(self, "mirror_axes", tuple(self.mirror_axes))
        if not 0 <= self.overlap < 1:
            raise ConfigError(f"overlap={self.overlap}: expected 0 to below 1; 0.5 is usual")
        if set(self.mirror_axes) - set(AXES) or len(set(self.mirror_axes)) < len(self.mirror_axes):
            raise ConfigError(f"mirror_axes={list(self.mirror_axes)}: expected each at most once of {', '.join(AXES)}")
        if self.windows_a_batch < 1:
            raise ConfigError(f"windows_a_batch={self.windows_a_batch}: expected at least 1")
        if self.memory_limit_gb is not None and not self.memory_limit_gb > 0:
            raise ConfigError(f"memory_limit_gb={self.memory_limit_gb}: expected a positive number or null")

    def forecast(
        self,
        shape: Size,
        *,
        patch_size: Size,
        num_classes: int,
        grid: Size | None = None,
        device: torch.device | None = None,
    ) -> Forecast:
        """What a case will need, and the order of its sweep.

        Args:
            shape: (X, Y, Z) at the network's spacing.
            patch_size: (x, y, z) of a window.
            num_classes: channels of the logits.
            grid: (X, Y, Z) of the native grid; None = ``shape``.
            device: of the network; None = the processor.

        Raises:
            DataError: more than ``memory_limit_gb``, or than the machine or the GPU has left; says how much and what to
                do.
        """
        windows = lay_windows(shape, patch_size, self.overlap)
        target = shape if grid is None else grid
        return forecast(windows, target, num_classes, self.windows_a_batch, self.memory_limit_gb, device)

    def __call__(
        self,
        predict: Predict,
        image: NDArray[np.int16],
        *,
        patch_size: Sequence[int],
        normalization: Normalization,
        num_classes: int,
        grid: Size | None = None,
        step: tuple[float, float, float] | None = None,
        device: torch.device | str = "cpu",
        progress: Progress | None = None,
    ) -> StreamedLabels:
        """Predict one volume.

        Args:
            predict: (B, 1, x, y, z) normalised → logits (B, K, x, y, z).
            image: (X, Y, Z) HU at the network's spacing, canonical.
            patch_size: (x, y, z) of a window; a smaller volume is padded with air.
            normalization: what the network was trained with.
            num_classes: K.
            grid: shape of the native canonical grid with the same field of view; None = the image's.
            step: network voxels a native one along X, Y, Z, where the field of view is only nearly the same, as after
                rounding to whole voxels; None = their shapes say it.
            device: of the network.
            progress: called with the windows done and their number.

        Raises:
            DataError: voxels or logits that are not finite, or too little memory; the latter before any compute.
        """
        if image.ndim != 3 or min(image.shape) < 1:
            raise DataError(f"expected an image of three axes with voxels, found shape {image.shape}")
        hu = as_hounsfield(image, 0, what="the image to predict on")
        shape, patch = _size(image.shape), _size(patch_size)
        target = shape if grid is None else _size(grid)
        where = torch.device(device)
        plan = self.forecast(shape, patch_size=patch, num_classes=num_classes, grid=target, device=where)
        windows = lay_windows(shape, patch, self.overlap)
        with torch.inference_mode():
            labelling = Labelling(shape, target, plan.order, num_classes, where, step)
            sums = StripSums(windows, plan.order, num_classes, labelling.add, where)
            done = 0
            for strip in sums.corners():
                for first in range(0, len(strip), plan.windows_a_batch):
                    chosen = strip[first : first + plan.windows_a_batch]
                    logits = self._logits(predict, _batch(windows, chosen, hu, normalization).to(where), num_classes)
                    for index, one in zip(chosen, logits, strict=True):
                        sums.add(index, one)
                    # Not held while the network works on the next.
                    del logits, one
                    done += len(chosen)
                    if progress is not None:
                        progress(done, windows.count)
        return StreamedLabels(labelling.labels, labelling.confidence, labelling.counts, labelling.sums)

    def _logits(self, predict: Predict, batch: Tensor, num_classes: int) -> Tensor:
        """Logits of a batch of windows, averaged over all combinations of the declared flips."""
        axes = [AXES.index(name) + 2 for name in self.mirror_axes]
        logits = predict(batch).float()
        if logits.shape != (len(batch), num_classes, *batch.shape[2:]):
            raise DataError(
                f"the network gave logits of shape {tuple(logits.shape)}; expected "
                f"{(len(batch), num_classes, *batch.shape[2:])}: windows, {num_classes} classes, and the window's size"
            )
        flips = [dims for n in range(1, len(axes) + 1) for dims in itertools.combinations(axes, n)]
        for dims in flips:
            logits = logits + predict(batch.flip(dims)).float().flip(dims)
        return logits / (len(flips) + 1) if flips else logits


def slice_instances(streamed: StreamedLabels, levels: Sequence[int]) -> list[SliceInstances]:
    """The slices of a label map as instances: one a level and slice, scored by its mean probability.

    Args:
        streamed: class index i + 1 is the i-th of
        levels: canonical ids.
    """
    means = streamed.sums / np.maximum(streamed.counts, 1)[:, :, None]
    return [
        class_instances(index, plane, mean, levels)
        for index, (plane, mean) in enumerate(zip(streamed.labels, means, strict=True))
    ]


def _batch(windows: Windows, indices: Sequence[Size], image: NDArray[np.int16], normalization: Normalization) -> Tensor:
    corners = [[windows.starts[axis][n] for axis, n in enumerate(index)] for index in indices]
    return torch.from_numpy(np.stack([windows.read(image, corner, normalization) for corner in corners])[:, None])


def _size(shape: Sequence[int]) -> Size:
    x, y, z = (int(n) for n in shape)
    return x, y, z
