"""Writing an evaluation folder: ``metrics.csv``, ``detections.parquet``, ``summary.json`` and ``tables/``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pandas as pd

from spineseg.data.files import write_json, write_text
from spineseg.metrics import PROTOCOL
from spineseg.metrics.detections_table import write_detections
from spineseg.metrics.edges import EdgePolicy
from spineseg.metrics.entries import Results
from spineseg.metrics.evaluation_tables import (
    case_table,
    entry_text,
    error_rows,
    identification_rows,
    level_table,
    localisation_rows,
    markdown,
    overall_table,
    records,
    region_table,
    wide,
    worst_cases,
)
from spineseg.metrics.summary import SplitScores, component_results, summarise
from spineseg.metrics.tables import (
    MEAN_TABLES,
    error_table,
    identification_table,
    localisation_table,
    mean_tables,
    named_level_list,
)

METRICS_FORMAT: Final = "metrics 1"
SUMMARY_FORMAT: Final = "summary 1"
_HEAD: Final = ("format", "run", "source", "split", "case", "subject")
_TAIL: Final = ("level", "space", "protocol", "metric", "parameter", "value", "edge", "status", "seed", "fold")


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Everything that was found out about a split under one rule of the field of view.

    Attributes:
        facts: what all rules share: run, split, seed, fold, simulated, score_threshold, notes, provenance.
        edge: the rule.
        scores: of all cases.
        parts: detections by 8-connected part; None unless asked for.
        edges: by case the names of the levels that the field of view took out.
        resamples: of the intervals from 20 subjects on.
    """

    facts: Mapping[str, Any]
    edge: EdgePolicy
    scores: SplitScores
    parts: pd.DataFrame | None
    edges: Mapping[str, Mapping[str, Sequence[str]]]
    resamples: int

    def results(self) -> Results:
        """The split's entry of ``results.json``."""
        return summarise(self.scores, resamples=self.resamples)

    def write(self, output: Path, results: Results, *, beside: Mapping[str, Results], worst: int) -> None:
        """Write the folder.

        Args:
            output: the folder.
            results: of ``results()``.
            beside: the same cases under other rules of the field of view.
            worst: how many cases the list of the worst holds; 0 = no list.
        """
        facts, scores = self.facts, self.scores
        # Written last, and gone until then: nothing of an earlier evaluation is taken for a part of this one.
        (output / "summary.json").unlink(missing_ok=True)
        (output / "detections_by_part.parquet").unlink(missing_ok=True)
        constants = {"format": METRICS_FORMAT, "protocol": PROTOCOL, "edge": self.edge}
        constants |= {key: facts[key] for key in ("run", "split", "seed", "fold")}
        table = scores.rows.assign(**constants)[[*_HEAD, *_TAIL]]
        write_text(output / "metrics.csv", table.to_csv(index=False))
        write_detections(output / "detections.parquet", scores.detections)
        head = {"format": SUMMARY_FORMAT, "protocol": PROTOCOL, **facts, "edge": self.edge}
        found: dict[str, Any] = {
            "cases": int(scores.rows["case"].nunique()),
            "subjects": list(scores.subjects),
            "metrics": results,
            "beside": dict(beside),
            "dice": mean_tables(scores, "dice"),
            "means": {
                " ".join(filter(None, key)): mean_tables(scores, *key) for key in MEAN_TABLES if key != ("dice", "")
            },
            "identification": identification_table(scores),
            "localisation": localisation_table(scores),
            "errors": error_table(scores),
            "map_named": named_level_list(scores),
            "ignored_references": self.ignored,
            "dropped_predictions": self.dropped,
            "edges": self.edges,
        }
        if self.parts is not None:
            write_detections(output / "detections_by_part.parquet", self.parts)
            found["by_part"] = component_results(self.parts, scores.subjects, self.resamples)
        self._write_tables(output / "tables", results, worst)
        write_json(output / "summary.json", head | found)

    @property
    def ignored(self) -> int:
        """Reference levels that the field of view took out."""
        return sum(len(entry["ignored"]) for entry in self.edges.values())

    @property
    def dropped(self) -> int:
        """Predicted levels that it took out."""
        return sum(len(entry["dropped"]) for entry in self.edges.values())

    def _write_tables(self, folder: Path, results: Results, worst: int) -> None:
        cases = case_table(self.scores)
        tables = {
            "overall": (overall_table(self.scores, results), "metric"),
            "per_region": (region_table(self.scores, self.resamples), "region"),
            "per_level": (level_table(self.scores, self.resamples), "level"),
            "per_case": (cases, ""),
            "identification": (identification_rows(identification_table(self.scores)), ""),
            "localisation": (localisation_rows(localisation_table(self.scores)), ""),
            "errors": (error_rows(error_table(self.scores)), ""),
            "worst_cases": (worst_cases(cases, worst), ""),
        }
        for name, (table, by) in tables.items():
            if table.empty:
                for suffix in (".csv", ".md"):
                    (folder / f"{name}{suffix}").unlink(missing_ok=True)
                continue
            said = table.assign(protocol=PROTOCOL, edge=self.edge, simulated=bool(self.facts["simulated"]))
            write_text(folder / f"{name}.csv", said.to_csv(index=False))
            shown = wide(table, by) if by in ("region", "level") else _short(table) if by else table
            write_text(folder / f"{name}.md", markdown(shown, self._head(name.replace("_", " "))))

    def _head(self, title: str) -> list[str]:
        facts = self.facts
        where = f"Protocol {PROTOCOL}, run {facts['run']}, split {facts['split'] or '–'}, edge={self.edge}"
        where += f", {self.ignored} reference and {self.dropped} predicted levels left out by the field of view."
        marks = "[ ] 95 % interval over subjects; ( ) quartiles of a median, with the share of levels found."
        simulated = ["**SIMULATED data**", ""] if facts["simulated"] else []
        return [f"# {title.capitalize()}", "", *simulated, where, marks, "", *(f"- {note}" for note in facts["notes"])]


def _short(overall: pd.DataFrame) -> pd.DataFrame:
    """The overall table for the eye: one cell of text a number."""
    cells = [entry_text(row) if not row["status"] else row["status"] for row in records(overall)]
    return overall.assign(value=cells)[["metric", "mean", "value", "method", "subjects", "note"]]
