"""Memory and time of streamed inference against MONAI's and nnU-Net's; README.md says what is asked.

`python experiments/inference_memory/run.py [options]`
"""

import argparse
import csv
import importlib.util
import json
import math
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

HERE = Path(__file__).parent
PACKAGES = ("torch", "monai", "nnunetv2", "numpy")
# Logits nearer than this are a tie: float32 sums in another order differ by as much.
TIE = 1e-4
Row = dict[str, Any]


def run_side(name: str, side: str, folder: Path, options: argparse.Namespace, **changes: Any) -> Row:
    """Run one side in a fresh process; its labels lie in ``folder``."""
    settings = {"shape": options.shape, "classes": options.classes, "native": None, **changes}
    command = [sys.executable, str(HERE / "sides.py"), side, "--shape", *map(str, settings["shape"])]
    command += ["--classes", str(settings["classes"]), "--patch", str(options.patch)]
    command += ["--threads", str(options.threads), "--output", str(folder / name)]
    if settings["native"] is not None:
        command += ["--native", *map(str, settings["native"])]
    threads = {key: str(options.threads) for key in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "nnUNet_def_n_proc")}
    # nnU-Net warns at import where its folders are missing; nothing is read from or written to them here.
    folders = dict.fromkeys(("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"), str(folder))
    subprocess.run(command, check=True, env={**os.environ, **threads, **folders})
    found = json.loads((folder / name).with_suffix(".json").read_text())
    native = settings["native"] or settings["shape"]
    row = {"what": name, "side": side, "shape": "×".join(map(str, settings["shape"]))}
    row |= {"native": "×".join(map(str, native)), "classes": settings["classes"], **found}
    print({key: round(value, 2) if isinstance(value, float) else value for key, value in row.items()}, flush=True)
    return row


def labels(folder: Path, name: str, kind: str = "labels") -> Any:
    """Labels that a side left, not read before they are needed."""
    return np.load((folder / name).with_suffix(f".{kind}.npy"), mmap_mode="r")


def equal(folder: Path, first: str, second: str) -> float:
    """Share of voxels with the same label."""
    return float(np.mean(labels(folder, first) == labels(folder, second)))


def measure(options: argparse.Namespace, folder: Path) -> tuple[list[Row], list[Row]]:
    """All sides, and what follows from them."""
    shorter = [*options.shape[:2], options.shape[2] // 2]
    rows = [
        run_side("ours", "ours", folder, options),
        run_side("monai", "monai", folder, options),
        run_side("whole", "whole", folder, options),
        run_side("ours, half as long", "ours", folder, options, shape=shorter),
        run_side("ours, resampled", "ours", folder, options, native=options.native),
    ]
    by = {row["what"]: row for row in rows}
    voxels = math.prod(options.shape) - math.prod(shorter)
    growth = (by["ours"]["peak_mb"] - by["ours, half as long"]["peak_mb"]) * 1e6 / voxels
    differ = np.asarray(labels(folder, "ours") != labels(folder, "whole"))
    margins = labels(folder, "whole", "margin")[differ]
    checks: list[Row] = [
        {"what": "memory: MONAI's ÷ ours", "value": by["monai"]["peak_mb"] / by["ours"]["peak_mb"], "wanted": "≥ 6"},
        {"what": "time: ours ÷ MONAI's", "value": by["ours"]["seconds"] / by["monai"]["seconds"], "wanted": "≤ 1"},
        {"what": "growth in bytes a voxel", "value": growth, "wanted": "≤ 5"},
        {"what": "voxels unlike the whole-volume path", "value": int(differ.sum()), "wanted": "ties only"},
        {
            "what": f"of them no ties (two best logits over {TIE:g} apart)",
            "value": int((margins > TIE).sum()),
            "wanted": "0",
        },
        {"what": "equal to MONAI's (other windows and weights)", "value": equal(folder, "ours", "monai"), "wanted": ""},
        {
            "what": "forecast ÷ measured",
            "value": by["ours"]["forecast_mb"] / by["ours"]["peak_mb"],
            "wanted": "0.5 to 2",
        },
    ]
    if importlib.util.find_spec("nnunetv2") is None:
        print("nnunetv2 is not installed: its rows are left out; install it and run again")
        return rows, checks
    rows.append(run_side("whole, resampled", "whole", folder, options, native=options.native))
    rows.append(run_side("nnunet", "nnunet", folder, options, native=options.native))
    ratio = rows[-1]["peak_mb"] / by["ours, resampled"]["peak_mb"]
    checks += [
        {"what": "memory: nnU-Net's with export ÷ ours", "value": ratio, "wanted": "≥ 20"},
        {
            "what": "time: ours ÷ nnU-Net's with export",
            "value": by["ours, resampled"]["seconds"] / rows[-1]["seconds"],
            "wanted": "≤ 1",
        },
        {
            "what": "equal to nnU-Net's order-1 resampling of float32 logits",
            "value": equal(folder, "ours, resampled", "whole, resampled"),
            "wanted": "≥ 0.999",
        },
        {
            "what": "equal to nnU-Net's predictor, whose sums are in half precision",
            "value": equal(folder, "ours, resampled", "nnunet"),
            "wanted": "",
        },
    ]
    return rows, checks


def main() -> None:
    """Measure, print and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", type=int, nargs=3, default=[256, 256, 500], help="voxels that the network sees")
    parser.add_argument("--native", type=int, nargs=3, default=[256, 256, 400], help="native grid of the export")
    parser.add_argument("--classes", type=int, default=26)
    parser.add_argument("--patch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=HERE)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows, checks = measure(options, Path(folder))
    options.output.mkdir(parents=True, exist_ok=True)
    for name, content in (("sides", rows), ("checks", checks)):
        with (options.output / f"{name}.csv").open("w", newline="") as stream:
            writer = csv.DictWriter(stream, sorted({key for row in content for key in row}))
            writer.writeheader()
            writer.writerows(content)
    installed = [name for name in PACKAGES if importlib.util.find_spec(name)]
    lines = [
        f"{options.classes} classes, patch {options.patch}³, overlap 0.5, {options.threads} threads; "
        f"{platform.machine()}, {', '.join(f'{name} {version(name)}' for name in installed)}, {date.today()}",
        "",
        "| what | network's grid | native grid | peak above imports, MB | forecast, MB | seconds |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['what']} | {row['shape']} | {row['native']} | {row['peak_mb']:,.0f} | "
        f"{format(row['forecast_mb'], ',.0f') if 'forecast_mb' in row else ''} | {row['seconds']:.1f} |"
        for row in rows
    ]
    lines += ["", "| check | found | wanted |", "|---|---|---|"]
    lines += [f"| {row['what']} | {row['value']:.6g} | {row['wanted']} |" for row in checks]
    (options.output / "table.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
