"""Compare nnU-Net's own trainer and predictor with ours, for one plan made by nnU-Net.

Resumable: each job is a process of its own and leaves a file in ``<work>/jobs``; finished jobs are skipped. See
README.md for the question, the command and the table.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from recipe import Recipe

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent))

from jobs import finish, keep, result  # noqa: E402  # beside the experiments


def names(recipe: Recipe) -> list[str]:
    """Every job, in order; what a job needs is done by jobs before it."""
    # Alternating, so that a machine that slows down slows both.
    trained = [f"{kind}-{seed}" for seed in recipe.seeds for kind in ("theirs", "ours")]
    return ["simulate", "prepare", *trained, "ours-bf16", "equality"]


def do(name: str, recipe: Recipe, work: Path) -> dict[str, Any]:
    """One job."""
    import equality
    import scans
    import training

    if name in ("simulate", "prepare"):
        return dict(getattr(scans, name)(recipe, work))
    if name == "equality":
        return equality.measure(recipe, work, Path(result(work, f"theirs-{recipe.seeds[0]}")["weights"]))
    kind, _, what = name.partition("-")
    if what == "bf16":
        return training.ours(
            recipe, work, name=name, seed=recipe.seeds[0], precision="bf16-mixed", epochs=recipe.short_epochs
        )
    if kind == "theirs":
        return training.theirs(recipe, work, name=name, seed=int(what), epochs=recipe.epochs)
    return training.ours(recipe, work, name=name, seed=int(what), precision="32", epochs=recipe.epochs)


def main() -> None:
    """Do what is not done yet, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for data, runs and the table")
    parser.add_argument("--scans", type=Path, help="a set in the Kaggle layout; else six small ones are simulated")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=Recipe.epochs)
    parser.add_argument("--iterations", type=int, default=Recipe.iterations, help="of an epoch")
    parser.add_argument("--threads", type=int, default=Recipe.threads, help="of both trainers")
    parser.add_argument("--tiny", action="store_true", help="one seed, a few steps: tries the script, no more")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    given = parser.parse_args()
    work = given.work.resolve()
    if given.job:
        keep(work, given.job, do(given.job, Recipe.read(work), work))
        return
    (work / "jobs").mkdir(parents=True, exist_ok=True)
    scans = None if given.scans is None else str(given.scans.resolve())
    if given.tiny:
        recipe = Recipe(
            scans=scans, spacing_mm=6.0, patch=(8, 16, 16), features=(4, 8, 8), iterations=3, epochs=2, short_epochs=1,
            seeds=(0,), threads=given.threads,
        )  # fmt: skip
    else:
        recipe = Recipe(
            scans=scans,
            iterations=given.iterations,
            epochs=given.epochs,
            seeds=tuple(given.seeds),
            threads=given.threads,
        )
    recipe.write(work)
    from table import write_table

    print(write_table(recipe, finish(HERE / "run.py", work, names(recipe)), work))


if __name__ == "__main__":
    main()
