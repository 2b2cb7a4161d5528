"""Tables of what stands behind the headline: means, identification, centroid errors, error split, levels, subjects."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from spineseg.metrics.case_rows import ERROR_TERMS
from spineseg.metrics.means import level_means
from spineseg.metrics.summary import metric_rows
from spineseg.metrics.tables import error_table, identification_table, localisation_table, mean_tables
from spineseg.reporting.cells import NOT_APPLICABLE, Cell, median, number, plain, result
from spineseg.reporting.models import ScoredModel
from spineseg.reporting.runs import Table
from spineseg.reporting.tables import MODEL, Rows, table_of
from spineseg.vertebrae import ORDER, level_name

_REGIONS: Final = ("C", "T1-T6", "T7-T12", "L")


def dice_means(models: Sequence[ScoredModel]) -> Table:
    """Dice by every mean of PROTOCOL 3."""
    rows: Rows = []
    for model in models:
        means = mean_tables(model.pooled, "dice") if model.named else {}
        row = {MODEL: plain(model.name), "case_mean": result(model.results.get("dice"))}
        row["dice_union"] = result(model.results.get("dice_union"))
        if not means:
            row |= {name: plain(NOT_APPLICABLE) for name in ("level_mean", *_REGIONS, "pooled")}
        else:
            row["level_mean"] = number(means["level_mean"]["value"])
            row |= {name: number(means["region"][name]) for name in _REGIONS}
            row["pooled"] = number(means["pooled"])
        rows.append(row)
    notes = [
        "level_mean: levels with at least 3 subjects; regions by the case_mean rule; pooled: mean of all values, what "
        "most papers print; dice_union: spurious levels count 0."
    ]
    tables = [mean_tables(model.pooled, "dice") for model in models if model.named]
    # A named model whose levels are all cut has no means.
    if listed := [found["level_mean"]["levels"] for found in tables if found]:
        notes.append(f"Levels of level_mean: {', '.join(listed[0]) or 'none'}.")
    return table_of("dice_means", models, "Dice by its means", rows, notes)


def identification(models: Sequence[ScoredModel]) -> Table:
    """Identification rates, anchored scans apart, and centroid errors with the share of levels found."""
    rows: Rows = []
    for model in models:
        row = {MODEL: plain(model.name)}
        row |= {
            name: result(model.results.get(name)) for name in ("id", "id_case", "id_precision", "id_f1", "all_right")
        }
        row["visible levels"] = number(model.results.get("all_right", {}).get("levels"), 1)
        groups = identification_table(model.pooled)
        for name in ("anchored", "unanchored"):
            group = groups.get(name)
            levels = group["levels"] // len(model.seeds) if group else 0
            row[f"id, {name}"] = _share(group["id"], levels) if group else plain(NOT_APPLICABLE)
        row["d (mm)"] = median(model.results.get("centroid_error_mm"))
        row["d free (mm)"] = median(model.results.get("d_free_mm"))
        rows.append(row)
    notes = (
        "id pools levels over subjects, id_case averages subjects; all_right: every level identified, none spurious; "
        "visible levels: mean number in a case. Anchored: C2, the rib at T12/L1, or the sacrum in view.",
        "d: distance of body centres by name, over levels found; d free: by the matching without names.",
    )
    return table_of("identification", models, "Identification and localisation", rows, notes)


def localisation(models: Sequence[ScoredModel]) -> Table:
    """Centroid errors: median, mean and 95th percentile, always with the share found (PROTOCOL 2)."""
    rows: Rows = []
    for model in models:
        found = localisation_table(model.pooled)
        row = {MODEL: plain(model.name)}
        for name, heading in (("d", "by name"), ("d_free", "free"), ("d_identified", "identified")):
            errors: Mapping[str, Any] = found.get(name, {})
            for key, digits in (("median", 2), ("mean", 2), ("p95", 2), ("found", 3)):
                row[f"{heading}, {key}"] = number(errors.get(key), digits) if errors else plain(NOT_APPLICABLE)
        rows.append(row)
    notes = ("Identified: levels within 20 mm by construction, never alone. found: share of the reference levels.",)
    return table_of("localisation", models, "Centroid errors in mm", rows, notes)


def errors(models: Sequence[ScoredModel]) -> Table:
    """Where Dice is lost: the exact split, spurious levels and shifts."""
    rows: Rows = []
    for model in models:
        found, k = error_table(model.pooled), len(model.seeds)
        row = {MODEL: plain(model.name), "1 − Dice": number(found.get("one_minus_dice"))}
        for term in ERROR_TERMS:
            row[term] = result(model.results.get(f"error_{term}"))
        row["spurious levels a case"] = number(found["spurious_levels_per_case"], 2)
        row["spurious ml a case"] = number(found["spurious_ml_per_case"], 2)
        row["mixed cases"] = _share_of_cases(found["mixed_cases"], found["cases"], k)
        shifted = found.get("coherently_shifted_cases")
        row["shifted cases"] = plain(NOT_APPLICABLE) if shifted is None else _share_of_cases(shifted, found["cases"], k)
        if not model.named:
            row["1 − Dice"] = plain(NOT_APPLICABLE)
        rows.append(row)
    notes = ("1 − Dice = naming + mixed + outline + missed; shifted: 80 % of a case's levels off by the same step.",)
    return table_of("errors", models, "Error split", rows, notes)


def by_level(models: Sequence[ScoredModel], metric: str, heading: str) -> Table:
    """Mean over subjects of each level, one column a model (``metric`` of metrics.csv: dice or identified)."""
    named = [model for model in models if model.named]
    each = {model.name: level_means(metric_rows(model.rows, metric)) for model in named}
    rows: Rows = []
    for level in [level_name(level) for level in ORDER]:
        if any(level in means for means in each.values()):
            subjects = max(means[level]["subjects"] for means in each.values() if level in means)
            row = {"Level": plain(level), "Subjects": Cell(f"{subjects:.0f}", subjects)}
            row |= {name: number(means.get(level, {}).get("value")) for name, means in each.items()}
            rows.append(row)
    return table_of(f"levels_{metric}", models, f"{heading} by level", rows, ())


def by_subject(models: Sequence[ScoredModel], name: str, heading: str) -> Table:
    """Each subject's value, averaged over seeds, one column a model."""
    values = {model.name: model.values(name).mean(axis=1) for model in models if len(model.values(name))}
    subjects = sorted({str(subject) for column in values.values() for subject in column.index})
    rows: Rows = [
        {"Subject": plain(subject), **{model: number(column.get(subject)) for model, column in values.items()}}
        for subject in subjects
    ]
    return table_of(f"subjects_{name}", models, f"{heading} of each subject", rows, ("Seeds are averaged.",))


def _share(value: float | None, levels: int) -> Cell:
    if value is None:
        return Cell(f"– ({levels} levels)")
    return Cell(f"{value:.3f} ({levels} levels)", value, beside={"levels": levels})


def _share_of_cases(count: int, cases: int, seeds: int) -> Cell:
    per_seed = count / seeds
    return Cell(f"{per_seed:g} of {cases}" if seeds == 1 else f"{per_seed:.1f} of {cases // seeds}", per_seed)
