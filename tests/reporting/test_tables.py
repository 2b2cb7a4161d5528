"""What tables say: numbers of seeds and folds together, marks and tests only where they are allowed."""

import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from spineseg.metrics.detections_table import COLUMNS, STATE_COLUMNS
from spineseg.metrics.summary import SplitScores
from spineseg.metrics.tables import mean_tables
from spineseg.reporting.build import _notes, csv_table
from spineseg.reporting.comparison_tables import pair_table, protocols_table, rank_table, run_table, variation_table
from spineseg.reporting.comparisons import compare_pairs
from spineseg.reporting.field_table import field_table
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
    pairs = compare_pairs(models)
    # An oracle competes with nobody, and a one-class model has no named endpoint.
    assert {(pair.first, pair.second, pair.endpoint) for pair in pairs} == {
        ("yolo_csi_levels", "threshold", "dice_spine"),
        ("yolo_csi_levels", "threshold", "mask_map50"),
    }
    headline = headline_table(models, pairs)
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
    summary = {"protocol": "1.0", "edge": "ignore", "metrics": results, "subjects": list(subjects), "notes": []}
    root, seed = (Path("runs") / name, 0) if trained else (None, None)
    frame = pd.DataFrame({"case": list(subjects), "source": "set"})
    run = ScoredRun(name, name, root, Path(), "test", simulated, seed, 0, frame, summary, {}, {}, None, {})
    return ScoredModel(name, (run,), seeds, subjects, results)


def around(level: float, n: int = PEOPLE, seeds: int = 3, noise: float = 0.001) -> list[list[float]]:
    random = np.random.default_rng(round(1000 * level))
    return (level + random.normal(0, noise, (n, seeds))).tolist()


def daggers(models: Sequence[ScoredModel]) -> set[tuple[int, str]]:
    table = headline_table(models, compare_pairs(models))
    return {place for place, marks in table.marks.items() if "dagger" in marks}


def test_a_dagger_stands_at_what_is_below_the_best_beyond_chance_and_rerun_noise() -> None:
    good, bad = synthetic("good", around(0.9)), synthetic("bad", around(0.8))
    models = [bad, good]
    assert daggers(models) == {(0, "Dice"), (0, "id")}
    table = headline_table(models, compare_pairs(models))
    assert table.marks[1, "Dice"] == {"best"} and table.marks[0, "Dice"] == {"second", "dagger"}
    assert any("Holm" in note for note in table.notes)
    pairs = {(pair.endpoint, pair.claimed) for pair in compare_pairs(models)}
    # Everything but the primary endpoints is secondary: no test, no dagger.
    assert pairs == {("dice", True), ("id_case", True), ("dice_spine", False), ("nsd", False), ("mask_map50", False)}


def test_where_the_protocol_allows_no_dagger_there_is_none() -> None:
    good, bad = synthetic("good", around(0.9)), synthetic("bad", around(0.8))
    assert daggers([synthetic("good", around(0.9), simulated=True), bad]) == set()
    assert daggers([synthetic("good", around(0.9, n=5)), synthetic("bad", around(0.8, n=5))]) == set()
    assert daggers([synthetic("good", around(0.9, n=6)), synthetic("bad", around(0.8, n=6))]) != set()
    assert daggers([synthetic(name, around(v, n=6)) for name, v in (("a", 0.9), ("b", 0.8), ("c", 0.7))]) == set()
    assert daggers([synthetic(name, around(v, n=7)) for name, v in (("a", 0.9), ("b", 0.8), ("c", 0.7))]) != set()
    assert daggers([good, synthetic("bad", around(0.8, seeds=2))]) == set()
    assert daggers([good, synthetic("bad", around(0.8), trained=False)]) == set()
    loud = (np.array(around(0.8)) + np.array([[0.15, -0.15, 0]])).tolist()  # seeds differ by more than the models do
    assert daggers([good, synthetic("bad", loud)]) == set()


def changed(model: ScoredModel, **changes: Any) -> ScoredModel:
    """The model with another record of its run."""
    return dataclasses.replace(model, runs=(dataclasses.replace(model.runs[0], **changes),))


@pytest.mark.parametrize(
    ("changes", "marked", "why"),
    [
        ({"provenance": {"overfit": "s03"}}, False, "overfit check: no result"),
        ({"split": "train"}, False, "training split: no result"),
        ({"summary": {"protocol": "1.0", "edge": "crop", "subjects": [], "notes": []}}, True, "edge = crop"),
    ],
)
def test_what_is_no_result_is_neither_marked_nor_tested(changes: dict[str, Any], marked: bool, why: str) -> None:
    models = [synthetic("good", around(0.9)), changed(synthetic("bad", around(0.8)), **changes)]
    pairs = compare_pairs(models)
    headline = headline_table(models, pairs)
    assert bool(headline.marks) == marked and not daggers(models)
    assert all(pair.found.p is None and not pair.claimed for pair in pairs)
    assert all(why in str(pair.reason) for pair in pairs if pair.endpoint == "dice")
    if "overfit" in why:
        for table in (headline, pair_table(models, pairs), variation_table(models)):
            for text in (markdown_table(table), latex_table(table), csv_table(table)):
                assert "OVERFIT check" in text, table.name


def test_sets_that_annotate_parts_are_tested_under_their_own_rule() -> None:
    def scored(edge: str, source: str) -> list[ScoredModel]:
        made = [synthetic(name, around(value)) for name, value in (("good", 0.9), ("bad", 0.8))]
        summary = {"protocol": "1.0", "edge": edge, "subjects": [], "notes": []}
        frame = pd.DataFrame({"case": ["c"], "source": [source]})
        return [changed(model, summary=summary, metrics=frame) for model in made]

    assert daggers(scored("count", "kaggle")) and not daggers(scored("count", "csi2014"))
    assert daggers(scored("ignore", "csi2014")) and not daggers(scored("ignore", "kaggle"))


def test_no_dagger_stands_at_the_model_that_is_better_in_the_test() -> None:
    good, bad = synthetic("good", around(0.9)), synthetic("bad", around(0.8))
    # Pooled over levels the order is the other one, as when one subject has most of them.
    bad.results["id"]["value"] = 0.99
    table = headline_table([good, bad], compare_pairs([good, bad]))
    assert table.marks[1, "id"] == {"best"} and table.marks[0, "id"] == {"second"}
    assert "dagger" in table.marks[1, "Dice"]


def test_what_the_protocol_leaves_out_of_the_headline_is_in_a_table_of_its_own(
    folded: list[ScoredRun], tmp_path: Path
) -> None:
    models = score_models([*folded, *load_runs([write_evaluation(tmp_path / "t", "threshold", subjects=range(5))])])
    table = field_table(models)
    assert list(table.frame)[1:] == ["references ignored", "predictions dropped", "NSD 3 mm", "ASSD (mm)"]
    ignored = sum(run.summary["ignored_references"] for run in folded)
    assert table.frame["references ignored"][0] == str(ignored)
    nsd = mean_tables(models[0].pooled, "nsd", "tau=3")["case_mean"]
    assert table.values is not None and table.values["NSD 3 mm"][0] == pytest.approx(nsd)
    assert table.values["ASSD (mm), found"][0] == models[0].results["assd"]["found"]
    assert table.frame["NSD 3 mm"][1] == "n/a"
    fine = [dataclasses.replace(run, metrics=run.metrics.assign(source="csi2014")) for run in folded]
    assert "NSD 1 mm" in field_table(score_models(fine)).frame


def test_under_count_the_numbers_of_ignore_stand_beside(tmp_path: Path) -> None:
    parts = ((0, (0, 1, 2)), (1, (3, 4)))
    made = [write_run(tmp_path, "unet_csi", fold=f, subjects=people, edge="count") for f, people in parts]
    (model,) = score_models(load_runs(made))
    (beside,) = score_models(
        [
            dataclasses.replace(run, config={})
            for run in load_runs([path / "evaluation" / "test" / "ignore" for path in made])
        ]
    )
    table = field_table([model])
    assert table.values is not None
    assert table.values["Dice, edge = ignore"][0] == beside.results["dice"]["value"]
    assert table.values["mAP50, edge = ignore"][0] == beside.results["mask_map50"]["value"]


def test_files_say_what_stands_beside_a_number_and_by_which_rules(folded: list[ScoredRun]) -> None:
    models = score_models(folded)
    headline = pd.read_csv(io.StringIO(csv_table(headline_table(models, []))))
    assert headline["HD95 (mm), found"][0] == models[0].results["hd95"]["found"]
    rules = headline[["protocol", "edge", "split", "data"]].iloc[0].astype(str).tolist()
    assert rules == ["1.0", "ignore", "test", "SIMULATED"]
    named = identification(models)
    assert named.values is not None and {"d (mm), found", "d free (mm), found", "id, low"} <= set(named.values)
    # Wherever there are intervals of few subjects.
    for table in (headline_table(models, []), dice_means(models), named, detection_table(models), errors(models)):
        assert "n = 5, interval approximate." in table.notes, table.name
    assert not any("approximate" in note for note in by_level(models, "dice", "Dice").notes)


def test_a_p_value_is_never_zero() -> None:
    models = [synthetic("good", around(0.9, n=20)), synthetic("bad", around(0.8, n=20))]
    rows = pair_table(models, compare_pairs(models, resamples=200)).frame.set_index("Endpoint")
    assert rows.loc["Dice", "p"] == rows.loc["Dice", "p, Holm"] == "<0.0001"


def test_the_reason_for_no_claim_is_printed() -> None:
    good, bad = synthetic("good", around(0.9)), synthetic("bad", around(0.8, seeds=2))
    table = pair_table([good, bad], compare_pairs([good, bad]))
    rows = table.frame.set_index("Endpoint")
    assert rows.loc["Dice", "Claimed"] == "no: fewer than 3 seeds: noise of a rerun unknown"
    assert rows.loc["Dice", "p"] == f"{2 / 2**PEOPLE:.4f}" == rows.loc["Dice", "p, Holm"]
    assert (rows.loc["NSD 2 mm", "p"], rows.loc["NSD 2 mm", "Kind"]) == ("–", "secondary")
    assert rows.loc["mAP50", "First − second"] == "–"  # no detections here
    good = synthetic("good", around(0.9), simulated=True)
    simulated = pair_table([good, bad], compare_pairs([good, bad])).frame.set_index("Endpoint")
    assert simulated.loc["Dice", "Claimed"] == "no: simulated data: descriptive only"
    assert simulated.loc["Dice", "p"] == "–"


def test_holm_is_over_the_pairs_of_one_endpoint() -> None:
    models = [synthetic(name, around(level)) for name, level in (("a", 0.9), ("b", 0.8), ("c", 0.7))]
    pairs = [pair for pair in compare_pairs(models) if pair.endpoint == "dice"]
    assert len(pairs) == 3
    for pair in pairs:
        assert pair.found.p == 2 / 2**PEOPLE and pair.adjusted == pytest.approx(3 * 2 / 2**PEOPLE)


def test_ranks_only_of_three_models_and_ten_people_on_real_data() -> None:
    models = [synthetic(name, around(level, n=10)) for name, level in (("a", 0.9), ("b", 0.8), ("c", 0.7))]
    table = rank_table(models)
    assert table is not None and table.frame["Mean rank"].tolist()[:3] == ["1.00", "2.00", "3.00"]
    made_up = synthetic("c", around(0.7, n=10), simulated=True)
    assert rank_table([*models[:2], made_up]) is None
    assert rank_table(models[:2]) is None
    few = [synthetic(name, around(level)) for name, level in (("a", 0.9), ("b", 0.8), ("c", 0.7))]
    assert rank_table(few) is None


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
    found = draw_figures(models, [], tmp_path, worst=0)
    assert "levels" not in found and "shifts" in found
