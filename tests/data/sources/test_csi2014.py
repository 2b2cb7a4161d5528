from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from spineseg.data.audit import examine
from spineseg.data.sources.csi2014 import CSI2014
from spineseg.errors import ConfigError, DataError
from spineseg.geometry import canonical
from spineseg.volumes import read_volume, write_volume


@pytest.mark.parametrize("suffix", [".mhd", ".mha", ".nii", ".nii.gz"])
@pytest.mark.parametrize("style", ["hundreds", "numbers"])
def test_each_variant_gives_the_same_spine(
    make_csi: Callable[..., Path], make_spine: Callable, suffix: str, style: str
) -> None:
    source = CSI2014(make_csi(2, suffix, style))
    cases = source.cases()
    assert [case.id for case in cases] == ["case1", "case2"]
    image, labels = make_spine(range(8, 25), seed=2, axes="LPS")
    read, mask = source.read_image(cases[1]), source.read_labels(cases[1])
    assert read.array.dtype == np.int16 and mask.array.dtype == np.uint8
    np.testing.assert_array_equal(read.array, np.clip(image.array, -1000, 3095))
    np.testing.assert_array_equal(mask.array, labels.array)
    np.testing.assert_allclose(read.affine, image.affine, atol=1e-4)
    np.testing.assert_array_equal(read.affine, mask.affine)


def test_cases_are_ordered_by_number_and_split_by_rank_over_the_ten(make_csi: Callable[..., Path]) -> None:
    source = CSI2014(make_csi(2))
    for number in (10,):
        for part in ("", "_label"):
            write_volume(source.root / f"case{number}{part}.mha", read_volume(source.root / f"case1{part}.mhd"))
    assert [case.id for case in source.cases()] == ["case1", "case2", "case10"]
    assert len(source.subjects()) == 10
    assert CSI2014(source.root, exclude=["case2"]).subjects() == source.subjects()
    (source.root / "SIMULATED.json").write_text("{}")
    assert source.simulated and len(source.subjects()) == 3


def test_anchor_moves_all_levels(make_csi: Callable[..., Path]) -> None:
    root = make_csi(1)
    found = {}
    for level in ("L5", "L4"):
        source = CSI2014(root, anchor={"label": 100, "level": level})
        found[level] = np.unique(source.read_labels(source.cases()[0]).array)[1:]
    np.testing.assert_array_equal(found["L4"], found["L5"] - 1)


def test_lowest_label_can_be_the_anchor_and_a_case_can_have_its_own(make_csi: Callable[..., Path]) -> None:
    root = make_csi(1)
    path = root / "case1_label.mhd"
    mask = read_volume(path)
    write_volume(path, mask.with_array(np.where(mask.array <= 200, 0, mask.array)))
    lowest = CSI2014(root, anchor={"label": "lowest", "level": "L5"})
    assert np.unique(lowest.read_labels(lowest.cases()[0]).array).tolist() == [0, *range(10, 25)]
    own = CSI2014(root, anchors={"case1": {"label": 300, "level": "L4"}})
    assert np.unique(own.read_labels(own.cases()[0]).array).tolist() == [0, *range(9, 24)]


def test_an_anchor_of_no_case_is_refused(make_csi: Callable[..., Path]) -> None:
    """The default would be taken in its place, and every name of the case be one off."""
    source = CSI2014(make_csi(2), anchors={"case02": {"label": 100, "level": "L4"}})
    with pytest.raises(ConfigError, match=r"data\.source\.anchors names no case of .*: case02; did you mean 'case2'"):
        source.cases()


def test_hundreds_that_run_the_other_way_are_caught_by_world_z(make_csi: Callable[..., Path]) -> None:
    root = make_csi(1)
    path = root / "case1_label.mhd"
    mask = read_volume(path)
    write_volume(path, mask.with_array(np.where(mask.array > 0, 1800 - mask.array, 0).astype(np.int16)))
    source = CSI2014(root)
    assert any(
        "wrong way" in message and "larger" in message for message in examine(source, source.cases()[0]).report.fatal
    )
    turned = CSI2014(root, larger="caudal", anchor={"label": 100, "level": "T1"})
    report = examine(turned, turned.cases()[0]).report
    assert not report.fatal and report.case is not None and report.case.levels == tuple(range(8, 25))


def test_fewer_than_seventeen_levels_are_a_finding(make_csi: Callable[..., Path]) -> None:
    root = make_csi(1)
    path = root / "case1_label.mhd"
    mask = read_volume(path)
    write_volume(path, mask.with_array(np.where(mask.array >= 1600, 0, mask.array)))
    source = CSI2014(root)
    report = examine(source, source.cases()[0]).report
    assert report.case is not None and "levels: 15 (T3 to L5), expected 17" in report.case.findings


@pytest.mark.parametrize(("value", "message"), [(150, "unknown label 150"), (2600, "unknown label 2600")])
def test_unknown_values_are_named(make_csi: Callable[..., Path], value: int, message: str) -> None:
    source = CSI2014(make_csi(1))
    path = source.root / "case1_label.mhd"
    mask = read_volume(path)
    mask.array[0, 0, 0] = value
    write_volume(path, mask)
    with pytest.raises(DataError, match=message):
        source.read_labels(source.cases()[0])


def test_wrong_offset_fails_by_the_air_peak(make_csi: Callable[..., Path]) -> None:
    root = make_csi(1)
    for offset in (0, -2000):
        source = CSI2014(root, hu_offset=offset)
        assert any("air peak" in message for message in examine(source, source.cases()[0]).report.fatal), offset


def test_nothing_there_names_download_and_simulation(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"7049844.*data\.source\.download=true.*spineseg\.simulate layout=csi2014"):
        CSI2014(tmp_path / "none").cases()


def test_two_files_of_one_case_are_refused(make_csi: Callable[..., Path]) -> None:
    root = make_csi(1)
    write_volume(root / "copy" / "case1.mha", read_volume(root / "case1.mhd"))
    with pytest.raises(DataError, match="second file"):
        CSI2014(root).cases()


def test_lone_mask_and_lone_image_are_fatal(make_csi: Callable[..., Path]) -> None:
    root = make_csi(2)
    (root / "case1.mhd").unlink()
    (root / "case2_label.mhd").unlink()
    source = CSI2014(root)
    first, second = (examine(source, case).report for case in source.cases())
    assert "case1.mhd: no such file" in first.fatal[0] and len(first.fatal) == 1
    assert "has no mask" in second.fatal[0]


@pytest.mark.parametrize(
    "wrong",
    [
        {"anchor": {"label": 150, "level": "L5"}},
        {"anchor": {"label": 100, "level": "L9"}},
        {"anchor": {"level": "L5"}},
        {"larger": "up"},
        {"label_style": "words"},
        {"edge": "maybe"},
        {"levels": ["T1", "T1"]},
    ],
)
def test_wrong_settings_fail_before_any_file_is_read(tmp_path: Path, wrong: dict) -> None:
    with pytest.raises(ConfigError):
        CSI2014(tmp_path, **wrong)


def test_settings_make_the_source_again(tmp_path: Path) -> None:
    source = CSI2014(tmp_path, hu_offset=-1024, anchors={"case3": {"label": "lowest", "level": "L4"}}, edge="crop")
    again = CSI2014(tmp_path, **source.settings())
    assert again.settings() == source.settings()


def test_axes_and_oblique_affines_come_through(
    make_csi: Callable[..., Path], tmp_path: Path, make_spine: Callable
) -> None:
    image, labels = make_spine(range(8, 25), axes="IRP", turn_deg=12)
    root = tmp_path / "oblique"
    write_volume(root / "case1.mha", image.with_array((image.array + 1000).clip(0).astype(np.int16)))
    write_volume(
        root / "case1_label.mha",
        labels.with_array(np.where(labels.array, 100 * (25 - labels.array.astype(int)), 0).astype(np.int16)),
    )
    source = CSI2014(root)
    mask = source.read_labels(source.cases()[0])
    np.testing.assert_array_equal(canonical(mask).array, canonical(labels).array)
    assert not examine(source, source.cases()[0]).report.fatal


def test_one_odd_value_among_hundreds_is_named(make_csi: Callable[..., Path]) -> None:
    source = CSI2014(make_csi(1))
    values = np.array([0, 100, 200, 550, 1700], np.uint16)
    with pytest.raises(DataError, match="unknown label 550; expected 100-2400 in steps of 100"):
        source._canonical_ids(values, source.cases()[0], "mask")
