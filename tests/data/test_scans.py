"""Scans as batches of slices: every slice once, at the network's pixel size; a bad scan is named."""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from spineseg.data.scans import Scan, ScanSlices, ScanVolumes, read_scan
from spineseg.data.slices import SliceReader
from spineseg.data.store import Resampling
from spineseg.errors import DataError
from spineseg.geometry import Volume, canonical, index_to_mm, resample_image
from spineseg.volumes import write_volume

READER = SliceReader((-200.0, 1000.0), context=1, classes="vertebra", levels=())
AFFINE = np.array([[0, 0, 2.0, 0], [-0.5, 0, 0, 0], [0, -1.0, 0, 0], [0, 0, 0, 1]])


def scan(seed: int = 0) -> Volume:
    return Volume(np.random.default_rng(seed).integers(-1000, 1500, (40, 70, 11)).astype(np.int16), AFFINE)


@pytest.mark.parametrize("batch_size", [1, 4, 11, 16])
def test_every_slice_once_in_order(batch_size: int) -> None:
    scans = [Scan(name, partial(scan, seed)) for seed, name in enumerate("ab")]
    batches = list(ScanSlices(scans, READER, pixel_mm=1.0, batch_size=batch_size))
    for name in "ab":
        mine = [batch for batch in batches if batch["case"] == name]
        assert [i for batch in mine for i in batch["indices"]] == list(range(11))
        assert [batch["last"] for batch in mine] == [False] * (len(mine) - 1) + [True]
        for batch in mine:
            assert batch["size"] == (40, 70) and batch["step"] == (0.5, 1.0)
            assert batch["images"].shape == (len(batch["indices"]), 3, 64, 96)  # 20 × 70, padded
            assert batch["native_shape"] == (40, 70, 11)
            np.testing.assert_array_equal(batch["native_affine"], AFFINE)


def test_channels_are_the_slice_and_its_neighbours() -> None:
    native = Volume(scan().array, np.eye(4))
    (batch,) = ScanSlices([Scan("a", lambda: native)], READER, pixel_mm=1.0, batch_size=64)
    expected = np.clip((native.array.astype(np.float32) + 200) / 1200, 0, 1)
    np.testing.assert_allclose(batch["images"][:, 1, :70, :11].numpy(), expected, atol=1e-6)
    assert not batch["images"][:, :, 70:].any() and not batch["images"][:, :, :, 11:].any()
    np.testing.assert_array_equal(batch["images"][1:, 0], batch["images"][:-1, 1])
    np.testing.assert_array_equal(batch["images"][:-1, 2], batch["images"][1:, 1])


def test_a_scan_that_cannot_be_read_does_not_stop_the_rest() -> None:
    def broken() -> Volume:
        raise DataError("x.nii.gz: cut short")

    batches = list(ScanSlices([Scan("bad", broken), Scan("good", scan)], READER, pixel_mm=1.0, batch_size=16))
    assert batches[0]["error"] == "x.nii.gz: cut short" and batches[0]["last"] and not batches[0]["indices"]
    assert batches[1]["case"] == "good" and batches[1]["error"] is None


def test_processes_share_the_scans() -> None:
    scans = [Scan(str(i), scan) for i in range(5)]
    shares = [
        {batch["case"] for batch in ScanSlices(scans, READER, pixel_mm=2.0, batch_size=8, rank=rank, world=2)}
        for rank in range(2)
    ]
    assert shares[0] == {"0", "2", "4"} and shares[1] == {"1", "3"}


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_voxels_that_are_not_finite_fail_the_scan(bad: float) -> None:
    array = scan().array.astype(np.float32)
    array[3, 4, 5] = bad
    (batch,) = ScanSlices([Scan("a", lambda: Volume(array, AFFINE))], READER, pixel_mm=1.0, batch_size=64)
    assert batch["error"] is not None and "scan 'a': 1 voxels are NaN" in batch["error"]


def body() -> Volume:
    """Air, fat, tissue and bone in HU."""
    random = np.random.default_rng(0)
    array = random.normal(40, 10, (20, 24, 8))
    array[:, :6] = random.normal(-1000, 5, (20, 6, 8))
    array[:, 6:8], array[8:12, 10:14] = -100, 500
    return Volume(np.rint(array).clip(-1000).astype(np.int16), AFFINE)


def test_a_scan_in_hu_is_never_shifted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_volume(tmp_path / "a.nii.gz", body())
    for source_offset in (0, -1000):
        found = read_scan(tmp_path / "a.nii.gz", hu_offset=None, source_offset=source_offset)
        np.testing.assert_array_equal(found.array, body().array)
    assert capsys.readouterr().out == ""


def test_a_scan_stored_as_the_training_data_is_shifted_with_a_note(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "a.nii.gz"
    write_volume(file, body().with_array((body().array + 1000).astype(np.uint16)))
    found = read_scan(file, hu_offset=None, source_offset=-1000)
    np.testing.assert_array_equal(found.array, body().array)
    assert "-1000" in capsys.readouterr().out
    for source_offset in (0, 500):
        with pytest.raises(DataError, match="air peak expected near -1000 HU"):
            read_scan(file, hu_offset=None, source_offset=source_offset)
    np.testing.assert_array_equal(read_scan(file, hu_offset=-990).array, body().array + 10)


def micrometres() -> Volume:
    """A scan whose header says mm where it means µm."""
    return Volume(np.zeros((40, 40, 40), np.int16), np.diag([800.0, 800, 800, 1]))


def no_room() -> Volume:
    raise MemoryError


@pytest.mark.parametrize(
    ("bad", "reason"), [(micrometres, "800 × 800 × 800 mm .* needs about"), (no_room, "too little memory")]
)
def test_scans_without_room_do_not_stop_the_rest(bad: Callable[[], Volume], reason: str) -> None:
    scans = [Scan("bad", bad), Scan("good", scan)]
    volumes = list(ScanVolumes(scans, (1.0, 1.0, 1.0)))
    slices = list(ScanSlices(scans, READER, pixel_mm=0.1 if bad is micrometres else 1.0, batch_size=64))
    for first, second in (volumes, slices):
        assert first["case"] == "bad" and re.search(f"scan 'bad'.*{reason}", str(first["error"]))
        assert second["case"] == "good" and second["error"] is None


def test_what_fails_while_it_is_resampled_does_not_stop_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    def greedy(volume: Volume, *args: object) -> Volume:
        if volume.shape == (2, 3, 4):
            raise MemoryError
        return resample_image(volume, *args)  # type: ignore[arg-type]

    monkeypatch.setattr("spineseg.data.scans.resample_image", greedy)
    scans = [Scan("bad", lambda: Volume(np.zeros((2, 3, 4), np.int16), np.eye(4))), Scan("good", scan)]
    for first, second in (
        ScanVolumes(scans, (1.0, 1.0, 1.0)),
        ScanSlices(scans, READER, pixel_mm=1.0, batch_size=64),
    ):
        assert "too little memory" in str(first["error"]) and second["error"] is None


@pytest.mark.parametrize("resampling", ["linear", "cubic"])
def test_volumes_are_resampled_as_for_training_and_remember_their_grid(resampling: Resampling) -> None:
    (found,) = ScanVolumes([Scan("a", scan)], (1.5, None, 2.0), resampling=resampling)
    upright = canonical(scan())
    expected = resample_image(upright, (1.5, None, 2.0), 1 if resampling == "linear" else 3)
    np.testing.assert_array_equal(found["image"].numpy(), expected.array)
    assert found["image"].dtype == torch.int16 and found["error"] is None
    assert found["native_shape"] == (40, 70, 11) and found["canonical_shape"] == upright.shape == (11, 40, 70)
    np.testing.assert_array_equal(found["native_affine"], AFFINE)
    # The outer corner is common: a native voxel's centre lies where the step says.
    index = np.array([3.0, 7, 11])
    at = (index + 0.5) * found["step"] - 0.5
    np.testing.assert_allclose(index_to_mm(expected.affine, at), index_to_mm(upright.affine, index))


def test_volumes_that_cannot_be_read_do_not_stop_the_rest() -> None:
    bad = Volume(np.full((3, 4, 5), np.nan, np.float32), AFFINE)
    scans = [Scan("bad", lambda: bad), Scan("good", scan)]
    first, second = ScanVolumes(scans, (None, None, None))
    assert "scan 'bad': 60 voxels are NaN" in str(first["error"]) and first["image"].numel() == 0
    assert second["error"] is None
    assert [one["case"] for one in ScanVolumes(scans, (None, None, None), rank=1, world=2)] == ["good"]
