"""The program ``report`` from end to end, on scored runs that were never trained."""

import csv
import json
import shutil
from pathlib import Path

import pytest

from spineseg.config import compose
from spineseg.errors import ConfigError, DataError
from spineseg.report import main
from spineseg.reporting.build import build_report
from tests.reporting.scored_runs import write_evaluation, write_run


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models and the threshold baseline on three simulated people."""
    folder = tmp_path_factory.mktemp("runs")
    for model in ("unet_csi", "yolo_csi"):
        write_run(folder, model, subjects=range(3))
    write_evaluation(folder / "threshold", "threshold", subjects=range(3))
    return folder


def report(output: Path, *names: Path | str, runs: Path, **keys: object) -> None:
    listed = ",".join(f"'{name}'" for name in names)
    given = [f"runs=[{listed}]", f"output={output}", f"paths.runs={runs}", "worst=1", "html=false"]
    main(compose("report", [*given, *(f"{key}={value}" for key, value in keys.items())]))


def test_a_report_of_simulated_runs_says_so_everywhere(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "report"
    report(output, "csi/*/*", runs / "threshold" / "scores", runs=runs, **{"+labels.unet_csi": "U-Net"})
    printed = capsys.readouterr().out
    assert "SIMULATED" in printed and "| U-Net |" in printed and "| threshold |" in printed
    page = (output / "report.md").read_text()
    assert "SIMULATED DATA" in page.splitlines()[2]
    for folder, suffix in (("tables", ".md"), ("tables", ".tex"), ("tables", ".csv")):
        files = sorted((output / folder).glob(f"*{suffix}"))
        assert len(files) > 10
        for path in files:
            assert "SIMULATED" in path.read_text(), path
    assert "SIMULATED" in (output / "checklist.md").read_text()
    # Nothing is marked, nothing is tested.
    assert "**" not in (output / "tables" / "headline.md").read_text().replace("**SIMULATED", "")
    assert r"\textbf" not in (output / "tables" / "headline.tex").read_text()
    assert "†" not in page
    for line in page.splitlines():
        if line.startswith("!["):
            assert (output / line.split("(")[-1].rstrip(")")).is_file()
    assert str(runs) not in page and str(tmp_path) not in page
    with (output / "tables" / "headline.csv").open() as stream:
        rows = {row["Model"]: row for row in csv.DictReader(stream)}
    assert rows["yolo_csi"]["Dice"] == "" and 0 < float(rows["yolo_csi"]["Dice, whole spine"]) < 1
    assert {row["data"] for row in rows.values()} == {"SIMULATED"}


def test_what_an_earlier_report_left_is_replaced_and_nothing_else_is(runs: Path, tmp_path: Path) -> None:
    output = tmp_path / "report"
    report(output, "csi/unet_csi/*", runs=runs, title="first")
    (output / "tables" / "ranks.md").write_text("of an earlier report")
    report(output, "csi/yolo_csi/*", runs=runs, title="second")
    assert not (output / "tables" / "ranks.md").exists() and not (output / "tables" / "levels_dice.md").exists()
    assert (output / "report.md").read_text().startswith("# second")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("years of work")
    with pytest.raises(DataError, match="holds files"):
        report(tmp_path / "other", "csi/yolo_csi/*", runs=runs)


def test_runs_without_scores_are_refused_or_named(runs: Path, tmp_path: Path) -> None:
    failed = shutil.copytree(next((runs / "csi" / "unet_csi").glob("*")), tmp_path / "runs" / "csi" / "unet_csi" / "t")
    shutil.rmtree(failed / "evaluation")
    given = (next((runs / "csi" / "unet_csi").glob("*")), failed)
    with pytest.raises(ConfigError, match="1 of 2 runs have no scores"):
        report(tmp_path / "a", *given, runs=runs)
    report(tmp_path / "b", *given, runs=runs, unscored="list")
    assert "1 runs have no scores" in (tmp_path / "b" / "report.md").read_text()
    assert "csi/unet_csi/t" in (tmp_path / "b" / "report.md").read_text()


def test_only_unscored_runs_are_an_error_that_says_so(runs: Path, tmp_path: Path) -> None:
    failed = shutil.copytree(next((runs / "csi" / "unet_csi").glob("*")), tmp_path / "runs" / "csi" / "unet_csi" / "t")
    shutil.rmtree(failed / "evaluation")
    with pytest.raises(DataError, match="none of 1 runs has scores of the split 'test'"):
        report(tmp_path / "a", failed, runs=runs, unscored="list")


def test_scores_outlive_their_predictions(runs: Path, tmp_path: Path) -> None:
    scores = shutil.copytree(runs / "threshold" / "scores", tmp_path / "alone" / "scores")
    report(tmp_path / "report", scores, runs=runs)
    page = (tmp_path / "report" / "report.md").read_text()
    assert "is not drawn" in page and "neither a prediction nor a reference" in page and str(tmp_path) not in page
    assert not list((tmp_path / "report" / "figures").glob("worst_case*"))


def test_no_worst_case_asked_for_is_none_drawn(runs: Path, tmp_path: Path) -> None:
    found = build_report([runs / "threshold" / "scores"], tmp_path, worst=0, html=False)
    assert not {"pass", "worst_case_1"} & set(found.figures)


def test_runs_that_cannot_be_compared_leave_an_earlier_report_alone(runs: Path, tmp_path: Path) -> None:
    output = tmp_path / "report"
    report(output, runs / "threshold" / "scores", runs=runs, title="first")
    before = sorted(path.name for path in (output / "tables").iterdir())
    fewer = write_evaluation(tmp_path / "fewer", "oracle_native", subjects=range(2))
    with pytest.raises(DataError, match="different cases"):
        report(output, runs / "threshold" / "scores", fewer, runs=runs)
    assert sorted(path.name for path in (output / "tables").iterdir()) == before
    assert (output / "report.md").read_text().startswith("# first")


def test_a_figure_that_cannot_be_drawn_leaves_an_earlier_report_alone(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "report"
    report(output, runs / "threshold" / "scores", runs=runs, title="first")
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}

    def fail(*_: object, **__: object) -> None:
        raise ValueError("no figure")

    monkeypatch.setattr("spineseg.reporting.figures.draw_precision", fail)
    with pytest.raises(ValueError, match="no figure"):
        report(output, runs / "threshold" / "scores", runs=runs, title="second")
    assert {path: path.read_bytes() for path in output.rglob("*") if path.is_file()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


def test_an_earlier_page_does_not_outlive_its_report(runs: Path, tmp_path: Path) -> None:
    output = tmp_path / "report"
    build_report([runs / "threshold" / "scores"], output, worst=0)
    (output / "own.txt").write_text("a note of the reader's")
    assert (output / "report.html").is_file()
    found = build_report([runs / "threshold" / "scores"], output, worst=0, html=False)
    assert not (output / "report.html").exists() and (output / "own.txt").is_file()
    assert all(path.is_file() and path.parent == output / "figures" for path in found.figures.values())


def test_without_predictions_no_scan_is_read_for_a_pass(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(runs / "threshold" / "scores", tmp_path / "alone" / "scores")
    asked: list[str] = []

    def looked(read: list[object], case: str, *_: object) -> None:
        asked.append(case)
        raise DataError(f"{case}: nothing there")

    monkeypatch.setattr("spineseg.reporting.worst_cases.case_views", looked)
    found = build_report([folder], tmp_path / "report", worst=1, html=False)
    assert len(asked) == 1 and "pass" not in found.figures


def test_an_overfit_check_says_so_in_every_output(tmp_path: Path) -> None:
    overfit = {"overfit": "case00"}
    made = [
        write_run(tmp_path / "runs", name, subjects=range(2), simulated=False, provenance=overfit)
        for name in ("unet_csi", "yolo_csi_levels")
    ]
    output = tmp_path / "report"
    report(output, *made, runs=tmp_path)
    texts = [path for path in output.rglob("*") if path.suffix in (".md", ".csv", ".tex")]
    assert len(texts) > 30
    for path in texts:
        assert "OVERFIT check" in path.read_text(), path
    assert r"\textbf" not in (output / "tables" / "headline.tex").read_text()


def test_notes_name_no_place(runs: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(next((runs / "csi" / "unet_csi").glob("*")), tmp_path / "my runs" / "one")
    provenance = json.loads((folder / "provenance.json").read_text())
    provenance["exclusions"] = f"1 case left out by {tmp_path}/my runs/one/exclude.csv"
    (folder / "provenance.json").write_text(json.dumps(provenance))
    report(tmp_path / "report", folder, runs=runs)
    page = (tmp_path / "report" / "report.md").read_text()
    assert "left out by …/exclude.csv" in page and "my runs" not in page


def test_nothing_to_report_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing to report"):
        report(tmp_path, runs=tmp_path)


def test_real_data_is_marked(tmp_path: Path) -> None:
    names = ("unet_csi", "yolo_csi_levels")
    made = [write_run(tmp_path / "runs", name, subjects=range(2), simulated=False) for name in names]
    report(tmp_path / "report", *made, runs=tmp_path)
    text = (tmp_path / "report" / "tables" / "headline.tex").read_text()
    assert r"\textbf{" in text and r"\underline{" in text and "SIMULATED" not in text
    # Two people: no interval, no test.
    assert "dagger" not in text and "[" not in text.split(r"\midrule")[1].split(r"\bottomrule")[0]
