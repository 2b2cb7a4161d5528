"""A tiny data set, prepared, and models that were scored on it, for the tests of pages and pictures."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from spineseg.data.files import sha256_of_text, write_json, write_text
from spineseg.data.preparation import prepare_source
from spineseg.data.prepared import Prepared, read_prepared
from spineseg.data.sources.folder import Folder
from spineseg.geometry import Volume, canonical
from spineseg.metrics.folder import evaluate_folder
from spineseg.metrics.references import find_references
from spineseg.predictions.store import LabelKind, PredictionWriter
from spineseg.reporting.runs import Report, ScoredRun, load_run
from spineseg.volumes import write_volume

# Stored axes run to the left, foot and back; canonical shape (20, 36, 60), spacing 3 × 2 × 2 mm.
AFFINE = np.array([[-3.0, 0, 0, 30], [0, 0, -2.0, 40], [0, -2.0, 0, 700], [0, 0, 0, 1]])
LEVELS = (19, 20, 21, 22)
CASES = ("case0", "case1", "case2")


@dataclass(frozen=True)
class World:
    """Where it all lies."""

    root: Path
    prepared: Prepared
    runs: dict[str, ScoredRun]

    def report(self, **changes: object) -> Report:
        """A report of all runs, without tables and figures unless they are given."""
        parts: dict[str, object] = {"title": "Four models", "simulated": True, "tables": {}, "figures": {}}
        return Report(**{**parts, "runs": tuple(self.runs.values()), **changes})  # type: ignore[arg-type]


def truth(number: int) -> np.ndarray:
    """Blocks of bone with a process behind, canonical (20, 36, 60); `number` makes them differ."""
    labels = np.zeros((20, 36, 60), np.uint8)
    for row, level in enumerate(LEVELS):
        z = 46 - 13 * row
        labels[5:15, 18:30, z : z + 10] = level
        labels[9 - number : 11, 8:18, z + 2 : z + 6] = level
    return labels


def native(canonical_array: np.ndarray) -> Volume:
    """The same voxels in the order of the file."""
    return Volume(np.ascontiguousarray(canonical_array[::-1, ::-1, ::-1].transpose(0, 2, 1)), AFFINE)


def scan(number: int) -> np.ndarray:
    """HU (20, 36, 60), canonical: bone of 400 in water, air in front."""
    rng = np.random.default_rng(number)
    hu = rng.normal(40, 10, (20, 36, 60))
    hu[truth(number) > 0] = rng.normal(400, 30, int((truth(number) > 0).sum()))
    hu[:, 33:] = -1000
    return np.rint(hu).astype(np.int16)


def good(labels: np.ndarray, number: int) -> np.ndarray:
    """Nearly right; in the last case one level is missed."""
    found = labels.copy()
    found[:, 18, :] = 0
    if number == 2:
        found[found == 21] = 0
    return found


def shifted(labels: np.ndarray, number: int) -> np.ndarray:
    """One level too far down in the first case."""
    return np.where(labels > 0, labels + (number == 0), 0).astype(np.uint8)


def one_class(labels: np.ndarray, number: int) -> np.ndarray:
    """Numbers from the head down, no names."""
    return np.where(labels > 0, labels.astype(np.int16) - 18, 0).astype(np.uint16)


MODELS: dict[str, tuple[Callable[[np.ndarray, int], np.ndarray], LabelKind]] = {
    "good": (good, "levels"),
    "shifted": (shifted, "levels"),
    "one_class": (one_class, "instances"),
}


def make_world(root: Path) -> World:
    """Write the set, prepare it, and write and score three runs and another tool's folder."""
    for number, case in enumerate(CASES):
        write_volume(root / "raw" / case / "ct.nii.gz", native(scan(number)))
        write_volume(root / "raw" / case / "vertebrae.nii.gz", native(truth(number)))
    folder = prepare_source(
        Folder(root / "raw", name="tiny"),
        prepared_root=root / "prepared",
        spacing_mm=(None, 4.0, 4.0),
        split_seed=0,
        workers=1,
    )
    prepared = read_prepared(folder)
    runs = {name: _run(root, prepared, name) for name in MODELS}
    return World(root, prepared, {**runs, "other_tool": _other_tool(root, prepared)})


def picture(path: Path) -> Path:
    """A figure's file."""
    Image.fromarray(np.full((40, 60, 3), 200, np.uint8)).save(path)
    return path


def _run(root: Path, prepared: Prepared, name: str) -> ScoredRun:
    change, kind = MODELS[name]
    where = root / "runs" / "tiny" / name / "2026-01-02_03-04-05"
    config = {"run": {"group": "tiny", "name": name}, "data": {"prepared_root": str(root / "prepared")}}
    write_text(where / "config.yaml", yaml.safe_dump({"format": "config 1", **config}))
    cases_csv = (prepared.root / "cases.csv").read_text()
    write_json(
        where / "provenance.json",
        {"format": "provenance 1", "data": prepared.root.name, "data_hash": sha256_of_text(cases_csv), "seed": 0},
    )
    with PredictionWriter(where / "predictions" / "test", provenance={"run": name}, slices="label_map") as writer:
        for number, case in enumerate(CASES):
            labels = native(change(truth(number), number))
            writer.write(case, labels, kind, None, seconds=1.0, peak_mb=10.0)
    _evaluate(prepared, where / "predictions" / "test", where / "evaluation" / "test", f"tiny/{name}/2026", seed=0)
    return load_run(where)


def _other_tool(root: Path, prepared: Prepared) -> ScoredRun:
    """Named by case, no file of ours beside them, and its own order of axes; where they lie is not known any more."""
    for number, case in enumerate(CASES):
        write_volume(root / "other" / f"{case}.nii.gz", native(good(truth(number), 0)))
    _evaluate(prepared, root / "other", root / "scores", "other_tool", seed=None)
    return replace(load_run(root / "scores"), predictions=None)


def _evaluate(prepared: Prepared, predictions: Path, output: Path, run: str, *, seed: int | None) -> None:
    evaluate_folder(
        find_references(prepared.root),
        predictions,
        output,
        edge="count",
        run=run,
        split="test",
        simulated=True,
        seed=seed,
    )


def upright(volume: Volume) -> np.ndarray:
    """Values in the canonical frame."""
    return np.asarray(canonical(volume).array)
