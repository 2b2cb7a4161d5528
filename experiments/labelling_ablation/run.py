"""The scans of trained runs predicted with and without labelling: what it mends and whom it harms; see README.md.

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
ARMS: Final = {"off": False, "on": True}
COLUMNS: Final = (
    *("run", "subjects", "levels", "id_off", "id_on", "dice_off", "dice_on"),
    *("mended", "harmed", "cases_mended", "cases_harmed"),
)


def compare(name: str, rows: pd.DataFrame) -> dict[str, Any]:
    """What labelling did to each level.

    Args:
        name: of the run.
        rows: of metrics.csv, with a column ``arm``. Mended: identified with labelling only; harmed: without it only.
    """
    levels = rows[(rows["level"] != "") & rows["status"].isin(["ok", "missed"])]
    judged = levels[levels["metric"] == "identified"]
    right = judged.pivot(index=["case", "level"], columns="arm", values="value") == 1
    mended, harmed = right["on"] & ~right["off"], right["off"] & ~right["on"]
    dice = levels[levels["metric"] == "dice"].groupby(["arm", "subject"])["value"].mean().groupby("arm").mean()
    return {
        "run": name,
        "subjects": int(rows["subject"].nunique()),
        "levels": len(right),
        **{f"id_{arm}": float(right[arm].mean()) for arm in ARMS},
        **{f"dice_{arm}": float(dice[arm]) for arm in ARMS},
        "mended": int(mended.sum()),
        "harmed": int(harmed.sum()),
        "cases_mended": int(mended.groupby("case").any().sum()),
        "cases_harmed": int(harmed.groupby("case").any().sum()),
    }


def write(rows: Sequence[dict[str, Any]], table: Path, *, simulated: bool) -> None:
    """Write CSV and Markdown."""
    with table.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    lines = ["SIMULATED scans: descriptive.", ""] if simulated else []
    lines += [f"| {' | '.join(COLUMNS)} |", f"|{'---|' * len(COLUMNS)}"]
    for row in rows:
        cells = [f"{row[name]:.3f}" if isinstance(row[name], float) else str(row[name]) for name in COLUMNS]
        lines.append(f"| {' | '.join(cells)} |")
    table.with_suffix(".md").write_text("\n".join(lines) + "\n")


def draw(rows: Sequence[dict[str, Any]], path: Path, *, simulated: bool) -> None:
    """Levels mended and harmed in each run."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(4.0, 1.0 + 0.8 * len(rows)), 3.2), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(rows))
    axes.bar(places, [row["mended"] for row in rows], color="#009E73", label="wrong without, right with labelling")
    axes.bar(places, [-row["harmed"] for row in rows], color="#D55E00", label="right without, wrong with it")
    axes.axhline(0, color="black", linewidth=0.5)
    axes.set_xticks(places, [row["run"] for row in rows], rotation=30, ha="right", fontsize=6)
    axes.set_ylabel("levels")
    figure.legend(fontsize=7, loc="outside lower center")
    axes.set_title("SIMULATED scans" if simulated else "", fontsize=8)
    figure.savefig(path, dpi=200)


def main() -> None:
    """Compare every run of a folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, required=True, help="a study's folder, or a folder of runs")
    parser.add_argument("--work", type=Path, required=True, help="where predictions and scores go")
    parser.add_argument("--split", default="test")
    parser.add_argument("--table", type=Path, default=HERE / "table.csv")
    options = parser.parse_args()
    rows, simulated = [], False
    for run in find_trained(options.runs):
        cfg = read_config(run)
        output = options.work / run.root.parent.name / run.root.name
        scored = [
            rescore(run, output / arm, split=options.split, labelling=labelling).assign(arm=arm)
            for arm, labelling in ARMS.items()
        ]
        summary = json.loads((output / "on" / "evaluation" / "summary.json").read_text())
        simulated |= bool(summary["simulated"])
        name = f"{cfg.run.tags[0]}, seed {cfg.seed}, fold {cfg.data.fold}"
        rows.append(compare(name, pd.concat(scored, ignore_index=True)))
        write(rows, options.table, simulated=simulated)
        print(rows[-1], flush=True)
    draw(rows, options.table.with_name("figure.png"), simulated=simulated)


if __name__ == "__main__":
    main()
