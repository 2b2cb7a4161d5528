"""Images a second of our slices and of Ultralytics' own data set and loader on the same slices."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader

import spineseg.models.yolo  # noqa: F401  sets Ultralytics' environment before it is imported
from spineseg.data.augmentation import SliceAugmentation
from spineseg.data.exports import picture
from spineseg.data.polygons import outline, to_row
from spineseg.data.slices import SliceDataset, collate

from ultralytics.cfg import get_cfg  # isort: skip
from ultralytics.data import build_dataloader, build_yolo_dataset  # isort: skip


def export(dataset: SliceDataset, folder: Path, count: int) -> None:
    """Write ``count`` of the slices as PNG with polygon labels, as `prepare export=yolo` does."""
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    picks = np.random.default_rng(0).permutation(len(dataset.refs))[:count]
    for case_id, x in (dataset.refs[pick] for pick in picks):
        case = dataset.cases[case_id]
        Image.fromarray(picture(case.read_image(x, x + 1)[0])).save(folder / "images" / f"{case_id}_x{x:04d}.png")
        labels = case.read_label(x)[::-1, ::-1].T
        shape = (labels.shape[0], labels.shape[1])
        rows = [to_row(0, outline(labels == level), shape) for level in np.unique(labels[labels > 0])]
        (folder / "labels" / f"{case_id}_x{x:04d}.txt").write_text("".join(f"{row}\n" for row in rows))


def theirs(folder: Path, size: int, batch_size: int, **settings: float | str) -> Any:
    """Ultralytics' loader over exported slices with its default augmentation, in this process."""
    cfg = get_cfg(overrides={"task": "segment", "imgsz": size, **settings})
    data = {"names": {0: "vertebra"}, "channels": 3, "nc": 1}
    dataset = build_yolo_dataset(cfg, str(folder / "images"), batch_size, data, mode="train", stride=32)
    return build_dataloader(dataset, batch_size, workers=0, shuffle=True, rank=-1)


def ours(
    dataset: SliceDataset, size: tuple[int, int], augmentation: SliceAugmentation, batch_size: int
) -> DataLoader[Any]:
    """Our loader over slices of the same cases, in this process."""
    made = SliceDataset(
        dataset.cases, dataset.refs, dataset.reader, size=size, augmentation=augmentation, epochs=1000, seed=0
    )
    return DataLoader(made, batch_size, collate_fn=collate, drop_last=True)


def cycle(loader: Any) -> Iterator[Any]:
    """Batches without end."""
    while True:
        yield from loader


def images_per_second(batches: Iterator[Any], count: int, batch_size: int, time: Callable[[], float]) -> float:
    """Speed over ``count`` batches after one that is not timed, on one core: of threads there is one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    next(batches)
    start = time()
    for _ in range(count):
        next(batches)
    seconds = time() - start
    torch.set_num_threads(threads)
    return count * batch_size / seconds
