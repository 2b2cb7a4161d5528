"""One side of the comparison in a process of its own: the same net on the same volume; time and peak memory."""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.inferers import sliding_window_inference
from monai.networks.nets import UNet
from numpy.typing import NDArray

from spineseg.data.normalization import Normalization
from spineseg.predictions.streaming import SlidingWindow
from spineseg.predictions.windows import lay_windows

NORMALIZATION = Normalization(-1000.0, 1500.0, 100.0, 400.0)
Size = tuple[int, int, int]


def memory_mb(field: str) -> float:
    """Memory of this process: ``VmRSS`` now, ``VmHWM`` at its highest (a child's ru_maxrss begins at its parent's)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(field))


def small_unet(classes: int) -> UNet:
    """The net of all sides, the same weights in each."""
    torch.manual_seed(0)
    net = UNet(3, 1, classes, channels=(16, 32, 64, 128), strides=(2, 2, 2), num_res_units=1)
    return net.eval().requires_grad_(False)


def scan(shape: Size) -> NDArray[np.int16]:
    """Waves and noise in HU, plane by plane."""
    random = np.random.default_rng(0)
    volume = np.empty(shape, np.int16)
    y, z = np.arange(shape[1], dtype=np.float32)[:, None], np.arange(shape[2], dtype=np.float32)
    for x in range(shape[0]):
        wave = 400 * np.sin(y / 17 + x / 29) * np.cos(z / 23 - x / 31)
        volume[x] = wave + 60 * random.standard_normal(wave.shape, np.float32)
    return volume


def ours(net: UNet, volume: NDArray[np.int16], options: argparse.Namespace) -> dict[str, Any]:
    """Streamed, on the network's grid or on another native one."""
    inferer = SlidingWindow()
    settings = {"patch_size": (options.patch,) * 3, "num_classes": options.classes, "grid": options.native}
    forecast = inferer.forecast(volume.shape, **settings)
    found = inferer(net, volume, normalization=NORMALIZATION, **settings)
    return {"labels": found.labels, "forecast_mb": forecast.mb}


def whole(net: UNet, volume: NDArray[np.int16], options: argparse.Namespace) -> dict[str, Any]:
    """The same windows, all logits kept in float32; with labels comes how clear each one is."""
    windows = lay_windows(volume.shape, (options.patch,) * 3, 0.5)
    logits = torch.zeros((options.classes, *windows.padded))
    for place in np.ndindex(*(len(starts) for starts in windows.starts)):
        corner = [windows.starts[axis][n] for axis, n in enumerate(place)]
        wx, wy, wz = (torch.from_numpy(windows.weights[axis][n]) for axis, n in enumerate(place))
        seen = torch.from_numpy(windows.read(volume, corner, NORMALIZATION))[None, None]
        box = tuple(slice(c, c + n) for c, n in zip(corner, windows.patch, strict=True))
        logits[(slice(None), *box)] += net(seen)[0] * (wx[:, None, None] * wy[:, None] * wz)
    inner = tuple(slice(b, b + n) for b, n in zip(windows.before, volume.shape, strict=True))
    labels, margin = np.empty(volume.shape, np.uint8), np.empty(volume.shape, np.float32)
    for x, plane in enumerate(logits[(slice(None), *inner)].unbind(1)):
        labels[x] = plane.argmax(0)
        two = plane.topk(2, dim=0).values
        margin[x] = two[0] - two[1]
    found = {"labels": labels, "margin": margin}
    if options.native is not None:
        # nnU-Net's order 1 with float32 logits, one class at a time: what rounding to half precision would hide.
        from skimage.transform import resize

        best = np.full(options.native, -np.inf, np.float32)
        labels = np.zeros(options.native, np.uint8)
        for k, values in enumerate(logits[(slice(None), *inner)].numpy()):
            values = resize(values.astype(float), options.native, 1, mode="edge", anti_aliasing=False)
            better = values > best
            best[better], labels[better] = values[better], k
        found = {"labels": labels}
    return found


def monai(net: UNet, volume: NDArray[np.int16], options: argparse.Namespace) -> dict[str, Any]:
    """MONAI's sliding window with its Gaussian, and argmax after it."""
    image = torch.from_numpy(NORMALIZATION(volume))[None, None]
    logits = sliding_window_inference(image, (options.patch,) * 3, 1, net, overlap=0.5, mode="gaussian")
    return {"labels": logits.argmax(dim=1)[0].to(torch.uint8).numpy()}


def nnunet(net: UNet, volume: NDArray[np.int16], options: argparse.Namespace) -> dict[str, Any]:
    """nnU-Net's predictor and its export to the native grid, without the file."""
    from nnunet_side import predict

    image = torch.from_numpy(NORMALIZATION(volume))[None]
    native = options.native or volume.shape
    return {"labels": predict(net, image, native, options.classes, options.patch)}


SIDES: dict[str, Callable[[UNet, NDArray[np.int16], argparse.Namespace], dict[str, Any]]] = {
    "ours": ours,
    "whole": whole,
    "monai": monai,
    "nnunet": nnunet,
}


def main() -> None:
    """Run one side and write ``<output>.json``, its labels beside it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("side", choices=SIDES)
    parser.add_argument("--shape", type=int, nargs=3, required=True)
    parser.add_argument("--native", type=int, nargs=3)
    parser.add_argument("--classes", type=int, required=True)
    parser.add_argument("--patch", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    if options.native is not None:
        options.native = tuple(options.native)
    torch.set_num_threads(options.threads)
    if options.side == "nnunet":
        import nnunet_side  # noqa: F401  # before the baseline is taken
    baseline = memory_mb("VmRSS")
    net, volume = small_unet(options.classes), scan(tuple(options.shape))
    started = time.perf_counter()
    with torch.inference_mode():
        found = SIDES[options.side](net, volume, options)
    seconds = time.perf_counter() - started
    peak = memory_mb("VmHWM") - baseline
    for name in ("labels", "margin"):
        if name in found:
            np.save(options.output.with_suffix(f".{name}.npy"), found.pop(name))
    options.output.with_suffix(".json").write_text(json.dumps({"peak_mb": peak, "seconds": seconds, **found}))


if __name__ == "__main__":
    main()
