"""Tables as LaTeX: booktabs, escaped for pdfLaTeX, best value bold, second underlined."""

import re
from collections.abc import Iterable
from typing import Final

from spineseg.reporting.runs import Table

_ESCAPES: Final = {
    "\\": r"\textbackslash{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
    "|": r"\textbar{}",
    "–": "--",
    "—": "---",
    "−": "$-$",
    "×": r"$\times$",
    "÷": r"$\div$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "√": r"$\surd$",
    "·": r"$\cdot$",
    "±": r"$\pm$",
    "→": r"$\rightarrow$",
    "†": r"$^{\dagger}$",
    "²": "$^{2}$",
    "≈": r"$\approx$",
    "←": r"$\leftarrow$",
    "³": "$^{3}$",
    "⁰": "$^{0}$",
    "⁶": "$^{6}$",
    "ⁿ": "$^{n}$",
    "⁻": "$^{-}$",
    "∩": r"$\cap$",
    "°": r"$^{\circ}$",
    "µ": r"$\mu$",
    "μ": r"$\mu$",
    "σ": r"$\sigma$",
    "Δ": r"$\Delta$",
    "α": r"$\alpha$",
    "χ": r"$\chi$",
    "τ": r"$\tau$",
    "…": r"\ldots{}",
    "“": "``",
    "”": "''",
    "‘": "`",
    "’": "'",
    # Signs that look like the others but are not on a keyboard.
    "\u00a0": "~",
    "\u2009": r"\,",
    "\u202f": r"\,",
}
_NUMERIC: Final = re.compile(r"[+\-−–]?\d|–$|n/a$")
PREAMBLE: Final = "% needs \\usepackage{booktabs} and \\usepackage{graphicx}"


def escape(text: str) -> str:
    r"""Text as LaTeX prints it; what pdfLaTeX has no sign for is left to the author's inputenc.

    >>> escape("yolo_csi 95 % found")
    'yolo\\_csi 95 \\% found'
    """
    return "".join(_ESCAPES.get(sign, sign) for sign in text)


def latex_table(table: Table) -> str:
    """One ``table`` environment, as wide as the text where it would be wider."""
    columns = [str(column) for column in table.frame.columns]
    rows = [[str(value) for value in row] for row in table.frame.itertuples(index=False)]
    alignment = "".join("r" if _is_numeric([row[i] for row in rows]) else "l" for i in range(len(columns)))
    body = [
        [_marked(escape(text), table.marks.get((r, columns[c]), frozenset())) for c, text in enumerate(row)]
        for r, row in enumerate(rows)
    ]
    lines = [
        PREAMBLE,
        r"\begin{table}",
        r"  \centering",
        f"  \\caption{{{escape(table.caption)}}}",
        f"  \\label{{tab:{re.sub(r'[^A-Za-z0-9]+', '-', table.name)}}}",
        # No wider than the text, and no larger than it is set either.
        r"  \resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        f"  \\begin{{tabular}}{{{alignment}}}",
        r"    \toprule",
        _row(escape(column) for column in columns),
        r"    \midrule",
        *map(_row, body),
        r"    \bottomrule",
        r"  \end{tabular}}",
        *(f"  \\par\\footnotesize {escape(note)}" for note in table.notes),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _row(cells: Iterable[str]) -> str:
    text = " & ".join(cells)
    # Behind the end of a row, or a rule, a bracket or a star would be its argument.
    return f"    {'{}' if text.startswith(('[', '*')) else ''}{text} \\\\"


def _marked(text: str, marks: frozenset[str]) -> str:
    if "dagger" in marks:
        text += r"$^{\dagger}$"
    if "best" in marks:
        return f"\\textbf{{{text}}}"
    return f"\\underline{{{text}}}" if "second" in marks else text


def _is_numeric(texts: list[str]) -> bool:
    return bool(texts) and all(_NUMERIC.match(text) for text in texts)
