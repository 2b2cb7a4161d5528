"""Cells of tables: the text that is printed and the number behind it, and which may be marked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
import pandas as pd

from spineseg.metrics.intervals import BOOTSTRAP_SUBJECTS

NOT_APPLICABLE: Final = "n/a"
NOT_COMPUTED: Final = "–"


@dataclass(frozen=True)
class Cell:
    """A text with the number behind it.

    Attributes:
        text: as it is printed.
        value: the number; None where there is none.
        low: lower end of its interval.
        high: upper end.
        student: Student's interval beside a bootstrap's.
        n: subjects behind the interval.
        beside: what must not be parted from the number (PROTOCOL 2, 4 and 5), by the end of its column's name.
    """

    text: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    student: tuple[float, float] | None = None
    n: int | None = None
    beside: Mapping[str, Any] = field(default_factory=dict)


def number(value: float | None, digits: int = 3) -> Cell:
    """A number; not computed where it is None or NaN.

    >>> number(0.12345).text, number(None).text
    ('0.123', '–')
    """
    if value is None or not np.isfinite(value):
        return Cell(NOT_COMPUTED)
    return Cell(f"{value:.{digits}f}", float(value))


def p_value(p: float | None) -> Cell:
    """A p-value, which is never zero; not computed where it is None or NaN.

    >>> p_value(0.03125).text, p_value(2e-6).text
    ('0.0312', '<0.0001')
    """
    cell = number(p, 4)
    return replace(cell, text="<0.0001") if p is not None and p < 1e-4 else cell


def result(entry: Mapping[str, Any] | None, digits: int = 3) -> Cell:
    """An entry of ``results.json`` with its interval; n/a where it does not apply, a dash where it was not computed.

    >>> result({"value": 0.8, "low": 0.7, "high": 0.91234, "subjects": 6}).text
    '0.800 [0.700, 0.912]'
    """
    if entry is None:
        return Cell(NOT_COMPUTED)
    value, low, high = entry.get("value"), entry.get("low"), entry.get("high")
    if value is None:
        return Cell(str(entry.get("status", NOT_APPLICABLE)))
    ends = "" if low is None or high is None else f" [{low:.{digits}f}, {high:.{digits}f}]"
    # AP of a model that ranks nothing says so (PROTOCOL 5.6).
    ranking = f" (scores {entry['scores']})" if entry.get("scores") else ""
    student = entry.get("t")
    return Cell(
        f"{value:.{digits}f}{ends}{ranking}",
        float(value),
        low,
        high,
        None if student is None else tuple(student),
        entry.get("subjects"),
        {"scores": entry["scores"]} if entry.get("scores") else {},
    )


def median(entry: Mapping[str, Any] | None, digits: int = 2) -> Cell:
    """A median over found levels with its quartiles and the share found, without which it means nothing.

    >>> median({"value": 1.5, "low": None, "high": None, "quartiles": [1.0, 2.0], "found": 0.9}).text
    '1.50 (IQR 1.00–2.00; 90 % found)'
    """
    if entry is None or entry.get("value") is None:
        return result(entry, digits)
    shown = f"{entry['value']:.{digits}f}"
    said: list[str] = []
    beside: dict[str, Any] = {}
    if "quartiles" in entry:
        said.append("IQR " + "–".join(f"{end:.{digits}f}" for end in entry["quartiles"]))
        beside |= dict(zip(("quartile 1", "quartile 3"), entry["quartiles"], strict=True))
    if "found" in entry:
        said.append(f"{100 * entry['found']:.0f} % found")
        beside["found"] = entry["found"]
    return Cell(f"{shown} ({'; '.join(said)})" if said else shown, float(entry["value"]), beside=beside)


def plain(text: object) -> Cell:
    """A text without a number."""
    return Cell(str(text))


def frames(rows: Sequence[Mapping[str, Cell]]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Texts, and the numbers behind them with columns for the ends of intervals and what stands beside, where there."""
    columns = list(rows[0]) if rows else []
    numbers: dict[str, list[Any]] = {}
    for column in columns:
        cells = [row[column] for row in rows]
        if all(cell.value is None for cell in cells):
            numbers[column] = [cell.text for cell in cells]
            continue
        numbers[column] = [cell.value for cell in cells]
        if any(cell.low is not None for cell in cells):
            numbers[f"{column}, low"] = [cell.low for cell in cells]
            numbers[f"{column}, high"] = [cell.high for cell in cells]
        if any(cell.student is not None for cell in cells):
            for end, name in enumerate(("t low", "t high")):
                numbers[f"{column}, {name}"] = [None if cell.student is None else cell.student[end] for cell in cells]
        for name in dict.fromkeys(name for cell in cells for name in cell.beside):
            numbers[f"{column}, {name}"] = [cell.beside.get(name) for cell in cells]
    return pd.DataFrame([{name: row[name].text for name in columns} for row in rows]), pd.DataFrame(numbers)


def approximate(rows: Sequence[Mapping[str, Cell]]) -> tuple[str, ...]:
    """What stands below intervals of few subjects (PROTOCOL 8.3)."""
    counts = {cell.n for row in rows for cell in row.values() if cell.low is not None and cell.n is not None}
    return tuple(f"n = {n}, interval approximate." for n in sorted(counts) if n < BOOTSTRAP_SUBJECTS)


def best_and_second(values: Sequence[float | None]) -> dict[int, str]:
    """Which rows hold the highest and the second value; nothing where fewer than two values differ.

    >>> best_and_second([0.5, None, 0.9, 0.9])
    {2: 'best', 3: 'best', 0: 'second'}
    """
    known = sorted({value for value in values if value is not None}, reverse=True)
    if len(known) < 2:
        return {}
    marks: dict[int, str] = {}
    for rank, name in zip(known[:2], ("best", "second"), strict=False):
        marks |= {row: name for row, value in enumerate(values) if value == rank}
    return marks
