"""The most probable anatomically ordered names of a scan's vertebrae, and how sure each of them is.

The model of a column: a person has one of a few kinds of column, at the share of people who do, and a scale of his own;
going down, each vertebra in view is found or missed, and what is found was named by a model that is at times a level
off. The answer is the path of least cost (−log probability) over levels, jointly over kinds and scales; confidences are
marginals of the same chain. How rare a kind of column is decides between corrections, and is no reason for one: names
that are the likeliest in some kind of column as they stand are left alone.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp

from spineseg.errors import ConfigError, DataError
from spineseg.geometry import Affine
from spineseg.predictions.centres import label_centres_mm
from spineseg.predictions.columns import Column, Floats, columns, expected_mm
from spineseg.vertebrae import L6, LEVELS, SACRUM, T13

# Sizes of people relative to the mean, and their spread: women's lengths are 0.9 of men's, 7 % within each.
SCALES = np.linspace(0.8, 1.2, 9)
SCALE_SD = 0.1
# Two parts of one vertebra lie this far apart, and an odd distance may be any up to the second.
PIECES_MM = 8.0
FARTHEST_MM = 200.0


@dataclass(frozen=True)
class LabellingSettings:
    """How far names are believed, and what breaks in the sequence cost.

    Args:
        confused: what a level gets of the probability of the level beside it, if its own is less: networks miss by
            one far more often than by two.
        distinct: the same of a name that is seldom given in error: the sacrum, whose shape is its own, and T13 or L6
            where the person has none.
        elsewhere: least probability of any level.
        missed: share of vertebrae in view that are not found.
        pieces: share of vertebrae that are found as two objects.
        variants: whether T13, L6, a missing T12 and a missing L5 are possible, at their published frequencies.
        spacing: whether distances of body centres count.
        pitch_sd: spread of a distance about the expected one at the person's scale, relative; ``centre_sd_mm`` is that
            of the centres.
        outlier: share of distances that say nothing, such as beside a fracture or a cut vertebra.
    """

    confused: float = 0.1
    distinct: float = 0.01
    elsewhere: float = 1e-3
    missed: float = 0.1
    pieces: float = 0.01
    variants: bool = True
    spacing: bool = True
    pitch_sd: float = 0.08
    centre_sd_mm: float = 2.0
    outlier: float = 0.05

    def __post_init__(self) -> None:
        """Check that shares are shares."""
        for name in ("confused", "distinct", "elsewhere", "missed", "pieces", "outlier"):
            if not 0 < getattr(self, name) < 1:
                raise ConfigError(f"labelling: {name}={getattr(self, name)}; expected a share between 0 and 1")
        if self.pitch_sd <= 0 or self.centre_sd_mm < 0:
            raise ConfigError("labelling: pitch_sd has to be above 0 and centre_sd_mm at least 0")


@dataclass(frozen=True, eq=False)
class LabelledSequence:
    """Names of N objects, in the order in which they were given.

    Attributes:
        levels: (N,) canonical ids; from cranial to caudal they never go up, and repeat only for a vertebra in pieces.
        confidences: (N,) probability of each level given all objects.
        cost: −log of the joint probability of the path, its column and its scale, up to a constant of the input.
    """

    levels: NDArray[np.int64]
    confidences: Floats
    cost: float


DEFAULTS = LabellingSettings()


def label_sequence(
    distributions: ArrayLike, centres_mm: ArrayLike, classes: tuple[int, ...], settings: LabellingSettings = DEFAULTS
) -> LabelledSequence:
    """Name the objects of a scan: a path of least cost over levels (Viterbi) and its marginals (forward-backward).

    Args:
        distributions: (N, K), each row the model's belief in ``classes``, of any sum; a row of zeros says nothing.
        centres_mm: (N, 3) body centres, RAS+; z gives the order.
        classes: K distinct canonical ids, in any order; only these are given.
        settings: prices.

    Raises:
        DataError: shapes that do not fit, numbers that are not finite or negative, unknown or repeated classes.
    """
    belief, centres = _checked(distributions, centres_mm, classes)
    if not len(belief):
        return LabelledSequence(np.zeros(0, np.int64), np.zeros(0), 0.0)
    # Head first; equal heights by what else is known, so that the order of the input does not matter.
    order = np.lexsort((*belief.T, centres[:, 0], centres[:, 1], -centres[:, 2]))
    belief, centres = belief[order], centres[order]
    distances = np.linalg.norm(np.diff(centres, axis=0), axis=1)
    scale_share = _log_normalised(-0.5 * ((SCALES - 1) / SCALE_SD) ** 2) if settings.spacing else np.zeros(1)
    given = _given(belief, classes)
    best, best_path, likeliest = -np.inf, np.zeros(len(belief), np.int64), -np.inf
    as_given: list[tuple[float, float]] = []
    found: list[tuple[Column, float, Floats]] = []
    for column in columns(classes, variants=settings.variants):
        if not column.levels:
            continue
        names = _log_names(belief, column, classes, settings)
        steps = [_log_steps(distance, column, settings) for distance in distances]
        share = float(np.log(column.share))
        start = share + scale_share[:, None] + names[0]
        exact = _stepped(start), _stepped(names), [_stepped(step) for step in steps]
        score, path = _best_path(*exact)
        likeliest = max(likeliest, score - share)
        if score > best:
            best, best_path = score, np.array(column.levels)[path]
        if given is not None and set(given) <= set(column.levels):
            score = _score_of(*exact, [column.levels.index(level) for level in given])
            as_given.append((score - share, score))
        found.append((column, *_marginals(start, names, steps)))
    if not found:
        raise DataError(f"labelling: classes {classes} are none but variants, which are off; expected usual levels")
    if fitting := [score for likelihood, score in as_given if likelihood > likeliest - 1e-8]:
        best, best_path = max(fitting), np.array(given)
    total = float(logsumexp([evidence for _, evidence, _ in found]))
    probability = np.zeros((len(belief), max(LEVELS) + 1))
    for column, _, marginals in found:
        probability[:, list(column.levels)] += np.exp(marginals - total)
    sure = np.clip(probability[np.arange(len(belief)), best_path], 0, 1)
    back = np.argsort(order)
    return LabelledSequence(best_path[back].astype(np.int64), sure[back], -best)


def object_centres_mm(labels: NDArray[np.integer], affine: Affine) -> Floats:
    """Body centres (N, 3) in mm, RAS+, of the objects 1 to N of a grid (X, Y, Z); NaN for a number that is missing."""
    found = label_centres_mm(labels, affine, named=False)
    centres = np.full((max(found, default=0), 3), np.nan)
    for number, centre in found.items():
        centres[number - 1] = centre
    return centres


def _checked(distributions: ArrayLike, centres_mm: ArrayLike, classes: tuple[int, ...]) -> tuple[Floats, Floats]:
    belief = np.asarray(distributions, np.float64).reshape(-1, len(classes))
    centres = np.asarray(centres_mm, np.float64).reshape(-1, 3)
    if len(belief) != len(centres):
        raise DataError(
            f"labelling: {len(belief)} class distributions and {len(centres)} body centres; expected one each"
        )
    if not (np.isfinite(belief).all() and (belief >= 0).all() and np.isfinite(centres).all()):
        raise DataError("labelling: a probability or a body centre is not finite, or a probability is negative")
    if not classes or set(classes) - set(LEVELS) or len(set(classes)) < len(classes):
        raise DataError(f"labelling: classes {classes}; expected distinct canonical level ids")
    total = belief.sum(axis=1, keepdims=True)
    return np.divide(belief, total, out=np.zeros_like(belief), where=total > 0), centres


def _given(belief: Floats, classes: tuple[int, ...]) -> list[int] | None:
    """The most probable level of each object; None where one has none, or several."""
    first = belief.max(axis=1, keepdims=True)
    if not ((belief == first).sum(axis=1) == 1).all():
        return None
    return [classes[index] for index in belief.argmax(axis=1)]


def _log_normalised(logs: Floats) -> Floats:
    return np.asarray(logs - logsumexp(logs), np.float64)


def _log_names(belief: Floats, column: Column, classes: tuple[int, ...], settings: LabellingSettings) -> Floats:
    """Evidence (N, S) of the names: the level's own, that of a level beside it at a discount, or little.

    The largest of the three and not their sum, so that a most probable name stays so.
    """
    own = belief[:, [classes.index(level) for level in column.levels]]
    distinct = [level == SACRUM or (level in (T13, L6) and level not in column.levels) for level in classes]
    discount = column.neighbours * np.where(distinct, settings.distinct, settings.confused)
    beside = (discount[None] * belief[:, None, :]).max(axis=2)
    return np.asarray(np.log(np.maximum(np.maximum(own, beside), settings.elsewhere)), np.float64)


def _log_steps(distance_mm: float, column: Column, settings: LabellingSettings) -> Floats:
    """Price (C, S, S) of going from one level to the next object's, at C scales; −inf upwards."""
    size = len(column.levels)
    down = np.arange(size)[None, :] - np.arange(size)[:, None]
    price = np.where(down > 0, np.log(settings.missed) * (down - 1), np.log(settings.pieces))
    price = np.where(down < 0, -np.inf, price)
    if not settings.spacing:
        return price[None]
    expected = np.maximum(expected_mm(column), 0.0)[None] * SCALES[:, None, None]
    spread = np.hypot(settings.pitch_sd * expected, settings.centre_sd_mm)
    # The centres of two pieces of one vertebra: half of a normal distribution about no distance.
    spread = np.where(down == 0, PIECES_MM, spread)
    density = np.exp(-0.5 * ((distance_mm - expected) / spread) ** 2) / (spread * np.sqrt(2 * np.pi))
    density = np.where(down == 0, 2 * density, density)
    return np.asarray(price + np.log((1 - settings.outlier) * density + settings.outlier / FARTHEST_MM), np.float64)


def _best_path(start: Floats, names: Floats, steps: list[Floats]) -> tuple[float, NDArray[np.int64]]:
    """Viterbi: log probability of the best path over (C scales, S levels), and its levels (N,)."""
    score, back = start, []
    for step, name in zip(steps, names[1:], strict=True):
        reached = score[:, :, None] + step
        back.append(reached.argmax(axis=1))
        score = reached.max(axis=1) + name
    scale, last = np.unravel_index(int(score.argmax()), score.shape)
    path = [int(last)]
    for came in reversed(back):
        path.append(int(came[scale, path[-1]]))
    return float(score.max()), np.array(path[::-1], np.int64)


def _score_of(start: Floats, names: Floats, steps: list[Floats], path: list[int]) -> float:
    """Log probability of a path of levels (N,) at its likeliest scale; what ``_best_path`` maximises."""
    score = start[:, path[0]]
    for step, name, before, level in zip(steps, names[1:], path, path[1:], strict=False):
        score = score + step[:, before, level] + name[level]
    return float(score.max())


def _stepped(logs: Floats) -> Floats:
    """Whole multiples of 2⁻³², whose sums are exact: equal paths then tie, and the first of them wins, everywhere."""
    return np.asarray(np.round(logs * 2.0**32) / 2.0**32, np.float64)


def _marginals(start: Floats, names: Floats, steps: list[Floats]) -> tuple[float, Floats]:
    """Forward-backward: log evidence of a column, and log probability (N, S) of each level with it."""
    forward = [start]
    for step, name in zip(steps, names[1:], strict=True):
        forward.append(logsumexp(forward[-1][:, :, None] + step, axis=1) + name)
    backward = [np.zeros_like(start)]
    for step, name in zip(reversed(steps), names[:0:-1], strict=True):
        backward.append(logsumexp(step + (name + backward[-1])[:, None, :], axis=2))
    logs = np.stack([logsumexp(f + b, axis=0) for f, b in zip(forward, reversed(backward), strict=True)])
    return float(logsumexp(forward[-1])), logs
