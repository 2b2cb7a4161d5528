"""All figures of a report."""

from collections.abc import Sequence
from pathlib import Path

from spineseg.errors import SpinesegError
from spineseg.reporting.comparisons import Pair
from spineseg.reporting.curves import draw_precision, draw_training
from spineseg.reporting.figures_levels import draw_levels, draw_shifts
from spineseg.reporting.figures_pairs import draw_cost, draw_differences, endpoints_with_pairs
from spineseg.reporting.figures_style import figure, save, style_of
from spineseg.reporting.models import ScoredModel
from spineseg.reporting.places import without_places
from spineseg.reporting.worst_cases import draw_case, view_of, worst_of


def draw_figures(
    models: Sequence[ScoredModel],
    pairs: Sequence[Pair],
    folder: Path,
    *,
    simulated: bool,
    worst: int,
    notes: list[str] | None = None,
) -> dict[str, Path]:
    """Draw what the models have the data for.

    Args:
        models: of the report.
        pairs: their comparisons.
        folder: of the files.
        simulated: whether any data is: every figure then says so.
        worst: how many of the worst cases.
        notes: gets what could not be drawn and why.

    Returns:
        Name → PNG file; the PDF lies beside it.
    """
    styles = style_of([model.name for model in models])
    named = any(model.named for model in models)
    drawn: dict[str, Path] = {}
    if named:
        with figure(height=4.6) as each:
            if draw_levels(each, models, styles):
                drawn["levels"] = save(each, folder, "levels", simulated=simulated)
    if endpoints := endpoints_with_pairs(pairs):
        rows = sum(pair.endpoint in endpoints for pair in pairs)
        with figure(height=0.9 * len(endpoints) + 0.32 * rows) as each:
            draw_differences(each, models, pairs)
            drawn["paired_differences"] = save(each, folder, "paired_differences", simulated=simulated)
    with figure(width=5.6, height=3.6) as each:
        draw_precision(each, models, styles)
        drawn["precision_recall"] = save(each, folder, "precision_recall", simulated=simulated)
    if named:
        with figure(height=2.8) as each:
            draw_shifts(each, models, styles)
            drawn["shifts"] = save(each, folder, "shifts", simulated=simulated)
    for name, height, draw in (("training", 4.6, draw_training), ("cost", 3.0, draw_cost)):
        with figure(height=height) as each:
            if draw(each, models, styles):
                drawn[name] = save(each, folder, name, simulated=simulated)
    for place, score in enumerate(worst_of(models, worst), 1):
        try:
            view = view_of(models, score)
        except SpinesegError as error:
            # Scores outlive the predictions that they are of, as when a disk was cleared.
            if notes is not None:
                notes.append(f"{score.case} (mean Dice {score.mean:.3f}) is not drawn: {without_places(str(error))}")
            continue
        panels = 1 + (view.image is not None) + len(view.predictions)
        name = f"worst_case_{place}"
        with figure(width=max(4.0, 1.5 * panels), height=4.2) as each:
            draw_case(each, models, score, view)
            drawn[name] = save(each, folder, name, simulated=simulated)
    return drawn
