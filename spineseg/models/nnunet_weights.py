"""Weights between nnU-Net's checkpoints and ours, both ways; no import of nnunetv2.

A kernel is a table over offsets along the axes, so it is turned as the axes are (``nnunet_settings``); nothing else of
a network's weights knows of axes.
"""

import json
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from spineseg.data.files import write_text
from spineseg.errors import DataError
from spineseg.models.nnunet_raw import dataset_json
from spineseg.models.nnunet_settings import Axes, PlannedSettings, settings_of

# Where ``PlannedNetwork`` keeps the network, and tasks keep that.
PREFIX: Final = "network."
TASK_PREFIX: Final = "net."
CHECKPOINT: Final = "checkpoint_final.pth"
# What nnU-Net stores its network under if it was compiled or spread over devices.
WRAPPERS: Final = ("module.", "_orig_mod.")


@dataclass(frozen=True)
class ImportedCheckpoint:
    """A checkpoint of nnU-Net's in our order.

    Attributes:
        state_dict: of a ``PlannedNetwork`` built from ``settings.architecture``.
        settings: of the plans within the checkpoint.
        labels: names of nnU-Net's labels, background first.
        mirror_axes: of x, y, z: what the network was mirrored along in training.
        epochs: epochs trained.
    """

    state_dict: dict[str, Tensor]
    settings: PlannedSettings
    labels: tuple[str, ...]
    mirror_axes: tuple[str, ...]
    epochs: int


def import_checkpoint(path: Path) -> ImportedCheckpoint:
    """Read nnU-Net's ``checkpoint_final.pth`` (or best, or latest), tensors and plain values only.

    Raises:
        DataError: no such file, damaged, holding more than weights and values, or not of nnU-Net 2's trainer.
        ConfigError: of a configuration that is not trained here (2D, cascade).
    """
    content = _read(path)
    missing = sorted({"network_weights", "init_args"} - content.keys())
    if missing:
        raise DataError(f"{path}: no checkpoint of nnU-Net 2's trainer: it has no {', '.join(missing)}")
    arguments = content["init_args"]
    settings = settings_of(arguments["plans"], arguments["configuration"])
    labels = arguments["dataset_json"]["labels"]
    if not all(isinstance(value, int) for value in labels.values()):
        raise DataError(f"{path}: trained on regions; expected one label a class")
    mirrored = content.get("inference_allowed_mirroring_axes") or ()
    weights = {_bare(name): value for name, value in content["network_weights"].items()}
    return ImportedCheckpoint(
        state_dict=to_our_weights(weights, settings.axes),
        settings=settings,
        labels=tuple(sorted(labels, key=lambda name: int(labels[name]))),
        mirror_axes=tuple(sorted("xyz"[settings.axes[axis]] for axis in mirrored)),
        epochs=int(content.get("current_epoch", 0)),
    )


def export_checkpoint(
    state_dict: Mapping[str, Tensor],
    settings: PlannedSettings,
    levels: Sequence[int],
    folder: Path,
    *,
    mirror_axes: Sequence[str] = ("x", "y"),
    fold: int = 0,
) -> Path:
    """Write a trained network as a model folder of nnU-Net's, for its ``nnUNetv2_predict_from_modelfolder``.

    Args:
        state_dict: of a ``PlannedNetwork``, or of a task that has it as ``net``.
        settings: what it was planned with.
        levels: canonical ids of the classes from 1 on.
        folder: gets ``plans.json``, ``dataset.json`` and ``fold_<fold>/checkpoint_final.pth``.
        mirror_axes: of x, y, z: along which nnU-Net is to average mirrored predictions.
        fold: number in the folder's name.

    Returns:
        The checkpoint.

    Raises:
        DataError: a state of another kind of network.
    """
    description = dataset_json(levels)
    write_text(folder / "plans.json", _json(settings.plans))
    write_text(folder / "dataset.json", _json(description))
    path = folder / f"fold_{fold}" / CHECKPOINT
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "network_weights": to_their_weights(network_state(state_dict), settings.axes),
        "optimizer_state": None,
        "grad_scaler_state": None,
        "logging": None,
        "_best_ema": None,
        "current_epoch": 0,
        "init_args": {
            "plans": settings.plans,
            "configuration": settings.configuration,
            "fold": fold,
            "dataset_json": description,
        },
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": tuple(settings.axes.index("xyz".index(axis)) for axis in mirror_axes)
        or None,
    }
    partial = path.with_name(f".partial-{path.name}")
    torch.save(content, partial)
    partial.replace(path)
    return path


def network_state(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The part of a task's or a ``PlannedNetwork``'s state that is the network's.

    Raises:
        DataError: none of it is.
    """
    for prefix in (TASK_PREFIX + PREFIX, PREFIX):
        found = {name.removeprefix(prefix): value for name, value in state_dict.items() if name.startswith(prefix)}
        if found:
            return found
    raise DataError(f"no network of nnU-Net's: expected weights under {TASK_PREFIX}{PREFIX} or {PREFIX}")


def to_our_weights(weights: Mapping[str, Tensor], axes: Axes) -> dict[str, Tensor]:
    """Weights of nnU-Net's network as the state of a ``PlannedNetwork``.

    Args:
        weights: kernels (out, in, *its axes), the rest without axes.
        axes: ``PlannedSettings.axes``.
    """
    order = (0, 1, *(2 + axes.index(axis) for axis in range(3)))
    return {PREFIX + name: _turned(value, order) for name, value in weights.items()}


def to_their_weights(weights: Mapping[str, Tensor], axes: Axes) -> dict[str, Tensor]:
    """Weights of our network, names without prefix, in nnU-Net's axis order; undoes ``to_our_weights``."""
    order = (0, 1, *(2 + axis for axis in axes))
    return {name: _turned(value, order).cpu() for name, value in weights.items()}


def _turned(value: Tensor, order: Sequence[int]) -> Tensor:
    return value.permute(*order).contiguous() if value.ndim == len(order) else value


def _bare(name: str) -> str:
    for wrapper in WRAPPERS:
        name = name.removeprefix(wrapper)
    return name


def _json(content: Any) -> str:
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _read(path: Path) -> dict[str, Any]:
    """The content of a checkpoint; nnU-Net's logs hold scalars of NumPy's, which are values and no code."""
    if not path.is_file():
        raise DataError(f"{path}: no such checkpoint; nnU-Net writes {CHECKPOINT} into fold_<f> when it has finished")
    # NumPy gives no public name to what its scalars are pickled by; NumPy 1 had it under another one.
    scalar = np._core.multiarray.scalar  # type: ignore[attr-defined]
    known: list[Any] = [
        (scalar, "numpy.core.multiarray.scalar"),
        (scalar, "numpy._core.multiarray.scalar"),
        np.dtype,
        *(type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i4", "i8", "?")),
    ]
    try:
        with torch.serialization.safe_globals(known):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).splitlines()[0]
        raise DataError(
            f"{path}: refused, it is damaged or holds more than weights and plain values ({reason})"
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path}: not a readable checkpoint ({reason})") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected a checkpoint of nnU-Net's, found a {type(content).__name__}")
    return content
