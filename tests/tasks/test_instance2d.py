"""The task of instances on slices: what its network gives is looked at before anything is made of it."""

import numpy as np
import pytest
import torch

from spineseg.data.scans import ScanBatch
from spineseg.errors import DataError
from spineseg.models.yolo import yolov8_seg
from spineseg.tasks.instance2d import InstanceSegmentation2D
from spineseg.tasks.optim import Optimization


@pytest.mark.parametrize("part", ["", ".cv3.", ".cv4.", ".proto."])
def test_outputs_that_are_not_finite_are_refused(part: str) -> None:
    """Of the class scores, the mask coefficients or the prototypes; without a part the network is as it should be."""
    torch.manual_seed(0)
    task = InstanceSegmentation2D(yolov8_seg(1, 2, "n"), Optimization(), ("T12", "L1"), channels_last=False).eval()
    batch = ScanBatch(
        case="a",
        images=torch.rand(2, 1, 64, 64),
        indices=[4, 5],
        size=(64, 64),
        step=(1.0, 1.0),
        native_shape=(9, 64, 64),
        native_affine=np.eye(4).tolist(),
        last=True,
        error=None,
    )
    with torch.no_grad():
        if not part:
            assert [found.index for found in task.predict_step(batch, 0)] == [4, 5]
            return
        named = [p for name, p in task.net.named_parameters() if part in name]
        named[-1].fill_(torch.nan)
        with pytest.raises(DataError, match="logits that are not finite"):
            task.predict_step(batch, 0)
