"""Which cases to leave out, proposed by the audit: from images and masks alone, never from a prediction."""

from collections.abc import Sequence
from typing import Final

from spineseg.data.audit import AUDIT_RULES, Report
from spineseg.data.exclusions import Exclusion

# Kinds of findings that make a case's truth doubtful, and what a row says of them. The others (crumbs, fragments,
# padding, file names, class lists, scanners' air) leave the truth as it is.
REASONS: Final[dict[str, str]] = {
    "mixed": "vertebrae are mixed",
    "apart": "a level lies in two places",
    "size": "a vertebra bears parts of two names",
    "distance": "a vertebra has no name, or two",
    "shifted": "names are shifted along the spine",
    "order": "levels are not in order along the spine",
    "gap": "a level is missing between its neighbours",
    "touch": "levels touch that are no neighbours",
    "flipped": "the mask is mirrored against its image",
    "displaced": "the mask does not lie on its image",
    "bone": "the mask does not lie on bone",
    "empty": "the mask is empty",
    "duplicate": "another image has the same mask",
}


def propose(reports: Sequence[Report]) -> list[Exclusion]:
    """Propose exclusions from what the audit found in images and masks, by ``REASONS``; a person decides.

    Args:
        reports: of all cases, with what only all together show (``across_cases``).

    Returns:
        A row for each case that cannot be used or whose truth is doubtful, in the order of the reports.
    """
    rows = []
    for report in reports:
        fatal = tuple(message.replace(";", ",") for message in report.fatal)
        found = report.case.findings if report.case is not None else ()
        doubtful = [(finding, _kind(finding)) for finding in found if _kind(finding) in REASONS]
        reasons = ["it cannot be used"] * bool(fatal) + [REASONS[kind] for _, kind in doubtful]
        if reasons:
            said = f"audit: {', '.join(dict.fromkeys(reasons))}"
            findings = (*fatal, *(finding for finding, _ in doubtful))
            rows.append(Exclusion(report.id, said, findings, f"spineseg prepare, audit rules {AUDIT_RULES}"))
    return rows


def _kind(finding: str) -> str:
    """What a finding is about: the word before its colon; one subject's repeated scan is no fault of a truth."""
    return "" if finding.startswith("duplicate: same image") else finding.partition(":")[0]
