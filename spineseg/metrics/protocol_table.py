"""The protocols table: the same predictions under every tool's rules, models ranked under each, reversals marked."""

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from spineseg.data.files import write_text
from spineseg.errors import DataError
from spineseg.metrics import PROTOCOL
from spineseg.metrics.evaluation_tables import in_cell
from spineseg.metrics.protocol_coco import coco_results
from spineseg.metrics.protocol_rules import RULES
from spineseg.metrics.protocols import ProtocolCases, pool_cases, read_protocol_cases

OWN: Final = "spineseg"
TABLE_NAME: Final = "protocols"
# Values closer than this are one rank: what sums in another order leave.
_EQUAL: Final = 1e-9


@dataclass(frozen=True)
class Column:
    """A number under one rule.

    Attributes:
        tool: whose rule.
        metric: its name there.
        family: columns of one family measure the same thing; the first of each is this protocol's.
        rising: whether more is better.
    """

    tool: str
    metric: str
    family: str
    rising: bool = True

    @property
    def name(self) -> str:
        """Heading: tool and metric."""
        return f"{self.tool} {self.metric}"


def _coco(mode: str, metric: str, family: str) -> Column:
    return Column("coco", f"{mode} {metric}", family)


def _tools(family: str) -> tuple[Column, ...]:
    return tuple(Column(rule.tool, rule.metric, family, rule.rising) for rule in RULES if rule.family == family)


_AREAS: Final = ("ap_small", "ap_medium", "ap_large")
COLUMNS: Final[tuple[Column, ...]] = (
    *(Column(OWN, "dice", "dice"), *_tools("dice")),
    *(Column(OWN, "nsd", "nsd"), *_tools("nsd")),
    *(Column(OWN, "hd95", "hd95", rising=False), *_tools("hd95")),
    *(Column(OWN, "id", "id"), *_tools("id")),
    *(Column(OWN, "mask_map50", "ap50"), _coco("instance", "ap50", "ap50"), _coco("component", "ap50", "ap50")),
    *(Column(OWN, "mask_map50_named", "ap50_named"), _coco("instance", "ap50_named", "ap50_named")),
    _coco("component", "ap50_named", "ap50_named"),
    *(Column(OWN, "mask_map50_95", "ap"), _coco("instance", "ap", "ap"), _coco("component", "ap", "ap")),
    *(_coco("instance", area, "ap") for area in _AREAS),
    *(Column(OWN, "mask_map50_95_named", "ap_named"), _coco("instance", "ap_named", "ap_named")),
    _coco("component", "ap_named", "ap_named"),
)
# What each tool's users would rank models by.
HEADLINES: Final = ("nnunet dice", "totalsegmentator dice", "verse dice", "monai dice", "coco instance ap_named")


@dataclass(frozen=True, eq=False)
class EvaluatedModel:
    """A model of the table.

    Attributes:
        name: as the table prints it.
        own: its numbers under this protocol, as ``results.json`` has them (metric → {"value": …}).
        seeds: for each seed the evaluation folders of its folds; a rule is applied to a seed's folds together.
    """

    name: str
    own: Mapping[str, Mapping[str, Any]]
    seeds: tuple[tuple[Path, ...], ...]

    @classmethod
    def of_folder(cls, name: str, folder: Path) -> "EvaluatedModel":
        """A model with one evaluation folder."""
        path = folder / "summary.json"
        if not path.is_file():
            raise DataError(f"{path}: no such file; `python -m spineseg.evaluate` writes it")
        return cls(name, json.loads(path.read_text(encoding="utf-8"))["metrics"], ((folder,),))


@dataclass(frozen=True)
class Reversal:
    """Two models that one rule puts in the other order than another rule of the same family.

    Attributes:
        column: the rule.
        against: the rule that it is compared with: this protocol's, or another tool's headline.
        better: the model that is better under ``against``.
        worse: the model that is better under ``column``.
    """

    column: str
    against: str
    better: str
    worse: str


@dataclass(frozen=True, eq=False)
class ProtocolTable:
    """Models under rules.

    Attributes:
        values: (models, columns), NaN where a rule does not apply.
        ranks: (models, columns), 1 the best, equal values the same; NaN likewise.
        reversals: within each family, of every rule against this protocol's.
        headline_reversals: among the headlines of the five tools, every pair of rules once.
    """

    values: pd.DataFrame
    ranks: pd.DataFrame
    reversals: tuple[Reversal, ...]
    headline_reversals: tuple[Reversal, ...]

    def marked(self, model: str, column: str) -> bool:
        """Whether a rule orders a model and some other one otherwise than this protocol does."""
        return any(r.column == column and model in (r.better, r.worse) for r in self.reversals)


def protocol_values(cases: ProtocolCases) -> dict[str, float]:
    """Numbers of a set of cases under all other tools' rules by column; NaN where a rule does not apply."""
    values = {}
    for rule in RULES:
        rows = cases.rows[(cases.rows["tool"] == rule.tool) & (cases.rows["metric"] == rule.metric)]
        values[rule.name] = rule.mean(rows) if cases.named and len(rows) else float("nan")
    return values | {f"coco {name}": value for name, value in coco_results(cases.detections, named=cases.named).items()}


def protocol_table(models: Sequence[EvaluatedModel]) -> ProtocolTable:
    """Put models under every rule, rank them and find the reversals.

    Args:
        models: of different names; seeds are averaged after a rule was applied to each.

    Raises:
        DataError: two models of one name, or an evaluation without ``protocols.csv``.
    """
    names = [model.name for model in models]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"two models are called {', '.join(twice)}; give each a name of its own")
    rows = {model.name: _values_of(model) for model in models}
    values = pd.DataFrame.from_dict(rows, orient="index", columns=[column.name for column in COLUMNS], dtype=np.float64)
    ranks = pd.DataFrame({column.name: _ranks(values[column.name], rising=column.rising) for column in COLUMNS})
    own = {column.family: column for column in reversed(COLUMNS)}  # the first of each family stays
    within = [
        reversal
        for column in COLUMNS
        if (base := own[column.family]) is not column
        for reversal in _reversals(ranks, column.name, base.name)
    ]
    among = [r for first, second in itertools.combinations(HEADLINES, 2) for r in _reversals(ranks, second, first)]
    return ProtocolTable(values, ranks, tuple(within), tuple(among))


def _values_of(model: EvaluatedModel) -> dict[str, float]:
    seeds = [protocol_values(pool_cases([read_protocol_cases(folder) for folder in folds])) for folds in model.seeds]
    found = {}
    for column in COLUMNS:
        if column.tool == OWN:
            value = model.own.get(column.metric, {}).get("value")
            found[column.name] = float("nan") if value is None else float(value)
        else:
            found[column.name] = float(np.mean([seed[column.name] for seed in seeds]))
    return found


def _ranks(values: pd.Series, *, rising: bool) -> pd.Series:
    steps = (values / _EQUAL).round()
    return steps.rank(method="min", ascending=not rising)


def _reversals(ranks: pd.DataFrame, column: str, against: str) -> list[Reversal]:
    """Pairs of models that both rules rank, each strictly, and in opposite orders."""
    both = ranks[[column, against]].dropna()
    found = []
    for (first, a), (second, b) in itertools.combinations(both.iterrows(), 2):
        if (a[against] - b[against]) * (a[column] - b[column]) < 0:
            pair = (str(first), str(second)) if a[against] < b[against] else (str(second), str(first))
            found.append(Reversal(column, against, *pair))
    return found


def as_markdown(table: ProtocolTable, *, simulated: bool) -> str:
    """The table as Markdown: a row a rule, a column a model, "value (rank)", ⇅ where the order is another's."""
    names = list(table.values.index)
    lines = [f"Protocol {PROTOCOL}{', SIMULATED data: descriptive only' if simulated else ''}.", ""]
    lines += [f"| rule | {' | '.join(map(in_cell, names))} |", f"|---|{'---:|' * len(names)}"]
    for column in COLUMNS:
        cells = (_cell(table, name, column.name) for name in names)
        heading = f"**{column.name}**" if column.tool == OWN else column.name
        lines.append(f"| {heading}{'' if column.rising else ' (mm)'} | {' | '.join(cells)} |")
    lines += ["", "In brackets the rank among the models. ⇅: another order than under the bold rule above it."]
    if len(names) > 1:
        lines += ["", *(_sentence(reversal) for reversal in table.reversals)]
        lines += [f"{len(table.headline_reversals)} reversals among the tools' headlines ({', '.join(HEADLINES)})."]
    return "\n".join(lines) + "\n"


def _cell(table: ProtocolTable, model: str, column: str) -> str:
    value, place = (float(part[column][model]) for part in (table.values, table.ranks))
    if not np.isfinite(value):
        return "n/a"
    rank = f" ({place:.0f})" if len(table.values) > 1 else ""
    return f"{value:.3f}{rank}{' ⇅' if table.marked(model, column) else ''}"


def _sentence(reversal: Reversal) -> str:
    return f"- {reversal.column} prefers {reversal.worse} to {reversal.better}, {reversal.against} the other way round."


def as_csv(table: ProtocolTable, *, simulated: bool) -> str:
    """The table in long form: model, tool, metric, family, value, rank, reversed, protocol, simulated."""
    rows = [
        {
            "model": name,
            "tool": column.tool,
            "metric": column.metric,
            "family": column.family,
            "value": table.values.loc[name, column.name],
            "rank": table.ranks.loc[name, column.name],
            "reversed": table.marked(name, column.name),
            "protocol": PROTOCOL,
            "simulated": simulated,
        }
        for name in table.values.index
        for column in COLUMNS
    ]
    return pd.DataFrame(rows).to_csv(index=False)


def write_protocol_table(folder: Path, table: ProtocolTable, *, simulated: bool) -> None:
    """Write ``protocols.csv`` and ``protocols.md`` into a folder of tables."""
    write_text(folder / f"{TABLE_NAME}.csv", as_csv(table, simulated=simulated))
    write_text(folder / f"{TABLE_NAME}.md", as_markdown(table, simulated=simulated))
