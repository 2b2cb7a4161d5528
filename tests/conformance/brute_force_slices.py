"""Slice AP, precision, recall, F1 and PQ of one tiny case by plain loops (PROTOCOL 5); see brute_force.py."""

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from brute_force import Scored

IOUS = [0.5 + 0.05 * n for n in range(10)]


def scored_slices(count: int, spacing: float) -> list[int]:
    """Slices round(3 k ÷ spacing); all of them from 3 mm on."""
    if spacing >= 3:
        return list(range(count))
    return sorted({i for k in range(count) if (i := round(3 * k / spacing)) < count})


def hull(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Half-open box of a mask in a slice."""
    y, z = np.nonzero(mask)
    return int(y.min()), int(z.min()), int(y.max()) + 1, int(z.max()) + 1


def iou(kind: str, a: np.ndarray, b: np.ndarray) -> float:
    """IoU of two masks, or of their boxes."""
    if kind == "mask":
        return float((a & b).sum() / (a | b).sum())
    (a0, a1, a2, a3), (b0, b1, b2, b3) = hull(a), hull(b)
    common = max(0, min(a2, b2) - max(a0, b0)) * max(0, min(a3, b3) - max(a1, b1))
    return common / ((a2 - a0) * (a3 - a1) + (b2 - b0) * (b3 - b1) - common)


def match(one: "Scored", kind: str, named: bool, threshold: float) -> list[dict[str, Any]]:
    """Rows of all slices: detections with score, state (tp, fp, ignored) and IoU; references that count or not."""
    pixel = one.spacing[1] * one.spacing[2]
    rows: list[dict[str, Any]] = []
    shape = one.void.shape
    for x in scored_slices(shape[0], one.spacing[0]):
        truth = [(g, m[x]) for g, m in one.near_reference.items() if m[x].any()]
        found = [(p, m[x]) for p, m in one.near_prediction.items() if m[x].any()]
        counted = [g in one.v and m.sum() * pixel >= 50 for g, m in truth]
        rows += [{"kind": "reference", "level": g, "counted": c} for (g, _), c in zip(truth, counted, strict=True)]
        free = [True] * len(truth)
        # Falling score; of equals the more cranial first, whose label is the smaller.
        for p, mask in sorted(found, key=lambda item: -one.scores.get(item[0], 1.0)):
            best, value = None, 0.0
            for n, (g, other) in enumerate(truth):
                if p not in one.p or not free[n] or (named and p != g):
                    continue
                reached = iou(kind, mask, other)
                if reached >= min(threshold, 1 - 1e-10) and (
                    best is None or (counted[n], reached) >= (counted[best], value)
                ):
                    best, value = n, reached
            state = "fp" if p in one.p and mask.sum() * pixel >= 50 else "ignored"
            if best is not None:
                free[best] = False
                state = "tp" if counted[best] else "ignored"
            score = float(np.float32(one.scores.get(p, 1.0)))
            rows.append({"kind": "detection", "level": p, "score": score, "state": state, "iou": value})
    return rows


def average_precision(rows: list[dict[str, Any]]) -> float | None:
    """COCO's 101-point average precision; None without references."""
    total = sum(row["kind"] == "reference" and row["counted"] for row in rows)
    if not total:
        return None
    ranked = sorted((row for row in rows if row["kind"] == "detection"), key=lambda row: -row["score"])
    hits, misses, curve = 0, 0, []
    for row in ranked:
        hits, misses = hits + (row["state"] == "tp"), misses + (row["state"] == "fp")
        curve.append((hits / total, hits / (hits + misses) if hits + misses else 0.0))
    return sum(max((p for r, p in curve if r >= k / 100 - 1e-12), default=0.0) for k in range(101)) / 101


def slice_cells(one: "Scored") -> dict[str, Any]:
    """AP by shape, naming and IoU; counts and rates at mask IoU 0.5, agnostic."""
    cells: dict[str, Any] = {}
    for kind in ("mask", "box"):
        for named in (False, True):
            values = []
            for threshold in IOUS:
                rows = match(one, kind, named, threshold)
                levels = sorted({r["level"] for r in rows if r["kind"] == "reference" and r["counted"]})
                groups = [[r for r in rows if r["level"] == level] for level in levels] if named else [rows]
                found = [average_precision(group) for group in groups]
                known = [value for value in found if value is not None]
                values.append(sum(known) / len(known) if known else None)
            suffix = "_named" if named else ""
            cells[f"{kind}_map50{suffix}"] = values[0]
            cells[f"{kind}_map50_95{suffix}"] = None if values[0] is None else sum(values) / 10
    rows = match(one, "mask", False, 0.5)
    true = sum(row.get("state") == "tp" for row in rows)
    false = sum(row.get("state") == "fp" for row in rows)
    missed = sum(row["kind"] == "reference" and row["counted"] for row in rows) - true
    ious = sum(row["iou"] for row in rows if row.get("state") == "tp")
    return {
        **cells,
        "true_positives": true,
        "false_positives": false,
        "misses": missed,
        "precision": true / (true + false) if true + false else None,
        "recall": true / (true + missed) if true + missed else None,
        "f1": 2 * true / (2 * true + false + missed) if true + false + missed else None,
        "pq": ious / (true + false / 2 + missed / 2) if true + false + missed else None,
    }
