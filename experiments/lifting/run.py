"""How lifting fares with slices that went wrong, by its link threshold, its longest gap and its rule of likeness.

`python experiments/lifting/run.py`; README.md says what is asked.
"""

import argparse
import csv
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from perturb import PERTURBATIONS
from scipy.optimize import linear_sum_assignment

from spineseg.geometry import canonical
from spineseg.phantom import PhantomOptions, simulate_case
from spineseg.predictions.lifting import ALIKE, GAP, OVERLAP, lift
from spineseg.volumes import read_volume

HERE = Path(__file__).parent
SETTINGS = {
    "overlap": (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
    "gap": (0, 1, 2, 4, 6, 8, 12),
    "alike": (0.1, 0.3, 0.5, 0.7, 0.9),
}
DEFAULTS = {"overlap": OVERLAP, "gap": GAP, "alike": ALIKE}


@dataclass(frozen=True, eq=False)
class Case:
    """A label map (X, Y, Z), canonical, and whether a person or a model drew it on a real scan."""

    name: str
    labels: NDArray[np.uint8]
    real: bool


def cases(real: Path | None, simulated: int) -> Iterator[Case]:
    """Real masks below a folder, then small digital spines of seed 0 in both layouts."""
    files = sorted(real.rglob("*vertebrae.nii*")) if real is not None else []
    for path in files:
        labels = canonical(read_volume(path)).array.astype(np.uint8)
        yield Case(f"{path.parent.name}/{path.name.split('.')[0]}", labels, True)
    for index in range(simulated):
        layout = ("kaggle", "csi2014")[index % 2]
        labels = simulate_case(0, index, PhantomOptions(layout, "small", "default")).labels.array
        yield Case(f"SIMULATED {layout} {index}", np.asarray(labels, np.uint8), False)


def score(truth: NDArray[np.integer], found: NDArray[np.integer]) -> tuple[int, int, float, float, float]:
    """Objects that are true, and found; pooled, mean and least Dice of the true ones, matched one to one."""
    values, numbers = np.unique(truth, return_inverse=True)
    width = int(found.max()) + 1
    table = np.bincount(numbers.ravel() * width + found.ravel(), minlength=len(values) * width)
    table = table.reshape(len(values), width)
    sizes = table.sum(axis=1)[:, None] + table.sum(axis=0)[None]
    own = slice(1 if values[0] == 0 else 0, None)
    dice = (2 * table / np.maximum(sizes, 1))[own, 1:]
    rows, columns = linear_sum_assignment(-dice)
    each = np.zeros(len(dice))
    each[rows] = dice[rows, columns]
    common = sum(float(table[own, 1:][r, c]) for r, c in zip(rows, columns, strict=True))
    pooled = 2 * common / (float((truth > 0).sum()) + float((found > 0).sum()))
    return len(each), width - 1, pooled, float(each.mean()), float(each.min())


def rows(every: list[Case], seeds: int, names: list[str]) -> Iterator[dict[str, object]]:
    """One row a perturbation, case, seed and setting; one setting is moved at a time."""
    settings = [(key, {**DEFAULTS, key: value}) for key, values in SETTINGS.items() for value in values]
    for case in every:
        for name in names:
            for seed in range(1 if name in ("clean", "eroded") else seeds):
                slices, truth = PERTURBATIONS[name](case.labels, np.random.default_rng(seed))
                for key, setting in settings:
                    start = time.perf_counter()
                    lifted = lift(slices, case.labels.shape, **setting)  # type: ignore[arg-type]
                    seconds = time.perf_counter() - start
                    true, found, pooled, mean, least = score(truth, lifted.labels)
                    yield {
                        **{"case": case.name, "real": case.real, "perturbation": name, "seed": seed},
                        **{"moved": key, "value": setting[key], "true": true, "found": found},
                        **{"pooled_dice": pooled, "mean_dice": mean, "least_dice": least, "seconds": seconds},
                    }


def table(every: list[dict[str, object]], key: str, real: bool, names: list[str]) -> list[str]:
    """A Markdown table: share of cases with the true number of objects, objects too many, and Dice."""
    lines = [f"| {key} | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for value in SETTINGS[key]:
        cells = []
        for name in names:
            chosen = [
                row
                for row in every
                if (row["moved"], row["value"], row["perturbation"], row["real"]) == (key, value, name, real)
            ]
            if not chosen:
                cells.append("–")
                continue
            exact = np.mean([row["true"] == row["found"] for row in chosen])
            apart = np.mean([int(str(row["found"])) - int(str(row["true"])) for row in chosen])
            dice = [np.mean([float(str(row[k])) for row in chosen]) for k in ("mean_dice", "pooled_dice")]
            cells.append(f"{exact:.0%} ({apart:+.1f}) {dice[0]:.3f} / {dice[1]:.3f}")
        mark = " (default)" if value == DEFAULTS[key] else ""
        lines.append(f"| {value}{mark} | " + " | ".join(cells) + " |")
    return lines


def main() -> None:
    """Run, print and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    root = os.environ.get("SPINESEG_REAL_CT")
    parser.add_argument("--real", type=Path, default=Path(root) if root else None)
    parser.add_argument("--simulated", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--perturbations", nargs="+", default=list(PERTURBATIONS))
    parser.add_argument("--output", type=Path, default=HERE)
    options = parser.parse_args()
    found = list(rows(list(cases(options.real, options.simulated)), options.seeds, options.perturbations))
    options.output.mkdir(parents=True, exist_ok=True)
    with (options.output / "table.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(found[0]))
        writer.writeheader()
        writer.writerows(found)
    lines = [
        f"Share of cases with the true number of objects (mean of found − true); Dice, mean over true ones / pooled. "
        f"{options.seeds} seeds a perturbation, {date.today()}."
    ]
    for real, title in ((True, "Real masks"), (False, "SIMULATED masks")):
        names = sorted({str(row["case"]) for row in found if row["real"] == real})
        if names:
            lines += ["", f"**{title}**: {', '.join(names)}"]
        for key in SETTINGS if names else ():
            lines += ["", *table(found, key, real, options.perturbations)]
    (options.output / "table.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
