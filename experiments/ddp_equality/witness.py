"""A callback by which each process of a training writes down what it saw and holds."""

import hashlib
import json
from pathlib import Path
from typing import Any

import lightning

from spineseg.callbacks.ema import EMA


class Witness(lightning.Callback):
    """Writes `<folder>/<rank>.json` after the last validation.

    Args:
        folder: where to.
    """

    def __init__(self, folder: str) -> None:
        self.folder, self.seen = Path(folder), []

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Forget the validation before."""
        self.seen = []

    def on_validation_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Remember the slices."""
        self.seen.append([[ref.case, ref.x] for ref in batch["refs"]])

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Write what is known; the EMA has taken its average out of the network again."""
        (ema,) = (callback for callback in trainer.callbacks if isinstance(callback, EMA))
        content = {
            "seen": self.seen,
            "weights": digest(dict(pl_module.named_parameters())),
            "average": digest(ema._average),
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / f"{trainer.global_rank}.json").write_text(json.dumps(content), encoding="utf-8")


def digest(tensors: dict[str, Any]) -> str:
    """SHA-256 of the bits of named tensors."""
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(name.encode() + tensor.detach().contiguous().numpy().tobytes())
    return found.hexdigest()
