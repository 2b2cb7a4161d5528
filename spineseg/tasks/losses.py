"""Losses of label maps: overlap and cross-entropy from MONAI, at every resolution that the network gives."""

from collections.abc import Sequence

import torch
from monai.losses.dice import DiceCELoss, DiceLoss
from monai.losses.tversky import TverskyLoss
from torch import Tensor, nn

from spineseg.errors import ConfigError


class LabelMapLoss(nn.Module):
    """The mean loss of logits at one resolution or several, in float32 also under autocast.

    Deep supervision as in nnU-Net: output i weighs 1 ÷ 2^i, weights add up to 1, labels are brought to an output's
    size by taking the nearest.

    Args:
        terms: modules of (logits (B, K, …), labels (B, 1, …) int64) that give a scalar, added up.
        weights: one a term.
        drop_coarsest: whether the last of several outputs gets no weight, as in nnU-Net.
    """

    def __init__(self, terms: Sequence[nn.Module], weights: Sequence[float], drop_coarsest: bool = False) -> None:
        """Check the weights."""
        super().__init__()
        if len(terms) != len(weights) or min(weights) < 0 or not sum(weights) > 0:
            raise ConfigError(f"loss: expected weights ≥ 0 that are not all 0, found {list(weights)}")
        self.terms, self.weights, self.drop_coarsest = nn.ModuleList(terms), tuple(weights), drop_coarsest

    def forward(self, outputs: Tensor | Sequence[Tensor], labels: Tensor) -> Tensor:
        """The loss, a scalar.

        Args:
            outputs: logits (B, K, …), or several of falling resolution.
            labels: (B, 1, …) class indices, any integer type.
        """
        several = [outputs] if isinstance(outputs, Tensor) else list(outputs)
        with torch.autocast(labels.device.type, enabled=False):
            total = several[0].new_zeros((), dtype=torch.float32)
            for weight, logits in zip(self.resolution_weights(len(several)), several, strict=True):
                if not weight:
                    continue
                target = nearest(labels, logits.shape[2:]).long()
                for share, term in zip(self.weights, self.terms, strict=True):
                    total = total + weight * share * term(logits.float(), target)
        return total

    def resolution_weights(self, count: int) -> list[float]:
        """Weights of ``count`` outputs.

        >>> LabelMapLoss([nn.CrossEntropyLoss()], [1.0]).resolution_weights(2)
        [0.6666666666666666, 0.3333333333333333]
        """
        # Several processes may not leave parameters without a gradient.
        dropped = 1e-6 if torch.distributed.is_available() and torch.distributed.is_initialized() else 0.0
        raw = [dropped if self.drop_coarsest and i and i == count - 1 else 0.5**i for i in range(count)]
        return [weight / sum(raw) for weight in raw]


def nearest(labels: Tensor, shape: Sequence[int]) -> Tensor:
    """Labels (B, 1, …) at another size: the value at each new voxel's centre."""
    for axis, size in enumerate(shape, start=2):
        old = labels.shape[axis]
        if old != size:
            picks = (2 * torch.arange(size, device=labels.device) + 1) * old // (2 * size)
            labels = labels.index_select(axis, picks)
    return labels


def dice_cross_entropy(
    dice: float = 1.0,
    cross_entropy: float = 1.0,
    batch_dice: bool = False,
    include_background: bool = False,
    label_smoothing: float = 0.0,
    drop_coarsest: bool = False,
) -> LabelMapLoss:
    """Dice of the softmax plus cross-entropy (Isensee et al. 2021).

    Args:
        dice: weight of the Dice term.
        cross_entropy: weight of the other.
        batch_dice: Dice over the whole batch in place of a mean over samples; then classes that a sample lacks cost
            less, but the loss of a batch is no longer the mean of its samples'.
        include_background: whether class 0 counts in Dice; in cross-entropy it always does.
        label_smoothing: of the cross-entropy.
        drop_coarsest: see ``LabelMapLoss``.
    """
    term = DiceCELoss(
        include_background=include_background,
        to_onehot_y=True,
        softmax=True,
        batch=batch_dice,
        lambda_dice=dice,
        lambda_ce=cross_entropy,
        label_smoothing=label_smoothing,
    )
    return LabelMapLoss([term], [1.0], drop_coarsest)


class Focal(nn.Module):
    """Cross-entropy times (1 - p)^gamma, p the true class's probability (Lin et al. 2017): a sure voxel weighs little.

    MONAI's focal loss beside a softmax is of sigmoids, which know nothing of the background.

    Args:
        gamma: 0 is cross-entropy.
    """

    def __init__(self, gamma: float) -> None:
        super().__init__()
        self.gamma = gamma

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean over voxels of logits (B, K, …) and labels (B, 1, …)."""
        log_p = logits.log_softmax(dim=1).gather(1, labels)
        return -((1 - log_p.exp()) ** self.gamma * log_p).mean()


def dice_focal(
    dice: float = 1.0,
    focal: float = 1.0,
    gamma: float = 2.0,
    batch_dice: bool = False,
    include_background: bool = False,
    drop_coarsest: bool = False,
) -> LabelMapLoss:
    """Dice plus the focal loss of the softmax, the background's voxels included; settings as above."""
    overlap = DiceLoss(include_background=include_background, to_onehot_y=True, softmax=True, batch=batch_dice)
    return LabelMapLoss([overlap, Focal(gamma)], [dice, focal], drop_coarsest)


def tversky_cross_entropy(
    alpha: float = 0.3,
    beta: float = 0.7,
    tversky: float = 1.0,
    cross_entropy: float = 1.0,
    batch_dice: bool = False,
    include_background: bool = False,
    drop_coarsest: bool = False,
) -> LabelMapLoss:
    """Tversky's index (Salehi et al. 2017) plus cross-entropy.

    Args:
        alpha: weight of false positives.
        beta: weight of false negatives; ½ and ½ are Dice.
        tversky: weight of the term.
        cross_entropy: weight of the other.
        batch_dice: as in ``dice_cross_entropy``.
        include_background: as there.
        drop_coarsest: as there.
    """
    overlap = TverskyLoss(
        include_background=include_background,
        to_onehot_y=True,
        softmax=True,
        alpha=alpha,
        beta=beta,
        batch=batch_dice,
    )
    return LabelMapLoss([overlap, _CrossEntropy()], [tversky, cross_entropy], drop_coarsest)


class _CrossEntropy(nn.Module):
    """Cross-entropy of labels that keep their channel."""

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.cross_entropy(logits, labels[:, 0])
