"""Every pair of models on the same subjects: differences, intervals, and tests where PROTOCOL 8 allows them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from spineseg.metrics.intervals import RESAMPLES, Floats, interval
from spineseg.reporting.models import ScoredModel, every_run
from spineseg.reporting.standing import why_untested
from spineseg.reporting.statistics import (
    LEAST_SEEDS,
    SIGNIFICANCE,
    PairedComparison,
    RankComparison,
    beyond_rerun_noise,
    friedman,
    holm_of_pairs,
    paired_comparison,
    pairs_of,
    why_not_tested,
)

# Fixed beforehand (PROTOCOL 8.6); identification is tested on the subjects' own rates.
PRIMARY: Final = ("dice", "id_case")
SECONDARY: Final = ("dice_spine", "nsd")
POOLED: Final = "mask_map50"


@dataclass(frozen=True)
class Pair:
    """A comparison of two models in one endpoint.

    Attributes:
        first: name of a model; differences are first − second.
        second: the other.
        endpoint: name in ``results.json``.
        found: the comparison.
        adjusted: Holm's p-value over the pairs of the endpoint; None where no test is made.
        claimed: whether the difference may be claimed: significant, and beyond the noise of a rerun.
        reason: why it is not tested or not claimed; None for secondary endpoints and for what is claimed.
    """

    first: str
    second: str
    endpoint: str
    found: PairedComparison
    adjusted: float | None = None
    claimed: bool = False
    reason: str | None = None


def is_oracle(model: ScoredModel) -> bool:
    """Whether a row has seen the reference (an oracle), so that it competes with nobody."""
    return any(run.provenance.get("oracle") or run.name.lower().startswith("oracle") for run in model.runs)


def compare_pairs(models: Sequence[ScoredModel], *, resamples: int = RESAMPLES) -> list[Pair]:
    """Compare all pairs of models that have an endpoint, endpoint by endpoint; oracles are left out.

    Args:
        models: scored on the same subjects.
        resamples: of BCa intervals.
    """
    pairs: list[Pair] = []
    forbidden = why_untested(every_run(models))
    competing = [model for model in models if not is_oracle(model)]
    for endpoint in (*PRIMARY, *SECONDARY):
        having = {model.name: model for model in competing if len(model.values(endpoint))}
        subjects = max((len(model.values(endpoint)) for model in having.values()), default=0)
        refused = forbidden or why_not_tested(subjects, len(having))
        test = endpoint in PRIMARY and refused is None
        compared = [
            Pair(a, b, endpoint, _compare(having[a], having[b], endpoint, test=test, resamples=resamples))
            for a, b in pairs_of(list(having))
        ]
        pairs += _judged(compared, having, refused) if endpoint in PRIMARY else compared
    by_name = {model.name: model for model in competing}
    return [*pairs, *(_pooled(by_name[a], by_name[b], resamples) for a, b in pairs_of(list(by_name)))]


def rank_models(models: Sequence[ScoredModel], endpoint: str) -> tuple[list[str], RankComparison] | None:
    """Names of the models that have an endpoint, and Friedman's comparison of them; None where it is not allowed."""
    having = [model for model in models if not is_oracle(model) and len(model.values(endpoint))]
    if not having or why_untested(every_run(models)):
        return None
    found = friedman(np.stack([model.values(endpoint).mean(axis=1).to_numpy(np.float64) for model in having], axis=1))
    return None if found is None else ([model.name for model in having], found)


def claimed_below_best(pairs: Sequence[Pair], endpoint: str, best: str) -> set[str]:
    """Models that are claimed to lie below the best one: those that get a dagger.

    The best by a pooled rate may lie below another one in the subjects' own rates, on which the test is.
    """
    mine = [pair for pair in pairs if pair.claimed and pair.endpoint == endpoint]
    below = {pair.second for pair in mine if pair.first == best and pair.found.mean > 0}
    return below | {pair.first for pair in mine if pair.second == best and pair.found.mean < 0}


def subject_means(model: ScoredModel, endpoint: str) -> dict[str, float]:
    """Value of each subject, averaged over seeds."""
    return {str(subject): float(value) for subject, value in model.values(endpoint).mean(axis=1).items()}


def _compare(first: ScoredModel, second: ScoredModel, endpoint: str, *, test: bool, resamples: int) -> PairedComparison:
    one, other = subject_means(first, endpoint), subject_means(second, endpoint)
    both = sorted(one.keys() & other.keys())
    return paired_comparison(
        np.array([one[subject] for subject in both]),
        np.array([other[subject] for subject in both]),
        test=test,
        resamples=resamples,
    )


def _judged(pairs: Sequence[Pair], models: dict[str, ScoredModel], refused: str | None) -> list[Pair]:
    adjusted = holm_of_pairs({(pair.first, pair.second): pair.found.p for pair in pairs})
    judged = []
    for pair in pairs:
        p = adjusted[pair.first, pair.second]
        reason = refused or _why_not_claimed(pair, models[pair.first], models[pair.second], p)
        judged.append(replace(pair, adjusted=p, claimed=reason is None, reason=reason))
    return judged


def _why_not_claimed(pair: Pair, first: ScoredModel, second: ScoredModel, p: float | None) -> str | None:
    if p is None:
        return f"n = {pair.found.n}: not tested"
    if p >= SIGNIFICANCE:
        return f"p ≥ {SIGNIFICANCE}"
    seeds = [len(model.seeds) if model.trained else 0 for model in (first, second)]
    if min(seeds) < LEAST_SEEDS:
        return f"fewer than {LEAST_SEEDS} seeds: noise of a rerun unknown"
    sds = (first.sd_seed(pair.endpoint), second.sd_seed(pair.endpoint))
    if not beyond_rerun_noise(pair.found.mean, sds, (seeds[0], seeds[1])):
        return "within the noise of a rerun"
    return None


def _pooled(first: ScoredModel, second: ScoredModel, resamples: int) -> Pair:
    """Difference of the pooled AP50: the same draws of subjects for both (PROTOCOL 8.4)."""
    one, other = (
        model.ap_statistic(which="exclusive", shape="mask", named=False, threshold=0) for model in (first, second)
    )

    def difference(weights: Floats) -> Floats:
        return one(weights) - other(weights)

    n = len(first.subjects)
    mean = float(difference(np.ones((1, n)))[0])
    ends = interval(difference, n, resamples=resamples)
    nan = float("nan")
    return Pair(first.name, second.name, POOLED, PairedComparison(n, mean, ends, nan, nan, None))
