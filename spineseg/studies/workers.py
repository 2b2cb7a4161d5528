"""A worker: takes what is free of a study, one job after the other, until there is nothing left.

``python -m spineseg.studies.workers <settings>`` is one; the launchers start it, here or elsewhere.
"""

import json
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from spineseg.errors import SpinesegError
from spineseg.studies.folder import SETTLED, Job, StudyFolder
from spineseg.studies.leases import LeaseLostError, Observer
from spineseg.studies.running import DiskFullError, Measure, Places, Runner, Stop


@dataclass(frozen=True)
class WorkerSettings:
    """What a worker must be told beside what ``study.yaml`` says.

    Attributes:
        folder: of the study.
        places: this machine's.
        lease_timeout_s: after which another machine's job is taken over.
        wait: whether to wait for jobs of others, to take them over should they die.
        environment: of the jobs.
    """

    folder: str
    places: Places
    lease_timeout_s: float
    wait: bool = True
    environment: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        """For a command line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "WorkerSettings":
        """From a command line."""
        content: Any = json.loads(text)
        places = content.pop("places")
        return cls(places=Places(**{**places, "hardware": tuple(places["hardware"])}), **content)


class Worker:
    """Works through a study.

    Args:
        settings: what it is told.
        stop: asked whether to end.
        tick: called several times a second.
    """

    def __init__(
        self, settings: WorkerSettings, stop: Stop | None = None, tick: Callable[[], None] = lambda: None
    ) -> None:
        self.settings, self.stop = settings, stop or Stop()
        self.folder = StudyFolder(Path(settings.folder))
        self.asked = self.folder.read_study()
        self.observer = Observer(settings.lease_timeout_s)
        self.interrupted: set[str] = set()  # by somebody else: the next start goes on with them
        self.runner = Runner(
            self.folder,
            self.asked["name"],
            Measure(self.asked["metric"], self.asked["split"]),
            settings.places,
            command=self.asked["command"],
            stop=self.stop,
            environment=dict(settings.environment),
            tick=tick,
        )

    def work(self) -> None:
        """Work until nothing is left, or a signal says so.

        Raises:
            DiskFullError: nothing can be written any more.
        """
        idle: float | None = None
        for busy in self._steps():
            if self.stop.code is not None:
                return
            if busy:
                idle = None
                continue
            idle = idle or time.monotonic()
            # Long enough to see whether those who hold the rest live.
            if not self.settings.wait and time.monotonic() - idle > 1.5 * self.settings.lease_timeout_s:
                return
            self.runner.tick()
            time.sleep(0.3)

    def attempt(
        self, name: str, pruned: Callable[[], bool] = lambda: False, after: Callable[[Job], None] = lambda job: None
    ) -> bool:
        """Bring a job to its end, unless somebody else is at it.

        Args:
            name: of the job.
            pruned: whether it is to end early.
            after: told what became of it, while the job is still ours.

        Returns:
            Whether it was free.
        """
        lease = self.observer.acquire(self.folder.leases(name))
        if lease is None:
            return False
        try:
            job = self.folder.read_job(name)
            if job.state not in SETTLED:
                job = self.runner.run(job, lease, pruned)
                if job.state == "interrupted":
                    self.interrupted.add(name)
            after(job)
        except LeaseLostError:
            print(f"job {name}: another worker has taken it over while this one slept", flush=True)
        finally:
            lease.release()
        return True

    def _steps(self) -> Iterator[bool]:
        """Whether something was done, again and again; ends when nothing is left."""
        if self.asked["search"] is not None:
            from spineseg.studies.searching import Searcher

            yield from Searcher(self).steps()
            return
        while True:
            left = [name for name in self.folder.plan() if self.folder.read_job(name).state not in SETTLED]
            left = [name for name in left if name not in self.interrupted]
            if not left:
                return
            yield any(self.attempt(name) for name in left)  # after each job the first ones are looked at again


def stop_on_signals(stop: Stop) -> None:
    """Let SIGTERM and Ctrl-C end a worker after its job has saved; a second Ctrl-C ends it at once."""

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.code is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.code = 128 + number

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handle)


def main() -> None:
    """Work with the settings of the command line; exit code 1 where nothing can be done any more."""
    stop = Stop()
    stop_on_signals(stop)
    try:
        Worker(WorkerSettings.from_json(sys.argv[1]), stop).work()
    except (SpinesegError, DiskFullError, OSError) as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(1)
    sys.exit(stop.code or 0)


if __name__ == "__main__":
    main()
