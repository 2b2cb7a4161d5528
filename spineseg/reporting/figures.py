"""All figures of a report."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from spineseg.errors import SpinesegError
from spineseg.reporting.case_views import CaseView
from spineseg.reporting.comparisons import Pair
from spineseg.reporting.curves import draw_precision, draw_training
from spineseg.reporting.figures_levels import draw_levels, draw_shifts
from spineseg.reporting.figures_pairs import draw_cost, draw_differences, endpoints_with_pairs
from spineseg.reporting.figures_style import figure, save, style_of
from spineseg.reporting.gif import write_gif
from spineseg.reporting.models import ScoredModel, every_run
from spineseg.reporting.runs import ScoredRun
from spineseg.reporting.standing import warnings_of
from spineseg.reporting.worst_cases import draw_case, shown_of, view_of, worst_of


def draw_figures(
    models: Sequence[ScoredModel],
    pairs: Sequence[Pair],
    folder: Path,
    *,
    worst: int,
    notes: list[str] | None = None,
) -> dict[str, Path]:
    """Draw what the models have the data for; the worst case with a label map at hand is animated, too (``pass``).

    Args:
        models: of the report.
        pairs: their comparisons.
        folder: of the files.
        worst: how many of the worst cases.
        notes: gets what could not be drawn and why.

    Returns:
        Name → PNG file, with the PDF beside it, or the GIF.
    """
    warnings = warnings_of(every_run(models))
    styles = style_of([model.name for model in models])
    named = any(model.named for model in models)
    drawn: dict[str, Path] = {}
    if named:
        with figure(height=4.6) as each:
            if draw_levels(each, models, styles):
                drawn["levels"] = save(each, folder, "levels", warnings)
    if endpoints := endpoints_with_pairs(pairs):
        rows = sum(pair.endpoint in endpoints for pair in pairs)
        with figure(height=0.9 * len(endpoints) + 0.32 * rows) as each:
            draw_differences(each, models, pairs)
            drawn["paired_differences"] = save(each, folder, "paired_differences", warnings)
    with figure(width=5.6, height=3.6) as each:
        draw_precision(each, models, styles)
        drawn["precision_recall"] = save(each, folder, "precision_recall", warnings)
    if named:
        with figure(height=2.8) as each:
            draw_shifts(each, models, styles)
            drawn["shifts"] = save(each, folder, "shifts", warnings)
    for name, height, draw in (("training", 4.6, draw_training), ("cost", 3.0, draw_cost)):
        with figure(height=height) as each:
            if draw(each, models, styles):
                drawn[name] = save(each, folder, name, warnings)
    animated: dict[str, Path] = {}
    for place, score in enumerate(worst_of(models, worst), 1):
        shown = shown_of(models, score)
        try:
            view = view_of(shown, score)
        except SpinesegError as error:
            # Scores outlive the predictions that they are of, as when a disk was cleared.
            if notes is not None:
                notes.append(f"{score.case} (mean Dice {score.mean:.3f}) is not drawn: {error}")
            continue
        panels = 1 + (view.image is not None) + len(view.predictions)
        name = f"worst_case_{place}"
        with figure(width=max(4.0, 1.5 * panels), height=4.2) as each:
            draw_case(each, shown, score, view)
            drawn[name] = save(each, folder, name, warnings)
        if not animated:
            animated = _animate(view, shown, folder / "pass.gif", notes)
    return drawn | animated


def _animate(view: CaseView, shown: Mapping[str, ScoredRun], path: Path, notes: list[str] | None) -> dict[str, Path]:
    """Animate a case with the first model whose label map is at hand; nothing where none is."""
    for label, run in shown.items():
        if run.name in view.predictions:
            try:
                write_gif(view, path, run=run.name, label=label)
            except SpinesegError as error:
                if notes is not None:
                    notes.append(str(error))
                return {}
            return {"pass": path}
    return {}
