"""What labelling mends and what it harms, by what is wrong with the names it is given.

`python experiments/labelling/run.py`; README.md says what is asked. All columns are SIMULATED.
"""

import argparse
import csv
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spineseg.phantom.curves import spine_frames
from spineseg.phantom.subject import draw_subject
from spineseg.phantom.variants import NUMERIC
from spineseg.predictions.labelling import LabellingSettings, label_sequence
from spineseg.vertebrae import COCCYX, ORDER, level_id, rank

HERE = Path(__file__).parent
CLASSES = tuple(level for level in ORDER if level != COCCYX)
CENTRE_SD_MM = 1.5
ARMS: dict[str, LabellingSettings | None] = {
    "names alone": None,
    "path": LabellingSettings(spacing=False),
    "path, no variants": LabellingSettings(variants=False),
    "path and spacing": LabellingSettings(),
}
VIEWS = {
    "whole": ("C1", "sacrum"),
    "chest": ("C7", "L2"),
    "lumbar": ("T11", "sacrum"),
    "neck": ("C1", "T3"),
    "no anchor": ("T3", "T10"),
}


@dataclass(frozen=True)
class Scenario:
    """What happens to a column's names.

    Args:
        view: of ``VIEWS``; None = any run of at least five levels.
        off: share of names that are a level off, each for itself.
        block: length of a run of levels that are all off by one together, in the same direction.
        missed: share of levels that are not found.
        own: probability of the name that is given, the rest lies on the levels beside it.
        variant: only people with a level too many or too few; else only others.
    """

    view: str | None = None
    off: float = 0.0
    block: int = 0
    missed: float = 0.0
    own: float = 1.0
    variant: bool = False


SCENARIOS = {
    "all right": Scenario(),
    "all right, 10 % missing": Scenario(missed=0.1),
    "20 % off by one, 10 % missing": Scenario(off=0.2, missed=0.1),
    "the same, soft names": Scenario(off=0.2, missed=0.1, own=0.6),
    "40 % off by one, 10 % missing": Scenario(off=0.4, missed=0.1),
    "20 % off by one, 30 % missing": Scenario(off=0.2, missed=0.3),
    **{f"{view}: 20 % off by one, 10 % missing": Scenario(view, off=0.2, missed=0.1) for view in VIEWS},
    "block of 3, whole column": Scenario("whole", block=3),
    "block of 5, whole column": Scenario("whole", block=5),
    "block of 3, chest": Scenario("chest", block=3),
    "block of 5, no anchor": Scenario("no anchor", block=5),
    "block of all, no anchor": Scenario("no anchor", block=99),
    "variant, all right": Scenario(variant=True),
    "variant, whole column, all right": Scenario("whole", variant=True),
    "variant, 20 % off by one, 10 % missing": Scenario(off=0.2, missed=0.1, variant=True),
}


def draw(scenario: Scenario, seed: int) -> tuple[list[int], NDArray[np.float64], NDArray[np.float64], int]:
    """Levels found, the names' distributions (N, K), body centres (N, 3), and how many levels are in view."""
    random = np.random.default_rng(seed)
    while True:
        subject = draw_subject(random, "hard")
        if bool(set(NUMERIC) & subject.variants) == scenario.variant:
            break
    frames, column = spine_frames(subject), list(subject.levels)
    if scenario.view is None:
        size = int(random.integers(5, len(column) + 1))
        start = int(random.integers(0, len(column) - size + 1))
        seen = column[start : start + size]
    else:
        high, low = (rank(level_id(name)) for name in VIEWS[scenario.view])
        seen = [level for level in column if high <= rank(level) <= low]
    shift = np.zeros(len(seen), int)
    if scenario.block:
        length = min(scenario.block, len(seen))
        first = int(random.integers(0, len(seen) - length + 1))
        shift[first : first + length] = random.choice([-1, 1])
    alone = random.random(len(seen)) < scenario.off
    shift[alone] += random.choice([-1, 1], len(seen))[alone]
    kept = random.random(len(seen)) >= scenario.missed
    belief = np.zeros((len(seen), len(CLASSES)))
    for row, level, by in zip(belief, seen, shift, strict=True):
        place = min(max(column.index(level) + int(by), 0), len(column) - 1)
        # A name, and its neighbours, among the levels that this person has.
        for beside, share in ((0, scenario.own), (-1, (1 - scenario.own) / 2), (1, (1 - scenario.own) / 2)):
            row[CLASSES.index(column[min(max(place + beside, 0), len(column) - 1)])] += share
    centres = np.array([frames[level].origin for level in seen]) + random.normal(0, CENTRE_SD_MM, (len(seen), 3))
    found = [level for level, here in zip(seen, kept, strict=True) if here]
    return found, belief[kept], centres[kept], len(seen)


def rows(columns: int) -> Iterator[dict[str, object]]:
    """One row a scenario and arm, over all columns."""
    for name, scenario in SCENARIOS.items():
        drawn = [draw(scenario, seed) for seed in range(columns)]
        total, detected = sum(d[3] for d in drawn), sum(len(d[0]) for d in drawn)
        for arm, prices in ARMS.items():
            before = after = mended = harmed = scans_harmed = 0
            sure: dict[bool, list[float]] = {True: [], False: []}
            for found, belief, centres, _ in drawn:
                named = np.array(CLASSES)[belief.argmax(axis=1)] if len(found) else np.zeros(0, int)
                levels = named
                if prices is not None:
                    sequence = label_sequence(belief, centres, CLASSES, prices)
                    levels = sequence.levels
                    for right, confidence in zip(levels == found, sequence.confidences, strict=True):
                        sure[bool(right)].append(float(confidence))
                was, now = named == np.array(found, int), levels == np.array(found, int)
                before, after = before + int(was.sum()), after + int(now.sum())
                mended, harmed = mended + int((~was & now).sum()), harmed + int((was & ~now).sum())
                scans_harmed += bool((was & ~now).any())
            yield {
                **{"scenario": name, "arm": arm, "columns": columns, "in_view": total, "detected": detected},
                **{"right_before": before, "right_after": after, "mended": mended, "harmed": harmed},
                **{"columns_harmed": scans_harmed, "id_detected": after / detected, "id_all": after / total},
                "confidence_right": np.mean(sure[True]) if sure[True] else float("nan"),
                "confidence_wrong": np.mean(sure[False]) if sure[False] else float("nan"),
            }


def main() -> None:
    """Run, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--columns", type=int, default=300)
    parser.add_argument("--output", type=Path, default=HERE)
    options = parser.parse_args()
    found = list(rows(options.columns))
    options.output.mkdir(parents=True, exist_ok=True)
    with (options.output / "table.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(found[0]))
        writer.writeheader()
        writer.writerows(found)
    lines = [
        f"SIMULATED columns (digital spine, difficulty hard), {options.columns} a scenario, {date.today()}; "
        "identification of what is detected / of all in view; harm: levels right before and wrong after, and in how "
        "many columns. Mended, harm and confidence are those of the last arm.",
        "",
        "| scenario | " + " | ".join(ARMS) + " | mended | harm | confidence right / wrong |",
        "|---" * (len(ARMS) + 4) + "|",
    ]
    for name in SCENARIOS:
        mine = [row for row in found if row["scenario"] == name]
        cells = [f"{row['id_detected']:.3f} / {row['id_all']:.3f}" for row in mine]
        last = mine[-1]
        cells += [str(last["mended"]), f"{last['harmed']} in {last['columns_harmed']}"]
        cells.append(f"{last['confidence_right']:.2f} / {last['confidence_wrong']:.2f}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    (options.output / "table.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
