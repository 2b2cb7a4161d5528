"""Devices and precision: what ``precision: auto`` means on this machine, and Lightning's trainer built from a node."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import lightning
import torch
from lightning.pytorch.loggers import Logger

from spineseg.targets import build, plain

# What a processor must have for bf16 to be faster than float32, as /proc/cpuinfo names it.
BF16_FLAGS = ("avx512_bf16", "amx_bf16")

Precision = Literal["32-true", "bf16-mixed", "16-mixed"]


def build_trainer(node: Any, *, logger: Sequence[Logger] | bool, **settings: Any) -> lightning.Trainer:
    """Build Lightning's trainer from a configuration node.

    Args:
        node: ``_target_: lightning.Trainer`` with its keys; ``precision: auto`` is resolved here.
        logger: loggers, or False for none.
        settings: keys that win over the node's.
    """
    content = {**plain(node), "logger": logger, "use_distributed_sampler": False, "enable_checkpointing": False}
    content |= settings
    if content.get("precision", "auto") == "auto":
        content["precision"] = best_precision(str(content.get("accelerator", "auto")))
    callbacks = content.pop("callbacks", [])
    return build(content, lightning.Trainer, callbacks=list(callbacks), logger=content.pop("logger"))


def best_precision(accelerator: str) -> Precision:
    """The fastest precision that trains well: bf16 where the device has it, else float16 on a GPU, float32 on a CPU.

    Args:
        accelerator: Lightning's ``auto``, ``gpu``, ``cuda``, ``cpu``, …
    """
    if accelerator != "cpu" and torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
    return "bf16-mixed" if processor_has_bf16() else "32-true"


def processor_has_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the processor multiplies bfloat16 in hardware; False where that cannot be found out."""
    if not cpuinfo.is_file():
        return False
    flags = next((line for line in cpuinfo.read_text().splitlines() if line.startswith("flags")), "").split()
    return any(flag in flags for flag in BF16_FLAGS)
