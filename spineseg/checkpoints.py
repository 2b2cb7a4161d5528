"""Checkpoints on disk: published whole, sealed by their SHA-256, read as weights and plain values only."""

import os
import pickle
from pathlib import Path
from typing import Any

from spineseg.data.files import link_or_copy, sha256_of_file, write_text
from spineseg.errors import DataError


def seal_path(path: Path) -> Path:
    """Return the file beside a checkpoint that holds its SHA-256, in the format of `sha256sum`."""
    return path.with_name(f"{path.name}.sha256")


def publish(partial: Path, paths: list[Path]) -> None:
    """Give a finished checkpoint its final names, one after the other, and remove the partial name.

    The seal is written first and names the old content too, so that a kill between the two leaves a valid pair.

    Args:
        partial: A complete file on the same file system as `paths`.
        paths: Final names; each is replaced atomically.
    """
    with partial.open("rb+") as stream:
        os.fsync(stream.fileno())
    digest = sha256_of_file(partial)
    for path in paths:
        old = _digests(path)
        write_text(seal_path(path), "".join(f"{each}  {path.name}\n" for each in [digest, *old]))
        linked = path.with_name(f".partial-{os.getpid()}-{path.name}")
        linked.unlink(missing_ok=True)
        link_or_copy(partial, linked)
        linked.replace(path)
        write_text(seal_path(path), f"{digest}  {path.name}\n")
    partial.unlink()


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU after comparing it with its seal.

    Only tensors and plain values are read (`weights_only`), so that a file from elsewhere cannot run code.

    Raises:
        DataError: No such file, another content than sealed, a damaged file, or one that holds more than weights.
    """
    import torch

    if not path.is_file():
        raise DataError(f"{path}: no such checkpoint; `python -m spineseg.train` writes them")
    sealed = _digests(path)
    found = sha256_of_file(path) if sealed else ""
    if sealed and found not in sealed:
        raise DataError(
            f"{path}: damaged: its SHA-256 is {found[:12]}…, {seal_path(path).name} says {sealed[0][:12]}…; "
            "take the other checkpoint of the run"
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).splitlines()[0]
        raise DataError(
            f"{path}: refused, it is damaged or holds more than weights and plain values ({reason})"
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path}: not a readable checkpoint ({reason})") from error
    if not isinstance(content, dict) or "state_dict" not in content:
        raise DataError(f"{path}: expected a checkpoint of a run, with a state_dict; found something else")
    return dict(content)


def steps_done(checkpoint: dict[str, Any]) -> int:
    """Return how many training batches a checkpoint has seen: the first step that a resumed run will log.

    Lightning's counter of steps lags by one in a checkpoint that is written inside an epoch; that of batches does not.
    """
    return int(checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]["processed"])


# What two runs of the same bits need not share: the time and the memory that they took.
COSTS = frozenset(
    {
        "seconds",
        "train/images_per_second",
        "train/iterations_per_second",
        "train/peak_ram_mb",
        "train/peak_vram_mb",
    }
)


def differences(left: Any, right: Any, ignored: frozenset[str] = COSTS, place: str = "") -> list[str]:
    """Return where two checkpoints, or parts of them, differ in a bit or in a type; empty for equal ones.

    Args:
        left: Nested dictionaries and lists of tensors and plain values.
        right: The same.
        ignored: Keys that are not looked at.
        place: Name of the part.

    >>> differences({"a": [1, 2.0], "seconds": 1}, {"a": [1, 2], "seconds": 2})
    ['a/1: 2.0 ≠ 2']
    """
    import torch

    if type(left) is not type(right):
        return [f"{place}: {left!r:.40} ≠ {right!r:.40}"]
    if isinstance(left, torch.Tensor):
        same = left.dtype == right.dtype and left.shape == right.shape and left.stride() == right.stride()
        return [] if same and _bits(left) == _bits(right) else [f"{place}: tensors differ"]
    if isinstance(left, dict | list | tuple):
        pairs = [dict(part) if isinstance(part, dict) else dict(enumerate(part)) for part in (left, right)]
        if pairs[0].keys() != pairs[1].keys():
            return [f"{place}: {len(pairs[0].keys() ^ pairs[1].keys())} entries are on one side only"]
        return [
            found
            for key in pairs[0]
            if key not in ignored
            for found in differences(pairs[0][key], pairs[1][key], ignored, f"{place}/{key}".lstrip("/"))
        ]
    # NaN is NaN here, and 0.0 is not -0.0.
    return [] if repr(left) == repr(right) else [f"{place}: {left!r:.40} ≠ {right!r:.40}"]


def _bits(tensor: Any) -> bytes:
    import torch

    return bytes(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())


def _digests(path: Path) -> list[str]:
    seal = seal_path(path)
    return [line.split()[0] for line in seal.read_text().splitlines() if line.strip()] if seal.is_file() else []
