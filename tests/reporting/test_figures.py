"""Figures hold the numbers that they claim to, say SIMULATED, and embed their fonts."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from spineseg.errors import FormatError
from spineseg.geometry import Volume
from spineseg.metrics.means import level_means
from spineseg.metrics.summary import metric_rows
from spineseg.reporting import figures as all_figures
from spineseg.reporting.case_views import CaseView, color_of
from spineseg.reporting.comparisons import compare_pairs, subject_means
from spineseg.reporting.curves import draw_training, precision_curve, read_log
from spineseg.reporting.figures import draw_figures
from spineseg.reporting.figures_levels import FARTHEST, draw_levels, draw_shifts, shift_shares
from spineseg.reporting.figures_pairs import draw_differences
from spineseg.reporting.figures_style import figure, save, style_of
from spineseg.reporting.models import ScoredModel, score_models
from spineseg.reporting.overlay import OPACITY
from spineseg.reporting.runs import load_runs
from spineseg.reporting.worst_cases import central_slice, tinted, worst_of
from tests.reporting.scored_runs import write_run


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[ScoredModel]:
    """A named label-map model and a named detector on five people, and a one-class detector."""
    folder = tmp_path_factory.mktemp("models")
    names = ("unet_csi", "yolo_csi_levels", "yolo_csi")
    return score_models(load_runs([write_run(folder, name, subjects=range(5)) for name in names]))


@pytest.fixture
def drawn() -> Iterator[Figure]:
    with figure() as empty:
        yield empty


def styles(models: list[ScoredModel]) -> dict[str, dict[str, str]]:
    return style_of([model.name for model in models])


def test_simulated_figures_say_so_and_others_do_not(tmp_path: Path) -> None:
    for simulated in (True, False):
        with figure() as one:
            one.subplots().plot([0, 1], [0, 1])
            path = save(one, tmp_path / str(simulated), "one", ("SIMULATED data",) if simulated else ())
        assert any("SIMULATED" in text.get_text() for text in one.texts) == simulated
        assert path == tmp_path / str(simulated) / "one.png"
    first, second = (np.asarray(Image.open(tmp_path / name / "one.png").convert("L")) for name in ("True", "False"))
    assert (first != second).mean() > 0.01


def test_a_pdf_embeds_its_fonts_and_two_of_them_are_one(tmp_path: Path) -> None:
    for name in ("a", "b"):
        with figure() as one:
            one.subplots().set_title("τ × title")
            save(one, tmp_path, name, ("SIMULATED data",))
    content = (tmp_path / "a.pdf").read_bytes()
    assert b"/FontFile2" in content and b"/Type3" not in content
    assert content == (tmp_path / "b.pdf").read_bytes()
    assert not list(tmp_path.glob(".partial*"))


def test_the_mean_of_the_precision_curve_is_the_ap(models: list[ScoredModel]) -> None:
    for model in models:
        for scores in model.seeds.values():
            curve = precision_curve(scores.detections)
            assert curve.mean() == pytest.approx(model.results["mask_map50"]["value"])
            # With scores that put wrong detections first, too.
            table = scores.detections
            flipped = table.assign(
                score=-table["score"], mask_agnostic_50=np.where(np.arange(len(table)) % 3 == 0, 2, 1)
            )
            assert (np.diff(precision_curve(flipped)) <= 1e-12).all()


def test_level_curves_are_the_means_of_the_levels(models: list[ScoredModel], drawn: Figure) -> None:
    draw_levels(drawn, models, styles(models))
    dice, identified = drawn.axes
    assert [line.get_label() for line in dice.lines] == ["unet_csi", "yolo_csi_levels"]
    for line, model in zip(dice.lines, models, strict=False):
        expected = [each["value"] for each in level_means(metric_rows(model.rows, "dice")).values()]
        assert list(line.get_ydata()) == expected
    assert identified.lines[0].get_ydata().tolist() == [1, 1, 1, 1]
    assert [tick.get_text() for tick in identified.get_xticklabels()] == ["T12\n5", "L1\n5", "L2\n5", "L3\n5"]


def test_every_subject_is_a_point_of_its_pair(models: list[ScoredModel], drawn: Figure) -> None:
    pairs = compare_pairs(models)
    draw_differences(drawn, models, pairs)
    dice = drawn.axes[0]
    first, second = (subject_means(model, "dice") for model in models[:2])
    points, ends, mean = dice.lines[0], dice.lines[1], dice.lines[2]
    assert sorted(points.get_xdata()) == sorted(first[subject] - second[subject] for subject in first)
    assert len(set(points.get_ydata())) == 5  # none hides another
    pair = next(pair for pair in pairs if pair.endpoint == "dice")
    assert mean.get_xdata()[0] == pytest.approx(pair.found.mean)
    assert ends.get_xdata().tolist() == [pair.found.ends.low, pair.found.ends.high]
    assert "t-interval" in dice.get_title(loc="left")
    # Three pairs of whole spines, which the one-class model has, too.
    assert len(drawn.axes[-1].get_yticklabels()) == 3


def test_shifts_are_shares_of_the_matched_levels(models: list[ScoredModel]) -> None:
    # One of five people has every name one step too far down.
    assert shift_shares(models[1])[1] == pytest.approx(0.2)
    assert shift_shares(models[0])[0] == 1
    for model in models[:2]:
        assert sum(shift_shares(model).values()) == pytest.approx(1)
        assert set(shift_shares(model)) == set(range(-FARTHEST, FARTHEST + 1))


def test_training_curves_are_the_log(models: list[ScoredModel], drawn: Figure, tmp_path: Path) -> None:
    assert draw_training(drawn, models, styles(models))
    loss, dice = drawn.axes
    assert loss.lines[0].get_ydata().tolist() == [3, 1.5, 1] and loss.lines[0].get_xdata().tolist() == [1, 2, 3]
    assert dice.get_title() == "val/dice" and len(dice.lines) == 3
    # The monitor is another quantity in each kind of model.
    assert "not comparable between kinds of model" in drawn.get_suptitle()
    assert loss.get_yscale() == "log"
    log = tmp_path / "log.csv"
    log.write_text("step,epoch,name,value\n1,0,train/loss,2.5\n2,0,train/lo")
    assert read_log(log)["value"].tolist() == [2.5]
    log.write_text("step,name,value\n1,a,1\n")
    with pytest.raises(FormatError, match="epoch"):
        read_log(log)


def test_the_worst_case_comes_first_and_head_is_up() -> None:
    labels = np.zeros((6, 30, 40), np.uint8)
    labels[3, 4:14, 25:35] = 24  # at the back, high
    view = CaseView("a", "a", "s", None, Volume(labels, np.eye(4)), {}, {}, False)
    assert central_slice(view) == 3
    picture = tinted(np.full((30, 40), -1000), labels[3], named=True)
    rows, columns = np.nonzero(picture.sum(axis=2))
    assert picture.shape == (40, 30, 3)
    assert rows.max() < 15 and columns.min() > 14  # front of the body on the left
    np.testing.assert_allclose(picture[10, 20], OPACITY * np.array(color_of(24, named=True)) / 255)


def test_a_loss_below_zero_is_seen(models: list[ScoredModel], drawn: Figure, tmp_path: Path) -> None:
    (run,) = models[0].runs
    (tmp_path / "log.csv").write_text("step,epoch,name,value\n1,0,train/loss,0.5\n2,1,train/loss,-0.6\n")
    model = dataclasses.replace(models[0], runs=(dataclasses.replace(run, root=tmp_path),))
    assert draw_training(drawn, [model], styles([model]))
    (loss,) = drawn.axes
    assert loss.get_yscale() == "linear" and loss.lines[0].get_ydata().tolist() == [0.5, -0.6]


def test_more_models_than_colours_are_told_apart(models: list[ScoredModel], drawn: Figure) -> None:
    many = [dataclasses.replace(models[0], name=f"m{n}") for n in range(9)]
    draw_shifts(drawn, many, styles(many))
    bars = [container[0] for container in drawn.axes[0].containers]
    assert len({(bar.get_facecolor(), bar.get_hatch()) for bar in bars}) == 9
    points = style_of([str(n) for n in range(14)]).values()
    assert len({(style["color"], style["marker"]) for style in points}) == 14


def test_an_overfit_check_says_so_on_every_figure(
    models: list[ScoredModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: set[Sequence[str]] = set()
    monkeypatch.setattr(all_figures, "save", lambda one, folder, name, warnings: said.add(warnings) or folder / name)
    (run,) = models[0].runs
    checked = dataclasses.replace(run, simulated=False, provenance={**run.provenance, "overfit": "case00"})
    draw_figures([dataclasses.replace(models[0], runs=(checked,))], [], tmp_path, worst=1)
    assert said == {("OVERFIT check on case00, no result",)}


def test_all_figures_of_a_report_are_written(
    models: list[ScoredModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: dict[str, Sequence[str]] = {}

    def recorded(one: Figure, folder: Path, name: str, warnings: Sequence[str]) -> Path:
        written[name] = warnings
        return save(one, folder, name, warnings)

    monkeypatch.setattr(all_figures, "save", recorded)
    found = draw_figures(models, compare_pairs(models), tmp_path, worst=1)
    assert list(found) == [
        "levels",
        "paired_differences",
        "precision_recall",
        "shifts",
        "training",
        "cost",
        "worst_case_1",
        "pass",
    ]
    moving = found.pop("pass")
    assert moving.is_file() and moving.suffix == ".gif"
    assert written == dict.fromkeys(found, ("SIMULATED data",))
    for name, path in found.items():
        assert path.is_file() and path.with_suffix(".pdf").is_file(), name
    # The person whose names are all wrong.
    assert worst_of(models, 1)[0].case == "case04"
