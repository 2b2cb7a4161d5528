"""The transfer study: trained on simulated scans alone, scored on real ones, beside the threshold baseline.

Each step is one of the programs, called as a user would call it; what is there already is used again. A set of scans, a
run, predictions and evaluations lie under the data and runs folders, the table beside this file.
"""

import argparse
import csv
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

import pandas as pd

from spineseg.checkpoints import read_checkpoint, steps_done
from spineseg.config import compose
from spineseg.data.sources.folder import Folder
from spineseg.phantom import GENERATOR_VERSION
from spineseg.phantom.layouts import case_files
from spineseg.prepare import prepare_source
from spineseg.targets import plain

# What is trained. Another list here is another run; results of the earlier one stay in the table.
RECIPES: Final[dict[str, tuple[str, ...]]] = {
    "yolov8-seg": (
        "+experiment=yolo_kaggle",
        "+preset=quick",
        # The spacing of the set; whole slices of most scans are in view.
        "data.pixel_mm=1.5",
        "data.image_size=[160,224]",
        # What a scanner or a person may do that the simulated ones do not.
        "data.augmentation.degrees=15",
        "data.augmentation.scale=0.3",
        "data.augmentation.brightness=0.4",
        "data.augmentation.contrast=0.3",
        "data.augmentation.gamma=0.3",
        "data.augmentation.noise=0.03",
        "data.augmentation.blur=1.0",
        "data.validation_step_mm=15",
        "trainer.max_epochs=16",
        "trainer.check_val_every_n_epoch=4",
    ),
    # Its augmentation is the recipe's own: turns, zoom, noise, blur, contrast, gamma, low resolution.
    "unet3d": (
        "+experiment=unet_kaggle",
        "+preset=quick",
        "data.spacing_mm=[1.5,1.5,1.5]",
        "data.epoch_patches=200",
        "data.augmentation.spatial=0.5",
        "data.augmentation.intensity=0.3",
        "data.validation_cases=2",
        "trainer.max_epochs=16",
        "trainer.check_val_every_n_epoch=4",
    ),
}
REAL: Final = ("chest_1p5mm", "abdomen_3mm")
CONVENTION: Final = "totalsegmentator_v2"
BASELINE: Final = "threshold"
SEED: Final = 0
# The last so many simulated scans choose the epoch; none is kept for testing, which is what the real ones are for.
VALIDATION_CASES: Final = 4
# `crop` scores the height between the outer ends of the first and last whole reference vertebra. Only there can a mask
# without objects be scored: under `ignore`, PROTOCOL 7 drops objects, and the baseline's only one may be matched to a
# vertebra that the field of view cuts. The mask AP is that of `ignore`, the default of a folder of scans.
EDGES: Final = ("crop", "ignore")


@dataclass(frozen=True)
class Row:
    """A model's scores on one real scan."""

    model: str
    difficulty: str
    cases: int
    recipe: str
    case: str
    dice_spine_crop: float | None
    dice_spine_ignore: float | None
    mask_map50_native: float | None
    box_map50_native: float | None
    minutes: float | None
    steps: int | None

    @property
    def key(self) -> tuple[str, ...]:
        """What a later result replaces an earlier one by."""
        return self.model, self.difficulty, str(self.cases), self.recipe, self.case


@dataclass(frozen=True)
class Places:
    """Folders of data and runs."""

    data: Path
    runs: Path

    @property
    def overrides(self) -> list[str]:
        """The same for the programs."""
        return [f"paths.data={self.data}", f"paths.runs={self.runs}"]


def run_program(program: str, *overrides: str) -> None:
    """Run ``python -m spineseg.<program>``; its output is shown, its failure ends the study."""
    command = [sys.executable, "-m", f"spineseg.{program}", *overrides]
    print("$", " ".join(["python", *command[1:]]), flush=True)
    code = subprocess.run(command, check=False).returncode
    if code:
        sys.exit(code)  # the program has said why


def prepare_real(root: Path, places: Places) -> Path:
    """Prepare the real scans; returns the prepared folder."""
    source = Folder(root, convention=CONVENTION, name="transfer_real", include=list(REAL))
    return prepare_source(
        source, prepared_root=places.data / "prepared", spacing_mm=(None, None, None), split_seed=0, workers=1
    )


def simulate(difficulty: str, cases: int, places: Places) -> Path:
    """Make the training set, or what is missing of it; another generator's lies in a folder of its own."""
    root = places.data / "simulated" / f"transfer-{difficulty}-v{GENERATOR_VERSION}"
    settings = (f"difficulty={difficulty}", f"cases={cases}", f"seed={SEED}", f"output={root}")
    run_program("simulate", "layout=kaggle", "size=full", *settings, *places.overrides)
    return root


def recipe_hash(recipe: Sequence[str]) -> str:
    """Eight letters of what decides a run beside the difficulty and the number of cases, as the recipe composes."""
    content = plain(compose("train", list(recipe)))
    for places in ("paths", "logger", "run"):
        del content[places]
    del content["data"]["prepared_root"], content["data"]["source"]["root"]
    text = json.dumps([content, GENERATOR_VERSION, SEED, VALIDATION_CASES])
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def split_file(root: Path, cases: int) -> Path:
    """Write which simulated scans train and which choose the epoch."""
    ids = [case_files("kaggle", index).id for index in range(cases)]
    path = root.with_name(f"{root.name}-{cases}-split.json")
    split = {"train": ids[:-VALIDATION_CASES], "val": ids[-VALIDATION_CASES:], "test": []}
    path.write_text(json.dumps(split), encoding="utf-8")
    return path


def train(root: Path, split: Path, name: str, recipe: Sequence[str], places: Places) -> Path:
    """Train, or go on with what was stopped; returns the run folder."""
    latest = places.runs / "transfer" / name / "latest"
    if not _fitted(latest):
        if (latest / "checkpoints" / "last.ckpt").is_file():
            run_program("train", f"resume={latest.resolve()}", "score_splits=[]")
        else:
            run_program(
                "train",
                *recipe,
                f"data.source.root={root}",
                f"data.split_file={split}",
                f"seed={SEED}",
                "run.group=transfer",
                f"run.name={name}",
                "score_splits=[]",
                *places.overrides,
            )
    return latest.resolve()


def _fitted(run: Path) -> bool:
    file = run / "provenance.json"
    return file.is_file() and json.loads(file.read_text()).get("fit_seconds") is not None


def score(model: str, run: str, folder: Path, prepared: Path, places: Places) -> dict[str, dict[str, float | None]]:
    """Predict on the real scans and evaluate each by itself; returns the numbers of each case."""
    predictions = folder / "predictions"
    if not _complete(predictions):
        settings = (f"run={run}", f"input={prepared / 'cases.csv'}", f"output={predictions}")
        run_program("predict", *settings, *places.overrides)
    found: dict[str, dict[str, float | None]] = {}
    for case in REAL:
        only = folder / f"{case}.csv"
        only.write_text(f"case,subject\n{case},{case}\n", encoding="utf-8")
        found[case] = {}
        for edge in EDGES:
            output = folder / f"evaluation-{case}-{edge}"
            if not (output / "summary.json").is_file():
                settings = (f"reference={prepared / 'cases.csv'}", f"prediction={predictions}", f"subjects={only}")
                run_program("evaluate", *settings, f"edge={edge}", f"output={output}", *places.overrides)
            found[case] |= read_scores(output, edge)
    print(f"{model}: {found}")
    return found


def _complete(predictions: Path) -> bool:
    file = predictions / "predictions.json"
    return file.is_file() and bool(json.loads(file.read_text())["complete"])


def read_scores(evaluation: Path, edge: str) -> dict[str, float | None]:
    """Spine Dice by the edge rule, and, under ``ignore``, native AP50 of masks and boxes."""
    rows = pd.read_csv(evaluation / "metrics.csv")
    dice = float(rows.loc[rows["metric"] == "dice_spine", "value"].iloc[0])
    found: dict[str, float | None] = {f"dice_spine_{edge}": dice}
    if edge == "ignore":
        summary: dict[str, Any] = json.loads((evaluation / "summary.json").read_text())
        metrics = summary.get("metrics", summary)
        for name in ("mask_map50_native", "box_map50_native"):
            found[name] = metrics[name]["value"]
    return found


def steps_of(run: Path) -> int:
    """Optimiser steps of a run, from its last checkpoint."""
    return steps_done(read_checkpoint(run / "checkpoints" / "last.ckpt"))


def merge(table: Path, rows: Sequence[Row]) -> list[Row]:
    """Add rows to the table on disk, in place of those of the same model, set, recipe and case."""
    kept: dict[tuple[str, ...], Row] = {}
    if table.is_file():
        with table.open(newline="", encoding="utf-8") as stream:
            for found in csv.DictReader(stream):
                row = _row(found)
                kept[row.key] = row
    kept |= {row.key: row for row in rows}
    order = (BASELINE, "easy", "default", "hard")
    ordered = sorted(kept.values(), key=lambda r: (r.model, order.index(r.difficulty or r.model), r.recipe, r.cases))
    with table.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, [field.name for field in fields(Row)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in ordered)
    return ordered


def _row(found: dict[str, str]) -> Row:
    def number(name: str) -> float | None:
        return float(found[name]) if found[name] else None

    return Row(
        model=found["model"],
        difficulty=found["difficulty"],
        cases=int(found["cases"]),
        recipe=found["recipe"],
        case=found["case"],
        dice_spine_crop=number("dice_spine_crop"),
        dice_spine_ignore=number("dice_spine_ignore"),
        mask_map50_native=number("mask_map50_native"),
        box_map50_native=number("box_map50_native"),
        minutes=number("minutes"),
        steps=int(float(found["steps"])) if found["steps"] else None,
    )


def markdown(rows: Sequence[Row]) -> str:
    """The table, a row a model, three columns of scores a scan."""
    lines = [
        "Trained on SIMULATED scans alone (the baseline on none), scored on real ones whose truth is another model's:",
        "one scan each, so no interval. `dice_spine` is scored between the outer ends of the first and last whole",
        "vertebra of the reference (edge=crop; in brackets edge=ignore); AP is native, edge=ignore.",
        "",
        "| model | trained on | steps, min | "
        + " | ".join(f"{case}: `dice_spine` | `mask_map50_native` | `box_map50_native`" for case in REAL)
        + " |",
        "|---" * (3 + 3 * len(REAL)) + "|",
    ]
    groups: dict[tuple[str, ...], dict[str, Row]] = {}
    for row in rows:
        groups.setdefault(row.key[:-1], {})[row.case] = row
    for cases in groups.values():
        if set(cases) != set(REAL):
            continue
        first = cases[REAL[0]]
        trained = f"{first.cases} × {first.difficulty} ({first.recipe})" if first.difficulty else "–"
        cost = f"{first.steps}, {first.minutes:.0f}" if first.minutes is not None else "–"
        cells = []
        for case in REAL:
            row = cases[case]
            cells.append(f"{_text(row.dice_spine_crop)} ({_text(row.dice_spine_ignore)})")
            cells += [_text(row.mask_map50_native), _text(row.box_map50_native)]
        lines.append(f"| {first.model} | {trained} | {cost} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _text(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3f}"


def main() -> None:
    """Run the study for the difficulties that are asked for and print its table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("difficulty", nargs="*", default=["easy", "default", "hard"], help="easy, default, hard")
    parser.add_argument("--network", choices=RECIPES, default="yolov8-seg")
    parser.add_argument("--cases", type=int, default=64, help="simulated scans of a training set")
    parser.add_argument("--real", type=Path, default=os.environ.get("SPINESEG_REAL_CT"), help="folder of real scans")
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--output", type=Path, default=Path(__file__).parent, help="folder of transfer.csv and .md")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="more overrides of train")
    options = parser.parse_args()
    if options.real is None or not options.real.is_dir():
        parser.error("no real scans: set SPINESEG_REAL_CT or give --real=<folder>")
    options.output.mkdir(parents=True, exist_ok=True)
    places = Places(options.data, options.runs)
    prepared = prepare_real(options.real, places)
    found = score(BASELINE, BASELINE, places.runs / "transfer" / BASELINE, prepared, places)
    rows = [Row(BASELINE, "", 0, "", case, **found[case], minutes=None, steps=None) for case in REAL]
    merge(options.output / "transfer.csv", rows)
    for difficulty in options.difficulty:
        started = time.perf_counter()
        root = simulate(difficulty, options.cases, places)
        words = (*RECIPES[options.network], *options.set)
        recipe, split = recipe_hash(words), split_file(root, options.cases)
        name = "" if options.network == "yolov8-seg" else f"{options.network}-"
        run = train(root, split, f"{name}{difficulty}-{options.cases}-{recipe}", words, places)
        found = score(difficulty, str(run), run / "real", prepared, places)
        minutes = json.loads((run / "provenance.json").read_text())["fit_seconds"] / 60
        rows = [
            Row(
                options.network,
                difficulty,
                options.cases,
                recipe,
                case,
                **found[case],
                minutes=minutes,
                steps=steps_of(run),
            )
            for case in REAL
        ]
        merge(options.output / "transfer.csv", rows)
        print(f"{difficulty}: {(time.perf_counter() - started) / 60:.1f} min with simulation and scoring")
    table = markdown(merge(options.output / "transfer.csv", ()))
    (options.output / "transfer.md").write_text(table, encoding="utf-8")
    print(table)


if __name__ == "__main__":
    main()
