"""A study on disk: what is asked, what became of each job, and the ledger that is made of it."""

import csv
import io
import json
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from spineseg.data.files import read_json
from spineseg.errors import DataError, FormatError
from spineseg.runs import Run, read_results, without_secrets

STUDY_FORMAT = "study 1"
JOB_FORMAT = "job 1"
STUDY = "python -m spineseg.study"
State = Literal["pending", "running", "interrupted", "done", "pruned", "failed"]
SETTLED: tuple[State, ...] = ("done", "pruned", "failed")
# Behind the factors; with `job` and, of a search, `trial` before them the columns of study.csv.
COLUMNS = ("overrides", "state", "value", "seconds", "attempts", "error")


@dataclass(frozen=True)
class Job:
    """What is known of one training: ``jobs/<hash>/job.json``.

    Attributes:
        hash: its name.
        labels: its row of the table: recipe, axes or parameters, seed, fold.
        overrides: for ``train``, without places.
        simulated: whether its data is.
        data_hash: SHA-256 of the cases.
        split_hash: SHA-256 of the split.
        epochs: that it is trained for.
        state: where it stands; ``interrupted`` goes on at the next start, ``failed`` with ``retry=failed`` alone.
        value: the study's metric.
        seconds: in which a process was at it, over all attempts.
        attempts: how often it was started.
        error: why it failed.
        run: its run folder, below the study's; None before there is one.
        trials: numbers of the search's trials that it is.
    """

    hash: str
    labels: Mapping[str, Any]
    overrides: tuple[str, ...]
    simulated: bool
    data_hash: str
    split_hash: str
    epochs: int = 1
    state: State = "pending"
    value: float | None = None
    seconds: float = 0.0
    attempts: int = 0
    error: str | None = None
    run: str | None = None
    trials: tuple[int, ...] = ()


@dataclass(frozen=True)
class StudyFolder:
    """A study's folder."""

    root: Path

    @property
    def study(self) -> Path:
        """What is asked."""
        return self.root / "study.yaml"

    @property
    def ledger(self) -> Path:
        """One row a job."""
        return self.root / "study.csv"

    @property
    def journal(self) -> Path:
        """Optuna's."""
        return self.root / "journal.log"

    @property
    def jobs(self) -> Path:
        """Folder of the jobs."""
        return self.root / "jobs"

    def job(self, name: str) -> Path:
        """Folder of a job: ``job.json``, ``leases/``, ``output.txt`` and its run folder, named by the time."""
        return self.jobs / name

    def leases(self, name: str) -> Path:
        """Who is at a job."""
        return self.job(name) / "leases"

    def output(self, name: str) -> Path:
        """What a job has printed, attempt after attempt."""
        return self.job(name) / "output.txt"

    def run(self, name: str) -> Run | None:
        """A job's run folder; None before there is one."""
        found = sorted(path.parent for path in self.job(name).glob("2*/config.yaml"))
        return Run(found[-1]) if found else None

    def read_job(self, name: str) -> Job:
        """What is known of a job.

        Raises:
            DataError: missing or damaged.
            FormatError: another version.
        """
        path = self.job(name) / "job.json"
        content = read_json(path, JOB_FORMAT, STUDY)
        content.pop("format")
        try:
            tuples = {key: tuple(content[key]) for key in ("overrides", "trials")}
            return Job(**{**content, **tuples})
        except (KeyError, TypeError) as error:
            raise DataError(f"{path}: a damaged entry ({error}); `{STUDY}` writes it") from error

    def write_job(self, job: Job) -> None:
        """Write what is known of a job; only for the holder of its lease."""
        publish(self.job(job.hash) / "job.json", _json_lines({"format": JOB_FORMAT, **asdict(job)}))

    def add_job(self, job: Job) -> None:
        """Write a new job; one that is there stays as it is."""
        path = self.job(job.hash) / "job.json"
        if path.is_file():
            return
        partial = _partial(path, _json_lines({"format": JOB_FORMAT, **asdict(job)}))
        try:
            os.link(partial, path)  # of two that start at once the first has written it
        except FileExistsError:
            pass
        except OSError:  # a file system without hard links
            if not path.is_file():
                partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)

    def all_jobs(self) -> list[Job]:
        """Every job of the folder: those of the plan in its order, then trials by number, then others by name."""
        names = [path.parent.name for path in self.jobs.glob("*/job.json")]
        plan = {name: index for index, name in enumerate(self.plan())}
        jobs = [self.read_job(name) for name in names]
        return sorted(jobs, key=lambda job: (plan.get(job.hash, len(plan)), min(job.trials, default=1 << 30), job.hash))

    def plan(self) -> tuple[str, ...]:
        """Names of the jobs that the study's file asked for when it was last started; empty of a search."""
        return tuple(self.read_study().get("plan", ())) if self.study.is_file() else ()

    def read_study(self) -> dict[str, Any]:
        """What ``study.yaml`` says.

        Raises:
            DataError: missing or damaged.
            FormatError: another version.
        """
        try:
            content = yaml.safe_load(self.study.read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise DataError(f"{self.study}: cannot be read ({error}); `{STUDY}` writes it") from error
        found = content.get("format") if isinstance(content, dict) else None
        if found != STUDY_FORMAT:
            raise FormatError(f"{self.study}: expected format '{STUDY_FORMAT}', found '{found}'; `{STUDY}` writes it")
        return dict(content)

    def write_study(self, content: Mapping[str, Any]) -> None:
        """Write what is asked."""
        kept = {"format": STUDY_FORMAT, **without_secrets(content)}
        publish(self.study, yaml.safe_dump(kept, sort_keys=False, allow_unicode=True))

    def write_ledger(self, jobs: Sequence[Job] | None = None) -> None:
        """Make ``study.csv`` of the jobs' files; whoever writes it last has seen no less than those before."""
        publish(self.ledger, ledger_text(self.all_jobs() if jobs is None else jobs))


def ledger_text(jobs: Sequence[Job]) -> str:
    """The ledger: job, trial (of a search), the labels, overrides, state, value, seconds, attempts, error."""
    factors = list(dict.fromkeys(name for job in jobs for name in job.labels))
    search = any(job.trials for job in jobs)
    stream = io.StringIO()
    table = csv.writer(stream, lineterminator="\n")
    table.writerow(["job", *(["trial"] if search else []), *factors, *COLUMNS])
    rows = [(trial, job) for job in jobs for trial in job.trials or (None,)]
    if search:
        rows.sort(key=lambda row: (row[0] is None, row[0] or 0))
    for trial, job in rows:
        value = "" if job.value is None else repr(job.value)
        row = [" ".join(job.overrides), job.state, value, f"{job.seconds:.1f}", job.attempts, job.error or ""]
        number = [] if not search else [""] if trial is None else [trial]
        table.writerow([job.hash, *number, *(job.labels.get(name, "") for name in factors), *row])
    return stream.getvalue()


def finished_value(job: Job, run: Run | None, split: str, metric: str) -> Job | None:
    """The job as its results make it; None while there are none.

    A value that does not apply to the model (``n/a``) makes a job fail: a table with a hole would not say why.
    """
    if run is None or not run.results.is_file():
        return None
    metrics = read_results(run)["splits"].get(split)
    if metrics is None:
        return None
    found = metrics.get(metric)
    if found is None or found["value"] is None:
        status = "is not there" if found is None else f"is {found.get('status', 'null')} for this model"
        there = ", ".join(sorted(name for name, entry in metrics.items() if entry["value"] is not None))
        return replace(
            job, state="failed", value=None, error=f"results.json: {split} {metric} {status}; there: {there}"
        )
    return replace(job, state="done", value=float(found["value"]), error=None)


def publish(path: Path, text: str) -> None:
    """Write a text file so that its final name never holds half of it, whatever other machines write at the time."""
    partial = _partial(path, text)
    try:
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _partial(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".partial-{secrets.token_hex(8)}-{path.name}")
    try:
        partial.write_text(text, encoding="utf-8")
    except OSError:
        partial.unlink(missing_ok=True)
        raise
    return partial


def _json_lines(content: Mapping[str, Any]) -> str:
    lines = [f"  {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in content.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"
