"""The tables and figures of a study, rebuilt from its files alone."""

import itertools
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from spineseg.errors import DataError
from spineseg.reporting.build import build_report
from spineseg.reporting.checklist import facts_of
from spineseg.reporting.runs import Table
from spineseg.reporting.study import study_figures, study_tables, tables_of
from spineseg.reporting.study_arms import arms_of, deltas
from spineseg.reporting.study_figures import numbers
from spineseg.reporting.study_results import read_study
from spineseg.studies.folder import Job, StudyFolder
from tests.reporting.study_cases import PEOPLE, write_matrix, write_search

EVERYBODY = [name for people in PEOPLE.values() for name in people]


def by_name(folder: StudyFolder) -> dict[str, Table]:
    return {table.name: table for table in study_tables(folder.root)}


def column(table: Table, name: str) -> list[float]:
    assert table.values is not None
    return [float(value) for value in table.values[name]]


def dice(folder: StudyFolder, label: str) -> pd.DataFrame:
    """Subject × seed, read from the files of the runs by other means than the report's."""
    files = folder.jobs.glob(f"{label}-*/2*/evaluation/test/metrics.csv")
    rows = pd.concat(pd.read_csv(path).assign(seed=int(path.parts[-5].split("-")[1])) for path in files)
    kept = rows[(rows["metric"] == "dice") & rows["level"].notna() & rows["status"].isin(["ok", "missed"])]
    return kept.groupby(["subject", "seed"])["value"].mean().unstack("seed")


@pytest.fixture(scope="module")
def matrix(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    return write_matrix(tmp_path_factory.mktemp("studies") / "flips", {"none": 1, "x": 3})


@pytest.fixture(scope="module")
def tables(matrix: StudyFolder) -> dict[str, Table]:
    return by_name(matrix)


def test_seeds_are_averaged_inside_a_subject_before_anything_else(
    matrix: StudyFolder, tables: dict[str, Table]
) -> None:
    table = tables["study"]
    expected = [dice(matrix, label) for label in ("none", "x")]
    assert list(table.frame["flip"]) == ["none", "x"]
    np.testing.assert_allclose(column(table, "dice"), [each.mean(axis=1).mean() for each in expected])
    np.testing.assert_allclose(column(table, "sd seed"), [each.mean(axis=0).std(ddof=1) for each in expected])
    np.testing.assert_allclose(column(table, "sd subject"), [each.mean(axis=1).std(ddof=1) for each in expected])
    assert list(table.frame["subjects"]) == ["6", "6"]
    assert list(table.frame["jobs"]) == ["6 of 6", "6 of 6"]


def test_deltas_are_paired_and_tested_exactly(matrix: StudyFolder, tables: dict[str, Table]) -> None:
    table = tables["study_ablation"]
    differences = (dice(matrix, "x").mean(axis=1) - dice(matrix, "none").mean(axis=1)).to_numpy()
    sums = [abs(np.dot(signs, differences)) for signs in itertools.product((-1, 1), repeat=len(differences))]
    expected = np.mean(np.array(sums) >= abs(differences.sum()) - 1e-12)
    np.testing.assert_allclose(column(table, "Δ dice"), differences.mean())
    np.testing.assert_allclose(column(table, "p (Holm)"), expected)
    assert list(table.frame["baseline"]) == ["none"]
    assert list(table.frame["beyond rerun noise"]) == ["yes"]


def test_nothing_is_tested_on_simulated_data_and_all_says_so(tmp_path: Path) -> None:
    tables = by_name(write_matrix(tmp_path / "flips", {"none": 1, "x": 3}, seeds=(0,), simulated=True))
    assert list(tables["study_ablation"].frame["p (Holm)"]) == ["n/a"]
    assert any("simulated data" in note for note in tables["study_ablation"].notes)
    assert all("SIMULATED" in table.caption for table in tables.values())


def test_failed_job_stays_in_the_denominator(tmp_path: Path, matrix: StudyFolder) -> None:
    folder = write_matrix(tmp_path / "flips", {"none": 1, "x": 3}, failed=[("x", 1, 0)])
    tables = by_name(folder)
    whole = dice(matrix, "x")
    left_out = whole.astype(float).copy()
    left_out.loc[list(PEOPLE[0]), 1] = np.nan
    zero = left_out.fillna(0.0)
    study = tables["study"]
    assert list(study.frame["jobs"]) == ["6 of 6", "5 of 6, 1 failed"]
    np.testing.assert_allclose(column(study, "dice")[1], left_out.mean(axis=1).mean())
    np.testing.assert_allclose(column(study, "dice, failures 0")[1], zero.mean(axis=1).mean())
    assert column(study, "dice, failures 0")[0] == column(study, "dice")[0]
    assert list(tables["study_jobs"].frame["error"]) == ["out of memory"]
    assert "1 failed" in tables["study_jobs"].caption
    assert list(tables["study_ablation"].frame["p (Holm)"]) == ["n/a"]


def test_table_is_the_same_however_often_it_is_rebuilt(matrix: StudyFolder, tables: dict[str, Table]) -> None:
    second = by_name(matrix)
    for name, table in tables.items():
        pd.testing.assert_frame_equal(table.frame, second[name].frame)
        assert str(matrix.root) not in table.frame.to_csv()


def test_curve_along_an_axis_of_numbers(tmp_path: Path) -> None:
    folder = write_matrix(tmp_path / "curve", {"2": 4, "5": 3, "40": 1, "all": 1}, seeds=(0,), axis="subjects")
    arms = arms_of(read_study(folder.root))
    assert numbers(arms, "subjects") == {"2": 2.0, "5": 5.0, "40": 40.0}
    figures = study_figures(folder.root, tmp_path / "figures")
    assert set(figures) == {"study_arms", "study_curve_subjects"}
    for path in figures.values():
        assert path.stat().st_size > 1000
        assert path.with_suffix(".pdf").stat().st_size > 1000


def test_search_names_the_best_trial_and_what_mattered(tmp_path: Path) -> None:
    def value(drawn: Mapping[str, Any]) -> float:
        return 1 - (np.log10(drawn["optim.lr0"]) + 2) ** 2 / 4

    folder = write_search(tmp_path / "search", value)
    tables = by_name(folder)
    best = max((job for job in folder.all_jobs() if job.state == "done"), key=lambda job: job.value or 0)
    assert tables["search_best"].frame["trial"][0] == str(best.trials[0])
    assert column(tables["search_best"], "optim.lr0")[0] == best.labels["optim.lr0"]
    assert "1 failed" in tables["search_best"].notes[0]
    assert tables["search_importance"].frame["parameter"][0] == "optim.lr0"
    assert column(tables["search_importance"], "importance")[0] > 0.8
    figures = study_figures(folder.root, tmp_path / "figures")
    assert set(figures) == {"search_history", "search_importance", "search_contour"}


def test_trials_are_counted_by_number_and_not_by_job_or_attempt(tmp_path: Path) -> None:
    folder = write_search(tmp_path / "search", lambda drawn: drawn["data.foreground"], trials=8)
    # Trial 8 drew the parameters of trial 2; its worker was killed twice, and a third one brought it to its end.
    folder.write_job(replace(folder.read_job("trial2"), trials=(2, 8), attempts=3))
    tables = by_name(folder)
    assert tables["search_best"].notes[0].startswith("Of 9 trials 8 done, 1 failed")
    assert sorted(tables["search_best"].frame["trial"]) == [str(trial) for trial in (0, 1, 2, 3, 4, 6, 7, 8)]
    twins = tables["search_best"].frame.set_index("trial").loc[["2", "8"], "dice"]
    assert len(set(twins)) == 1
    assert "of 8 jobs 7 done, 1 failed" in tables["study_jobs"].caption


def test_every_table_says_by_which_rules_and_of_how_many(tables: dict[str, Table]) -> None:
    for table in tables.values():
        assert table.caption.endswith("est split, n = 6 subjects, edge = ignore, protocol 1.0."), table.caption
        assert dict(table.facts) == {"protocol": "1.0", "edge": "ignore", "split": "test", "data": "real"}
    assert "n = 6, interval approximate." in tables["study"].notes
    assert "n = 6, interval approximate." in tables["study_ablation"].notes


def test_arms_of_different_subjects_say_so(tmp_path: Path, tables: dict[str, Table]) -> None:
    folder = write_matrix(tmp_path / "flips", {"none": 1, "x": 3}, seeds=(0,), failed=[("x", 0, 1)])
    metrics = by_name(folder)["study_metrics"]
    assert metrics.frame["subjects"].tolist() == ["6", "3"]
    assert metrics.frame["jobs"].tolist() == ["2 of 2", "1 of 2, 1 failed"]
    assert any("not to be compared" in note for note in metrics.notes)
    assert not any("not to be compared" in note for note in tables["study_metrics"].notes)


def test_arms_without_a_common_subject_have_no_difference(tmp_path: Path) -> None:
    failed = [("none", 0, 0), ("x", 0, 1)]
    folder = write_matrix(tmp_path / "flips", {"none": 1, "x": 3}, seeds=(0,), failed=failed)
    assert by_name(folder)["study_ablation"].frame["Δ dice"].tolist() == ["–"]


@pytest.mark.parametrize("why", ["edge = crop", "training split", "overfit check"])
def test_what_is_no_result_is_not_tested(matrix: StudyFolder, why: str) -> None:
    study = read_study(matrix.root)
    changed = {
        name: replace(
            run,
            summary={**run.summary, "edge": "crop" if why == "edge = crop" else "ignore"},
            split="train" if why == "training split" else "test",
            provenance={"overfit": "anna"} if why == "overfit check" else {},
        )
        for name, run in study.runs.items()
    }
    study.__dict__["runs"] = changed  # what the property has read
    table = {each.name: each for each in tables_of(study)}["study_ablation"]
    assert table.frame["p (Holm)"].tolist() == ["n/a"] and any(why in note for note in table.notes)
    assert ("OVERFIT check on anna" in table.caption) == (why == "overfit check")


def test_a_jobs_error_names_no_place(tmp_path: Path) -> None:
    folder = write_matrix(tmp_path / "my flips", {"none": 1}, seeds=(0,), failed=[("none", 0, 1)])
    job = folder.read_job("none-0-1")
    folder.write_job(replace(job, error=f"{folder.root}/jobs/none-0-1/last.ckpt: damaged"))
    assert by_name(folder)["study_jobs"].frame["error"].tolist() == ["…/last.ckpt: damaged"]


def test_a_report_of_a_study_names_its_arms_and_not_its_jobs(matrix: StudyFolder, tmp_path: Path) -> None:
    report = build_report([], tmp_path / "report", study=matrix.root, worst=1)
    assert {run.recipe for run in report.runs} == {"flip none", "flip x"}
    page = (tmp_path / "report" / "report.html").read_text()
    (article,) = re.findall(r'<article class="case".*?</article>', page, re.S)
    # One panel a plane for each arm, whatever its seeds.
    panels = re.findall(r"<figcaption><b>(.*?)</b>", article)
    assert panels == ["flip none", "flip x"] * 4
    assert re.findall(r'<th scope="row">(.*?)</th>', article) == ["flip none", "flip x"]
    assert "one seed a model is drawn; other seeds: flip none, seed 1; flip none, seed 2; flip x, seed 1" in article
    checklist = (tmp_path / "report" / "checklist.md").read_text()
    assert "Comparison of flip none, flip x on the same cases" in checklist
    facts = facts_of(report)
    assert facts["reruns"].startswith("3 seeds a model")
    assert not re.search(r"(none|x)-\d-\d", checklist + str(facts) + article)


def test_study_without_a_result_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"python -m spineseg\.study"):
        study_tables(tmp_path / "nowhere")
    folder = write_matrix(tmp_path / "a", {"x": 1}, seeds=(0,), failed=[("x", 0, 0), ("x", 0, 1)])
    with pytest.raises(DataError, match="no job of 2 is done"):
        study_tables(folder.root)


def test_a_seed_without_a_value_leaves_the_noise_of_the_others_and_no_claim(
    tmp_path: Path, matrix: StudyFolder
) -> None:
    folder = write_matrix(tmp_path / "flips", {"none": 1, "x": 3}, failed=[("x", 1, 0), ("x", 1, 1)])
    arms = arms_of(read_study(folder.root))
    expected = dice(matrix, "x")[[0, 2]].mean(axis=0).std(ddof=1)
    assert arms[1].sd_seed("dice") == pytest.approx(expected)
    (delta,), reason = deltas(arms, {"flip": "none"}, "dice", refused=None)
    assert delta.beyond_noise is None and "jobs are missing" in reason
    assert list(by_name(folder)["study_ablation"].frame["beyond rerun noise"]) == ["–"]


def test_who_a_failed_job_tests_is_known_from_other_recipes(tmp_path: Path) -> None:
    folder = write_matrix(tmp_path / "flips", {"none": 1}, seeds=(0,))
    labels = {"recipe": "yolo_csi", "flip": "none", "seed": 0}
    jobs = [
        Job(f"bad{fold}", {**labels, "fold": fold}, (), False, "d", "other split", state="failed") for fold in (0, 1)
    ]
    for job in jobs:
        folder.add_job(job)
    content = folder.read_study()
    folder.write_study({**content, "plan": [*content["plan"], *(job.hash for job in jobs)]})
    arm = arms_of(read_study(folder.root))[1]
    assert arm.labels["recipe"] == "yolo_csi"
    assert arm.values("dice", failures=True)[0].to_dict() == dict.fromkeys(EVERYBODY, 0.0)
    assert arm.values("dice").empty


def test_a_split_that_was_not_scored_is_to_be_scored(matrix: StudyFolder, tmp_path: Path) -> None:
    folder = write_matrix(tmp_path / "flips", {"none": 1}, seeds=(0,))
    folder.write_study({**folder.read_study(), "split": "val"})
    with pytest.raises(DataError, match=r"python -m spineseg\.train resume=\S+ score_splits=\[val\]"):
        study_tables(folder.root)
