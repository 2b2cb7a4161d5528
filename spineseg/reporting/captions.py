"""What stands above a table and beside each row of its file: what it shows, of whom, by which rules."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from spineseg.metrics import PROTOCOL
from spineseg.reporting.standing import overfit_of, warnings_of

if TYPE_CHECKING:
    from spineseg.reporting.runs import ScoredRun


def caption_of(runs: Sequence["ScoredRun"], what: str, *, simulated: bool = False) -> str:
    """What, of whom, by which rules, behind what it must not be taken for.

    Args:
        runs: behind the table; what no run is left to say is left out.
        what: it shows; a whole sentence or its beginning.
        simulated: as in ``warnings_of``.
    """
    facts = facts_of_table(runs)
    people = {str(subject) for run in runs for subject in run.summary["subjects"]}
    parts = (
        f"{facts['split']} split" if facts["split"] else "",
        f"n = {len(people)} subjects" if people else "",
        f"edge = {facts['edge']}" if facts["edge"] else "",
        f"protocol {facts['protocol']}.",
    )
    rules = ", ".join(part for part in parts if part)
    joined = f"{what} {rules[:1].upper()}{rules[1:]}" if what.endswith((".", "?", "!")) else f"{what}: {rules}"
    return "".join(f"{warning}. " for warning in warnings_of(runs, simulated=simulated)) + joined


def facts_of_table(runs: Sequence["ScoredRun"], *, simulated: bool = False) -> dict[str, str]:
    """Constant columns of a table's CSV file: protocol, edge, split, and which data the numbers are of."""
    data = "SIMULATED" if simulated or any(run.simulated for run in runs) else "real"
    return {
        "protocol": next((str(run.summary["protocol"]) for run in runs), PROTOCOL),
        "edge": next((str(run.summary["edge"]) for run in runs), ""),
        "split": next((run.split for run in runs if run.split), ""),
        "data": f"{data}, OVERFIT check" if overfit_of(runs) else data,
    }
