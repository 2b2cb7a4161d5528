"""What a study shows of itself while it runs: a live table in a terminal, a line a change elsewhere."""

import sys
import time
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from spineseg.errors import SpinesegError
from spineseg.studies.estimate import Cost, epochs_left, estimate, known_costs, shown_seconds
from spineseg.studies.folder import SETTLED, Job, State, StudyFolder
from spineseg.studies.leases import Observer

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

ORDER: tuple[State, ...] = ("running", "failed", "interrupted", "done", "pruned", "pending")
COLOURS = {"running": "cyan", "failed": "red", "interrupted": "yellow", "done": "green", "pruned": "magenta"}
ROWS = 24  # of the live table; the ledger has all


class Board:
    """Watches a study's folder.

    Args:
        folder: of the study.
        title: stands above the table.
        total: jobs that there are to be, those of a search that were not asked for yet among them.
        like: of a search, what those are like.
        workers: side by side.
        runs: folder of single runs, for the time left before the first job has ended.
    """

    def __init__(
        self, folder: StudyFolder, title: str, total: int, workers: int, runs: Path, like: Job | None = None
    ) -> None:
        self._folder, self._title, self._total, self._workers, self._runs = folder, title, total, workers, runs
        self._like = like
        self._live: Live | None = None
        self._states: dict[str, tuple[State, int]] = {}
        self._costs: dict[str, Cost] = {}
        self._costs_of = -1
        self._looked = 0.0

    def __enter__(self) -> Self:
        if sys.stdout.isatty():
            from rich.live import Live

            self._live = Live(auto_refresh=False)
            self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._look()
        if self._live is not None:
            self._live.__exit__(kind, error, trace)

    def tick(self) -> None:
        """Look at the folder, at most once a second."""
        if time.monotonic() - self._looked >= 1.0:
            self._look()
            self._looked = time.monotonic()

    def _look(self) -> None:
        try:
            jobs = self._folder.all_jobs()
            if self._live is not None:
                self._live.update(self._table(jobs), refresh=True)
            else:
                self._lines(jobs)
        except (SpinesegError, OSError):
            return  # a file that is being replaced on another machine; the next look will see it

    def _lines(self, jobs: list[Job]) -> None:
        for job in jobs:
            before = self._states.get(job.hash)
            self._states[job.hash] = (job.state, job.attempts)
            if before in (None, (job.state, job.attempts)) and not (before is None and job.state == "running"):
                continue
            words = [f"{job.state:<11} {job.hash} {shown_labels(job)}"]
            words += [f"{job.value:.4f}"] if job.value is not None else []
            words += [job.error] if job.error else []
            print(f"{' · '.join(words)}   [{self._progress(jobs)}]", flush=True)

    def _table(self, jobs: list[Job]) -> "Table":
        from rich.table import Table
        from rich.text import Text

        table = Table(title=self._title, caption=self._progress(jobs), title_justify="left", caption_justify="left")
        for name in ("job", "what", "state", "value", "time", "epoch"):
            table.add_column(name, justify="right" if name in ("value", "time", "epoch") else "left")
        shown = sorted(jobs, key=lambda job: ORDER.index(job.state))
        for job in shown[:ROWS]:
            value = "" if job.value is None else f"{job.value:.4f}"
            state = f"{job.state} {job.error}" if job.error else job.state
            epoch = f"{job.epochs - self._left(job)}/{job.epochs}" if job.state == "running" else ""
            styled = Text(state, style=COLOURS.get(job.state, ""))
            table.add_row(job.hash, shown_labels(job), styled, value, shown_seconds(self._seconds(job)), epoch)
        if len(shown) > ROWS:
            table.add_row("…", f"and {len(shown) - ROWS} more, in {self._folder.ledger.name}", "", "", "", "")
        return table

    def _progress(self, jobs: list[Job]) -> str:
        counts = Counter(job.state for job in jobs)
        settled = sum(counts[state] for state in SETTLED)
        words = [f"{settled} of {max(self._total, len(jobs))}"]
        words += [f"{counts[state]} {state}" for state in ORDER if counts[state] and state not in ("pending", "done")]
        if counts["done"] != self._costs_of:
            self._costs, self._costs_of = known_costs(self._folder, jobs, self._runs), counts["done"]
        left = {job.hash: self._left(job) for job in jobs if job.state == "running"}
        to_come = [] if self._like is None else [self._like] * (self._total - len(jobs))
        found = estimate([*jobs, *to_come], self._costs, self._workers, left)
        if found.seconds:
            words.append(f"about {shown_seconds(found.seconds)} left")
        return ", ".join(words)

    def _left(self, job: Job) -> int:
        return epochs_left(self._folder.run(job.hash), job.epochs)

    def _seconds(self, job: Job) -> float:
        """As the ledger has it, and of a running job the attempt at hand."""
        holder = Observer(0.0).holder(self._folder.leases(job.hash)) if job.state == "running" else None
        return job.seconds + (0.0 if holder is None else holder.seconds)


def shown_labels(job: Job) -> str:
    """A job's row in words; numbers that a sampler has drawn with four digits."""
    return " ".join(
        f"{name.rpartition('.')[2]} {label:.4g}"
        if isinstance(label, float)
        else str(label)
        if name == "recipe"
        else f"{name.rpartition('.')[2]} {label}"
        for name, label in job.labels.items()
    )
