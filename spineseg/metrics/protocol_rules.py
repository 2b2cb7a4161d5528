"""The same label maps under other tools' rules: what each takes from a case, and how it makes one number of it.

Each rule is written from its tool's source. None knows an edge of the field of view (PROTOCOL 7): all labels count.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from spineseg.metrics.localisation import Bodies, common_box
from spineseg.metrics.overlap import Confusion
from spineseg.metrics.protocol_surface import image_ends, monai_hd95, simpleitk_hd95
from spineseg.metrics.surface import nsd, surface_distances
from spineseg.vertebrae import LEVELS, level_name

Family = Literal["dice", "nsd", "hd95", "id", "ap"]
Row = dict[str, Any]
TOTALSEGMENTATOR_TAU_MM: Final = 3.0
VERSE_NEAR_MM: Final = 20.0
_TOTALSEGMENTATOR_EPSILON: Final = 1e-6


@dataclass(frozen=True)
class Rule:
    """One number of one tool.

    Attributes:
        tool: whose rule it is.
        metric: its name.
        family: numbers of one family measure the same thing; models are ranked within it.
        mean: of the rule's rows (columns case, level, value) → the number; NaN without a value.
        text: the rule in a sentence.
        source: where it is written.
    """

    tool: str
    metric: str
    family: Family
    mean: Callable[[pd.DataFrame], float]
    text: str
    source: str

    @property
    def name(self) -> str:
        """Of its column."""
        return f"{self.tool} {self.metric}"

    @property
    def rising(self) -> bool:
        """Whether more is better."""
        return self.family != "hd95"


def mean_of_levels(rows: pd.DataFrame) -> float:
    """Mean over levels of the mean over the cases that have a value; NaN without a value.

    >>> rows = pd.DataFrame({"case": ["a", "a", "b"], "level": ["L1", "L2", "L1"], "value": [1.0, 0.0, 0.5]})
    >>> mean_of_levels(rows), mean_of_cases(rows), mean_of_all(rows)
    (0.375, 0.5, 0.5)
    """
    return float(rows.groupby("level", observed=True)["value"].mean().mean())


def mean_of_cases(rows: pd.DataFrame) -> float:
    """Mean over the cases that have a value of the mean over their levels; NaN without a value."""
    return float(rows.groupby("case", observed=True)["value"].mean().mean())


def mean_of_all(rows: pd.DataFrame) -> float:
    """Mean of all values; NaN without a value."""
    return float(rows["value"].mean())


RULES: Final = (
    Rule(
        *("nnunet", "dice", "dice", mean_of_levels),
        "Dice of every class that the reference or the prediction of a case holds, so that an invented level is a 0; "
        "mean over cases, then over classes. A class that a set never shows makes nnU-Net's mean NaN; it is left out.",
        "nnunetv2 2.8 evaluation/evaluate_predictions.py: compute_metrics, compute_metrics_on_folder (foreground_mean)",
    ),
    Rule(
        *("totalsegmentator", "dice", "dice", mean_of_levels),
        "Dice of the structures that the reference of a case holds, missed = 0; mean over cases, then over structures.",
        "TotalSegmentator resources/evaluate.py: calc_metrics",
    ),
    Rule(
        *("totalsegmentator", "nsd_3mm", "nsd", mean_of_levels),
        "NSD at 3 mm by surface-distance, where the reference holds the structure, missed = 0; mean over cases, then "
        "over structures. At the scan's own spacing; the tool's script writes the 1.5 mm of its own data.",
        "TotalSegmentator resources/evaluate.py: calc_metrics",
    ),
    Rule(
        *("verse", "dice", "dice", mean_of_all),
        "Dice of every reference vertebra, missed = 0; mean over all vertebrae of the set. On native voxels, where "
        "VerSe resamples both masks to 1 mm.",
        "anjany/verse utils/eval_utilities.py: compute_dice; VerSe 2019 and 2020, page 'Tasks'",
    ),
    Rule(
        *("verse", "id_verse_code", "id", mean_of_all),
        "Share of the reference vertebrae of the set that are identified: among the levels that both have, the "
        "predicted centre's nearest reference is that of its own name, at most 20 mm away. A level that only one side "
        "has can take nothing away. Centres are the protocol's body centres.",
        "anjany/verse utils/eval_utilities.py: get_hits",
    ),
    Rule(
        *("monai", "dice", "dice", mean_of_cases),
        "Dice of every class but the background that the reference of a case holds; mean over a case's classes, then "
        "over cases.",
        "monai 1.6 DiceMetric(include_background=False, ignore_empty=True, reduction='mean')",
    ),
    Rule(
        *("monai", "hd95", "hd95", mean_of_cases),
        "HD95 of border voxels, the larger of both directions' percentiles; a class that either side lacks is NaN and "
        "leaves the mean, so that a missed level costs nothing; mean over a case's classes, then over cases.",
        "monai 1.6 HausdorffDistanceMetric(percentile=95, reduction='mean') with spacing",
    ),
    Rule(
        *("simpleitk", "hd95", "hd95", mean_of_cases),
        "HD95 of contour voxels, one percentile of both directions together; means as MONAI's, for the tool has none.",
        "SimpleITK-Notebooks 34_Segmentation_Evaluation: LabelContour, SignedMaurerDistanceMap",
    ),
)


def label_map_rows(
    reference: Bodies, prediction: Bodies, pairs: Confusion, nsd_3mm: Mapping[int, float] | None = None
) -> Iterator[Row]:
    """Values of all rules of one case: tool, metric, level (a name) and value.

    Args:
        reference: label map of levels, canonical frame, whole.
        prediction: the same of the prediction, on the same grid.
        pairs: confusion of the two.
        nsd_3mm: NSD at 3 mm of levels for which it is known already.
    """
    spacing, shape = reference.volume.spacing_mm, reference.volume.shape
    centres = [
        {level: part.centre_mm(level, level=level) for level in part.boxes if level in other.boxes}
        for part, other in ((reference, prediction), (prediction, reference))
    ]
    hits = verse_hits(*centres)
    for level in sorted({*reference.boxes, *prediction.boxes}):
        value = pairs.dice_of(level)
        yield _row("nnunet", "dice", level, value)
        if level not in reference.boxes:
            continue
        found = level in prediction.boxes
        yield _row("verse", "dice", level, value)
        yield _row("monai", "dice", level, value)
        yield _row("totalsegmentator", "dice", level, totalsegmentator_dice(pairs, level))
        yield _row("verse", "id_verse_code", level, hits.get(level, False))
        if not found:
            yield _row("totalsegmentator", "nsd_3mm", level, 0.0)
            continue
        box = common_box(reference.boxes, level, prediction.boxes, level)
        a, b = (part.volume.array[box] == level for part in (reference, prediction))
        near = None if nsd_3mm is None else nsd_3mm.get(level)
        if near is None:
            near = nsd(surface_distances(a, b, spacing), TOTALSEGMENTATOR_TAU_MM)
        yield _row("totalsegmentator", "nsd_3mm", level, near)
        yield _row("monai", "hd95", level, monai_hd95(a, b, spacing))
        yield _row("simpleitk", "hd95", level, simpleitk_hd95(a, b, spacing, image_ends(box, shape)))


def totalsegmentator_dice(pairs: Confusion, level: int) -> float:
    """2 |A ∩ B| ÷ (|A| + |B| + 10⁻⁶) of a structure that the reference has; 0 where it is missed.

    >>> from spineseg.metrics.overlap import confusion
    >>> round(totalsegmentator_dice(confusion(np.array([1, 1, 0]), np.array([1, 0, 0])), 1), 6)
    0.666666
    """
    if level not in pairs.prediction_ids:
        return 0.0
    row, column = pairs.reference_ids.index(level) + 1, pairs.prediction_ids.index(level) + 1
    both = int(pairs.voxels[row].sum()) + int(pairs.voxels[:, column].sum())
    return 2 * int(pairs.voxels[row, column]) / (both + _TOTALSEGMENTATOR_EPSILON)


def verse_hits(reference_mm: Mapping[int, ArrayLike], predicted_mm: Mapping[int, ArrayLike]) -> dict[int, bool]:
    """Which levels VerSe's code calls identified; a level that one side lacks is in neither list.

    Of the levels in both, the predicted centre's nearest reference centre (of equals that of the lowest level number)
    is that of its own name, and at most 20 mm away.

    >>> reference = {20: (0, 0, 60), 21: (0, 0, 30), 22: (0, 0, 0)}
    >>> verse_hits(reference, {20: (0, 0, 40), 22: (0, 0, 21)})
    {20: True, 22: False}
    """
    levels = sorted(set(reference_mm) & set(predicted_mm))
    if not levels:
        return {}
    truth, found = (
        np.array([points[level] for level in levels], np.float64) for points in (reference_mm, predicted_mm)
    )
    apart = np.linalg.norm(found[:, None] - truth[None], axis=2)
    own = np.arange(len(levels))
    hit = (apart.argmin(axis=1) == own) & (apart[own, own] <= VERSE_NEAR_MM)
    return dict(zip(levels, hit.tolist(), strict=True))


def _row(tool: str, metric: str, level: int, value: float) -> Row:
    name = level_name(level) if level in LEVELS else str(level)
    return {"tool": tool, "metric": metric, "level": name, "value": float(value)}
