"""What numbers may be taken for: the one rule of who is marked, ranked and tested, and what every output has to say."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from spineseg.reporting.runs import ScoredRun

# Sets that annotate parts of vertebrae: everything counts by default (PROTOCOL 7); elsewhere cut levels are ignored.
COUNTED_SOURCES: Final = ("kaggle", "ctspine1k")


def overfit_of(runs: Iterable["ScoredRun"]) -> str | None:
    """What every output says of runs that were trained and validated on one case alone; None where there is none."""
    cases = sorted({str(run.provenance["overfit"]) for run in runs if run.provenance.get("overfit")})
    return f"OVERFIT check on {', '.join(cases)}, no result" if cases else None


def warnings_of(runs: Sequence["ScoredRun"], *, simulated: bool = False) -> tuple[str, ...]:
    """What stands on each table, figure and page of some runs before anything else.

    Args:
        runs: behind it.
        simulated: whether simulated data is known to be in it, even if none of the runs says so.
    """
    overfit = overfit_of(runs)
    said = ["SIMULATED data"] if simulated or any(run.simulated for run in runs) else []
    return (*said, overfit) if overfit else tuple(said)


def why_descriptive(runs: Sequence["ScoredRun"], *, simulated: bool = False) -> str | None:
    """Why nothing of these runs is marked as the best, ranked or tested; None where that is allowed."""
    if simulated or any(run.simulated for run in runs):
        return "simulated data: descriptive only"
    if overfit_of(runs):
        return "overfit check: no result"
    return "training split: no result" if any(run.split == "train" for run in runs) else None


def why_untested(runs: Sequence["ScoredRun"], *, simulated: bool = False) -> str | None:
    """Why no endpoint is tested or ranked; None where that is allowed.

    Primary endpoints are those under the set's own rule of the field of view (PROTOCOL 8.6); under another one values
    may be marked all the same.
    """
    if refused := why_descriptive(runs, simulated=simulated):
        return refused
    for run in runs:
        for source in run.metrics["source"].unique():
            default = "count" if str(source).lower() in COUNTED_SOURCES else "ignore"
            if run.summary["edge"] != default:
                return f"edge = {run.summary['edge']}: primary endpoints of {source} are those of edge = {default}"
    return None
