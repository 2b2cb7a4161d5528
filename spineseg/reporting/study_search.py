"""The tables of a search: the best trials, how much each parameter mattered, and how many trials ended how."""

from typing import TYPE_CHECKING, Any, Final

from spineseg.reporting.cells import Cell, number, plain
from spineseg.reporting.runs import Table
from spineseg.reporting.study_results import StudyResults, study_table
from spineseg.studies.folder import Job

if TYPE_CHECKING:
    import optuna

BEST_TRIALS: Final = 10
# Below, a forest has nothing to split.
LEAST_FOR_IMPORTANCE: Final = 4
IMPORTANCE_SEED: Final = 0


def search_tables(study: StudyResults) -> list[Table]:
    """``search_best`` (the best trials with their parameters) and, from a few trials on, ``search_importance``.

    Args:
        study: of a search, with at least one trial that is done.
    """
    tables = [_best(study)]
    found = importance(study)
    if found:
        rows = [{"parameter": plain(name), "importance": number(share)} for name, share in found.items()]
        note = (
            f"Share of the variance of {study.metric} that a parameter explains (fANOVA, Hutter et al. 2014), from "
            f"{len(finished(study))} trials: of so few, which parameters to look at, not how much they matter."
        )
        tables.append(study_table(study, "search_importance", "How much each parameter mattered", rows, [note]))
    return tables


def finished(study: StudyResults) -> list[tuple[int, Job]]:
    """Trials with a value, each once, with the job that gave it; two trials with equal parameters share a job."""
    return sorted((trial, job) for job in study.jobs if job.state == "done" for trial in job.trials)


def better_first(study: StudyResults) -> list[tuple[int, Job]]:
    """Trials with a value, the best first; of equal ones the earlier."""
    sign = -1 if (study.search or {}).get("direction", "maximize") == "maximize" else 1
    return sorted(finished(study), key=lambda found: (sign * (found[1].value or 0.0), found[0]))


def parameters(study: StudyResults) -> tuple[str, ...]:
    """Names of what is searched."""
    return tuple(map(str, (study.search or {})["space"]))


def importance(study: StudyResults) -> dict[str, float]:
    """Parameter → share of the value's variance, the largest first; empty where there are too few or equal trials."""
    trials = finished(study)
    if len(trials) < LEAST_FOR_IMPORTANCE or len({job.value for _, job in trials}) == 1:
        return {}
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=IMPORTANCE_SEED)
    found = optuna.importance.get_param_importances(_rebuilt(study), evaluator=evaluator)
    return {str(name): float(share) for name, share in found.items()}


def _rebuilt(study: StudyResults) -> "optuna.Study":
    """Optuna's study with the trials that the ledger counts, each once."""
    import optuna

    from spineseg.studies.search import distributions

    search = study.search or {}
    space = distributions(search["space"])
    made = optuna.create_study(direction="minimize" if search.get("direction") == "minimize" else "maximize")
    for _, job in finished(study):
        params = {name: job.labels[name] for name in space}
        made.add_trial(optuna.trial.create_trial(params=params, distributions=space, value=job.value))
    return made


def _best(study: StudyResults) -> Table:
    ranked = better_first(study)
    names = parameters(study)
    rows = []
    for rank, (trial, job) in enumerate(ranked[:BEST_TRIALS], start=1):
        head = {"rank": Cell(str(rank), float(rank)), "trial": Cell(str(trial), float(trial))}
        rows.append(head | {study.metric: number(job.value)} | {name: _parameter(job.labels[name]) for name in names})
    states = [job.state for job in study.jobs for _ in job.trials]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    notes = [
        f"Of {len(states)} trials {counts}; all of them were paid for, and a comparison needs as many for each model.",
        f"Judged on the {study.split} split, by which the best trial was chosen: no estimate for new subjects.",
    ]
    return study_table(study, "search_best", f"{study.question} The best {len(rows)} trials", rows, notes)


def _parameter(value: Any) -> Cell:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return plain(value)
    return Cell(f"{value:.4g}", float(value))
