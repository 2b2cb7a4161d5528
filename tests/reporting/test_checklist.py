"""The reporting checklist: what records answer is answered from them, the rest says that it is not."""

import dataclasses
import re
from pathlib import Path

import pandas as pd
import pytest

from spineseg.reporting.checklist import OPEN, answered, checklist, facts_of
from spineseg.reporting.checklist_items import CLAIM, METRICS_RELOADED
from spineseg.reporting.runs import Report, ScoredRun

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


def report(*runs: ScoredRun, simulated: bool = False) -> Report:
    return Report("title", simulated, runs, {}, {})


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
