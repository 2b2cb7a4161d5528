"""The tables of an evaluation folder: overall, by region, by level, by case, and the worst cases."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import pandas as pd

from spineseg.metrics.case_rows import TOLERANCES_MM
from spineseg.metrics.entries import Entry, Results, mean_of_subjects, median_of_levels
from spineseg.metrics.means import REGIONS, level_mean, pooled
from spineseg.metrics.summary import SplitScores, metric_rows
from spineseg.vertebrae import ORDER, level_name

# What a level or a region has: name in the table, metric, parameter, and whether it is a median over found levels.
LEVEL_COLUMNS: Final = (
    ("dice", "dice", "", False),
    *((f"nsd_{tau}mm", "nsd", f"tau={tau}", False) for tau in TOLERANCES_MM),
    ("identified", "identified", "", False),
    ("hd95", "hd95", "", True),
    ("assd", "assd", "", True),
    ("centroid_error_mm", "centroid_error_mm", "", True),
)
CASE_METRICS: Final = (
    *("visible_levels", "predicted_levels", "identified_levels", "id", "id_points", "id_precision", "all_right"),
    *("anchored", "crumbs", "dice_spine", "spurious_levels", "spurious_ml", "mixed_case", "coherently_shifted"),
    *("precision", "recall", "f1", "pq"),
)
# Means over a case's levels.
CASE_MEANS: Final = (
    ("dice", "dice", ""),
    (f"nsd_{TOLERANCES_MM[0]}mm", "nsd", f"tau={TOLERANCES_MM[0]}"),
    *((f"error_{term}", f"error_{term}", "") for term in ("naming", "mixed", "outline", "missed")),
)
CASE_MEDIANS: Final = ("hd95", "assd", "centroid_error_mm", "d_free_mm")
_ENTRY: Final = ("value", "low", "high", "method", "subjects", "quartiles", "found")


def overall_table(scores: SplitScores, results: Results) -> pd.DataFrame:
    """Every number of ``results.json``, then the other means of the level metrics (PROTOCOL 3); one row each."""
    rows = [_row({"metric": name, "mean": ""}, entry) for name, entry in results.items()]
    for name, metric, parameter, median in LEVEL_COLUMNS if scores.named else ():
        values = metric_rows(scores.rows, metric, parameter)
        if median or values.empty:
            continue
        mean, levels = level_mean(values)
        for which, value, subjects in (
            ("level_mean", mean, None),
            ("pooled", pooled(values), values["subject"].nunique()),
        ):
            entry = {"value": value if np.isfinite(value) else None, "subjects": subjects, "status": "n/a"}
            beside = f"{len(levels)} levels with 3 subjects or more" if which == "level_mean" else "all levels"
            rows.append({**_row({"metric": name, "mean": which}, entry), "note": beside})
    return pd.DataFrame(rows)


def level_table(scores: SplitScores, resamples: int) -> pd.DataFrame:
    """One row a level and metric, cranial to caudal: mean over subjects, or median over those found."""
    known = set(scores.rows["level"].unique())
    names = [name for name in map(level_name, ORDER) if name in known]
    return _table(scores, resamples, "level", {name: [name] for name in names})


def region_table(scores: SplitScores, resamples: int) -> pd.DataFrame:
    """One row a region and metric, by the ``case_mean`` rule, or the median over found levels."""
    groups = {region: [level_name(level) for level in ids] for region, ids in REGIONS.items()}
    return _table(scores, resamples, "region", groups)


def case_table(scores: SplitScores) -> pd.DataFrame:
    """One row a case: its own rates, the means over its levels, the medians over those found and how many those are."""
    cases = scores.rows[["source", "subject", "case"]].drop_duplicates().set_index("case")
    for name, metric, parameter in CASE_MEANS:
        cases[name] = metric_rows(scores.rows, metric, parameter).groupby("case")["value"].mean()
    for metric in CASE_MEDIANS:
        rows = metric_rows(scores.rows, metric)
        cases[metric] = rows.groupby("case")["value"].median()
        if metric == CASE_MEDIANS[0]:
            cases["found"] = (rows["status"] == "ok").groupby(rows["case"]).mean()
    own = scores.rows[(scores.rows["level"] == "") & scores.rows["metric"].isin(CASE_METRICS)]
    wide = own.pivot(index="case", columns="metric", values="value")
    wide = wide[[metric for metric in CASE_METRICS if metric in wide]]
    return cases.join(wide).dropna(axis="columns", how="all").sort_index().reset_index()


def worst_cases(cases: pd.DataFrame, count: int) -> pd.DataFrame:
    """The ``count`` cases of least Dice (of the spine where nothing is named); of equals the first by name."""
    by = "dice" if "dice" in cases else "dice_spine"
    if by not in cases:
        return cases.iloc[:0]
    return cases[cases[by].notna()].sort_values([by, "case"], kind="stable").head(count).reset_index(drop=True)


def identification_rows(groups: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """Identification of all, anchored and unanchored scans (PROTOCOL 1.7)."""
    return pd.DataFrame([{"scans": name, **rates} for name, rates in groups.items()])


def localisation_rows(found: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """Centroid errors in mm, never without the share of levels that have one (PROTOCOL 2)."""
    return pd.DataFrame([{"error": name, **values} for name, values in found.items()])


def error_rows(found: Mapping[str, Any]) -> pd.DataFrame:
    """The error split, what stands beside it, and the histogram of shifts in levels (PROTOCOL 6)."""
    rows = [{"what": name, "value": value} for name, value in found.items() if name != "shift"]
    return pd.DataFrame(
        rows + [{"what": f"levels shifted by {k}", "value": n} for k, n in found.get("shift", {}).items()]
    )


def in_cell(text: str) -> str:
    r"""A name as a Markdown table can hold it: a case or a model may have a bar in it.

    >>> print(in_cell("a|b"))
    a\|b
    """
    return text.replace("|", "\\|")


def markdown(table: pd.DataFrame, head: Sequence[str]) -> str:
    """A table as Markdown below some lines that say what it holds.

    >>> print(markdown(pd.DataFrame({"level": ["L1"], "dice": [0.12345]}), ["Two."]))
    Two.
    <BLANKLINE>
    | level | dice |
    |---|---|
    | L1 | 0.123 |
    <BLANKLINE>
    """
    lines = [f"| {' | '.join(table.columns)} |", "|---" * len(table.columns) + "|"]
    lines += [f"| {' | '.join(_cell(value) for value in row)} |" for row in table.itertuples(index=False)]
    return "\n".join([*head, "", *lines]) + "\n"


def wide(table: pd.DataFrame, by: str) -> pd.DataFrame:
    """A level or region table with one row each and a cell of text a metric: value, interval or quartiles, share."""
    if table.empty:
        return table
    cells = table.assign(cell=[entry_text(row) for row in records(table)])
    spread = cells.pivot(index=by, columns="metric", values="cell").reindex(index=table[by].unique())
    subjects = table[table["metric"] == table["metric"].iloc[0]].set_index(by)["subjects"]
    spread.insert(0, "subjects", subjects.reindex(spread.index))
    return spread[["subjects", *table["metric"].unique()]].reset_index()


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows of a table as mappings."""
    return [{str(key): value for key, value in row.items()} for row in table.to_dict("records")]


def entry_text(entry: Mapping[str, Any]) -> str:
    """A value with its interval in brackets; a median with its quartiles in parentheses and the share found.

    >>> entry_text({"value": 0.9, "low": 0.8, "high": 1.0})
    '0.900 [0.800, 1.000]'
    >>> entry_text({"value": 2.0, "q1": 1.0, "q3": 3.0, "found": 0.5})
    '2 (1.000, 3.000) 50 %'
    """
    text = _cell(entry.get("value"))
    if not _missing(entry.get("low")):
        text += f" [{entry['low']:.3f}, {entry['high']:.3f}]"
    if not _missing(entry.get("q1")):
        text += f" ({entry['q1']:.3f}, {entry['q3']:.3f})"
    if not _missing(entry.get("found")):
        text += f" {100 * entry['found']:.0f} %"
    return text


@dataclass
class _Level:
    """A metric's values of a level by subject, one a scan; how many were found, and asked for."""

    values: dict[str, list[float]] = field(default_factory=dict)
    found: int = 0
    asked: int = 0

    def of_subjects(self) -> dict[str, float]:
        """Several scans of a subject averaged."""
        return {subject: sum(scans) / len(scans) for subject, scans in self.values.items()}


def _levels(rows: pd.DataFrame) -> dict[str, _Level]:
    found: dict[str, _Level] = {}
    for level, subject, value, status in zip(
        *(rows[column].tolist() for column in ("level", "subject", "value", "status")), strict=True
    ):
        cell = found.setdefault(str(level), _Level())
        cell.asked += 1
        cell.found += status == "ok"
        if np.isfinite(value):
            cell.values.setdefault(str(subject), []).append(float(value))
    return found


def _table(scores: SplitScores, resamples: int, by: str, groups: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    rows = []
    for name, metric, parameter, median in LEVEL_COLUMNS if scores.named else ():
        levels = _levels(metric_rows(scores.rows, metric, parameter))
        entry = _median if median else _mean
        rows += [
            _row({by: group, "metric": name}, entry([levels[n] for n in names if n in levels], resamples))
            for group, names in groups.items()
            if any(n in levels for n in names)
        ]
    return pd.DataFrame(rows)


def _mean(levels: Sequence[_Level], resamples: int) -> Entry:
    """Mean over subjects of the mean over their levels."""
    by_subject: dict[str, list[float]] = {}
    for level in levels:
        for subject, value in level.of_subjects().items():
            by_subject.setdefault(subject, []).append(value)
    values = [sum(found) / len(found) for _, found in sorted(by_subject.items())]
    return mean_of_subjects(np.array(values, np.float64), resamples)


def _median(levels: Sequence[_Level], resamples: int) -> Entry:
    pairs = [pair for level in levels for pair in level.of_subjects().items()]
    number = {subject: n for n, subject in enumerate(sorted({subject for subject, _ in pairs}))}
    values = np.array([value for _, value in pairs], np.float64)
    owner = np.array([number[subject] for subject, _ in pairs], np.int64)
    share = sum(level.found for level in levels) / max(1, sum(level.asked for level in levels))
    return median_of_levels(values, owner, share, resamples)


def _row(head: Mapping[str, Any], entry: Mapping[str, Any]) -> dict[str, Any]:
    row = {**head, **{key: entry.get(key) for key in _ENTRY if key != "quartiles"}}
    row["q1"], row["q3"] = entry.get("quartiles", (None, None))
    row["t_low"], row["t_high"] = entry.get("t", (None, None))
    row["status"] = entry.get("status", "") if entry["value"] is None else ""
    row["note"] = f"scores {entry['scores']}" if "scores" in entry else ""
    return row


def _missing(value: object) -> bool:
    return value is None or (isinstance(value, float) and not np.isfinite(value))


def _cell(value: object) -> str:
    if _missing(value):
        return "–"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) >= 2 else f"{value:.3f}"
    return in_cell(str(value))
