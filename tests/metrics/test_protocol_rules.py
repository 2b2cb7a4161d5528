"""Other tools' rules against the tools: nnU-Net's evaluation, MONAI's metrics, surface-distance; VerSe's by hand."""

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import surface_distance
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from spineseg.geometry import Volume
from spineseg.metrics.localisation import Bodies
from spineseg.metrics.overlap import confusion
from spineseg.metrics.protocol_rules import RULES, label_map_rows, verse_hits
from spineseg.vertebrae import level_name

pytestmark = pytest.mark.filterwarnings("ignore:Please import:DeprecationWarning", "ignore::FutureWarning")
SPACING = (1.5, 0.9, 2.0)
LEVELS = (19, 20, 21, 22)
Labels = NDArray[np.uint8]
Case = tuple[Labels, Labels]


def scene(seed: int) -> Case:
    """Blobs of some levels, and a prediction that is shifted, lacks one or invents one, now and then."""
    random = np.random.default_rng(seed)
    labels = np.zeros((14, 15, 40), np.uint8)
    for place, level in enumerate(LEVELS):
        if random.random() < 0.8:
            part = ndimage.gaussian_filter(random.normal(size=(14, 15, 9)), 1.5)
            labels[:, :, 10 * place : 10 * place + 9][part > np.quantile(part, 0.6)] = level
    found = np.roll(labels, random.integers(-2, 3), axis=2)
    if random.random() < 0.5:
        found[found == random.choice(LEVELS)] = 0
    if random.random() < 0.5:
        found[found == random.choice(LEVELS)] = 23
    return labels, found


def cases(seed: int, count: int = 4) -> list[Case]:
    return [scene(1000 * seed + n) for n in range(count)]


def ours(found: Sequence[Case]) -> dict[str, float]:
    affine = np.diag([*SPACING, 1.0])
    rows: list[dict[str, Any]] = []
    for n, (reference, prediction) in enumerate(found):
        bodies = [Bodies.of(Volume(array, affine)) for array in (reference, prediction)]
        rows += [row | {"case": f"c{n}"} for row in label_map_rows(*bodies, confusion(reference, prediction))]
    table = pd.DataFrame(rows, columns=["tool", "metric", "level", "value", "case"])
    return {
        rule.name: rule.mean(table[(table["tool"] == rule.tool) & (table["metric"] == rule.metric)]) for rule in RULES
    }


def one_hot(labels: Labels) -> Any:
    torch = pytest.importorskip("torch")
    return torch.from_numpy(np.stack([labels == level for level in (0, *LEVELS, 23)])[None].astype(np.float32))


@pytest.mark.parametrize("seed", range(6))
def test_nnunets_foreground_mean(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = pytest.importorskip("nnunetv2.evaluation.evaluate_predictions")
    found = cases(seed)
    arrays: dict[str, Labels] = {}
    for side in ("truth", "found"):
        (tmp_path / side).mkdir()
    for n, (reference, prediction) in enumerate(found):
        for side, array in (("truth", reference), ("found", prediction)):
            path = tmp_path / side / f"c{n}.nii.gz"
            path.touch()
            arrays[str(path)] = array

    class Reader:
        def read_seg(self, path: str) -> tuple[Labels, dict[str, Any]]:
            return arrays[path], {}

    class Here:  # the tool's pool of processes, without processes
        Pool = property(lambda self: lambda count: self)
        __enter__ = lambda self: self  # noqa: E731
        __exit__ = lambda self, *_: None  # noqa: E731
        starmap = staticmethod(lambda f, rows: list(itertools.starmap(f, rows)))

    monkeypatch.setattr(tool.multiprocessing, "get_context", lambda kind: Here())
    present = sorted({int(v) for pair in found for part in pair for v in np.unique(part)} - {0})
    places = (str(tmp_path / "truth"), str(tmp_path / "found"), None)
    theirs = tool.compute_metrics_on_folder(*places, Reader(), ".nii.gz", present, num_processes=1)
    assert ours(found)["nnunet dice"] == pytest.approx(theirs["foreground_mean"]["Dice"], abs=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_monais_metrics(seed: int) -> None:
    metrics = pytest.importorskip("monai.metrics")
    found = cases(seed)
    dice = metrics.DiceMetric(include_background=False, ignore_empty=True, reduction="mean")
    hd95 = metrics.HausdorffDistanceMetric(include_background=False, percentile=95, reduction="mean")
    for reference, prediction in found:
        dice(one_hot(prediction), one_hot(reference))
        hd95(one_hot(prediction), one_hot(reference), spacing=list(SPACING))
    values = ours(found)
    assert values["monai dice"] == pytest.approx(float(dice.aggregate()), abs=1e-6)
    assert values["monai hd95"] == pytest.approx(float(hd95.aggregate()), abs=1e-4)


@pytest.mark.parametrize("seed", range(6))
def test_totalsegmentators_scores(seed: int) -> None:
    found = cases(seed)
    scores: dict[str, dict[int, list[float]]] = {"dice": {}, "nsd_3mm": {}}
    for reference, prediction in found:
        for level in LEVELS:
            truth, guess = reference == level, prediction == level
            if not truth.any():
                continue
            values = (0.0, 0.0)
            if guess.any():
                distances = surface_distance.compute_surface_distances(truth, guess, SPACING)
                near = surface_distance.compute_surface_dice_at_tolerance(distances, 3.0)
                values = (2 * float((truth & guess).sum()) / (truth.sum() + guess.sum() + 1e-6), near)
            for name, value in zip(scores, values, strict=True):
                scores[name].setdefault(level, []).append(value)
    for name, by_level in scores.items():
        expected = np.mean([np.mean(values) for values in by_level.values()])
        assert ours(found)[f"totalsegmentator {name}"] == pytest.approx(float(expected), abs=1e-6)


def test_the_rules_part_on_missed_and_invented_levels() -> None:
    reference = np.zeros((8, 8, 40), np.uint8)
    for place, level in enumerate(LEVELS):
        reference[1:7, 1:7, 10 * place + 1 : 10 * place + 9] = level
    missing, invented = reference.copy(), reference.copy()
    missing[missing == 22] = 0
    invented[0, 0, 0] = 23
    values = ours([(reference, missing)])
    for tool in ("nnunet", "verse", "monai"):
        assert values[f"{tool} dice"] == 0.75
    assert values["totalsegmentator dice"] == pytest.approx(0.75)
    # A missed level costs MONAI's HD95 nothing at all.
    assert values["monai hd95"] == values["simpleitk hd95"] == 0
    assert (values["totalsegmentator nsd_3mm"], values["verse id_verse_code"]) == (0.75, 0.75)
    values = ours([(reference, invented)])
    # One voxel of a level that is not there: nnU-Net's mean falls to 4 of 5, nobody else sees it.
    assert values["nnunet dice"] == pytest.approx(0.8)
    assert all(values[f"{tool} dice"] == pytest.approx(1.0) for tool in ("totalsegmentator", "verse", "monai"))


def test_the_means_weigh_differently() -> None:
    """Two cases, one with four levels, all right, and one with one level, missed."""
    reference, _ = scene(0)
    reference = np.zeros_like(reference)
    for place, level in enumerate(LEVELS):
        reference[2:9, 2:9, 10 * place + 1 : 10 * place + 9] = level
    lonely = np.where(reference == 19, reference, 0).astype(np.uint8)
    values = ours([(reference, reference), (lonely, np.zeros_like(lonely))])
    assert values["verse dice"] == 4 / 5  # of five vertebrae
    assert values["monai dice"] == 1 / 2  # of two cases
    assert values["totalsegmentator dice"] == pytest.approx((0.5 + 3) / 4)  # of four structures
    assert values["nnunet dice"] == (0.5 + 3) / 4


def test_nothing_gives_nothing() -> None:
    empty = np.zeros((4, 4, 4), np.uint8)
    assert all(math.isnan(value) for value in ours([(empty, empty)]).values())


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_verses_hits_are_those_of_its_distance_matrix(seed: int) -> None:
    """As in its code: rows of NaN for absent levels, the predicted row's nearest column, the diagonal up to 20 mm."""
    random = np.random.default_rng(seed)
    truth, found = (np.where(random.random((6, 1)) < 0.3, np.nan, random.uniform(0, 50, (6, 3))) for _ in range(2))
    truth[random.random(6) < 0.3] = found[random.random(6) < 2][0]  # several in one place
    both = ~np.isnan(truth[:, 0]) & ~np.isnan(found[:, 0])
    expected = {}
    for level in np.flatnonzero(both):
        apart = [np.sqrt(((found[level] - truth[other]) ** 2).sum()) if both[other] else np.inf for other in range(6)]
        expected[int(level)] = bool(np.argmin(apart) == level and apart[level] <= 20)
    given_ = [{n: row for n, row in enumerate(part) if not np.isnan(row[0])} for part in (truth, found)]
    assert verse_hits(*given_) == expected


def test_a_level_that_the_prediction_lacks_cannot_steal_a_hit() -> None:
    """PROTOCOL 1 says no (another reference is nearer), VerSe's code says yes: that level is not in both lists."""
    reference = {20: (0, 0, 60), 21: (0, 0, 45), 22: (0, 0, 0)}
    assert verse_hits(reference, {20: (0, 0, 46), 22: (0, 0, 0)}) == {20: True, 22: True}


def test_every_rule_says_where_it_is_written() -> None:
    assert all(rule.text and rule.source for rule in RULES)
    assert len({rule.name for rule in RULES}) == len(RULES)
    assert {rule.tool for rule in RULES} == {"nnunet", "totalsegmentator", "verse", "monai", "simpleitk"}
    assert level_name(22) == "L3"
