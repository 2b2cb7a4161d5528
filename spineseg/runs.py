"""A run on disk: `<paths.runs>/<run.group>/<run.name>/<time>/`, what lies in it, and how it is found again.

Importing this module must stay cheap; nothing here needs torch until a checkpoint is read.
"""

import errno
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from spineseg.data.files import read_json, write_json, write_text
from spineseg.errors import ConfigError, DataError, FormatError
from spineseg.metrics import PROTOCOL
from spineseg.targets import nearest, plain

CONFIG_FORMAT = "config 1"
RESULTS_FORMAT = "results 1"
TRAIN = "python -m spineseg.train"
_SECRET = re.compile(r"(api|access|secret|private)[_-]?key|passw|token|secret|credential", re.IGNORECASE)


@dataclass(frozen=True)
class Run:
    """The folder of one training run."""

    root: Path

    @property
    def name(self) -> str:
        """Group, name and time, as they stand in tables: `csi2014/yolo_csi/<time>`."""
        return "/".join(self.root.parts[-3:])

    @property
    def config(self) -> Path:
        """The resolved configuration, without secrets."""
        return self.root / "config.yaml"

    @property
    def overrides(self) -> Path:
        """What stood on the command line, one override a line."""
        return self.root / "overrides.txt"

    @property
    def provenance(self) -> Path:
        """Versions, git state, data, hardware, seed, cost."""
        return self.root / "provenance.json"

    @property
    def checkpoints(self) -> Path:
        """Folder of `last.ckpt` and `best.ckpt`."""
        return self.root / "checkpoints"

    @property
    def last(self) -> Path:
        """The checkpoint to go on from."""
        return self.checkpoints / "last.ckpt"

    @property
    def best(self) -> Path:
        """The checkpoint to predict with."""
        return self.checkpoints / "best.ckpt"

    @property
    def log(self) -> Path:
        """Every logged value."""
        return self.root / "log.csv"

    @property
    def results(self) -> Path:
        """The scores, split by split."""
        return self.root / "results.json"

    def predictions(self, split: str) -> Path:
        """Folder of the predictions of a split."""
        return self.root / "predictions" / split

    def evaluation(self, split: str) -> Path:
        """Folder of the evaluation of a split."""
        return self.root / "evaluation" / split


def create_run(cfg: DictConfig, overrides: list[str] | None = None) -> Run:
    """Make the folder of a new run, whole from the first moment: it appears with its configuration in it.

    Args:
        cfg: Root configuration of `train`.
        overrides: What stood on the command line.

    Raises:
        ConfigError: A name that is not a plain folder name.
        DataError: The folder cannot be written.
    """
    for key in ("group", "name"):
        if not re.fullmatch(r"[\w][\w .+=,-]*", str(cfg.run[key])):
            raise ConfigError(f"run.{key}={cfg.run[key]}: expected a plain folder name of letters, digits, _ . + = , -")
    parent = Path(cfg.paths.runs).absolute() / str(cfg.run.group) / str(cfg.run.name)
    try:
        partial = Run(parent / f".partial-{secrets.token_hex(4)}")
        partial.checkpoints.mkdir(parents=True, exist_ok=True)
        content = {"format": CONFIG_FORMAT, **without_secrets(plain(cfg))}
        write_text(partial.config, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
        write_text(partial.overrides, "".join(f"{each}\n" for each in overrides or [] if not _SECRET.search(each)))
        run = Run(_publish_folder(partial.root, parent))
        _point_latest(parent / "latest", run.root)
    except OSError as error:
        raise DataError(f"{parent}: a run folder cannot be made there ({error}); set paths.runs=") from error
    return run


def find_run(where: str | Path, runs: Path | None = None) -> Run:
    """Find a run by its folder, its `latest` link, the folder of its group and name, or a file in its checkpoints.

    Args:
        where: Path, or `group/name` and `group/name/time` below `runs`.
        runs: Folder of all runs (`paths.runs`).

    Raises:
        DataError: There is no run, with the runs that there are.
    """
    candidates = [Path(where), *([runs / where] if runs is not None else [])]
    for path in candidates:
        folder = path.parent.parent if path.is_file() and path.parent.name == "checkpoints" else path
        for root in (folder, folder / "latest"):
            if (root / "config.yaml").is_file():
                return Run(root.resolve())
    there = [str(path.parent.relative_to(runs)) for path in runs.glob("*/*/*/config.yaml")] if runs is not None else []
    there = [name for name in there if not name.endswith("/latest") and "/." not in name]
    raise DataError(f"{where}: no run there (a folder with config.yaml); {nearest(str(where), there)}")


def read_config(run: Run) -> DictConfig:
    """Read the configuration of a run.

    It may have come with somebody's checkpoint: it is read as plain YAML and may hold no interpolation, which could
    read this machine's environment. `targets.build` refuses what it must not call.

    Raises:
        DataError: Missing or damaged.
        FormatError: Another format, or an interpolation.
    """
    try:
        content = yaml.safe_load(run.config.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise DataError(f"{run.config}: cannot be read ({error}); `{TRAIN}` writes it") from error
    found = content.pop("format", None) if isinstance(content, dict) else None
    if found != CONFIG_FORMAT:
        raise FormatError(f"{run.config}: expected format '{CONFIG_FORMAT}', found '{found}'; `{TRAIN}` writes it")
    if _has_interpolation(content):
        raise FormatError(f"{run.config}: holds ${{…}}; a run's configuration is resolved and may not")
    cfg = DictConfig(content)
    OmegaConf.set_struct(cfg, True)
    return cfg


def best_checkpoint(run: Run) -> Path:
    """Return the checkpoint to predict with: `best.ckpt`, or `last.ckpt` where no value chose a best.

    Raises:
        DataError: There is neither.
    """
    for path in (run.best, run.last):
        if path.is_file():
            return path
    raise DataError(f"{run.checkpoints}: no checkpoint; the run ended before its first epoch did: train it again")


def write_results(
    run: Run, splits: Mapping[str, Mapping[str, Any]], *, simulated: bool, cost: Mapping[str, Any] | None = None
) -> None:
    """Write `results.json`; splits scored earlier stay.

    Args:
        run: The run.
        splits: Split name → metric → `{"value", "low", "high", "subjects"}` or `{"value": None, "status": "n/a"}`.
        simulated: Whether any of the data was.
        cost: Seconds, memory and the like.
    """
    earlier = read_results(run) if run.results.is_file() else {}
    merged = {**earlier.get("splits", {}), **{name: dict(metrics) for name, metrics in splits.items()}}
    costs = {**earlier.get("cost", {}), **(cost or {})}
    write_json(
        run.results,
        {"format": RESULTS_FORMAT, "protocol": PROTOCOL, "simulated": simulated, "splits": merged, "cost": costs},
    )


def read_results(run: Run) -> dict[str, Any]:
    """Read `results.json`.

    Raises:
        DataError: Missing or damaged.
        FormatError: Another format or version.
    """
    return read_json(run.results, RESULTS_FORMAT, TRAIN)


def without_secrets(content: Any) -> Any:
    """Return plain containers without the keys that name secrets (keys, tokens, passwords)."""
    if isinstance(content, Mapping):
        kept = {key: value for key, value in content.items() if not _SECRET.search(str(key))}
        return {key: without_secrets(value) for key, value in kept.items()}
    return [without_secrets(item) for item in content] if isinstance(content, list | tuple) else content


def shareable(content: Any) -> Any:
    """Return plain containers that may leave the machine: no secrets, and of a path only the last part.

    >>> shareable({"root": "/scans/of/somebody/set", "seed": 1, "api_key": "x"})
    {'root': '…/set', 'seed': 1}
    """
    if isinstance(content, Mapping):
        return {key: shareable(value) for key, value in without_secrets(content).items()}
    if isinstance(content, list | tuple):
        return [shareable(item) for item in content]
    if isinstance(content, Path) or (isinstance(content, str) and content.startswith(("/", "~", "../"))):
        return f"…/{Path(content).name}"
    return content


def _has_interpolation(content: Any) -> bool:
    if isinstance(content, Mapping):
        return any(_has_interpolation(key) or _has_interpolation(value) for key, value in content.items())
    if isinstance(content, list):
        return any(_has_interpolation(item) for item in content)
    return isinstance(content, str) and "${" in content


def _publish_folder(partial: Path, parent: Path) -> Path:
    """Give a folder the present time for a name."""
    time = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    for number in range(1, 1000):
        folder = parent / (time if number == 1 else f"{time}-{number}")
        try:
            partial.rename(folder)  # of two that start in one second, one gets it: a folder with files stays
        except OSError as error:
            if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
                continue
            raise
        return folder
    raise FileExistsError(f"{parent / time}: 999 runs in one second")


def _point_latest(link: Path, folder: Path) -> None:
    """Point the link at the newest run in one step, so that a reader never finds none."""
    partial = link.with_name(f".partial-{os.getpid()}-latest")
    partial.unlink(missing_ok=True)
    partial.symlink_to(folder.name)
    partial.replace(link)
