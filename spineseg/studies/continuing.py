"""A study that is started again: what must be as it was, and what a changed question makes of jobs that are known."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from spineseg.errors import ConfigError
from spineseg.studies.folder import Job, StudyFolder, finished_value
from spineseg.studies.leases import Observer
from spineseg.studies.running import Measure, take_over

# Of a search: what tells its trials from those of another question, in study.yaml and in its node `search`.
ASKED = ("preset", "metric", "split", "data_hash", "split_hash")
DRAWN = ("space", "direction", "sampler")


def check_same_search(folder: StudyFolder, now: Mapping[str, Any]) -> None:
    """See that a search that goes on asks what it asked before; its sampler learns from every trial that is there.

    Args:
        folder: of the study; nothing is checked where it is new.
        now: what is to be written to ``study.yaml``.

    Raises:
        ConfigError: naming what differs.
    """
    if not folder.study.is_file():
        return
    before = folder.read_study()
    if before.get("search") is None:
        raise ConfigError(f"{folder.root} holds a matrix, now it is a search: take another study.name")
    missing = [name for name in (*ASKED, "base") if name not in before]
    if missing:
        raise ConfigError(
            f"{folder.study}: written by an earlier version, which kept no {', '.join(missing)}: whether its trials "
            "could be compared with new ones is not known; take another study.name"
        )
    pairs = [(f"search.{name}", before["search"].get(name), now["search"][name]) for name in DRAWN]
    pairs += [("recipe, overrides, seed and fold", *_apart(before["base"]["overrides"], now["base"]["overrides"]))]
    pairs += [(name if name.endswith("hash") else f"study.{name}", before[name], now[name]) for name in ASKED]
    for name, was, is_now in pairs:
        if was != is_now:
            raise ConfigError(
                f"{name}: {folder.root} holds a search with {was}, now it is {is_now}; "
                "its trials could not be compared: take another study.name"
            )


def check_same_kind(folder: StudyFolder) -> None:
    """See that a folder does not hold a search, before a matrix is written to it.

    Raises:
        ConfigError: it does.
    """
    if folder.study.is_file() and folder.read_study().get("search") is not None:
        raise ConfigError(f"{folder.root} holds a search, now it is a matrix: take another study.name")


def renew_jobs(folder: StudyFolder, planned: Mapping[str, Job], measure: Measure, lease_timeout_s: float) -> None:
    """Give the jobs that are known the labels and the value that the study now asks for; nothing is trained again.

    A job's hash has neither its labels nor metric and split in it. Jobs that are not planned any more get the value,
    too, so that the ledger has one metric. One that somebody is at is left as it is; the next start sees it.

    Args:
        folder: of the study.
        planned: the jobs that are asked for.
        measure: what a job's value is now.
        lease_timeout_s: of the study.
    """
    observer = Observer(lease_timeout_s)
    for job in folder.all_jobs():
        if not _differ(job, _renewed(folder, job, planned, measure)):
            continue
        lease = observer.acquire(folder.leases(job.hash))
        if lease is None:
            continue
        try:
            taken = take_over(folder, folder.read_job(job.hash), lease)
            folder.write_job(_renewed(folder, taken, planned, measure))
        finally:
            lease.release()


def _renewed(folder: StudyFolder, job: Job, planned: Mapping[str, Job], measure: Measure) -> Job:
    asked = planned.get(job.hash)
    if asked is not None:
        job = replace(job, labels=dict(asked.labels), overrides=asked.overrides)
    run = folder.run(job.hash)
    if job.state not in ("done", "failed") or run is None or not run.results.is_file():
        return job
    found = finished_value(job, run, measure.split, measure.metric)
    if found is not None:
        return found
    split = measure.split
    error = f"its split {split} was not scored: python -m spineseg.train resume={run.root} score_splits=[{split}]"
    return replace(job, state="failed", value=None, error=f"{error}, or retry=failed, which does so")


def _differ(job: Job, other: Job) -> bool:
    """Whether two states of a job are told apart; the order of its labels is that of the table's columns."""
    return job != other or list(job.labels) != list(other.labels)


def _apart(before: list[str], now: list[str]) -> tuple[str, str]:
    """Two lists of overrides as texts, without what they share; whole where they differ in order alone."""
    only = [each for each in before if each not in now], [each for each in now if each not in before]
    if not any(only) and before != now:
        only = before, now
    return " ".join(only[0]) or "nothing more", " ".join(only[1]) or "nothing more"
