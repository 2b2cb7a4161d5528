import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from spineseg.studies.folder import Job, StudyFolder, publish
from spineseg.studies.leases import LeaseLostError, Observer
from spineseg.studies.processes import JobProcess
from spineseg.studies.running import Measure, Places, Runner, mark_of

JOB = Job("0" * 12, {"recipe": "yolo_csi"}, ("a=1",), False, "d", "s")
SLEEP = "import time; time.sleep(60)"


def runner(folder: StudyFolder, *code: str, hardware: tuple[str, ...] = ()) -> Runner:
    command = [sys.executable, "-S", "-c", *code] if code else None
    return Runner(folder, "name", Measure("dice", "val"), Places("d", "p", "r", hardware), command, poll_s=0.02)


def test_a_resumed_run_scores_what_is_asked_now_and_takes_hardware_that_train_allows(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path)
    hardware = ("trainer=gpu", "trainer.benchmark=true", "trainer.devices=2", "data.workers=3", "logger.wandb=null")
    fresh = runner(folder, hardware=hardware).command_of(JOB)
    assert set(hardware) <= set(fresh)
    publish(folder.job(JOB.hash) / "2026-01-01_00-00-00" / "config.yaml", "")
    resumed = runner(folder, hardware=hardware).command_of(JOB)
    assert resumed[-4:] == ["score_splits=[val]", "trainer=gpu", "trainer.devices=2", "data.workers=3"]


@pytest.mark.skipif(sys.platform != "linux", reason="process groups as Linux has them")
@pytest.mark.parametrize("code", [SLEEP, "import sys; sys.exit(1)"])
def test_who_has_lost_a_job_ends_no_process_of_its_new_holder(tmp_path: Path, code: str) -> None:
    folder = StudyFolder(tmp_path)
    folder.write_job(JOB)
    lease = Observer(60).acquire(folder.leases(JOB.hash))
    assert lease is not None
    (folder.leases(JOB.hash) / "000002.lease").write_text("{}")
    theirs = JobProcess([sys.executable, "-S", "-c", SLEEP], tmp_path / "theirs", mark_of(folder, JOB), {})
    mine = runner(folder, code)
    mine.beat_s = 0.1 if code == SLEEP else 60.0
    try:
        with pytest.raises(LeaseLostError):
            mine.run(JOB, lease)
        assert theirs.poll() is None
        assert not [each for each in psutil.Process().children() if each.pid != theirs.pid and code in each.cmdline()]
    finally:
        theirs.kill()
    assert folder.read_job(JOB.hash) == replace(JOB, state="running", attempts=1)


@pytest.mark.skipif(sys.platform != "linux", reason="process groups as Linux has them")
def test_its_own_children_do_not_outlive_it(tmp_path: Path) -> None:
    child = f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-S', '-c', {SLEEP!r}]).pid, flush=True)"
    output = tmp_path / "output.txt"
    process = JobProcess([sys.executable, "-S", "-c", f"{child}; {SLEEP}"], output, "m", {}, ours=lambda: False)
    while not output.read_text().endswith("\n"):
        time.sleep(0.02)
    pid = int(output.read_text())
    process.kill()
    deadline = time.monotonic() + 10
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
