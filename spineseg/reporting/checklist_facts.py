"""Facts of the checklist that are of several runs together: what was tested, how often it was rerun, whose scans."""

from collections.abc import Sequence

from spineseg.metrics.intervals import BOOTSTRAP_SUBJECTS, LEAST_SUBJECTS
from spineseg.reporting.comparisons import PRIMARY
from spineseg.reporting.runs import Report, ScoredRun, scored_simulated
from spineseg.reporting.settings import label_runs
from spineseg.reporting.statistics import EXACT_SUBJECTS


def simulated_scans(runs: Sequence[ScoredRun]) -> str | None:
    """That no patient is scored; None where one may be, as by a network that was trained on simulated scans."""
    if not all(scored_simulated(run) for run in runs):
        return None
    return "simulated by `simulate`: no patient is in it"


def rerun_facts(trained: Sequence[ScoredRun]) -> str | None:
    """Seeds of each model: spread over reruns is known where every model has at least two; else None."""
    seeds: dict[str, set[int]] = {}
    for name, run in zip(label_runs(trained, {}), trained, strict=True):
        seeds.setdefault(name, set()).update(() if run.seed is None else (run.seed,))
    counts = {len(found) for found in seeds.values()}
    if not counts or min(counts) < 2:
        return None
    least = f"{min(counts)} seeds a model" if len(counts) == 1 else f"at least {min(counts)} seeds a model"
    return f"{least}; sd_seed and sd_subject apart"


def uncertainty(report: Report, n: int) -> dict[str, str | None]:
    """Intervals and tests that the report really has (``uncertainty``), and the table that holds them (``tests``).

    Args:
        report: with its pairs and tables.
        n: subjects.
    """
    where = "tables/comparisons.md" if report.pairs else "tables/headline.md"
    if not report.pairs and "study_ablation" in report.tables:
        where = "tables/study_ablation.md"
    elif not report.pairs and "headline" not in report.tables and "study" in report.tables:
        where = "tables/study.md"
    tests = _tests(report)
    if n < LEAST_SUBJECTS:
        return {"uncertainty": f"no interval and no test: n = {n} subjects", "tests": where}
    kind = "t and jackknife t intervals" if n < BOOTSTRAP_SUBJECTS else "BCa intervals"
    return {"uncertainty": f"95 % {kind} over subjects; {tests}", "tests": where}


def _tests(report: Report) -> str:
    said = [text for text in (_tests_of_pairs(report), _tests_of_study(report)) if text]
    if said:
        return "; ".join(said)
    if report.simulated:
        return "no test on simulated data"
    reasons = sorted({pair.reason for pair in report.pairs if pair.reason and pair.endpoint in PRIMARY})
    return f"no test ({'; '.join(reasons)})" if reasons else "no test: no pair of models has a primary endpoint"


def _tests_of_pairs(report: Report) -> str | None:
    tested = [pair for pair in report.pairs if pair.found.p is not None]
    if not tested:
        return None
    counts = [sum(pair.endpoint == endpoint for pair in tested) for endpoint in PRIMARY]
    kind = "exact" if max(pair.found.n for pair in tested) <= EXACT_SUBJECTS else "drawn"
    # Holm's rule changes nothing where one pair alone was tested.
    beside = ", Holm over the pairs of an endpoint" if max(counts) > 1 else ""
    return f"{kind} sign-flip tests of {max(counts)} pair{'s' * (max(counts) != 1)}, primary endpoints{beside}"


def _tests_of_study(report: Report) -> str | None:
    table = report.tables.get("study_ablation")
    column = "p (Holm)"
    if table is None or column not in table.frame:
        return None
    tested = int((~table.frame[column].isin(["n/a", "–"])).sum())
    return f"sign-flip tests of {tested} differences from the baseline, Holm over them" if tested else None
