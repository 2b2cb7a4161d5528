"""Bones in voxels: HU of cortex, trabecular bone, discs and canal, before the scanner and after it."""

from dataclasses import replace

import numpy as np
import pytest
from cc3d import connected_components
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, distance_transform_edt

from spineseg.phantom import SimulatedCase
from spineseg.phantom.anatomy import vertebrae
from spineseg.phantom.bones import Bone, Part
from spineseg.phantom.curves import spine_frames
from spineseg.phantom.outline import build_trunk
from spineseg.phantom.shapes import WORLD, Array, Ellipsoid, Frame, VoxelGrid
from spineseg.phantom.skeleton import BonePainter, evaluate_bone, placed_vertebrae
from spineseg.phantom.subject import Subject, draw_subject
from spineseg.phantom.textures import Texture
from spineseg.vertebrae import level_id

LUMBAR = VoxelGrid((112, 112, 120), (1.0, 1.0, 1.0), (-56.0, -78.0, -50.0))
L3 = level_id("L3")


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def person(seed: int = 0) -> tuple[Subject, dict[int, Frame]]:
    subject = replace(draw_subject(generator(seed), "easy"), trabecular_hu=150.0, cortical_hu=1000.0)
    return subject, dict(spine_frames(subject))


def paint(subject: Subject, frames: dict[int, Frame], grid: VoxelGrid) -> tuple[Array, NDArray[np.uint8]]:
    rng = generator(5)
    patches = Texture(Texture.draw(rng, 5.0, 2.0).tile, 0.8)
    painter = BonePainter(subject, grid, Texture.draw(rng, (1.0, 1.0, 2.5), 1.0), patches)
    canvas = np.full(grid.shape, 50.0, np.float32)
    labels = painter.skeleton(canvas, frames, build_trunk(subject, frames, generator(6)))
    return canvas, labels


@pytest.fixture(scope="module")
def lumbar() -> tuple[Array, NDArray[np.uint8]]:
    return paint(*person(), LUMBAR)


def around(point: tuple[float, float, float], canvas: Array, radius: int = 2) -> Array:
    i, j, k = (round((p - o) / s) for p, o, s in zip(point, LUMBAR.origin, LUMBAR.spacing, strict=True))
    return canvas[i - radius : i + radius + 1, j - radius : j + radius + 1, k - radius : k + radius + 1]


def test_hu_rise_from_the_middle_of_a_body_to_its_shell(lumbar: tuple[Array, NDArray[np.uint8]]) -> None:
    canvas, labels = lumbar
    mask = labels == L3
    depth = distance_transform_edt(mask)
    deep, near, shell = (canvas[mask & (depth > a) & (depth <= b)].mean() for a, b in ((9, 30), (2, 4), (0, 1)))
    assert deep == pytest.approx(150, abs=20)
    assert deep + 30 < near < shell
    assert 250 < shell < 620
    assert 15 < canvas[mask & (depth > 9)].std() < 60


def test_a_thin_shell_keeps_its_mass_on_coarse_voxels() -> None:
    subject, frames = person()
    sums = []
    for spacing in (0.7, 1.5):
        counts = tuple(round(n / spacing) for n in (90, 90, 50))
        origin = (-45.0, -70.0, -25.0)
        grid = VoxelGrid((counts[0], counts[1], counts[2]), (spacing,) * 3, origin)
        canvas, _ = paint(subject, frames, grid)
        sums.append(float((canvas - 50.0).sum()) * spacing**3)
    assert sums[1] == pytest.approx(sums[0], rel=0.05)


def test_canal_holds_fluid_and_above_l2_a_cord_and_discs_are_denser(lumbar: tuple[Array, NDArray[np.uint8]]) -> None:
    canvas, _ = lumbar
    subject, frames = person()
    size, frame = subject.sizes[L3], frames[L3]
    middle = frame.world((0.0, size.canal_y, 0.0))
    assert 10 < around(middle, canvas).mean() < 40
    disc = around(frame.world((0.0, 0.0, -(size.height + size.disc) / 2)), canvas, 1)
    assert 60 < disc.mean() < 120


def test_basivertebral_vein_is_darker_than_the_body_beside_it(lumbar: tuple[Array, NDArray[np.uint8]]) -> None:
    canvas, labels = lumbar
    subject, frames = person()
    back = -subject.sizes[L3].depth / 2
    vein = around(frames[L3].world((0.0, back + 4.0, 0.0)), canvas, 1)
    beside = around(frames[L3].world((0.0, back + 4.0, 6.0)), canvas, 1)
    assert vein.mean() < beside.mean() - 40
    assert (around(frames[L3].world((0.0, back + 4.0, 0.0)), labels.astype(np.float32), 1) == L3).all()


def test_osteoporosis_darkens_the_middle_and_leaves_the_cortex() -> None:
    subject, frames = person()
    found = []
    for trabecular in (150.0, 50.0):
        canvas, labels = paint(replace(subject, trabecular_hu=trabecular), frames, LUMBAR)
        mask = labels == L3
        outer = mask & ~binary_erosion(mask)
        found.append((canvas[distance_transform_edt(mask) > 9].mean(), np.percentile(canvas[outer], 95)))
    assert found[0][0] - found[1][0] == pytest.approx(100, abs=15)
    assert found[1][1] > 0.9 * found[0][1]


@pytest.mark.parametrize("face", ["top", "left"])
def test_a_level_that_the_border_cuts_keeps_all_its_pieces(face: str) -> None:
    """The labels of a smaller scan are those of a larger one, cut: below L3's body its facets and its tip are left."""
    subject, frames = person()
    size = subject.sizes[L3]
    below = int((frames[L3].origin[2] - size.height / 2 - 6.0 - LUMBAR.origin[2]) / LUMBAR.spacing[2])
    beside = int((frames[L3].origin[0] - size.canal_width / 2 - LUMBAR.origin[0]) / LUMBAR.spacing[0])
    shape = (LUMBAR.shape[0], LUMBAR.shape[1], below) if face == "top" else (beside, *LUMBAR.shape[1:])
    whole, cut = (label_map(subject, frames, grid) for grid in (LUMBAR, replace(LUMBAR, shape=shape)))
    assert np.array_equal(cut, whole[: shape[0], : shape[1], : shape[2]])
    if face == "top":
        assert connected_components((cut == L3).astype(np.uint8), connectivity=6, return_N=True)[1] >= 3


def label_map(subject: Subject, frames: dict[int, Frame], grid: VoxelGrid) -> NDArray[np.uint8]:
    labels = np.zeros(grid.shape, np.uint8)
    for placed in placed_vertebrae(subject, frames, grid):
        box, distance, _ = placed.evaluated
        labels[box.slices][distance < 0] = placed.bone.level
    return labels


@pytest.mark.parametrize("compact", [False, True])
def test_a_cortex_is_as_thick_as_its_part_says(compact: bool) -> None:
    """Marrow without bone in it leaves the cortex's mass: the area of a ball times the thickness, times its HU."""
    subject = replace(person()[0], cortical_hu=1000.0, trabecular_hu=900.0)
    grid = VoxelGrid((100, 100, 100), (0.5,) * 3, (-24.75,) * 3)
    masses = []
    for cortex_mm in (0.8, 1.6):
        part = Part(Ellipsoid((0.0, 0.0, 0.0), (20.0, 20.0, 20.0)), cortex_mm, 0.0, compact=compact)
        bone = Bone(WORLD, (part,))
        evaluated = evaluate_bone(bone, grid)
        assert evaluated is not None
        canvas = np.full(grid.shape, 0.0, np.float32)
        still = Texture(np.zeros((96, 96, 96), np.float32), 1.0)
        BonePainter(subject, grid, still, still).bone(canvas, bone, evaluated, joint=False)
        masses.append(float(canvas.sum(dtype=np.float64)) * 0.125)
    hu = 1000.0 * (1.1 if compact else 0.92)
    extra = (masses[1] - masses[0]) / (hu - 900.0)
    assert extra == pytest.approx(4 / 3 * np.pi * (19.2**3 - 18.4**3), rel=0.05)


def test_rotation_keeps_volumes_within_two_per_cent() -> None:
    subject, frames = person()
    volumes = []
    for turn in (0.0, -12.0):
        evaluated = evaluate_bone(
            next(bone for bone in vertebrae(subject, frames) if bone.level == L3), replace(LUMBAR, turn_deg=turn)
        )
        assert evaluated is not None
        volumes.append(int((evaluated[1] < 0).sum()))
    assert volumes[1] == pytest.approx(volumes[0], rel=0.02)


@pytest.mark.parametrize("name", ["csi_case", "kaggle_case"])
def test_hu_of_whole_vertebrae_after_the_scanner(name: str, request: pytest.FixtureRequest) -> None:
    case: SimulatedCase = request.getfixturevalue(name)
    image, labels = case.image.array, case.labels.array
    means = []
    for level in (level for level in range(level_id("T4"), level_id("L5") + 1) if (labels == level).sum() > 3000):
        mask = labels == level
        outer = image[mask & ~binary_erosion(mask)]
        means.append(float(image[mask].mean()))
        assert 140 < means[-1] < 480, level
        assert 230 < outer.mean() < 620, level
        assert 450 < np.percentile(outer, 95) < 1200, level
        assert -60 < np.percentile(image[mask], 5) < 280, level
    assert means
