"""What tables say: numbers of seeds and folds together, marks and tests only where they are allowed."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from spineseg.metrics.detections_table import COLUMNS, STATE_COLUMNS
from spineseg.metrics.summary import SplitScores
from spineseg.reporting.build import _notes
from spineseg.reporting.comparison_tables import pair_table, protocols_table, rank_table, run_table, variation_table
from spineseg.reporting.comparisons import compare_pairs
from spineseg.reporting.figures import draw_figures
from spineseg.reporting.latex import latex_table
from spineseg.reporting.level_tables import by_level, by_subject, dice_means, errors, identification, localisation
from spineseg.reporting.markdown import markdown_table
from spineseg.reporting.models import ScoredModel, score_models
from spineseg.reporting.runs import ScoredRun, load_runs
from spineseg.reporting.tables import detection_table, headline_table
from tests.reporting.scored_runs import write_evaluation, write_run


@pytest.fixture(scope="module")
def folded(tmp_path_factory: pytest.TempPathFactory) -> list[ScoredRun]:
    """A model of two folds: seven people."""
    folder = tmp_path_factory.mktemp("folded")
    parts = ((0, (0, 1, 2)), (1, (3, 4)))
    return load_runs([write_run(folder, "yolo_csi_levels", fold=fold, subjects=people) for fold, people in parts])


def same(first: Any, second: Any) -> bool:
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, float):
        return bool(first == pytest.approx(second, abs=1e-6))  # IoU is kept in single precision
    return bool(first == second) if not isinstance(first, list) else all(map(same, first, second))


def test_folds_together_are_one_evaluation_of_all_their_cases(folded: list[ScoredRun], tmp_path: Path) -> None:
    (whole,) = load_runs([write_run(tmp_path, "yolo_csi_levels", subjects=range(5))])
    (model,) = score_models(folded)
    for name, entry in whole.summary["metrics"].items():
        assert same(entry, model.results[name]), name


def test_equal_seeds_change_no_number(folded: list[ScoredRun]) -> None:
    (once,) = score_models(folded)
    (thrice,) = score_models([dataclasses.replace(run, seed=seed) for seed in (0, 1, 2) for run in folded])
    assert once.results.keys() == thrice.results.keys()
    for name, entry in once.results.items():
        assert same({**entry, "quartiles": 0}, {**thrice.results[name], "quartiles": 0}), name
    for make in (dice_means, identification, localisation, errors, detection_table):
        assert (
            make([once])
            .frame.map(lambda text: text.replace(".0 of", " of"))
            .equals(make([thrice]).frame.map(lambda text: text.replace(".0 of", " of")))
        ), make
    assert thrice.sd_seed("dice") == 0 and once.sd_seed("dice") is None
    assert thrice.sd_subject("dice") == pytest.approx(once.sd_subject("dice"))


def test_a_ranking_is_each_seeds_own(folded: list[ScoredRun], tmp_path: Path) -> None:
    parts = ((0, (0, 1, 2)), (1, (3, 4)))
    other = load_runs([write_run(tmp_path, "yolo_csi_levels", seed=1, fold=f, subjects=people) for f, people in parts])
    (first,), (second,), (both,) = score_models(folded), score_models(other), score_models([*folded, *other])
    for name in ("mask_map50", "mask_map50_95", "box_map50_named", "mask_map50_native", "dice", "nsd", "dice_spine"):
        mean = (first.results[name]["value"] + second.results[name]["value"]) / 2
        assert both.results[name]["value"] == pytest.approx(mean), name
    assert first.results["mask_map50_95"]["value"] != second.results["mask_map50_95"]["value"]


def test_every_table_of_a_comparison(folded: list[ScoredRun], tmp_path: Path) -> None:
    baseline = load_runs([write_evaluation(tmp_path / "t", "threshold", subjects=range(5))])
    oracle = load_runs([write_evaluation(tmp_path / "o", "oracle_native", subjects=range(5))])
    models = score_models([*folded, *baseline, *oracle])
    pairs = compare_pairs(models, simulated=True)
    # An oracle competes with nobody, and a one-class model has no named endpoint.
    assert {(pair.first, pair.second, pair.endpoint) for pair in pairs} == {
        ("yolo_csi_levels", "threshold", "dice_spine"),
        ("yolo_csi_levels", "threshold", "mask_map50"),
    }
    headline = headline_table(models, pairs, marked=False)
    assert headline.caption.startswith("SIMULATED data. ") and not headline.marks
    row = headline.frame.set_index("Model").loc["yolo_csi_levels"]
    assert row["Runs"] == "1 seed × 2 folds"
    assert (row["Parameters (M)"], row["Training (h)"], row["Peak memory (GB)"]) == ("1.50", "0.50", "2.0 RAM")
    assert headline.frame.set_index("Model").loc["threshold", "Dice"] == "n/a"
    assert headline.values is not None
    assert headline.values["Dice"].tolist()[0] == models[0].results["dice"]["value"]
    levels = by_level(models, "dice", "Dice").frame
    assert levels["Level"].tolist() == ["T12", "L1", "L2", "L3"] and list(levels)[2:] == [
        "yolo_csi_levels",
        "oracle_native",
    ]
    assert by_subject(models, "dice_spine", "Dice").frame.shape == (5, 4)
    protocols = protocols_table(models)
    assert protocols is not None and list(protocols.frame) == ["Rule", "yolo_csi_levels", "threshold"]
    assert len(run_table(models).frame) == 4
    assert errors(models).frame["shifted cases"].tolist() == ["1 of 5", "n/a", "0 of 5"]


PEOPLE = 8


def synthetic(
    name: str, dice: Sequence[Sequence[float]], *, simulated: bool = False, trained: bool = True
) -> ScoredModel:
    """A model whose subjects (rows) have these values of Dice, identification and NSD under its seeds (columns)."""
    values = np.array(dice, np.float64)
    subjects = tuple(f"s{n:02d}" for n in range(len(values)))
    empty = pd.DataFrame({name: [] for name in (*COLUMNS, *STATE_COLUMNS)}).astype({"counted": bool})
    seeds = {}
    for seed, column in enumerate(values.T):
        rows = [
            {"case": s, "subject": s, "level": level, "metric": metric, "parameter": tau, "value": v, "status": "ok"}
            for s, v in zip(subjects, column, strict=True)
            for metric, tau, level in (
                ("dice", "", "L1"), ("nsd", "tau=2", "L1"), ("id", "", ""), ("dice_spine", "", ""),
            )
        ]  # fmt: skip
        seeds[str(seed)] = SplitScores(pd.DataFrame(rows), empty, subjects, named=True, detector=False)
    mean = values.mean(axis=1).mean()
    entry = {"value": mean, "low": None, "high": None, "subjects": len(values)}
    results = {metric: dict(entry) for metric in ("dice", "dice_spine", "nsd", "id", "mask_map50")}
    summary = {"edge": "ignore", "metrics": results, "subjects": list(subjects), "notes": []}
    root = Path("runs") / name if trained else None
    frame = pd.DataFrame({"case": []})
    run = ScoredRun(name, name, root, Path(), "test", simulated, 0, 0, frame, summary, {}, {}, None, {})
    return ScoredModel(name, (run,), seeds, subjects, results)


def around(level: float, n: int = PEOPLE, seeds: int = 3, noise: float = 0.001) -> list[list[float]]:
    random = np.random.default_rng(round(1000 * level))
    return (level + random.normal(0, noise, (n, seeds))).tolist()


def daggers(models: Sequence[ScoredModel], *, simulated: bool = False) -> set[tuple[int, str]]:
    table = headline_table(models, compare_pairs(models, simulated=simulated), marked=not simulated)
    return {place for place, marks in table.marks.items() if "dagger" in marks}


def test_a_dagger_stands_at_what_is_below_the_best_beyond_chance_and_rerun_noise() -> None:
    good, bad = synthetic("good", around(0.9)), synthetic("bad", around(0.8))
    models = [bad, good]
    assert daggers(models) == {(0, "Dice"), (0, "id")}
    table = headline_table(models, compare_pairs(models, simulated=False), marked=True)
    assert table.marks[1, "Dice"] == {"best"} and table.marks[0, "Dice"] == {"second", "dagger"}
    assert any("Holm" in note for note in table.notes)
    pairs = {(pair.endpoint, pair.claimed) for pair in compare_pairs(models, simulated=False)}
    # Everything but the primary endpoints is secondary: no test, no dagger.
    assert pairs == {("dice", True), ("id_case", True), ("dice_spine", False), ("nsd", False), ("mask_map50", False)}


def test_where_the_protocol_allows_no_dagger_there_is_none() -> None:
    good, bad = synthetic("good", around(0.9)), synthetic("bad", around(0.8))
    assert daggers([good, bad], simulated=True) == set()
    assert daggers([synthetic("good", around(0.9, n=5)), synthetic("bad", around(0.8, n=5))]) == set()
    assert daggers([synthetic("good", around(0.9, n=6)), synthetic("bad", around(0.8, n=6))]) != set()
    assert daggers([synthetic(name, around(v, n=6)) for name, v in (("a", 0.9), ("b", 0.8), ("c", 0.7))]) == set()
    assert daggers([synthetic(name, around(v, n=7)) for name, v in (("a", 0.9), ("b", 0.8), ("c", 0.7))]) != set()
    assert daggers([good, synthetic("bad", around(0.8, seeds=2))]) == set()
    assert daggers([good, synthetic("bad", around(0.8), trained=False)]) == set()
    loud = (np.array(around(0.8)) + np.array([[0.15, -0.15, 0]])).tolist()  # seeds differ by more than the models do
    assert daggers([good, synthetic("bad", loud)]) == set()


def test_the_reason_for_no_claim_is_printed() -> None:
    good, bad = synthetic("good", around(0.9)), synthetic("bad", around(0.8, seeds=2))
    table = pair_table([good, bad], compare_pairs([good, bad], simulated=False))
    rows = table.frame.set_index("Endpoint")
    assert rows.loc["Dice", "Claimed"] == "no: fewer than 3 seeds: noise of a rerun unknown"
    assert rows.loc["Dice", "p"] == f"{2 / 2**PEOPLE:.4f}" == rows.loc["Dice", "p, Holm"]
    assert (rows.loc["NSD 2 mm", "p"], rows.loc["NSD 2 mm", "Kind"]) == ("–", "secondary")
    assert rows.loc["mAP50", "First − second"] == "–"  # no detections here
    simulated = pair_table([good, bad], compare_pairs([good, bad], simulated=True)).frame.set_index("Endpoint")
    assert simulated.loc["Dice", "Claimed"] == "no: simulated data: descriptive only"
    assert simulated.loc["Dice", "p"] == "–"


def test_holm_is_over_the_pairs_of_one_endpoint() -> None:
    models = [synthetic(name, around(level)) for name, level in (("a", 0.9), ("b", 0.8), ("c", 0.7))]
    pairs = [pair for pair in compare_pairs(models, simulated=False) if pair.endpoint == "dice"]
    assert len(pairs) == 3
    for pair in pairs:
        assert pair.found.p == 2 / 2**PEOPLE and pair.adjusted == pytest.approx(3 * 2 / 2**PEOPLE)


def test_ranks_only_of_three_models_and_ten_people_on_real_data() -> None:
    models = [synthetic(name, around(level, n=10)) for name, level in (("a", 0.9), ("b", 0.8), ("c", 0.7))]
    table = rank_table(models, simulated=False)
    assert table is not None and table.frame["Mean rank"].tolist()[:3] == ["1.00", "2.00", "3.00"]
    assert rank_table(models, simulated=True) is None
    assert rank_table(models[:2], simulated=False) is None
    few = [synthetic(name, around(level)) for name, level in (("a", 0.9), ("b", 0.8), ("c", 0.7))]
    assert rank_table(few, simulated=False) is None


def test_seeds_and_subjects_spread_apart() -> None:
    model = synthetic("a", [[0.5, 0.6], [0.7, 0.8], [0.9, 1.0]])
    row = variation_table([model]).frame.iloc[0]
    assert (row["Dice, sd_seed"], row["Dice, sd_subject"]) == ("0.0707", "0.2000")


def test_named_map_over_all_levels_is_marked_and_folds_together_are_not_few(tmp_path: Path) -> None:
    folds = load_runs(
        [write_run(tmp_path, "yolo_csi_levels", fold=fold, subjects=p) for fold, p in ((0, (0, 1)), (1, (2, 3)))]
    )
    said = "fewer than 3 subjects"
    assert all(any(said in note for note in run.summary["notes"]) for run in folds)
    few, pooled = score_models(folds[:1]), score_models(folds)
    assert any(said in note for note in _notes(few, (), simulated=True))
    assert not any(said in note for note in _notes(pooled, (), simulated=True))
    table = detection_table(few)
    assert (
        table.frame["AP50, named"][0].endswith(" (all levels)")
        and "all levels" not in table.frame["AP50, exclusive"][0]
    )
    assert any("All levels" in note for note in table.notes)
    assert "(all levels)" in latex_table(table) and "(all levels)" in markdown_table(table)
    assert "(all levels)" not in markdown_table(detection_table(pooled))


def test_a_named_model_whose_levels_are_all_cut_has_tables_and_figures(folded: list[ScoredRun], tmp_path: Path) -> None:
    rows = folded[0].metrics
    cut = rows.assign(status=np.where(rows["level"] != "", "ignored", rows["status"]))
    cut.loc[cut["level"] != "", "value"] = np.nan
    models = score_models([dataclasses.replace(folded[0], metrics=cut)])
    assert models[0].named
    means = dice_means(models)
    assert means.frame["level_mean"].tolist() == ["n/a"] and not any("Levels of" in note for note in means.notes)
    found = draw_figures(models, [], tmp_path, simulated=True, worst=0)
    assert "levels" not in found and "shifts" in found
