"""Several models as one: with itself a model stays what it is, and two others average as by hand."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from spineseg.data.normalization import Normalization
from spineseg.errors import ConfigError
from spineseg.predictions.ensembles import FromHounsfield, MeanProbabilities, pool
from spineseg.predictions.instances import SliceInstances, from_masks, nms_keep
from spineseg.predictions.masks import decode
from spineseg.runs import Run
from spineseg.trained import TrainedModel, _check_alike, load_models


class Scaled(nn.Module):
    """Logits that are known: the image times a factor a class."""

    def __init__(self, factors: list[float]) -> None:
        super().__init__()
        self.factors = nn.Parameter(torch.tensor(factors))

    def forward(self, images: Tensor) -> Tensor:
        return images * self.factors.view(1, -1, *[1] * (images.ndim - 2))


def test_a_network_with_itself_gives_its_own_logits() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv3d(1, 5, 3, padding=1), nn.ReLU(), nn.Conv3d(5, 4, 1)).eval()
    images = torch.randn(2, 1, 6, 7, 8) * 30  # some probabilities far below what float32 holds
    for count in (1, 2, 3, 5):
        assert torch.equal(MeanProbabilities([net] * count)(images), net(images))


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_softmax_is_the_mean_of_the_members(order: tuple[int, ...]) -> None:
    nets: list[nn.Module] = [Scaled([0.0, 1.0, -2.0]), Scaled([0.5, -1.0, 3.0]), Scaled([-30.0, 4.0, 90.0])]
    images = torch.randn(2, 1, 5, 4, generator=torch.Generator().manual_seed(1))
    found = MeanProbabilities([nets[i] for i in order])(images).softmax(dim=1)
    by_hand = torch.stack([net(images).softmax(dim=1) for net in nets]).mean(dim=0)
    torch.testing.assert_close(found, by_hand, rtol=1e-4, atol=1e-6)
    assert torch.isfinite(MeanProbabilities(nets)(images * 100)).all()


def test_members_normalise_hounsfield_units_as_they_were_taught() -> None:
    hu = np.arange(-1500, 2500, 7, dtype=np.int16).reshape(1, 1, -1)
    wide = Normalization(-1024.0, 2000.0, 0.0, 1.0)
    for own in (Normalization(-1000, 1000, 0, 500), Normalization(-1024, 2000, 133.7, 271.3)):
        found = FromHounsfield(nn.Identity(), own)(torch.from_numpy(wide(hu)))
        np.testing.assert_allclose(found.detach().numpy(), own(hu), rtol=0, atol=1e-6)


def detections(seed: int, *, named: bool = True) -> SliceInstances:
    """Boxes that a class-wise suppression leaves, with masks inside and tied scores among them."""
    random = np.random.default_rng(seed)
    corner = random.integers(0, 20, (12, 2))
    boxes = np.hstack([corner, corner + random.integers(3, 12, (12, 2))]).astype(np.float64)
    levels, scores = random.choice([19, 20], 12), random.choice([0.2, 0.5, 0.9], 12)
    kept = [
        i
        for level in (19, 20)
        for i in np.flatnonzero(levels == level)[nms_keep(boxes[levels == level], scores[levels == level])]
    ]
    masks = np.zeros((len(kept), 32, 32), bool)
    for mask, (y0, z0, y1, z1) in zip(masks, boxes[kept].astype(int), strict=True):
        mask[y0:y1, z0:z1] = random.random((y1 - y0, z1 - z0)) < 0.8
        mask[y0, z0] = True
    return from_masks(
        3,
        masks,
        scores[kept],
        levels=levels[kept] if named else None,
        boxes=boxes[kept],
        probabilities=random.dirichlet([1, 1], len(kept)).astype(np.float32) if named else None,
        classes=(19, 20) if named else (),
    )


@given(st.integers(0, 2**32 - 1), st.booleans(), st.sampled_from([1, 2, 4]))
@settings(max_examples=40, deadline=None)
def test_detections_with_themselves_are_themselves(seed: int, named: bool, count: int) -> None:
    alone = detections(seed, named=named)
    if not named:  # one class: suppressed as one
        alone = alone.take(np.sort(nms_keep(alone.boxes, alone.scores)))
    alone = alone.take(np.argsort(-alone.scores, kind="stable"))
    found = pool([alone] * count)
    assert found.masks == alone.masks and found.classes == alone.classes
    np.testing.assert_array_equal(found.scores, alone.scores)
    np.testing.assert_array_equal(found.levels, alone.levels)
    np.testing.assert_array_equal(found.boxes, alone.boxes)
    if named:
        np.testing.assert_array_equal(found.probabilities, alone.probabilities)


def one(box: tuple[int, int, int, int], score: float, level: int, belief: list[float]) -> SliceInstances:
    mask = np.zeros((1, 20, 20), bool)
    mask[0, box[0] : box[2], box[1] : box[3]] = True
    return from_masks(0, mask, [score], levels=[level], probabilities=np.array([belief], np.float32), classes=(19, 20))


def test_what_all_find_is_averaged_and_outvoted_pixels_go() -> None:
    found = pool(
        [
            one((0, 0, 10, 10), 0.9, 19, [0.8, 0.2]),
            one((0, 0, 10, 9), 0.6, 19, [0.6, 0.4]),
            one((0, 0, 9, 10), 0.3, 19, [0.1, 0.9]),
        ]
    )
    assert found.scores == pytest.approx([0.6]) and found.levels.tolist() == [19]
    assert found.probabilities == pytest.approx(np.array([[0.5, 0.5]]), abs=1e-6)
    assert found.boxes == pytest.approx(np.array([[0, 0, 29 / 3, 29 / 3]]))
    expected = np.zeros((20, 20), bool)
    expected[:10, :9] = expected[:9, :10] = True
    np.testing.assert_array_equal(decode(found.masks[0]), expected)


def test_what_one_of_two_finds_scores_half_and_ties_are_the_best_ones() -> None:
    first, second = one((0, 0, 10, 10), 0.9, 19, [1, 0]), one((0, 0, 10, 9), 0.5, 19, [1, 0])
    assert pool([second, first]).masks == first.masks
    apart = pool([first, one((10, 10, 20, 20), 0.5, 19, [1, 0])])
    assert apart.scores == pytest.approx([0.45, 0.25])
    assert apart.masks[0] == first.masks[0]
    nothing = first.take([])
    assert pool([nothing, first]).scores == pytest.approx([0.45])
    assert len(pool([nothing, nothing])) == 0


def test_another_level_and_a_box_apart_are_other_vertebrae() -> None:
    first = one((0, 0, 10, 10), 0.9, 19, [1, 0])
    assert len(pool([first, replace(first, levels=np.array([20]))])) == 2
    assert len(pool([first, one((0, 0, 10, 7), 0.9, 19, [1, 0])])) == 1
    assert len(pool([first, one((0, 0, 10, 6), 0.9, 19, [1, 0])])) == 2


def test_each_model_counts_once_in_a_group() -> None:
    """Two boxes of one model that both overlap another's: the better overlap joins, the other stays alone."""
    both = from_masks(
        0,
        np.ones((2, 20, 20), bool),
        [0.8, 0.7],
        boxes=[(0, 0, 10, 10), (0, 2, 10, 12)],
    )
    other = from_masks(0, np.ones((1, 20, 20), bool), [0.9], boxes=[(0, 1, 10, 10.5)])
    found = pool([other, both])
    assert found.scores == pytest.approx([(0.9 + 0.8) / 2, 0.35])


def model(*classes: str, hu_offset: float = 0) -> TrainedModel:
    source = SimpleNamespace(hu_offset=hu_offset)
    parts = SimpleNamespace(classes=classes), SimpleNamespace(source=source, overfit=None)
    return TrainedModel(cast(Any, parts[0]), cast(Any, parts[1]), None, simulated=False)


def test_runs_that_do_not_fit_are_refused_by_what_differs() -> None:
    runs = [Run(Path("group/one/then")), Run(Path("group/two/now"))]
    _check_alike(runs, [model("L1", "L2"), model("L1", "L2")])
    with pytest.raises(ConfigError, match=r"group/two/now .* classes: \['L1', 'L2'\] there, \['L1'\] here") as caught:
        _check_alike(runs, [model("L1", "L2"), model("L1", hu_offset=-1024)])
    assert "hu_offset: 0 there, -1024 here" in str(caught.value)
    with pytest.raises(ConfigError, match="expected a run"):
        load_models([])
