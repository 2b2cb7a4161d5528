import pickle
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spineseg.data.store import StoredCase, adopt_case, as_spacing, build_case, open_store, spacing_key, stored_key
from spineseg.errors import ConfigError, DataError, FormatError
from spineseg.geometry import Volume, canonical, resample_image, restore

Spine = Callable[..., tuple[Volume, Volume]]
NATIVE = (None, None, None)


@pytest.mark.parametrize("axes", ["RAS", "LPS", "PIR", "SRA"])
@pytest.mark.parametrize("turn_deg", [0.0, 17.0])
def test_native_store_gives_every_voxel_back(tmp_path: Path, make_spine: Spine, axes: str, turn_deg: float) -> None:
    image, labels = make_spine((19, 28, 20), axes=axes, turn_deg=turn_deg)
    build_case(tmp_path / "a", image, labels, NATIVE, "key")
    case = StoredCase(tmp_path / "a")
    whole = (slice(None), slice(None), slice(None))
    stored = Volume(case.read_image_box(whole), case.affine)
    assert stored.orientation == "RAS" and case.shape == canonical(image).shape and case.key == "key"
    np.testing.assert_array_equal(restore(stored, case.native).array, image.array)
    mask = restore(Volume(case.read_label_box(whole), case.affine), case.native)
    np.testing.assert_array_equal(mask.array, labels.array)
    np.testing.assert_array_equal(mask.affine, image.affine)
    upright = canonical(labels).array
    np.testing.assert_array_equal(case.label_voxels, np.count_nonzero(upright, axis=(1, 2)))
    for level, box in case.level_boxes.items():
        inside = np.zeros(upright.shape, bool)
        inside[box] = True
        assert (inside | (upright != level)).all() and (upright[box] == level).any()


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_any_box_is_the_arrays(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    rng = np.random.default_rng(0)
    shape = data.draw(st.tuples(*[st.integers(1, 150)] * 3).filter(lambda s: s[0] * s[1] * s[2] < 200_000))
    array = rng.integers(-1024, 3000, shape).astype(np.int16)
    labels = rng.integers(0, 28, shape).astype(np.uint8)
    folder = tmp_path_factory.mktemp("store") / "c"
    build_case(folder, Volume(array, np.eye(4)), Volume(labels, np.eye(4)), NATIVE, "k")
    case = StoredCase(folder)
    bounds = [sorted((data.draw(st.integers(0, n)), data.draw(st.integers(0, n)))) for n in shape]
    box = tuple(slice(low, high) for low, high in bounds if low < high)
    if len(box) == 3:
        np.testing.assert_array_equal(case.read_image_box(box), array[box])
        np.testing.assert_array_equal(case.read_label_box(box), labels[box])
    x = data.draw(st.integers(0, shape[0] - 1))
    np.testing.assert_array_equal(case.read_label(x), labels[x])
    np.testing.assert_array_equal(case.read_image(x, x + 1), array[x : x + 1])


def test_resampled_store_keeps_image_and_label_on_one_grid(tmp_path: Path, make_spine: Spine) -> None:
    image, labels = make_spine(axes="PIR", spacing_mm=(2.0, 0.7, 1.3))
    build_case(tmp_path / "a", image, labels, (None, 1.0, 1.0), "k")
    case = StoredCase(tmp_path / "a")
    np.testing.assert_allclose(case.spacing_mm, (2.0, 1.0, 1.0), rtol=1e-6)
    assert case.read_label(5).shape == case.read_image(5, 6)[0].shape == case.shape[1:]
    np.testing.assert_array_equal(case.native.affine, image.affine)
    bone = case.read_image(6, 7)[0][case.read_label(6) > 0]
    assert 150 < bone.mean() < 350


def test_cubic_store_holds_the_cubic_image_and_the_same_mask(tmp_path: Path, make_spine: Spine) -> None:
    image, labels = make_spine(axes="PIR", spacing_mm=(2.0, 0.7, 1.3))
    spacing = (1.0, 1.0, 1.0)
    build_case(tmp_path / "a", image, labels, spacing, "k")
    build_case(tmp_path / "b", image, labels, spacing, "k", "cubic")
    linear, cubic = StoredCase(tmp_path / "a"), StoredCase(tmp_path / "b")
    whole = (slice(None), slice(None), slice(None))
    np.testing.assert_array_equal(linear.read_label_box(whole), cubic.read_label_box(whole))
    expected = resample_image(canonical(image), spacing, order=3).array
    np.testing.assert_array_equal(cubic.read_image_box(whole), expected)
    assert (linear.read_image_box(whole) != expected).any()


def test_boxes_outside_are_refused(tmp_path: Path, make_spine: Spine) -> None:
    build_case(tmp_path / "a", *make_spine(), NATIVE, "k")
    case = StoredCase(tmp_path / "a")
    for low, high in ((-1, 2), (0, 15)):
        with pytest.raises(DataError, match="outside the stored shape"):
            case.read_image(low, high)


def test_without_mask(tmp_path: Path, make_spine: Spine) -> None:
    build_case(tmp_path / "a", make_spine()[0], None, NATIVE, "k")
    case = StoredCase(tmp_path / "a")
    assert not case.has_label and not case.label_voxels.any() and not case.read_label(3).any() and not case.level_boxes


def test_pickle_carries_the_path_alone_and_threads_share_an_open_case(tmp_path: Path, make_spine: Spine) -> None:
    image, labels = make_spine()
    build_case(tmp_path / "a", image, labels, NATIVE, "k")
    case = StoredCase(tmp_path / "a")
    case.read_image(0, 2)
    assert len(pickle.dumps(case)) < 1000
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(case)).read_image(0, 2), image.array[:2])
    with ThreadPoolExecutor(4) as pool:
        slices = list(pool.map(lambda x: case.read_label(x % 14), range(60)))
    assert all((found == labels.array[x % 14]).all() for x, found in enumerate(slices))


def test_a_case_bears_its_name_only_when_whole(
    tmp_path: Path, make_spine: Spine, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, labels = make_spine()
    build_case(tmp_path / "a", image, labels, NATIVE, "old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("spineseg.data.store.write_json", fail)
    with pytest.raises(OSError, match="No space"):
        build_case(tmp_path / "a", image, labels, NATIVE, "new")
    with pytest.raises(OSError, match="No space"):
        build_case(tmp_path / "b", image, labels, NATIVE, "new")
    assert stored_key(tmp_path / "a") == "old" and stored_key(tmp_path / "b") is None
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_damage_is_named(tmp_path: Path, make_spine: Spine) -> None:
    build_case(tmp_path / "a", *make_spine(), NATIVE, "k")
    with pytest.raises(DataError, match="b, c"):
        open_store(tmp_path, ["a", "b", "c"])
    assert open_store(tmp_path, ["a"])["a"].shape == (14, 16, 18)
    path = tmp_path / "a" / "image.b2nd"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(DataError, match=r"image\.b2nd: the prepared volume is damaged.*prepare"):
        StoredCase(tmp_path / "a").read_image(0, 1)
    meta = tmp_path / "a" / "meta.json"
    meta.write_text(meta.read_text().replace("store 1", "store 0"))
    assert stored_key(tmp_path / "a") is None
    with pytest.raises(FormatError):
        _ = StoredCase(tmp_path / "a").shape


def test_adopted_case_is_the_same(tmp_path: Path, make_spine: Spine) -> None:
    build_case(tmp_path / "one" / "a", *make_spine(), NATIVE, "k")
    adopt_case(tmp_path / "one" / "a", tmp_path / "two" / "a")
    assert stored_key(tmp_path / "two" / "a") == "k"
    np.testing.assert_array_equal(
        StoredCase(tmp_path / "one" / "a").read_label(6), StoredCase(tmp_path / "two" / "a").read_label(6)
    )


def test_spacing_names() -> None:
    assert spacing_key(as_spacing([None, 1, 1.5])) == "native_1_1.5"
    assert as_spacing(None) == NATIVE
    assert spacing_key((1.5, 1.5, 1.5), "cubic") != spacing_key((1.5, 1.5, 1.5)) == "1.5_1.5_1.5"
    with pytest.raises(ConfigError, match=r"data\.resampling=order3: expected linear or cubic"):
        spacing_key(NATIVE, "order3")  # type: ignore[arg-type]
    for wrong in ([1, 1], [0, 1, 1], [None, -1, 1]):
        with pytest.raises(DataError, match="spacing_mm"):
            as_spacing(wrong)


def test_slice_reads_are_fast(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    array = rng.normal(0, 20, (64, 256, 400)).astype(np.int16)
    build_case(tmp_path / "a", Volume(array, np.eye(4)), None, NATIVE, "k")
    case = StoredCase(tmp_path / "a")
    case.read_image(0, 1)
    start = time.perf_counter()
    for x in range(0, 64, 2):
        case.read_image(x, x + 1)
    # 0.5 ms measured; reading whole chunks would take 8 times as long, the bound leaves room for a busy machine.
    assert (time.perf_counter() - start) / 32 < 0.05
