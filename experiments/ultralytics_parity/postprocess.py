"""What validation costs beside the network: suppression, masks and matching of the same detections, both ways."""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from recipe import Recipe
from slices import module_of

from spineseg.data.slices import SliceBatch
from spineseg.metrics.matching import MAX_DETECTIONS
from spineseg.models.detections import SCORE_FLOOR, suppress
from spineseg.models.yolo import RawDetections, mask_targets
from spineseg.predictions.instances import NMS_IOU
from spineseg.runs import find_run
from spineseg.trained import load_model

REPEATS = 5


def measure(recipe: Recipe, work: Path, *, weights: str) -> dict[str, Any]:
    """Milliseconds a slice of the validation set, medians of ``REPEATS`` passes in turns, of the same head outputs."""
    torch.set_num_threads(recipe.threads)
    module = module_of(recipe, work)
    task = load_model(find_run(weights)).task
    batches: list[SliceBatch] = list(module.val_dataloader())
    with torch.no_grad():
        raw = [task.net.decode(task._formatted(batch["images"])) for batch in batches]
    slices = sum(len(batch["images"]) for batch in batches)
    mine, his = _ours(task, batches, raw), _theirs(batches, raw, len(task.classes), native=False)
    his_native = _theirs(batches, raw, len(task.classes), native=True)
    torch.set_num_threads(recipe.threads)  # importing its validator changes them
    ours, theirs, theirs_native = _in_turns(mine, his, his_native)
    return {
        "ours_ms": round(1000 * ours / slices, 3),
        "theirs_ms": round(1000 * theirs / slices, 3),
        "theirs_native_ms": round(1000 * theirs_native / slices, 3),
        "slices": slices,
        "size": list(batches[0]["images"].shape[2:]),
        "our_detections": sum(len(found) for one in raw for found in suppress(one)),
        "their_detections": his(),
    }


def _in_turns(*works: Callable[[], int]) -> list[float]:
    for work in works:
        work()  # warm
    spans: list[list[float]] = [[] for _ in works]
    for _ in range(REPEATS):
        for work, mine in zip(works, spans, strict=True):
            started = time.perf_counter()
            work()
            mine.append(time.perf_counter() - started)
    return [statistics.median(mine) for mine in spans]


def _ours(task: Any, batches: list[SliceBatch], raw: list[RawDetections]) -> Callable[[], int]:
    """The task's own validation step with the network and the loss left out."""
    position = iter(())

    def decode(_: torch.Tensor) -> RawDetections:
        return next(position)

    task.net.decode = decode
    task._loss = lambda *_: (torch.zeros(()), {})
    task.log = lambda *_, **__: None

    def run() -> int:
        nonlocal position
        position = iter(raw)
        with torch.no_grad():
            for index, batch in enumerate(batches):
                task.validation_step(batch, index)
        found = len(task._monitored)
        task._monitored.clear()
        return found

    return run


def _theirs(
    batches: list[SliceBatch], raw: list[RawDetections], num_classes: int, *, native: bool
) -> Callable[[], int]:
    """``postprocess`` and ``update_metrics`` of Ultralytics' validator, with our number of detections an image.

    It matches masks at a quarter of the pixels, as it does in training, or with ``native`` at all of them, as ours does
    and as it does for COCO's numbers; its mean of losses and its AP are left out too.
    """
    from ultralytics.models.yolo.segment import SegmentationValidator
    from ultralytics.utils.ops import process_mask_native

    settings = {"task": "segment", "conf": SCORE_FLOOR, "iou": NMS_IOU, "max_det": MAX_DETECTIONS, "plots": False}
    folder = Path(tempfile.mkdtemp())
    validator = SegmentationValidator(args={**settings, "mode": "val", "device": "cpu"}, save_dir=folder)
    validator.device, validator.data, validator.training = torch.device("cpu"), {}, True
    names = {i: str(i) for i in range(num_classes)}
    prepared = []
    for batch, one in zip(batches, raw, strict=True):
        count, _, height, width = batch["images"].shape
        centre = (one.boxes[..., :2] + one.boxes[..., 2:]) / 2
        size = one.boxes[..., 2:] - one.boxes[..., :2]
        outputs = torch.cat([centre, size, one.scores, one.coefficients], dim=2).transpose(1, 2).contiguous()
        labels = {
            "img": batch["images"],
            "batch_idx": batch["batch_index"],
            "cls": batch["classes"][:, None],
            "bboxes": batch["boxes"],
            "masks": (batch["index_map"] if native else mask_targets(batch["index_map"])).float(),
            "ori_shape": [(height, width)] * count,
            "ratio_pad": [((1.0, 1.0), (0.0, 0.0))] * count,
            "im_file": [f"{ref.case}_{ref.x}.png" for ref in batch["refs"]],
        }
        prepared.append((outputs, one.prototypes, labels))

    def run() -> int:
        validator.init_metrics(SimpleNamespace(names=names))
        if native:
            validator.process = process_mask_native
        total = 0
        with torch.no_grad():
            for outputs, prototypes, labels in prepared:
                found = validator.postprocess(((outputs, prototypes), {}))
                validator.update_metrics(found, labels)
                total += sum(len(one["conf"]) for one in found)
        return total

    return run
