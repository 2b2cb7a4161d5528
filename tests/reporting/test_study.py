"""The tables and figures of a study, rebuilt from its files alone."""

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from spineseg.errors import DataError
from spineseg.reporting.runs import Table
from spineseg.reporting.study import study_figures, study_tables
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


def test_trial_of_a_killed_worker_counts_once(tmp_path: Path) -> None:
    folder = write_search(tmp_path / "search", lambda drawn: drawn["data.foreground"], trials=8)
    assert "Of 8 trials" in by_name(folder)["search_best"].notes[0]


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
    (delta,), reason = deltas(arms, {"flip": "none"}, "dice", simulated=False)
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
