"""Streamed inference gives what whole volumes give: labels, confidence, counts and sums, whatever its strips."""

import itertools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from spineseg.data.normalization import Normalization
from spineseg.errors import ConfigError, DataError
from spineseg.predictions.forecast import forecast, forecast_mb
from spineseg.predictions.masks import decode
from spineseg.predictions.native_grid import Labelling
from spineseg.predictions.streaming import SlidingWindow, StreamedLabels, slice_instances
from spineseg.predictions.strips import StripSums, sums_shapes
from spineseg.predictions.windows import lay_windows, window_starts

NORMALIZATION = Normalization(-200, 1000, 100, 300)
CLASSES = 5
PATCH = (8, 10, 6)
Size = tuple[int, int, int]


def network(seed: int = 0, classes: int = CLASSES) -> Callable[[Tensor], Tensor]:
    """A convolution and a place within the window, so that windows disagree where they overlap."""
    generator = torch.Generator().manual_seed(seed)
    kernel = torch.randn((classes, 1, 3, 3, 3), generator=generator)
    place = torch.randn((classes, *PATCH), generator=generator)
    return lambda batch: F.conv3d(batch, kernel, padding=1) + (place if batch.shape[2:] == PATCH else 0)


def image(shape: Size, seed: int = 0) -> np.ndarray[tuple[int, ...], np.dtype[np.int16]]:
    return np.random.default_rng(seed).integers(-1000, 1500, shape).astype(np.int16)


def whole_logits(predict: Callable[[Tensor], Tensor], array: np.ndarray, patch: Size, overlap: float) -> Tensor:
    """All logits of the volume, added up and divided by the summed weights."""
    windows = lay_windows(array.shape, patch, overlap)
    pads = [(b, m - n - b) for n, m, b in zip(array.shape, windows.padded, windows.before, strict=True)]
    padded = torch.from_numpy(np.pad(NORMALIZATION(array), pads, constant_values=np.float32(NORMALIZATION.air)))
    sides = [torch.exp(-0.5 * ((torch.arange(n) - n // 2) / (n / 8)) ** 2) for n in patch]
    bell = sides[0][:, None, None] * sides[1][:, None] * sides[2]
    total, weight = torch.zeros((CLASSES, *windows.padded), dtype=torch.float64), torch.zeros(windows.padded)
    for corner in itertools.product(*windows.starts):
        box = tuple(slice(c, c + n) for c, n in zip(corner, patch, strict=True))
        total[(slice(None), *box)] += (predict(padded[box][None, None])[0] * bell).double()
        weight[box] += bell
    inner = tuple(slice(b, b + n) for b, n in zip(windows.before, array.shape, strict=True))
    return (total / weight)[(slice(None), *inner)].float()


def check(found: StreamedLabels, logits: Tensor, grid: Size) -> None:
    """Against the logits of the whole volume, interpolated by torch."""
    if logits.shape[1:] != grid:
        logits = F.interpolate(logits[None], grid, mode="trilinear", align_corners=False)[0]
    shares = torch.softmax(logits, dim=0)
    best, label = shares.max(dim=0)
    two = shares.topk(2, dim=0).values
    clear = ((two[0] - two[1]) > 1e-4).numpy()
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(found.labels[clear], label.numpy()[clear])
    assert np.abs(found.confidence.astype(float) - best.numpy() * 255).max() <= 0.502
    mine = torch.from_numpy(found.labels).long()
    one_hot = F.one_hot(mine, CLASSES).double().flatten(1, 2)
    np.testing.assert_array_equal(found.counts, one_hot.sum(1).numpy())
    direct = one_hot.transpose(1, 2) @ shares.permute(1, 2, 3, 0).flatten(1, 2).double()
    np.testing.assert_allclose(found.sums, direct.numpy(), atol=2e-3, rtol=1e-4)


@pytest.mark.parametrize(
    ("shape", "grid", "overlap"),
    [
        ((16, 20, 18), None, 0.5),
        ((19, 23, 27), None, 0.0),
        ((13, 17, 15), None, 0.7),
        ((5, 25, 14), None, 0.5),
        ((1, 3, 2), None, 0.5),
        ((17, 10, 21), (34, 19, 13), 0.5),
        ((17, 10, 21), (34, 19, 13), 0.0),
        ((3, 21, 13), (7, 45, 5), 0.7),
        ((9, 26, 7), (1, 11, 40), 0.5),
        ((22, 11, 12), (9, 11, 30), 0.7),
        ((1, 20, 14), (4, 20, 5), 0.5),
    ],
)
def test_labels_are_those_of_the_whole_volume(shape: Size, grid: Size | None, overlap: float) -> None:
    predict = network()
    found = SlidingWindow(overlap)(
        predict,
        image(shape),
        patch_size=PATCH,
        normalization=NORMALIZATION,
        num_classes=CLASSES,
        grid=grid,
    )
    check(found, whole_logits(predict, image(shape), PATCH, overlap), grid or shape)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("grid", [(14, 21, 15), (20, 12, 22)])
@pytest.mark.parametrize("chunk", [500, 2**20])
def test_neither_the_order_of_axes_nor_the_chunk_matters(
    order: tuple[int, int, int], grid: Size, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spineseg.predictions.native_grid.CHUNK_VALUES", chunk)
    predict, array = network(), image((14, 21, 15))
    windows = lay_windows(array.shape, PATCH, 0.5)
    labelling = Labelling(array.shape, grid, order, CLASSES, torch.device("cpu"))
    sums = StripSums(windows, order, CLASSES, labelling.add, torch.device("cpu"))
    for strip in sums.corners():
        for index in strip:
            corner = [windows.starts[axis][n] for axis, n in enumerate(index)]
            seen = windows.read(array, corner, NORMALIZATION)
            sums.add(index, predict(torch.from_numpy(seen)[None, None])[0])
    found = StreamedLabels(labelling.labels, labelling.confidence, labelling.counts, labelling.sums)
    check(found, whole_logits(predict, array, PATCH, 0.5), grid)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize(
    ("patch", "overlap"), [((8, 8, 8), 0.5), ((8, 4, 16), 0.5), ((8, 8, 8), 0.0), ((4, 8, 16), 0.75)]
)
def test_only_sums_that_earlier_and_later_windows_share_are_held(
    order: tuple[int, int, int], patch: Size, overlap: float
) -> None:
    windows = lay_windows((24, 32, 48), patch, overlap)
    # The places of the first and the last window of each voxel, in the order of the sweep.
    lengths = [len(windows.starts[axis]) for axis in order]
    first = np.full(windows.shape, np.prod(lengths))
    last = np.full(windows.shape, -1)
    for place, index in enumerate(np.ndindex(*lengths)):
        box = [slice(0)] * 3
        for axis, n in zip(order, index, strict=True):
            box[axis] = slice(windows.starts[axis][n], windows.starts[axis][n] + patch[axis])
        first[tuple(box)] = np.minimum(first[tuple(box)], place)
        last[tuple(box)] = place
    most = max(int(((first <= place) & (last >= place)).sum()) for place in range(np.prod(lengths)))
    assert sum(np.prod(shape) for shape in sums_shapes(windows, order)) == most


@pytest.mark.parametrize("batch", [1, 3])
def test_monai_agrees_where_its_windows_are_the_same(batch: int) -> None:
    from monai.inferers import sliding_window_inference

    predict, array = network(), image((24, 25, 18))
    sides = [torch.exp(-0.5 * ((torch.arange(n) - n // 2) / (n / 8)) ** 2) for n in PATCH]
    theirs = sliding_window_inference(
        torch.from_numpy(NORMALIZATION(array))[None, None],
        PATCH,
        batch,
        predict,
        overlap=0.5,
        roi_weight_map=sides[0][:, None, None] * sides[1][:, None] * sides[2],
    )
    ours = SlidingWindow(windows_a_batch=batch)(
        predict, array, patch_size=PATCH, normalization=NORMALIZATION, num_classes=CLASSES
    )
    check(ours, theirs[0], array.shape)


def test_flips_are_averaged_as_logits() -> None:
    predict, array = network(), image((20, 30, 17))

    def by_hand(batch: Tensor) -> Tensor:
        flips = [(), (2,), (4,), (2, 4)]
        return torch.stack([predict(batch.flip(dims)).flip(dims) for dims in flips]).mean(0)

    settings = {"patch_size": PATCH, "normalization": NORMALIZATION, "num_classes": CLASSES}
    plain = SlidingWindow()(predict, array, **settings)
    ours = SlidingWindow(mirror_axes=("x", "z"))(predict, array, **settings)
    check(ours, whole_logits(by_hand, array, PATCH, 0.5), array.shape)
    assert (plain.labels != ours.labels).any()


def test_windows_cover_the_axis_evenly() -> None:
    for size, patch, overlap in itertools.product(range(16, 120, 7), (16, 15), (0, 0.3, 0.5, 0.8)):
        starts = window_starts(size, patch, overlap)
        assert starts[0] == 0 and starts[-1] + patch == size
        assert max(np.diff(starts), default=0) <= np.ceil(patch * (1 - overlap))


def test_slices_of_a_label_map_as_instances() -> None:
    array = image((9, 20, 16))
    found = SlidingWindow()(network(), array, patch_size=PATCH, normalization=NORMALIZATION, num_classes=CLASSES)
    levels = (22, 5, 28, 1)
    slices = slice_instances(found, levels)
    assert [s.index for s in slices] == list(range(9))
    for s, labels, counts, sums in zip(slices, found.labels, found.counts, found.sums, strict=True):
        assert set(s.levels) == {levels[k - 1] for k in np.unique(labels) if k}
        for n, level in enumerate(s.levels):
            k = levels.index(level) + 1
            np.testing.assert_array_equal(decode(s.masks[n]), labels == k)
            assert s.scores[n] == pytest.approx(sums[k, k] / counts[k])
            assert s.probabilities is not None
            assert s.probabilities[n] == pytest.approx(sums[k, 1:] / sums[k, 1:].sum(), abs=1e-6)


def test_too_little_memory_is_said_before_the_network_runs() -> None:
    def never(batch: Tensor) -> Tensor:
        raise AssertionError("the network ran")

    # A volume that no machine holds: one voxel seen at every place.
    huge = np.broadcast_to(np.zeros(1, np.int16), (20000, 20000, 20000))
    for limit in (None, 0.5):
        with pytest.raises(DataError, match=r"20000 × 20000 × 20000.* needs about .* GB, but .*crop the scan"):
            SlidingWindow(memory_limit_gb=limit)(
                never, huge, patch_size=PATCH, normalization=NORMALIZATION, num_classes=26
            )


def test_a_limit_makes_batches_smaller() -> None:
    shape = (100, 100, 100)
    free = SlidingWindow(windows_a_batch=8).forecast(shape, patch_size=(64, 64, 64), num_classes=26)
    assert free.windows_a_batch == 8
    tight = SlidingWindow(windows_a_batch=8, memory_limit_gb=free.mb / 1e3 * 0.8)
    found = tight.forecast(shape, patch_size=(64, 64, 64), num_classes=26)
    assert 1 <= found.windows_a_batch < 8 and found.mb <= free.mb * 0.8


def test_what_lies_on_a_gpu_is_compared_with_what_is_free_there(monkeypatch: pytest.MonkeyPatch) -> None:
    windows, gpu = lay_windows((100, 100, 100), (64, 64, 64), 0.5), torch.device("cuda", 0)
    given = (windows, (100, 100, 100), 26)
    need = forecast(*given, 8, 1e3).mb

    def machine(gpu_mb: float, ram_mb: float, cached_mb: float = 0) -> None:
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (int(gpu_mb * 1e6), 0))
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: int(cached_mb * 1e6))
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 0)
        monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=int(ram_mb * 1e6)))

    # Sums and windows take nothing of the machine's memory, which is small.
    machine(gpu_mb=need, ram_mb=need / 20)
    assert forecast(*given, 8, None, gpu).windows_a_batch == 8
    with pytest.raises(DataError, match="the machine has left"):
        forecast(*given, 8, None)
    machine(gpu_mb=need * 0.8, ram_mb=need * 2)
    assert 1 <= forecast(*given, 8, None, gpu).windows_a_batch < 8 == forecast(*given, 8, None).windows_a_batch
    machine(gpu_mb=1, ram_mb=need * 2)
    with pytest.raises(DataError, match=r"GB of the GPU, but it has 0\.00 GB left.*trainer\.accelerator=cpu"):
        forecast(*given, 8, None, gpu)
    machine(gpu_mb=1, ram_mb=need * 2, cached_mb=need)  # kept by PyTorch for whoever asks next
    assert forecast(*given, 8, None, gpu).windows_a_batch == 8
    with pytest.raises(DataError, match=r"memory_limit_gb=0\.001 allows"):
        forecast(*given, 8, 0.001, gpu)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is reset through Linux' /proc")
def print_peak_over_forecast() -> None:
    """To be run in a process of its own: what other tests have freed would be used again, and not be seen."""

    def memory_mb(field: str) -> float:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(field))

    shape, settings = (128, 128, 96), {"patch_size": (32, 32, 32), "num_classes": 26}
    predict, array = network(classes=26), image(shape)
    predict(torch.zeros((1, 1, 32, 32, 32)))
    Path("/proc/self/clear_refs").write_text("5")
    before = memory_mb("VmRSS")
    SlidingWindow()(predict, array, normalization=NORMALIZATION, **settings)  # type: ignore[arg-type]
    # The image was there before.
    peak = memory_mb("VmHWM") - before + array.nbytes / 1e6
    print(peak / SlidingWindow().forecast(shape, **settings).mb)  # type: ignore[arg-type]


def test_the_forecast_is_within_a_factor_of_two_of_the_peak() -> None:
    code = f"import runpy; runpy.run_path({__file__!r})['print_peak_over_forecast']()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 0.5 < float(done.stdout) < 2


def test_the_forecast_does_not_grow_with_classes_times_volume() -> None:
    def need(length: int, classes: int) -> float:
        windows = lay_windows((96, 96, length), (64, 64, 64), 0.5)
        return forecast_mb(windows, (96, 96, length), classes, order=(2, 1, 0), windows_a_batch=1)

    voxels = 96 * 96 * 1000
    assert (need(1500, 26) - need(500, 26)) * 1e6 <= 5 * voxels
    assert need(1500, 26) - need(500, 26) == pytest.approx(need(1500, 5) - need(500, 5))


@pytest.mark.parametrize(
    "bad", [{"overlap": 1.0}, {"mirror_axes": ("x", "x")}, {"mirror_axes": ("s",)}, {"windows_a_batch": 0}]
)
def test_bad_settings_are_named(bad: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(bad))):
        SlidingWindow(**bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_voxels_and_logits_that_are_not_finite_are_refused(bad: float) -> None:
    settings = {"patch_size": PATCH, "normalization": NORMALIZATION, "num_classes": CLASSES}
    array = image((9, 20, 16)).astype(np.float32)
    array[3, 3, 3] = bad
    with pytest.raises(DataError, match="voxels are NaN"):
        SlidingWindow()(network(), array, **settings)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="logits that are not finite"):
        SlidingWindow()(lambda batch: network()(batch) * bad, image((9, 20, 16)), **settings)


def test_a_network_of_other_classes_is_named() -> None:
    with pytest.raises(DataError, match=r"logits of shape \(1, 4, 8, 10, 6\); expected \(1, 5"):
        SlidingWindow()(
            network(classes=4),
            image((9, 20, 16)),
            patch_size=PATCH,
            normalization=NORMALIZATION,
            num_classes=CLASSES,
        )
