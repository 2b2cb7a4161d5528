"""Runs that were mirrored along other axes in training, predicted with mirrored copies along each axis; see README.md.

Resumable: what is predicted and scored already is not done again.
"""

import argparse
import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from spineseg.runs import read_config
from spineseg.studies.rescoring import find_trained, rescore

HERE: Final = Path(__file__).resolve().parent
# Axes of the copies whose logits are averaged in prediction: left–right, front–back, head–foot.
PREDICTION: Final = {"none": (), "x": ("x",), "y": ("y",), "xy": ("x", "y"), "z": ("z",)}
METRICS: Final = ("dice", "dice_spine", "id")
COLUMNS: Final = ("training", "prediction", "seeds", "subjects", *METRICS, "sd_seed_dice", "seconds_a_scan")


def table_of(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Each training × prediction: seeds averaged inside a subject, then subjects.

    Args:
        rows: training, prediction, seed, subject, metric, value: a subject's value with one seed.
    """
    made = []
    for (training, prediction), cell in rows.groupby(["training", "prediction"], sort=False):
        wide = {
            name: part.pivot(index="subject", columns="seed", values="value") for name, part in cell.groupby("metric")
        }
        dice = wide["dice"]
        noise = float(dice.mean(axis=0).std(ddof=1)) if dice.shape[1] > 1 else None
        made.append(
            {"training": training, "prediction": prediction, "seeds": dice.shape[1], "subjects": len(dice)}
            | {name: float(wide[name].mean(axis=1).mean()) for name in METRICS}
            | {"sd_seed_dice": noise, "seconds_a_scan": float(cell["seconds"].mean())}
        )
    return made


def subjects_of(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """A run's value of each subject: means over its levels; ``id`` and ``dice_spine`` are of cases."""
    counted = rows[rows["status"].isin(["ok", "missed"])]
    kept = [counted[(counted["metric"] == "dice") & (counted["level"] != "")]]
    kept += [counted[(counted["metric"] == name) & (counted["level"] == "")] for name in ("dice_spine", "id")]
    values = pd.concat(kept).groupby(["subject", "metric"])["value"].mean().reset_index()
    return [{str(key): value for key, value in row.items()} for row in values.to_dict("records")]


def write(rows: Sequence[dict[str, Any]], table: Path, *, simulated: bool) -> None:
    """Write CSV and Markdown."""
    with table.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    lines = ["SIMULATED scans: descriptive.", ""] if simulated else []
    lines += [f"| {' | '.join(COLUMNS)} |", f"|{'---|' * len(COLUMNS)}"]
    for row in rows:
        cells = [
            "n/a" if row[name] is None else f"{row[name]:.3f}" if isinstance(row[name], float) else str(row[name])
            for name in COLUMNS
        ]
        lines.append(f"| {' | '.join(cells)} |")
    table.with_suffix(".md").write_text("\n".join(lines) + "\n")


def draw(rows: Sequence[dict[str, Any]], path: Path, *, simulated: bool) -> None:
    """Dice by name of each training, a bar for each prediction."""
    from matplotlib.figure import Figure

    trainings = list(dict.fromkeys(row["training"] for row in rows))
    figure = Figure(figsize=(1.5 + 1.3 * len(trainings), 3.2), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(PREDICTION)
    for index, prediction in enumerate(PREDICTION):
        values = {row["training"]: row["dice"] for row in rows if row["prediction"] == prediction}
        places = np.arange(len(trainings)) + (index - (len(PREDICTION) - 1) / 2) * width
        axes.bar(places, [values.get(training, 0.0) for training in trainings], width, label=prediction)
    axes.set_xticks(range(len(trainings)), trainings)
    axes.set_xlabel("axes mirrored in training")
    axes.set_ylabel("Dice by name")
    figure.legend(fontsize=7, title="in prediction", title_fontsize=7, loc="outside right upper")
    axes.set_title("SIMULATED scans" if simulated else "", fontsize=8)
    figure.savefig(path, dpi=200)


def main() -> None:
    """Score every run of a folder with every prediction."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, required=True, help="folder of the study flips_tta")
    parser.add_argument("--work", type=Path, required=True, help="where predictions and scores go")
    parser.add_argument("--split", default="test")
    parser.add_argument("--table", type=Path, default=HERE / "table.csv")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    simulated = False
    for run in find_trained(options.runs):
        cfg = read_config(run)
        training = "".join(cfg.data.augmentation.mirror_axes) or "none"
        for prediction, axes in PREDICTION.items():
            output = options.work / run.root.parent.name / prediction
            scored = rescore(run, output, split=options.split, labelling=False, mirror_axes=axes)
            summary = json.loads((output / "evaluation" / "summary.json").read_text())
            cases = json.loads((output / "predictions" / "predictions.json").read_text())["cases"].values()
            simulated |= bool(summary["simulated"])
            seconds = sum(case["seconds"] for case in cases) / len(cases)
            what = {"training": training, "prediction": prediction, "seed": int(cfg.seed), "seconds": seconds}
            rows += [what | row for row in subjects_of(scored)]
        order = {name: place for place, name in enumerate(("none", "x", "y", "xy"))}
        frame = pd.DataFrame(rows).sort_values("training", key=lambda names: names.map(order), kind="stable")
        write(table_of(frame), options.table, simulated=simulated)
        print(f"{run.root.parent.name}: mirrored along {training} in training, done", flush=True)
    draw(table_of(frame), options.table.with_name("figure.png"), simulated=simulated)


if __name__ == "__main__":
    main()
