"""Dice and NSD against MONAI, where it shares the definition (NSD with ``use_subvoxels=True`` only)."""

import numpy as np
import pytest
import torch
from monai.metrics import DiceMetric, SurfaceDiceMetric
from scipy import ndimage

from spineseg.metrics.overlap import confusion
from spineseg.metrics.surface import nsd, surface_distances

SHAPE = (14, 16, 12)
pytestmark = pytest.mark.filterwarnings("ignore")  # of the other package, about empty classes


def blob(random: np.random.Generator, share: float) -> np.ndarray:
    field = ndimage.gaussian_filter(random.normal(size=SHAPE), 1.5)
    return np.asarray(field > np.quantile(field, 1 - share))


def at(*places: tuple[int, int, int]) -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    mask[tuple(np.array(places).T)] = True
    return mask


def pairs() -> list[tuple[np.ndarray, np.ndarray]]:
    random = np.random.default_rng(0)
    found = [(blob(random, share), blob(random, share)) for share in (0.02, 0.2, 0.5)]
    shape = blob(random, 0.2)
    found += [(shape, np.roll(shape, step, axis)) for axis, step in ((0, 1), (2, -2))]
    odd = [
        (at((5, 5, 5)), at((5, 5, 6))),  # touching
        (at((0, 0, 0)), at((13, 15, 11))),  # far apart, at the border
        (at((5, 5, 5)), at((5, 5, 5))),  # tiny, the same
        (at((4, 4, 4), (9, 9, 9)), at((4, 4, 4))),
    ]
    return [*found, *odd]


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 0.9, 2.5)])
def test_dice_and_nsd_are_monais(spacing: tuple[float, float, float]) -> None:
    reference, prediction = (np.stack(side) for side in zip(*pairs(), strict=True))
    one_hot = [torch.from_numpy(side[None].astype(np.float32)) for side in (prediction, reference)]
    theirs = DiceMetric(include_background=True, reduction="none")(*one_hot)[0].numpy()
    for n, (a, b) in enumerate(zip(reference, prediction, strict=True)):
        assert confusion(a.astype(np.uint8), b.astype(np.uint8)).dice_of(1) == pytest.approx(theirs[n], abs=1e-6)
    for tau in (0.8, 1.1, 2.0, 3.0):
        metric = SurfaceDiceMetric([tau] * len(reference), include_background=True, use_subvoxels=True)
        theirs = metric(*one_hot, spacing=spacing)[0].numpy()
        for n, (a, b) in enumerate(zip(reference, prediction, strict=True)):
            assert nsd(surface_distances(a, b, spacing), tau) == pytest.approx(theirs[n], abs=1e-6), (n, tau)
