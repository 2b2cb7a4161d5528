"""Tables of a report as rows of cells for the page: a text to read and a key to sort by."""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from spineseg.vertebrae import LEVELS, level_id, rank

if TYPE_CHECKING:
    from spineseg.reporting.runs import Table

# With a boundary behind it: a hash such as 12e45678 is no number.
_NUMBER: Final = re.compile(r"[\s(\[<>≤≥≈]*([+\-−]?\d+(?:\.\d+)?(?:[eE][+-]?\d{1,2})?)(?![\w.])")
_LEVELS: Final = {level.name for level in LEVELS.values()}


@dataclass(frozen=True)
class Column:
    """A heading; ``numeric`` columns sort by number, ``right`` ones hold numbers and stand to the right."""

    text: str
    numeric: bool
    right: bool


@dataclass(frozen=True)
class Cell:
    """What is printed, and what it is sorted by; no key = no value, last in either order; ``mark`` = classes."""

    text: str
    key: str | None
    mark: str = ""


@dataclass(frozen=True)
class PageTable:
    """A table as the page takes it."""

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()


def page_table(table: "Table", *, simulated: bool = False) -> PageTable:
    """Cells of a report's table.

    Args:
        table: keys come from its ``values`` where it has them, texts among which are no numbers; else from the printed
            text, by the number that it begins with.
        simulated: whether the page marks its tables: the caption then need not say so again.
    """
    frame = table.frame
    columns, cells = [], []
    for position, name in enumerate(frame.columns):
        shown = frame.iloc[:, position].tolist()
        # Columns of one name do not tell which of them the number behind a text is.
        known = table.values is not None and list(table.values.columns).count(name) == 1
        values = table.values[name].tolist() if known and table.values is not None else shown
        keys = [_key(value, parse=not known) for value in values]
        whole = all(float(value).is_integer() for value in shown if _is_number(value) and np.isfinite(value))
        texts = [_text(value, whole=whole) for value in shown]
        silent = all(_is_silent(text) for text in texts)
        numeric = silent or _is_numeric(keys, texts)
        levels = all(text in _LEVELS for text in texts)
        sorts = [
            (None if key is None else str(key)) if numeric else (None if _is_silent(text) else text)
            for key, text in zip(keys, texts, strict=True)
        ]
        marks = [" ".join(sorted(table.marks.get((row, str(name)), ()))) for row in range(len(shown))]
        columns.append(Column(str(name), numeric, numeric and not levels))
        cells.append([Cell(*parts) for parts in zip(texts, sorts, marks, strict=True)])
    caption = table.caption.removeprefix("SIMULATED data. ") if simulated else table.caption
    return PageTable(caption, tuple(columns), tuple(zip(*cells, strict=True)), tuple(table.notes))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool | np.bool_)


def _text(value: Any, *, whole: bool) -> str:
    if value is None or value is pd.NA or (_is_number(value) and np.isnan(value)):
        return "–"
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if _is_number(value):
        return f"{value:,.0f}" if whole else f"{value:.3f}"
    return str(value)


def _key(value: Any, *, parse: bool) -> float | None:
    """The number to sort by: the value, a level's place in the spine, or the number that a text begins with."""
    if isinstance(value, bool | np.bool_):
        return float(value)
    if _is_number(value):
        return None if np.isnan(value) else float(value)
    text = str(value).strip()
    if text in _LEVELS:
        return float(rank(level_id(text)))
    found = _NUMBER.match(text) if parse else None
    return float(found.group(1).replace("−", "-")) if found else None


def _is_numeric(keys: list[float | None], texts: list[str]) -> bool:
    """Whether each cell that says something begins with a number, or says that there is none."""
    judged = [key for key, text in zip(keys, texts, strict=True) if not _is_silent(text)]
    return bool(judged) and all(key is not None for key in judged)


def _is_silent(text: str) -> bool:
    """Whether a cell says that there is no value, and perhaps why: ``n/a``, ``– (0 levels)``."""
    return text.strip().lower() in ("", "-", "nan") or text.strip().startswith(("–", "—", "n/a"))
