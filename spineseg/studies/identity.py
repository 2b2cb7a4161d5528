"""Which training a job is: a hash of all that moves its numbers, and of nothing else (CONTRACTS, study folder)."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from spineseg.data.files import sha256_of_file, sha256_of_text
from spineseg.targets import build, plain

if TYPE_CHECKING:
    from spineseg.data.prepared import Prepared

HASH_LENGTH = 12  # hexadecimal digits: of a thousand jobs two meet once in 560 million studies
# Where and how fast, not what: left out of the hash. Data are told apart by the hash of their content.
PLACES = {
    "data": ("prepared_root", "workers", "split_file"),
    "data.source": ("root", "pairs", "download", "exclude"),
    "trainer": (
        *("accelerator", "devices", "num_nodes", "strategy", "precision", "benchmark"),
        *("enable_progress_bar", "enable_model_summary", "log_every_n_steps", "num_sanity_val_steps"),
    ),
    "callbacks": ("panels", "volume_panels", "throughput", "progress"),
    "callbacks.checkpoints": ("every_n_minutes",),
}
PARTS = ("seed", "data", "model", "task", "optim", "planner", "trainer", "callbacks")


@dataclass(frozen=True)
class DataIdentity:
    """What a training sees: as in ``provenance.json``, SHA-256 of the cases and of the split."""

    data_hash: str
    split_hash: str
    simulated: bool


class DataIdentities:
    """Says of each job what data it sees; prepares what is not there yet, once a source."""

    def __init__(self) -> None:
        self._prepared: dict[str, Any] = {}

    def __call__(self, cfg: DictConfig) -> DataIdentity:
        """What a training sees.

        Args:
            cfg: root configuration of ``train``.

        Raises:
            DataError: the set is not there, its audit fails, or the split leaks.
        """
        data: Any = plain(cfg.data)
        prepared = self._of_source(data)
        chosen = {key: data[key] for key in ("fold", "split_file", "overfit", "train_subjects")}
        split = prepared.split(**chosen)
        # As `lineage.hashes`, which needs a data module, and so torch.
        parts = {name: list(getattr(split, name)) for name in ("train", "val", "test")}
        cases = (prepared.root / "cases.csv").read_text(encoding="utf-8")
        return DataIdentity(sha256_of_text(cases), sha256_of_text(json.dumps(parts)), prepared.simulated)

    def _of_source(self, data: Mapping[str, Any]) -> "Prepared":
        from spineseg.data.preparation import prepare_source
        from spineseg.data.prepared import read_prepared
        from spineseg.data.sources import Source
        from spineseg.data.store import as_spacing

        # The store that the training will read: slices have square pixels and the scan's own spacing along X.
        spacing = [None, data["pixel_mm"], data["pixel_mm"]] if "pixel_mm" in data else data["spacing_mm"]
        resampling = data.get("resampling", "linear")
        key = json.dumps([data["source"], data["prepared_root"], spacing, resampling, data["split_seed"]])
        if key not in self._prepared:
            folder = prepare_source(
                build(data["source"], Source),  # type: ignore[type-abstract]
                prepared_root=Path(data["prepared_root"]),
                spacing_mm=as_spacing(spacing),
                resampling=resampling,
                split_seed=data["split_seed"],
            )
            self._prepared[key] = read_prepared(folder)
        found: Prepared = self._prepared[key]
        return found


def job_hash(cfg: DictConfig, data: DataIdentity, preset: str | None) -> str:
    """The name of a job: SHA-256 of all that moves its numbers.

    Args:
        cfg: root configuration of ``train``.
        data: what it sees.
        preset: as the study names it.

    Returns:
        The first 12 hexadecimal digits.
    """
    return sha256_of_text(json.dumps(job_content(cfg, data, preset), sort_keys=True))[:HASH_LENGTH]


def job_content(cfg: DictConfig, data: DataIdentity, preset: str | None) -> dict[str, Any]:
    """What the hash is taken of."""
    content: Any = plain(cfg)
    kept = {name: content.get(name) for name in PARTS}
    for path, names in PLACES.items():
        node: Any = kept
        for part in path.split("."):
            node = (node or {}).get(part)
        for name in names:
            (node or {}).pop(name, None)
    if kept["model"].get("weights") is not None:
        kept["model"]["weights"] = Path(str(kept["model"]["weights"])).name
    ancestor = None if content["init_from"] is None else _weights_of(content["init_from"], content["paths"]["runs"])
    identity = {"data_hash": data.data_hash, "split_hash": data.split_hash}
    return _numbers({**kept, "preset": preset, "init_from": ancestor, **identity})  # type: ignore[no-any-return]


def set_seed_and_fold(cfg: DictConfig, seed: int, fold: int) -> DictConfig:
    """The same configuration with another seed and fold, as `seed=` and `data.fold=` would make it, but at once."""
    other = cfg.copy()
    OmegaConf.update(other, "seed", seed)
    OmegaConf.update(other, "data.fold", fold)
    return other


def _weights_of(run: str, runs: str) -> str:
    """What the weights are that a job starts from, wherever they lie."""
    from spineseg.runs import best_checkpoint, find_run

    return sha256_of_file(best_checkpoint(find_run(run, Path(runs))))


def _numbers(content: Any) -> Any:
    """The same with 1 for 1.0: however a number is written, it is one number."""
    if isinstance(content, Mapping):
        return {str(key): _numbers(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_numbers(item) for item in content]
    return int(content) if isinstance(content, float) and content.is_integer() else content
