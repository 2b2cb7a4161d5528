"""Who is at a job: lease files that work on a shared folder, survive their holder and need no common clock.

A folder of leases holds ``<generation>.lease`` (held) or ``<generation>.released``. A lease is taken by creating the
next generation, which only one process can, and given back by renaming; the highest generation is never removed. A
holder beats by setting the file's time. A lease is stale when its process is dead, which is seen at once on the same
machine; from another machine when its time has not changed for so long by the observer's own clock. A holder that was
only asleep finds the next generation when it wakes, and leaves the job alone.
"""

import contextlib
import json
import os
import secrets
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HELD, RELEASED = ".lease", ".released"
# Of another version nothing is believed but that it changes: "lease 1" had starts by the system's clock.
LEASE_FORMAT = "lease 2"
# Of the starts of one process, twice asked: clock ticks are whole on Linux, elsewhere a clock may creep.
_LINUX = sys.platform == "linux"
_TOLERANCE_S = 0.005 if _LINUX else 2.0


class LeaseLostError(Exception):
    """Another process has taken the job over."""


@dataclass(frozen=True)
class Process:
    """A process that can be told from any other, as long as it is asked about on its own machine.

    Attributes:
        host: name of the machine, for people.
        machine: its boot and process namespace; processes are asked about by those who share it.
        pid: process number.
        started: when, as ``_started`` says; a number can be given again.
    """

    host: str
    machine: str
    pid: int
    started: float

    @classmethod
    def current(cls) -> "Process":
        """This process."""
        started = _started(os.getpid())
        assert started is not None, "this process is there"
        return cls(socket.gethostname(), _machine(), os.getpid(), started)

    def alive(self) -> bool | None:
        """Whether it lives; None if that cannot be seen from here."""
        if self.machine != _machine():
            return None
        try:
            started = _started(self.pid)
        except PermissionError:  # of another user: the number at least is in use
            return True
        return started is not None and abs(started - self.started) < _TOLERANCE_S


@dataclass(frozen=True)
class Held:
    """What a lease file says of its holder."""

    token: str
    process: Process
    taken: float
    beat: float

    @property
    def seconds(self) -> float:
        """From taking it to the last sign of life, both by the holder's clock."""
        return max(0.0, self.beat - self.taken)


@dataclass
class Lease:
    """A lease that this process holds.

    Attributes:
        path: its file.
        token: tells it from another of the same name.
        abandoned: the lease of a process that died with it, if there was one.
    """

    path: Path
    token: str
    abandoned: Held | None = None

    def beat(self) -> None:
        """Show a sign of life.

        Raises:
            LeaseLostError: another process has taken the job over.
        """
        self.check()
        try:
            now = time.time()
            os.utime(self.path, (now, now))
        except FileNotFoundError:
            raise LeaseLostError(self.path) from None

    def check(self) -> None:
        """See that the lease still holds.

        Raises:
            LeaseLostError: another process has taken the job over.
        """
        number = int(self.path.stem)
        if any(other > number for other, _ in _generations(self.path.parent)) or not self.path.exists():
            raise LeaseLostError(self.path)

    def holds(self) -> bool:
        """Whether the lease still holds."""
        try:
            self.check()
        except LeaseLostError:
            return False
        return True

    def release(self) -> None:
        """Give the job back; a rename, which a full disk allows."""
        with contextlib.suppress(FileNotFoundError):
            self.path.rename(self.path.with_suffix(RELEASED))


@dataclass
class Observer:
    """Judges leases of others, and remembers since when it has seen each unchanged.

    Args:
        timeout_s: without a sign of life for so long, a lease of another machine is stale.
        clock: seconds; never set back.
    """

    timeout_s: float
    clock: Callable[[], float] = time.monotonic
    _seen: dict[Path, tuple[int, float]] = field(default_factory=dict)

    def holder(self, folder: Path) -> Held | None:
        """Who holds a job; None if it is free or was left by a dead process."""
        current = max(_generations(folder), default=None)
        if current is None or current[1].suffix != HELD or self._stale(current[1]):
            return None
        return _read(current[1])

    def acquire(self, folder: Path) -> Lease | None:
        """Take a job's lease if it is free or stale; None if somebody is at it.

        Raises:
            OSError: nothing can be written there.
        """
        folder.mkdir(parents=True, exist_ok=True)
        current = max(_generations(folder), default=None)
        abandoned = None
        if current is not None and current[1].suffix == HELD:
            if not self._stale(current[1]):
                return None
            abandoned = _read(current[1])
        path = folder / f"{1 if current is None else current[0] + 1:06d}{HELD}"
        lease = Lease(path, secrets.token_hex(8), abandoned)
        if not _create(path, lease.token):
            return None
        # Whoever was slow to create may have been overtaken: by a later generation, or by this one's end.
        if any(number > int(path.stem) for number, _ in _generations(folder)) or path.with_suffix(RELEASED).exists():
            path.unlink(missing_ok=True)
            return None
        for number, old in list(_generations(folder)):
            if number < int(path.stem):
                old.unlink(missing_ok=True)
        return lease

    def _stale(self, path: Path) -> bool:
        try:
            changed = path.stat().st_mtime_ns
        except FileNotFoundError:
            return False
        holder = _read(path)
        alive = None if holder is None else holder.process.alive()
        if alive is not None:
            return not alive
        known, since = self._seen.get(path, (None, 0.0))
        if known != changed:
            self._seen[path] = (changed, self.clock())
            return False
        return self.clock() - since > self.timeout_s


@contextlib.contextmanager
def held(observer: Observer, folder: Path, *, wait_s: float = 0.1) -> Iterator[Lease]:
    """Wait for a lease, hold it for the time of the block and give it back."""
    lease = observer.acquire(folder)
    while lease is None:
        time.sleep(wait_s)
        lease = observer.acquire(folder)
    try:
        yield lease
    finally:
        lease.release()


def _create(path: Path, token: str) -> bool:
    """Create the file with all that it says, unless it is there."""
    content = {"format": LEASE_FORMAT, "token": token, "taken": time.time(), **vars(Process.current())}
    partial = path.with_name(f".partial-{token}")
    partial.write_text(json.dumps(content), encoding="utf-8")
    try:
        os.link(partial, path)
    except FileExistsError:
        return False
    except OSError:  # a file system without hard links: for a moment the file is there and empty
        try:
            with path.open("x", encoding="utf-8") as stream:
                stream.write(json.dumps(content))
        except FileExistsError:
            return False
    finally:
        partial.unlink(missing_ok=True)
    return True


def _read(path: Path) -> Held | None:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != LEASE_FORMAT:
            return None
        beat = path.stat().st_mtime
        process = Process(*(content[name] for name in ("host", "machine", "pid", "started")))
        return Held(content["token"], process, content["taken"], beat)
    except (OSError, ValueError, KeyError):
        return None


def _generations(folder: Path) -> Iterator[tuple[int, Path]]:
    for path in folder.glob("*[0-9].*"):
        if path.suffix in (HELD, RELEASED) and path.stem.isdigit():
            yield int(path.stem), path


def _started(pid: int) -> float | None:
    """When a process started; None if it is dead.

    Seconds since the machine's start on Linux, where psutil would add the time of that start, which moves whenever the
    system's clock is set: a live process would look like another one. Elsewhere seconds since the epoch.

    Raises:
        PermissionError: there is one, but it cannot be looked at.
    """
    if _LINUX:
        try:
            content = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            try:
                os.kill(pid, 0)  # processes of others may be hidden
            except ProcessLookupError:
                return None
            raise PermissionError(pid) from None
        state, *fields = content.rpartition(")")[2].split()  # behind the program's name, which may hold anything
        return None if state in "ZX" else int(fields[18]) / os.sysconf("SC_CLK_TCK")
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else float(process.create_time())
    except psutil.NoSuchProcess:
        return None
    except psutil.AccessDenied as error:
        raise PermissionError(pid) from error


def _machine() -> str:
    """This boot of this machine, and this container's numbering of processes."""
    parts = []
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
    with contextlib.suppress(OSError):
        parts.append(str(Path("/proc/self/ns/pid").stat().st_ino))
    return "-".join(parts) or socket.gethostname()
