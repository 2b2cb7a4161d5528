"""Volumes and surfaces as a page carries them: exact labels, scans close to what they were, closed surfaces."""

import base64
import io
import zlib

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from spineseg.geometry import Volume
from spineseg.reporting.mesh import Mesh, decimated, label_meshes, smoothed, surface
from spineseg.reporting.overlay import WINDOW_HU
from spineseg.reporting.volumes3d import MESH_STEP_MM, encode_labels, encode_meshes, encode_scan


def volume_of(mesh: Mesh) -> float:
    """Signed volume by the divergence theorem: positive where triangles turn left seen from outside."""
    a, b, c = (mesh.vertices[mesh.triangles[:, corner]] for corner in range(3))
    return float(np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6)


def blob(seed: int) -> np.ndarray:
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(18, 22, 20)), 2.5)
    return noise > np.quantile(noise, 0.7)


def assert_closed(mesh: Mesh) -> None:
    edges = np.concatenate([mesh.triangles[:, pair] for pair in ([0, 1], [1, 2], [2, 0])])
    counts: dict[tuple[int, int], int] = {}
    for a, b in edges.tolist():
        counts[a, b] = counts.get((a, b), 0) + 1
    assert all(count == counts.get((b, a), 0) for (a, b), count in counts.items())


@pytest.mark.parametrize("seed", range(5))
def test_a_surface_is_closed_and_turned_outward_and_holds_the_masks_volume(seed: int) -> None:
    mask = blob(seed)
    affine = np.diag([1.5, -0.8, 2.0, 1.0]) if seed % 2 else np.diag([1.5, 0.8, 2.0, 1.0])
    affine[:3, 3] = (10, -20, 30)
    mesh = surface(mask, affine)
    assert_closed(mesh)
    expected = mask.sum() * 1.5 * 0.8 * 2.0
    # Corners of a blob of a few voxels are cut off; an upside-down triangle or a hole would cost far more.
    assert volume_of(mesh) == pytest.approx(expected, rel=0.1)
    assert volume_of(smoothed(mesh)) == pytest.approx(volume_of(mesh), rel=0.05)


def test_a_surface_agrees_with_marching_cubes() -> None:
    measure = pytest.importorskip("skimage.measure")
    grid = np.indices((40, 40, 40)).transpose(1, 2, 3, 0)
    mask = ((grid - 19.3) ** 2).sum(axis=-1) <= 14**2
    mesh = surface(mask, np.eye(4))
    vertices, triangles, _, _ = measure.marching_cubes(mask.astype(float), 0.5)
    assert volume_of(mesh) == pytest.approx(abs(volume_of(Mesh(vertices, triangles))), rel=0.01)
    distances = np.linalg.norm(smoothed(mesh).vertices - 19.3, axis=1)
    assert np.abs(distances - 14).max() < 0.9
    assert len(surface(np.zeros((4, 4, 4), np.bool_), np.eye(4)).triangles) == 0


@pytest.mark.parametrize("most", [200, 500, 1200])
def test_decimation_keeps_to_its_bound_and_to_the_shape(most: int) -> None:
    grid = np.indices((40, 40, 40)).transpose(1, 2, 3, 0)
    mesh = surface(((grid - 19.3) ** 2).sum(axis=-1) <= 14**2, np.eye(4))
    small = decimated(mesh, most)
    assert most / 4 < len(small.triangles) <= most
    assert volume_of(small) == pytest.approx(volume_of(mesh), rel=0.12)
    assert decimated(small, most) is small


def test_each_label_has_its_mesh_at_its_place_in_mm() -> None:
    array = np.zeros((30, 30, 60), np.uint16)
    for number, level in enumerate((3, 300)):
        array[8:20, 10:22, 8 + 25 * number : 24 + 25 * number] = level
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = (-30, 5, 100)
    meshes = label_meshes(Volume(array, affine), most_triangles=400)
    assert sorted(meshes) == [3, 300]
    for level, mesh in meshes.items():
        middle = (mesh.vertices.min(axis=0) + mesh.vertices.max(axis=0)) / 2
        expected = affine[:3, :3] @ np.argwhere(array == level).mean(axis=0) + affine[:3, 3]
        np.testing.assert_allclose(middle, expected, atol=1.0)
        assert len(mesh.triangles) <= 400


def test_labels_come_back_exactly() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 29, (7, 5, 9)).astype(np.uint8)
    found = np.frombuffer(zlib.decompress(base64.b64decode(encode_labels(labels))), np.uint8).reshape(7, 5, 9)
    np.testing.assert_array_equal(found, labels)
    numbers = np.array([[[0, 1, 255, 256, 511]]], np.uint16)
    assert list(zlib.decompress(base64.b64decode(encode_labels(numbers)))) == [0, 1, 255, 1, 1]


def test_a_number_beyond_255_is_the_same_in_the_planes_and_in_3d() -> None:
    box = surface(np.ones((3, 3, 3), np.bool_), np.eye(4))
    coded = encode_meshes(dict.fromkeys((1, 255, 256, 511), box))
    assert [part[0] for part in coded["parts"]] == [1, 255, 1, 1]


def test_meshes_come_back_to_a_step() -> None:
    meshes = {
        7: surface(blob(0), np.diag([2.0, 2, 2, 1])),
        9: surface(blob(1), np.eye(4)),
        11: Mesh(np.zeros((0, 3)), np.zeros((0, 3), np.int64)),
    }
    coded = encode_meshes(meshes)
    values = np.frombuffer(zlib.decompress(base64.b64decode(coded["data"])), "<u2").astype(np.int64)
    assert [part[0] for part in coded["parts"]] == [7, 9]
    at, after = 0, 3 * sum(part[1] for part in coded["parts"])
    for label, vertices, triangles in coded["parts"]:
        places = values[at : at + 3 * vertices].reshape(-1, 3) * coded["step_mm"] + coded["origin_mm"]
        np.testing.assert_allclose(places, meshes[label].vertices, atol=MESH_STEP_MM)
        found = values[after : after + 3 * triangles].reshape(-1, 3)
        np.testing.assert_array_equal(found, meshes[label].triangles)
        at, after = at + 3 * vertices, after + 3 * triangles
    assert after == len(values)
    assert encode_meshes({})["parts"] == []


@pytest.mark.parametrize("shape", [(5, 33, 47), (70, 250, 256), (1, 16, 16)])
def test_a_scan_comes_back_slice_by_slice(shape: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(1)
    hu = ndimage.gaussian_filter(rng.normal(0, 1, shape), 3, mode="nearest")
    hu = np.interp(hu, (hu.min(), hu.max()), WINDOW_HU)
    coded = encode_scan(hu, quality=80)
    pages = [np.asarray(Image.open(io.BytesIO(base64.b64decode(page))).convert("L")) for page in coded["pages"]]
    assert max(max(page.shape) for page in pages) <= 2048
    low, high = WINDOW_HU
    each, (width, height) = coded["columns"] * coded["rows"], coded["tile"]
    for x in range(0, shape[0], max(1, shape[0] // 5)):
        page, place = pages[x // each], x % each
        top, left = place // coded["columns"] * height, place % coded["columns"] * width
        tile = page[top : top + shape[2], left : left + shape[1]]
        expected = (hu[x].T[::-1] - low) / (high - low) * 255
        assert np.abs(tile - expected).mean() < 4
