"""Preparing a source: audit, splits and store, in one pass over its files.

The work is done in a folder ``<source>-<settings>.partial``, which gets its name ``<source>-<hash>`` when all of it is
there. The hash covers the source's settings, the split seed and the cases' content.
"""

import contextlib
import errno
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from spineseg.data.audit import AUDIT_RULES, Report, across_cases, refuse, write_audit
from spineseg.data.building import Job, run_jobs, store_key
from spineseg.data.cases import RawCase, write_cases
from spineseg.data.files import locked, read_json, sha256_of_text, write_json
from spineseg.data.prepared import SOURCE_FORMAT, read_prepared
from spineseg.data.records import (
    Record,
    case_settings,
    known_records,
    settings_key,
    stats,
    write_record,
    write_records,
)
from spineseg.data.sources import Source
from spineseg.data.splits import make_splits, write_splits
from spineseg.data.store import PREPARE, Resampling, adopt_case, as_spacing, spacing_key, stored_key
from spineseg.errors import DataError
from spineseg.geometry import SpacingMm

_UNWRITABLE: Final = (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EPERM, errno.EDQUOT)


def prepare_source(
    source: Source,
    *,
    prepared_root: Path,
    spacing_mm: SpacingMm,
    split_seed: int,
    workers: int | None = None,
    export: str | None = None,
    resampling: Resampling = "linear",
) -> Path:
    """Prepare a source, or what is missing of it, and return its folder.

    Unchanged files (same size and time) are not read again; after an interruption finished cases are kept.

    Args:
        source: the data set.
        prepared_root: folder of prepared folders.
        spacing_mm: spacing (x, y, z) in mm of the store; None keeps an axis.
        split_seed: seed of the split hash.
        workers: processes; None: one a core.
        export: None, ``yolo`` or ``nnunet``: a folder beside the prepared one, in that tool's format.
        resampling: of images to ``spacing_mm``: ``linear`` or ``cubic``.

    Raises:
        DataError: the set is not there; or the audit's fatal findings, all of them; or nothing can be written.
    """
    with _working(source, prepared_root) as raws:
        folder = _Preparation(source, raws, prepared_root, spacing_mm, split_seed, resampling).run(workers)
        if export is not None:
            from spineseg.data.exports import export_prepared

            export_prepared(read_prepared(folder), source, export, spacing_mm)
        return folder


def audit_source(source: Source, *, prepared_root: Path, workers: int | None = None) -> list[Report]:
    """Audit every case of a source and stop at none of them; nothing is stored, but ``prepare_source`` reuses it.

    Args:
        source: the data set; what it excludes is not read.
        prepared_root: folder of prepared folders.
        workers: processes; None: one a core.

    Raises:
        DataError: the set is not there, or nothing can be written.
    """
    with _working(source, prepared_root) as raws:
        return _Preparation(source, raws, prepared_root, as_spacing(None), 0, "linear").audit(workers)


@contextlib.contextmanager
def _working(source: Source, prepared_root: Path) -> Iterator[list[RawCase]]:
    """Hold the source's lock and give its cases; say what is to be done where nothing can be written."""
    # Before anything is made: a set that is not there leaves nothing behind.
    raws = [] if source.download else source.cases()
    try:
        prepared_root.mkdir(parents=True, exist_ok=True)
        with locked(prepared_root / f".{source.name}.lock", "prepares this source"):
            if source.download:
                source.fetch()
                raws = source.cases()
            yield raws
    except OSError as error:
        if error.errno in _UNWRITABLE:
            raise DataError(
                f"{error.filename or prepared_root}: cannot be written ({error.strerror}); free some space, or set "
                "paths.prepared to a folder that you may write to"
            ) from error
        raise


class _Preparation:
    """One run of ``prepare_source``: what is known, what is to be read, and where it goes."""

    def __init__(
        self,
        source: Source,
        raws: list[RawCase],
        prepared_root: Path,
        spacing_mm: SpacingMm,
        split_seed: int,
        resampling: Resampling,
    ) -> None:
        self.source, self.raws, self.spacing_mm, self.split_seed = source, raws, spacing_mm, split_seed
        self.resampling: Resampling = resampling
        self.root = prepared_root
        self.settings = settings_key(source)
        self.case_settings = {raw.id: case_settings(source, raw) for raw in raws}
        self.work = prepared_root / f"{source.name}-{self.settings}.partial"
        self.siblings = [
            folder
            for folder in sorted(prepared_root.glob(f"{source.name}-*"))
            if folder.suffix != ".partial" and (folder / "source.json").is_file()
        ]
        self.stats = {raw.id: stats(source, raw) for raw in raws}
        self.records: dict[str, Record] = {}

    def run(self, workers: int | None) -> Path:
        """Read what is unknown, refuse what is wrong, publish the rest."""
        self._recall()
        folder = self._final() if len(self.records) == len(self.raws) else None
        target = folder if folder in self.siblings and folder is not None else self.work
        store = target / "store" / spacing_key(self.spacing_mm, self.resampling)
        _sweep(store)
        jobs = [self._job(raw, store) for raw in self.raws if not self._stored(store, raw.id)]
        if jobs:
            run_jobs(jobs, workers, self._done)
        reports = across_cases([self.records[raw.id].report for raw in self.raws])
        if any(report.fatal for report in reports):
            write_audit(self.work / "audit.json", reports, self.source)
            refuse(reports, self.work / "audit.json")
        return self._publish(self._final(), [report for report in reports if report.case is not None])

    def audit(self, workers: int | None) -> list[Report]:
        """Judge every case, without a store; what earlier runs found of unchanged files is taken over."""
        self._recall()
        jobs = [self._job(raw, None) for raw in self.raws if raw.id not in self.records]
        if jobs:
            run_jobs(jobs, workers, self._done)
        return across_cases([self.records[raw.id].report for raw in self.raws])

    def _job(self, raw: RawCase, store: Path | None) -> Job:
        settings = self.case_settings[raw.id]
        return Job(self.source, raw, self._report(raw.id), store, self.spacing_mm, settings, self.resampling)

    def _recall(self) -> None:
        """Take the records of earlier runs whose files and settings are the same; a fatal case is always read again."""
        for record in known_records(self.siblings, self.work / "records"):
            name = record.report.id
            fresh = record.settings == self.case_settings.get(name) and record.files == self.stats.get(name)
            if fresh and record.rules == AUDIT_RULES and not record.report.fatal:
                self.records[name] = record

    def _report(self, case_id: str) -> Report | None:
        record = self.records.get(case_id)
        return None if record is None else record.report

    def _stored(self, store: Path, case_id: str) -> bool:
        """Whether the stored volume is there; one that another folder holds is taken over."""
        report = self._report(case_id)
        if report is None or report.case is None:
            return False
        key = store_key(report.case, self.spacing_mm, self.case_settings[case_id], self.resampling)
        if stored_key(store / case_id) == key:
            return True
        for folder in (*self.siblings, self.work):
            other = folder / "store" / store.name / case_id
            if stored_key(other) == key:
                adopt_case(other, store / case_id)
                return True
        return False

    def _done(self, job: Job, report: Report) -> None:
        record = Record(job.settings, self.stats[report.id], report)
        self.records[report.id] = record
        if job.report is None:
            write_record(self.work / "records", record)

    def _final(self) -> Path:
        """Folder of this content: hash over settings, split seed, audit, exclusions and what each case's files hold.

        The grid is of the header, which the hashes of the voxels know nothing of.
        """
        listing = [
            [
                *(case.id, case.subject, str(case.image), str(case.label), case.image_sha256, case.label_sha256),
                *(case.shape, case.spacing_mm, case.orientation),
            ]
            for case in (self.records[raw.id].report.case for raw in self.raws)
            if case is not None
        ]
        content = [
            self.settings,
            self.source.edge,
            self.split_seed,
            self.source.simulated,
            sorted(self.source.subjects()),
            listing,
            AUDIT_RULES,
            self.source.exclusions.to_json(),
        ]
        return self.root / f"{self.source.name}-{sha256_of_text(json.dumps(content, default=str))[:12]}"

    def _publish(self, folder: Path, reports: list[Report]) -> Path:
        """Give the work its final name, or add it to the finished folder of the same content."""
        cases = [report.case for report in reports if report.case is not None]
        records = [self.records[report.id] for report in reports]
        if folder in self.siblings:
            path, described = folder / "source.json", self._described()
            # As JSON has it: tuples are lists there.
            if read_json(path, SOURCE_FORMAT, PREPARE) != json.loads(json.dumps(described)):
                write_json(path, described)  # the same files, moved
            if (self.work / "store").is_dir():
                _merge(self.work / "store", folder / "store")
            if self.work.is_dir():
                write_records(folder / "records.json", records)
                shutil.rmtree(self.work, ignore_errors=True)
            return folder
        self.work.mkdir(parents=True, exist_ok=True)
        simulated = self.source.simulated
        splits = make_splits(
            cases,
            rule=self.source.split_rule,
            seed=self.split_seed,
            subjects=self.source.subjects(),
            simulated=simulated,
        )
        write_cases(self.work / "cases.csv", cases)
        write_audit(self.work / "audit.json", reports, self.source)
        write_splits(self.work / "splits.json", splits)
        write_records(self.work / "records.json", records)
        given = self.source.given_split()
        if given is not None:
            write_json(self.work / "given_split.json", {"format": "split 1", **given})  # for data.split_file=
        write_json(self.work / "source.json", self._described())
        shutil.rmtree(self.work / "records", ignore_errors=True)
        _drop_strangers(self.work / "store", {case.id for case in cases})
        shutil.rmtree(folder, ignore_errors=True)  # one without source.json: never finished
        self.work.rename(folder)
        return folder

    def _described(self) -> dict[str, Any]:
        """What ``reopen`` and later stages need to know of the source."""
        settings = dict(self.source.settings())
        if own := {raw.id: raw.convention for raw in self.raws if raw.convention is not None}:
            settings["conventions"] = own
        return {
            "format": SOURCE_FORMAT,
            "simulated": self.source.simulated,
            "name": self.source.name,
            "class": type(self.source).__name__,
            "root": str(self.source.root.absolute()),
            "settings": settings,
            "split_seed": self.split_seed,
            "levels": list(self.source.levels),
            "labels": self.source.labels,
            "edge": self.source.edge,
            "exclusions": self.source.exclusions.to_json(),
        }


def _sweep(store: Path) -> None:
    """Remove what a killed process left half-written."""
    for path in store.glob(".partial-*"):
        shutil.rmtree(path, ignore_errors=True)


def _merge(source: Path, target: Path) -> None:
    """Move stored cases that are not there yet, or are there from before."""
    for case in source.glob("*/*"):
        place = target / case.parent.name / case.name
        if stored_key(case) not in (None, stored_key(place)):
            shutil.rmtree(place, ignore_errors=True)
            place.parent.mkdir(parents=True, exist_ok=True)
            case.rename(place)


def _drop_strangers(store: Path, ids: set[str]) -> None:
    """Remove stored cases of an earlier, interrupted run that are no longer in the listing."""
    for case in store.glob("*/*"):
        if case.name not in ids:
            shutil.rmtree(case, ignore_errors=True)
