"""Surfaces of label maps as small triangle meshes, for a view in 3D."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse

from spineseg.geometry import Volume, index_to_mm, resample_labels

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Of all labels of a map together: what a page draws in a few hundredths of a second.
MOST_TRIANGLES: Final = 45_000
# Finer than this no surface gets: a picture of a whole spine shows less.
MESH_SPACING_MM: Final = 1.5


@dataclass(frozen=True, eq=False)
class Mesh:
    """A triangle mesh: ``vertices`` (V, 3) in mm, RAS+; ``triangles`` (T, 3) of indices turn left seen from outside."""

    vertices: Floats
    triangles: Ints


def surface(mask: NDArray[np.bool_], affine: Floats) -> Mesh:
    """Closed surface of a mask by surface nets (Gibson 1998): one vertex a cell of 2×2×2 voxels that is not uniform.

    A vertex is the mean of the places where the cell's edges cross the surface; each voxel edge that crosses it gives a
    quad, here two triangles. The mask's border counts as surface.

    Args:
        mask: (X, Y, Z).
        affine: voxel → mm (4, 4).
    """
    padded = np.pad(np.asarray(mask, np.bool_), 1)
    corners = [
        padded[i : padded.shape[0] - 1 + i, j : padded.shape[1] - 1 + j, k : padded.shape[2] - 1 + k]
        for i in (0, 1)
        for j in (0, 1)
        for k in (0, 1)
    ]
    inside = np.sum(corners, axis=0, dtype=np.int8)
    active = (inside > 0) & (inside < 8)
    cells = np.argwhere(active)
    if not len(cells):
        return Mesh(np.zeros((0, 3)), np.zeros((0, 3), np.int64))
    values = np.stack([corner[active] for corner in corners], axis=1)
    offsets = np.array([(i, j, k) for i in (0, 1) for j in (0, 1) for k in (0, 1)])
    edges = [(a, b) for a in range(8) for b in range(a + 1, 8) if np.abs(offsets[a] - offsets[b]).sum() == 1]
    total, crossings = np.zeros((len(cells), 3)), np.zeros(len(cells))
    for a, b in edges:
        crosses = values[:, a] != values[:, b]
        total += crosses[:, None] * (offsets[a] + offsets[b]) / 2
        crossings += crosses
    # Cell (i, j, k) has the padded voxels i and i + 1; the padding shifts indices by one.
    points = cells + total / crossings[:, None] - 1
    number = np.full(active.shape, -1, np.int64)
    number[active] = np.arange(len(cells))
    triangles = np.concatenate([_quads(padded, number, axis) for axis in range(3)])
    if np.linalg.det(affine[:3, :3]) < 0:
        triangles = triangles[:, ::-1]
    return Mesh(np.asarray(index_to_mm(affine, points), np.float64), triangles)


def decimated(mesh: Mesh, most_triangles: int) -> Mesh:
    """Make a mesh coarser by vertex clustering (Rossignac and Borrel 1993) until it has at most so many triangles.

    Vertices that share a cube become their mean; triangles that lose a corner go. Cubes grow by steps.
    """
    if len(mesh.triangles) <= most_triangles:
        return mesh
    # A surface of area A in triangles of cubes with side s has about 2 A / s² of them.
    size = 0.9 * float(np.sqrt(2 * _area(mesh) / most_triangles))
    result = _clustered(mesh, size)
    while len(result.triangles) > most_triangles:
        size *= 1.1
        result = _clustered(mesh, size)
    return result


def smoothed(mesh: Mesh, rounds: int = 4) -> Mesh:
    """Take the voxels' steps off a mesh (Taubin 1995: a step in, a step out, which keeps the volume)."""
    if not len(mesh.triangles):
        return mesh
    pairs = np.concatenate([mesh.triangles[:, [0, 1]], mesh.triangles[:, [1, 2]], mesh.triangles[:, [2, 0]]])
    start, end = np.concatenate([pairs, pairs[:, ::-1]]).T
    count = np.bincount(start, minlength=len(mesh.vertices)).clip(1)
    side = len(mesh.vertices)
    mean = sparse.csr_array((1 / count[start], (start, end)), shape=(side, side))
    vertices = mesh.vertices
    for step in [0.5, -0.53] * rounds:
        vertices = vertices + step * (mean @ vertices - vertices)
    return Mesh(vertices, mesh.triangles)


def label_meshes(labels: Volume, most_triangles: int = 1600) -> dict[int, Mesh]:
    """Mesh each label of a map, smoothed and decimated, in mm, RAS+.

    Args:
        labels: (X, Y, Z) whole numbers; 0 is background.
        most_triangles: of each label; fewer where there are many labels.
    """
    x, y, z = (max(spacing, MESH_SPACING_MM) for spacing in labels.spacing_mm)
    coarse = resample_labels(labels, (x, y, z))
    meshes: dict[int, Mesh] = {}
    boxes = enumerate(ndimage.find_objects(coarse.array.astype(np.int32)), start=1)
    found = [(value, box) for value, box in boxes if box is not None]
    most_triangles = min(most_triangles, MOST_TRIANGLES // max(1, len(found)))
    for value, box in found:
        shift = np.eye(4)
        shift[:3, 3] = [part.start for part in box]
        whole = surface(coarse.array[box] == value, coarse.affine @ shift)
        meshes[value] = decimated(smoothed(whole), most_triangles)
    return meshes


def _quads(padded: NDArray[np.bool_], number: Ints, axis: int) -> Ints:
    """Triangles of all voxel edges along an axis whose ends differ: the four cells around an edge, outward turned."""
    other = [(axis + 1) % 3, (axis + 2) % 3]
    first = np.moveaxis(padded, [axis, *other], [0, 1, 2])
    cells = np.moveaxis(number, [axis, *other], [0, 1, 2])
    # Edges on the padded border never cross: it is background.
    low, high = first[:-1, 1:-1, 1:-1], first[1:, 1:-1, 1:-1]
    where = np.nonzero(low != high)
    a, b, c = where
    corners = np.stack([cells[a, b, c], cells[a, b + 1, c], cells[a, b + 1, c + 1], cells[a, b, c + 1]], axis=1)
    leaving = low[where]
    corners[~leaving] = corners[~leaving][:, ::-1]
    return np.concatenate([corners[:, [0, 1, 2]], corners[:, [0, 2, 3]]])


def _clustered(mesh: Mesh, size: float) -> Mesh:
    cubes = np.floor((mesh.vertices - mesh.vertices.min(axis=0)) / size).astype(np.int64)
    sides = cubes.max(axis=0) + 1
    flat = (cubes[:, 0] * sides[1] + cubes[:, 1]) * sides[2] + cubes[:, 2]
    _, cluster = np.unique(flat, return_inverse=True)
    count = np.bincount(cluster)[:, None]
    vertices = np.stack([np.bincount(cluster, mesh.vertices[:, axis]) for axis in range(3)], axis=1) / count
    triangles = cluster[mesh.triangles]
    a, b, c = triangles.T
    triangles = triangles[(a != b) & (b != c) & (c != a)]
    return Mesh(vertices, triangles)


def _area(mesh: Mesh) -> float:
    a, b, c = (mesh.vertices[mesh.triangles[:, corner]] for corner in range(3))
    return float(np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2)
