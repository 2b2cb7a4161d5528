"""Devices and precision: what ``precision: auto`` means on this machine, and Lightning's trainer built from a node."""

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import lightning
import torch
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loggers import Logger

from spineseg.processors import processors
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
    # Lightning says everything twice under Hydra's logging, and most of it is no news.
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=r".*LeafSpec.*", module=r"lightning\..*")
    # Whole scans are shared out among loader processes, so that their number stays what it is.
    warnings.filterwarnings("ignore", message=r"Your `IterableDataset` has `__len__`", module=r"lightning\..*")
    callbacks = list(settings.pop("callbacks", ()))
    content = {**plain(node), **settings}
    if content.get("precision", "auto") == "auto":
        content["precision"] = best_precision(str(content.get("accelerator", "auto")))
    return build(
        content,
        lightning.Trainer,
        callbacks=callbacks,
        logger=logger,
        # Samplers of ours know their process; Lightning's would repeat samples to fill the last batch up.
        use_distributed_sampler=False,
        # Without one of ours, Lightning would add a checkpoint callback of its own.
        enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks),
    )


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


@contextlib.contextmanager
def training_threads(workers: int, trainer: lightning.Trainer) -> Iterator[None]:
    """Leave the loader's processes a processor each while a processor trains; a set OMP_NUM_THREADS is left alone.

    Args:
        workers: loader processes of this training process.
        trainer: tells the device; where several processes train, Lightning has shared out the threads.
    """
    threads = torch.get_num_threads()
    alone = trainer.strategy.root_device.type == "cpu" and trainer.world_size == 1
    if alone and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, processors() - workers))
    try:
        yield
    finally:
        torch.set_num_threads(threads)
