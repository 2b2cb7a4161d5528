"""How well runs did on single cases: which cases are the worst, and which runs stand for their models there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from spineseg.reporting.runs import ScoredRun


@dataclass(frozen=True)
class CaseScore:
    """How well the runs did on a case: Dice by run name (a case's mean over levels), and their mean."""

    case: str
    source: str
    subject: str
    dice: Mapping[str, float]
    levels: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @property
    def mean(self) -> float:
        """Mean over the runs."""
        return float(np.mean(list(self.dice.values())))


def worst_cases(runs: Sequence["ScoredRun"], count: int) -> list[CaseScore]:
    """Return the cases with the lowest Dice, worst first: mean over levels (PROTOCOL 3), then over the runs.

    A run without names (one class) counts with its ``dice_spine``. Cases that more runs predicted come first, so that
    a mean over one weak model does not stand before one over all. Cases without reference levels have no Dice.

    Args:
        runs: of which each has ``metrics``, the rows of its ``metrics.csv``.
        count: how many cases at most.
    """
    dice: dict[tuple[str, str], dict[str, float]] = {}
    levels: dict[tuple[str, str], dict[str, dict[str, float]]] = {}
    subjects: dict[tuple[str, str], str] = {}
    for run in runs:
        rows = run.metrics[(run.metrics["space"] == "3d") & run.metrics["status"].isin(["ok", "missed"])]
        named = rows[(rows["metric"] == "dice") & (rows["level"] != "")]
        used = named if len(named) else rows[rows["metric"] == "dice_spine"]
        for (source, case, subject), group in used.groupby(["source", "case", "subject"]):
            key = (str(source), str(case))
            subjects[key] = str(subject)
            dice.setdefault(key, {})[run.name] = float(group["value"].mean())
            if len(named):
                values = {str(level): float(value) for level, value in zip(group["level"], group["value"], strict=True)}
                levels.setdefault(key, {})[run.name] = values
    scores = [
        CaseScore(case, source, subjects[source, case], by_run, levels.get((source, case), {}))
        for (source, case), by_run in dice.items()
    ]
    return sorted(scores, key=lambda score: (-len(score.dice), score.mean, score.source, score.case))[:count]


def shown_runs(
    named: Sequence[tuple[str, "ScoredRun"]], score: CaseScore
) -> tuple[list[tuple[str, "ScoredRun"]], list[str]]:
    """One run a model, the lowest seed, of those that scored the case; and what the other seeds are called.

    Args:
        named: all runs, each with the name of its model as in the tables.
        score: of the case.
    """
    having = [(model, run) for model, run in named if run.name in score.dice and _scored(run, score)]
    chosen: dict[str, ScoredRun] = {}
    for model, run in sorted(having, key=lambda each: (each[1].seed is not None, each[1].seed or 0)):
        chosen.setdefault(model, run)
    picked = [(model, run) for model, run in having if chosen[model] is run]
    others = [(model, run) for model, run in having if chosen[model] is not run]
    return picked, [run.name if run.seed is None else f"{model}, seed {run.seed}" for model, run in others]


def _scored(run: "ScoredRun", score: CaseScore) -> bool:
    """Whether a run has the case: its name alone may be another set's, as of a baseline that was scored on both."""
    return bool(((run.metrics["case"] == score.case) & (run.metrics["source"] == score.source)).any())
