"""What a study will take before it is started, and what it still takes while it runs."""

import csv
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from spineseg.data.files import read_json
from spineseg.errors import SpinesegError
from spineseg.runs import TRAIN, Run
from spineseg.studies.folder import SETTLED, Job, StudyFolder


@dataclass(frozen=True)
class Cost:
    """What trainings of one recipe have taken.

    Attributes:
        seconds_an_epoch: from start to scores, divided by its epochs.
        disk_bytes: of the whole run folder.
        source: what it was taken from, for people.
    """

    seconds_an_epoch: float
    disk_bytes: int
    source: str


@dataclass(frozen=True)
class Estimate:
    """What is left to do.

    Attributes:
        jobs: that are open.
        seconds: of one worker after another, or side by side; None where nothing is known to go by.
        disk_bytes: None likewise.
        unknown: recipes that nothing is known of.
        sources: what it was taken from.
    """

    jobs: int
    seconds: float | None
    disk_bytes: int | None
    unknown: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()


def known_costs(folder: StudyFolder, jobs: Sequence[Job], runs: Path) -> dict[str, Cost]:
    """What each recipe of a study has taken so far: in the study, else in single runs of it.

    Args:
        folder: of the study.
        jobs: its jobs.
        runs: folder of all runs.
    """
    found: dict[str, Cost] = {}
    for recipe in dict.fromkeys(str(job.labels["recipe"]) for job in jobs):
        done = [job for job in jobs if job.labels["recipe"] == recipe and job.state == "done"]
        if done:
            seconds = statistics.mean(job.seconds / job.epochs for job in done)
            disk = int(statistics.mean(_size(folder.job(job.hash)) for job in done))
            found[recipe] = Cost(seconds, disk, f"{len(done)} finished job{'s' * (len(done) > 1)} of {recipe}")
            continue
        single = [cost for path in runs.glob(f"*/{recipe}/2*/results.json") if (cost := _of_run(Run(path.parent)))]
        if single:
            found[recipe] = max(single, key=lambda cost: cost.seconds_an_epoch)
    return found


def estimate(jobs: Sequence[Job], costs: Mapping[str, Cost], workers: int, left: Mapping[str, int]) -> Estimate:
    """What the open jobs will take.

    Args:
        jobs: of the study.
        costs: recipe → what it has taken.
        workers: side by side.
        left: job → epochs that it still needs, where that is fewer than it was planned with.
    """
    still = [job for job in jobs if job.state not in SETTLED]
    unknown = tuple(sorted({str(job.labels["recipe"]) for job in still} - set(costs)))
    if unknown or not still:
        return Estimate(len(still), None if still else 0.0, None if still else 0, unknown)
    cost = [costs[str(job.labels["recipe"])] for job in still]
    each = [left.get(job.hash, job.epochs) * one.seconds_an_epoch for job, one in zip(still, cost, strict=True)]
    seconds = max(sum(each) / workers, max(each))
    sources = tuple(sorted({one.source for one in cost}))
    return Estimate(len(still), seconds, sum(one.disk_bytes for one in cost), (), sources)


def epochs_of(run: Run) -> int:
    """Epochs that a run was to be trained for; 1 where that is not said."""
    return max(1, int(_trainer(run).get("max_epochs") or 1))


def epochs_left(run: Run | None, planned: int) -> int:
    """Epochs that a job still needs, by its log; its scoring counts as a part of each."""
    if run is None or not run.log.is_file():
        return planned
    with run.log.open(encoding="utf-8") as stream:
        seen = [row["epoch"] for row in csv.DictReader(stream) if row.get("epoch")]
    return max(1, planned - (int(seen[-1]) if seen and seen[-1].isdigit() else 0))


def shown_seconds(seconds: float) -> str:
    """A duration for people.

    >>> [shown_seconds(value) for value in (42, 150, 7300, 200000)]
    ['42 s', '2 min 30 s', '2 h 01 min', '2 d 7 h']
    """
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def shown_bytes(size: float) -> str:
    """A size for people.

    >>> shown_bytes(1234567)
    '1.2 MB'
    """
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def _of_run(run: Run) -> Cost | None:
    try:
        cost = read_json(run.results, "results 1", TRAIN)["cost"]
        seconds = float(cost["fit_seconds"]) / epochs_of(run)
    except (SpinesegError, KeyError, TypeError, ValueError):
        return None
    return Cost(seconds, _size(run.root), f"the single run {run.name}, its training alone")


def _trainer(run: Run) -> dict[str, Any]:
    try:
        content = yaml.safe_load(run.config.read_text(encoding="utf-8"))
        return dict(content["trainer"])
    except (OSError, KeyError, TypeError, ValueError, yaml.YAMLError):
        return {}


def _size(root: Path) -> int:
    return sum(path.stat().st_size for path in root.rglob("*") if path.is_file() and not path.is_symlink())
