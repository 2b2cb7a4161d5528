"""The worst cases as pictures: one sagittal slice with the reference and every model's label map over it."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from spineseg.reporting.case_scores import CaseScore, shown_runs, worst_cases
from spineseg.reporting.case_views import CaseView, case_views, color_of
from spineseg.reporting.models import ScoredModel, every_run
from spineseg.reporting.overlay import OPACITY, WINDOW_HU
from spineseg.reporting.runs import ScoredRun
from spineseg.vertebrae import LEVELS, level_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Picture = NDArray[np.float64]
# A name is written beside a level that shows at least so many pixels.
_NAMED_PIXELS = 20


def worst_of(models: Sequence[ScoredModel], count: int) -> list[CaseScore]:
    """Cases with the lowest Dice over the models' runs, worst first."""
    return worst_cases(every_run(models), count)


def shown_of(models: Sequence[ScoredModel], score: CaseScore) -> dict[str, ScoredRun]:
    """One run of each model that scored a case, by the model's name."""
    return dict(shown_runs([(model.name, run) for model in models for run in model.runs], score)[0])


def view_of(shown: Mapping[str, ScoredRun], score: CaseScore) -> CaseView:
    """A case as some models' runs see it; see ``case_views``."""
    return case_views(list(shown.values()), score.case, score.source)


def draw_case(figure: "Figure", shown: Mapping[str, ScoredRun], score: CaseScore, view: CaseView) -> None:
    """Scan, reference and each model's label map on the sagittal slice with most reference.

    Args:
        figure: to draw on.
        shown: of ``shown_of``.
        score: of the case.
        view: its volumes.
    """
    by_run = {run.name: name for name, run in shown.items()}
    x = central_slice(view)
    panels: list[tuple[str, NDArray[Any] | None, bool]] = [("scan", None, True)] if view.image is not None else []
    if view.reference is not None:
        panels.append(("reference", view.reference.array[x], view.reference_named))
    for run, volume in view.predictions.items():
        dice = f"\nDice {score.dice[run]:.3f}" if run in score.dice else ""
        panels.append((f"{by_run.get(run, run)}{dice}", volume.array[x], view.named[run]))
    hu = None if view.image is None else view.image.array[x]
    all_axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for (title, values, named), axes in zip(panels, all_axes, strict=True):
        _draw_panel(axes, hu, values, named=named, aspect=view.spacing_mm[2] / view.spacing_mm[1])
        axes.set_title(title, fontsize=7)
    if view.notes:
        figure.supxlabel("\n".join(view.notes), fontsize=5, x=0.01, ha="left")
    figure.suptitle(f"{score.case} ({score.source}), mean Dice {score.mean:.3f}", fontsize=8, x=0.01, ha="left")


def central_slice(view: CaseView) -> int:
    """Sagittal slice that shows most of the reference, or of the predictions where there is none."""
    maps = [view.reference] if view.reference is not None else list(view.predictions.values())
    counts = sum(np.count_nonzero(volume.array, axis=(1, 2)) for volume in maps)
    return int(np.argmax(counts))


def tinted(hu: NDArray[Any] | None, values: NDArray[Any] | None, *, named: bool) -> Picture:
    """Picture (Z, Y, 3) in 0..1 of a sagittal slice (Y, Z): head up, front of the body on the left.

    Args:
        hu: of the scan; None = black.
        values: labels over it; None = the scan alone.
        named: whether labels are levels.
    """
    low, high = WINDOW_HU
    shape = (hu if hu is not None else values).shape  # type: ignore[union-attr]  # one of the two is there
    gray = np.zeros(shape) if hu is None else np.clip((hu.astype(np.float64) - low) / (high - low), 0, 1)
    picture: Picture = np.repeat(gray[..., None], 3, axis=2)
    for value in [] if values is None else np.unique(values[values > 0]):
        where = values == value
        picture[where] = (1 - OPACITY) * picture[where] + OPACITY * np.array(color_of(int(value), named=named)) / 255
    # Y runs from back to front and Z from feet to head: both turn round.
    return picture.transpose(1, 0, 2)[::-1, ::-1]


def _draw_panel(
    axes: "Axes", hu: NDArray[Any] | None, values: NDArray[Any] | None, *, named: bool, aspect: float
) -> None:
    picture = tinted(hu, values, named=named)
    axes.imshow(picture, aspect=aspect, interpolation="nearest")
    axes.set_axis_off()
    height, width = picture.shape[:2]
    for value in [] if values is None else np.unique(values[values > 0]):
        y, z = np.nonzero(values == value)
        if len(y) < _NAMED_PIXELS:
            continue
        text = level_name(int(value)) if named and int(value) in LEVELS else str(int(value))
        axes.text(
            width - 1 - y.mean(), height - 1 - z.mean(), text, color="white", fontsize=4, ha="center", va="center"
        )
