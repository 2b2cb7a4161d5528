"""The reporting checklist: what records answer is answered from them, the rest says that it is not."""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest

from spineseg.metrics.intervals import NO_INTERVAL
from spineseg.reporting.checklist import OPEN, answered, checklist, facts_of
from spineseg.reporting.checklist_items import CLAIM, METRICS_RELOADED
from spineseg.reporting.comparisons import Pair
from spineseg.reporting.runs import Report, ScoredRun, Table
from spineseg.reporting.statistics import PairedComparison

SUMMARY = {"edge": "ignore", "subjects": ["a", "b"], "notes": [], "score_threshold": 0.31}
FRAME = pd.DataFrame({"case": ["a1", "b1"], "subject": ["a", "b"], "source": ["set", "set"]})
CONFIG = {
    "optim": {"optimizer": "SGD", "lr0": 0.01},
    "trainer": {"max_epochs": 7},
    "data": {"batch_size": 4, "pixel_mm": 1.5},
    "callbacks": {"checkpoints": {"monitor": "val/dice"}},
    "model": {"weights": "/home/somebody/yolov8n.pt"},
}
PROVENANCE = {
    "spineseg": "1", "python": "3.12", "versions": {"torch": "2.14"}, "git": {"commit": "abc"},
    "hardware": {"processor": "p", "cores": 2, "accelerators": []}, "precision": "32-true",
    "split_hash": "f" * 64, "train_subjects": ["set:c", "set:d", "set:e"],
}  # fmt: skip


def run(**changes: object) -> ScoredRun:
    known = ScoredRun(
        "g/m/t",
        "m",
        Path("r"),
        Path("e"),
        "test",
        False,
        0,
        1,
        FRAME,
        SUMMARY,
        PROVENANCE,
        {"parameters": 2e6},
        None,
        CONFIG,
    )
    return dataclasses.replace(known, **changes)  # type: ignore[arg-type]


TABLES = ("headline", "detection", "dice_means", "subjects_dice_spine", "errors", "comparisons", "variation")
FIGURES = ("paired_differences", "worst_case_1")


def report(
    *runs: ScoredRun, simulated: bool = False, pairs: Sequence[Pair] = (), without: Sequence[str] = ()
) -> Report:
    """A report that holds everything but what it is to be ``without``."""
    tables = {name: Table(name, "", pd.DataFrame()) for name in TABLES if name not in without}
    figures = {name: Path(f"{name}.png") for name in FIGURES if name not in without}
    return Report("title", simulated, runs, tables, figures, pairs=tuple(pairs))


def pair(first: str, second: str, endpoint: str, n: int, p: float | None, reason: str | None = None) -> Pair:
    found = PairedComparison(n, 0.1, NO_INTERVAL, 0.1, 0.1, p)
    return Pair(first, second, endpoint, found, adjusted=p, claimed=False, reason=reason)


def people(n: int) -> dict[str, object]:
    return {"summary": {**SUMMARY, "subjects": [f"s{each}" for each in range(n)]}}


def rows(text: str, section: str) -> dict[str, str]:
    part = text.split(f"## {section}")[1].split("\n## ")[0]
    return {m[1]: m[2] for m in re.finditer(r"^\| (\d+) \| [^|]+ \| ([^|]+) \|", part, re.MULTILINE)}


def test_every_item_stands_once_and_open_ones_say_so() -> None:
    text = checklist(report(run()))
    claim, reloaded = rows(text, "CLAIM 2024"), rows(text, "Metrics Reloaded")
    assert list(claim) == [str(n) for n in range(1, 45)]
    assert list(reloaded) == [item.number for item in METRICS_RELOADED]
    open_items = {number for number, answer in claim.items() if OPEN in answer}
    # What only an author can know is never answered by itself.
    assert {"1", "2", "3", "4", "5", "14", "16", "33", "36", "40", "44"} <= open_items
    counted = re.search(r"CLAIM 2024: (\d+) of 44", text)
    assert counted is not None and int(counted[1]) == 44 - len(open_items)


def test_answers_come_from_the_records() -> None:
    claim = rows(checklist(report(run())), "CLAIM 2024")
    assert claim["19"] == "By subject, folds 1; hash of the split ffffffffffff"
    assert "optimizer SGD, lr0 0.01, max_epochs 7, batch_size 4; precision 32-true" in claim["25"]
    assert claim["24"] == "pretrained weights (yolov8n.pt); seeds 0" and "somebody" not in str(claim)
    assert claim["20"].endswith("subjects in training: 3")
    assert claim["22"] == "m (2.00 million parameters)"
    assert "no interval and no test: n = 2" in claim["29"]


@pytest.mark.parametrize(
    ("lost", "number"),
    [
        ({"provenance": {}}, "23"),
        ({"config": {}}, "26"),
        ({"fold": None}, "19"),
        ({"seed": None}, "24"),
        ({"cost": {}}, "22"),
    ],
)
def test_what_nobody_recorded_stays_open(lost: dict[str, object], number: str) -> None:
    assert OPEN not in rows(checklist(report(run())), "CLAIM 2024")[number]
    assert OPEN in rows(checklist(report(run(**lost))), "CLAIM 2024")[number]


def test_models_that_differ_are_named_with_their_answers() -> None:
    other = run(recipe="n", name="g/n/t", config={**CONFIG, "optim": {"optimizer": "AdamW", "lr0": 0.001}})
    claim = rows(checklist(report(run(), other)), "CLAIM 2024")
    assert "m: optimizer SGD" in claim["25"] and "n: optimizer AdamW" in claim["25"]
    assert claim["6"] == "Comparison of m, n on the same cases"
    assert OPEN in rows(checklist(report(run())), "CLAIM 2024")["6"]


def test_simulated_data_says_so() -> None:
    text = checklist(report(run(simulated=True), simulated=True))
    assert "SIMULATED" in text.splitlines()[2]
    claim = rows(text, "CLAIM 2024")
    assert "no patient" in claim["11"] and OPEN in rows(checklist(report(run())), "CLAIM 2024")["11"]


def test_a_report_without_runs_answers_only_what_holds_for_all() -> None:
    facts = facts_of(report())
    known = {item.number for item, answer in ((a.item, a.text) for a in answered(CLAIM, facts)) if answer}
    assert known == {"12", "28", "42"}


def test_only_tests_that_were_made_are_claimed() -> None:
    def item(*pairs: Pair, n: int, simulated: bool = False, number: str = "29") -> str:
        without = () if pairs else ("comparisons", "paired_differences")
        text = checklist(report(run(**people(n)), simulated=simulated, pairs=pairs, without=without))
        return rows(text, "CLAIM 2024")[number]

    one_model = item(n=8)
    assert "sign-flip" not in one_model and "Holm" not in one_model and "no test" in one_model
    refused = "n = 5: none below 6 subjects"
    five = item(pair("a", "b", "dice", 5, None, refused), pair("a", "b", "nsd", 5, None), n=5)
    assert "t intervals" in five and f"no test ({refused})" in five and "sign-flip" not in five
    three = [("a", "b"), ("a", "c"), ("b", "c")]
    why = "n = 6: with 3 models none below 7 subjects"
    assert f"no test ({why})" in item(*(pair(a, b, "dice", 6, None, why) for a, b in three), n=6)
    tested = [pair(a, b, "dice", 8, 0.01) for a, b in three]
    assert "exact sign-flip tests of 3 pairs" in item(*tested, n=8) and "Holm" in item(*tested, n=8)
    assert "tests of 1 pair," in item(tested[0], n=8) and "Holm" not in item(tested[0], n=8)
    assert "drawn sign-flip tests" in item(pair("a", "b", "dice", 50, 0.01), n=50)
    assert "no test on simulated data" in item(pair("a", "b", "dice", 8, None, "simulated"), n=8, simulated=True)
    # The same words wherever uncertainty is asked for.
    assert item(n=8, number="37") == one_model


def test_reruns_are_those_of_the_model_with_the_fewest_seeds() -> None:
    twice = [run(name=f"m{seed}", seed=seed) for seed in (0, 1)]
    once = run(recipe="n", name="n", seed=2)
    claim = rows(checklist(report(*twice)), "CLAIM 2024")
    assert claim["30"] == "2 seeds a model; sd_seed and sd_subject apart"
    assert OPEN in rows(checklist(report(*twice, once)), "CLAIM 2024")["30"]
    thrice = [run(recipe="n", name=f"n{seed}", seed=seed) for seed in (0, 1, 2)]
    assert rows(checklist(report(*twice, *thrice)), "CLAIM 2024")["30"].startswith("at least 2 seeds a model")


def test_only_simulated_scans_have_no_patient() -> None:
    simulated, real = run(simulated=True), run(recipe="n")
    assert "no patient" in rows(checklist(report(simulated, simulated=True)), "CLAIM 2024")["11"]
    assert OPEN in rows(checklist(report(simulated, real, simulated=True)), "CLAIM 2024")["11"]
    # A network from simulated scans, scored on real people: what it was scored on is not known to be simulated.
    summary = {**SUMMARY, "provenance": {"simulated": True}}
    moved = run(simulated=True, root=None, split="", summary=summary)
    assert OPEN in rows(checklist(report(moved, simulated=True)), "CLAIM 2024")["11"]


@pytest.mark.parametrize(
    ("section", "number", "lost"),
    [
        ("CLAIM 2024", "21", "comparisons"),
        ("CLAIM 2024", "37", "headline"),
        ("CLAIM 2024", "39", "worst_case_1"),
        ("Metrics Reloaded", "5", "dice_means"),
        ("Metrics Reloaded", "17", "paired_differences"),
        ("Metrics Reloaded", "18", "comparisons"),
    ],
)
def test_an_item_whose_table_or_figure_was_not_written_stays_open(section: str, number: str, lost: str) -> None:
    assert OPEN not in rows(checklist(report(run())), section)[number]
    assert OPEN in rows(checklist(report(run(), without=[lost])), section)[number]
