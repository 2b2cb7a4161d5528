"""What a network computes: floating-point operations of one forward pass."""

import copy
from collections.abc import Sequence

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def forward_flops(net: nn.Module, shape: Sequence[int]) -> int | None:
    """Floating-point operations of a forward pass, a multiplication and an addition being two; of training mode.

    Convolutions and matrix products are counted, as ``torch.utils.flop_counter`` does. Nothing is computed: the pass
    is made on tensors without memory.

    Args:
        net: a network of one input; stays as it is.
        shape: (C, …) of one image or patch.

    Returns:
        None for a network that cannot do without values.
    """
    # Two images, since batch normalisation cannot be had of a single value.
    images = torch.empty((2, *shape), device="meta")
    shadow = copy.deepcopy(net).to("meta").train()
    try:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            shadow(images)
    except (NotImplementedError, RuntimeError):
        return None
    return int(counter.get_total_flops()) // len(images)
