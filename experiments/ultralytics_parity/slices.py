"""The slices that our trainer reads, as Ultralytics' data set: same pixels, same subjects, same split."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml
from recipe import Recipe, data_overrides

from spineseg.config import compose
from spineseg.data.datamodules import SliceDataModule
from spineseg.data.slices import STRIDE, SliceDataset, SliceRef
from spineseg.trained import build_datamodule


def simulate(recipe: Recipe, work: Path) -> dict[str, Any]:
    """Ten small scans, unless a set is given."""
    if recipe.scans is None:
        from spineseg.simulate import main

        output = work / "data" / "simulated" / "csi2014"
        main(compose("simulate", ["layout=csi2014", "size=small", f"output={output}", "workers=1"]))
    return {}


def export(recipe: Recipe, work: Path) -> dict[str, Any]:
    """Prepare the set, and write pictures and polygons.

    A picture is the slice and its two neighbours, windowed to 8 bits, as the three channels, with black to the right
    and below up to one size for all; a row of labels is one instance.
    """
    module = build_datamodule(compose("train", data_overrides(recipe, work)))
    datasets = {"train": module.train_dataset(), "val": module.val_dataset()}
    shapes = [case.shape[1:] for dataset in datasets.values() for case in dataset.cases.values()]
    size = [int(-(-max(side) // STRIDE) * STRIDE) for side in zip(*shapes, strict=True)]
    folder = work / "export"
    counts = {}
    for name, dataset in datasets.items():
        (folder / "images" / name).mkdir(parents=True, exist_ok=True)
        (folder / "labels" / name).mkdir(parents=True, exist_ok=True)
        refs = dataset.refs
        if recipe.train_slices is not None:  # spread over the set, as many as an epoch of ours draws
            refs = [refs[i] for i in np.linspace(0, len(refs) - 1, recipe.train_slices).astype(int)]
        for ref in refs:
            _write(dataset, ref, size, folder, name)
        counts[name] = len(refs)
    content = {"path": str(folder), "train": "images/train", "val": "images/val", "names": {0: "vertebra"}}
    (folder / "data.yaml").write_text(yaml.safe_dump(content))
    split = module.split()
    return {"size": size, "slices": counts, "train": split.train, "val": split.val, "test": split.test}


def _write(dataset: SliceDataset, ref: SliceRef, size: list[int], folder: Path, split: str) -> None:
    case = dataset.cases[ref.case]
    grey = dataset.reader.image(case, ref.x)
    picture = np.zeros((*size, 3), np.uint8)
    picture[: grey.shape[0], : grey.shape[1]] = np.rint(grey * 255)
    cv2.imwrite(str(folder / "images" / split / f"{ref.case}_{ref.x:04d}.png"), picture)
    labels = case.read_label(ref.x)
    rows = [_row(labels == level, size) for level in np.unique(labels[labels > 0])]
    text = "".join(f"{row}\n" for row in rows if row)
    (folder / "labels" / split / f"{ref.case}_{ref.x:04d}.txt").write_text(text)


def _row(mask: np.ndarray, size: list[int]) -> str | None:
    """One instance as Ultralytics' own converters write it: outer contours by OpenCV, parts joined to one polygon."""
    from ultralytics.data.converter import merge_multi_segment

    if mask.sum() < 4:  # as our samples leave them out
        return None
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    parts = [contour.reshape(-1, 2).astype(float) for contour in contours if len(contour) >= 3]
    if not parts:
        return None
    points = np.concatenate(merge_multi_segment([part.ravel().tolist() for part in parts]) if len(parts) > 1 else parts)
    return " ".join(["0", *(f"{value:.6f}" for value in (points / [size[1], size[0]]).ravel())])


def module_of(recipe: Recipe, work: Path) -> SliceDataModule:
    """Our data module on the same set, for the jobs that score."""
    return build_datamodule(compose("train", data_overrides(recipe, work)))
