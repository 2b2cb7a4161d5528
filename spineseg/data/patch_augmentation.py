"""Augmentation of patches: one affine map, mirrors and intensity, each draw a function of the generator passed in.

Only axes along which mirrored vertebrae keep their names may be mirrored: left and right are alike, front and back make
an anatomy that nobody has but names that hold, head and foot make the names untrue.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, cast

import cv2
import numpy as np
import torch
from torch.nn import functional

from spineseg.data.patches import CUBES, Size, Spacing
from spineseg.data.store import Box
from spineseg.data.volume_warp import Image, Labels, Matrix, centre, reach, rotation_matrix, warp, warp_labels
from spineseg.errors import ConfigError

AXES: Final = ("x", "y")
STEEPEST: Final = 45.0


@dataclass(frozen=True)
class VolumeAugmentation:
    """How training patches vary; every key is a range around "leave it alone".

    The kinds are nnU-Net's (Isensee et al., Nature Methods 2021), and so is the probability to turn. Each kind of
    intensity is drawn for itself, all at one probability; nnU-Net's lie between 0.1 and 0.3. The defaults are made for
    images of about 0 to 1.

    Args:
        spatial: probability that a patch is turned and zoomed.
        rotation: degrees about x, y and z within ±, at most 45.
        scale: zoom within 1 ± scale.
        mirror_axes: of x (left–right) and y (front–back, an ablation); each mirrored half of the time.
        intensity: probability of each of the kinds that follow.
        noise: standard deviation of white noise, up to this value.
        blur: standard deviation of a Gaussian point spread, up to this value in voxels.
        brightness: factor on the value above the patch's lowest within 1 ± brightness.
        contrast: factor on the distance to the patch's mean within 1 ± contrast, the patch's range kept.
        gamma: exponent drawn as exp(± gamma), on the patch's range mapped to 0..1.
        low_resolution: sampled at a share of the voxels along each axis, down to 1 - low_resolution, and back.
    """

    spatial: float = 0.2
    rotation: Sequence[float] = (15.0, 15.0, 15.0)
    scale: float = 0.25
    mirror_axes: Sequence[str] = ("x",)
    intensity: float = 0.15
    noise: float = 0.05
    blur: float = 1.0
    brightness: float = 0.25
    contrast: float = 0.25
    gamma: float = 0.3
    low_resolution: float = 0.5

    def __post_init__(self) -> None:
        """Check the ranges and the axes."""
        if "z" in self.mirror_axes:
            raise ConfigError(
                "data.augmentation.mirror_axes: z is head–foot; a mirrored spine counts its vertebrae the wrong way "
                "round, so that its labels would be untrue; take x, or y as an ablation"
            )
        unknown = sorted(set(self.mirror_axes) - set(AXES))
        if unknown:
            raise ConfigError(f"data.augmentation.mirror_axes: expected of x and y, found {', '.join(unknown)}")
        if len(self.rotation) != 3 or not all(0 <= degrees <= STEEPEST for degrees in self.rotation):
            raise ConfigError(
                f"data.augmentation.rotation: expected degrees about x, y, z of 0 to {STEEPEST:g}, "
                f"found {list(self.rotation)}"
            )
        for name in ("scale", "low_resolution"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"data.augmentation.{name}: expected 0 to below 1, found {getattr(self, name)}")

    def read_size(self, size: Size) -> Size:
        """Voxels to read along X, Y, Z so that a patch of ``size`` in cubic voxels is full however it is turned."""
        return _widest(size, tuple(self.rotation), self.scale) if self.spatial else size

    def drawn_size(self, size: Size, rng: np.random.Generator, spacing_mm: Spacing = CUBES) -> Size:
        """Voxels to read for the draw of a generator in this state."""
        matrix, _ = self._geometry(rng, spacing_mm)
        return size if matrix is None else reach(size, matrix)

    def __call__(
        self, image: Image, labels: Labels, size: Size, rng: np.random.Generator, spacing_mm: Spacing = CUBES
    ) -> tuple[Image, Labels]:
        """Vary a patch.

        Args:
            image: normalised, of ``read_size(size)`` or ``drawn_size(size, rng)``; may be written to.
            labels: class indices of the same voxels.
            size: of what is given back, about the same centre.
            rng: all that is drawn from.
            spacing_mm: of the voxels; bones are turned, not grids.
        """
        matrix, flips = self._geometry(rng, spacing_mm)
        if matrix is None:
            image, labels = centre(image, size), centre(labels, size)
        else:
            image, labels = warp(image, matrix, size), warp_labels(labels, matrix, size)
        return self.vary(np.ascontiguousarray(image[flips]), rng), np.ascontiguousarray(labels[flips])

    def _geometry(self, rng: np.random.Generator, spacing_mm: Spacing) -> tuple[Matrix | None, Box]:
        """Draw the map from a patch's voxels to what is read, None if nothing is turned, and the mirrors."""
        turned, angles, zoom = rng.random() < self.spatial, rng.uniform(-1, 1, 3), rng.uniform(-1, 1)
        mirrored = rng.random(3) < 0.5
        x, y, z = (
            slice(None, None, -1 if name in self.mirror_axes and chosen else None)
            for name, chosen in zip("xyz", mirrored, strict=True)
        )
        if not turned:
            return None, (x, y, z)
        turn = rotation_matrix(angles * self.rotation) / (1 + zoom * self.scale)
        # Voxels → mm, turned there, mm → voxels.
        return turn * np.array(spacing_mm) / np.array(spacing_mm)[:, None], (x, y, z)

    def vary(self, image: Image, rng: np.random.Generator) -> Image:
        """Vary the values of a patch, in place where that can be."""
        used, (noise, blur, bright, contrast, low, gamma) = rng.random(6) < self.intensity, rng.uniform(-1, 1, 6)
        if used[0] and self.noise:
            image += rng.standard_normal(image.shape, np.float32) * np.float32(abs(noise) * self.noise)
        if used[1] and self.blur:
            image = blurred(image, abs(blur) * self.blur)
        if used[2] and self.brightness:
            lowest = image.min()
            image -= lowest
            image *= np.float32(1 + bright * self.brightness)
            image += lowest
        if used[3] and self.contrast:
            lowest, highest, mean = image.min(), image.max(), image.mean(dtype=np.float32)
            image -= mean
            image *= np.float32(1 + contrast * self.contrast)
            image += mean
            np.clip(image, lowest, highest, out=image)
        if used[4] and self.low_resolution:
            image = coarsened(image, 1 - abs(low) * self.low_resolution)
        if used[5] and self.gamma and (span := np.ptp(image)) > 0:
            lowest = image.min()
            image -= lowest
            image /= span
            image **= np.float32(np.exp(gamma * self.gamma))
            image *= span
            image += lowest
        return image


def blurred(image: Image, sd: float) -> Image:
    """Convolve with a Gaussian of ``sd`` voxels; border voxels are repeated."""
    kernel = cv2.getGaussianKernel(2 * math.ceil(3 * sd) + 1, max(sd, 1e-3)).astype(np.float32)
    flat, one = np.ascontiguousarray(image).reshape(image.shape[0], -1), np.ones(1, np.float32)
    along_x = cv2.sepFilter2D(flat, -1, one, kernel, borderType=cv2.BORDER_REPLICATE).reshape(image.shape)
    planes = [cv2.sepFilter2D(plane, -1, kernel, kernel, borderType=cv2.BORDER_REPLICATE) for plane in along_x]
    return cast(Image, np.stack(planes).reshape(image.shape))


def coarsened(image: Image, share: float) -> Image:
    """Keep a share of the voxels along each axis, the nearest ones, and interpolate the rest."""
    coarse = tuple(max(round(n * share), 1) for n in image.shape)
    few = functional.interpolate(torch.from_numpy(image)[None, None], size=coarse, mode="nearest-exact")
    return cast(Image, functional.interpolate(few, size=image.shape, mode="trilinear")[0, 0].numpy())


@lru_cache(maxsize=8)
def _widest(size: Size, rotation: tuple[float, ...], scale: float) -> Size:
    steps = [np.linspace(-degrees, degrees, 25 if degrees else 1) for degrees in rotation]
    turns = rotation_matrix(np.stack(np.meshgrid(*steps), axis=-1).reshape(-1, 3)) / (1 - scale)
    x, y, z = (max(n, side) for n, side in zip(reach(size, turns), size, strict=True))
    return x, y, z
