"""Label-map networks: shapes, deep supervision, checkpointing, and weights that a seed decides."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spineseg.errors import ConfigError
from spineseg.models.unet import dynunet, segresnet, unet2d, unet3d

SMALL: dict[Callable[..., nn.Module], dict[str, Any]] = {
    unet2d: {"features": (8, 16, 16), "strides": (1, 2)},
    unet3d: {"features": (8, 16, 16), "strides": (2, 2)},
    dynunet: {"features": (8, 16, 16, 16), "strides": (1, 2, 2, 2), "supervised": 2},
    segresnet: {"features": 8, "down": (1, 1), "up": (1,)},
}
BUILDERS = sorted(SMALL, key=lambda builder: builder.__name__)


def small(builder: Callable[..., nn.Module], **more: Any) -> nn.Module:
    torch.manual_seed(0)
    return builder(channels=1, num_classes=3, **{**SMALL[builder], **more})


def image_of(builder: Callable[..., nn.Module]) -> Tensor:
    shape = (2, 1, 16, 32) if builder is unet2d else (2, 1, 16, 16, 32)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("builder", BUILDERS)
def test_logits_have_the_images_size(builder: Callable[..., nn.Module]) -> None:
    image = image_of(builder)
    with torch.no_grad():
        logits = small(builder).eval()(image)
    assert logits.shape == (2, 3, *image.shape[2:])


@pytest.mark.parametrize("builder", BUILDERS)
def test_the_seed_decides_the_weights(builder: Callable[..., nn.Module]) -> None:
    first, second = small(builder).state_dict(), small(builder).state_dict()
    assert all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.mark.parametrize("builder", BUILDERS)
def test_checkpointing_changes_memory_alone(builder: Callable[..., nn.Module]) -> None:
    """The same names, outputs and gradients, with less kept for the backward pass."""
    kept: list[int] = []
    gradients, states = [], []
    for checkpointing in (False, True):
        net, sizes = small(builder, checkpointing=checkpointing), []

        def pack(tensor: Tensor, sizes: list[int] = sizes) -> Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            out = net(image_of(builder))
            several = out if isinstance(out, list) else [out]
            loss = sum((item.square().mean() for item in several), torch.zeros(()))
            kept.append(sum(sizes))
        loss.backward()
        gradients.append({name: parameter.grad for name, parameter in net.named_parameters()})
        states.append(list(net.state_dict()))
    assert states[0] == states[1]
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name])
    assert kept[1] < 0.8 * kept[0]


def test_deep_supervision_gives_a_list_in_training_alone() -> None:
    net, image = small(dynunet), image_of(dynunet)
    outputs = net.train()(image)
    assert [tuple(item.shape[2:]) for item in outputs] == [(16, 16, 32), (8, 8, 16), (4, 4, 8)]
    assert isinstance(net.eval()(image), Tensor)
    assert isinstance(small(dynunet, supervised=0).train()(image), Tensor)
    copy.deepcopy(net)  # nothing of the graph stays in the network


def test_settings_that_do_not_fit() -> None:
    with pytest.raises(ConfigError, match="one less"):
        small(unet3d, strides=(2,))
    with pytest.raises(ConfigError, match="one a stage"):
        small(dynunet, strides=(1, 2))
    with pytest.raises(ConfigError, match="supervised=3"):
        small(dynunet, supervised=3)
    with pytest.raises(ConfigError, match="one less"):
        small(segresnet, up=(1, 1))
    with pytest.raises(ConfigError, match="instance, batch, group"):
        small(unet2d, norm="layer")
    with pytest.raises(ConfigError, match="twice"):
        small(unet2d, norm="batch", checkpointing=True)
