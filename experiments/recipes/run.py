"""Every recipe on simulated scans, small: trained, stopped, resumed, scored, used on a scan; see README.md.

Resumable: a recipe whose row is in the table is not done again.
"""

import argparse
import csv
import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

HERE: Final = Path(__file__).resolve().parent
SETS: Final = {"csi": "csi2014", "kaggle": "kaggle"}
# The hash rule gives ten Kaggle subjects none in fold 0; in fold 2 three are tested, three validated, four trained on.
FOLDS: Final = {"csi": 0, "kaggle": 2}
KINDS: Final = ("yolo_{}", "yolo_{}_levels", "unet2d_{}", "unet_{}", "nnunet_{}")
METRICS: Final = ("mask_map50_native", "mask_map50", "mask_map50_named", "dice", "dice_spine")
COLUMNS: Final = ("recipe", "epochs", "seconds", *METRICS, "parameters", "peak_ram_mb", "seconds_a_scan", "resumed_at")


def call(words: Sequence[str], log: Path, *, stop: Path | None = None) -> float:
    """Run a program of ours; with ``stop``, send SIGTERM once that file is there. Returns its seconds.

    Raises:
        SystemExit: it failed.
    """
    started = time.perf_counter()
    with log.open("a") as stream:
        process = subprocess.Popen([sys.executable, "-m", *words], stdout=stream, stderr=subprocess.STDOUT)
        while stop is not None and process.poll() is None:
            if any(stop.glob("*/*/20*/checkpoints/last.ckpt")):
                process.send_signal(signal.SIGTERM)
                break
            time.sleep(0.2)
        code = process.wait()
    if code not in ((0,) if stop is None else (0, 143)):
        raise SystemExit(f"{' '.join(words)} ended with {code}; see {log}")
    return time.perf_counter() - started


def one(recipe: str, scans: Path, work: Path, epochs: int | None) -> dict[str, Any]:
    """Train until there is a checkpoint, stop, resume, score; then predict a scan with the run."""
    runs, log = work / "runs" / recipe, work / f"{recipe}.txt"
    places = [f"paths.prepared={work / 'prepared'}", f"paths.runs={runs}"]
    more = [f"data.fold={FOLDS[recipe.split('_')[1]]}"]
    more += [] if epochs is None else [f"trainer.max_epochs={epochs}"]
    given = [f"+experiment={recipe}", "+preset=quick", f"data.source.root={scans}", "logger.wandb.mode=disabled"]
    spent = work / f"{recipe}.json"
    if not spent.is_file():
        seconds = call(["spineseg.train", *given, *more, *places], log, stop=runs)
        (run,) = (path.parent.parent for path in runs.glob("*/*/20*/checkpoints/last.ckpt"))
        resumed_at = len({row["step"] for row in csv.DictReader((run / "log.csv").open())})
        seconds += call(["spineseg.train", f"resume={run}", f"paths.runs={runs}"], log)
        spent.write_text(json.dumps([seconds, resumed_at]))
    seconds, resumed_at = json.loads(spent.read_text())
    (run,) = (path.parent for path in runs.glob("*/*/20*/results.json"))
    scan = next(path for path in sorted((run / "predictions" / "test").glob("*.nii.gz")))
    name = scan.name.removesuffix(".nii.gz")
    images = (path for path in sorted(scans.rglob(f"{name}.*")) if path.parent.name != "segmentations")
    found = next(path for path in images if path.suffix in (".mhd", ".nii", ".gz"))
    call(["spineseg.predict", f"run={run}", f"input={found}", f"output={work / 'predicted' / recipe}"], log)
    results = json.loads((run / "results.json").read_text())
    test = results["splits"]["test"]
    provenance = json.loads((run / "provenance.json").read_text())
    assert results["simulated"]
    return {
        "recipe": recipe,
        "epochs": epochs or "preset",
        "seconds": round(seconds),
        **{name: test.get(name, {}).get("value") for name in METRICS},
        "parameters": results["cost"]["parameters"],
        "peak_ram_mb": provenance["peak_ram_mb"],
        "seconds_a_scan": results["cost"]["predict_seconds_a_case"],
        "resumed_at": f"{resumed_at} logged steps",
    }


def threshold(layout: str, scans: Path, work: Path, like: str) -> dict[str, Any]:
    """The baseline on the test cases of a recipe that was run before."""
    log = work / f"threshold_{layout}.txt"
    (run,) = (work / "runs" / like).glob("*/*/20*")
    prepared = work / "prepared" / json.loads((run / "provenance.json").read_text())["data"]
    folder, scores = work / "predicted" / f"threshold_{layout}", work / "scores" / layout
    seconds = call(["spineseg.predict", "run=threshold", f"input={prepared}", f"output={folder}"], log)
    cases = sorted(path.name.removesuffix(".nii.gz") for path in (run / "predictions" / "test").glob("*.nii.gz"))
    subjects = work / f"test_{layout}.csv"
    rows = [row for row in csv.DictReader((prepared / "cases.csv").open()) if row["id"] in cases]
    subjects.write_text("case,subject\n" + "".join(f"{row['id']},{row['subject']}\n" for row in rows))
    given = [f"reference={prepared / 'cases.csv'}", f"prediction={folder}", f"subjects={subjects}", f"output={scores}"]
    call(["spineseg.evaluate", *given], log)
    found = json.loads((scores / "summary.json").read_text())["metrics"]
    values = {name: found.get(name, {}).get("value") for name in METRICS}
    return {"recipe": f"threshold_{layout}", "epochs": "none", "seconds": round(seconds), **values}


def write(rows: dict[str, dict[str, Any]], table: Path) -> None:
    """Write CSV and Markdown."""
    with table.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        writer.writeheader()
        writer.writerows(rows.values())
    lines = ["SIMULATED scans; one seed, the test subjects of fold 0 (CSI) and 2 (Kaggle): descriptive.", ""]
    lines += [f"| {' | '.join(COLUMNS)} |", f"|{'---|' * len(COLUMNS)}"]
    for row in rows.values():
        lines.append("| " + " | ".join(_shown(row.get(column)) for column in COLUMNS) + " |")
    table.with_suffix(".md").write_text("\n".join(lines) + "\n")


def _shown(value: Any) -> str:
    if value is None or value == "":
        return "n/a"
    try:
        number = float(value)
    except ValueError:
        return str(value)
    return f"{number:.3f}" if 0 < abs(number) < 1 else f"{number:g}" if number < 1e5 else f"{number / 1e6:.1f} M"


def main() -> None:
    """Do what is not in the table yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--epochs", type=int, help="of every recipe; else the preset's")
    parser.add_argument("--only", nargs="*", help="recipes; else all")
    parser.add_argument("--table", type=Path, default=HERE / "quick.csv")
    options = parser.parse_args()
    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    rows: dict[str, dict[str, Any]] = {}
    if options.table.is_file():
        rows = {row["recipe"]: dict(row) for row in csv.DictReader(options.table.open())}
    for short, layout in SETS.items():
        scans = work / "scans" / layout
        if not scans.is_dir():
            call(["spineseg.simulate", f"layout={layout}", "size=small", f"output={scans}"], work / "simulate.txt")
        for recipe in [kind.format(short) for kind in KINDS]:
            if recipe not in rows and (not options.only or recipe in options.only):
                rows[recipe] = one(recipe, scans, work, options.epochs)
                write(rows, options.table)
                print(rows[recipe], flush=True)
        like = next((kind.format(short) for kind in KINDS if (work / "runs" / kind.format(short)).is_dir()), None)
        if like is not None and f"threshold_{layout}" not in rows:
            rows[f"threshold_{layout}"] = threshold(layout, scans, work, like)
            write(rows, options.table)


if __name__ == "__main__":
    main()
