import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest

from spineseg.errors import ConfigError
from spineseg.studies.folder import Job, StudyFolder
from spineseg.studies.journal import open_journal
from spineseg.studies.pruning import Watch, monitored_values
from spineseg.studies.search import JOB, Trials, distributions, grid, override

SPACE = {"optim.lr0": {"low": 1e-4, "high": 1e-1, "log": True}, "data.context": {"choices": [0, 1]}}
DONE = Job("x", {"recipe": "yolo_csi"}, (), False, "d", "s", state="done", value=0.5)


def spec(**more: Any) -> dict[str, Any]:
    given = {"sampler": "random", "trials": 6, "seed": 0, "space": SPACE, "direction": "maximize", "pruner": None}
    return {**given, "warmup_epochs": 0, **more}


def asked(trials: Trials, name: str) -> optuna.Trial | None:
    trial = trials.ask()
    if trial is not None:
        trial.set_user_attr(JOB, name)
    return trial


def test_trials_that_are_killed_count_once_and_change_no_draw(tmp_path: Path) -> None:
    """One killed while asked for, one whose job is taken over: the parameters of the rest stay what they would be."""
    undisturbed = Trials(StudyFolder(tmp_path / "undisturbed"), spec())
    expected = []
    while (trial := asked(undisturbed, f"job{len(expected)}")) is not None:
        expected.append(trial.params)
        undisturbed.tell(trial.number, DONE)
    assert len(expected) == 6

    folder = StudyFolder(tmp_path / "killed")
    first = Trials(folder, spec())
    for place in range(3):
        trial = asked(first, f"job{place}")
        assert trial is not None and trial.params == expected[place]
        if place != 1:
            first.tell(trial.number, DONE)
    assert first.ask() is not None  # its worker dies before the trial has a job

    second = Trials(folder, spec())
    assert [job for _, job in second.open()] == ["job1"]
    second.tell(second.open()[0][0], DONE)
    found = [trial.params for trial in second.all() if JOB in trial.user_attrs]
    while (trial := asked(second, f"job{len(found)}")) is not None:
        found.append(trial.params)
        second.tell(trial.number, DONE)
    assert found == expected
    assert len(second.all()) == second.total == 6
    more = Trials(folder, spec(trials=8))
    assert asked(more, "job6") is not None and [trial.params for trial in more.all()][:6] == expected


def test_failed_trials_count_and_are_replaced_when_tried_again(tmp_path: Path) -> None:
    trials = Trials(StudyFolder(tmp_path), spec(trials=2))
    for state in ("failed", "done"):
        trial = asked(trials, state)
        assert trial is not None
        trials.tell(trial.number, replace(DONE, state=state, value=0.5 if state == "done" else None))
    assert trials.ask() is None and len(trials.all()) == 2
    (failed,) = (trial for trial in trials.all() if trial.value is None)
    trials.retry_failed()
    again = asked(trials, "failed")
    assert again is not None and again.params == failed.params
    assert trials.ask() is None and len(trials.all()) == 2
    trials.tell(again.number, replace(DONE, value=0.9))
    best = trials.best()
    assert best is not None and best.number == again.number


def test_two_workers_draw_apart(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path)
    workers = [Trials(folder, spec()), Trials(folder, spec())]
    drawn = [asked(workers[place % 2], f"job{place}") for place in range(4)]
    assert len({trial.params["optim.lr0"] for trial in drawn if trial is not None}) == 4
    assert [trial.number for trial in drawn if trial is not None] == [0, 1, 2, 3]


def test_a_grid_has_every_combination_once(tmp_path: Path) -> None:
    space = {
        "a": {"choices": [None, "x"]},
        "b": {"low": 2, "high": 6, "step": 2},
        "c": {"low": 0.1, "high": 0.3, "step": 0.1},
    }
    combinations = grid(space)
    assert len(combinations) == 2 * 3 * 3
    trials = Trials(StudyFolder(tmp_path), spec(sampler="grid", space=space, trials=100))
    found = []
    while (trial := asked(trials, "job")) is not None:
        found.append(trial.params)
        trials.tell(trial.number, DONE)
    assert found == combinations and trials.total == len(combinations)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({}, "found none"),
        ({"a": 3}, r"search\.space\.a"),
        ({"a": {"low": 1}}, r"search\.space\.a"),
        ({"a": {"low": 3, "high": 1}}, r"search\.space\.a"),
        ({"a": {"low": 0.0, "high": 1.0, "log": True}}, r"search\.space\.a"),
        ({"a": {"low": 0, "high": 1, "lgo": True}}, "expected numbers"),
        ({"a": {"choices": [[1, 2]]}}, "lists as texts"),
        ({"a": {"choices": []}}, "choices"),
    ],
)
def test_mistakes_are_named(space: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        distributions(space)


def test_a_grid_needs_steps() -> None:
    with pytest.raises(ConfigError, match=r"search\.space\.optim\.lr0: a grid needs"):
        grid(SPACE)


@pytest.mark.parametrize("value", [1e-05, 0.1 + 0.2, 3, True, None, "[64, 64]"])
def test_a_parameter_reaches_hydra_as_it_was_drawn(value: Any) -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    (parsed,) = OverridesParser.create().parse_overrides([override("data.x", value)])
    assert parsed.value() == (json.loads(value) if isinstance(value, str) else value)


def test_half_a_line_in_the_journal_is_cut_off(tmp_path: Path) -> None:
    """As a kill or a full disk leaves it; Optuna alone would glue the next line to it, and no worker could read on."""
    path = tmp_path / "journal.log"
    study = optuna.create_study(storage=open_journal(path), study_name="search")
    study.ask()
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"op_code":4,"wor')
    study.ask()
    again = optuna.load_study(storage=open_journal(path), study_name="search")
    assert [trial.number for trial in again.trials] == [0, 1]
    assert path.read_bytes().startswith(whole) and b"wor{" not in path.read_bytes()
    assert all(json.loads(line) for line in path.read_text().splitlines())


def test_a_trial_is_pruned_by_its_log(tmp_path: Path) -> None:
    trials = Trials(StudyFolder(tmp_path), spec(pruner="median", trials=20))
    log = tmp_path / "log.csv"
    header = "step,epoch,name,value\n"

    def run(values: list[float]) -> bool:
        trial = asked(trials, "job")
        assert trial is not None
        log.write_text(header)
        watch = Watch(trial, lambda: log, "val/dice", every_s=0.0)
        for epoch, value in enumerate(values):
            with log.open("a") as stream:
                stream.write(f"{10 * epoch},{epoch},val/dice,{value}\n{10 * epoch},{epoch},train/loss,1\n")
            if watch():
                trials.tell(trial.number, replace(DONE, state="pruned", value=None))
                return True
        trials.tell(trial.number, replace(DONE, value=values[-1]))
        return False

    assert not any(run([0.5, 0.6, 0.7]) for _ in range(5))
    assert run([0.1, 0.2, 0.3])
    assert not run([0.6, 0.7, 0.8])
    assert len(trials.all()) == 7
    with log.open("a") as stream:
        stream.write("99,9,val/dice,0.1")  # being written
    assert monitored_values(log, "val/dice") == {0: 0.6, 1: 0.7, 2: 0.8}
    assert monitored_values(tmp_path / "none", "val/dice") == {}


@pytest.mark.parametrize(("monitor", "best"), [("val/dice", 0.9), ("val/loss", 0.1)])
def test_a_search_for_the_least_prunes_its_worst_trials(tmp_path: Path, monitor: str, best: float) -> None:
    trials = Trials(StudyFolder(tmp_path), spec(pruner="median", trials=20, direction="minimize"))
    log = tmp_path / "log.csv"

    def pruned(value: float) -> bool:
        trial = asked(trials, "job")
        assert trial is not None
        log.write_text(f"step,epoch,name,value\n1,0,{monitor},{value}\n")
        said = Watch(trial, lambda: log, monitor, "minimize", every_s=0.0)()
        trials.tell(trial.number, replace(DONE, value=3.0))
        return said

    assert not any(pruned(0.5) for _ in range(5))
    assert not pruned(best)
    assert pruned(1.0 - best)
