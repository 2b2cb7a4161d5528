"""What the framework adds to a training step, and how fast slices come; README.md says what is asked.

`python experiments/training_loop/run.py [options] -- <overrides of the program train>`
"""

import argparse
import csv
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import date
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from loaders import cycle, export, images_per_second, ours, theirs
from loops import Nothing, bare, framework

from spineseg.config import compose
from spineseg.data.augmentation import SliceAugmentation
from spineseg.hardware import best_precision
from spineseg.models.yolo import yolov8_seg
from spineseg.tasks.optim import Optimization
from spineseg.trained import build_datamodule

HERE = Path(__file__).parent
PACKAGES = ("torch", "lightning", "ultralytics", "opencv-python", "blosc2", "wandb")
Row = dict[str, Any]
# Of the processor, what else the machine does lengthens little; it says nothing of what runs beside itself.
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "processor": time.process_time}


def alternate(name: str, first: Callable[[], float], second: Callable[[], float], rounds: int) -> Row:
    """Measure both in turns, the order changing each round; medians, and the median of the rounds' ratios."""
    values: list[tuple[float, float]] = []
    for number in range(rounds):
        if number % 2:
            b = second()
            values.append((first(), b))
        else:
            a = first()
            values.append((a, second()))
    row = {
        "what": name,
        "ours": statistics.median(a for a, _ in values),
        "other": statistics.median(b for _, b in values),
        "ratio": statistics.median(a / b for a, b in values),
        "lowest": min(a / b for a, b in values),
        "highest": max(a / b for a, b in values),
    }
    print({key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()}, flush=True)
    return row


def loop_rows(datamodule: Any, options: argparse.Namespace) -> list[Row]:
    """Images a second: the loop against the bare one, with a network and with none."""
    optimization = Optimization("AdamW", lr0=1e-4, nominal_batch=None)
    precision, clock = best_precision("cpu"), CLOCKS[options.clock]
    loader = datamodule.train_dataloader()
    kept = list(islice(cycle(loader), options.batches))
    size = datamodule.batch_size
    channels, classes = datamodule.channels, 1

    def network() -> Any:
        torch.manual_seed(0)
        return yolov8_seg(channels, classes, options.scale).to(memory_format=torch.channels_last)

    def memory(count: int) -> Callable[[], Any]:
        return lambda: islice(cycle(kept), count)

    def loaded(count: int) -> Callable[[], Any]:
        return lambda: islice(cycle(loader), count)

    def speed(seconds: list[float]) -> float:
        return size / statistics.median(seconds)

    def mean_speed(seconds: list[float]) -> float:
        return size * len(seconds) / sum(seconds)

    def by_framework(
        net: Callable[[], Any],
        batches: Callable[[], Any],
        count: int,
        loggers: bool,
        of: Callable[[list[float]], float],
    ) -> float:
        folder = Path(tempfile.mkdtemp())
        try:
            return of(framework(net(), optimization, batches, count, precision, clock, folder, loggers=loggers))
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    rows = []
    steps, many = options.steps, options.empty_steps
    cases: list[tuple[str, Callable[[], Any], Callable[[], Any], int, bool, Callable[[list[float]], float]]] = [
        ("step on tensors in memory", network, memory(steps), steps, False, speed),
        ("step on tensors in memory, CSV and W&B offline", network, memory(steps), steps, True, speed),
        ("0 ms model, our loader", Nothing, loaded(many), many, False, mean_speed),
        ("0 ms model, our loader, CSV and W&B offline", Nothing, loaded(many), many, True, mean_speed),
        ("0 ms model, tensors in memory", Nothing, memory(many), many, False, mean_speed),
    ]
    for name, net, batches, count, loggers, of in cases:
        rows.append(
            alternate(
                f"{name}, {precision}: the loop against a bare one",
                lambda n=net, b=batches, c=count, w=loggers, o=of: by_framework(n, b, c, w, o),
                lambda n=net, b=batches, o=of: o(bare(n(), optimization, b(), precision, clock)),
                options.rounds,
            )
        )
    return rows


def loader_rows(datamodule: Any, options: argparse.Namespace) -> list[Row]:
    """Images a second of the loaders."""
    dataset, clock = datamodule.train_dataset(), CLOCKS[options.clock]
    folder = Path(tempfile.mkdtemp())
    rows = []
    try:
        export(dataset, folder / "export", options.exported)
        plain = SliceAugmentation(mosaic=0.0)
        mosaic, ram = SliceAugmentation(close_mosaic_epochs=0), {"cache": "ram"}
        cases: list[tuple[str, tuple[int, int], SliceAugmentation, int, dict[str, Any]]] = [
            ("640 px, mosaic (both defaults)", (640, 640), mosaic, 640, {}),
            ("640 px, mosaic, its pictures in memory too", (640, 640), mosaic, 640, ram),
            ("640 px, no mosaic", (640, 640), plain, 640, {"mosaic": 0.0}),
            ("256 px, mosaic", (256, 256), mosaic, 256, {}),
            ("256 px, no mosaic", (256, 256), plain, 256, {"mosaic": 0.0}),
            ("256 px, no mosaic, its pictures in memory too", (256, 256), plain, 256, {"mosaic": 0.0, **ram}),
            ("the recipe given; Ultralytics' default", datamodule.image_size, datamodule.augmentation, 0, {}),
            (
                "the recipe given; Ultralytics' without mosaic",
                datamodule.image_size,
                datamodule.augmentation,
                0,
                {"mosaic": 0.0},
            ),
        ]
        for name, size, augmentation, imgsz, settings in cases:
            side = imgsz or max(size)
            mine = cycle(ours(dataset, size, augmentation, options.loader_batch))
            for _ in range(len(dataset.refs) // options.loader_batch + 1):
                next(mine)  # the first epoch reads the store; later ones find it in memory
            other = cycle(theirs(folder / "export", side, options.loader_batch, **settings))
            rows.append(
                alternate(
                    f"loader, {name}: {size[0]}×{size[1]} against {side}×{side}",
                    lambda m=mine: images_per_second(m, options.loader_batches, options.loader_batch, clock),
                    lambda o=other: images_per_second(o, options.loader_batches, options.loader_batch, clock),
                    options.rounds,
                )
            )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return rows


def main() -> None:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=25, help="batches a round with a network")
    parser.add_argument("--empty-steps", type=int, default=200, help="batches a round without one")
    parser.add_argument("--batches", type=int, default=10, help="batches kept in memory")
    parser.add_argument("--scale", default="n")
    parser.add_argument("--loader-batches", type=int, default=10)
    parser.add_argument("--loader-batch", type=int, default=16)
    parser.add_argument("--exported", type=int, default=300)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--output", type=Path, default=HERE)
    parser.add_argument("overrides", nargs="*", help="of the program train, after --")
    options = parser.parse_args()
    datamodule = build_datamodule(compose("train", [*options.overrides, "data.workers=0"]))
    datamodule.setup("fit")
    rows = loop_rows(datamodule, options) + loader_rows(datamodule, options)
    options.output.mkdir(parents=True, exist_ok=True)
    with (options.output / "table.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    lines = [
        f"Images a second of the {options.clock}, medians of {options.rounds} rounds in turns; "
        f"batch {datamodule.batch_size} of "
        f"{datamodule.image_size[0]}×{datamodule.image_size[1]} (loaders: {options.loader_batch}); "
        f"{platform.machine()}, {torch.get_num_threads()} threads, {versions}, {date.today()}",
        "",
        "| what | ours | the other | ratio (lowest to highest) |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {row['what']} | {row['ours']:.1f} | {row['other']:.1f} | "
        f"{row['ratio']:.3f} ({row['lowest']:.3f} to {row['highest']:.3f}) |"
        for row in rows
    ]
    (options.output / "table.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
