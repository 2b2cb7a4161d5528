import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from spineseg.studies.leases import Held, Lease, LeaseLostError, Observer, Process

RACE = """
import sys, time
from pathlib import Path
from spineseg.studies.leases import Observer
folder = Path(sys.argv[1])
while not (folder.parent / "go").exists():
    time.sleep(0.001)
lease = Observer(60).acquire(folder)
if lease is not None:
    print("mine", flush=True)
    time.sleep(float(sys.argv[2]))
"""


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def elsewhere(lease: Lease) -> None:
    """Make a lease look as if a process of another machine held it."""
    content = json.loads(lease.path.read_text())
    before = lease.path.stat().st_mtime
    lease.path.write_text(json.dumps({**content, "machine": "another", "host": "another"}))
    os.utime(lease.path, (before, before))


def test_one_of_many_gets_it(tmp_path: Path) -> None:
    """Processes that ask at the same moment, and threads that ask again and again."""
    line = [sys.executable, "-c", RACE, str(tmp_path / "leases"), "0"]
    racers = [subprocess.Popen(line, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    (tmp_path / "go").touch()
    said = [racer.communicate()[0] for racer in racers]
    assert any("mine" in each for each in said)  # who comes after the first has died may have it, too
    held, most, lock = [0], [0], threading.Lock()

    def work() -> None:
        observer = Observer(60)
        for _ in range(30):
            lease = observer.acquire(tmp_path / "contended")
            if lease is not None:
                with lock:
                    held[0] += 1
                    most[0] = max(most[0], held[0])
                time.sleep(0.0005)
                with lock:
                    held[0] -= 1
                lease.release()

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]
    assert len(list((tmp_path / "contended").iterdir())) <= 2, "old generations are left behind"


def test_the_lease_of_a_dead_process_is_free_at_once(tmp_path: Path) -> None:
    (tmp_path / "go").touch()
    line = [sys.executable, "-c", RACE, str(tmp_path / "leases"), "60"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "mine\n"
        observer = Observer(3600)
        assert observer.acquire(tmp_path / "leases") is None
        assert observer.holder(tmp_path / "leases") is not None
        holder.kill()
        deadline = time.monotonic() + 10  # not reaped: a dead process that still has its number
        while (lease := observer.acquire(tmp_path / "leases")) is None and time.monotonic() < deadline:
            time.sleep(0.01)
        assert lease is not None and isinstance(lease.abandoned, Held) and lease.abandoned.process.pid == holder.pid


@pytest.mark.parametrize("skew", [-86400.0, 0.0, 86400.0])
def test_another_machine_is_judged_by_change_not_by_its_clock(tmp_path: Path, skew: float) -> None:
    lease = Observer(60).acquire(tmp_path)
    assert lease is not None
    elsewhere(lease)
    clock = Clock()
    observer = Observer(60, clock)
    for beat in range(5):  # alive: its file's time moves, whatever it says
        when = time.time() + skew + beat
        os.utime(lease.path, (when, when))
        assert observer.acquire(tmp_path) is None
        clock.now += 59
    assert observer.acquire(tmp_path) is None
    clock.now += 2
    taken = observer.acquire(tmp_path)
    assert taken is not None and taken.abandoned is not None and taken.abandoned.process.host == "another"


def test_a_holder_that_slept_finds_that_it_has_lost_the_job(tmp_path: Path) -> None:
    asleep = Observer(60).acquire(tmp_path)
    assert asleep is not None
    asleep.beat()
    elsewhere(asleep)
    clock = Clock()
    observer = Observer(60, clock)
    observer.acquire(tmp_path)
    clock.now += 61
    assert observer.acquire(tmp_path) is not None
    for _ in range(2):
        with pytest.raises(LeaseLostError):
            asleep.beat()
    asleep.release()  # takes nothing from the new holder
    assert observer.acquire(tmp_path) is None


def test_released_can_be_taken_again_and_leaves_no_trace_of_death(tmp_path: Path) -> None:
    observer = Observer(60)
    for _ in range(3):
        lease = observer.acquire(tmp_path)
        assert lease is not None and lease.abandoned is None
        assert observer.acquire(tmp_path) is None
        lease.release()
        assert observer.holder(tmp_path) is None


def test_who_was_slow_to_create_its_file_backs_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between its look and its creation another has taken the same generation and given it back."""
    from spineseg.studies import leases

    create = leases._create

    def slow(path: Path, token: str) -> bool:
        monkeypatch.setattr(leases, "_create", create)
        other = Observer(60).acquire(tmp_path)
        assert other is not None
        other.release()
        return create(path, token)

    monkeypatch.setattr(leases, "_create", slow)
    assert Observer(60).acquire(tmp_path) is None
    assert Observer(60).acquire(tmp_path) is not None


def test_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object) -> None:
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "link", no_links)
    observer = Observer(60)
    assert observer.acquire(tmp_path) is not None
    assert observer.acquire(tmp_path) is None


def test_seconds_of_a_dead_attempt_are_known(tmp_path: Path) -> None:
    lease = Observer(60).acquire(tmp_path)
    assert lease is not None
    later = time.time() + 120
    os.utime(lease.path, (later, later))
    holder = Observer(60).holder(tmp_path)
    assert holder is not None and 119 < holder.seconds < 122


def test_a_number_that_was_given_again_is_another_process() -> None:
    import dataclasses

    me = Process.current()
    assert me.alive() is True
    assert dataclasses.replace(me, started=me.started - 100).alive() is False
    assert dataclasses.replace(me, machine="another").alive() is None


def test_a_clock_that_is_set_makes_no_live_process_look_dead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """psutil counts from the machine's start by the system's clock, which moves with it."""
    if sys.platform != "linux":
        pytest.skip("elsewhere the system keeps the time itself")
    observer = Observer(60)
    assert observer.acquire(tmp_path) is not None
    before = psutil.Process.create_time
    monkeypatch.setattr(psutil.Process, "create_time", lambda self: before(self) + 3600)
    assert Process.current().alive() is True
    assert observer.acquire(tmp_path) is None


def test_a_lease_of_an_earlier_version_is_judged_by_its_beats(tmp_path: Path) -> None:
    lease = Observer(60).acquire(tmp_path)
    assert lease is not None
    content = json.loads(lease.path.read_text())
    lease.path.write_text(json.dumps({**content, "format": "lease 1", "started": time.time()}))
    clock = Clock()
    observer = Observer(60, clock)
    assert observer.acquire(tmp_path) is None
    clock.now += 61
    assert observer.acquire(tmp_path) is not None
