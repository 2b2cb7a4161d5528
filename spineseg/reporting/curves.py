"""Curves: precision over recall from the detections table, and training from ``log.csv``."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from spineseg.errors import FormatError
from spineseg.metrics.detection import RECALL_POINTS
from spineseg.metrics.detections_table import REFERENCE, DetectionSet, state_columns
from spineseg.metrics.matching import FALSE_POSITIVE, TRUE_POSITIVE
from spineseg.reporting.figures_style import plain_log
from spineseg.reporting.models import ScoredModel
from spineseg.reporting.runs import ScoredRun

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]
LOG: Final = "log.csv"
_COLUMNS: Final = ["step", "epoch", "name", "value"]
# The first of each that a run has logged; its panel.
_TRAINING: Final = ("train/loss_epoch", "train/loss")
_VALIDATION: Final = ("val/dice", "val/mask_map50", "val/mask_map50_named")


def precision_curve(table: pd.DataFrame, *, which: DetectionSet = "exclusive") -> Floats:
    """Precision envelope (101,) at COCO's recall points: class-agnostic masks at IoU 0.5; its mean is the AP50.

    NaN without references.

    Args:
        table: detections and references, as ``detections.parquet`` holds them.
        which: exclusive map or the detections as they are.
    """
    total = int(((table["set"] == REFERENCE) & table["counted"]).sum())
    if total == 0:
        return np.full(len(RECALL_POINTS), np.nan)
    found = table[table["set"] == which].sort_values("score", ascending=False, kind="stable")
    states = found[state_columns("mask", named=False)[0]].to_numpy()
    hits, misses = np.cumsum(states == TRUE_POSITIVE), np.cumsum(states == FALSE_POSITIVE)
    precision = hits / np.maximum(hits + misses, 1)
    envelope = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    curve: Floats = envelope[np.searchsorted(hits / total, RECALL_POINTS, side="left")]
    return curve


def draw_precision(figure: "Figure", models: Sequence[ScoredModel], styles: Mapping[str, Mapping[str, Any]]) -> None:
    """Precision over recall of the exclusive slice maps, a line a seed."""
    axes = figure.subplots()
    for model in models:
        style = {key: styles[model.name][key] for key in ("color", "linestyle")}
        curves = [precision_curve(scores.detections) for scores in model.seeds.values()]
        label = f"{model.name} ({np.mean(curves):.3f})"
        for i, curve in enumerate(curves):
            axes.plot(
                RECALL_POINTS, curve, label=label if i == 0 else None, alpha=1 if len(curves) == 1 else 0.6, **style
            )
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1.005), ylim=(0, 1.02), box_aspect=1)
    axes.set_title("Masks at IoU 0.5, exclusive maps, all levels as one class")
    axes.legend(title="model (AP50)", loc="center left", bbox_to_anchor=(1.02, 0.5))


def read_log(path: Path) -> pd.DataFrame:
    """Read a run's ``log.csv``: step, epoch, name, value; a last line that a kill cut short is left out.

    Raises:
        FormatError: other columns.
    """
    text = path.read_text(encoding="utf-8")
    table = pd.read_csv(io.StringIO(text[: text.rfind("\n") + 1] or ",".join(_COLUMNS) + "\n"))
    if list(table.columns) != _COLUMNS:
        raise FormatError(f"{path}: expected the columns {', '.join(_COLUMNS)}, found {', '.join(table.columns)}")
    return table


def draw_training(figure: "Figure", models: Sequence[ScoredModel], styles: Mapping[str, Mapping[str, Any]]) -> bool:
    """Training loss and validation monitors over epochs, a line a run; False where no run has a log.

    What a monitor measures depends on the kind of model: ``val/dice`` is the slices' foreground for instances and the
    mean over levels for label maps.
    """
    logs = [
        (model.name, read_log(path)) for model in models for run in model.runs if (path := _log_of(run)) is not None
    ]
    panels: list[tuple[str, ...]] = [_TRAINING]
    logged = {name for _, log in logs for name in log["name"].unique()}
    panels += [(name,) for name in _VALIDATION if name in logged]
    if not logs:
        return False
    columns = min(2, len(panels))
    all_axes = figure.subplots(-(-len(panels) // columns), columns, squeeze=False).ravel()
    for axes in all_axes[len(panels) :]:
        axes.set_axis_off()
    shown: set[str] = set()
    for names, axes in zip(panels, all_axes, strict=False):
        least = np.inf
        for model, log in logs:
            name = next((name for name in names if (log["name"] == name).any()), None)
            if name is None:
                continue
            values = log[log["name"] == name].groupby("epoch")["value"].mean()
            label = model if model not in shown else None
            shown.add(model)
            style = dict(styles[model])
            if len(values) > 20:
                style["marker"] = ""
            axes.plot(values.index + 1, values, label=label, alpha=0.85, **style)
            least = min(least, float(values.min()))
        _finish(axes, names[-1], least)
    figure.suptitle("In-loop monitors: not comparable between kinds of model", fontsize=8, x=0.01, ha="left")
    figure.legend(loc="outside lower center", ncols=min(4, max(1, len(shown))))
    return True


def _finish(axes: "Axes", name: str, least: float) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set(xlabel="epoch", title=name)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if name not in _TRAINING:
        axes.set_ylim(0, 1)
    elif least > 0:
        # Cross-entropy minus Dice falls below zero, where a logarithm shows nothing.
        axes.set_yscale("log")
        plain_log(axes.yaxis)


def _log_of(run: ScoredRun) -> Path | None:
    return None if run.root is None or not (run.root / LOG).is_file() else run.root / LOG
