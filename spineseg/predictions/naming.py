"""Names for the objects of a scan: the labelling of those that are vertebrae, and crumbs that follow them."""

import numpy as np
from numpy.typing import NDArray

from spineseg.geometry import Affine, label_counts
from spineseg.metrics.identification import CRUMB_ML, CRUMB_SHARE
from spineseg.predictions.columns import Floats
from spineseg.predictions.labelling import DEFAULTS, LabelledSequence, LabellingSettings, label_sequence
from spineseg.predictions.labelling import object_centres_mm as centres_mm


def most_probable(distributions: Floats, classes: tuple[int, ...]) -> NDArray[np.int64]:
    """The level (N,) that each object's distribution (N, K) gives most, each object for itself."""
    names: NDArray[np.int64] = np.asarray(classes, np.int64)[distributions.argmax(axis=1)]
    return names


def name_objects(
    objects: NDArray[np.integer],
    affine: Affine,
    distributions: Floats,
    classes: tuple[int, ...],
    settings: LabellingSettings = DEFAULTS,
) -> LabelledSequence:
    """Name objects by the path of least cost over levels (``labelling.label_sequence``).

    Crumbs, smaller than 0.5 ml or 5 % of the median object (PROTOCOL 1.5), are no part of the path: each gets the level
    that the nearest object got which was called as it was, or keeps its name where there is none, and is as sure as
    its distribution.

    Args:
        objects: (X, Y, Z), numbers 1 to N; one that no voxel bears counts as a crumb.
        affine: voxel → mm.
        distributions: (N, K).
        classes: K canonical ids.
        settings: prices.

    Raises:
        DataError: as ``label_sequence``.
    """
    n = len(distributions)
    centres = np.full((n, 3), np.nan)
    known = centres_mm(objects, affine)
    centres[: len(known)] = known
    volume = label_counts(objects, n + 1)[1:] * abs(float(np.linalg.det(affine[:3, :3]))) / 1000
    whole = np.isfinite(centres[:, 0])
    if whole.any():
        whole &= volume >= max(CRUMB_ML, CRUMB_SHARE * float(np.median(volume[whole])))
    if not whole.any():
        whole = np.isfinite(centres[:, 0])
    sequence = label_sequence(distributions[whole], centres[whole], classes, settings)
    called = most_probable(distributions, classes)
    levels, sure = called.copy(), distributions.max(axis=1, initial=0.0)
    levels[whole], sure[whole] = sequence.levels, sequence.confidences
    for crumb in np.flatnonzero(~whole):
        alike = np.flatnonzero(whole & (called == called[crumb]))
        if len(alike):
            apart = np.linalg.norm(centres[alike] - centres[crumb], axis=1)
            levels[crumb] = levels[alike[int(np.nan_to_num(apart).argmin())]]
    return LabelledSequence(levels, sure, sequence.cost)
