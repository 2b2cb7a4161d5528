"""What the tasks of label maps share: loss, compilation, and monitors over all processes."""

from typing import ClassVar, TypeVar

from torch import Tensor, nn

from spineseg.tasks.label_maps import Agreement, pooled_dice
from spineseg.tasks.losses import LabelMapLoss
from spineseg.tasks.monitors import MonitoredSlice, monitors
from spineseg.tasks.optim import Optimization
from spineseg.tasks.optimized import ImageBatch, OptimizedTask, exact_mean

Batch = TypeVar("Batch", bound=ImageBatch)
# Of the monitors of instances: Dice is the label map's own, and there is no threshold to choose.
NOT_OF_LABEL_MAPS = ("dice", "score_threshold")


class SemanticSegmentation(OptimizedTask[Batch]):
    """A task whose network gives a class to each pixel or voxel.

    Args:
        net: gives logits (B, K, …), in training mode maybe a list of them, the finest first.
        loss: of the logits and labels (B, 1, …).
        optimization: optimiser, schedule, warm-up, accumulation and clipping.
        classes: name of each class but the background: levels, or ``vertebra`` alone.
        compile: whether to let ``torch.compile`` make the network faster; where it cannot, a warning says so once.
    """

    averaged: ClassVar[bool] = True

    def __init__(
        self,
        net: nn.Module,
        loss: LabelMapLoss,
        optimization: Optimization,
        classes: tuple[str, ...],
        compile: bool = False,
    ) -> None:
        """Take the parts; nothing is built here."""
        super().__init__(net, optimization, classes, compile)
        self.loss, self.num_classes = loss, len(classes) + 1
        self._monitored: list[MonitoredSlice] = []
        self._agreements: list[Agreement] = []
        self._losses: list[tuple[float, int]] = []

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K, …) of images (B, C, …) in float32."""
        outputs = self.outputs(images)
        return (outputs if isinstance(outputs, Tensor) else outputs[0]).float()

    def on_validation_epoch_end(self) -> None:
        """Pool what all processes saw.

        ``val/dice`` is the mean over the levels that the validation references hold of each level's Dice over all
        voxels. With one class, vertebrae that touch are one instance, so that there is no mAP.
        """
        mine = (self._agreements, self._monitored, self._losses)
        self._agreements, self._monitored, self._losses = [], [], []
        parts = self.gathered(mine)
        values = pooled_dice((item for agreements, _, _ in parts for item in agreements), self.classes)
        if self.levels:
            matched = monitors([item for _, slices, _ in parts for item in slices], num_classes=len(self.classes))
            values.update({name: value for name, value in matched.items() if name not in NOT_OF_LABEL_MAPS})
        if losses := [item for _, _, losses in parts for item in losses]:
            values["loss"] = exact_mean(losses)
        self.log_validation(values, frozenset({"mask_map50", "mask_map50_named", "dice"}))
