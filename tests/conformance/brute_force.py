"""PROTOCOL 1.0 for one tiny case, as plainly as it reads and with nothing of spineseg: the kit's expected values.

Loops over voxels, levels and permutations; surfaces are DeepMind's surface-distance. `python brute_force.py` writes the
entry `expected` of every file in `cases/` anew; README.md says what the files hold.
"""

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

CASES = Path(__file__).parent / "cases"
POLICIES = ("ignore", "count", "crop")
ORDER = [*(f"C{n}" for n in range(1, 8)), *(f"T{n}" for n in range(1, 14)), *(f"L{n}" for n in range(1, 7)), "sacrum"]
TAUS = (1, 2, 3)
OVERLAP = ("dice", *(f"nsd tau={tau}" for tau in TAUS), "hd95", "assd")
Maps = dict[str, np.ndarray]  # level → mask (X, Y, Z)
Cells = dict[str, list[Any]]  # metric → [value or null, status]


def paint(shape: list[int], boxes: list[dict[str, Any]]) -> Maps:
    """Masks of the levels: boxes painted one after the other, later over earlier; level null clears."""
    names = np.full(shape, "", dtype="<U6")
    for box in boxes:
        names[tuple(slice(*ends) for ends in box["box"])] = box["level"] or ""
    return {level: names == level for level in ORDER if (names == level).any()}


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """2 |A ∩ B| ÷ (|A| + |B|)."""
    return 2 * int((a & b).sum()) / int(a.sum() + b.sum())


def best_matching(reference: Maps, prediction: Maps) -> dict[str, str]:
    """One-to-one pairs with the largest sum of Dice, all possibilities tried; pairs without overlap left out."""
    names = list(reference)
    options = [*prediction, *([None] * len(names))]
    best: tuple[float, dict[str, str]] = (-1.0, {})
    for choice in set(itertools.permutations(options, len(names))):
        pairs = {g: p for g, p in zip(names, choice, strict=True) if p is not None}
        total = sum(dice(reference[g], prediction[p]) for g, p in pairs.items())
        if total > best[0] + 1e-12:
            best = (total, pairs)
    return {g: p for g, p in best[1].items() if (reference[g] & prediction[p]).any()}


def body_centre(mask: np.ndarray, spacing: list[float], level: str) -> np.ndarray:
    """Centroid in mm of the largest 6-connected part of the voxels at least half as deep as the deepest; C1: of all."""
    if level != "C1":
        depth = ndimage.distance_transform_edt(np.pad(mask, 1), sampling=spacing)[1:-1, 1:-1, 1:-1]
        parts, count = ndimage.label(mask & (depth >= depth.max() / 2 - 1e-9))
        mask = parts == max(range(1, count + 1), key=lambda n: int((parts == n).sum()))
    return np.argwhere(mask).mean(axis=0) * spacing


def at_faces(mask: np.ndarray) -> bool:
    """Whether a mask has a voxel on a face of the volume."""
    return any(np.take(mask, end, axis).any() for axis in range(3) for end in (0, -1))


def heights(masks: list[np.ndarray], spacing: list[float]) -> tuple[float, float]:
    """Lowest and highest z in mm of some masks' voxel centres."""
    z = np.argwhere(np.any(masks, axis=0))[:, 2] * spacing[2]
    return float(z.min()), float(z.max())


class Scored:
    """A case under one edge policy: which levels count, what is left of the masks, and the metrics."""

    def __init__(self, case: dict[str, Any], policy: str) -> None:
        self.spacing = case["spacing_mm"]
        self.scores: dict[str, float] = case.get("scores", {})
        self.all_reference = paint(case["shape"], case["reference"])
        reference, prediction = dict(self.all_reference), paint(case["shape"], case["prediction"])
        cut = {g for g in reference if at_faces(reference[g])}
        if case.get("cut_levels") is not None:
            cut = set(case["cut_levels"])
        self.cut = cut
        dropped: set[str] = set()
        first = best_matching(reference, prediction)
        given = {first[g] for g in cut if g in first}
        self.void = np.zeros(case["shape"], bool)  # of the slab rule
        if reference and policy == "ignore":
            low, high = heights(list(reference.values()), self.spacing)
            dropped = set(given)
            for p in set(prediction) - set(first.values()):
                z = body_centre(prediction[p], self.spacing, p)[2]
                if at_faces(prediction[p]) or z < low - 1e-6 or z > high + 1e-6:
                    dropped.add(p)
        if reference and policy == "crop" and set(reference) - cut:
            low, high = heights([m for g, m in reference.items() if g not in cut], self.spacing)
            z = np.arange(case["shape"][2]) * self.spacing[2]
            self.void[:, :, (z < low - 1e-6) | (z > high + 1e-6)] = True
            for p, mask in prediction.items():
                inside = mask & ~self.void
                on_cut = sum(int((inside & m).sum()) for g, m in reference.items() if g in cut)
                on_uncut = sum(int((inside & m).sum()) for g, m in reference.items() if g not in cut)
                if inside.sum() < 0.3 * mask.sum() or (p in given and on_uncut <= on_cut):
                    dropped.add(p)
        self.ignored = [g for g in reference if g in cut] if policy != "count" else []
        self.v: Maps = {g: m & ~self.void for g, m in reference.items() if g not in self.ignored}
        self.p: Maps = {p: m & ~self.void for p, m in prediction.items() if p not in dropped}
        # What the confusion knows: everything inside the slab, ignored and dropped labels too.
        self.near_reference: Maps = {g: m & ~self.void for g, m in reference.items() if (m & ~self.void).any()}
        self.near_prediction: Maps = {p: m & ~self.void for p, m in prediction.items() if (m & ~self.void).any()}
        self.ml = math.prod(self.spacing) / 1000
        volumes = {p: int(m.sum()) * self.ml for p, m in self.p.items()}
        least = max(0.5, 0.05 * float(np.median(list(volumes.values())))) if volumes else 0.5
        self.volumes, self.crumbs = volumes, {p for p, ml in volumes.items() if ml < least}
        self.match = best_matching(self.v, self.p)

    def levels(self) -> dict[str, Cells]:
        """Cells of each level."""
        rows: dict[str, Cells] = {}
        for g in self.v:
            rows[g] = {**self._overlap(g), **self._place(g), **self._split(g)}
        for g in self.ignored:
            if g not in self.p:
                rows[g] = {metric: [None, "ignored"] for metric in OVERLAP}
        for p in self.p:
            if p not in self.v:
                zero = {metric: 0.0 if metric.startswith(("dice", "nsd")) else None for metric in OVERLAP}
                rows[p] = {metric: [value, "spurious"] for metric, value in zero.items()}
        return rows

    def _overlap(self, g: str) -> Cells:
        import surface_distance

        if g not in self.p:
            return {m: [0.0 if m.startswith(("dice", "nsd")) else None, "missed"] for m in OVERLAP}
        d = surface_distance.compute_surface_distances(self.v[g], self.p[g], self.spacing)
        both = surface_distance.compute_average_surface_distance(d)
        areas = [d["surfel_areas_gt"].sum(), d["surfel_areas_pred"].sum()]
        values = {"dice": dice(self.v[g], self.p[g])}
        values |= {f"nsd tau={t}": surface_distance.compute_surface_dice_at_tolerance(d, t) for t in TAUS}
        values |= {"hd95": surface_distance.compute_robust_hausdorff(d, 95), "assd": np.average(both, weights=areas)}
        return {metric: [float(value), "ok"] for metric, value in values.items()}

    def _away(self, g: str, p: str, rule: str) -> float:
        a = body_centre(self.all_reference[g], self.spacing, rule)
        return float(np.linalg.norm(a - body_centre(self.p[p], self.spacing, rule)))

    def is_identified(self, g: str) -> bool:
        """PROTOCOL 1.2."""
        if g not in self.p or g in self.crumbs:
            return False
        here = body_centre(self.p[g], self.spacing, g)
        away = {o: np.linalg.norm(body_centre(m, self.spacing, o) - here) for o, m in self.all_reference.items()}
        own = away.pop(g)
        return bool(own < 20 - 1e-9 and all(own < other - 1e-9 for other in away.values()))

    def _place(self, g: str) -> Cells:
        found = g in self.p and g not in self.crumbs
        match = self.match.get(g)
        free = match is not None and match not in self.crumbs
        status = "ok" if found else "missed"
        return {
            "centroid_error_mm": [self._away(g, g, g) if found else None, status],
            "identified": [float(self.is_identified(g)), status],
            "d_free_mm": [self._away(g, str(match), g) if free else None, "ok" if free else "missed"],
        }

    def terms(self, g: str) -> dict[str, float]:
        """PROTOCOL 6: naming, mixed, outline, missed."""
        named = dice(self.v[g], self.p[g]) if g in self.p else 0.0
        match = self.match.get(g)
        best = dice(self.v[g], self.p[match]) if match else 0.0
        terms = {"naming": best - named, "mixed": 0.0, "outline": 0.0, "missed": 0.0}
        if best < 0.1 or match is None:
            return {**terms, "missed": 1 - best}
        others = [m for p, m in self.near_prediction.items() if p != match]
        elsewhere = [m for r, m in self.near_reference.items() if r != g]
        mended = self.p[match].copy()
        for mask in others:
            mended |= self.v[g] & mask
        for mask in elsewhere:
            mended &= ~(self.p[match] & mask)
        after = dice(self.v[g], mended)
        return {**terms, "mixed": after - best, "outline": 1 - after}

    def steps(self, g: str) -> int | None:
        """Shift of a matched level; T13 and L6 are steps where the subject has them or they are asked for."""
        if (match := self.match.get(g)) is None:
            return None
        column = [o for o in ORDER if o not in ("T13", "L6") or o in self.all_reference or o in (g, match)]
        return column.index(match) - column.index(g)

    def _split(self, g: str) -> Cells:
        status = "ok" if g in self.p else "missed"
        cells: Cells = {f"error_{term}": [value, status] for term, value in self.terms(g).items()}
        moved = self.steps(g)
        return {**cells, "shift": [moved, "missed" if moved is None else "ok"]}

    def case(self) -> Cells:
        """Cells of the whole case."""
        status = "ok" if self.v else "empty"
        right = sum(self.is_identified(g) for g in self.v)
        predicted = len(set(self.p) - self.crumbs)
        placed = {self.match[g] for g in self.v if g in self.match and self.terms(g)["missed"] == 0}
        spurious = {p: ml for p, ml in self.volumes.items() if p not in placed and ml >= 0.5}
        rib = {"L1"} <= set(self.all_reference) - self.cut and {"T12", "T13"} & set(self.all_reference) - self.cut
        steps = [s for g in self.v if (s := self.steps(g)) is not None]
        most = max((steps.count(s) for s in steps if s), default=0)
        values = {
            "id": right / len(self.v) if self.v else None,
            "id_precision": right / predicted if predicted else None,
            "id_f1": 2 * right / (len(self.v) + predicted) if self.v or predicted else None,
            "all_right": float(right == len(self.v) and not set(spurious) - self.crumbs) if self.v else None,
            "identified_levels": right,
            "predicted_levels": predicted,
            "crumbs": len(self.crumbs),
            "anchored": float(bool(rib) or bool({"C2", "sacrum"} & set(self.all_reference))),
            "coherently_shifted": float(most > 0 and most >= 0.8 * len(self.v)),
            "dice_spine": self._spine() if self.v else None,
            "spurious_levels": len(spurious),
            "spurious_ml": sum(spurious.values()),
            "mixed_case": float(any(self._is_mixed(g) for g in self.v)) if self.v else None,
            "visible_levels": len(self.v),
        }
        return {metric: [value, status] for metric, value in values.items()}

    def _spine(self) -> float:
        void = np.any([m for g, m in self.near_reference.items() if g in self.ignored] or [self.void], axis=0)
        a = np.any(list(self.v.values()), axis=0)
        b = np.any(list(self.p.values()) or [np.zeros_like(void)], axis=0)
        return dice(a & ~void, b & ~void)

    def _is_mixed(self, g: str) -> bool:
        under = sorted(int((self.v[g] & m).sum()) for m in self.near_prediction.values())
        return len(under) > 1 and under[-2] >= 0.2 * int(self.v[g].sum())


def score(case: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """All metrics of a case by edge policy: cells of each level, of the case, and of its slices."""
    from brute_force_slices import slice_cells

    found = {}
    for policy in POLICIES:
        one = Scored(case, policy)
        found[policy] = {"levels": one.levels(), "case": one.case(), "slices": slice_cells(one)}
    return found


def rounded(value: Any) -> Any:
    """Floats to 9 decimals, NaN as null."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    if isinstance(value, float | np.floating):
        return None if math.isnan(value) else round(float(value), 9)
    return int(value) if isinstance(value, np.integer | bool) else value


def main() -> None:
    """Write the expected values of every case anew."""
    for path in sorted(CASES.glob("*.json")):
        case = json.loads(path.read_text())
        expected = rounded(score(case))
        lines = [f"  {json.dumps(k)}: {json.dumps(v, ensure_ascii=False)}," for k, v in case.items() if k != "expected"]
        parts = []
        for policy, cells in expected.items():
            rows = [f"        {json.dumps(k)}: {json.dumps(v)}" for k, v in cells["levels"].items()]
            levels = "{\n" + ",\n".join(rows) + "\n      }" if rows else "{}"
            rest = ",\n".join(f"      {json.dumps(k)}: {json.dumps(cells[k])}" for k in ("case", "slices"))
            parts.append(f'    {json.dumps(policy)}: {{\n      "levels": {levels},\n{rest}\n    }}')
        path.write_text("\n".join(["{", *lines, '  "expected": {', ",\n".join(parts), "  }", "}"]) + "\n")


if __name__ == "__main__":
    main()
