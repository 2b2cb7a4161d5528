"""Figures by level: Dice and identification along the column, and by how many steps names are off."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from spineseg.metrics.means import level_means
from spineseg.metrics.summary import metric_rows
from spineseg.reporting.figures_style import COLORS, HATCHES
from spineseg.reporting.models import ScoredModel
from spineseg.vertebrae import ORDER, level_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Styles = Mapping[str, Mapping[str, Any]]
# Shifts beyond are gathered in the outermost bars.
FARTHEST: Final = 4


def draw_levels(figure: "Figure", models: Sequence[ScoredModel], styles: Styles) -> bool:
    """Mean Dice and identification rate of each level, C1 at the left; the number of subjects below.

    False where no level counts, as when the field of view cuts them all.
    """
    named = [model for model in models if model.named]
    panels = [("dice", "Dice, mean over subjects"), ("identified", "share identified")]
    means = {metric: {m.name: level_means(metric_rows(m.rows, metric)) for m in named} for metric, _ in panels}
    # Evaluations of an earlier version did not judge identification.
    panels = [panel for panel in panels if any(means[panel[0]].values())]
    if not panels:
        return False
    present = {level for each in means["dice"].values() for level in each}
    levels = [name for name in map(level_name, ORDER) if name in present]
    all_axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for (metric, label), axes in zip(panels, all_axes, strict=True):
        for model in named:
            values = [means[metric][model.name].get(level, {}).get("value", np.nan) for level in levels]
            axes.plot(range(len(levels)), values, label=model.name if metric == "dice" else None, **styles[model.name])
        axes.set(ylabel=label, ylim=(-0.02, 1.02))
    first = means["dice"][named[0].name]
    counts = [f"{level}\n{first.get(level, {}).get('subjects', 0):.0f}" for level in levels]
    all_axes[-1].set_xticks(range(len(levels)), counts, fontsize=7)
    all_axes[-1].set_xlabel("level and number of subjects")
    figure.legend(loc="outside upper left", ncols=min(4, len(named)))
    return True


def shift_shares(model: ScoredModel) -> dict[int, float]:
    """Share of the matched levels that are off by so many steps, caudal positive, the farthest gathered.

    Args:
        model: with levels by name.
    """
    steps = metric_rows(model.rows, "shift")["value"].dropna().to_numpy(np.float64)
    gathered = np.clip(steps, -FARTHEST, FARTHEST)
    return {step: float((gathered == step).mean()) if len(steps) else 0.0 for step in range(-FARTHEST, FARTHEST + 1)}


def draw_shifts(figure: "Figure", models: Sequence[ScoredModel], styles: Styles) -> None:
    """Histogram of the steps between a level and the name of what lies on it."""
    named = [model for model in models if model.named]
    axes = figure.subplots()
    width = 0.8 / len(named)
    for i, model in enumerate(named):
        shares = shift_shares(model)
        places = np.array(list(shares)) + (i - (len(named) - 1) / 2) * width
        bars = axes.bar(
            places,
            [100 * share for share in shares.values()],
            width,
            color=styles[model.name]["color"],
            hatch=HATCHES[list(styles).index(model.name) // len(COLORS) % len(HATCHES)],
            edgecolor="white",
            linewidth=0,
            label=model.name,
        )
        if len(named) <= 4:
            shown = [f"{100 * share:.1f}" if share else "" for share in shares.values()]
            axes.bar_label(bars, shown, fontsize=5, padding=1)
    ticks = list(range(-FARTHEST, FARTHEST + 1))
    names = [
        f"≤ −{FARTHEST}",
        *(f"{step:+d}".replace("-", "−") if step else "0" for step in ticks[1:-1]),
        f"≥ +{FARTHEST}",
    ]
    axes.set_xticks(ticks, names)
    # Most levels are right in most models: without the logarithm nothing else would be seen.
    axes.set_yscale("symlog", linthresh=1)
    axes.set_ylim(0, 160)
    axes.set_yticks([0, 0.5, 1, 10, 100], ["0", "0.5", "1", "10", "100"])
    axes.set(xlabel="steps off, caudal positive", ylabel="% of the matched levels (symlog)")
    axes.legend()
