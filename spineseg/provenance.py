"""What a run was made of and made on: versions, git state, hardware, cost."""

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from spineseg import __version__
from spineseg.costs import peak_memory
from spineseg.data.files import read_json, write_json
from spineseg.processors import processors
from spineseg.runs import TRAIN, Run

PROVENANCE_FORMAT = "provenance 1"
# What a number can depend on.
PACKAGES = (
    "blosc2",
    "hydra-core",
    "lightning",
    "nibabel",
    "numpy",
    "omegaconf",
    "pandas",
    "pycocotools",
    "scipy",
    "simpleitk",
    "torch",
    "torchvision",
    "ultralytics",
    "wandb",
)


def write_provenance(run: Run, **facts: Any) -> None:
    """Write or extend `provenance.json`; what was written before and is not given again stays.

    Args:
        run: The run.
        facts: What only the program knows: data and split hashes, `simulated`, precision, seed, seconds, parameters, …
    """
    content = read_provenance(run) if run.provenance.is_file() else {"format": PROVENANCE_FORMAT, "started": _now()}
    current = {
        "spineseg": __version__,
        "python": platform.python_version(),
        "versions": versions(),
        "git": git_state(),
        "hardware": hardware(),
        "written": _now(),
        **peak_memory(),
        **facts,
    }
    write_json(run.provenance, {**content, **current})


def subjects_seen(known: Mapping[str, Any]) -> set[str]:
    """Subjects that weights were trained on, those of the runs that they began with among them where that was recorded.

    Args:
        known: provenance of a run, or what predictions say of where they come from.
    """
    return set(known.get("seen_subjects") or known.get("train_subjects") or ())


def read_provenance(run: Run) -> dict[str, Any]:
    """Read `provenance.json`.

    Raises:
        DataError: Missing or damaged.
        FormatError: Another format or version.
    """
    return read_json(run.provenance, PROVENANCE_FORMAT, TRAIN)


def versions() -> dict[str, str]:
    """Return the versions of the packages that a number can depend on, as far as they are installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def git_state() -> Mapping[str, Any] | None:
    """Return commit and uncommitted files of the checkout that the package runs from; None for an installed one."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists() or shutil.which("git") is None:
        return None
    commit = _git(root, "rev-parse", "HEAD")
    changed = _git(root, "status", "--porcelain", "--", "spineseg", "conf")
    return {"commit": commit or None, "changed": changed.splitlines() if changed else []}


def hardware() -> dict[str, Any]:
    """Return processor, cores, memory and accelerators; nothing that names the machine."""
    found: dict[str, Any] = {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": processors(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
    }
    torch = sys.modules.get("torch")  # a program that did not need it must not wait for it here
    if torch is not None:
        found["threads"] = torch.get_num_threads()
        found["accelerators"] = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return found


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
