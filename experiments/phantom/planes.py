"""Pictures of scans: mid-sagittal, coronal and axial planes through the vertebrae, one row of planes a scan."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scans import Scan

from spineseg.geometry import mm_to_index
from spineseg.metrics.localisation import body_centre_mm

WINDOW_HU: Final = (-350.0, 900.0)
PIXEL_MM: Final = 1.0
_GAP: Final = 6
_LINE: Final = 14


def draw(scans: Sequence[Scan], path: Path, columns: int = 1) -> None:
    """Draw rows of planes, ``columns`` scans beside each other, as a grey PNG."""
    blocks = [_block(scan) for scan in scans]
    rows = [blocks[start : start + columns] for start in range(0, len(blocks), columns)]
    width = max(sum(b.shape[1] + _GAP for b in row) for row in rows)
    canvas = Image.new("L", (width, sum(max(b.shape[0] for b in row) + _GAP for row in rows)), 0)
    top = 0
    for row in rows:
        left = 0
        for block in row:
            canvas.paste(Image.fromarray(block), (left, top))
            left += block.shape[1] + _GAP
        top += max(b.shape[0] for b in row) + _GAP
    path.parent.mkdir(parents=True, exist_ok=True)
    # Sixteen greys a window of 1250 HU would show steps; 64 do not, and halve the file.
    canvas.quantize(64).save(path, optimize=True)


def _block(scan: Scan) -> NDArray[np.uint8]:
    """The three planes of a scan beside each other under its name, pixels of 1 mm."""
    x, y, z = _places(scan)
    spacing = scan.image.spacing_mm
    planes = [
        _grey(scan.image.array[x], (spacing[1], spacing[2])),
        _grey(scan.image.array[:, y], (spacing[0], spacing[2])),
        _grey(scan.image.array[:, :, z], (spacing[0], spacing[1])),
    ]
    height = max(plane.shape[0] for plane in planes)
    padded = [np.pad(plane, ((0, height - plane.shape[0]), (0, _GAP))) for plane in planes]
    header = Image.new("L", (sum(p.shape[1] for p in padded), _LINE), 0)
    ImageDraw.Draw(header).text((2, 1), scan.name, fill=255)
    return np.concatenate([np.asarray(header), np.concatenate(padded, axis=1)])


def _places(scan: Scan) -> tuple[int, int, int]:
    """Voxel planes through the body centres: their median along x and y, and the middle vertebra's along z."""
    labels = scan.labels.array
    centres = []
    for level in np.unique(labels)[1:]:
        index = np.argwhere(labels == level)
        low = index.min(axis=0)
        box = tuple(slice(int(a), int(b) + 1) for a, b in zip(low, index.max(axis=0), strict=True))
        affine = scan.labels.affine.copy()
        affine[:3, 3] = affine[:3, :3] @ low + affine[:3, 3]
        centres.append(mm_to_index(scan.labels.affine, body_centre_mm(labels[box] == level, affine, level=int(level))))
    table = np.array(centres)
    middle = table[np.argsort(table[:, 2])[len(table) // 2]]
    return round(float(np.median(table[:, 0]))), round(float(np.median(table[:, 1]))), round(float(middle[2]))


def _grey(plane: NDArray[np.generic], spacing: tuple[float, float]) -> NDArray[np.uint8]:
    """A plane (right or front, up) as a picture: head or front on top, grey values of the window."""
    low, high = WINDOW_HU
    values = np.clip((plane.astype(np.float32) - low) / (high - low), 0, 1)
    picture = Image.fromarray(np.ascontiguousarray(np.rint(values.T[::-1] * 255).astype(np.uint8)))
    size = tuple(max(1, round(n * s / PIXEL_MM)) for n, s in zip(plane.shape, spacing, strict=True))
    return np.asarray(picture.resize((size[0], size[1]), Image.Resampling.BILINEAR))
