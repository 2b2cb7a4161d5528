"""Scored runs on disk for tests: tiny label maps through the real evaluation; nothing is trained."""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from spineseg.geometry import Volume, canonical
from spineseg.metrics.folder import evaluate_folder
from spineseg.metrics.references import Reference
from spineseg.predictions.instances import SliceInstances
from spineseg.predictions.slicing import slice_labels
from spineseg.predictions.store import LabelKind, PredictionWriter, SliceKind

AFFINE = np.array([[0.0, 0, 3, -20], [-2.0, 0, 0, 7], [0, 2.5, 0, 11], [0, 0, 0, 1]])
LEVELS = (19, 20, 21, 22)
TIME = "2026-01-01_00-00-0"
# How much of each vertebra a model loses: (first rows cut, of the subjects whose number is odd one more).
DAMAGE = {"unet_csi": 0, "yolo_csi_levels": 2, "yolo_csi": 1, "threshold": 3, "oracle_native": 0}
ONE_CLASS = ("yolo_csi", "threshold")
DETECTORS = ("yolo_csi", "yolo_csi_levels")


def subject_name(n: int) -> str:
    return f"subject{n:02d}"


def truth(n: int) -> Volume:
    random = np.random.default_rng(n)
    labels = np.zeros((14, 62, 8), np.uint8)
    for row, level in enumerate(LEVELS):
        z = 48 - 15 * row + int(random.integers(-1, 2))
        labels[2:12, z : z + 11 - int(random.integers(0, 3)), 1:7] = level
    return Volume(labels, AFFINE)


def predicted(n: int, model: str, seed: int) -> Volume:
    labels = truth(n).array.copy()
    rows = DAMAGE[model] + (n + seed) % 2 * (model != "oracle_native")
    labels[2 : 2 + rows] = 0
    if model == "yolo_csi_levels" and n % 5 == 4:  # every name one step too far down
        labels[labels > 0] += 1
    if model in ONE_CLASS:
        labels = np.where(labels > 0, labels - LEVELS[0] + 1, 0)
    return Volume(labels, AFFINE)


def references(subjects: Sequence[int]) -> list[Reference]:
    return [Reference(f"case{n:02d}", subject_name(n), partial(truth, n), (), "phantom") for n in subjects]


def write_predictions(
    folder: Path, model: str, seed: int, subjects: Sequence[int], provenance: Mapping[str, Any]
) -> None:
    kind: LabelKind = "instances" if model in ONE_CLASS else "levels"
    slices: SliceKind = "detections" if model in DETECTORS else "label_map"
    threshold = 0.3 if model in DETECTORS else None
    with PredictionWriter(folder, provenance=provenance, score_threshold=threshold, slices=slices) as writer:
        for n in subjects:
            labels = predicted(n, model, seed)
            cut = slice_labels(canonical(labels).array)
            # Scores that tell the slices apart, so that there is a ranking.
            scored = [
                SliceInstances(s.index, s.size, s.masks, 0.5 + 0.01 * s.levels, s.levels * (kind == "levels"), s.boxes)
                for s in cut
            ]
            writer.write(f"case{n:02d}", labels, kind, scored, seconds=1.0 + n, peak_mb=100.0)


def write_run(
    runs: Path,
    model: str,
    *,
    seed: int = 0,
    fold: int = 0,
    subjects: Sequence[int] = range(6),
    simulated: bool = True,
    edge: Any = "ignore",
    provenance: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
) -> Path:
    """A run folder, scored on its test split."""
    root = runs / "csi" / model / f"{TIME}{seed}-{fold + 1}"
    facts = {"run": f"csi/{model}/{root.name}", "split": "test", "simulated": simulated, "overfit": None}
    write_predictions(root / "predictions" / "test", model, seed, subjects, facts)
    settings = {"seed": seed, "fold": fold, "simulated": simulated, "run": facts["run"], "split": "test"}
    evaluate_folder(
        references(subjects), root / "predictions" / "test", root / "evaluation" / "test", edge=edge, **settings
    )
    content = {
        "format": "config 1",
        "run": {"group": "csi", "name": model, "tags": []},
        "seed": seed,
        "data": {"fold": fold, "seed": seed, "pixel_mm": 1.5, "batch_size": 2},
        "optim": {"optimizer": "AdamW", "lr0": 0.002},
        "trainer": {"max_epochs": 3, "accelerator": "cpu"},
        "callbacks": {"checkpoints": {"monitor": "val/dice"}},
        **(config or {}),
    }
    (root / "config.yaml").write_text(yaml.safe_dump(content))
    known = {
        "format": "provenance 1",
        "spineseg": "0.1.0",
        "python": "3.12",
        "versions": {"torch": "2.14"},
        "git": {"commit": "0123456789ab", "changed": []},
        "hardware": {"processor": "a processor", "cores": 2, "accelerators": []},
        "precision": "32-true",
        "simulated": simulated,
        "train_subjects": ["phantom:somebody"],
        "parameters": 1_500_000,
        "fit_seconds": 1800.0,
        "peak_ram_mb": 2000.0,
        "data_hash": "d" * 64,
        "split_hash": "e" * 64,
        **(provenance or {}),
    }
    (root / "provenance.json").write_text(json.dumps(known))
    rows = [f"{10 * e + 9},{e},train/loss,{3 / (e + 1)}\n{10 * e + 9},{e},val/dice,{0.2 * e + 0.1}\n" for e in range(3)]
    (root / "log.csv").write_text("step,epoch,name,value\n" + "".join(rows))
    return root


def write_evaluation(folder: Path, model: str, *, subjects: Sequence[int] = range(6), simulated: bool = True) -> Path:
    """An evaluation folder without a run, such as the threshold baseline's or an oracle's."""
    write_predictions(folder / "predictions", model, 0, subjects, {"run": model})
    output = folder / "scores"
    evaluate_folder(
        references(subjects), folder / "predictions", output, edge="ignore", run=model, split="", simulated=simulated
    )
    return output
