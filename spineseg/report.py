"""``report``: scored runs → tables (Markdown, CSV, LaTeX), figures (PDF, PNG), a checklist and one HTML page.

Importing this module must stay cheap: ``--help`` waits for it.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from spineseg.config import check, program

if TYPE_CHECKING:
    from omegaconf import DictConfig

__all__ = ["find_runs", "main"]

_GLOB = set("*?[")


@program("report")
def main(cfg: "DictConfig") -> None:
    """Write a report and print its headline."""
    check(cfg)
    from spineseg.errors import ConfigError, DataError

    if not cfg.runs and cfg.study_folder is None:
        raise ConfigError("runs=[] and study=null: nothing to report; name runs, evaluation folders or a study")
    # numexpr announces its threads when pandas finds it, fonttools each font that it embeds.
    for name in ("numexpr", "fontTools", "matplotlib"):
        logging.getLogger(name).setLevel(logging.WARNING)
    from spineseg.reporting.build import build_report
    from spineseg.reporting.markdown import markdown_table

    found, unscored = find_runs(list(cfg.runs), Path(cfg.paths.runs), split=cfg.split)
    if unscored and cfg.unscored == "refuse":
        listed = "\n  ".join(str(path) for path in unscored)
        raise ConfigError(
            f"runs: {len(unscored)} of {len(found) + len(unscored)} runs have no scores of the split '{cfg.split}':\n"
            f"  {listed}\nFinish them (`python -m spineseg.train resume=<run>`), or say unscored=list: they are then "
            "named in the report"
        )
    if not found and cfg.study_folder is None:
        raise DataError(
            f"runs: none of {len(unscored)} runs has scores of the split '{cfg.split}', so there is nothing to report; "
            "finish one (`python -m spineseg.train resume=<run>`), or choose another split="
        )
    output = Path(cfg.output)
    report = build_report(
        found,
        output,
        study=None if cfg.study_folder is None else _study(cfg.study_folder, Path(cfg.paths.runs)),
        split=cfg.split,
        title=cfg.title,
        labels=dict(cfg.labels),
        unscored=unscored,
        worst=cfg.worst,
        resamples=cfg.resamples,
        html=cfg.html,
    )
    print(markdown_table(next(iter(report.tables.values()))))
    print(f"\n{len(report.tables)} tables and {len(report.figures)} figures written to {output}")


def find_runs(names: Sequence[str], runs: Path, *, split: str = "test") -> tuple[list[Path], list[Path]]:
    """Folders of runs and evaluations by path, by name below ``paths.runs``, or by glob; each once, in that order.

    Args:
        names: what ``runs=`` says.
        runs: folder of all runs.
        split: that runs are to be scored on.

    Returns:
        Those with scores, and runs without.

    Raises:
        DataError: nothing there.
    """
    from spineseg.errors import DataError
    from spineseg.reporting.runs import SUMMARY, is_scored
    from spineseg.runs import find_run

    found: dict[Path, None] = {}
    for name in names:
        if not _GLOB & set(name) or Path(name).exists():
            path = Path(name) if (Path(name) / SUMMARY).is_file() else find_run(name, runs).root
            found[path.resolve()] = None
            continue
        matching = [path for place in (Path(name), runs / name) for path in _matching(place)]
        chosen = [path for path in matching if (path / SUMMARY).is_file() or (path / "config.yaml").is_file()]
        # `*/*` finds the newest run of a name under its time and as `latest`.
        found |= dict.fromkeys(path.resolve() for path in chosen)
        if not chosen:
            raise DataError(
                f"{name}: no run and no evaluation there ({len(matching)} other matches), nor below {runs}; expected "
                "folders with config.yaml or summary.json"
            )
    scored = [path for path in found if is_scored(path, split=split)]
    return scored, [path for path in found if path not in scored]


def _study(name: str, runs: Path) -> Path:
    """A study's folder, by path or by its name below ``paths.runs``."""
    below = runs / "studies" / name
    return below if not Path(name).exists() and below.is_dir() else Path(name)


def _matching(pattern: Path) -> list[Path]:
    """What a glob finds, without what is hidden there, such as a run that is still being made."""
    anchor = Path(pattern.anchor)
    found = anchor.glob(str(pattern.relative_to(anchor)) if pattern.anchor else str(pattern))
    return sorted(
        path for path in found if not any(part.startswith(".") for part in set(path.parts) - set(pattern.parts))
    )


if __name__ == "__main__":
    main()
