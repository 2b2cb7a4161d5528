"""Seconds and memory of all metrics of a case against MONAI's Dice, HD95 and NSD; README.md says what is asked.

`python experiments/metrics/run.py [options]`
"""

import argparse
import csv
import json
import os
import platform
import subprocess
import sys
import tempfile
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from column import LEVELS, SPACING_MM, column

HERE = Path(__file__).parent
SIDES = ("ours", "monai_float32", "monai_bool")
PACKAGES = ("numpy", "scipy", "torch", "monai")
WHAT = {
    "ours": "every metric of a case: `score_case`",
    "monai_float32": "MONAI: one-hot float32 (its default), Dice, HD95, NSD",
    "monai_bool": "MONAI: one-hot bool, Dice, HD95, NSD",
}


def run_side(side: str, case: Path, folder: Path, repeats: int) -> dict[str, Any]:
    """Run one side in a fresh process with one thread."""
    output = folder / f"{side}.json"
    command = [sys.executable, str(HERE / "sides.py"), side, "--case", str(case), "--repeats", str(repeats)]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    subprocess.run(
        [*command, "--output", str(output)],
        check=True,
        env={**os.environ, **threads, "PYTHONWARNINGS": "ignore"},
        stderr=subprocess.DEVNULL,
    )
    found: dict[str, Any] = json.loads(output.read_text())
    print(side, {key: round(value, 2) for key, value in found.items() if key != "values"}, flush=True)
    return found


def main() -> None:
    """Run all sides in turns, write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", type=int, nargs=3, default=(160, 200, 400))
    parser.add_argument("--seeds", type=int, default=2, help="simulated cases; sides take turns on each")
    parser.add_argument("--repeats", type=int, default=3, help="of ours; MONAI's side is run once a case")
    parser.add_argument("--output", type=Path, default=HERE)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    differences: dict[str, float] = {"dice": 0.0, "nsd": 0.0, "hd95": 0.0}
    with tempfile.TemporaryDirectory() as name:
        for seed in range(options.seeds):
            reference, prediction = column(tuple(options.shape), seed)
            case = Path(name) / f"{seed}.npz"
            np.savez(case, reference=reference, prediction=prediction)
            turn = SIDES[seed % 2 :] + SIDES[: seed % 2]
            found = {side: run_side(side, case, Path(name), options.repeats if side == "ours" else 1) for side in turn}
            for side, result in found.items():
                rows.append({"case": seed, "side": side, **{k: v for k, v in result.items() if k != "values"}})
            for metric in differences:
                ours, theirs = (np.array(found[side]["values"][metric]) for side in SIDES[:2])
                differences[metric] = max(differences[metric], float(np.abs(ours - theirs).max()))
    options.output.mkdir(parents=True, exist_ok=True)
    with (options.output / "table.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    lines = markdown(rows, differences, options)
    (options.output / "table.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


def markdown(rows: list[dict[str, Any]], differences: dict[str, float], options: argparse.Namespace) -> list[str]:
    """Means over the cases, their ratios to ours, and how far the values lie apart."""
    shape = " × ".join(map(str, options.shape))
    spacing = " × ".join(f"{step:g}" for step in SPACING_MM)
    mean = {
        side: {key: float(np.mean([row[key] for row in rows if row["side"] == side])) for key in ("seconds", "peak_mb")}
        for side in SIDES
    }
    lines = [
        f"SIMULATED column of {len(LEVELS)} levels, {shape} voxels of {spacing} mm, {options.seeds} cases, one thread "
        "a side, each in a process of its own.",
        f"Memory: highest resident set above that after the imports and the reading of the case. {date.today()}.",
        "",
        "| what | s a case | MB above imports | time ÷ ours | memory ÷ ours |",
        "|---|---|---|---|---|",
    ]
    for side in SIDES:
        seconds, peak = mean[side]["seconds"], mean[side]["peak_mb"]
        ratios = (seconds / mean["ours"]["seconds"], peak / mean["ours"]["peak_mb"])
        lines.append(f"| {WHAT[side]} | {seconds:.2f} | {peak:.0f} | {ratios[0]:.1f} | {ratios[1]:.1f} |")
    asked = mean["monai_float32"]["seconds"] / mean["ours"]["seconds"]
    memory = mean["ours"]["peak_mb"] / mean["monai_float32"]["peak_mb"]
    versions = ", ".join(f"{package} {version(package)}" for package in PACKAGES)
    return [
        *lines,
        "",
        f"Asked: ≥ 10 × faster ({'met' if asked >= 10 else 'NOT met'}: {asked:.1f}), ≤ 1/5 of the memory "
        f"({'met' if memory <= 0.2 else 'NOT met'}: 1/{1 / memory:.0f}).",
        f"Largest difference of a level's value: Dice {differences['dice']:.1e}, NSD at 2 mm {differences['nsd']:.1e} "
        f"(the same definitions, MONAI in float32); HD95 {differences['hd95']:.2f} mm (MONAI takes edges of voxels, "
        "not areas).",
        "",
        f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, {versions}.",
    ]


if __name__ == "__main__":
    main()
