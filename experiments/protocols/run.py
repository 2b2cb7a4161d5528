"""The same predictions under five tools' rules: who wins, and how often does the order turn; see README.md.

Two sets of predictions: references with one designed fault each, so that it is known who has which, and the models
of experiments/side_by_side, where its work folder holds them. Resumable: what is scored is not scored again.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from spineseg.data.prepared import Prepared, read_prepared
from spineseg.evaluate import evaluate_folder, find_references
from spineseg.geometry import Volume
from spineseg.metrics.protocol_table import (
    HEADLINES,
    EvaluatedModel,
    ProtocolTable,
    protocol_table,
    write_protocol_table,
)
from spineseg.predictions.store import PredictionWriter
from spineseg.vertebrae import ORDER, rank

HERE: Final = Path(__file__).resolve().parent
SETS: Final = {"csi": "csi2014", "kaggle": "kaggle"}
Labels = NDArray[np.integer]
SHOWN: Final = ("spineseg dice", *HEADLINES)


def present(labels: Labels) -> list[int]:
    """Levels of a map, cranial to caudal."""
    return sorted((int(value) for value in np.unique(labels) if value), key=rank)


def outline(labels: Labels, case: int) -> Labels:
    """Every vertebra lacks its first voxel along the first axis: a thin, even loss of outline."""
    return np.where(np.roll(labels, 1, axis=0) == labels, labels, 0)


def missing(labels: Labels, case: int) -> Labels:
    """One vertebra a scan is missed, another one each time."""
    levels = present(labels)
    return np.where(labels == levels[case % len(levels)], 0, labels)


def shifted(labels: Labels, case: int) -> Labels:
    """One scan in ten is named one level too low from end to end; the others are right."""
    if case % 10:
        return labels
    table = np.zeros(256, labels.dtype)
    for level in present(labels):
        table[level] = ORDER[min(ORDER.index(level) + 1, len(ORDER) - 1)]
    return table[labels]


def crumbs(labels: Labels, case: int) -> Labels:
    """Outlines as good as right, and one voxel of a level that the scan does not show."""
    absent = next(level for level in (25, 28, 1, 2, 3, 4, 5, 6, 7) if level not in present(labels))
    found = labels.copy()
    found[tuple(np.argwhere(labels == 0)[0])] = absent
    return found


def spurs(labels: Labels, case: int) -> Labels:
    """Every vertebra has a thin far-off streak, which costs voxels little and distances much."""
    found = labels.copy()
    for level in present(labels):
        _, y, z = np.argwhere(labels == level).mean(axis=0).round().astype(int)
        streak = found[:, y, z : z + 3]
        streak[streak == 0] = level
    return found


FAULTS: Final[Mapping[str, Callable[[Labels, int], Labels]]] = {
    fault.__name__: fault for fault in (outline, missing, shifted, crumbs, spurs)
}


def score_fault(name: str, prepared: Prepared, folder: Path) -> Path:
    """Predictions with one fault, scored."""
    output = folder / "evaluated" / name
    if (output / "protocols.csv").is_file():
        return output
    source = prepared.open_source()
    with PredictionWriter(folder / "predicted" / name, provenance={"run": name}) as writer:
        for n, case in enumerate(prepared.cases):
            truth = source.read_labels(case)
            found = FAULTS[name](truth.array, n)
            writer.write(case.id, Volume(found, truth.affine), "levels", None, seconds=0.0, peak_mb=0.0)
    facts = {"run": name, "split": "", "simulated": prepared.simulated}
    evaluate_folder(find_references(prepared.root), folder / "predicted" / name, output, edge=source.edge, **facts)
    return output


def prepare(work: Path, layout: str) -> Prepared:
    """Simulated scans, prepared; the folders are those of experiments/recipes and side_by_side."""
    scans = work / "scans" / layout
    if not scans.is_dir():
        call("spineseg.simulate", f"layout={layout}", "size=small", f"output={scans}")
    if not (found := sorted((work / "prepared").glob(f"{layout}-*"))):
        places = [f"data/source={layout}", f"data.source.root={scans}", f"paths.prepared={work / 'prepared'}"]
        call("spineseg.prepare", *places)
        found = sorted((work / "prepared").glob(f"{layout}-*"))
    return read_prepared(found[0])


def call(*words: str) -> None:
    """Run a program of ours."""
    subprocess.run([sys.executable, "-m", *words], check=True, stdout=subprocess.DEVNULL)


def model_folders(work: Path, layout: str) -> dict[str, Path]:
    """Evaluations of experiments/side_by_side, as far as they are there."""
    short = next(key for key, value in SETS.items() if value == layout)
    names = {"yolo_levels": "yolo_{}_levels", "unet2d": "unet2d_{}", "unet3d": "unet_{}", "nnunet": "nnunet_{}"}
    found = {}
    for model, recipe in names.items():
        runs = sorted((work / "runs" / recipe.format(short)).glob("*/*/20*/evaluation/test/protocols.csv"))
        if runs:
            found[model] = runs[-1].parent
    for name in ("oracle_native", "oracle_pixel", "oracle_mask"):
        if ((folder := work / "side_by_side" / "evaluated" / layout / name) / "protocols.csv").is_file():
            found[name] = folder
    return found


def table_of(folders: Mapping[str, Path]) -> ProtocolTable:
    """The protocols table of some evaluation folders."""
    return protocol_table([EvaluatedModel.of_folder(name, folder) for name, folder in folders.items()])


def draw(tables: Mapping[str, ProtocolTable], path: Path) -> None:
    """Rank of every model under each tool's headline; crossing lines are reversals."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(len(tables), 1, figsize=(8, 3.3 * len(tables)), squeeze=False, layout="constrained")
    for axis, (title, table) in zip(axes[:, 0], tables.items(), strict=True):
        ranks = table.ranks[list(SHOWN)]
        for name, places in ranks.iterrows():
            axis.plot(range(len(SHOWN)), places, "o-", label=str(name))
        axis.set(title=f"{title}, SIMULATED", ylabel="rank", xticks=range(len(SHOWN)), yticks=range(1, len(ranks) + 1))
        axis.set_xticklabels([name.replace(" ", "\n", 1) for name in SHOWN], fontsize=8)
        axis.invert_yaxis()
        axis.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path, dpi=130)
    plt.close(figure)


def summary(tables: Mapping[str, ProtocolTable]) -> pd.DataFrame:
    """How often the tools disagree: pairs of models that a rule puts in another order."""
    rows: list[dict[str, Any]] = []
    for title, table in tables.items():
        models = len(table.values)
        for column in SHOWN[1:]:
            pairs = [r for r in table.headline_reversals if column in (r.column, r.against)]
            against_ours = sum(r.column == column for r in table.reversals)
            row = {"predictions": title, "models": models, "headline": column, "best": best(table, column)}
            rows.append(row | {"reversals_to_protocol": against_ours, "reversals_to_other_headlines": len(pairs)})
    return pd.DataFrame(rows)


def best(table: ProtocolTable, column: str) -> str:
    """Whom a rule ranks first; all of them if several."""
    ranks = table.ranks[column]
    return " = ".join(str(name) for name in ranks.index[ranks == 1])


def main() -> None:
    """Score, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="that of experiments/side_by_side")
    parser.add_argument("--sets", nargs="*", choices=tuple(SETS), default=list(SETS))
    parser.add_argument("--output", type=Path, default=HERE)
    options = parser.parse_args()
    work: Path = options.work.resolve()
    options.output.mkdir(parents=True, exist_ok=True)
    tables: dict[str, ProtocolTable] = {}
    for short in options.sets:
        layout = SETS[short]
        prepared = prepare(work, layout)
        assert prepared.simulated
        folders = {name: score_fault(name, prepared, work / "protocols" / layout) for name in FAULTS}
        tables[f"faults {layout}"] = table_of(folders)
        if len(models := model_folders(work, layout)) > 1:
            tables[f"models {layout}"] = table_of(models)
    for title, table in tables.items():
        folder = work / "protocols" / "tables" / title.replace(" ", "_")
        write_protocol_table(folder, table, simulated=True)
        for suffix in (".csv", ".md"):
            text = (folder / f"protocols{suffix}").read_text()
            (options.output / f"{title.replace(' ', '_')}{suffix}").write_text(text)
    summary(tables).to_csv(options.output / "summary.csv", index=False)
    draw(tables, options.output / "ranks.png")
    print(summary(tables).to_string(index=False))
    print(json.dumps({title: len(table.reversals) for title, table in tables.items()}))


if __name__ == "__main__":
    main()
