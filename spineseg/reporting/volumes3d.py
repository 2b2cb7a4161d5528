"""Volumes and meshes as text that a page can carry: tiles of WebP for scans, deflated bytes for labels and meshes."""

import base64
import io
import math
import zlib
from collections.abc import Mapping
from typing import Any, Final, TypedDict

import numpy as np
from numpy.typing import NDArray

from spineseg.geometry import Array
from spineseg.reporting.mesh import Mesh
from spineseg.reporting.overlay import WINDOW_HU

# A side of a picture that every browser draws; tiles are padded to whole blocks so that none bleeds into the next.
PAGE_PX: Final = 2048
_BLOCK_PX: Final = 16
# Steps of a vertex in mm: a fortieth of the coarsest voxels that are drawn.
MESH_STEP_MM: Final = 0.05


class ScanTiles(TypedDict):
    """Sagittal slices of a scan as tiles: row by row on each page; a tile's rows run from head to foot."""

    tile: list[int]
    columns: int
    rows: int
    pages: list[str]


class MeshParts(TypedDict):
    """Meshes of labels: ``parts`` are (label, vertices, triangles); vertices in steps from ``origin_mm``."""

    origin_mm: list[float]
    step_mm: float
    parts: list[list[int]]
    data: str


def encode_scan(hu: Array, *, quality: int = 55) -> ScanTiles:
    """Encode a scan (X, Y, Z) in HU as 8-bit gray WebP (lossy): each sagittal slice is a tile, Y to the right, head up.

    Args:
        hu: HU, canonical RAS+; shown in the window of overlays.
        quality: of WebP, 0 to 100.
    """
    from PIL import Image

    low, high = WINDOW_HU
    gray = np.clip((hu.astype(np.float32) - low) / (high - low) * 255, 0, 255).round().astype(np.uint8)
    count, width, height = gray.shape
    tile = [math.ceil(side / _BLOCK_PX) * _BLOCK_PX for side in (width, height)]
    columns, rows = max(1, PAGE_PX // tile[0]), max(1, PAGE_PX // tile[1])
    columns = min(columns, count)
    rows = min(rows, math.ceil(count / columns))
    pages = []
    for first in range(0, count, columns * rows):
        used = min(count - first, columns * rows)
        page = np.zeros((math.ceil(used / columns) * tile[1], columns * tile[0]), np.uint8)
        for place in range(used):
            picture = gray[first + place].T[::-1]
            picture = np.pad(picture, ((0, tile[1] - height), (0, tile[0] - width)), mode="edge")
            top, left = place // columns * tile[1], place % columns * tile[0]
            page[top : top + tile[1], left : left + tile[0]] = picture
        stream = io.BytesIO()
        Image.fromarray(page).save(stream, format="WEBP", quality=quality, method=4)
        pages.append(base64.b64encode(stream.getvalue()).decode("ascii"))
    return {"tile": tile, "columns": columns, "rows": rows, "pages": pages}


def encode_labels(labels: Array) -> str:
    """Encode a label map (X, Y, Z) as deflated bytes, Z running fastest, in base64; exact.

    Numbers beyond 255, which only a one-class model's debris reaches, begin again at 1.
    """
    small = labels.astype(np.uint8) if labels.max(initial=0) < 256 else _small(labels)
    return _deflated(np.ascontiguousarray(small))


def encode_meshes(meshes: Mapping[int, Mesh]) -> MeshParts:
    """Encode the meshes of a label map: uint16 vertices, then uint16 triangles, label by label, deflated.

    Numbers beyond 255 begin again at 1, as in ``encode_labels``: a vertebra has one colour in all views.
    """
    filled = {label: mesh for label, mesh in meshes.items() if len(mesh.triangles)}
    origin = np.min([mesh.vertices.min(axis=0) for mesh in filled.values()], axis=0) if filled else np.zeros(3)
    parts, vertices, triangles = [], [], []
    for label, mesh in filled.items():
        steps = np.round((mesh.vertices - origin) / MESH_STEP_MM)
        vertices.append(np.clip(steps, 0, 65535).astype("<u2"))
        triangles.append(mesh.triangles.astype("<u2"))
        parts.append([int(_small(np.array(label))), len(mesh.vertices), len(mesh.triangles)])
    blocks: list[NDArray[Any]] = [*vertices, *triangles]
    data = np.concatenate([block.ravel() for block in blocks]) if blocks else np.zeros(0, "<u2")
    return {
        "origin_mm": [round(float(value), 3) for value in origin],
        "step_mm": MESH_STEP_MM,
        "parts": parts,
        "data": _deflated(data),
    }


def _small(labels: Array) -> NDArray[np.uint8]:
    return np.where(labels > 0, (labels - 1) % 255 + 1, 0).astype(np.uint8)


def _deflated(array: Array) -> str:
    return base64.b64encode(zlib.compress(array.tobytes(), 6)).decode("ascii")
