"""LaTeX and Markdown of tables: nothing that breaks a document, marks where they are set."""

import ast
import re
from pathlib import Path

import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

import spineseg.reporting
from spineseg.reporting.cells import Cell, best_and_second, frames, median, number, result
from spineseg.reporting.latex import escape, latex_table
from spineseg.reporting.markdown import markdown_table
from spineseg.reporting.runs import Table

TABLE = Table(
    "headline_1",
    "SIMULATED data. Dice & id, 95 % of cases_mean {x}",
    pd.DataFrame(
        {"Model": ["yolo_csi", "a|b"], "Dice": ["0.900 [0.8, 1.0]", "n/a"], "Runs": ["3 seeds × 2 folds", "–"]}
    ),
    ("p < 0.05, 2 · sd · √(2/k) ≥ 1 ÷ 2",),
    {(0, "Dice"): frozenset({"best", "dagger"}), (1, "Runs"): frozenset({"second"})},
)


def unescaped(text: str) -> str:
    """The text without what LaTeX escapes: commands, escaped signs and mathematics."""
    return re.sub(r"\$[^$]*\$|\\[&%#_{}$]|\\[a-z]+\{\}|\\[a-z]+", "", text)


@given(st.text(alphabet="ab \\&%$#_{}~^<>|–—−×÷≥≤≈√·±→←†°²³⁰⁶ⁿχτσμΔα…“”‘’", max_size=30))
def test_no_sign_keeps_its_meaning(text: str) -> None:
    left = unescaped(escape(text))
    assert not set(left) & set("\\&%$#_{}~^<>|"), left
    assert left.isascii()


def test_every_sign_of_our_tables_is_known() -> None:
    """What pdfLaTeX has no sign for stops it: whatever a text of our programs holds has to be in the list."""
    folder = Path(spineseg.reporting.__file__).parent
    used = {
        sign
        for path in [*folder.glob("*.py"), *(folder.parent / "metrics").glob("protocol*.py")]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        for sign in node.value
        if not sign.isascii()
    }
    # Names of people and arrows of the page, which no table holds.
    unknown = {sign for sign in used - set("šž⇅") if not escape(sign).isascii()}
    assert {"Δ", "±", "×", "≥", "–", "…"} <= used and not unknown
    assert escape("sd of Δ ± 1") == r"sd of $\Delta$ $\pm$ 1"


def test_a_table_is_whole_and_balanced() -> None:
    text = latex_table(TABLE)
    plain = re.sub(r"\\[{}]", "", "\n".join(line for line in text.splitlines() if not line.startswith("%")))
    assert plain.count("{") == plain.count("}")
    opened, closed = (re.findall(rf"\\{word}{{(\w+)}}", text) for word in ("begin", "end"))
    assert sorted(opened) == sorted(closed) == ["table", "tabular"]
    assert [text.count(f"\\{rule}") for rule in ("toprule", "midrule", "bottomrule")] == [1, 1, 1]
    rows = [line for line in text.splitlines() if line.endswith("\\\\")]
    assert len(rows) == 3 and {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {2}
    assert "{lrl}" in text or "{lrr}" in text
    assert r"\textbf{0.900 [0.8, 1.0]$^{\dagger}$}" in text and r"\underline{--}" in text
    assert r"\caption{SIMULATED data. Dice \& id, 95 \% of cases\_mean \{x\}}" in text
    assert r"\label{tab:headline-1}" in text


def test_a_row_that_begins_with_a_bracket_or_a_star_is_no_argument() -> None:
    frame = pd.DataFrame({"[a]": ["[b]", "*c", "d"]})
    text = latex_table(Table("t", "c", frame))
    rows = [line.strip() for line in text.splitlines() if line.endswith("\\\\")]
    assert rows == ["{}[a] \\\\", "{}[b] \\\\", "{}*c \\\\", "d \\\\"]


def test_markdown_keeps_its_columns_and_marks() -> None:
    lines = markdown_table(TABLE).splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {4}
    assert "**0.900 [0.8, 1.0] †**" in rows[2] and "<u>–</u>" in rows[3]
    assert lines[0].startswith("### SIMULATED data.")


def test_nothing_is_best_where_nothing_differs_or_nothing_competes() -> None:
    assert best_and_second([0.5, 0.5, None]) == {}
    assert best_and_second([0.5, None]) == {}
    assert best_and_second([0.5, 0.7, 0.6]) == {1: "best", 2: "second"}


def test_numbers_behind_the_texts_have_their_ends_in_columns_of_their_own() -> None:
    entry = {"value": 0.5, "low": 0.4, "high": 0.6, "subjects": 20, "t": [0.39, 0.61]}
    texts, values = frames([{"Model": Cell("a"), "Dice": result(entry)}, {"Model": Cell("b"), "Dice": result(None)}])
    assert texts["Dice"].tolist() == ["0.500 [0.400, 0.600]", "–"]
    assert list(values) == ["Model", "Dice", "Dice, low", "Dice, high", "Dice, t low", "Dice, t high"]
    assert values["Dice, t high"].tolist()[0] == 0.61
    found = median({"value": 1.5, "low": None, "high": None, "quartiles": [1.0, 2.0], "found": 0.9})
    _, values = frames(
        [{"d": found, "AP": result({"value": 1.0, "scores": "all 1"})}, {"d": number(2), "AP": number(1)}]
    )
    # What the protocol prints beside a number is beside it in the file, too.
    assert list(values) == ["d", "d, quartile 1", "d, quartile 3", "d, found", "AP", "AP, scores"]
    assert values["d, found"].tolist()[0] == 0.9 and values["AP, scores"].tolist()[0] == "all 1"
    assert result({"value": 0.9, "low": None, "high": None, "scores": "all 1"}).text == "0.900 (scores all 1)"
    assert result({"value": None, "status": "n/a"}).text == "n/a"
