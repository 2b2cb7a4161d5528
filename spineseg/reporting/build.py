"""Build a report from scored runs and write its folder."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from spineseg.data.files import write_text
from spineseg.errors import DataError
from spineseg.metrics.intervals import LEAST_SUBJECTS, RESAMPLES
from spineseg.metrics.means import FEW_SUBJECTS, LEAST_SUBJECTS_PER_LEVEL
from spineseg.reporting.checklist import checklist
from spineseg.reporting.comparability import check_comparable
from spineseg.reporting.comparison_tables import pair_table, protocols_table, rank_table, run_table, variation_table
from spineseg.reporting.comparisons import Pair, compare_pairs
from spineseg.reporting.field_table import field_table
from spineseg.reporting.figures import draw_figures
from spineseg.reporting.latex import latex_table
from spineseg.reporting.level_tables import by_level, by_subject, dice_means, errors, identification, localisation
from spineseg.reporting.markdown import markdown_report, markdown_table
from spineseg.reporting.models import ScoredModel, score_models
from spineseg.reporting.places import places_of, without_places
from spineseg.reporting.runs import Report, ScoredRun, Table, load_runs
from spineseg.reporting.tables import detection_table, headline_table

PAGE: Final = "report.md"
HTML: Final = "report.html"
CHECKLIST: Final = "checklist.md"
_OURS: Final = {"tables": (".md", ".csv", ".tex"), "figures": (".pdf", ".png", ".gif")}


def build_report(
    runs: Sequence[Path],
    output: Path,
    *,
    study: Path | None = None,
    split: str = "test",
    title: str | None = None,
    labels: Mapping[str, str] | None = None,
    unscored: Sequence[Path] = (),
    worst: int = 3,
    resamples: int = RESAMPLES,
    html: bool = True,
) -> Report:
    """Compare runs, draw them, and write the folder of the report.

    Args:
        runs: run folders and evaluation folders, scored.
        output: folder; what an earlier report left there is replaced.
        study: folder of a study whose tables and figures come first; None = none.
        split: evaluation of run folders.
        title: heading; None = the names of the models.
        labels: recipe → name in tables.
        unscored: runs without scores, to be named.
        worst: how many of the worst cases are drawn; 0 = none, and no animation either.
        resamples: of intervals from 20 subjects on.
        html: whether to write the page.

    Raises:
        DataError: runs that cannot be compared; the message names the difference.
    """
    loaded = load_runs(runs, split=split)
    models = score_models(loaded, labels=labels or {}, resamples=resamples)
    simulated = any(run.simulated for run in loaded)
    pairs: list[Pair] = []
    tables: dict[str, Table] = {}
    asked = None
    if study is not None:
        from spineseg.reporting.study import figures_of, tables_of
        from spineseg.reporting.study_results import read_study

        asked = read_study(study)
        simulated = simulated or asked.simulated
        tables |= {table.name: table for table in tables_of(asked)}
        loaded += asked.runs.values()
    if models:
        check_comparable(models)
        pairs = compare_pairs(models, resamples=resamples)
        tables |= {table.name: table for table in comparison_of(models, pairs)}
    _check_free(output)
    # An earlier report goes only when there is a whole one to take its place.
    partial = output.absolute().with_name(f".partial-{output.absolute().name}")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        not_drawn: list[str] = []
        figures = {} if asked is None else figures_of(asked, partial / "figures")
        if models:
            figures |= draw_figures(models, pairs, partial / "figures", worst=worst, notes=not_drawn)
        roots = (*places_of(loaded), output.absolute(), *(() if study is None else (study.absolute(),)))
        notes = (*_notes(models, unscored, simulated=simulated), *not_drawn)
        report = Report(
            title=title or _title(models, study),
            simulated=simulated,
            runs=tuple(loaded),
            tables=tables,
            figures=figures,
            notes=tuple(without_places(note, roots) for note in notes),
            pairs=tuple(pairs),
        )
        write_report(report, partial, worst=worst, labels=labels or {}, html=html)
        _replace(output, partial)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return replace(report, figures={name: output / path.relative_to(partial) for name, path in figures.items()})


def comparison_of(models: Sequence[ScoredModel], pairs: Sequence[Pair]) -> list[Table]:
    """Every table of a comparison, the headline first."""
    tables = [headline_table(models, pairs), detection_table(models)]
    if any(model.named for model in models):
        tables += [dice_means(models), identification(models), localisation(models)]
        tables += [by_level(models, "dice", "Dice"), by_level(models, "identified", "Identification rate")]
        tables += [by_subject(models, "dice", "Dice"), by_subject(models, "id_case", "Identification rate")]
    tables += [by_subject(models, "dice_spine", "Dice of the whole spine"), errors(models), field_table(models)]
    if pairs:
        tables.append(pair_table(models, pairs))
    if (ranks := rank_table(models)) is not None:
        tables.append(ranks)
    if (protocols := protocols_table(models)) is not None:
        tables.append(protocols)
    return [*tables, variation_table(models), run_table(models)]


def write_report(
    report: Report, output: Path, *, worst: int = 3, labels: Mapping[str, str] | None = None, html: bool = True
) -> None:
    """Write tables, the Markdown page, the checklist and the HTML page; figures are there already.

    Args:
        report: whose figures lie below ``output``.
        output: folder.
        worst: how many of the worst cases the page shows.
        labels: recipe → name in the page's viewer.
        html: whether to write ``report.html``.
    """
    for table in report.tables.values():
        place = output / "tables" / table.name
        write_text(place.with_suffix(".md"), markdown_table(table) + "\n")
        write_text(place.with_suffix(".tex"), latex_table(table))
        write_text(place.with_suffix(".csv"), csv_table(table))
    write_text(output / CHECKLIST, checklist(report))
    links = [f"[Reporting checklist]({CHECKLIST})", *([f"[Page with viewer]({HTML})"] if html else [])]
    write_text(output / PAGE, markdown_report(report, output, more=links))
    if html:
        from spineseg.reporting.html import write_html

        write_html(report, output / HTML, worst=worst, labels=labels)


def csv_table(table: Table) -> str:
    """Numbers of a table at full precision; constant columns say by which rules, and which data they are of."""
    frame = table.frame if table.values is None else table.values
    # A study may have an axis of that name.
    facts = {f"{name} of the scores" if name in frame else name: value for name, value in table.facts.items()}
    text: str = frame.assign(**facts).to_csv(index=False)
    return text


def _title(models: Sequence[ScoredModel], study: Path | None) -> str:
    if not models:
        return "Study" if study is None else f"Study {study.name}"
    names = [model.name for model in models]
    return names[0] if len(names) == 1 else f"{len(names)} models on the same cases: {', '.join(names)}"


def _check_free(output: Path) -> None:
    """Refuse to mix with what is no report."""
    if not (output / PAGE).is_file() and output.is_dir() and any(output.iterdir()):
        raise DataError(f"{output}: holds files, but no {PAGE} of an earlier report; give a new or empty folder")


def _replace(output: Path, partial: Path) -> None:
    """Put a whole report where an earlier one lies; what is no report's own stays."""
    for folder, suffixes in _OURS.items():
        for path in (output / folder).glob("*"):
            if path.suffix in suffixes:
                path.unlink()
    for name in (PAGE, HTML, CHECKLIST):
        (output / name).unlink(missing_ok=True)
    # The page last: it says that a report lies here.
    for path in sorted(partial.rglob("*"), key=lambda path: path == partial / PAGE):
        if path.is_file():
            place = output / path.relative_to(partial)
            place.parent.mkdir(parents=True, exist_ok=True)
            path.replace(place)


def _notes(models: Sequence[ScoredModel], unscored: Sequence[Path], *, simulated: bool) -> list[str]:
    notes = ["Simulated data: descriptive only."] if simulated else []
    if models:
        n = len(models[0].subjects)
        if n < LEAST_SUBJECTS:
            notes.append(f"n = {n} subjects: no interval below {LEAST_SUBJECTS}, and no test.")
    if unscored:
        # A failed run stays in the denominator, at least to the eye (PROTOCOL 8.9).
        names = ", ".join("/".join(path.parts[-3:]) for path in unscored)
        notes.append(f"{len(unscored)} runs have no scores (failed or not finished) and are in no number: {names}.")
    said = [note for model in models for run in model.runs for note in _run_notes(model, run)]
    return [*notes, *dict.fromkeys(said)]


def _run_notes(model: ScoredModel, run: ScoredRun) -> list[str]:
    said_once: tuple[str, ...] = ("n = ", "simulated")
    if len(model.runs) > 1 and len(model.subjects) >= LEAST_SUBJECTS_PER_LEVEL:
        said_once += (FEW_SUBJECTS,)
    notes = [f"{model.name}: {note}" for note in run.summary["notes"] if not note.startswith(said_once)]
    if not run.split:
        notes.append(f"{model.name}: split not recorded.")
    if run.provenance.get("overfit"):
        notes.append(f"{model.name}: overfit check on {run.provenance['overfit']}, no result.")
    if run.provenance.get("exclusions"):
        notes.append(f"{model.name}: {run.provenance['exclusions']}")
    return notes
