"""One side of the comparison in a process of its own: seconds a case, and peak memory above what the imports take."""

import argparse
import gc
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from column import LEVELS, SPACING_MM
from numpy.typing import NDArray

Labels = NDArray[np.uint8]
AFFINE = np.diag([*SPACING_MM, 1.0])
TAU_MM = 2.0


def memory_mb(field: str) -> float:
    """Memory of this process: ``VmRSS`` now, ``VmHWM`` at its highest (a child's ru_maxrss begins at its parent's)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(field))


def ours() -> Callable[[Labels, Labels], dict[str, Any]]:
    """Every metric of a case: overlap, surfaces, body centres, names, error split and slices."""
    from spineseg.geometry import Volume
    from spineseg.metrics.cases import score_case
    from spineseg.predictions.store import CasePrediction

    def score(reference: Labels, prediction: Labels) -> dict[str, Any]:
        case = CasePrediction("case", Volume(prediction, AFFINE), "levels")
        rows = score_case(Volume(reference, AFFINE), case, edge="count").rows
        rows = rows[(rows["space"] == "3d") & (rows["level"] != "")]
        by = {name: rows[rows["metric"] == name] for name in ("dice", "nsd", "hd95")}
        by["nsd"] = by["nsd"][by["nsd"]["parameter"] == f"tau={TAU_MM:g}"]
        return {name: found["value"].tolist() for name, found in by.items()}

    return score


def monai(dtype: str) -> Callable[[Labels, Labels], dict[str, Any]]:
    """Dice, HD95 and NSD of one-hot volumes, as MONAI's documentation has them; ``dtype`` is that of the volumes."""
    import torch
    from monai.metrics import DiceMetric, HausdorffDistanceMetric, SurfaceDiceMetric
    from monai.networks.utils import one_hot

    torch.set_num_threads(1)
    classes = max(LEVELS) + 1
    metrics = {
        "dice": DiceMetric(include_background=False),
        "hd95": HausdorffDistanceMetric(include_background=False, percentile=95),
        "nsd": SurfaceDiceMetric([TAU_MM] * len(LEVELS), include_background=False, use_subvoxels=True),
    }
    # Classes without gaps, as a network numbers them.
    table = np.zeros(classes, np.uint8)
    table[list(LEVELS)] = np.arange(1, len(LEVELS) + 1)

    def score(reference: Labels, prediction: Labels) -> dict[str, Any]:
        truth, found = (
            one_hot(torch.from_numpy(table[labels])[None, None], len(LEVELS) + 1, dtype=getattr(torch, dtype))
            for labels in (reference, prediction)
        )
        values = {"dice": metrics["dice"](found, truth)}
        values |= {name: metrics[name](found, truth, spacing=SPACING_MM) for name in ("hd95", "nsd")}
        return {name: value[0].tolist() for name, value in values.items()}

    return score


def main() -> None:
    """Read the case, measure, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("side", choices=("ours", "monai_float32", "monai_bool"))
    parser.add_argument("--case", type=Path, required=True)
    parser.add_argument("--repeats", type=int, required=True)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    score = ours() if options.side == "ours" else monai(options.side.removeprefix("monai_"))
    small = np.zeros((24, 24, 24), np.uint8)
    small[4:20, 4:20, 4:20] = LEVELS[0]
    score(small, small)  # what is imported at the first call is no part of a case
    with np.load(options.case) as content:
        reference, prediction = content["reference"], content["prediction"]
    gc.collect()
    before = memory_mb("VmRSS")
    seconds = []
    for _ in range(options.repeats):
        start = time.perf_counter()
        values = score(reference, prediction)
        seconds.append(time.perf_counter() - start)
    peak = memory_mb("VmHWM") - before
    result = {"seconds": float(np.median(seconds)), "fastest_s": min(seconds), "peak_mb": peak, "base_mb": before}
    options.output.write_text(json.dumps(result | {"values": values}))


if __name__ == "__main__":
    main()
