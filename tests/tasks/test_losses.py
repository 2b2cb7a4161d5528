"""Losses against the same worked out in NumPy, at one resolution and several."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from spineseg.errors import ConfigError
from spineseg.tasks.losses import LabelMapLoss, dice_cross_entropy, dice_focal, nearest, tversky_cross_entropy


def example(seed: int, shape: tuple[int, ...] = (2, 4, 6, 5)) -> tuple[np.ndarray, np.ndarray]:
    """Logits (B, K, …) and labels (B, …) of which a class is missing."""
    rng = np.random.default_rng(seed)
    return rng.normal(0, 2, shape), rng.integers(0, shape[1] - 1, (shape[0], *shape[2:]))


def softmax(logits: np.ndarray) -> np.ndarray:
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True)


def dice_and_entropy(logits: np.ndarray, labels: np.ndarray, *, batch: bool, background: bool) -> tuple[float, float]:
    p = softmax(logits)
    onehot = np.moveaxis(np.eye(logits.shape[1])[labels], -1, 1)
    axes = tuple(range(2, logits.ndim))
    if batch:
        axes = (0, *axes)
    common, total = (p * onehot).sum(axis=axes), (p + onehot).sum(axis=axes)
    dice = 1 - (2 * common + 1e-5) / (total + 1e-5)
    dice = dice if background else dice[..., 1:]
    return dice.mean(), -np.log((p * onehot).sum(axis=1)).mean()


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 1000), st.booleans(), st.booleans(), st.sampled_from([(2, 4, 6, 5), (1, 3, 4, 4, 6)]))
def test_dice_and_cross_entropy_by_hand(seed: int, batch: bool, background: bool, shape: tuple[int, ...]) -> None:
    logits, labels = example(seed, shape)
    dice, entropy = dice_and_entropy(logits, labels, batch=batch, background=background)
    loss = dice_cross_entropy(dice=0.7, cross_entropy=1.3, batch_dice=batch, include_background=background)
    found = loss(torch.from_numpy(logits), torch.from_numpy(labels[:, None].astype(np.uint8)))
    assert float(found) == pytest.approx(0.7 * dice + 1.3 * entropy, rel=1e-5)


def test_deep_supervision_weighs_halves_and_takes_the_nearest_label() -> None:
    fine, labels = example(0, (2, 3, 8, 8))
    coarse, coarsest = example(1, (2, 3, 4, 4))[0], example(2, (2, 3, 2, 2))[0]
    small = [labels, labels[:, 1::2, 1::2], labels[:, 2::4, 2::4]]  # the voxel at a coarse one's centre
    each = [
        sum(dice_and_entropy(logits, part, batch=False, background=False))
        for logits, part in zip((fine, coarse, coarsest), small, strict=True)
    ]
    outputs = [torch.from_numpy(logits) for logits in (fine, coarse, coarsest)]
    target = torch.from_numpy(labels[:, None].astype(np.uint8))
    found = float(dice_cross_entropy()(outputs, target))
    assert found == pytest.approx((4 * each[0] + 2 * each[1] + each[2]) / 7, rel=1e-5)
    without = float(dice_cross_entropy(drop_coarsest=True)(outputs, target))
    assert without == pytest.approx((2 * each[0] + each[1]) / 3, rel=1e-5)


def test_labels_at_another_size_are_torchs_nearest() -> None:
    labels = torch.randint(0, 200, (2, 1, 9, 12, 7), dtype=torch.uint8)
    for shape in ((9, 12, 7), (4, 6, 3), (3, 4, 2), (5, 12, 7)):
        expected = nn.functional.interpolate(labels.float(), shape, mode="nearest-exact")
        assert torch.equal(nearest(labels, shape).float(), expected)


def test_half_tversky_is_dice_and_focal_of_nothing_is_less() -> None:
    logits, labels = example(3)
    outputs, target = torch.from_numpy(logits), torch.from_numpy(labels[:, None])
    expected = float(dice_cross_entropy()(outputs, target))
    assert float(tversky_cross_entropy(alpha=0.5, beta=0.5)(outputs, target)) == pytest.approx(expected, rel=1e-4)
    assert 0 < float(dice_focal()(outputs, target)) < expected


def test_focal_loss_is_of_the_softmax() -> None:
    """Without focus it is cross-entropy; what leaves the softmax as it is leaves it too; where all is right it is 0."""
    logits, labels = example(5)
    outputs, target = torch.from_numpy(logits).float(), torch.from_numpy(labels[:, None]).long()
    expected = nn.functional.cross_entropy(outputs, target[:, 0])
    torch.testing.assert_close(dice_focal(dice=0, gamma=0)(outputs, target), expected)
    focal = dice_focal(dice=0)
    torch.testing.assert_close(focal(outputs + 5, target), focal(outputs, target), rtol=1e-4, atol=1e-6)
    background = outputs.clone()
    background[:, 0] += 7
    assert float(focal(background, target)) != pytest.approx(float(focal(outputs, target)), rel=0.1)
    certain = 40 * nn.functional.one_hot(target[:, 0], outputs.shape[1]).movedim(-1, 1).float()
    assert float(focal(certain, target)) == pytest.approx(0, abs=1e-6)


def test_autocast_changes_nothing() -> None:
    logits, labels = example(4)
    outputs, target = torch.from_numpy(logits).to(torch.bfloat16), torch.from_numpy(labels[:, None])
    expected = dice_cross_entropy()(outputs.float(), target)
    with torch.autocast("cpu", torch.bfloat16):
        found = dice_cross_entropy()(outputs, target)
    assert found.dtype == torch.float32 and torch.equal(found, expected)


def test_weights_are_checked() -> None:
    with pytest.raises(ConfigError, match="weights"):
        LabelMapLoss([nn.CrossEntropyLoss()], [0.0])
