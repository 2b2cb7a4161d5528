"""Train Ultralytics' trainer and ours on the same slices with the same recipe, and compare what comes out.

Resumable: each job is a process of its own and leaves a file in ``<work>/jobs``; finished jobs are skipped. See
README.md for the question, the command and the table.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from recipe import Recipe
from table import write_table

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent))

from jobs import finish, keep, result  # noqa: E402  # beside the experiments

# Loader processes that are tried for each one's best speed.
LOADERS = (0, 1)


def names(recipe: Recipe) -> list[str]:
    """Every job, in order; what a job needs is done by jobs before it."""
    # Alternating, so that a machine that slows down slows both.
    trained = [f"{kind}-{seed}" for seed in recipe.seeds for kind in ("theirs", "ours")]
    fastest = [f"{kind}-best-{workers}" for workers in LOADERS for kind in ("theirs", "ours")]
    return ["simulate", "export", *trained, *fastest, *(f"score-{name}" for name in trained), "postprocess"]


def do(name: str, recipe: Recipe, work: Path) -> dict[str, Any]:
    """One job."""
    import postprocess
    import scoring
    import slices

    if name in ("simulate", "export"):
        return dict(getattr(slices, name)(recipe, work))
    first = recipe.seeds[0]
    if name == "postprocess":
        return postprocess.measure(recipe, work, weights=result(work, f"ours-{first}")["weights"])
    if name.startswith("score-"):
        name = name.removeprefix("score-")
        kind, _, seed = name.partition("-")
        weights = result(work, name)["weights"]
        return scoring.score(recipe, work, kind=kind, weights=weights, name=name, seed=int(seed))
    size = list(result(work, "export")["size"])
    kind, _, what = name.partition("-")
    fastest, _, workers = what.partition("-")
    if fastest == "best":
        # Two epochs, for a speed alone; a loader process takes a thread's place.
        short = replace(recipe, epochs=min(recipe.epochs, 2), threads=max(1, recipe.threads - int(workers)))
        return _train(kind, short, work, name, first, size, best=True, workers=int(workers))
    return _train(kind, recipe, work, name, int(what), size)


def _train(
    kind: str,
    recipe: Recipe,
    work: Path,
    name: str,
    seed: int,
    size: list[int],
    *,
    best: bool = False,
    workers: int = 0,
) -> dict[str, Any]:
    import training

    if kind == "theirs":
        return training.theirs(recipe, work, name=name, seed=seed, cache=best, size=size, workers=workers)
    precision = "bf16-mixed" if best else "32"
    return training.ours(recipe, work, name=name, seed=seed, precision=precision, size=size, workers=workers)


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
        keep(work, given.job, do(given.job, Recipe.read(work), work))
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
    print(write_table(recipe, finish(HERE / "run.py", work, names(recipe)), work))


if __name__ == "__main__":
    main()
