"""Tables of comparisons: paired differences, spread over seeds and subjects, ranks; and the list of runs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from spineseg.metrics.protocol_table import COLUMNS, EvaluatedModel, protocol_table
from spineseg.metrics.protocols import ROWS_FILE
from spineseg.reporting.cells import NOT_APPLICABLE, Cell, number, p_value, plain
from spineseg.reporting.comparisons import POOLED, PRIMARY, SECONDARY, Pair, is_oracle, rank_models
from spineseg.reporting.models import ScoredModel
from spineseg.reporting.runs import ScoredRun, Table
from spineseg.reporting.tables import MODEL, Rows, table_of

ENDPOINTS: Final = {
    "dice": "Dice",
    "id_case": "id of subjects",
    "dice_spine": "Dice, whole spine",
    "nsd": "NSD 2 mm",
    POOLED: "mAP50",
}


def pair_table(models: Sequence[ScoredModel], pairs: Sequence[Pair]) -> Table:
    """Paired differences with intervals; p-values of primary endpoints where PROTOCOL 8 allows a test."""
    rows: Rows = []
    for pair in pairs:
        found, primary = pair.found, pair.endpoint in PRIMARY
        ends = "" if found.ends.low is None else f" [{found.ends.low:+.3f}, {found.ends.high:+.3f}]"
        student = found.student
        beside = f"; t [{student.low:+.3f}, {student.high:+.3f}]" if found.ends.method == "bca" and student.low else ""
        rows.append(
            {
                "First": plain(pair.first),
                "Second": plain(pair.second),
                "Endpoint": plain(ENDPOINTS[pair.endpoint]),
                "Kind": plain("primary" if primary else "secondary"),
                "n": Cell(str(found.n), found.n),
                "First − second": plain("–")
                if np.isnan(found.mean)
                else Cell(f"{found.mean:+.3f}{ends}", found.mean, found.ends.low, found.ends.high, n=found.n),
                "Interval": plain(f"{found.ends.method}{beside}"),
                "sd": number(found.sd),
                "MDE": number(found.mde),
                "p": p_value(found.p),
                "p, Holm": p_value(pair.adjusted),
                "Claimed": plain("yes" if pair.claimed else f"no: {pair.reason}" if pair.reason else "–"),
            }
        )
    notes = (
        "Subjects are the unit; seeds are averaged inside them. sd: of the subjects' differences. MDE: least true "
        "difference that a paired t-test of so many subjects would find with 80 % power at that sd.",
        "p: exact sign-flip test, primary endpoints only, none below 6 subjects (7 with three or more models); Holm "
        "over the pairs of an endpoint. Claimed: p < 0.05 by Holm and more than 2 · sd_seed · √(2/k) of k ≥ 3 seeds.",
        "mAP50 pools slices: its interval draws or leaves out subjects, the same for both models.",
    )
    return table_of("comparisons", models, "Paired differences", rows, notes)


def variation_table(models: Sequence[ScoredModel]) -> Table:
    """Spread over seeds and spread over subjects, which are not the same thing."""
    rows: Rows = []
    for model in models:
        row = {MODEL: plain(model.name), "Seeds": Cell(str(len(model.seeds)), len(model.seeds))}
        if not model.trained:
            row["Seeds"] = plain("–")
        row["Folds"] = Cell(str(len(model.folds)), len(model.folds)) if model.folds else plain("–")
        for name in (*PRIMARY, *SECONDARY):
            row[f"{ENDPOINTS[name]}, sd_seed"] = number(model.sd_seed(name), 4)
            row[f"{ENDPOINTS[name]}, sd_subject"] = number(model.sd_subject(name), 4)
        rows.append(row)
    notes = (
        "sd_seed: of the seeds' means over subjects (noise of a rerun); sd_subject: of the subjects' means over seeds. "
        "Folds are pooled: a standard deviation over folds is no error bar.",
    )
    return table_of("variation", models, "Spread", rows, notes)


def rank_table(models: Sequence[ScoredModel]) -> Table | None:
    """Friedman's test with Nemenyi's critical difference; None where PROTOCOL 8 does not allow it."""
    rows: Rows = []
    for endpoint in PRIMARY:
        ranked = rank_models(models, endpoint)
        if ranked is None:
            continue
        names, found = ranked
        for name, rank in zip(names, found.ranks, strict=True):
            rows.append(
                {
                    "Endpoint": plain(ENDPOINTS[endpoint]),
                    MODEL: plain(name),
                    "Mean rank": number(rank, 2),
                    "Critical difference": number(found.critical_difference, 2),
                    "Friedman χ²": number(found.statistic, 2),
                    "p": p_value(found.p),
                }
            )
    if not rows:
        return None
    notes = ("Rank 1 is best. Descriptive: Friedman's test, Nemenyi's critical difference at 5 %.",)
    return table_of("ranks", models, "Ranks", rows, notes)


def protocols_table(models: Sequence[ScoredModel]) -> Table | None:
    """The same predictions under other tools' rules, with reversals; None where an evaluation did not keep them."""
    folders = [run.evaluation for model in models for run in model.runs]
    if not all((folder / ROWS_FILE).is_file() for folder in folders):
        return None
    # An oracle has seen the reference: it takes part in no ranking.
    models = [model for model in models if not is_oracle(model)]
    if not models:
        return None
    evaluated = [EvaluatedModel(model.name, model.results, _folds_of_seeds(model)) for model in models]
    found = protocol_table(evaluated)
    names = [model.name for model in models]
    values, ranks = (part.loc[names].to_dict("list") for part in (found.values, found.ranks))
    rows: Rows = []
    for column in COLUMNS:
        row = {"Rule": plain(column.name + ("" if column.rising else " (mm)"))}
        for name, value, rank in zip(names, values[column.name], ranks[column.name], strict=True):
            cell = number(float(value))
            if cell.value is None:
                row[name] = plain(NOT_APPLICABLE)
                continue
            reversed_here = " reversed" if found.marked(name, column.name) else ""
            shown = f" (rank {float(rank):.0f}{reversed_here})" if len(models) > 1 else ""
            row[name] = Cell(f"{cell.text}{shown}", cell.value)
        rows.append(row)
    notes = [
        "spineseg: this protocol; the others: the same predictions under their rules. reversed: this rule orders the "
        "model and another one otherwise than this protocol does."
    ]
    if len(models) > 1:
        notes.append(
            f"{len(found.reversals)} reversals against this protocol, {len(found.headline_reversals)} among the tools' "
            "own headlines."
        )
    return table_of("protocols", models, "Under other tools' rules", rows, notes)


def run_table(models: Sequence[ScoredModel]) -> Table:
    """Every run behind the tables, and what it was made of."""
    rows: Rows = [
        {
            MODEL: plain(model.name),
            "Run": plain(run.name),
            "Seed": _whole(run.seed),
            "Fold": _whole(run.fold),
            "Cases": _whole(run.summary.get("cases")),
            "Data": plain("SIMULATED" if run.simulated else "real"),
            "Commit": plain(_commit(run)),
            "Data hash": plain(str(run.provenance.get("data_hash", "–"))[:8]),
            "Split hash": plain(str(run.provenance.get("split_hash", "–"))[:8]),
            "Precision": plain(run.provenance.get("precision", "–")),
        }
        for model in models
        for run in model.runs
    ]
    return table_of("runs", models, "Runs", rows, ("A commit with + had uncommitted changes.",))


def _folds_of_seeds(model: ScoredModel) -> tuple[tuple[Path, ...], ...]:
    by_seed: dict[int | None, list[Path]] = {}
    for run in model.runs:
        by_seed.setdefault(run.seed, []).append(run.evaluation)
    return tuple(tuple(folders) for folders in by_seed.values())


def _whole(value: int | None) -> Cell:
    return plain("–") if value is None else Cell(str(value), value)


def _commit(run: ScoredRun) -> str:
    state = run.provenance.get("git") or {}
    return f"{str(state['commit'])[:8]}{'+' * bool(state.get('changed'))}" if state.get("commit") else "–"
