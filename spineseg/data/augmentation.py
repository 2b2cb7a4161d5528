"""Augmentation of sagittal slices: mosaic, affine and intensity, each draw a function of the generator passed in.

Geometry is drawn first and applied in one warp from the stored slice to the network's image, so that nothing is
interpolated twice. Left-right is out of a sagittal slice's plane; head-foot is never flipped, since it would make the
levels' names untrue.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]  # (Y, Z, C), windowed to 0..1
HUImage = NDArray[np.int16]  # (Y, Z, C)
LabelMap = NDArray[np.uint8] | NDArray[np.uint16]  # (Y, Z)
Matrix = NDArray[np.float64]  # (3, 3), (z, y, 1) of the slice → (z, y, 1) of the network's image: cv2's order


@dataclass(frozen=True)
class SliceAugmentation:
    """How training slices vary; every key is a range around "leave it alone".

    Args:
        mosaic: probability that four slices share an image.
        close_mosaic_epochs: the last so many epochs go without mosaic, as Ultralytics' do.
        degrees: rotation within ± degrees.
        translate: shift within ± this share of the image (beyond what a slice larger than the image needs).
        scale: zoom within 1 ± scale.
        flip_front_back: probability to mirror anterior and posterior; an ablation, off by default.
        brightness: factor on the windowed value within 1 ± brightness (the value part of Ultralytics' HSV jitter).
        contrast: factor on the distance to the image's mean within 1 ± contrast.
        gamma: exponent drawn as exp(± gamma).
        noise: standard deviation of white noise, up to this value in windowed units.
        blur: standard deviation of a Gaussian point spread, up to this value in pixels: thick slices, smooth kernels.
    """

    mosaic: float = 1.0
    close_mosaic_epochs: int = 10
    degrees: float = 0.0
    translate: float = 0.1
    scale: float = 0.5
    flip_front_back: float = 0.0
    brightness: float = 0.4
    contrast: float = 0.0
    gamma: float = 0.0
    noise: float = 0.0
    blur: float = 0.0

    def uses_mosaic(self, rng: np.random.Generator, epoch: int, epochs: int) -> bool:
        """Draw whether this image is a mosaic; always draws, so that closing it moves no other draw."""
        return bool(rng.random() < self.mosaic) and epoch < epochs - self.close_mosaic_epochs

    def intensity(self, image: Image, rng: np.random.Generator) -> Image:
        """Vary a windowed image (..., C) in 0..1."""
        gain, contrast, gamma, noise, blur = rng.uniform(-1, 1, 5)
        if self.brightness:
            image = image * np.float32(1 + gain * self.brightness)
        if self.contrast:
            mean = image.mean(dtype=np.float32)
            image = (image - mean) * np.float32(1 + contrast * self.contrast) + mean
        image = np.clip(image, 0, 1)
        if self.gamma:
            image = image ** np.float32(np.exp(gamma * self.gamma))
        if self.blur:
            image = cv2.GaussianBlur(image, (0, 0), max(abs(blur) * self.blur, 1e-3)).reshape(image.shape)
        if self.noise:
            image = image + rng.standard_normal(image.shape, np.float32) * np.float32(abs(noise) * self.noise)
        return np.clip(image, 0, 1)

    def single(self, shape: tuple[int, int], size: tuple[int, int], rng: np.random.Generator) -> Matrix:
        """Draw where a slice of ``shape`` (Y, Z) goes in an image of ``size`` (Y, Z).

        The slice is centred and shifted; a slice larger than the image is shifted as far as its borders allow, so
        that all of it is seen over the epochs.
        """
        turn = self._linear(rng)
        extent = np.abs(turn) @ np.array([shape[1], shape[0]])
        slack = np.maximum(extent - np.array([size[1], size[0]]), 0) / 2
        reach = slack + self.translate * np.array([size[1], size[0]])
        shift = rng.uniform(-1, 1, 2) * reach
        return _about(turn, _centre(shape), _centre(size) + shift)

    def mosaic_of(
        self, shapes: Sequence[tuple[int, int]], size: tuple[int, int], rng: np.random.Generator
    ) -> list[tuple[Matrix, tuple[int, int, int, int]]]:
        """Draw where four slices go: for each its matrix and the part (y0, y1, z0, z1) of the slice that is shown.

        As Ultralytics': the slices meet at a point drawn in the middle half of a canvas twice the image's size, and
        the canvas is turned, zoomed and shifted as one.
        """
        height, width = size
        meet = np.array([rng.uniform(0.5, 1.5) * width, rng.uniform(0.5, 1.5) * height])
        turn = self._linear(rng)
        shift = rng.uniform(-self.translate, self.translate, 2) * np.array([width, height])
        canvas = _about(turn, np.array([width, height]) - 0.5, _centre(size) + shift)
        tiles = []
        for position, (rows, columns) in enumerate(shapes):
            below, right = divmod(position, 2)
            origin = meet - np.array([0 if right else columns, 0 if below else rows])
            origin = np.round(origin)
            low = np.maximum(-origin, 0).astype(int)
            high = np.minimum(np.array([2 * width, 2 * height]) - origin, [columns, rows]).astype(int)
            place = np.eye(3)
            place[:2, 2] = origin
            tiles.append((canvas @ place, (int(low[1]), int(high[1]), int(low[0]), int(high[0]))))
        return tiles

    def _linear(self, rng: np.random.Generator) -> Matrix:
        angle, zoom, mirror = rng.uniform(-1, 1), rng.uniform(-1, 1), rng.random()
        radians, factor = np.deg2rad(angle * self.degrees), 1 + zoom * self.scale
        turn = factor * np.array([[np.cos(radians), -np.sin(radians)], [np.sin(radians), np.cos(radians)]])
        if mirror < self.flip_front_back:
            turn = turn @ np.diag([1.0, -1.0])
        return turn


def _centre(shape: tuple[int, int]) -> Matrix:
    """Centre (z, y) of an image of ``shape`` (Y, Z), in pixel indices."""
    return np.array([shape[1] - 1, shape[0] - 1]) / 2


def _about(turn: Matrix, source: Matrix, target: Matrix) -> Matrix:
    """The map that takes the point ``source`` (z, y) to ``target`` and turns and zooms about it."""
    matrix = np.eye(3)
    matrix[:2, :2] = turn
    matrix[:2, 2] = target - turn @ source
    return matrix


def warp(image: HUImage, labels: LabelMap, matrix: Matrix, into_image: HUImage, into_labels: LabelMap) -> None:
    """Draw a slice (Y, Z, C) in HU and its labels (Y, Z) into the network's image and label map, where they show.

    HU are interpolated, not windowed values: half the bytes, and an edge keeps the place where the scan has it.
    """
    size = (into_labels.shape[1], into_labels.shape[0])
    affine = matrix[:2]
    # A border that is transparent leaves what other tiles have drawn; zooming out far would need a prefilter, but the
    # zoom here stays within a factor of two.
    flags = {"borderMode": cv2.BORDER_TRANSPARENT}
    channels = image.shape[2]
    if channels <= 4:
        target = into_image if channels > 1 else into_image[:, :, 0]
        source = image if channels > 1 else np.ascontiguousarray(image[:, :, 0])
        drawn = np.ascontiguousarray(target)
        cv2.warpAffine(source, affine, size, drawn, flags=cv2.INTER_LINEAR, **flags)
        into_image[...] = drawn.reshape(into_image.shape)
    else:  # cv2 warps at most four channels at once
        for channel in range(channels):
            drawn = np.ascontiguousarray(into_image[:, :, channel])
            plane = np.ascontiguousarray(image[:, :, channel])
            cv2.warpAffine(plane, affine, size, drawn, flags=cv2.INTER_LINEAR, **flags)
            into_image[:, :, channel] = drawn
    # cv2 draws into an array of another type only on a copy.
    same = labels if labels.dtype == into_labels.dtype else labels.astype(np.uint16)
    cv2.warpAffine(same, affine, size, into_labels, flags=cv2.INTER_NEAREST, **flags)
