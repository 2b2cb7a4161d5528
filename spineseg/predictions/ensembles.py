"""Several runs as one model: mean class probabilities of label maps, pooled detections of instance models."""

from collections.abc import Sequence

import lightning
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from spineseg.data.normalization import Normalization
from spineseg.data.scans import ScanBatch
from spineseg.predictions.instances import NMS_IOU, SliceInstances
from spineseg.predictions.masks import Rle, box_iou, decode_box, encode_crop, hulls
from spineseg.tasks.instance2d import InstanceSegmentation2D


class MeanProbabilities(nn.Module):
    """Networks of a label map as one: logits whose softmax is the mean of theirs.

    To the logits of the first are added log(mean probability ÷ its own), so that a network with itself gives its own
    logits, bit for bit; the memory is that of one network's logits more.

    Args:
        nets: in evaluation mode each gives logits (B, K, …) of the same images.
    """

    def __init__(self, nets: Sequence[nn.Module]) -> None:
        """Take the networks; at least one."""
        super().__init__()
        self.nets = nn.ModuleList(nets)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K, …) in float32."""
        first: Tensor = self.nets[0](images).float()
        own = first.log_softmax(dim=1)
        # A running sum of exp(log p − highest), so that there are never more than two networks' logits.
        highest, total = own.clone(), torch.ones_like(own)
        for net in self.nets[1:]:
            other = net(images).float().log_softmax(dim=1)
            above = torch.maximum(highest, other)
            total = total * (highest - above).exp() + (other - above).exp()
            highest = above
        return first + (highest - own) + (total / len(self.nets)).log()


class FromHounsfield(nn.Module):
    """A network that normalises HU itself, for members that were trained with other numbers than their fellows.

    Args:
        net: of normalised images.
        normalization: its own.
    """

    def __init__(self, net: nn.Module, normalization: Normalization) -> None:
        """Take the network."""
        super().__init__()
        self.net, self.normalization = net, normalization

    def forward(self, images: Tensor) -> Tensor:
        """What the network makes of images (B, 1, …) in HU, float32."""
        own = self.normalization
        found: Tensor = self.net(images.clamp(own.low, own.high).sub(own.mean).div(own.sd))
        return found


class InstanceEnsemble(lightning.LightningModule):
    """Instance models as one: each predicts, and their detections are pooled slice by slice (``pool``).

    Args:
        members: tasks with the same classes.
    """

    def __init__(self, members: Sequence[InstanceSegmentation2D]) -> None:
        """Take the members; at least one."""
        super().__init__()
        self.members = nn.ModuleList(members)
        self.classes, self.levels = members[0].classes, members[0].levels

    @property
    def net(self) -> nn.Module:
        """All networks, for their parameters."""
        return nn.ModuleList([member.net for member in self._each()])

    def predict_step(self, batch: ScanBatch, batch_index: int) -> list[SliceInstances]:
        """Pooled detections of each slice, on the native pixels."""
        found = [member.predict_step(batch, batch_index) for member in self._each()]
        return [pool(slices) for slices in zip(*found, strict=True)]

    def _each(self) -> list[InstanceSegmentation2D]:
        return [member for member in self.members if isinstance(member, InstanceSegmentation2D)]


def pool(members: Sequence[SliceInstances]) -> SliceInstances:
    """Make the detections of several models in one slice those of one model.

    From the best score down, a detection and of each other model its detection of the same level whose box overlaps
    most, at an intersection over union of at least 0.7, are one: its score is the sum of theirs ÷ the number of models,
    so that what few models find scores low; box and class distribution are means over those that found it; its mask
    holds the pixels that most of them have, of a tie those of the best.

    Args:
        members: one a model, of the same slice and classes, as they are (PROTOCOL 5.7).
    """
    head = members[0]
    owner = np.concatenate([np.full(len(m), i) for i, m in enumerate(members)]).astype(np.int64)
    scores = np.concatenate([m.scores for m in members]).astype(np.float64)
    levels = np.concatenate([m.levels for m in members])
    boxes = np.concatenate([m.boxes for m in members])
    masks = [rle for m in members for rle in m.masks]
    alike = box_iou(boxes, boxes)
    free = np.ones(len(scores), bool)
    groups: list[list[int]] = []
    # Ties by the order of the models.
    for best in np.argsort(-scores, kind="stable").tolist():
        if not free[best]:
            continue
        group = [best]
        for model in range(len(members)):
            if model == owner[best]:
                continue
            others = np.flatnonzero(free & (owner == model) & (levels == levels[best]) & (alike[best] >= NMS_IOU))
            if len(others):
                group.append(int(others[alike[best][others].argmax()]))
        free[group] = False
        groups.append(group)
    total = np.array([scores[group].sum() / len(members) for group in groups])
    order = np.argsort(-total, kind="stable").tolist()
    groups = [groups[i] for i in order]
    probabilities: NDArray[np.float32] | None = None
    if all(m.probabilities is not None for m in members):
        rows = np.concatenate([np.asarray(m.probabilities, np.float64) for m in members])
        means = [rows[group].mean(axis=0) for group in groups]
        probabilities = np.array(means, np.float32).reshape(len(groups), len(head.classes))
    pooled = SliceInstances(
        index=head.index,
        size=head.size,
        masks=tuple(_majority([masks[i] for i in group]) for group in groups),
        scores=total[order].astype(np.float32),
        levels=np.array([levels[group[0]] for group in groups], np.int64),
        boxes=np.array([boxes[group].mean(axis=0) for group in groups]).reshape(-1, 4),
        probabilities=probabilities,
        classes=head.classes,
    )
    # Most may have no pixel in common.
    return pooled.take(hulls(pooled.masks)[:, 2] > 0)


def _majority(masks: Sequence[Rle]) -> Rle:
    """Pixels that more than half of the masks hold, or half of them with the first."""
    if len({mask["counts"] for mask in masks}) == 1:
        return masks[0]
    corners = hulls(masks).astype(np.int64)
    y0, z0 = (int(edge) for edge in corners[:, :2].min(axis=0))
    y1, z1 = (int(edge) for edge in corners[:, 2:].max(axis=0))
    crops = np.stack([decode_box(mask, (y0, z0, y1, z1)) for mask in masks])
    votes = 2 * crops.sum(axis=0) + crops[0]
    size = masks[0]["size"]
    return encode_crop(votes > len(masks), (y0, z0), (size[0], size[1]))
