"""Predictions of both on the test subjects, written in one format and scored by one evaluator."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from recipe import Recipe
from slices import module_of

from spineseg.config import compose
from spineseg.data.scans import Scan, ScanBatch
from spineseg.evaluate import Reference, evaluate_folder
from spineseg.metrics.matching import MAX_DETECTIONS
from spineseg.models.detections import SCORE_FLOOR, SliceDetections, draw_on
from spineseg.predict import predict_scans
from spineseg.predictions.instances import NMS_IOU, SliceInstances
from spineseg.predictions.masks import encode_crop
from spineseg.runs import find_run
from spineseg.trained import TrainedModel, load_model


class Theirs(lightning.LightningModule):
    """Ultralytics' predictor in the place of our task.

    Its own preparation of pictures, its own network (fused) and its own suppression; masks are drawn on the native
    pixels as ``process_mask_native`` draws them (tests/models/test_export.py compares the two).
    """

    levels: tuple[int, ...] = ()

    def __init__(self, weights: Path, threads: int) -> None:
        super().__init__()
        from ultralytics import YOLO

        self.threads = threads
        # Not a member: Lightning would take it for a network to move about.
        self.__dict__["model"] = YOLO(weights)

    def predict_step(self, batch: ScanBatch, batch_index: int) -> list[SliceInstances]:
        """Instances on the native pixels."""
        if not batch["indices"]:
            return []
        return [
            _instances(index, found, batch["size"], batch["step"])
            for index, found in zip(batch["indices"], self.detect(batch["images"]), strict=True)
        ]

    def detect(self, images: torch.Tensor) -> Sequence[SliceDetections]:
        """What its predictor finds in images (B, 3, Y, Z), before it draws."""
        from ultralytics.models.yolo.segment import SegmentationPredictor

        found: list[SliceDetections] = []

        class Predictor(SegmentationPredictor):
            def construct_result(self, pred: Any, img: Any, orig_img: Any, img_path: Any, proto: Any) -> Any:
                kept = pred.detach().clone()
                found.append(
                    SliceDetections(kept[:, :4], kept[:, 4], kept[:, 5].long(), kept[:, 4:5], kept[:, 6:], proto)
                )
                return super().construct_result(pred, img, orig_img, img_path, proto)

        # 8-bit pictures with the channels as they lie in the files that it was trained on.
        pictures = [np.ascontiguousarray(image) for image in _pictures(images)]
        self.__dict__["model"].predict(
            pictures,
            predictor=Predictor,
            imgsz=list(images.shape[2:]),
            conf=SCORE_FLOOR,
            iou=NMS_IOU,
            max_det=MAX_DETECTIONS,
            device="cpu",
            verbose=False,
            save=False,
        )
        self.__dict__["model"].predictor = None  # made anew for the next shape
        torch.set_num_threads(self.threads)
        return found


def _pictures(images: torch.Tensor) -> np.ndarray:
    return np.rint(images.permute(0, 2, 3, 1).numpy() * 255).astype(np.uint8)


def _instances(index: int, found: SliceDetections, size: tuple[int, int], step: tuple[float, float]) -> SliceInstances:
    boxes, crops = draw_on(found, size, step)
    whole = np.array([crop.any() for crop, _ in crops], bool)
    instances = SliceInstances(
        index=index,
        size=size,
        masks=tuple(encode_crop(crop, corner, size) for crop, corner in crops),
        scores=found.scores.numpy(),
        levels=np.zeros(len(crops), np.int64),
        boxes=boxes,
    )
    return instances.take(whole)


def score(recipe: Recipe, work: Path, *, kind: str, weights: str, name: str, seed: int) -> dict[str, Any]:
    """Predict the test subjects in float32 and evaluate; the exclusive map's threshold is 0.25 for both."""
    torch.set_num_threads(recipe.threads)
    module = module_of(recipe, work)
    cases = [module.prepared.case(case) for case in module.split().test]
    source = module.prepared.open_source()
    if kind == "ours":
        model = replace(load_model(find_run(weights)), score_threshold=None)
    else:
        model = _their_model(Path(weights), module, recipe)
    trainer = compose("train", ["trainer=cpu", "trainer.precision=32"]).trainer
    folder = work / "predictions" / name
    failures = predict_scans(
        model,
        [Scan(case.id, partial(source.read_image, case)) for case in cases],
        folder,
        trainer=trainer,
        outputs=("nifti", "json"),
        provenance={"run": name, "split": "test"},
    )
    if failures:
        raise SystemExit(f"error: {name}: {failures}")
    references = [
        Reference(case.id, case.subject, partial(source.read_labels, case), case.cut_levels, case.source)
        for case in cases
    ]
    results = evaluate_folder(
        references,
        folder,
        work / "evaluation" / name,
        edge=source.edge,
        run=name,
        split="test",
        simulated=module.prepared.simulated,
        seed=seed,
        fold=module.fold,
    )
    return {metric: entry["value"] for metric, entry in results.items()}


def _their_model(weights: Path, module: Any, recipe: Recipe) -> TrainedModel:
    return TrainedModel(
        task=Theirs(weights, recipe.threads),  # type: ignore[arg-type]
        datamodule=module,
        score_threshold=None,
        simulated=module.prepared.simulated,
    )
