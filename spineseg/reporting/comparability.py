"""What has to be the same before two models stand in one table; an error names what is not."""

from collections.abc import Sequence

import pandas as pd

from spineseg.errors import DataError
from spineseg.metrics.detections_table import REFERENCE
from spineseg.metrics.summary import SplitScores
from spineseg.reporting.models import ScoredModel, listed
from spineseg.reporting.runs import ScoredRun

_SETTINGS = {
    "protocol": "the version of the protocol",
    "edge": "how levels cut by the field of view are scored (edge=)",
}


def check_comparable(models: Sequence[ScoredModel]) -> None:
    """Refuse to compare models that were not scored alike on the same cases.

    Raises:
        DataError: another protocol, edge rule or set of cases, other subjects or references, or a test subject that a
            model was trained on.
    """
    runs = [run for model in models for run in model.runs]
    for run in runs:
        _check_settings(runs[0], run)
        check_held_out(run)
    first = models[0]
    facts = reference_facts(next(iter(first.seeds.values())))
    for model in models[1:]:
        _check_facts(first.name, facts, model.name, reference_facts(next(iter(model.seeds.values()))))


def check_held_out(run: ScoredRun) -> None:
    """Refuse test scores of subjects that the run was trained on, unless it says so of itself (overfit).

    Raises:
        DataError: the subjects.
    """
    if run.split != "test" or run.provenance.get("overfit"):
        return
    scored = {
        f"{source}:{subject}" for source, subject in zip(run.metrics["source"], run.metrics["subject"], strict=True)
    }
    if seen := scored & set(run.provenance.get("train_subjects", ())):
        raise DataError(
            f"{run.evaluation}: {run.name} was trained on {listed(seen)}, which it is scored on; "
            "score it on subjects that it has not seen"
        )


def reference_facts(scores: SplitScores) -> pd.DataFrame:
    """What of each case depends on the reference alone: its subject, its levels and slice instances that count."""
    rows = scores.rows[(scores.rows["metric"] == "visible_levels") & (scores.rows["level"] == "")]
    cases = rows.drop_duplicates("case").set_index("case").sort_index()
    truth = scores.detections[(scores.detections["set"] == REFERENCE) & scores.detections["counted"]]
    instances = truth["case"].astype(str).value_counts()
    return pd.DataFrame(
        {
            "subject": cases["subject"],
            "levels": cases["value"],
            "slice instances": instances.reindex(cases.index, fill_value=0),
        }
    )


def _check_settings(first: ScoredRun, other: ScoredRun) -> None:
    for key, what in _SETTINGS.items():
        if first.summary[key] != other.summary[key]:
            raise DataError(
                f"{first.name} and {other.name} differ in {what}: {first.summary[key]} and {other.summary[key]}; "
                "evaluate both alike"
            )
    if first.split and other.split and first.split != other.split:
        raise DataError(
            f"{first.name} was scored on the split '{first.split}' and {other.name} on '{other.split}'; choose one"
        )


def _check_facts(first: str, facts: pd.DataFrame, other: str, found: pd.DataFrame) -> None:
    here, there = set(facts.index), set(found.index)
    if here != there:
        raise DataError(
            f"'{first}' and '{other}' were scored on different cases: only '{first}': {listed(here - there)}; only "
            f"'{other}': {listed(there - here)}; evaluate both on the same (subjects=<csv>), or report them apart"
        )
    for what in facts.columns:
        differing = facts.index[facts[what] != found[what]]
        if len(differing):
            case = differing[0]
            raise DataError(
                f"'{first}' and '{other}' were scored against different references: {what} of case '{case}' "
                f"{facts.loc[case, what]} and {found.loc[case, what]} ({len(differing)} of {len(facts)} cases differ); "
                "evaluate both against the same label maps"
            )
