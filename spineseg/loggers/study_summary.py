"""The summary run of a study in Weights & Biases: its tables, figures and counts, beside the runs of its jobs."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from spineseg.loggers.wandb import Mode, WandbLogger
from spineseg.reporting.runs import Table
from spineseg.reporting.study_results import StudyResults, read_study

TAGS: Final = ("study", "summary")


class StudySummary(WandbLogger):
    """Tracks a study as one run of the group of its jobs; a failure of W&B ends the tracking, nothing else.

    Args:
        folder: of the study; W&B's files lie in its ``wandb/``.
        name: of the study, which is the group of its jobs' runs.
        mode: ``offline``, ``online`` or ``disabled``.
        project: W&B project.
    """

    def __init__(self, folder: Path, name: str, mode: Mode = "offline", project: str = "spineseg") -> None:
        """Start nothing yet."""
        super().__init__(folder, mode=mode, project=project, name=f"{name} summary", group=name, tags=list(TAGS))

    def log_report_table(self, table: Table) -> None:
        """Log a table as it is printed; its caption and notes go to the summary."""

        def send() -> None:
            import wandb

            texts = table.frame.astype(str)
            rows: list[Iterable[Any]] = [list(row) for row in texts.to_numpy()]
            shown = wandb.Table(columns=list(map(str, texts.columns)), data=rows)
            self._log({f"tables/{table.name}": shown}, None)
            self.log_summary({f"captions/{table.name}": " ".join((table.caption, *table.notes))})  # type: ignore[dict-item]

        if self.mode != "disabled":
            self._guarded(send)


def log_study(root: Path, figures: Path) -> bool:
    """Log a study's summary run as its jobs were logged: their W&B mode and project.

    Args:
        root: the study's folder.
        figures: where its figures are drawn.

    Returns:
        Whether there was something to log: not where the jobs' own tracking was off.

    Raises:
        DataError: no study there, or no job of it is done.
    """
    from spineseg.reporting.study import study_figures, study_tables

    study = read_study(root)
    tables = study_tables(root)
    settings = wandb_settings(study)
    if settings is None:
        return False
    logger = StudySummary(root, study.name, **settings)
    logger.log_hyperparams(
        {"study": study.name, "question": study.question, "metric": study.metric, "simulated": study.simulated}
    )
    for table in tables:
        logger.log_report_table(table)
    for name, path in study_figures(root, figures).items():
        logger.log_image(f"figures/{name}", [str(path)])
    logger.log_summary(counts(study))
    logger.close()
    return True


def counts(study: StudyResults) -> dict[str, float]:
    """Jobs in all and by state, and of a search the best value."""
    states = [job.state for job in study.jobs]
    found: dict[str, float] = {"jobs": len(states), **{f"jobs/{state}": states.count(state) for state in set(states)}}
    if study.search is not None:
        from spineseg.reporting.study_search import better_first

        ranked = better_first(study)
        if ranked:
            trial, job = ranked[0]
            found |= {"best/trial": trial, f"best/{study.metric}": job.value or 0.0}
    return found


def wandb_settings(study: StudyResults) -> dict[str, Any] | None:
    """Mode and project of the jobs' tracking; None where they were not tracked."""
    for run in study.runs.values():
        logger = run.config.get("logger") or {}
        node: Mapping[str, Any] | None = logger.get("wandb")
        if node is None or node.get("mode") == "disabled":
            return None
        return {"mode": node.get("mode", "offline"), "project": node.get("project", "spineseg")}
    return None
