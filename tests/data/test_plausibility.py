import numpy as np
import pytest

from spineseg.data.plausibility import check_hounsfield, check_levels, content_box, cut_levels, histogram, level_shapes
from spineseg.geometry import Volume


def scan(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    image = rng.normal(-990, 10, (40, 40, 40))
    image[5:-5, 5:-5] = rng.normal(50, 20, (30, 30, 40))
    image[5:-5, 5:8] = rng.normal(-100, 15, (30, 3, 40))
    return image.astype(np.int16)


def bone() -> np.ndarray:
    labels = np.zeros((40, 40, 40), np.uint8)
    labels[15:25, 15:25, 10:20] = 20
    return labels


def test_histogram_counts_every_value() -> None:
    array = np.array([[[-32768, -1, 0, 32767, 0]]], np.int16)
    counts = histogram(array)
    assert counts.sum() == 5 and counts[0] == counts[32767] == counts[-1] == 1 and counts[32768] == 2


def test_plausible_scans_pass() -> None:
    verdict = check_hounsfield(scan(), None)
    assert not verdict.fatal and not verdict.findings and verdict.air_peak_hu is not None
    assert abs(verdict.air_peak_hu + 990) < 10
    padded = np.pad(scan(), 10, constant_values=-3024)
    assert not check_hounsfield(padded, None).fatal
    crop = scan()[6:-6, 5:-6]  # no air in view, but fat
    assert check_hounsfield(crop, None) == check_hounsfield(crop, None) and not check_hounsfield(crop, None).fatal


@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (lambda a: a + 1000, "air peak"),
        (lambda a: a - 1000, "air peak"),
        (lambda a: np.clip((a + 1000) / 8, 0, 255), "air peak"),
        (lambda a: np.zeros_like(a), "one value"),
    ],
)
def test_what_is_no_hu_is_fatal(spoil: object, word: str) -> None:
    verdict = check_hounsfield(spoil(scan()).astype(np.int16), None)  # type: ignore[operator]
    assert len(verdict.fatal) == 1 and word in verdict.fatal[0]


def test_the_mean_inside_the_mask_tells_a_mask_of_another_image() -> None:
    labels = bone()
    image = scan()
    assert check_hounsfield(image, labels).findings
    image[labels > 0] = -900
    assert "another image" in check_hounsfield(image, labels).fatal[0]
    image[labels > 0] = 300
    verdict = check_hounsfield(image, labels)
    assert not verdict.findings and verdict.bone_mean_hu == 300


def test_level_shapes_against_hand_made_parts() -> None:
    labels = np.zeros((10, 10, 30), np.uint8)
    labels[2:5, 2:5, 20:24] = 8
    labels[8, 8, 8] = 8
    labels[2:5, 2:5, 5:9] = 9
    shapes = level_shapes(Volume(labels, np.diag([2.0, 1, 1, 1])))
    assert shapes[8].voxels == 37 and shapes[8].parts == 2 and shapes[8].largest == 36 / 37
    assert shapes[8].low == (2, 2, 8) and shapes[8].high == (9, 9, 24)
    np.testing.assert_allclose(shapes[8].centre_mm, (6, 3, 21.5))
    assert shapes[9].parts == 1
    assert level_shapes(Volume(np.zeros((3, 3, 3), np.uint8), np.eye(4))) == {}


def blocks(*levels: int) -> Volume:
    """From cranial to caudal, 10 x 10 x 10 mm each."""
    labels = np.zeros((14, 14, 12 * len(levels) + 4), np.uint8)
    for position, level in enumerate(reversed(levels)):
        labels[2:12, 2:12, 12 * position + 2 : 12 * position + 12] = level
    return Volume(labels, np.eye(4))


def judge(volume: Volume, expected: int | None = None):
    return check_levels(level_shapes(volume), volume.affine, range(1, 25), expected)


def test_order_gaps_and_counts() -> None:
    assert judge(blocks(18, 19, 20, 21)).findings == ()
    assert judge(blocks(18, 19, 28, 20)).findings == ("class list: T13 not in data.source.levels",)
    assert judge(blocks(18, 20, 19, 21, 22)).findings == ("order: T12 lies below L1",)
    assert "wrong way" in judge(blocks(21, 20, 19)).fatal[0]
    assert judge(blocks(18, 20, 21)).findings == ("gap: no T12 between T11 and L2",)
    assert judge(blocks(18, 19), 17).findings == ("levels: 2 (T11 to T12), expected 17",)
    assert judge(Volume(np.zeros((3, 3, 3), np.uint8), np.eye(4))).findings[0].startswith("empty")


def test_fragments_and_crumbs() -> None:
    volume = blocks(18, 19, 20)
    volume.array[2:12, 2:12, 5:7] = 0
    volume.array[3, 3, 38:40] = 17
    findings = judge(volume).findings
    assert findings == ("fragments: L1 2 parts, largest 62%", "crumb: T10 2 voxels, 0.00 ml")
    cut = check_levels(level_shapes(volume), volume.affine, range(1, 25), None, cut=(20,))
    assert cut.findings == ("crumb: T10 2 voxels, 0.00 ml",), "the border may leave parts of a vertebra"


def test_cut_levels_after_padding_is_removed() -> None:
    rng = np.random.default_rng(0)
    image = rng.normal(0, 20, (14, 14, 40)).astype(np.int16)
    labels = np.zeros(image.shape, np.uint8)
    labels[5:9, 5:9, 0:8] = 21
    labels[5:9, 5:9, 12:20] = 20
    labels[5:9, 5:9, 32:40] = 19
    padded_image = np.pad(image, 4, constant_values=-2000)
    padded = np.pad(labels, 4)
    assert content_box(image) == ((0, 14), (0, 14), (0, 40))
    assert content_box(padded_image) == ((4, 18), (4, 18), (4, 44))
    for picture, mask in ((image, labels), (padded_image, padded)):
        shapes = level_shapes(Volume(mask, np.eye(4)))
        assert sorted(cut_levels(shapes.values(), content_box(picture))) == [19, 21]
    noisy = np.where(padded_image == -2000, rng.normal(-1000, 10, padded_image.shape), padded_image).astype(np.int16)
    assert cut_levels(level_shapes(Volume(padded, np.eye(4))).values(), content_box(noisy)) == ()
