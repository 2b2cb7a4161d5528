"""The figures of a study: the subjects of each arm, curves along axes of numbers; of a search what its trials found."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from spineseg.reporting.figures_style import COLORS, figure, save
from spineseg.reporting.study_arms import PER_SUBJECT, SUBJECT_METRICS, Arm
from spineseg.reporting.study_results import StudyResults
from spineseg.reporting.study_search import better_first, finished, importance, parameters

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CURVE_POINTS: Final = 3
_NONLINEAR: Final = 10.0  # from this ratio of the largest to the least label on, an axis is logarithmic


def matrix_figures(study: StudyResults, arms: Sequence[Arm], shown: Sequence[str], output: Path) -> dict[str, Path]:
    """Draw ``study_arms``, and ``study_curve_<axis>`` for each axis of at least three numbers.

    Args:
        study: a matrix.
        arms: of it.
        shown: factors in which they differ.
        output: folder of the PNG files, each with its PDF beside it.

    Returns:
        Name → PNG file; empty where the metric has no value for single subjects.
    """
    metric = PER_SUBJECT.get(study.metric, study.metric)
    if metric not in SUBJECT_METRICS or not any(len(arm.values(metric)) for arm in arms):
        return {}
    draw: dict[str, Callable[[Any], None]] = {"study_arms": partial(_arms, arms=arms, shown=shown, metric=metric)}
    for axis in shown:
        if numbers(arms, axis) is not None:
            draw[f"study_curve_{axis}"] = partial(_curve, arms=arms, shown=shown, axis=axis, metric=metric)
    return _drawn(draw, output, study.warnings)


def search_figures(study: StudyResults, output: Path) -> dict[str, Path]:
    """Draw ``search_history``, and from a few trials on ``search_importance`` and ``search_contour``."""
    draw: dict[str, Callable[[Any], None]] = {"search_history": partial(_history, study=study)}
    shares = importance(study)
    if shares:
        draw["search_importance"] = partial(_importance, study=study, shares=shares)
        if len(shares) > 1:
            first, second = list(shares)[:2]
            draw["search_contour"] = partial(_contour, study=study, first=first, second=second)
    return _drawn(draw, output, study.warnings)


def numbers(arms: Sequence[Arm], axis: str) -> dict[str, float] | None:
    """Label → number of an axis with at least three numbers for labels; None of another axis.

    One label may be none (``all``), which is then not in the result.
    """
    found = {}
    others = set()
    for label in dict.fromkeys(arm.labels[axis] for arm in arms):
        try:
            found[label] = float(label)
        except ValueError:
            others.add(label)
    return found if len(found) >= CURVE_POINTS and len(others) <= 1 else None


def _arms(axes: "Axes", arms: Sequence[Arm], shown: Sequence[str], metric: str) -> None:
    for place, arm in enumerate(arms):
        values = np.array(list(arm.subjects(metric).values()))
        if not len(values):
            axes.text(place, 0.02, "no value", ha="center", transform=axes.get_xaxis_transform(), fontsize=7)
            continue
        aside = np.linspace(-0.15, 0.15, len(values)) if len(values) > 1 else np.zeros(1)
        axes.plot(place + aside, np.sort(values), "o", color=COLORS[0], alpha=0.6, markersize=4)
        axes.hlines(values.mean(), place - 0.3, place + 0.3, color=COLORS[1])
        seed = arm.sd_seed(metric)
        if seed is not None:
            axes.errorbar(place + 0.3, values.mean(), yerr=seed, color=COLORS[1], capsize=2)
    axes.set_xticks(range(len(arms)), ["\n".join(arm.labels[name] for name in shown) for arm in arms], fontsize=7)
    axes.set_xlabel(" / ".join(shown))
    axes.set_ylabel(metric)
    axes.set_title("each subject; line: mean, bar: sd over seeds", fontsize=8)


def _curve(axes: "Axes", arms: Sequence[Arm], shown: Sequence[str], axis: str, metric: str) -> None:
    known = numbers(arms, axis) or {}
    others = [name for name in shown if name != axis]
    lines: dict[tuple[str, ...], list[Arm]] = {}
    for arm in arms:
        lines.setdefault(tuple(arm.labels[name] for name in others), []).append(arm)
    for line, (labels, members) in enumerate(lines.items()):
        colour = COLORS[line % len(COLORS)]
        points = []
        for arm in members:
            values = np.array(list(arm.subjects(metric).values()))
            x = known.get(arm.labels[axis])
            if len(values) and x is None:
                axes.axhline(float(values.mean()), color=colour, linestyle="--", linewidth=0.8)
            elif len(values):
                axes.plot(np.full(len(values), x), values, ".", color=colour, alpha=0.4)
                points.append((x or 0.0, float(values.mean()), arm.sd_seed(metric) or 0.0))
        if points:
            xs, means, errors = zip(*sorted(points), strict=True)
            axes.errorbar(xs, means, yerr=errors, color=colour, capsize=2, label=", ".join(labels) or None)
    if min(known.values()) > 0 and max(known.values()) / min(known.values()) >= _NONLINEAR:
        axes.set_xscale("log")
    axes.set_xticks(list(known.values()), list(known))
    axes.minorticks_off()
    axes.set_xlabel(axis)
    axes.set_ylabel(metric)
    rest = [label for label in dict.fromkeys(arm.labels[axis] for arm in arms) if label not in known]
    dashed = f"; dashed: mean of {rest[0]}" if rest else ""
    axes.set_title(f"dots: subjects; bars: sd over seeds{dashed}", fontsize=8)
    if others:
        axes.legend(fontsize=7, title=" / ".join(others), title_fontsize=7)


def _history(axes: "Axes", study: StudyResults) -> None:
    trials = [(trial, job.value or 0.0) for trial, job in finished(study)]
    best = np.maximum if (study.search or {}).get("direction", "maximize") == "maximize" else np.minimum
    xs, values = np.array([trial for trial, _ in trials]), np.array([value for _, value in trials])
    axes.plot(xs, values, "o", color=COLORS[0], alpha=0.7)
    axes.step(xs, best.accumulate(values), where="post", color=COLORS[1])
    axes.set_xlabel("trial")
    axes.set_ylabel(f"{study.metric} ({study.split})")
    axes.set_title("dots: trials; line: the best so far", fontsize=8)


def _importance(axes: "Axes", study: StudyResults, shares: Mapping[str, float]) -> None:
    names = list(shares)[::-1]
    axes.barh(names, [shares[name] for name in names], color=COLORS[0])
    axes.set_xlabel(f"share of the variance of {study.metric} (fANOVA, {len(finished(study))} trials)")
    axes.tick_params(axis="y", labelsize=7)


def _contour(axes: "Axes", study: StudyResults, first: str, second: str) -> None:
    """The values over the two parameters that matter most, between trials by triangles."""
    from matplotlib.tri import Triangulation

    trials = finished(study)
    values = np.array([job.value for _, job in trials], np.float64)
    xs, x_ticks = _places([job.labels[first] for _, job in trials], _is_log(study, first))
    ys, y_ticks = _places([job.labels[second] for _, job in trials], _is_log(study, second))
    spread = min(len(set(xs)), len(set(ys)))
    if spread > 2 and np.linalg.matrix_rank(np.stack([xs - xs.mean(), ys - ys.mean()])) == 2:
        axes.tricontourf(Triangulation(xs, ys), values, levels=12, cmap="viridis", alpha=0.6)
    drawn = axes.scatter(xs, ys, c=values, cmap="viridis", edgecolors="black", linewidths=0.5)
    best = [index for index, (trial, _) in enumerate(trials) if trial == better_first(study)[0][0]]
    axes.plot(xs[best], ys[best], "*", color=COLORS[1], markersize=12)
    axes.figure.colorbar(drawn, ax=axes, label=study.metric)
    for name, ticks, setter in ((first, x_ticks, axes.set_xticks), (second, y_ticks, axes.set_yticks)):
        if ticks:
            setter(range(len(ticks)), ticks)
        (axes.set_xlabel if name == first else axes.set_ylabel)(name + (" (log10)" if _is_log(study, name) else ""))
    axes.set_title("dots: trials; star: the best", fontsize=8)


def _places(values: Sequence[Any], log: bool) -> tuple[np.ndarray[Any, np.dtype[np.float64]], list[str]]:
    """Where values lie on an axis, and the texts of its ticks where they are no numbers."""
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        found = np.array(values, np.float64)
        return (np.log10(found) if log else found), []
    texts = sorted({str(value) for value in values})
    return np.array([texts.index(str(value)) for value in values], np.float64), texts


def _is_log(study: StudyResults, name: str) -> bool:
    if name not in parameters(study):
        return False
    return bool((study.search or {})["space"][name].get("log", False))


def _drawn(draw: Mapping[str, Callable[[Any], None]], output: Path, warnings: Sequence[str]) -> dict[str, Path]:
    figures = {}
    for name, fill in draw.items():
        with figure() as canvas:
            fill(canvas.subplots())
            figures[name] = save(canvas, output, name, warnings)
    return figures
