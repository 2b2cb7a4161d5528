"""Detector and label maps, 2D and 3D, on the same simulated subjects: train, predict, evaluate, report; see README.md.

Resumable: a recipe whose run has `results.json` is not trained again, a half-done run goes on. The work folder is laid
out as that of experiments/recipes, so that either finds the other's runs. One of the two at a time.
"""

import argparse
import csv
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

HERE: Final = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent))

from figure import draw  # noqa: E402
from recipes.run import FOLDS, call  # noqa: E402  # a sibling experiment

SETS: Final = {"csi": "csi2014", "kaggle": "kaggle"}
RECIPES: Final = {
    "yolo_levels": "yolo_{}_levels",
    "unet2d": "unet2d_{}",
    "unet3d": "unet_{}",
    "nnunet": "nnunet_{}",
}
BASELINES: Final = ("threshold", "oracle_native", "oracle_pixel", "oracle_mask")
METRICS: Final = (
    *("mask_map50", "box_map50", "mask_map50_named", "mask_map50_native"),
    *("dice", "dice_spine", "nsd", "id", "hd95"),
)
COLUMNS: Final = ("set", "model", *METRICS, "parameters", "seconds", "seconds_a_scan", "recipe")
SECONDS: Final = ("recipe", "seconds", "what")


class Work:
    """The work folder: `scans/`, `prepared/` and `runs/<recipe>/` are those of experiments/recipes."""

    def __init__(self, root: Path, epochs: int | None) -> None:
        self.root, self.epochs = root, epochs
        self.own = root / "side_by_side"
        self.own.mkdir(parents=True, exist_ok=True)

    def scans(self, layout: str) -> Path:
        """Simulated scans of a set, made if they are missing."""
        scans = self.root / "scans" / layout
        if not scans.is_dir():
            log = self.root / "simulate.txt"
            call(["spineseg.simulate", f"layout={layout}", "size=small", f"output={scans}"], log)
        return scans

    def trained(self, recipe: str, scans: Path) -> Path:
        """The finished run of a recipe: found, gone on with, or trained now."""
        runs, log = self.root / "runs" / recipe, self.root / f"{recipe}.txt"
        found = sorted(path for path in runs.glob("*/*/20*") if path.is_dir())
        if not any(self.is_done(run) for run in found):
            if found:
                words, what = ["spineseg.train", f"resume={found[-1]}", f"paths.runs={runs}"], "resumed"
            else:
                given = [f"+experiment={recipe}", "+preset=quick", f"data.source.root={scans}"]
                more = [f"data.fold={FOLDS[recipe.split('_')[1]]}"]
                more += [] if self.epochs is None else [f"trainer.max_epochs={self.epochs}"]
                places = [f"paths.prepared={self.root / 'prepared'}", f"paths.runs={runs}"]
                words = ["spineseg.train", *given, *more, "logger.wandb.mode=disabled", *places]
                what = "trained"
            print(f"{recipe}: {what} now", flush=True)
            self.spent(recipe, call(words, log), what)
            found = sorted(path for path in runs.glob("*/*/20*") if path.is_dir())
        return next(run for run in reversed(found) if self.is_done(run))

    @staticmethod
    def is_done(run: Path) -> bool:
        """Whether the test split of a run is scored."""
        path = run / "results.json"
        return path.is_file() and "test" in json.loads(path.read_text())["splits"]

    def spent(self, recipe: str, seconds: float, what: str) -> None:
        """Write down what a step took, for the table and the budget."""
        path = self.own / "seconds.csv"
        fresh = not path.is_file()
        with path.open("a", newline="") as stream:
            writer = csv.DictWriter(stream, SECONDS)
            if fresh:
                writer.writeheader()
            writer.writerow({"recipe": recipe, "seconds": round(seconds, 1), "what": what})

    def seconds(self, recipe: str) -> float | None:
        """Seconds of a recipe: those written down here, else those in the table of experiments/recipes."""
        for table in (self.own / "seconds.csv", HERE.parent / "recipes" / "quick.csv"):
            if found := [float(row["seconds"]) for row in _rows(table) if row["recipe"] == recipe]:
                return sum(found)
        return None

    def evaluation(self, run: Path, prepared: Path, subjects: Path) -> Path:
        """The run's own evaluation, made anew where it does not hold what the protocols table needs."""
        folder = run / "evaluation" / "test"
        if not (folder / "protocols.csv").is_file():
            from spineseg.evaluate import evaluate_folder, find_references

            summary = json.loads((folder / "summary.json").read_text())
            evaluate_folder(
                find_references(prepared / "cases.csv", subjects=subjects),
                run / "predictions" / "test",
                folder,
                **{key: summary[key] for key in ("edge", "run", "split", "simulated", "seed", "fold")},
            )
        return folder

    def baseline(self, name: str, layout: str, prepared: Path, subjects: Path) -> Path:
        """The evaluation of a row that needs no training."""
        predicted, scores = self.own / "predicted" / layout / name, self.own / "evaluated" / layout / name
        log = self.own / f"{name}_{layout}.txt"
        if not (scores / "protocols.csv").is_file():
            given = [f"run={name}", f"input={prepared}", f"output={predicted}", "outputs=[nifti,json]"]
            seconds = call(["spineseg.predict", *given], log)
            places = [f"reference={prepared / 'cases.csv'}", f"prediction={predicted}", f"output={scores}"]
            seconds += call(["spineseg.evaluate", *places, f"subjects={subjects}"], log)
            self.spent(f"{name}_{layout}", seconds, "predicted and scored")
        return scores


def _rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.open(newline=""))) if path.is_file() else []


def test_subjects(work: Work, layout: str, run: Path, prepared: Path) -> Path:
    """A CSV of the test cases of a run, for `evaluate`."""
    cases = {path.name.removesuffix(".nii.gz") for path in (run / "predictions" / "test").glob("*.nii.gz")}
    path = work.own / f"test_{layout}.csv"
    rows = [row for row in _rows(prepared / "cases.csv") if row["id"] in cases]
    path.write_text("case,subject\n" + "".join(f"{row['id']},{row['subject']}\n" for row in rows))
    return path


def one_set(work: Work, short: str, models: Sequence[str]) -> tuple[list[dict[str, Any]], dict[str, Path]]:
    """Rows of the table and evaluation folders of all models and baselines of a set; its report is written."""
    layout = SETS[short]
    scans = work.scans(layout)
    runs = {model: work.trained(RECIPES[model].format(short), scans) for model in models}
    first = next(iter(runs.values()))
    prepared = work.root / "prepared" / json.loads((first / "provenance.json").read_text())["data"]
    subjects = test_subjects(work, layout, first, prepared)
    folders = {model: work.evaluation(run, prepared, subjects) for model, run in runs.items()}
    folders |= {name: work.baseline(name, layout, prepared, subjects) for name in BASELINES}
    rows = []
    for model, folder in folders.items():
        summary = json.loads((folder / "summary.json").read_text())
        assert summary["simulated"], folder
        row: dict[str, Any] = {"set": layout, "model": model}
        row |= {name: summary["metrics"].get(name, {}).get("value") for name in METRICS}
        if model in runs:
            recipe = RECIPES[model].format(short)
            cost = json.loads((runs[model] / "results.json").read_text())["cost"]
            row |= {"recipe": recipe, "seconds": work.seconds(recipe), "parameters": cost["parameters"]}
            row["seconds_a_scan"] = cost["predict_seconds_a_case"]
        rows.append(row)
    listed = ",".join(f"'{path}'" for path in [*runs.values(), *(folders[name] for name in BASELINES)])
    report = work.own / "report" / layout
    labels = [f"+labels.{RECIPES[model].format(short)}={model}" for model in runs]
    title = f"title='Side by side, simulated {layout}'"
    call(["spineseg.report", f"runs=[{listed}]", f"output={report}", title, *labels], work.own / f"report_{layout}.txt")
    return rows, folders


def write_table(rows: Sequence[dict[str, Any]], table: Path) -> None:
    """CSV, and Markdown with a table a set."""
    with table.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    what = "one seed, the test subjects of fold 0 (CSI) or 2 (Kaggle): descriptive"
    lines = [f"SIMULATED scans; `+preset=quick`, {what}.", ""]
    for layout in dict.fromkeys(row["set"] for row in rows):
        shown = [column for column in COLUMNS if column not in ("set", "recipe")]
        lines += [f"**{layout}**", "", f"| {' | '.join(shown)} |", f"|{'---|' * len(shown)}"]
        for row in (row for row in rows if row["set"] == layout):
            lines.append("| " + " | ".join(_shown(row.get(column), column) for column in shown) + " |")
        lines.append("")
    table.with_suffix(".md").write_text("\n".join(lines))


def _shown(value: Any, column: str) -> str:
    if value is None or value == "":
        return "n/a" if column in METRICS else "–"
    if column == "model":
        return str(value)
    number = float(value)
    if column == "parameters":
        return f"{number / 1e6:.1f} M"
    return (
        f"{number:.0f}" if column == "seconds" else f"{number:.1f}" if column == "seconds_a_scan" else f"{number:.3f}"
    )


def main() -> None:
    """Do what is missing, then write the table, the figure and the reports."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--epochs", type=int, help="of every recipe that is trained now; else the preset's")
    parser.add_argument("--sets", nargs="*", choices=tuple(SETS), default=list(SETS))
    parser.add_argument("--models", nargs="*", choices=tuple(RECIPES), default=list(RECIPES))
    parser.add_argument("--output", type=Path, default=HERE, help="of table.csv, table.md and side_by_side.png")
    options = parser.parse_args()
    work = Work(options.work.resolve(), options.epochs)
    options.output.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    folders: dict[str, dict[str, Path]] = {}
    for short in options.sets:
        found, folders[SETS[short]] = one_set(work, short, options.models)
        rows += found
        write_table(rows, options.output / "table.csv")
    draw(folders, BASELINES, options.output / "side_by_side.png")
    print((options.output / "table.md").read_text())
    total = sum(float(row["seconds"]) for row in _rows(work.own / "seconds.csv"))
    print(
        f"{total / 60:.0f} minutes of training, predicting and scoring by this script; reports in {work.own / 'report'}"
    )


if __name__ == "__main__":
    main()
