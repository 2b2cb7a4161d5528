"""A job's process: started so that it cannot outlive its worker, stopped so that it saves, and asked why it ended."""

import contextlib
import ctypes
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

# In the environment of every process of a job: what a dead worker left behind is found by it.
JOB_VARIABLE = "SPINESEG_STUDY_JOB"
# Of train: ended by SIGTERM after a save, or by Ctrl-C.
TERMINATED, INTERRUPTED = 143, 130
_PR_SET_PDEATHSIG = 1
_FULL = re.compile(r"the disk is full|disk quota is used up|No space left on device|Disk quota exceeded")
_ERROR = re.compile(r"^error: (.+)$")
_EXCEPTION = re.compile(r"^[\w.]*(?:Error|Exception|Interrupt|Exit|Warning)\b(?::.*)?$")
_MEMORY = re.compile(r"out of memory|MemoryError|OutOfMemoryError")


@dataclass(frozen=True)
class Ending:
    """How a job's process ended.

    Attributes:
        kind: ``ended`` well; ``failed``; ``stopped`` by a signal after a save; ``full``: no space left on the disk.
        cause: of a failure, for the ledger.
    """

    kind: Literal["ended", "failed", "stopped", "full"]
    cause: str | None = None


class JobProcess:
    """A running job.

    Args:
        command: what runs it.
        output: file that what it prints is added to.
        mark: names the job; unlike that of any other on this machine.
        environment: beside this process's own.
        ours: whether the job is still this worker's. Where another has taken it over, what bears the mark is that
            one's; then only this process's own group is ended.
    """

    def __init__(
        self,
        command: Sequence[str],
        output: Path,
        mark: str,
        environment: Mapping[str, str],
        ours: Callable[[], bool] = lambda: True,
    ) -> None:
        output.parent.mkdir(parents=True, exist_ok=True)
        self._offset = output.stat().st_size if output.is_file() else 0
        self._output = output
        self._kills = _kills_for_memory()
        with output.open("ab") as stream:
            self._process = _start(command, stream, {**os.environ, **environment, JOB_VARIABLE: mark})
        self._mark, self._ours = mark, ours

    @property
    def pid(self) -> int:
        """Process number."""
        return self._process.pid

    def poll(self) -> Ending | None:
        """How it ended; None while it runs."""
        code = self._process.poll()
        return None if code is None else self._ending(code)

    def terminate(self, grace_s: float) -> Ending:
        """Ask it to save and end; after the grace it is killed, and goes on from its last save another time."""
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        try:
            code = self._process.wait(grace_s)
        except subprocess.TimeoutExpired:
            self.kill()
            return Ending("stopped")
        self._sweep()
        ending = self._ending(code)
        # Too early for train to know the signal, it dies of it; that is no failure.
        return Ending("stopped") if code == -signal.SIGTERM else ending

    def kill(self) -> None:
        """End it at once, with its own children."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait()
        self._sweep()

    def _sweep(self) -> None:
        """End what is left of the job once its first process is gone."""
        if self._ours():
            end_leftovers(self._mark)
        else:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)  # its number is not given again while any of its group is left

    def _ending(self, code: int) -> Ending:
        if code == 0:
            return Ending("ended")
        self._sweep()  # processes of DDP whose first is gone wait for it, half an hour and on a GPU
        with self._output.open("rb") as stream:
            stream.seek(self._offset)
            text = stream.read().decode("utf-8", errors="replace")
        if _FULL.search(text):
            return Ending("full", _last_error(text) or "the disk is full")
        if code in (TERMINATED, INTERRUPTED):
            return Ending("stopped")
        if code < 0:
            name = signal.Signals(-code).name if -code in {item.value for item in signal.Signals} else "unknown"
            memory = _kills_for_memory() > self._kills
            return Ending("failed", f"killed by signal {-code} ({name})" + ", out of memory" * memory)
        return Ending("failed", _last_error(text) or f"exit code {code}, without a word")


def end_leftovers(mark: str) -> int:
    """Kill what is left of a job on this machine; returns how many processes that were."""
    import psutil

    left = []
    for process in psutil.process_iter():
        if process.pid == os.getpid():
            continue
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(JOB_VARIABLE) == mark:
                process.kill()
                left.append(process)
    psutil.wait_procs(left, timeout=10)
    return len(left)


def die_with_parent(number: int) -> Callable[[], None]:
    """What a new process is to call before it becomes its program, so that it gets a signal when this one dies.

    Linux only; elsewhere it does nothing, and what is left behind is found by its environment.
    """
    parent = os.getpid()
    library = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None

    def prepare() -> None:
        if library is not None:
            library.prctl(_PR_SET_PDEATHSIG, number)
            if os.getppid() != parent:  # it has died in between
                os._exit(1)

    return prepare


def _start(command: Sequence[str], stream: IO[bytes], environment: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    die = die_with_parent(signal.SIGKILL)

    def prepare() -> None:
        """Between fork and exec: die with the worker, and leave its scheduler's signals to it."""
        die()
        for name in (signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(name, signal.SIG_IGN)

    return subprocess.Popen(
        list(command),
        stdin=subprocess.DEVNULL,
        stdout=stream,
        stderr=subprocess.STDOUT,
        env=dict(environment),
        start_new_session=True,  # Ctrl-C is for the worker, which lets the job save
        preexec_fn=prepare,
    )


def _last_error(text: str) -> str | None:
    """The program's own one-line error, else the last line of a traceback, else the last line."""
    lines = [line.rstrip() for line in text.replace("\r", "\n").splitlines() if line.strip()]
    for line in reversed(lines):
        found = _ERROR.match(line)
        if found:
            return _short(found[1])
    for line in reversed(lines):
        if _EXCEPTION.match(line):
            return _short(f"out of memory ({line})" if _MEMORY.search(line) else line)
    return _short(lines[-1]) if lines else None


def _short(line: str, length: int = 300) -> str:
    return line if len(line) <= length else f"{line[: length - 1]}…"


def _kills_for_memory() -> int:
    """How many processes of this control group the system has killed for want of memory."""
    for path in (Path("/sys/fs/cgroup/memory.events"), Path("/sys/fs/cgroup/memory/memory.oom_control")):
        with contextlib.suppress(OSError, ValueError):
            for line in path.read_text(encoding="ascii").splitlines():
                name, _, number = line.partition(" ")
                if name == "oom_kill":
                    return int(number)
    return 0
