"""Bones in voxels: HU of cortex, trabecular bone, discs and canal, before the scanner and after it."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, distance_transform_edt

from spineseg.phantom import SimulatedCase
from spineseg.phantom.anatomy import vertebrae
from spineseg.phantom.curves import spine_frames
from spineseg.phantom.outline import build_trunk
from spineseg.phantom.shapes import Array, Frame, VoxelGrid
from spineseg.phantom.skeleton import BonePainter, evaluate_bone
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
    middle = frame.world((0.0, -(size.depth + size.canal_depth) / 2 + 1.0, 0.0))
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
    image, labels, facts = case.image.array, case.labels.array, case.facts
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
    assert 20 <= facts["age_years"] <= 90
