"""Figures of comparisons: every subject's difference between two models, and accuracy against cost."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from spineseg.metrics.intervals import BOOTSTRAP_SUBJECTS, LEAST_SUBJECTS
from spineseg.reporting.comparison_tables import ENDPOINTS
from spineseg.reporting.comparisons import Pair, is_oracle, subject_means
from spineseg.reporting.figures_style import plain_log
from spineseg.reporting.models import ScoredModel
from spineseg.reporting.tables import cost_cells

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Styles = Mapping[str, Mapping[str, Any]]
SHOWN: Final = ("dice", "id_case", "dice_spine")
_COSTS: Final = ("Seconds a scan", "Training (h)", "Parameters (M)")


def endpoints_with_pairs(pairs: Sequence[Pair]) -> list[str]:
    """Endpoints that a figure of differences has a panel for."""
    there = {pair.endpoint for pair in pairs}
    return [endpoint for endpoint in SHOWN if endpoint in there]


def draw_differences(figure: "Figure", models: Sequence[ScoredModel], pairs: Sequence[Pair]) -> None:
    """A row a pair: each subject's difference as a point, the mean with its interval; zero is no difference."""
    endpoints = endpoints_with_pairs(pairs)
    by_name = {model.name: model for model in models}
    all_axes = figure.subplots(len(endpoints), 1, squeeze=False, height_ratios=[_rows(pairs, e) for e in endpoints])
    for endpoint, axes in zip(endpoints, all_axes[:, 0], strict=True):
        shown = [pair for pair in pairs if pair.endpoint == endpoint]
        for row, pair in enumerate(reversed(shown)):
            _draw_pair(axes, row, pair, by_name)
        names = [f"{pair.first} − {pair.second}" for pair in reversed(shown)]
        axes.set_yticks(range(len(shown)), names, fontsize=7)
        axes.axvline(0, color="0.3", linewidth=0.8)
        axes.set_ylim(-0.6, len(shown) - 0.4)
        axes.set_xlabel(f"difference in {ENDPOINTS[endpoint]}")
        n = max(pair.found.n for pair in shown)
        axes.set_title(f"{ENDPOINTS[endpoint]}, n = {n}: {_about_intervals(n)}", loc="left", fontsize=8)


def draw_cost(figure: "Figure", models: Sequence[ScoredModel], styles: Styles) -> bool:
    """Dice of the whole spine, which every model has, against each cost; False where no cost is known."""
    points = {
        cost: [
            (model, cell.value, score)
            for model in models
            if not is_oracle(model)
            and (cell := cost_cells(model)[cost]).value is not None
            and (score := model.results.get("dice_spine", {}).get("value")) is not None
        ]
        for cost in _COSTS
    }
    panels = [cost for cost in _COSTS if points[cost]]
    if not panels:
        return False
    all_axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    labelled: set[str] = set()
    for cost, axes in zip(panels, all_axes, strict=True):
        for model, x, score in points[cost]:
            style = styles[model.name]
            label = model.name if model.name not in labelled else None
            labelled.add(model.name)
            axes.plot(x, score, linestyle="", marker=style["marker"], color=style["color"], markersize=6, label=label)
            entry = model.results["dice_spine"]
            if entry.get("low") is not None:
                axes.plot([x, x], [entry["low"], entry["high"]], color=style["color"], linewidth=0.8)
        costs = [x for _, x, _ in points[cost]]
        if max(costs) > 10 * min(costs) > 0:
            axes.set_xscale("log")
            plain_log(axes.xaxis)
        axes.margins(x=0.25)
        axes.set_xlabel(cost)
    all_axes[0].set_ylabel("Dice, whole spine")
    figure.legend(loc="outside lower center", ncols=min(4, len(labelled)))
    return True


def _draw_pair(axes: "Axes", row: int, pair: Pair, by_name: Mapping[str, ScoredModel]) -> None:
    one, other = (subject_means(by_name[name], pair.endpoint) for name in (pair.first, pair.second))
    values = np.array([one[subject] - other[subject] for subject in sorted(one.keys() & other.keys())])
    # Points that would lie on each other are spread evenly, by rank, so that all subjects are seen.
    spread = (
        np.linspace(-0.22, 0.22, len(values))[np.argsort(np.argsort(values, kind="stable"))] if len(values) > 1 else 0
    )
    axes.plot(values, row + spread, linestyle="", marker="o", markersize=3, color="#56B4E9", alpha=0.9)
    if pair.found.ends.low is not None and pair.found.ends.high is not None:
        axes.plot([pair.found.ends.low, pair.found.ends.high], [row, row], color="black", linewidth=1.4)
    axes.plot([pair.found.mean], [row], marker="D", color="black", markersize=4)


def _rows(pairs: Sequence[Pair], endpoint: str) -> int:
    return 1 + sum(pair.endpoint == endpoint for pair in pairs)


def _about_intervals(n: int) -> str:
    if n < LEAST_SUBJECTS:
        return f"all subjects and their mean; no interval below {LEAST_SUBJECTS} subjects"
    if n < BOOTSTRAP_SUBJECTS:
        return "all subjects, their mean and its 95 % t-interval (approximate)"
    return "all subjects, their mean and its 95 % BCa interval"
