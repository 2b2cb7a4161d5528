from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from spineseg.studies.folder import Job, StudyFolder
from spineseg.studies.running import Stop
from spineseg.studies.search import JOB, Trials
from spineseg.studies.searching import Searcher
from spineseg.study import conclude

SPEC = {
    **{"sampler": "grid", "trials": 1, "seed": 0, "direction": "maximize", "pruner": None, "warmup_epochs": 0},
    "space": {"optim.lr0": {"choices": [0.1, 0.2]}},
}


def attempt(folder: StudyFolder, spec: dict[str, Any], name: str, state: Any) -> Job:
    """One trial as a worker runs it, and what the ledger then says."""
    searcher = Searcher(SimpleNamespace(folder=folder, asked={"search": spec}))  # type: ignore[arg-type]
    trial = Trials(folder, spec).ask()
    assert trial is not None
    folder.add_job(Job(name, {"recipe": "yolo_csi"}, (), False, "d", "s"))
    trial.set_user_attr(JOB, name)
    searcher._tell(trial.number, replace(folder.read_job(name), state=state, value=1.0 if state == "done" else None))
    return folder.read_job(name)


def test_a_trial_that_is_tried_again_counts_once_and_hides_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = StudyFolder(tmp_path)
    folder.write_study({"search": SPEC})
    assert attempt(folder, SPEC, "first", "failed").trials == (0,)
    Trials(folder, SPEC).retry_failed()
    assert attempt(folder, SPEC, "first", "done").trials == (1,)
    two = {**SPEC, "trials": 2}
    folder.write_study({"search": two})
    assert attempt(folder, two, "second", "failed").trials == (2,)
    assert Trials(folder, two).done() == 1
    cfg: Any = SimpleNamespace(search=SimpleNamespace(space=SPEC["space"]))
    with pytest.raises(SystemExit) as ended:
        conclude(cfg, folder, 2, [], Stop())
    assert ended.value.code == 1
    assert "1 of 2 jobs done" in capsys.readouterr().out


def test_equal_parameters_are_two_trials_of_one_job(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path)
    spec = {**SPEC, "sampler": "random", "trials": 2, "space": {"optim.lr0": {"choices": [0.1]}}}
    for _ in range(2):
        found = attempt(folder, spec, "same", "done")
    assert found.trials == (0, 1) and Trials(folder, spec).done() == 2
