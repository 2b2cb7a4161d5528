"""Names of a column: least cost by brute force, never worse where all was right, right again where it was not."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from spineseg.errors import ConfigError, DataError
from spineseg.geometry import canonical
from spineseg.metrics.localisation import body_centre_mm
from spineseg.phantom.variants import PRIORS, column_of
from spineseg.predictions.columns import PITCH_MM
from spineseg.predictions.labelling import SCALE_SD, SCALES, LabellingSettings, label_sequence, object_centres_mm
from spineseg.vertebrae import CONVENTIONS, L6, ORDER, SACRUM, T13, level_id, rank
from spineseg.volumes import read_volume

Floats = NDArray[np.float64]
CLASSES = tuple(level for level in ORDER if level != 27)
T11, T12, L1, L2, L3, L4, L5 = (level_id(name) for name in ("T11", "T12", "L1", "L2", "L3", "L4", "L5"))


def centres_of(levels: tuple[int, ...], column: tuple[int, ...], scale: float, jitter: Floats) -> Floats:
    """Body centres on a slightly bent line; ``jitter`` (N,) is each distance's own factor."""
    if not levels:
        return np.zeros((0, 3))
    depth = dict(zip(column, np.cumsum([0.0] + [PITCH_MM[level] for level in column[:-1]]), strict=True))
    steps = np.diff([depth[level] for level in levels]) * scale * jitter[1 : len(levels)]
    s = np.concatenate([[0.0], np.cumsum(steps)])
    return np.stack([5 + 0 * s, 12 * np.sin(s / 150), 700 - s], axis=1)


def sharp(levels: tuple[int, ...], classes: tuple[int, ...] = CLASSES) -> Floats:
    return np.array([[float(level == c) for c in classes] for level in levels]).reshape(-1, len(classes))


def draw_column(seed: int, missed: float, least: int = 1) -> tuple[tuple[int, ...], Floats]:
    """Levels found and their centres: a run of a usual column, some of it missed."""
    random = np.random.default_rng(seed)
    column = column_of(None)
    size = int(random.integers(least, len(column) + 1))
    start = int(random.integers(0, len(column) - size + 1))
    found = tuple(level for level in column[start : start + size] if random.random() >= missed)
    return found, centres_of(found, column, random.uniform(0.85, 1.15), random.uniform(0.95, 1.05, len(found)))


# --- least cost ---------------------------------------------------------------------------------------------------


def all_paths(
    belief: Floats, centres: Floats, classes: tuple[int, ...], prices: LabellingSettings
) -> tuple[float, list[tuple[float, tuple[int, ...], float]]]:
    """Every sequence with its −log probability and its column's, written out; and the cost of all together."""
    distances = np.linalg.norm(np.diff(centres, axis=0), axis=1)
    kinds = {"t13": T13, "l6": L6, "t12_absent": None, "l5_absent": None}
    known = {k: PRIORS[k].published for k, extra in kinds.items() if extra is None or extra in classes}  # type: ignore[index]
    shares = {None: 1 - sum(known.values()), **known} if prices.variants else {None: 1.0}
    weights = [math.exp(-0.5 * ((s - 1) / SCALE_SD) ** 2) for s in SCALES]
    scales = [(s, w / sum(weights)) for s, w in zip(SCALES, weights, strict=True)] if prices.spacing else [(1.0, 1.0)]
    found: list[tuple[float, tuple[int, ...], float]] = []
    for kind, share in shares.items():
        column = column_of(kind)  # type: ignore[arg-type]
        levels = [level for level in column if level in classes]
        names = np.zeros((len(belief), len(levels)))
        for i, row in enumerate(belief):
            for n, level in enumerate(levels):
                above, below = (levels[n - 1] if n else None), (levels[n + 1] if n + 1 < len(levels) else None)
                beside = [
                    row[k]
                    * (prices.distinct if c == SACRUM or (c in (T13, L6) and c not in levels) else prices.confused)
                    for k, c in enumerate(classes)
                    if c in (above, below)
                    or (c not in levels and (above is None or rank(above) < rank(c)) and rank(c) < rank(level))
                    or (c not in levels and (below is None or rank(c) < rank(below)) and rank(level) < rank(c))
                ]
                own = row[classes.index(level)]
                names[i, n] = -math.log(max(own, max(beside, default=0), prices.elsewhere))
        for scale, weight in scales:
            for path in itertools.combinations_with_replacement(range(len(levels)), len(belief)):
                cost = -math.log(share) - math.log(weight) + sum(names[i, n] for i, n in enumerate(path))
                for (a, b), d in zip(itertools.pairwise(path), distances, strict=True):
                    cost -= math.log(prices.pieces) if a == b else (b - a - 1) * math.log(prices.missed)
                    if prices.spacing:
                        between = column[column.index(levels[a]) : column.index(levels[b])]
                        mean = scale * sum(PITCH_MM[level] for level in between)
                        sd = 8.0 if a == b else math.hypot(prices.pitch_sd * mean, prices.centre_sd_mm)
                        p = math.exp(-0.5 * ((d - mean) / sd) ** 2) / (sd * math.sqrt(2 * math.pi)) * (1 + (a == b))
                        cost -= math.log((1 - prices.outlier) * p + prices.outlier / 200.0)
                found.append((cost, tuple(levels[n] for n in path), -math.log(share)))
    low = min(cost for cost, _, _ in found)
    return low - math.log(sum(math.exp(low - cost) for cost, _, _ in found)), found


@given(st.integers(0, 2**32 - 1), st.booleans(), st.booleans())
@settings(max_examples=25, deadline=None)
def test_the_path_and_its_marginals_are_those_of_brute_force(seed: int, variants: bool, spacing: bool) -> None:
    random = np.random.default_rng(seed)
    pool = [(T11, T12, T13, L1, L2), (L4, L5, L6, SACRUM), (T11, T12, L1, L2), (T12, L1, L3, L4, SACRUM)]
    classes = tuple(random.permutation(pool[random.integers(4)]).tolist())
    n = int(random.integers(1, 4))
    belief = random.dirichlet([0.4] * len(classes), n)
    centres = np.cumsum(random.uniform([-5, -5, -60], [5, 5, -5], (n, 3)), axis=0)
    prices = LabellingSettings(variants=variants, spacing=spacing)
    total, paths = all_paths(belief, centres, classes, prices)
    found = label_sequence(belief, centres, classes, prices)
    # The names as they are, where they are the likeliest of all in some kind of column, however rare it is.
    named = tuple(classes[k] for k in belief.argmax(axis=1))
    likeliest = min(cost - kind for cost, _, kind in paths)
    kept = [cost for cost, path, kind in paths if path == named and cost - kind < likeliest + 1e-8]
    least = min(kept or [cost for cost, _, _ in paths])
    assert found.cost == pytest.approx(least, abs=1e-8)
    costs = [cost for cost, path, _ in paths if path == tuple(found.levels)]
    assert min(abs(cost - found.cost) for cost in costs) < 1e-8
    for i, level in enumerate(found.levels):
        expected = sum(math.exp(total - cost) for cost, path, _ in paths if path[i] == level)
        assert found.confidences[i] == pytest.approx(expected, abs=1e-8)


# --- properties ---------------------------------------------------------------------------------------------------


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_what_was_right_stays_right(seed: int) -> None:
    """Whatever the field of view, with levels missed, and with weak names, as long as each is the best by far."""
    found, centres = draw_column(seed, missed=0.1)
    random = np.random.default_rng([seed, 1])
    weak = random.dirichlet([0.3] * len(CLASSES), len(found))
    belief = np.maximum(weak, 4 * weak.max(axis=1, keepdims=True) * sharp(found))
    assert label_sequence(belief, centres, CLASSES).levels.tolist() == list(found)


@given(st.integers(0, 2**32 - 1))
@example(1771)  # ties
@settings(max_examples=40, deadline=None)
def test_any_input_gives_ordered_levels_in_any_order(seed: int) -> None:
    random = np.random.default_rng(seed)
    n = int(random.integers(0, 12))
    classes = tuple(random.permutation(CLASSES)[: random.integers(3, 27)].tolist())
    belief = random.dirichlet([0.2] * len(classes), n) * random.integers(0, 2, (n, 1))
    centres = np.round(random.uniform(-200, 200, (n, 3)), -1)  # equal heights as well
    found = label_sequence(belief, centres, classes)
    downwards = np.argsort(-centres[:, 2], kind="stable")
    heights = centres[downwards, 2]
    ranks = [rank(int(level)) for level in found.levels[downwards]]
    assert set(found.levels.tolist()) <= set(classes)
    assert all(
        a <= b for (a, b), (y, z) in zip(itertools.pairwise(ranks), itertools.pairwise(heights), strict=True) if y > z
    )
    assert ((found.confidences >= 0) & (found.confidences <= 1)).all()
    shuffle = random.permutation(n)
    again = label_sequence(belief[shuffle], centres[shuffle], classes)
    assert again.levels.tolist() == found.levels[shuffle].tolist()
    assert again.confidences == pytest.approx(found.confidences[shuffle], abs=1e-9)
    assert label_sequence(7 * belief, centres, classes).levels.tolist() == found.levels.tolist()


def test_levels_off_by_one_and_missing_ones_are_mended() -> None:
    right = before = total = 0
    for seed in range(40):
        found, centres = draw_column(seed, missed=0.1, least=8)
        random = np.random.default_rng([seed, 1])
        column = column_of(None)
        named = []
        for level in found:
            place = column.index(level) + (int(random.choice([-1, 1])) if random.random() < 0.2 else 0)
            named.append(column[min(max(place, 0), len(column) - 1)])
        levels = label_sequence(sharp(tuple(named)), centres, CLASSES).levels
        total += len(found)
        before += int((np.array(named) == found).sum())
        right += int((levels == found).sum())
    assert before / total < 0.85
    assert right / total >= 0.98


# --- variants, anchors, spacing -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["t13", "l6", "t12_absent"])
def test_a_variant_is_kept_where_the_names_say_so_on_both_sides(kind: str) -> None:
    column = column_of(kind)  # type: ignore[arg-type]
    levels = column[column.index(level_id("T8")) :]
    centres = centres_of(levels, column, 1.0, np.ones(len(levels)))
    assert label_sequence(sharp(levels), centres, CLASSES).levels.tolist() == list(levels)
    usual = label_sequence(sharp(levels), centres, CLASSES, LabellingSettings(variants=False)).levels
    assert not {T13, L6} & set(usual.tolist())


@pytest.mark.parametrize("below", [1, 2])
def test_a_rare_column_is_no_reason_to_change_a_name(below: int) -> None:
    """T12 is missing, and the view ends just below: as given, the names fit; the common column would rename them."""
    column = column_of("t12_absent")
    first = column.index(L1)
    found = column[first - 5 : first + below]
    centres = centres_of(found, column, 1.0, np.ones(len(found)))
    assert label_sequence(sharp(found), centres, CLASSES).levels.tolist() == list(found)


def test_distance_tells_a_missed_level_from_a_wrong_name() -> None:
    """T11 and L1 say nothing of what lies between; their distance does."""
    column = column_of(None)
    beyond = (T11, L1, L2, L3)
    belief = sharp(beyond)
    belief[1:] = 0
    missed = centres_of(beyond, column, 1.0, np.ones(4))
    assert label_sequence(belief, missed, CLASSES).levels.tolist() == [T11, L1, L2, L3]
    next_to = centres_of((T11, T12, L1, L2), column, 1.0, np.ones(4))
    assert label_sequence(belief, next_to, CLASSES).levels.tolist() == [T11, T12, L1, L2]


def test_an_unnamed_column_is_unsure_and_an_anchored_one_sure() -> None:
    levels = tuple(range(10, 16))
    centres = centres_of(levels, column_of(None), 1.0, np.ones(6))
    nothing = label_sequence(np.zeros((6, len(CLASSES))), centres, CLASSES)
    assert nothing.confidences.max() < 0.5
    anchored = np.zeros((6, len(CLASSES)))
    anchored[2] = sharp((12,))
    found = label_sequence(anchored, centres, CLASSES)
    assert found.levels.tolist() == list(levels)
    assert found.confidences.min() > nothing.confidences.max()


def test_two_pieces_of_a_vertebra_shift_nobody() -> None:
    levels = (T11, T12, L1, L2, L3)
    centres = centres_of(levels, column_of(None), 1.0, np.ones(5))
    twice = np.insert(centres, 3, centres[2] + [0, -4, -3], axis=0)
    belief = sharp((T11, T12, L1, L1, L2, L3))
    belief[3] = 0
    assert label_sequence(belief, twice, CLASSES).levels.tolist() == [T11, T12, L1, L1, L2, L3]


REAL = {
    "abdomen_3mm/vertebrae.nii.gz": "totalsegmentator_v2",
    "chest_1p5mm/vertebrae.nii.gz": "totalsegmentator_v2",
    "verse_masks/verse010_vertebrae.nii.gz": "verse",
    "verse_masks/gl003_vertebrae.nii.gz": "verse",
}


@pytest.mark.parametrize("name", REAL)
def test_real_columns_keep_their_names(real_ct: Path, name: str) -> None:
    """Whole, and with each level in turn off by one."""
    volume = canonical(read_volume(real_ct / name))
    table = CONVENTIONS[REAL[name]].table
    values = [int(v) for v in np.unique(volume.array) if int(v) in table]
    numbers = np.zeros(int(volume.array.max()) + 1, np.uint8)
    numbers[values] = np.arange(1, len(values) + 1)
    centres = object_centres_mm(numbers[volume.array.astype(np.int64)], volume.affine)
    order = np.argsort([rank(table[v]) for v in values])
    levels, centres = tuple(table[values[i]] for i in order), centres[order]
    assert label_sequence(sharp(levels), centres, CLASSES).levels.tolist() == list(levels)
    for i in range(1, len(levels) - 1):
        wrong = (*levels[:i], levels[i + 1], *levels[i + 1 :])
        assert label_sequence(sharp(wrong), centres, CLASSES).levels.tolist() == list(levels)


# --- the rest -----------------------------------------------------------------------------------------------------


def test_centres_of_objects_are_body_centres() -> None:
    labels = np.zeros((30, 40, 30), np.uint16)
    labels[5:20, 4:20, 3:14], labels[12:13, 30:31, 20:21] = 1, 3
    affine = np.array([[0.5, 0, 0, -7], [0, 2.0, 0, 3], [0, 0, 1, 11], [0, 0, 0, 1]])
    centres = object_centres_mm(labels, affine)
    assert centres.shape == (3, 3) and np.isnan(centres[1]).all()
    for n in (0, 2):
        assert centres[n] == pytest.approx(body_centre_mm(labels == n + 1, affine), abs=0.5)


def test_misfits_are_refused() -> None:
    one = np.zeros((1, 3))
    for belief, centres, classes in (
        (np.ones((2, 2)), one, (19, 20)),
        (np.full((1, 2), np.nan), one, (19, 20)),
        (-np.ones((1, 2)), one, (19, 20)),
        (np.ones((1, 2)), one + np.inf, (19, 20)),
        (np.ones((1, 2)), one, (19, 19)),
        (np.ones((1, 2)), one, (19, 99)),
    ):
        with pytest.raises(DataError, match="labelling"):
            label_sequence(belief, centres, classes)
    with pytest.raises(DataError, match="variants"):
        label_sequence(np.ones((1, 1)), one, (T13,), LabellingSettings(variants=False))
    with pytest.raises(ConfigError, match="missed=0"):
        LabellingSettings(missed=0)
