"""One self-contained HTML page of a report: it opens from a file, without a network, and holds all that it shows."""

import base64
import hashlib
import mimetypes
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from spineseg import __version__
from spineseg.data.files import write_text
from spineseg.errors import SpinesegError
from spineseg.metrics import PROTOCOL
from spineseg.reporting.case_scores import worst_cases
from spineseg.reporting.html_cases import PageCase, page_case
from spineseg.reporting.html_tables import Cell, Column, PageTable, page_table
from spineseg.reporting.places import places_of, without_places
from spineseg.reporting.standing import overfit_of

if TYPE_CHECKING:
    from spineseg.reporting.runs import Report, ScoredRun

_SCRIPTS: Final = ("tables.js", "volumes.js", "surfaces.js", "viewer.js")
_PLANES: Final = (
    ("sagittal", "Sagittal", "Front of the body on the left, head up."),
    ("coronal", "Coronal", "The patient's right on the left, head up."),
    ("axial", "Axial", "The patient's right on the left, front up; seen from the feet."),
)
_MESH_NOTE: Final = "They are smoothed and coarse: for the eye, not for measuring."
_PICTURES: Final = (".png", ".svg", ".webp", ".jpg", ".jpeg", ".gif")


def write_html(report: "Report", path: Path, *, worst: int = 3, labels: Mapping[str, str] | None = None) -> None:
    """Write a report as one HTML file: tables, figures, and a viewer of the worst cases.

    The file asks no network for anything: its own policy forbids it. Paths of this machine are cut to their last part.

    Args:
        report: what is shown.
        path: of the HTML file; written atomically.
        worst: how many cases the viewer holds, the lowest Dice first; 0 = none.
        labels: recipe → name of the model above its panels.

    Raises:
        DataError: a figure's file is missing or no picture.
    """
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    page = files("spineseg.reporting") / "page"
    script = "\n".join(_wrapped((page / name).read_text(encoding="utf-8"), name) for name in _SCRIPTS)
    style = (page / "report.css").read_text(encoding="utf-8")
    cases, case_notes = _cases(report.runs, worst, labels or {})
    # Undefined names are errors, and every text is escaped; only our own files and base64 are not.
    template = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True).from_string(
        (page / "report.html.j2").read_text(encoding="utf-8")
    )
    context: dict[str, Any] = {
        "title": report.title,
        "simulated": report.simulated,
        "overfit": overfit_of(report.runs),
        "lead": _lead(report),
        "notes": report.notes,
        "runs": _runs_table(report.runs),
        "tables": [page_table(table, simulated=report.simulated) for table in report.tables.values()],
        "figures": [{"caption": _words(name), "source": _inlined(file)} for name, file in report.figures.items()],
        "cases_lead": _cases_lead(len(cases)),
        "case_notes": case_notes,
        "planes": _PLANES,
        "mesh_note": _MESH_NOTE,
        "version": __version__,
        "footer": f"spineseg {__version__}, protocol {PROTOCOL}. Definitions of all numbers: the protocol's text.",
    }
    context["sections"] = _sections(report, bool(cases or case_notes))
    roots = (*places_of(report.runs), path.parent.absolute())
    context = _without_places(context, roots)
    context["cases"] = [_safe_case(case, roots) for case in cases]
    context |= {
        "style": Markup(style),
        "script": Markup(script),
        "style_hash": Markup(_hash(style)),
        "script_hash": Markup(_hash(script)),
    }
    write_text(path, template.render(context))


def _cases(runs: Sequence["ScoredRun"], worst: int, labels: Mapping[str, str]) -> tuple[list[PageCase], list[str]]:
    cases: list[PageCase] = []
    notes: list[str] = []
    for score in worst_cases(runs, worst) if worst else []:
        try:
            cases.append(page_case(runs, score, len(cases) + 1, labels))
        except SpinesegError as error:
            notes.append(f"{score.case} (mean Dice {score.mean:.3f}) cannot be shown: {error}")
    return cases, notes


def _safe_case(case: PageCase, roots: tuple[Path, ...]) -> dict[str, Any]:
    from markupsafe import Markup

    content = {each.name: getattr(case, each.name) for each in fields(case)}
    # JSON without "<" cannot leave its element; escaping it would only double its size.
    return {**_without_places({**content, "data": ""}, roots), "data": Markup(case.data)}


def _cases_lead(count: int) -> str:
    return (
        f"The {count} case{'s' * (count != 1)} with the lowest Dice, worst first: mean over a case's levels, then over "
        "the runs (one-class models: Dice of the whole spine). Cases that all runs have come before others. "
        "Click into a plane, or use its slider, to move; all panels move together."
    )


def _lead(report: "Report") -> str:
    subjects = {str(subject) for run in report.runs for subject in run.summary.get("subjects", ())}
    runs = f"{len(report.runs)} run{'s' * (len(report.runs) != 1)}"
    people = f", {len(subjects)} subject{'s' * (len(subjects) != 1)}" if subjects else ""
    return f"{runs}{people}, protocol {PROTOCOL}"


def _runs_table(runs: Sequence["ScoredRun"]) -> PageTable:
    """Where the numbers come from; no place on a machine."""
    headings = ("Run", "Model", "Split", "Edge", "Seed", "Fold", "Subjects", "Data", "spineseg", "Simulated")
    numeric = ("Seed", "Fold", "Subjects")
    rows = []
    for run in runs:
        values = (
            run.name,
            run.recipe,
            run.split,
            run.summary.get("edge", ""),
            run.seed,
            run.fold,
            len(run.summary.get("subjects", ())) or None,
            run.provenance.get("data", ""),
            run.provenance.get("spineseg", ""),
            "yes" if run.simulated else "no",
        )
        texts = ["" if value is None else str(value) for value in values]
        rows.append(tuple(Cell(text, text or None) for text in texts))
    columns = tuple(Column(name, name in numeric, name in numeric) for name in headings)
    return PageTable("Runs of this report.", columns, tuple(rows))


def _sections(report: "Report", cases: bool) -> list[tuple[str, str]]:
    there = (
        ("about", "About", True),
        ("tables", "Tables", bool(report.tables)),
        ("cases", "Worst cases", cases),
        ("figures", "Figures", bool(report.figures)),
    )
    return [(name, text) for name, text, shown in there if shown]


def _inlined(path: Path) -> str:
    """A picture as a data URL; of another kind of file, the picture of that name beside it."""
    from spineseg.errors import DataError

    candidates = [path, *(path.with_suffix(suffix) for suffix in _PICTURES)]
    found = next((each for each in candidates if each.suffix.lower() in _PICTURES and each.is_file()), None)
    if found is None:
        raise DataError(f"{path}: no picture there; expected a file of {', '.join(_PICTURES)}")
    kind = mimetypes.guess_type(found.name)[0] or "image/png"
    return f"data:{kind};base64,{base64.b64encode(found.read_bytes()).decode('ascii')}"


def _words(name: str) -> str:
    text = name.replace("_", " ")
    return text[:1].upper() + text[1:]


def _wrapped(text: str, name: str) -> str:
    return f"// {name}\n{text.removeprefix(chr(34) + 'use strict' + chr(34) + ';' + chr(10))}"


def _hash(text: str) -> str:
    """Source expression of an inline element for the page's policy (CSP)."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}"


def _without_places(content: Any, roots: tuple[Path, ...]) -> Any:
    """The same content; of every path only the last part is left."""
    if isinstance(content, str) and not content.startswith("data:"):
        return without_places(content, roots)
    if isinstance(content, dict):
        return {key: _without_places(value, roots) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return type(content)(_without_places(value, roots) for value in content)
    if is_dataclass(content) and not isinstance(content, type):
        changed = {each.name: _without_places(getattr(content, each.name), roots) for each in fields(content)}
        return replace(content, **changed)
    return content
