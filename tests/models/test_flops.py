"""Operations of a forward pass against counts by hand."""

import pytest
import torch
from torch import Tensor, nn

from spineseg.models.flops import forward_flops


@pytest.mark.parametrize(
    ("net", "shape", "expected"),
    [
        # Each of the output's 6 × 10 × 8 values is 2 · 3 · 3 · 3 operations; the shape stays.
        (nn.Conv2d(3, 8, 3, padding=1), (3, 6, 10), 6 * 10 * 8 * 2 * 27),
        (nn.Conv3d(1, 4, 2, stride=2), (1, 4, 6, 8), 2 * 3 * 4 * 4 * 2 * 8),
        (nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.BatchNorm1d(5)), (1, 3, 4), 2 * 12 * 5),
    ],
)
def test_counts(net: nn.Module, shape: tuple[int, ...], expected: int) -> None:
    """Convolutions and matrix products by hand, once for each image."""
    assert forward_flops(net, shape) == expected


def test_leaves_the_network_alone() -> None:
    """Mode, weights and statistics stay, and it still runs."""
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)).eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    forward_flops(net, (1, 8, 8))
    assert not net.training and net(torch.zeros(1, 1, 8, 8)).device.type == "cpu"
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_a_network_that_looks_at_values() -> None:
    """It has none here: no count, no crash."""

    class Looks(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            """Ask for a value."""
            return images if images.sum().item() > 0 else -images

    assert forward_flops(Looks(), (1, 4, 4)) is None
