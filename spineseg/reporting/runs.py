"""Scored runs as reports take them: a run folder or any evaluation folder → ``ScoredRun``; and what a report is."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pandas as pd

from spineseg.data.files import read_json
from spineseg.errors import DataError, FormatError
from spineseg.metrics.folder import METRICS_FORMAT, SUMMARY_FORMAT
from spineseg.predictions.store import FOLDER_FILE, FOLDER_FORMAT
from spineseg.provenance import read_provenance
from spineseg.runs import Run, read_config, read_results

if TYPE_CHECKING:
    from spineseg.reporting.comparisons import Pair

EVALUATE: Final = "python -m spineseg.evaluate"
SUMMARY: Final = "summary.json"
METRICS: Final = "metrics.csv"
DETECTIONS: Final = "detections.parquet"
_TEXT: Final = (
    *("format", "run", "source", "split", "case", "subject", "level", "space", "protocol"),
    *("metric", "parameter", "edge", "status"),
)
# The folder of a run by its time, at the end of its name.
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d(-\d+)?")


@dataclass(frozen=True, eq=False)
class ScoredRun:
    """One evaluation, with what is known of the run behind it.

    Attributes:
        name: as ``summary.json`` has it: ``<group>/<name>/<time>`` of a run, or another tool's name.
        recipe: ``run.name`` of the configuration; runs that share it are seeds and folds of one model.
        root: the run's folder; None for other tools, oracles and the threshold baseline.
        evaluation: the evaluation folder.
        split: name of the split.
        simulated: whether any of the data was.
        seed: of the training; None where it has none.
        fold: of the cross-validation; None where there is none.
        metrics: ``metrics.csv``; ``level`` and ``parameter`` are empty strings where they do not apply.
        summary: ``summary.json``.
        provenance: ``provenance.json`` of the run, else what ``summary.json`` knows of the predictions.
        cost: ``parameters``, ``fit_seconds``, ``train_peak_mb``, ``train_memory`` (RAM or GPU), ``seconds_a_scan``
            (mean over the scored scans); those that are known.
        predictions: the predictions folder; None where it is not known.
        config: the run's configuration as plain containers; empty for other tools.
    """

    name: str
    recipe: str
    root: Path | None
    evaluation: Path
    split: str
    simulated: bool
    seed: int | None
    fold: int | None
    metrics: pd.DataFrame
    summary: Mapping[str, Any]
    provenance: Mapping[str, Any]
    cost: Mapping[str, Any]
    predictions: Path | None
    config: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Table:
    """A table of a report.

    Attributes:
        name: of its files.
        caption: one sentence: what it shows, of whom.
        frame: one row a row; numbers or texts. Columns are headings as they are printed.
        notes: what has to stand below it.
        marks: (row, column) → ``best``, ``second`` or ``dagger``; empty wherever PROTOCOL 8 allows none.
        values: the plain numbers behind ``frame``'s texts, row by row, for sorting and the CSV file; None = ``frame``.
        facts: constant columns of the CSV file: protocol, edge, split, data.
    """

    name: str
    caption: str
    frame: pd.DataFrame
    notes: tuple[str, ...] = ()
    marks: Mapping[tuple[int, str], frozenset[str]] = field(default_factory=dict)
    values: pd.DataFrame | None = None
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Report:
    """All that a report shows.

    Attributes:
        title: heading.
        simulated: whether any of its data was made by ``simulate``: its pages then say so on top, its tables and
            figures each of their own data.
        runs: what it is made of.
        tables: by name, in the order of the report.
        figures: name → PNG file; the PDF lies beside it.
        notes: what has to be read with the numbers.
        pairs: comparisons of its models, tested or not.
    """

    title: str
    simulated: bool
    runs: tuple[ScoredRun, ...]
    tables: Mapping[str, Table]
    figures: Mapping[str, Path]
    notes: tuple[str, ...] = ()
    pairs: tuple["Pair", ...] = ()


def load_runs(runs: Sequence[Path], *, split: str = "test") -> list[ScoredRun]:
    """Read run folders and evaluation folders.

    Args:
        runs: folders of ``train`` (their evaluation of ``split`` is read), or evaluation folders of ``evaluate``.
        split: of run folders.

    Raises:
        DataError: a folder that is neither, a run whose split was not evaluated, or a folder that is named twice.
        FormatError: files of another version.
    """
    loaded = [load_run(path, split=split) for path in runs]
    places = [run.evaluation.resolve() for run in loaded]
    if twice := sorted({str(place) for place in places if places.count(place) > 1}):
        raise DataError(f"runs: named twice: {', '.join(twice)}; name each once")
    return loaded


def load_run(path: Path, *, split: str = "test") -> ScoredRun:
    """Read one run folder or evaluation folder; see ``load_runs``."""
    if (path / SUMMARY).is_file():
        # The evaluation of a run's split, or what lies in it under another rule of the edge, is that run.
        above = path.resolve().parents[1:3]
        return _read(path, next((root for root in above if _is_evaluation_of(path.resolve(), root)), None))
    if not (path / "config.yaml").is_file():
        raise DataError(
            f"{path}: neither a run (a folder with config.yaml) nor an evaluation (a folder with {SUMMARY}); "
            f"`python -m spineseg.train` writes the first, `{EVALUATE}` the second"
        )
    evaluation = Run(path).evaluation(split)
    if not (evaluation / SUMMARY).is_file():
        there = sorted(each.parent.name for each in (path / "evaluation").glob(f"*/{SUMMARY}"))
        raise DataError(
            f"{path}: its split '{split}' was not evaluated (evaluated: {', '.join(there) or 'none'}); finish the run "
            f"with `python -m spineseg.train resume={path}`, or choose another split="
        )
    return _read(evaluation, path.resolve())


def is_scored(path: Path, *, split: str = "test") -> bool:
    """Whether ``load_run`` will find scores in a folder."""
    return (path / SUMMARY).is_file() or (Run(path).evaluation(split) / SUMMARY).is_file()


def scored_simulated(run: ScoredRun) -> bool | None:
    """Whether ``simulate`` made the scored cases themselves; None where that is known of the training alone.

    ``run.simulated`` is true of a network from simulated scans on real patients, too.
    """
    if not run.simulated:
        return False
    own_split = run.root is not None and bool(run.split)
    predicted = run.summary.get("provenance", {}).get("simulated", False)
    return True if own_split or not predicted else None


def read_metrics(path: Path) -> pd.DataFrame:
    """Read ``metrics.csv``: texts as texts (empty where they do not apply), value, seed and fold as numbers.

    Raises:
        DataError: no such file.
        FormatError: another format or version.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; `{EVALUATE}` writes it")
    empty = {name: ["", "nan", "NaN"] for name in ("value", "seed", "fold")}
    table = pd.read_csv(path, dtype=dict.fromkeys(_TEXT, str), keep_default_na=False, na_values=empty)
    found = sorted(set(table["format"])) if "format" in table else []
    if found not in ([METRICS_FORMAT], []) or "value" not in table:
        raise FormatError(f"{path}: expected format '{METRICS_FORMAT}', found {found}; `{EVALUATE}` writes it")
    return table


def _is_evaluation_of(evaluation: Path, root: Path) -> bool:
    return (root / "config.yaml").is_file() and evaluation.relative_to(root).parts[0] == "evaluation"


def _read(evaluation: Path, root: Path | None) -> ScoredRun:
    summary = read_json(evaluation / SUMMARY, SUMMARY_FORMAT, EVALUATE)
    predictions = _predictions(evaluation, root, summary)
    run = None if root is None else Run(root)
    provenance = dict(summary.get("provenance", {}))
    config: dict[str, Any] = {}
    if run is not None:
        provenance = {**provenance, **(read_provenance(run) if run.provenance.is_file() else {})}
        config = {str(key): value for key, value in _plain(read_config(run)).items()}
    name = str(summary["run"]) or evaluation.name
    metrics = read_metrics(evaluation / METRICS)
    return ScoredRun(
        name=name,
        recipe=str(config["run"]["name"]) if "run" in config else recipe_of(name),
        root=root,
        evaluation=evaluation,
        split=str(summary["split"]),
        simulated=bool(summary["simulated"]),
        # `evaluate` knows them from what the predictions say of their run.
        seed=provenance.get("seed") if summary["seed"] is None else summary["seed"],
        fold=provenance.get("fold") if summary["fold"] is None else summary["fold"],
        metrics=metrics,
        summary=summary,
        provenance=provenance,
        cost=_cost(run, provenance, predictions, set(metrics["case"])),
        predictions=predictions,
        config=config,
    )


def recipe_of(name: str) -> str:
    """Recipe in the name of a run; other names are their own.

    >>> recipe_of("csi2014/yolo_csi/2026-11-22_05-41-40"), recipe_of("threshold")
    ('yolo_csi', 'threshold')
    """
    parts = name.split("/")
    return parts[-2] if len(parts) > 1 and _TIME.fullmatch(parts[-1]) else name


def _predictions(evaluation: Path, root: Path | None, summary: Mapping[str, Any]) -> Path | None:
    """Folder of the predictions that were scored: the run's, or where the summary says, relative to itself."""
    places = [] if root is None else [Run(root).predictions(str(summary["split"]))]
    if summary.get("predictions"):
        places.append(evaluation / str(summary["predictions"]))
    return next((place for place in places if place.is_dir()), None)


def _cost(
    run: Run | None, provenance: Mapping[str, Any], predictions: Path | None, scored: Collection[str]
) -> dict[str, Any]:
    cost: dict[str, Any] = {}
    recorded = read_results(run)["cost"] if run is not None and run.results.is_file() else {}
    for key in ("parameters", "fit_seconds"):
        value = provenance.get(key, recorded.get(key))
        if value is not None:
            cost[key] = value
    if run is not None:
        # What a GPU holds is what limits training where there is one.
        for memory, key in (("GPU", "peak_vram_mb"), ("RAM", "peak_ram_mb")):
            if provenance.get(key):
                cost |= {"train_peak_mb": provenance[key], "train_memory": memory}
                break
    if "predict_seconds_a_case" in recorded:
        cost["seconds_a_scan"] = recorded["predict_seconds_a_case"]
    if predictions is not None and (predictions / FOLDER_FILE).is_file():
        cases = read_json(predictions / FOLDER_FILE, FOLDER_FORMAT, "python -m spineseg.predict")["cases"]
        # Each scan's own time, without the start of the program: it is known for every model.
        if seconds := [case["seconds"] for name, case in cases.items() if name in scored]:
            cost["seconds_a_scan"] = sum(seconds) / len(seconds)
    return cost


def _plain(config: Any) -> dict[str, Any]:
    from omegaconf import OmegaConf

    content = OmegaConf.to_container(config, resolve=False)
    return {str(key): value for key, value in content.items()} if isinstance(content, dict) else {}
