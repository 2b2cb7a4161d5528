"""A scan with its label map over it, as one picture."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from spineseg.geometry import Volume, canonical
from spineseg.vertebrae import LEVELS, ORDER, level_name

WINDOW_HU = (-200.0, 1000.0)
HEIGHT_PX = 600
WIDTH_PX = 900  # of one plane: a stack of few slices is wide and low
FLAT = 0.15
HEADER_PX = 22
OPACITY = 0.4

Plane = NDArray[np.uint8]


def overlay(image: Volume, labels: Volume, *, named: bool, title: str) -> Image.Image:
    """Draw the sagittal and the coronal plane with most labelled voxels, plain and with the labels over them.

    Head up; front of the body on the left of the sagittal plane, the patient's right on the left of the coronal one. A
    few slices alone, lower than a ``FLAT`` of their width, are shown by the axial plane with most labelled voxels.

    Args:
        image: HU, native grid.
        labels: the same grid; levels, or vertebrae numbered from cranial to caudal.
        named: whether the values are levels, which get their name written beside them.
        title: a line above.
    """
    upright, marked = canonical(image), canonical(labels)
    counts = [(marked.array > 0).sum(axis=axes) for axes in ((1, 2), (0, 2), (0, 1))]
    x, y, z = (int(count.argmax()) if count.any() else len(count) // 2 for count in counts)
    spacing = upright.spacing_mm
    planes = [
        # Sagittal: columns from anterior to posterior; coronal: columns from right to left.
        (upright.array[x][::-1], marked.array[x][::-1], spacing[1] / spacing[2]),
        (upright.array[:, y][::-1], marked.array[:, y][::-1], spacing[0] / spacing[2]),
    ]
    extent = np.array(upright.shape) * spacing
    if extent[2] < FLAT * extent[:2].max():
        # Axial: columns from right to left, the front up.
        planes = [(upright.array[:, :, z][::-1], marked.array[:, :, z][::-1], spacing[0] / spacing[1])]
    font = ImageFont.load_default(14)
    tiles = []
    for hu, values, aspect in planes:
        low, high = WINDOW_HU
        gray = np.clip((hu.astype(np.float32) - low) / (high - low) * 255, 0, 255).astype(np.uint8)
        plain = np.repeat(gray.T[::-1, :, None], 3, axis=2)
        tiles += [_scaled(plain, aspect), _labelled(plain, values.T[::-1], aspect, named=named)]
    width = max(sum(tile.width for tile in tiles), round(ImageDraw.Draw(tiles[0]).textlength(title, font)) + 8)
    picture = Image.new("RGB", (width, HEADER_PX + max(tile.height for tile in tiles)))
    left = 0
    for tile in tiles:
        picture.paste(tile, (left, HEADER_PX))
        left += tile.width
    ImageDraw.Draw(picture).text((4, 3), title, fill=(255, 255, 255), font=font)
    return picture


def write_overlay(path: Path, image: Volume, labels: Volume, *, named: bool, title: str) -> None:
    """Write the picture atomically as PNG; see ``overlay``."""
    partial = path.with_name(f".partial-{path.name}")
    overlay(image, labels, named=named, title=title).save(partial, format="PNG")
    partial.replace(path)


def _labelled(plain: Plane, values: NDArray[np.integer], aspect: float, *, named: bool) -> Image.Image:
    tinted = plain.astype(np.float32)
    present = [int(value) for value in np.unique(values) if value]
    for value in present:
        # Numbered vertebrae take the levels' colours in turn.
        color = LEVELS[value if named else ORDER[(value - 1) % len(ORDER)]].color
        where = values == value
        tinted[where] = (1 - OPACITY) * tinted[where] + OPACITY * np.array(color, np.float32)
    tile = _scaled(tinted.round().astype(np.uint8), aspect)
    draw = ImageDraw.Draw(tile)
    for value in present:
        rows, columns = np.nonzero(values == value)
        if len(rows) < 20:
            continue
        place = (columns.mean() * tile.width / values.shape[1], rows.mean() * tile.height / values.shape[0])
        text = level_name(value) if named else str(value)
        draw.text(place, text, fill=(255, 255, 255), font=ImageFont.load_default(12), anchor="mm")
    return tile


def _scaled(array: Plane, aspect: float) -> Image.Image:
    """Scale a plane (rows = Z, columns) to fit ``HEIGHT_PX`` and ``WIDTH_PX``; ``aspect`` = mm a column ÷ mm a row."""
    ratio = array.shape[1] / array.shape[0] * aspect
    height = min(HEIGHT_PX, WIDTH_PX / ratio)
    size = max(1, round(height * ratio)), max(1, round(height))
    return Image.fromarray(np.ascontiguousarray(array)).resize(size)
