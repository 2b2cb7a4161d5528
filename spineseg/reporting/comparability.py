"""What has to be the same before two models stand in one table; an error names what is not."""

from collections.abc import Iterator, Sequence

import pandas as pd

from spineseg.errors import DataError
from spineseg.metrics.detections_table import REFERENCE
from spineseg.metrics.summary import SplitScores
from spineseg.provenance import subjects_seen
from spineseg.reporting.models import ScoredModel, listed
from spineseg.reporting.runs import ScoredRun, scored_simulated

_SETTINGS = {
    "protocol": "the version of the protocol",
    "edge": "how levels cut by the field of view are scored (edge=)",
}


def check_comparable(models: Sequence[ScoredModel]) -> None:
    """Refuse to compare models, or to average seeds, that were not scored alike on the same cases.

    Raises:
        DataError: another protocol, edge rule, split, data set or set of cases, other subjects or references, or a
            subject that a model was trained on.
    """
    runs = [run for model in models for run in model.runs]
    for run in runs:
        _check_settings(runs[0], run)
        check_held_out(run)
    _check_splits(runs)
    for model in models:
        _check_one_data(model.name, model.runs)
    _check_scored_data(runs)
    (first, facts), *others = ((name, reference_facts(scores)) for name, scores in _each_seed(models))
    for name, found in others:
        _check_facts(first, facts, name, found)


def check_held_out(run: ScoredRun) -> None:
    """Refuse scores of subjects that the run was trained on, unless it says so of itself (overfit, training split).

    What `evaluate` scored has no split; what it was predicted with knows its training subjects all the same.

    Raises:
        DataError: the subjects.
    """
    if run.split == "train" or run.provenance.get("overfit"):
        return
    scored = {
        f"{source}:{subject}" for source, subject in zip(run.metrics["source"], run.metrics["subject"], strict=True)
    }
    if seen := scored & subjects_seen(run.provenance):
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


def _check_splits(runs: Sequence[ScoredRun]) -> None:
    """Runs without a split are compared by their cases alone; between the others all have to name the same."""
    known = [run for run in runs if run.split]
    for run in known[1:]:
        if run.split != known[0].split:
            raise DataError(
                f"{known[0].name} was scored on the split '{known[0].split}' and {run.name} on '{run.split}'; choose "
                "one"
            )


def _check_one_data(name: str, runs: Sequence[ScoredRun]) -> None:
    """Seeds and folds of a row were trained on one data set: where it lies is free, what it holds is not."""
    hashed = [run for run in runs if run.provenance.get("data_hash")]
    for run in hashed[1:]:
        _check_hash(f"model '{name}': ", hashed[0], run)
    for run in runs[1:]:
        if run.simulated != runs[0].simulated:
            _refuse_mixture(f"model '{name}': ", runs[0], run)


def _check_scored_data(runs: Sequence[ScoredRun]) -> None:
    """All scores are of one data set. A network may come from elsewhere, so only what was scored is compared."""
    # A run's own split was scored on the data that it knows the hash of.
    hashed = [run for run in runs if run.root is not None and run.split and run.provenance.get("data_hash")]
    for run in hashed[1:]:
        _check_hash("", hashed[0], run)
    known = [run for run in runs if scored_simulated(run) is not None]
    for run in known[1:]:
        if scored_simulated(run) != scored_simulated(known[0]):
            _refuse_mixture("", known[0], run)


def _check_hash(prefix: str, first: ScoredRun, other: ScoredRun) -> None:
    here, there = (str(run.provenance["data_hash"]) for run in (first, other))
    if here != there:
        raise DataError(
            f"{prefix}{first.name} and {other.name} were made on different data (data_hash {here[:12]}… and "
            f"{there[:12]}…); report them apart, or train both on the same prepared data"
        )


def _refuse_mixture(prefix: str, first: ScoredRun, other: ScoredRun) -> None:
    one, another = (first, other) if first.simulated else (other, first)
    raise DataError(f"{prefix}{one.name} is of simulated data and {another.name} of real data; report them apart")


def _each_seed(models: Sequence[ScoredModel]) -> Iterator[tuple[str, SplitScores]]:
    """Every seed's scores with a name for messages: the model's, and of several seeds the runs of this one."""
    for model in models:
        for seed, scores in model.seeds.items():
            of_seed = {run.name for run in model.runs if str(run.seed) == seed}
            beside = f", seed {seed} ({listed(of_seed, 2)})" if len(model.seeds) > 1 else ""
            yield f"{model.name}{beside}", scores


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
