"""Studies on disk for tests, made of scored runs and of nothing that was trained."""

import atexit
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from spineseg.geometry import Volume
from spineseg.metrics.folder import evaluate_folder
from spineseg.metrics.references import Reference
from spineseg.predictions.store import PredictionWriter
from spineseg.studies.folder import Job, StudyFolder

AFFINE = np.diag([3.0, 2.0, 2.0, 1.0])
# Subjects of the test split of each fold.
PEOPLE = {0: ("anna", "bert", "carl"), 1: ("dora", "emil", "fritz")}


def truth(subject: str) -> Volume:
    labels = np.zeros((4, 20, 30), np.uint8)
    for row, level in enumerate((20, 21, 22)):
        labels[:, 4 : 14 + len(subject) % 3, 3 + 9 * row : 10 + 9 * row] = level
    return Volume(labels, AFFINE)


def predicted(subject: str, cut: int) -> Volume:
    """The truth without its first ``cut`` rows."""
    labels = truth(subject).array.copy()
    labels[:, 4 : 4 + cut] = 0
    return Volume(labels, AFFINE)


def write_run(root: Path, subjects: Sequence[str], cut: Callable[[str], int], *, seed: int, wandb: str) -> None:
    """A run folder with an evaluation of its test split, called by its job as a study calls it."""
    shutil.copytree(evaluated(tuple(subjects), tuple(cut(subject) for subject in subjects)), root)
    job = root.parent.name
    summary = root / "evaluation" / "test" / "summary.json"
    summary.write_text(json.dumps({**json.loads(summary.read_text()), "run": f"jobs/{job}/{root.name}"}))
    content: dict[str, Any] = {"format": "config 1", "run": {"group": "jobs", "name": job}, "seed": seed}
    content["logger"] = {"wandb": {"mode": wandb, "project": "spines"}}
    (root / "config.yaml").write_text(yaml.safe_dump(content))


@cache
def evaluated(subjects: tuple[str, ...], cuts: tuple[int, ...]) -> Path:
    """Predictions and their evaluation, made once for all runs that have equal ones."""
    root = Path(tempfile.mkdtemp(prefix="spineseg-study-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    predictions = root / "predictions" / "test"
    with PredictionWriter(predictions, provenance={"run": "g/unet_csi/x", "split": "test"}) as writer:
        for subject, cut in zip(subjects, cuts, strict=True):
            writer.write(subject, predicted(subject, cut), "levels", None, seconds=1.0, peak_mb=1.0)
    references = [Reference(name, name, partial(truth, name), (), "tiny") for name in subjects]
    evaluation = root / "evaluation" / "test"
    evaluate_folder(
        references, predictions, evaluation, edge="ignore", run="g/unet_csi/x", split="test", simulated=False
    )
    return root


def write_matrix(
    root: Path,
    cuts: Mapping[str, int],
    *,
    seeds: Sequence[int] = (0, 1, 2),
    simulated: bool = False,
    failed: Sequence[tuple[str, int, int]] = (),
    axis: str = "flip",
    wandb: str = "offline",
) -> StudyFolder:
    """A study of one axis.

    Args:
        root: its folder.
        cuts: label → rows that its predictions lack; of these every other seed lacks one more.
        seeds: of each label.
        simulated: whether its data is said to be.
        failed: (label, seed, fold) of jobs that failed.
        axis: its name; the first label is the baseline.
        wandb: mode in which the jobs were tracked.
    """
    folder = StudyFolder(root)
    jobs = []
    for label, cut in cuts.items():
        for seed in seeds:
            for fold, subjects in PEOPLE.items():
                name = f"{label}-{seed}-{fold}"
                bad = (label, seed, fold) in failed
                labels = {"recipe": "unet_csi", axis: label, "seed": seed, "fold": fold}
                more = {"state": "failed", "error": "out of memory"} if bad else {"state": "done", "value": 0.5}
                jobs.append(Job(name, labels, (), simulated, "d", "s", seconds=60.0, attempts=1, **more))  # type: ignore[arg-type]
                if not bad:

                    def rows(subject: str, cut: int = cut, seed: int = seed) -> int:
                        return cut + (seed + len(subject)) % 2

                    write_run(folder.job(name) / "2026-01-01_00-00-00", subjects, rows, seed=seed, wandb=wandb)
    write_study(folder, jobs, baseline={axis: next(iter(cuts))})
    return folder


def write_search(root: Path, values: Callable[[Mapping[str, Any]], float], *, trials: int = 24) -> StudyFolder:
    """A search whose trials have the values of a function of their parameters."""
    space = {"optim.lr0": {"low": 1e-4, "high": 1e-1, "log": True}, "data.foreground": {"low": 0.0, "high": 1.0}}
    random = np.random.default_rng(0)
    jobs = []
    for trial in range(trials):
        drawn = {"optim.lr0": float(10 ** random.uniform(-4, -1)), "data.foreground": float(random.uniform())}
        labels = {"recipe": "unet_csi", **drawn, "seed": 0, "fold": 0}
        state: dict[str, Any] = {"state": "done", "value": values(drawn)}
        if trial == 5:
            state = {"state": "failed", "error": "killed"}
        jobs.append(Job(f"trial{trial}", labels, (), True, "d", "s", seconds=1.0, trials=(trial,), **state))
    folder = StudyFolder(root)
    search = {"sampler": "random", "trials": trials, "space": space, "direction": "maximize", "metric": None}
    write_study(folder, jobs, baseline={}, search=search)
    return folder


def write_study(
    folder: StudyFolder, jobs: Sequence[Job], *, baseline: Mapping[str, str], search: Mapping[str, Any] | None = None
) -> None:
    for job in jobs:
        folder.add_job(job)
    asked = {"name": "flips", "question": "Do flips help?", "metric": "dice", "split": "val" if search else "test"}
    plan = [] if search else [job.hash for job in jobs]
    folder.write_study({**asked, "baseline": dict(baseline), "search": search, "plan": plan})
    folder.write_ledger()
