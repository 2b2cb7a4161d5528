"""Reading cases in parallel: audit and stored volume of a case come from one read of its files."""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from spineseg.data.audit import Report, examine
from spineseg.data.cases import Case, RawCase
from spineseg.data.files import sha256_of_text
from spineseg.data.sources.base import Source
from spineseg.data.store import STORE_FORMAT, Resampling, build_case, spacing_key
from spineseg.errors import DataError
from spineseg.geometry import SpacingMm
from spineseg.processors import processors


@dataclass(frozen=True)
class Job:
    """One case to read: to audit it (``report`` is None) and, unless something is fatal, to store it in ``store``.

    Without a ``store`` it is audited only.
    """

    source: Source
    raw: RawCase
    report: Report | None
    store: Path | None
    spacing_mm: SpacingMm
    settings: str
    resampling: Resampling = "linear"


def store_key(case: Case, spacing_mm: SpacingMm, settings: str, resampling: Resampling = "linear") -> str:
    """Key of a stored case: content of image and mask, native grid, settings of source and store, store version."""
    grid = f"{case.shape}{case.spacing_mm}{case.orientation}"
    spacing = spacing_key(spacing_mm, resampling)
    return sha256_of_text(f"{STORE_FORMAT}:{case.image_sha256}:{case.label_sha256}:{grid}:{settings}:{spacing}")


def run_job(job: Job) -> Report:
    """Do one job; damaged files end up in the report, not in an exception."""
    if job.report is None:
        examined = examine(job.source, job.raw)
        report, image, labels = examined.report, examined.image, examined.labels
    else:
        report = job.report
        image = job.source.read_image(job.raw)
        labels = None if job.raw.label is None else job.source.read_labels(job.raw)
    if report.fatal or report.case is None or image is None or job.store is None:
        return report
    key = store_key(report.case, job.spacing_mm, job.settings, job.resampling)
    build_case(job.store / report.id, image, labels, job.spacing_mm, key, job.resampling)
    return report


def run_jobs(jobs: Sequence[Job], workers: int | None, done: Callable[[Job, Report], None]) -> None:
    """Do all jobs with a progress bar; ``done`` is called here, in the parent, as soon as a job has ended.

    Args:
        jobs: any number.
        workers: processes (spawned, so that no thread is forked); None: one a core; one job or worker needs none.
        done: what to do with each report.

    Raises:
        DataError: a worker was killed.
    """
    count = min(len(jobs), workers if workers is not None else processors())
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        task = progress.add_task("preparing", total=len(jobs))
        for job, report in _serial(jobs) if count <= 1 else _parallel(jobs, count):
            done(job, report)
            progress.advance(task)


def _serial(jobs: Sequence[Job]) -> Iterator[tuple[Job, Report]]:
    for job in jobs:
        yield job, run_job(job)


def _parallel(jobs: Sequence[Job], count: int) -> Iterator[tuple[Job, Report]]:
    pool = ProcessPoolExecutor(count, mp_context=get_context("spawn"), initializer=_start_worker)
    try:
        futures: dict[Future[Report], Job] = {pool.submit(run_job, job): job for job in jobs}
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BrokenProcessPool as error:
        raise DataError(
            "a worker process was killed, most likely for want of memory; what was done is kept. Run again with fewer "
            "workers (workers=1)"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    """Keep libraries from starting a thread a core in each of as many processes, and end when the parent is killed."""
    import blosc2
    import SimpleITK as sitk

    blosc2.set_nthreads(1)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)  # a pool's worker would wait for its next job for ever
