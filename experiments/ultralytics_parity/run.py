"""Train Ultralytics' trainer and ours on the same slices with the same recipe, and compare what comes out.

Resumable: each job is a process of its own and leaves a file in ``<work>/jobs``; finished jobs are skipped. See
README.md for the question, the command and the table.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from recipe import Recipe
from table import write_table

HERE = Path(__file__).resolve().parent
# Loader processes that are tried for each one's best speed.
LOADERS = (0, 1)


def jobs(recipe: Recipe) -> dict[str, Callable[[Recipe, Path], dict[str, Any]]]:
    """Every job by name, in order; what a job needs is done by jobs before it."""
    import postprocess
    import scoring
    import slices
    import training

    def size(work: Path) -> list[int]:
        return list(result(work, "export")["size"])

    found: dict[str, Callable[[Recipe, Path], dict[str, Any]]] = {"simulate": slices.simulate, "export": slices.export}
    for seed in recipe.seeds:
        # Alternating, so that a machine that slows down slows both.
        found[f"theirs-{seed}"] = lambda r, w, s=seed: training.theirs(
            r, w, name=f"theirs-{s}", seed=s, cache=False, size=size(w)
        )
        found[f"ours-{seed}"] = lambda r, w, s=seed: training.ours(
            r, w, name=f"ours-{s}", seed=s, precision="32", size=size(w)
        )
    first = recipe.seeds[0]
    for workers in LOADERS:
        alone = short(recipe, workers)
        found[f"theirs-best-{workers}"] = lambda _, w, r=alone, n=workers: training.theirs(
            r, w, name=f"theirs-best-{n}", seed=first, cache=True, size=size(w), workers=n
        )
        found[f"ours-best-{workers}"] = lambda _, w, r=alone, n=workers: training.ours(
            r, w, name=f"ours-best-{n}", seed=first, precision="bf16-mixed", size=size(w), workers=n
        )
    for seed in recipe.seeds:
        for kind in ("theirs", "ours"):
            found[f"score-{kind}-{seed}"] = lambda r, w, k=kind, s=seed: scoring.score(
                r, w, kind=k, weights=result(w, f"{k}-{s}")["weights"], name=f"{k}-{s}", seed=s
            )
    found["postprocess"] = lambda r, w: postprocess.measure(r, w, weights=result(w, f"ours-{first}")["weights"])
    return found


def short(recipe: Recipe, workers: int) -> Recipe:
    """Two epochs, for a speed alone; a loader process takes a thread's place."""
    return replace(recipe, epochs=min(recipe.epochs, 2), threads=max(1, recipe.threads - workers))


def names(recipe: Recipe) -> list[str]:
    """The jobs' names, without importing what they need."""
    trained = [f"{kind}-{seed}" for seed in recipe.seeds for kind in ("theirs", "ours")]
    scored = [f"score-{kind}-{seed}" for seed in recipe.seeds for kind in ("theirs", "ours")]
    fastest = [f"{kind}-best-{workers}" for workers in LOADERS for kind in ("theirs", "ours")]
    return ["simulate", "export", *trained, *fastest, *scored, "postprocess"]


def result(work: Path, name: str) -> dict[str, Any]:
    """What a finished job left."""
    return dict(json.loads((work / "jobs" / f"{name}.json").read_text()))


def one(name: str, work: Path) -> None:
    """Do one job in this process."""
    recipe = Recipe.read(work)
    found = jobs(recipe)[name](recipe, work)
    partial = work / "jobs" / f".{name}.partial"
    partial.write_text(json.dumps(found, indent=1))
    partial.replace(work / "jobs" / f"{name}.json")


def main() -> None:
    """Do what is not done yet, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for data, runs and the table")
    parser.add_argument("--scans", type=Path, help="a set in CSI 2014's layout; else ten small ones are simulated")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=Recipe.epochs)
    parser.add_argument("--pixel-mm", type=float, default=Recipe.pixel_mm)
    parser.add_argument("--threads", type=int, default=Recipe.threads, help="of both trainers")
    parser.add_argument("--masks", choices=("bitmap", "polygon"), default=Recipe.masks, help="targets of ours")
    parser.add_argument("--tiny", action="store_true", help="one seed, one epoch, 24 slices: tries the script, no more")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    given = parser.parse_args()
    work = given.work.resolve()
    if given.job:
        one(given.job, work)
        return
    (work / "jobs").mkdir(parents=True, exist_ok=True)
    recipe = Recipe(
        scans=None if given.scans is None else str(given.scans.resolve()),
        pixel_mm=3.0 if given.tiny else given.pixel_mm,
        epochs=1 if given.tiny else given.epochs,
        seeds=(0,) if given.tiny else tuple(given.seeds),
        threads=given.threads,
        masks=given.masks,
        train_slices=24 if given.tiny else None,
    )
    recipe.write(work)
    todo = names(recipe)
    for number, name in enumerate(todo, start=1):
        if (work / "jobs" / f"{name}.json").is_file():
            print(f"[{number}/{len(todo)}] {name}: done before", flush=True)
            continue
        print(f"[{number}/{len(todo)}] {name} …", end=" ", flush=True)
        started = time.perf_counter()
        log = work / "jobs" / f"{name}.log"
        command = [sys.executable, str(HERE / "run.py"), "--work", str(work), "--job", name]
        with log.open("w") as stream:
            done = subprocess.run(command, stdout=stream, stderr=subprocess.STDOUT, check=False)
        print(f"{time.perf_counter() - started:.0f} s", flush=True)
        if done.returncode:
            tail = "\n  ".join(log.read_text().splitlines()[-12:])
            raise SystemExit(f"error: job {name} failed, see {log}:\n  {tail}")
    print(write_table(recipe, {name: result(work, name) for name in todo}, work))


if __name__ == "__main__":
    main()
