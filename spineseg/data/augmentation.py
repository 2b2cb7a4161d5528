"""Augmentation of sagittal slices: mosaic, affine and intensity, each draw a function of the generator passed in.

Geometry is drawn first and applied in one warp from the stored slice to the network's image, so that nothing is
interpolated twice. Left-right is out of a sagittal slice's plane; head-foot is never flipped, since it would make the
levels' names untrue.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]  # (Y, Z, C), windowed to 0..1
HUImage = NDArray[np.int16]  # (Y, Z, C)
LabelMap = NDArray[np.uint8] | NDArray[np.uint16]  # (Y, Z)
Part = tuple[int, int, int, int]  # y0, y1, z0, z1, half-open
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

    @property
    def pointwise(self) -> bool:
        """Whether a pixel's new value depends on its old one alone, and 0 stays 0."""
        return not (self.contrast or self.noise or self.blur)

    def intensity(self, image: Image, rng: np.random.Generator, shown: Part | None = None) -> Image:
        """Vary a windowed image (Y, Z, C) in 0..1, in place where that can be.

        Args:
            image: to be varied.
            rng: what is drawn from.
            shown: part of the image outside of which it is 0.
        """
        gain, contrast, gamma, noise, blur = rng.uniform(-1, 1, 5)
        if shown is not None and self.pointwise:
            # The other kinds leave 0 at 0, so that the rest of the image need not be touched.
            self._vary(image[shown[0] : shown[1], shown[2] : shown[3]], gain, 0.0, gamma)
            return image
        self._vary(image, gain, contrast, gamma)
        if self.blur:
            blurred = cv2.GaussianBlur(image, (0, 0), max(abs(blur) * self.blur, 1e-3))
            image = cast(Image, blurred.reshape(image.shape))
        if self.noise:
            image += rng.standard_normal(image.shape, np.float32) * np.float32(abs(noise) * self.noise)
        return np.clip(image, 0, 1, out=image) if self.blur or self.noise else image

    def _vary(self, image: Image, gain: float, contrast: float, gamma: float) -> None:
        if self.brightness:
            image *= np.float32(1 + gain * self.brightness)
        if self.contrast:
            mean = image.mean(dtype=np.float32)
            image -= mean
            image *= np.float32(1 + contrast * self.contrast)
            image += mean
            np.maximum(image, 0, out=image)
        if self.brightness or self.contrast:
            np.minimum(image, 1, out=image)
        if self.gamma:
            image **= np.float32(np.exp(gamma * self.gamma))

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
    ) -> list[tuple[Matrix, Part]]:
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
        radians, factor = math.radians(angle * self.degrees), 1 + zoom * self.scale
        cosine, sine = factor * math.cos(radians), factor * math.sin(radians)
        side = -1.0 if mirror < self.flip_front_back else 1.0
        return np.array([[cosine, -sine * side], [sine, cosine * side]])


def _centre(shape: tuple[int, int]) -> Matrix:
    """Centre (z, y) of an image of ``shape`` (Y, Z), in pixel indices."""
    return np.array([shape[1] - 1, shape[0] - 1]) / 2


def _about(turn: Matrix, source: Matrix, target: Matrix) -> Matrix:
    """The map that takes the point ``source`` (z, y) to ``target`` and turns and zooms about it."""
    matrix = np.eye(3)
    matrix[:2, :2] = turn
    matrix[:2, 2] = target - turn @ source
    return matrix


class Patch(NamedTuple):
    """What a slice shows in the network's image: a rectangle of it whose first pixel is (top, left)."""

    top: int
    left: int
    image: HUImage | Image  # (h, w, C) HU; int16 if resized, else float32
    labels: LabelMap  # (h, w)


def shown_part(matrix: Matrix, shape: tuple[int, int], size: tuple[int, int]) -> Part:
    """The part of a slice of ``shape`` that can show in an image of ``size``: nothing else need be read."""
    (a, b, shift_z), (c, d, shift_y) = matrix[:2].tolist()
    spread = a * d - b * c
    corners = [(z - shift_z, y - shift_y) for z in (-1, size[1]) for y in (-1, size[0])]
    ys, zs = [(a * y - c * z) / spread for z, y in corners], [(d * z - b * y) / spread for z, y in corners]
    (y0, y1), (z0, z1) = (
        (min(max(math.floor(min(axis)) - 1, 0), n), min(max(math.ceil(max(axis)) + 2, 0), n))
        for axis, n in ((ys, shape[0]), (zs, shape[1]))
    )
    return y0, y1, z0, z1


def at_part(matrix: Matrix, part: Part) -> Matrix:
    """The matrix of a slice for its part alone."""
    moved = matrix.copy()
    moved[:2, 2] += matrix[:2, :2] @ np.array([part[2], part[0]])
    return moved


def warp(image: HUImage, labels: LabelMap, matrix: Matrix, size: tuple[int, int], outside: float) -> Patch | None:
    """Draw a slice (Y, Z, C) in HU and its labels (Y, Z) for the network's image of ``size``; None if nothing shows.

    HU are interpolated, not windowed values: an edge keeps the place where the scan has it. Without a rotation the
    axes are apart, and resizing takes a fifth of the time; the slice then starts at one of its own pixels, so that it
    may lie up to half of one from where the matrix has it, its labels with it. Zooming out far would need a prefilter,
    but the zoom here stays within a factor of two.

    Args:
        image: of the slice or of a part of it.
        labels: of the same pixels.
        matrix: of these pixels.
        size: (Y, Z) of the network's image.
        outside: HU of the patch's pixels that lie beyond a turned slice.
    """
    rows, columns, _ = image.shape
    border = np.array([[-0.5, columns - 0.5, -0.5, columns - 0.5], [-0.5, -0.5, rows - 0.5, rows - 0.5]])
    z, y = matrix[:2, :2] @ border + matrix[:2, 2:]
    (top, bottom), (left, right) = (
        (max(math.ceil(min(axis)), 0), min(math.ceil(max(axis)), n))
        for axis, n in ((y.tolist(), size[0]), (z.tolist(), size[1]))
    )
    if bottom <= top or right <= left:
        return None
    if matrix[0, 1] == 0 == matrix[1, 0]:
        return _resized(image, labels, matrix, (top, bottom, left, right))
    affine = matrix[:2] - np.array([[0, 0, left], [0, 0, top]])
    inner = (right - left, bottom - top)
    drawn = np.full((inner[1], inner[0], image.shape[2]), outside, np.float32)
    # cv2 warps at most four channels at once, and floats faster than int16.
    for low in range(0, image.shape[2], 4):
        source = image[:, :, low : low + 4].astype(np.float32)
        target = np.ascontiguousarray(drawn[:, :, low : low + 4])
        cv2.warpAffine(source, affine, inner, target, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_TRANSPARENT)
        drawn[:, :, low : low + 4] = target
    near = cv2.warpAffine(labels, affine, inner, flags=cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT)
    return Patch(top, left, drawn, cast(LabelMap, near))


def _resized(image: HUImage, labels: LabelMap, matrix: Matrix, shown: Part) -> Patch:
    """Draw a slice that is zoomed and mirrored, but not turned, into the rectangle ``shown``."""
    flips, starts, zooms, lows, lengths = [], [], [], [], []
    for axis, low, high in ((1, shown[0], shown[1]), (0, shown[2], shown[3])):
        n, zoom, shift = image.shape[1 - axis], float(matrix[axis, axis]), float(matrix[axis, 2])
        flips.append(-1 if zoom < 0 else 1)
        if zoom < 0:
            zoom, shift = -zoom, shift + zoom * (n - 1)
        # Pixel i of the resized part has its centre at (i + 0.5) ÷ zoom of the part.
        start = math.floor((low - shift - 0.5) / zoom + 1)
        if start < 0:  # more than half of the image's pixel lies before the slice's first
            low += 1
            start = math.floor((low - shift - 0.5) / zoom + 1)
        starts.append(slice(min(start, n - 1), min(start + math.ceil((high - low) / zoom) + 2, n)))
        zooms.append(zoom)
        lows.append(low)
        lengths.append(slice(0, max(high - low, 0)))
    mirrored = image[:: flips[0], :: flips[1]][starts[0], starts[1]]
    fy, fx = zooms
    drawn = cv2.resize(mirrored, None, fx=fx, fy=fy, interpolation=cv2.INTER_LINEAR)[lengths[0], lengths[1]]
    # cv2's nearest neighbours go by the ratio of the rounded sizes, which moves the far end.
    rows, columns = (
        np.minimum(((np.arange(n) + 0.5) / zoom).astype(np.intp), part.stop - part.start - 1) + part.start
        for n, zoom, part in zip(drawn.shape[:2], zooms, starts, strict=True)
    )
    near = labels[:: flips[0], :: flips[1]].take(rows, axis=0).take(columns, axis=1)
    return Patch(lows[0], lows[1], cast(HUImage, drawn.reshape(*drawn.shape[:2], -1)), near)
