"""What ``summary.json`` says beside the headline numbers: other means, identification, localisation, errors."""

from typing import Any, Final

import numpy as np
import pandas as pd

from spineseg.metrics.case_rows import ERROR_TERMS, TOLERANCES_MM
from spineseg.metrics.localisation import error_summary
from spineseg.metrics.means import (
    case_mean,
    level_mean,
    level_means,
    per_subject_and_level,
    pooled,
    region_means,
    share_found,
)
from spineseg.metrics.pooling import named_levels
from spineseg.metrics.summary import SplitScores, metric_rows
from spineseg.vertebrae import LEVELS, level_name

MEAN_TABLES: Final = (("dice", ""), *(("nsd", f"tau={tau}") for tau in TOLERANCES_MM), ("identified", ""))


def mean_tables(scores: SplitScores, metric: str, parameter: str = "") -> dict[str, Any]:
    """All means of a level metric (PROTOCOL 3), without intervals; empty for one-class models."""
    rows = metric_rows(scores.rows, metric, parameter)
    if not scores.named or rows.empty:
        return {}
    mean, levels = level_mean(rows)
    return {
        "case_mean": _plain(case_mean(rows)),
        "level_mean": {"value": _plain(mean), "levels": list(levels)},
        "region": {name: _plain(value) for name, value in region_means(rows).items()},
        "pooled": _plain(pooled(rows)),
        "levels": level_means(rows),
    }


def named_level_list(scores: SplitScores) -> dict[str, Any]:
    """Levels of the named mAP, fixed by the reference; ``all_levels`` marks a split of fewer than 3 subjects."""
    if not scores.named:
        return {}
    levels, every = named_levels(scores.detections, scores.subjects)
    names = [level_name(level) if level in LEVELS else str(level) for level in levels]
    return {"levels": names, "all_levels": every}


def identification_table(scores: SplitScores) -> dict[str, Any]:
    """Identification in anchored scans (C2, the last rib or the sacrum in view) and in the others apart (PROTOCOL 1.7).

    Empty for one-class models.
    """
    if not scores.named:
        return {}
    cases = _case_values(scores, "identified_levels", "visible_levels", "predicted_levels", "crumbs", "anchored")
    groups = {"all": cases, "anchored": cases[cases["anchored"] == 1], "unanchored": cases[cases["anchored"] == 0]}
    return {name: _rates(group) for name, group in groups.items()}


def localisation_table(scores: SplitScores) -> dict[str, Any]:
    """Centroid errors by name, over the free matching, and of identified levels (PROTOCOL 2).

    The free matching is all that one-class models have.
    """
    free = metric_rows(scores.rows, "d_free_mm")
    table = {"d_free": _errors(free)}
    if not scores.named:
        return table
    errors = metric_rows(scores.rows, "centroid_error_mm")
    judged = metric_rows(scores.rows, "identified").set_index(["case", "level"])["value"]
    right = judged.reindex(pd.MultiIndex.from_frame(errors[["case", "level"]])).to_numpy() == 1
    # The levels that are not identified have no error here, so that the share found is the identification rate.
    only = errors.assign(value=errors["value"].where(right), status=np.where(right, "ok", "missed"))
    return {"d": _errors(errors), **table, "d_identified": _errors(only)}


def _errors(rows: pd.DataFrame) -> dict[str, float | None]:
    return error_summary(per_subject_and_level(rows)["value"], found=share_found(rows))


def error_table(scores: SplitScores) -> dict[str, Any]:
    """The exact split of 1 − Dice and what stands beside it (PROTOCOL 6).

    The terms need names, and so do shifts; spurious levels and mixed cases do not.
    """
    beside = _case_values(scores, "spurious_levels", "spurious_ml", "mixed_case")
    table: dict[str, Any] = {
        "cases": len(beside),
        "spurious_levels_per_case": _plain(float(beside["spurious_levels"].mean())),
        "spurious_ml_per_case": _plain(float(beside["spurious_ml"].mean())),
        "mixed_cases": int(beside["mixed_case"].sum()),
    }
    if not scores.named:
        return table
    split = {term: case_mean(metric_rows(scores.rows, f"error_{term}")) for term in ERROR_TERMS}
    steps = metric_rows(scores.rows, "shift")["value"].dropna().to_numpy(np.int64)
    shifts = zip(*(part.tolist() for part in np.unique(steps, return_counts=True)), strict=True)
    shifted = metric_rows(scores.rows, "coherently_shifted")
    return {
        "one_minus_dice": _plain(1 - case_mean(metric_rows(scores.rows, "dice"))),
        **{term: _plain(value) for term, value in split.items()},
        **table,
        "shift": {f"{step:+d}" if step else "0": count for step, count in shifts},
        "coherently_shifted_cases": int(shifted["value"].sum()),
    }


def _case_values(scores: SplitScores, *metrics: str) -> pd.DataFrame:
    """One row a case with a column for each case metric; cases without reference levels are in it."""
    rows = scores.rows[(scores.rows["level"] == "") & scores.rows["metric"].isin(metrics)]
    return rows.pivot(index="case", columns="metric", values="value").reindex(columns=list(metrics))


def _rates(cases: pd.DataFrame) -> dict[str, Any]:
    right, visible, predicted = (
        float(cases[name].sum()) for name in ("identified_levels", "visible_levels", "predicted_levels")
    )
    return {
        "cases": len(cases),
        "id": right / visible if visible else None,
        "id_precision": right / predicted if predicted else None,
        "levels": int(visible),
        "levels_per_case": visible / len(cases) if len(cases) else None,
        "crumbs": int(cases["crumbs"].sum()),
    }


def _plain(value: float) -> float | None:
    return value if np.isfinite(value) else None
