"""Mask AP of the same slices by spineseg and by torchmetrics: how far apart, and how long each takes.

`python experiments/average_precision/run.py`; README.md says what is asked.
"""

import argparse
import csv
import io
import platform
import time
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchmetrics.detection import MeanAveragePrecision

from spineseg.metrics.detection import RECALL_POINTS, average_precision
from spineseg.metrics.matching import IOU_THRESHOLDS
from spineseg.tasks.monitors import Found, MonitoredSlice, monitor_slice

HERE = Path(__file__).parent
PACKAGES = ("numpy", "torch", "torchmetrics", "pycocotools")


@dataclass(frozen=True)
class Slice:
    """What both are given: masks (N, Y, Z) bool, boxes (N, 4) y0, z0, y1, z1 that hold them, scores of detections."""

    masks: Tensor
    boxes: Tensor
    scores: Tensor
    truth: Tensor
    truth_boxes: Tensor


def slices(count: int, instances: int, size: int, seed: int) -> Iterator[Slice]:
    """Columns of tilted ellipses; detections are shifted, swollen or missing ones, and some that are nothing's."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:size, :size].astype(np.float32)
    pitch = size / (instances + 1)

    def ellipse(y: float, z: float, a: float, b: float, tilt: float) -> np.ndarray:
        u, v = rows - y, columns - z
        turned = u * np.cos(tilt) + v * np.sin(tilt), v * np.cos(tilt) - u * np.sin(tilt)
        return (turned[0] / a) ** 2 + (turned[1] / b) ** 2 <= 1

    for _ in range(count):
        bend = rng.normal(0, size / 20, 2)
        truth, found, scores = [], [], []
        for i in range(instances):
            z = (i + 1) * pitch
            y = size / 2 + bend[0] * np.sin(z / size * 3) + bend[1] * (z / size - 0.5)
            shape = [y, z, pitch * rng.uniform(0.9, 1.4), pitch * rng.uniform(0.35, 0.45), rng.normal(0, 0.08)]
            truth.append(ellipse(*shape))
            noise = rng.normal(0, pitch * rng.choice([0.03, 0.1, 0.25]), 5) * [1, 1, 0.5, 0.5, 0]
            miss = rng.random() < 0.1
            place = [rng.uniform(0.1, 0.9) * size] * 2 if miss else shape[:2]
            found.append(ellipse(*(np.array([*place, *shape[2:]]) + noise)))
            scores.append(rng.uniform(0, 0.6) if miss else rng.uniform(0.2, 1))
        # References share no pixel, as in a label map.
        owner = np.argmax(np.stack(truth), axis=0)
        truth = [mask & (owner == i) for i, mask in enumerate(truth)]
        masks, references = torch.from_numpy(np.stack(found)), torch.from_numpy(np.stack(truth))
        yield Slice(masks, hulls(masks), torch.tensor(scores), references, hulls(references))


def hulls(masks: Tensor) -> Tensor:
    """Boxes (N, 4) of the masks; an empty mask has an empty box."""
    boxes = torch.zeros(len(masks), 4, dtype=torch.long)
    for box, mask in zip(boxes, masks, strict=True):
        for axis, line in enumerate((mask.any(1), mask.any(0))):
            where = line.nonzero()
            if len(where):
                box[axis], box[axis + 2] = where[0, 0], where[-1, 0] + 1
    return boxes


def monitored(index: int, item: Slice) -> MonitoredSlice:
    """The states of a slice by spineseg: reference masks become an index map, detections are looked at in their box."""
    index_map = np.zeros(item.truth.shape[1:], np.uint8)
    truth, masks = item.truth.numpy(), item.masks.numpy()
    for i, (mask, (y0, z0, y1, z1)) in enumerate(zip(truth, item.truth_boxes.tolist(), strict=True)):
        index_map[y0:y1, z0:z1][mask[y0:y1, z0:z1]] = i + 1
    corners = item.boxes.tolist()
    crops = [(mask[y0:y1, z0:z1], (y0, z0)) for mask, (y0, z0, y1, z1) in zip(masks, corners, strict=True)]
    one_class = np.zeros(len(masks), np.int64)
    found = Found(item.boxes.double().numpy(), item.scores.double().numpy(), one_class, crops)
    return monitor_slice(
        ("", index), found, index_map, np.zeros(len(truth), np.int64), item.truth_boxes.double().numpy()
    )


def run(count: int, instances: int, size: int, seed: int) -> dict[str, float]:
    """One round: every slice is given to both, in turns first and second; seconds, AP and their difference."""
    seconds = {"ours": 0.0, "torchmetrics": 0.0}
    # Its own thresholds are COCO's rounded to float32, which moves AP by up to 1e-3 where a recall meets one exactly.
    theirs = MeanAveragePrecision(
        iou_type="segm",
        backend="pycocotools",
        iou_thresholds=IOU_THRESHOLDS.tolist(),
        rec_thresholds=RECALL_POINTS.tolist(),
    )
    states: list[MonitoredSlice] = []

    def ours_update(index: int, item: Slice) -> None:
        states.append(monitored(index, item))

    def theirs_update(_: int, item: Slice) -> None:
        detections = {"masks": item.masks, "scores": item.scores, "labels": torch.zeros(len(item.masks)).long()}
        theirs.update([detections], [{"masks": item.truth, "labels": torch.zeros(len(item.truth)).long()}])

    updates = [("ours", ours_update), ("torchmetrics", theirs_update)]
    for index, item in enumerate(slices(count, instances, size, seed)):
        for name, update in updates if index % 2 else updates[::-1]:
            start = time.perf_counter()
            update(index, item)
            seconds[name] += time.perf_counter() - start
    start = time.perf_counter()
    scores = np.concatenate([state.scores for state in states])
    ap = average_precision(
        scores, np.concatenate([state.named_masks for state in states], axis=1), sum(len(s.references) for s in states)
    )
    seconds["ours"] += time.perf_counter() - start
    start = time.perf_counter()
    with redirect_stdout(io.StringIO()):
        expected = theirs.compute()
    seconds["torchmetrics"] += time.perf_counter() - start
    apart = max(abs(ap.mean() - float(expected["map"])), abs(ap[0] - float(expected["map_50"])))
    return {
        "ours_s": seconds["ours"],
        "torchmetrics_s": seconds["torchmetrics"],
        "ratio": seconds["torchmetrics"] / seconds["ours"],
        "map50": float(ap[0]),
        "map50_95": float(ap.mean()),
        "difference": float(apart),
    }


def main() -> None:
    """Run, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slices", type=int, default=200)
    parser.add_argument("--instances", type=int, default=20)
    parser.add_argument("--size", type=int, default=640)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=HERE)
    options = parser.parse_args()
    for item in slices(2, options.instances, options.size, seed=99):
        monitored(0, item)  # what is done once is not timed
    rows = [run(options.slices, options.instances, options.size, seed) for seed in range(options.rounds)]
    options.output.mkdir(parents=True, exist_ok=True)
    with (options.output / "table.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, ["round", *rows[0]])
        writer.writeheader()
        writer.writerows({"round": number, **row} for number, row in enumerate(rows))
    lines = [
        f"{options.slices} slices × {options.instances} instances at {options.size} px, update + compute, both in "
        f"turns in one process; {platform.machine()}, {torch.get_num_threads()} threads, "
        f"{', '.join(f'{name} {version(name)}' for name in PACKAGES)}, {date.today()}",
        "",
        "| round | ours, s | torchmetrics (pycocotools), s | ratio | mAP50 | mAP50-95 | difference |",
        "|---|---|---|---|---|---|---|",
    ]
    for number, row in enumerate(rows):
        lines.append(
            f"| {number} | {row['ours_s']:.3f} | {row['torchmetrics_s']:.2f} | {row['ratio']:.1f} | "
            f"{row['map50']:.4f} | {row['map50_95']:.4f} | {row['difference']:.1e} |"
        )
    (options.output / "table.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
