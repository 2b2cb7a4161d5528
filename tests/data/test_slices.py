"""Training slices: pure draws, targets straight from the label map."""

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from spineseg.data.augmentation import SliceAugmentation
from spineseg.data.planes import Planes
from spineseg.data.sampling import DrawSampler
from spineseg.data.slices import SliceDataset, SliceReader, SliceRef, collate, instance_targets
from spineseg.data.store import StoredCase, build_case, open_store
from spineseg.errors import ConfigError
from spineseg.geometry import Volume

NONE = SliceAugmentation(mosaic=0, translate=0, scale=0, brightness=0)
LEVELS = np.arange(256, dtype=np.uint8)
READER = SliceReader((-200.0, 1000.0), context=1, classes="vertebra", levels=tuple(range(8, 25)))


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, StoredCase]:
    """Two tiny cases of other shapes, with three levels, one with a hole, one in two parts."""
    folder: Path = tmp_path_factory.mktemp("store")
    rng = np.random.default_rng(0)
    for name, shape in (("a", (9, 40, 60)), ("b", (7, 36, 50))):
        image = rng.integers(-1000, 1500, shape).astype(np.int16)
        labels = np.zeros(shape, np.uint8)
        labels[1:-1, 5:25, 5:20] = 24
        labels[1:-1, 10:15, 10:14] = 0
        labels[1:-1, 5:25, 20:35] = 23
        labels[2:-2, 5:15, 38:48] = 22
        labels[2:-2, 20:30, 38:48] = 22
        build_case(folder / name, Volume(image, np.eye(4)), Volume(labels, np.eye(4)), (None, None, None), "key")
    return open_store(folder, ["a", "b"])


def dataset(cases: dict[str, StoredCase], **settings: object) -> SliceDataset:
    refs = [SliceRef(name, x) for name, case in cases.items() for x in range(case.shape[0])]
    defaults: dict[str, object] = {"size": (64, 64), "augmentation": SliceAugmentation(), "epochs": 20, "seed": 3}
    return SliceDataset(cases, refs, READER, **{**defaults, **settings})  # type: ignore[arg-type]


def same(a: object, b: object) -> bool:
    assert isinstance(a, dict) and isinstance(b, dict)
    return all(torch.equal(a[key], b[key]) if key != "ref" else a[key] == b[key] for key in a)


def test_a_draw_is_a_pure_function_of_seed_and_position(cases: dict[str, StoredCase]) -> None:
    forwards, other = dataset(cases), dataset(cases)
    np.random.seed(5)  # noqa: NPY002  the global generator must not matter
    torch.manual_seed(9)
    first = {draw: forwards[draw] for draw in range(40)}
    for draw in reversed(range(40)):
        assert same(other[draw], first[draw])
    assert not same(dataset(cases, seed=4)[0], first[0])


@pytest.mark.parametrize("context", [0, 1, 2])
@pytest.mark.parametrize(
    "settings",
    [
        SliceAugmentation(close_mosaic_epochs=0, gamma=0.2),
        SliceAugmentation(mosaic=0.5, degrees=20, flip_front_back=0.5),
        SliceAugmentation(mosaic=0.5, contrast=0.3, noise=0.1, blur=1.0),
    ],
)
def test_a_batch_drawn_in_place_is_its_samples_put_together(
    cases: dict[str, StoredCase], settings: SliceAugmentation, context: int
) -> None:
    reader = replace(READER, context=context)
    draws = [3, 17, 4, 40, 5]
    refs = dataset(cases).refs
    made = [SliceDataset(cases, refs, reader, size=(64, 96), augmentation=settings, epochs=20) for _ in range(2)]
    batch = collate(made[0].__getitems__(draws))
    expected = collate([made[1][draw] for draw in draws])
    assert batch["refs"] == expected["refs"]
    for key in ("images", "index_map", "classes", "boxes", "batch_index"):
        assert torch.equal(batch[key], expected[key])  # type: ignore[literal-required]
        assert batch[key].stride() == expected[key].stride()  # type: ignore[literal-required]
    assert batch["images"].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("mosaic", [0.0, 1.0])
def test_what_is_kept_in_memory_changes_nothing(cases: dict[str, StoredCase], mosaic: float) -> None:
    settings = SliceAugmentation(mosaic=mosaic, close_mosaic_epochs=0)
    kept, read = dataset(cases, augmentation=settings), dataset(cases, augmentation=settings)
    read._planes = Planes(cases, {"a": 9, "b": 7}, few=2, limit_bytes=0)
    assert kept._planes.all_fit and not read._planes.all_fit
    travelled = pickle.loads(pickle.dumps(kept))
    for draw in range(40):
        assert same(kept[draw], read[draw])
        assert same(kept[draw], travelled[draw])
    assert len(kept._planes._images) == 16
    assert len(read._planes._images) <= 2 * 3 and len(read._planes._labels) <= 2
    assert len(pickle.dumps(kept)) == len(pickle.dumps(dataset(cases, augmentation=settings)))


@pytest.mark.parametrize("window", [(-200.0, 1000.0), (150.5, 900.0), (-900.0, -100.5), (-40000.0, 40000.0)])
def test_varying_the_values_is_varying_the_pixels(cases: dict[str, StoredCase], window: tuple[float, float]) -> None:
    """Whole HU go through a table; here it is the same arithmetic on every pixel."""
    reader = replace(READER, window_hu=window)
    settings = SliceAugmentation(mosaic=0, translate=0, scale=0, brightness=0.4, gamma=0.3)
    data = SliceDataset(cases, [SliceRef("a", 4)], reader, size=(40, 60), augmentation=settings, epochs=20)
    for draw in range(5):
        rng = np.random.default_rng((0, draw))
        settings.uses_mosaic(rng, 0, 20)
        settings.single((40, 60), (40, 60), rng)
        expected = settings.intensity(reader.image(cases["a"], 4), rng)
        np.testing.assert_allclose(data[draw]["image"].permute(1, 2, 0).numpy(), expected, atol=1e-6)


def test_each_slice_is_drawn_once_in_a_round(cases: dict[str, StoredCase]) -> None:
    data = dataset(cases, length=5)
    refs = [data.ref_of(draw) for draw in range(32)]
    assert sorted(refs[:16]) == sorted(data.refs) == sorted(refs[16:])
    assert refs[:16] != refs[16:]


def test_without_variation_the_slice_arrives_as_it_is(cases: dict[str, StoredCase]) -> None:
    data = dataset(cases, augmentation=NONE, size=(64, 96))
    for draw in range(16):
        sample = data[draw]
        case, index = cases[sample["ref"].case], sample["ref"].x
        plain = dataset(cases, augmentation=None, size=None)
        expected = plain[plain.refs.index(sample["ref"])]
        y, z = case.shape[1:]
        # Centred in the canvas: both slices have even sides, so the shift is whole pixels.
        top, left = (64 - y) // 2, (96 - z) // 2
        window = (slice(top, top + y), slice(left, left + z))
        torch.testing.assert_close(
            sample["image"][(slice(None), *window)], expected["image"][:, :y, :z], atol=1e-5, rtol=0
        )
        assert torch.equal(sample["index_map"][window], expected["index_map"][:y, :z])
        np.testing.assert_array_equal(expected["index_map"][:y, :z] > 0, case.read_label(index) > 0)


def test_targets_keep_holes_and_parts(cases: dict[str, StoredCase]) -> None:
    labels = cases["a"].read_label(4)
    index_map, classes, boxes = instance_targets(labels, LEVELS, READER, 1)
    assert classes.tolist() == [0, 0, 0]
    assert index_map[12, 12] == 0 and (index_map[5:25, 5:20] > 0).sum() == 300 - 20
    np.testing.assert_array_equal(index_map > 0, labels > 0)
    for i, level in enumerate((22, 23, 24)):
        np.testing.assert_array_equal(index_map == i + 1, labels == level)
        rows, columns = np.nonzero(labels == level)
        assert boxes[i].tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def test_levels_get_their_class_and_others_are_background() -> None:
    reader = SliceReader((-200.0, 1000.0), 0, "levels", (22, 23))
    labels = np.zeros((8, 8), np.uint8)
    labels[0, 0:3], labels[2, 0:3], labels[4, 0:3], labels[6, 0:1] = 23, 24, 22, 23
    index_map, classes, _ = instance_targets(labels, LEVELS, reader, 2)
    assert classes.tolist() == [0, 1]
    assert not index_map[2].any() and index_map[6, 0] == 2


def test_boxes_are_hulls_and_instances_are_consecutive_after_any_variation(cases: dict[str, StoredCase]) -> None:
    data = dataset(cases, augmentation=SliceAugmentation(degrees=20, flip_front_back=0.5, close_mosaic_epochs=0))
    for draw in range(30):
        sample = data[draw]
        index_map = sample["index_map"].numpy()
        present = np.unique(index_map[index_map > 0])
        assert present.tolist() == list(range(1, len(sample["classes"]) + 1))
        for i, (x0, y0, x1, y1) in enumerate(sample["boxes"].tolist()):
            rows, columns = np.nonzero(index_map == i + 1)
            assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (x0, y0, x1, y1)
        assert sample["image"].shape == (3, 64, 64) and sample["image"].min() >= 0 and sample["image"].max() <= 1


def test_mosaic_shows_several_slices_and_closes_at_the_end(cases: dict[str, StoredCase]) -> None:
    settings = SliceAugmentation(mosaic=1, close_mosaic_epochs=2, scale=0.5)
    data = dataset(cases, augmentation=settings, epochs=4, length=8, size=(96, 96))
    most = {epoch: max(len(data[epoch * 8 + i]["classes"]) for i in range(8)) for epoch in range(4)}
    assert most[0] > 3 and most[1] > 3
    assert most[2] <= 3 and most[3] <= 3


def test_a_mosaic_of_many_numbered_instances_keeps_them_apart(tmp_path: Path) -> None:
    """Sources without levels number up to 255 instances in a slice; equal numbers of two tiles stay two."""
    labels = np.zeros((2, 40, 60), np.uint8)
    for i in range(40):
        y, z = divmod(i, 10)
        labels[:, 10 * y : 10 * y + 8, 6 * z : 6 * z + 4] = i + 1
    image = Volume(np.zeros(labels.shape, np.int16), np.eye(4))
    build_case(tmp_path / "m", image, Volume(labels, np.eye(4)), (None, None, None), "key")
    cases = open_store(tmp_path, ["m"])
    settings = SliceAugmentation(mosaic=1, close_mosaic_epochs=0, scale=0, translate=0)
    data = SliceDataset(
        cases, [SliceRef("m", 0), SliceRef("m", 1)], READER, size=(64, 128), augmentation=settings, epochs=50
    )
    for draw in range(10):
        sample = data[draw]
        extents = sample["boxes"][:, 2:] - sample["boxes"][:, :2]
        assert len(sample["boxes"]) > 40
        assert (extents <= torch.tensor([4, 8])).all()


def test_neighbours_are_channels_and_repeat_at_the_border(cases: dict[str, StoredCase]) -> None:
    case = cases["a"]
    whole = case.read_image(0, 9).astype(np.float32)
    expected = np.clip((whole + 200) / 1200, 0, 1)
    for index, triple in ((0, (0, 0, 1)), (4, (3, 4, 5)), (8, (7, 8, 8))):
        image = READER.image(case, index)
        for channel, x in enumerate(triple):
            np.testing.assert_allclose(image[:, :, channel], expected[x], atol=1e-6)


def test_collate_pads_at_the_far_ends(cases: dict[str, StoredCase]) -> None:
    data = dataset(cases, augmentation=None, size=None)
    samples = [data[4], data[12]]
    batch = collate(samples)
    assert batch["images"].shape[-2:] == batch["index_map"].shape[-2:] == (64, 64)
    assert batch["batch_index"].tolist() == [0, 0, 0, 1, 1, 1]
    size = torch.tensor([64, 64, 64, 64])
    centre, extent = batch["boxes"][:, :2], batch["boxes"][:, 2:]
    corners = torch.cat([centre - extent / 2, centre + extent / 2], 1) * size
    torch.testing.assert_close(corners, torch.cat([sample["boxes"] for sample in samples]))


@pytest.mark.parametrize("world", [1, 2, 3])
def test_processes_share_the_draws_without_repeats(world: int) -> None:
    for epoch in (0, 3):
        shares = []
        for rank in range(world):
            sampler = DrawSampler(10, rank=rank, world=world)
            sampler.set_epoch(epoch)
            shares += list(sampler)
            assert len(list(sampler)) == len(sampler)
        assert sorted(shares) == list(range(epoch * 10, epoch * 10 + 10))


def test_empty_splits_are_named(cases: dict[str, StoredCase]) -> None:
    with pytest.raises(ConfigError, match="no slices"):
        SliceDataset(cases, [], READER)
