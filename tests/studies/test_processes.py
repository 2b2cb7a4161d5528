import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from spineseg.studies.processes import Ending, JobProcess, end_leftovers

MARK = "study-of-a-test:job"


def start(code: str, output: Path, **environment: str) -> JobProcess:
    return JobProcess([sys.executable, "-S", "-c", code], output, f"{MARK}:{output}", environment)


def ending(process: JobProcess) -> Ending:
    deadline = time.monotonic() + 20
    while (found := process.poll()) is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("code", "kind", "cause"),
    [
        ("print('fine')", "ended", None),
        ("import sys; print('step'); sys.exit('error: case7: no such scan')", "failed", "case7: no such scan"),
        ("1 / 0", "failed", "ZeroDivisionError: division by zero"),
        ("raise MemoryError('of 3 GB')", "failed", "out of memory (MemoryError: of 3 GB)"),
        ("import sys; sys.exit(7)", "failed", "exit code 7, without a word"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "failed", "killed by signal 9 (SIGKILL)"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "failed", "killed by signal 11 (SIGSEGV)"),
        ("raise OSError(28, 'No space left on device')", "full", "OSError: [Errno 28] No space left on device"),
        ("import sys; sys.exit(143)", "stopped", None),
    ],
)
def test_the_cause_is_named(tmp_path: Path, code: str, kind: str, cause: str | None) -> None:
    assert ending(start(code, tmp_path / "output.txt")) == Ending(kind, cause)  # type: ignore[arg-type]


def test_an_earlier_attempt_is_not_this_ones_cause(tmp_path: Path) -> None:
    output = tmp_path / "output.txt"
    assert ending(start("raise OSError(28, 'No space left on device')", output)).kind == "full"
    assert ending(start("1 / 0", output)) == Ending("failed", "ZeroDivisionError: division by zero")
    assert "No space" in output.read_text()


SAVES = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (print("saved", flush=True), sys.exit(143)))
print("ready", flush=True)
time.sleep(60)
"""
STUBBORN = SAVES.replace('(print("saved", flush=True), sys.exit(143))', "None")


def test_told_to_end_it_saves_and_a_stubborn_one_is_killed(tmp_path: Path) -> None:
    for code, grace in ((SAVES, 10.0), (STUBBORN, 0.2)):
        output = tmp_path / f"{grace}.txt"
        process = start(code, output)
        while "ready" not in output.read_text():
            time.sleep(0.01)
        assert process.terminate(grace).kind == "stopped"
        assert not psutil.pid_exists(process.pid)
    assert "saved" in (tmp_path / "10.0.txt").read_text()


def test_signals_of_a_scheduler_are_the_workers_alone(tmp_path: Path) -> None:
    code = "import os, signal; os.kill(os.getpid(), signal.SIGUSR1); os.kill(os.getpid(), signal.SIGUSR2)"
    assert ending(start(code, tmp_path / "output.txt")).kind == "ended"


WORKER = """
import sys, time
from pathlib import Path
from spineseg.studies.processes import JobProcess
code = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(60)']); "
code += "print('ready', flush=True); time.sleep(60)"
JobProcess([sys.executable, "-S", "-c", code], Path(sys.argv[1]), sys.argv[2], {})
time.sleep(60)
"""


def marked(mark: str) -> list[psutil.Process]:
    from spineseg.studies.processes import JOB_VARIABLE

    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(JOB_VARIABLE) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="the parent's death is a signal on Linux only")
def test_a_job_dies_with_its_worker_and_its_children_are_found(tmp_path: Path) -> None:
    output, mark = tmp_path / "output.txt", f"{MARK}:{tmp_path}"
    worker = subprocess.Popen([sys.executable, "-c", WORKER, str(output), mark])
    while not (output.is_file() and "ready" in output.read_text()):
        time.sleep(0.02)
    assert len(marked(mark)) == 2
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    deadline = time.monotonic() + 10
    while len(marked(mark)) > 1 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert len(marked(mark)) == 1, "the job has outlived its worker"
    assert end_leftovers(f"{mark}0") == 0
    assert end_leftovers(mark) == 1
    assert marked(mark) == []
