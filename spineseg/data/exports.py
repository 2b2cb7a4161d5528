"""Exports beside a prepared folder: the same cases and folds as a YOLO data set or as nnU-Net's raw data set."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import Image
from rich.progress import track

from spineseg.data.cases import Case, column_order
from spineseg.data.files import sha256_of_text, write_json, write_text
from spineseg.data.polygons import outline, to_row
from spineseg.data.prepared import Prepared
from spineseg.data.sources import Source
from spineseg.data.splits import Split
from spineseg.data.store import StoredCase, open_store, spacing_key
from spineseg.errors import ConfigError, DataError
from spineseg.geometry import SpacingMm
from spineseg.vertebrae import level_name
from spineseg.volumes import write_volume

EXPORT_FORMAT: Final = "export 1"
# Grey 0 and 255 of the pictures: soft tissue to dense bone, the range that the slice models see.
WINDOW_HU: Final = (-200.0, 1000.0)
NNUNET_ID: Final = 501


def export_prepared(prepared: Prepared, source: Source, kind: str, spacing_mm: SpacingMm) -> Path:
    """Write an export beside the prepared folder; one that is there and of the same content is kept.

    Args:
        prepared: cases, splits and store.
        source: for native volumes (nnU-Net).
        kind: ``yolo`` or ``nnunet``.
        spacing_mm: of the store that YOLO's slices are cut from; nnU-Net gets native volumes.

    Returns:
        ``<prepared>-yolo-<spacing>`` or ``<prepared>-nnunet``.
    """
    writers: dict[str, tuple[str, Callable[[Path], None]]] = {
        "yolo": (f"yolo-{spacing_key(spacing_mm)}", lambda folder: _yolo(prepared, source, spacing_mm, folder)),
        "nnunet": ("nnunet", lambda folder: _nnunet(prepared, source, folder)),
    }
    if kind not in writers:
        raise ConfigError(f"export={kind}: expected null, yolo or nnunet")
    suffix, write = writers[kind]
    folder = prepared.root.with_name(f"{prepared.root.name}-{suffix}")
    if (folder / "export.json").is_file():
        return folder
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    write(partial)
    write_json(
        partial / "export.json",
        {
            "format": EXPORT_FORMAT,
            "kind": kind,
            "simulated": prepared.simulated,
            "prepared": prepared.root.name,
            "cases_sha256": sha256_of_text((prepared.root / "cases.csv").read_text(encoding="utf-8")),
        },
    )
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    return folder


def class_levels(prepared: Prepared, source: Source) -> tuple[int, ...]:
    """The source's class list and whatever else the masks hold, cranial to caudal."""
    return column_order({*source.levels, *(level for case in prepared.cases for level in case.levels)})


def picture(image: NDArray[np.int16]) -> NDArray[np.uint8]:
    """A sagittal slice (Y, Z) in HU as a picture: rows from the head down, front of the body at the left, grey."""
    low, high = WINDOW_HU
    grey = np.rint((np.clip(image.astype(np.float32), low, high) - low) / (high - low) * 255).astype(np.uint8)
    return np.ascontiguousarray(_laid_out(grey))


def _laid_out(plane: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return plane[::-1, ::-1].T


def _yolo(prepared: Prepared, source: Source, spacing_mm: SpacingMm, folder: Path) -> None:
    """``images/*.png``, ``labels/*.txt``, and ``fold<f>.yaml`` with its lists; ``data.yaml`` is the first of them."""
    labelled = [case for case in prepared.cases if case.label is not None]
    store = open_store(prepared.store(spacing_mm), [case.id for case in labelled])
    levels = class_levels(prepared, source) if source.labels == "levels" else ()
    index = {level: position for position, level in enumerate(levels)}
    for part in ("images", "labels"):
        (folder / part).mkdir()
    written: dict[str, list[str]] = {}
    for case in track(labelled, "exporting slices"):
        written[case.id] = []
        for x in np.flatnonzero(store[case.id].label_voxels).tolist():
            name = f"{case.id}_x{x:04d}"
            _write_slice(store[case.id], x, index, folder, name)
            written[case.id].append(f"./images/{name}.png")
    names = [level_name(level) for level in levels] or ["vertebra"]
    for fold, split in _folds(prepared):
        lists = {part: f"fold{fold}_{part}.txt" for part in ("train", "val", "test")}
        for part, ids in (("train", split.train), ("val", split.val), ("test", split.test)):
            write_text(folder / lists[part], "".join(f"{line}\n" for case_id in ids for line in written[case_id]))
        # No `path`: Ultralytics then looks beside the file itself.
        content = {**lists, "names": dict(enumerate(names)), "window_hu": list(WINDOW_HU)}
        for file in (f"fold{fold}.yaml", *(() if (folder / "data.yaml").is_file() else ("data.yaml",))):
            write_text(folder / file, yaml.safe_dump(content, sort_keys=False))
    if not (folder / "data.yaml").is_file():
        raise DataError(
            f"{prepared.root}: no fold has both training and validation cases, so there is nothing that YOLO could "
            "train on; add cases"
        )


def _write_slice(case: StoredCase, x: int, index: dict[int, int], folder: Path, name: str) -> None:
    Image.fromarray(picture(case.read_image(x, x + 1)[0])).save(folder / "images" / f"{name}.png")
    labels = _laid_out(case.read_label(x))
    shape = (labels.shape[0], labels.shape[1])
    rows = [
        to_row(index.get(int(level), 0), outline(labels == level), shape) for level in np.unique(labels[labels > 0])
    ]
    (folder / "labels" / f"{name}.txt").write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")


def _nnunet(prepared: Prepared, source: Source, folder: Path) -> None:
    """``Dataset501_<source>`` as in ``nnUNet_raw``, with ``splits_final.json`` (test cases are in neither part)."""
    if source.labels != "levels":
        raise ConfigError(f"export=nnunet: the masks of '{source.name}' name no levels; expected a source that does")
    levels = class_levels(prepared, source)
    table = np.zeros(256, np.uint8)
    table[list(levels)] = np.arange(1, len(levels) + 1)
    labelled: list[Case] = [case for case in prepared.cases if case.label is not None]
    data_set = folder / f"Dataset{NNUNET_ID}_{source.name}"
    for case in track(labelled, "exporting volumes"):
        image, labels = source.read_image(case), source.read_labels(case)
        write_volume(data_set / "imagesTr" / f"{case.id}_0000.nii.gz", image)
        write_volume(data_set / "labelsTr" / f"{case.id}.nii.gz", labels.with_array(table[labels.array]))
    content = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, **{level_name(level): int(table[level]) for level in levels}},
        "numTraining": len(labelled),
        "file_ending": ".nii.gz",
    }
    write_json(data_set / "dataset.json", content)
    splits = ",\n".join(
        f'  {{"train": {_listed(split.train)}, "val": {_listed(split.val)}}}' for _, split in _folds(prepared)
    )
    write_text(data_set / "splits_final.json", f"[\n{splits}\n]\n")


def _listed(ids: tuple[str, ...]) -> str:
    return json.dumps(list(ids), ensure_ascii=False)


def _folds(prepared: Prepared) -> Iterator[tuple[int, Split]]:
    """The folds that have training and validation cases."""
    for fold in range(prepared.splits.count):
        try:
            yield fold, prepared.splits.fold(fold)
        except DataError:
            continue
