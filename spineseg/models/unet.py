"""Label-map networks from MONAI, in 2D and 3D: logits (B, num_classes, …) of images (B, channels, …).

Initial weights are drawn from torch's global generator, which the program seeds.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Literal

from monai.networks.blocks.convolutions import Convolution, ResidualUnit
from monai.networks.blocks.dynunet_block import UnetBasicBlock, UnetResBlock, UnetUpBlock
from monai.networks.blocks.segresnet_block import ResBlock
from monai.networks.nets.dynunet import DynUNet
from monai.networks.nets.segresnet import SegResNet
from monai.networks.nets.unet import UNet
from torch import Tensor, is_grad_enabled, nn
from torch.utils.checkpoint import checkpoint

from spineseg.errors import ConfigError

Norm = Literal["instance", "batch", "group"]
# As nnU-Net has it, the normalisation has a gain and an offset of its own.
NORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "instance": ("INSTANCE", {"affine": True}),
    "batch": ("BATCH", {}),
    "group": ("GROUP", {"num_groups": 8}),
}
# What is computed twice to save memory: the outermost of these.
BLOCKS = (ResidualUnit, Convolution, UnetBasicBlock, UnetResBlock, UnetUpBlock, ResBlock)


def unet2d(
    channels: int,
    num_classes: int,
    features: Sequence[int] = (32, 64, 128, 256, 512, 512),
    strides: Sequence[int] = (1, 2, 2, 2, 2),
    residual_units: int = 2,
    norm: Norm = "instance",
    checkpointing: bool = False,
) -> nn.Module:
    """A residual U-Net for slices (Ronneberger et al. 2015; Kerfoot et al. 2018).

    Args:
        channels: of an image.
        num_classes: of a pixel, background included.
        features: channels of each stage from the finest on.
        strides: between the image and the first stage, the first and the second …: one less than stages. A side of an
            image must be a multiple of their product.
        residual_units: convolutions of a residual block.
        norm: ``instance``, ``batch`` or ``group``.
        checkpointing: whether to keep less for the gradient and compute it again: less memory, a third more time.
    """
    return _unet(2, channels, num_classes, features, strides, residual_units, norm, checkpointing)


def unet3d(
    channels: int,
    num_classes: int,
    features: Sequence[int] = (32, 64, 128, 256, 512),
    strides: Sequence[int] = (2, 2, 2, 2),
    residual_units: int = 2,
    norm: Norm = "instance",
    checkpointing: bool = False,
) -> nn.Module:
    """A residual U-Net for patches (Çiçek et al. 2016; Kerfoot et al. 2018); arguments as for ``unet2d``."""
    return _unet(3, channels, num_classes, features, strides, residual_units, norm, checkpointing)


def dynunet(
    channels: int,
    num_classes: int,
    features: Sequence[int] = (32, 64, 128, 256, 320, 320),
    strides: Sequence[int | Sequence[int]] = (1, 2, 2, 2, 2, 2),
    kernels: Sequence[int | Sequence[int]] | None = None,
    supervised: int = 3,
    norm: Norm = "instance",
    residual: bool = False,
    checkpointing: bool = False,
    dimensions: Literal[2, 3] = 3,
) -> nn.Module:
    """nnU-Net's network (Isensee et al. 2021) as MONAI builds it.

    In training mode the result is a list of logits of falling resolution, in evaluation mode the finest alone.

    Args:
        channels: of an image.
        num_classes: of a voxel, background included.
        features: channels of each stage.
        strides: into each stage; the first is 1. One number, or one an axis.
        kernels: of each stage; null: 3 everywhere.
        supervised: coarser outputs beside the finest; 0 for none.
        norm: ``instance``, ``batch`` or ``group``.
        residual: residual blocks in place of plain ones.
        checkpointing: as for ``unet2d``.
        dimensions: 2 or 3.
    """
    if len(strides) != len(features):
        raise ConfigError(f"model.strides: {len(strides)} for {len(features)} features; expected one a stage")
    if not 0 <= supervised < len(features) - 1:
        raise ConfigError(
            f"model.supervised={supervised}: expected 0 to {len(features) - 2}, the stages above the last"
        )
    net = SupervisedDynUNet(
        spatial_dims=dimensions,
        in_channels=channels,
        out_channels=num_classes,
        kernel_size=kernels or [3] * len(features),
        strides=strides,
        upsample_kernel_size=strides[1:],
        filters=features,
        norm_name=_norm(norm),
        deep_supervision=supervised > 0,
        deep_supr_num=max(supervised, 1),
        res_block=residual,
    )
    return _checkpointed(net, norm) if checkpointing else net


def segresnet(
    channels: int,
    num_classes: int,
    features: int = 32,
    down: Sequence[int] = (1, 2, 2, 4),
    up: Sequence[int] = (1, 1, 1),
    norm: Norm = "group",
    checkpointing: bool = False,
    dimensions: Literal[2, 3] = 3,
) -> nn.Module:
    """SegResNet (Myronenko 2018) without the autoencoder's branch.

    Args:
        channels: of an image.
        num_classes: of a voxel, background included.
        features: channels of the first stage; they double at each.
        down: residual blocks of each stage on the way down.
        up: the same on the way up, one stage less.
        norm: ``instance``, ``batch`` or ``group``.
        checkpointing: as for ``unet2d``.
        dimensions: 2 or 3.
    """
    if len(up) != len(down) - 1:
        raise ConfigError(f"model.up: {len(up)} stages for {len(down)} on the way down; expected one less")
    net = SegResNet(
        spatial_dims=dimensions,
        init_filters=features,
        in_channels=channels,
        out_channels=num_classes,
        norm=_norm(norm),
        blocks_down=tuple(down),
        blocks_up=tuple(up),
    )
    return _checkpointed(net, norm) if checkpointing else net


class SupervisedDynUNet(DynUNet):
    """MONAI's network, whose coarse outputs stay coarse: its own are blown up to the finest size and stacked."""

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Logits; in training with deep supervision a list, finest first."""
        out: Tensor = self.output_block(self.skip_layers(x))
        coarse = list(self.heads) if self.deep_supervision else []
        # The skip layers left them here; kept, they would hold the graph and its memory.
        self.heads[:] = [x.new_zeros(1)] * len(self.heads)
        return [out, *coarse] if self.training and coarse else out


def _unet(
    dimensions: int,
    channels: int,
    num_classes: int,
    features: Sequence[int],
    strides: Sequence[int],
    residual_units: int,
    norm: Norm,
    checkpointing: bool,
) -> nn.Module:
    if len(strides) != len(features) - 1:
        raise ConfigError(f"model.strides: {len(strides)} for {len(features)} features; expected one less")
    net = UNet(
        spatial_dims=dimensions,
        in_channels=channels,
        out_channels=num_classes,
        channels=features,
        strides=strides,
        num_res_units=residual_units,
        norm=_norm(norm),
    )
    return _checkpointed(net, norm) if checkpointing else net


def _norm(name: Norm) -> tuple[str, dict[str, Any]]:
    if name not in NORMS:
        raise ConfigError(f"model.norm must be one of {', '.join(NORMS)}, found {name}")
    return NORMS[name]


def _checkpointed(net: nn.Module, norm: Norm) -> nn.Module:
    """Compute each block again in the backward pass; names of the weights stay what they are."""
    if norm == "batch":
        raise ConfigError(
            "model.checkpointing runs a block twice, which would count each batch twice in the running statistics of "
            "model.norm=batch; use instance or group"
        )
    for block in _outermost(net):
        setattr(block, "forward", partial(_twice, block.forward))  # noqa: B010  # the instance's, which mypy refuses
    return net


def _outermost(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        if isinstance(child, BLOCKS):
            yield child
        else:
            yield from _outermost(child)


def _twice(forward: Callable[..., Tensor], *args: Tensor) -> Tensor:
    if not is_grad_enabled():
        return forward(*args)
    result: Tensor = checkpoint(forward, *args, use_reentrant=False)
    return result
