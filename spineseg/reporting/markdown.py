"""A report as Markdown: tables, figures, notes."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from spineseg.reporting.runs import Report, Table
from spineseg.reporting.standing import overfit_of

WATERMARK: Final = "**SIMULATED DATA: every number on this page is descriptive only.**"


def markdown_report(report: Report, folder: Path, *, more: Sequence[str] = ()) -> str:
    """The report as one page.

    Args:
        report: what to print.
        folder: that the page will lie in; figures are linked relative to it.
        more: links to what lies beside it.
    """
    lines = [f"# {escape(report.title)}", ""]
    if report.simulated:
        lines += [WATERMARK, ""]
    if overfit := overfit_of(report.runs):
        lines += [f"**{escape(overfit)}.**", ""]
    lines += [*(f"- {escape(note)}" for note in report.notes), ""] if report.notes else []
    lines += [*(f"- {link}" for link in more), ""] if more else []
    for table in report.tables.values():
        lines += [markdown_table(table), ""]
    for name, path in report.figures.items():
        place = path.relative_to(folder).as_posix()
        lines += [f"## {name}", "", f"![{escape(name)}]({place})", ""]
    return "\n".join(lines).rstrip() + "\n"


def markdown_table(table: Table) -> str:
    """A table with its caption and notes."""
    columns = [str(column) for column in table.frame.columns]
    lines = [f"### {escape(table.caption)}", ""]
    if len(table.frame):
        lines += [_line([escape(column) for column in columns]), f"|{'---|' * len(columns)}"]
        for r, row in enumerate(table.frame.itertuples(index=False)):
            cells = [
                _marked(escape(str(value)), table.marks.get((r, c), frozenset()))
                for c, value in zip(columns, row, strict=True)
            ]
            lines.append(_line(cells))
    else:
        lines.append("No rows.")
    lines += [f"\n{escape(note)}" for note in table.notes]
    return "\n".join(lines)


def escape(text: str) -> str:
    r"""Text whose signs Markdown would read as its own.

    >>> escape("a|b *c*")
    'a\\|b \\*c\\*'
    """
    return re.sub(r"<(?=[A-Za-z/!?])", "&lt;", text.replace("|", "\\|").replace("*", "\\*"))


def _marked(text: str, marks: frozenset[str]) -> str:
    if "dagger" in marks:
        text += " †"
    if "best" in marks:
        return f"**{text}**"
    return f"<u>{text}</u>" if "second" in marks else text


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
