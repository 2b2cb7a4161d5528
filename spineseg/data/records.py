"""What ``prepare`` remembers of each case, so that unchanged files are not read again and an interrupted run goes on.

A record holds the size and time of every file of a case beside the audit's report. While a preparation runs, each case
has a file of its own, written when the case is done; the finished folder holds them all in ``records.json``.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from spineseg.data.audit import AUDIT_RULES, Report
from spineseg.data.cases import Case, RawCase
from spineseg.data.files import sha256_of_text, write_json
from spineseg.data.sources.base import Source
from spineseg.data.store import STORE_FORMAT
from spineseg.errors import DataError

RECORDS_FORMAT: Final = "records 1"
Stat = tuple[int, int]


@dataclass(frozen=True)
class Record:
    """One audited case: under which settings, from which files (size, time in ns), by which rules, what was found."""

    settings: str
    files: dict[str, Stat]
    report: Report
    rules: int = AUDIT_RULES

    def to_json(self) -> dict[str, Any]:
        """Turn into plain values."""
        content = asdict(self)
        case = content["report"]["case"]
        if case is not None:
            case["image"] = str(case["image"])
            case["label"] = None if case["label"] is None else str(case["label"])
        return content

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Record":
        """Take from plain values; KeyError, TypeError or ValueError where they are damaged."""
        report, case = content["report"], content["report"]["case"]
        if case is not None:
            tuples: dict[str, Any] = {
                key: tuple(value) if isinstance(value, list) else value for key, value in case.items()
            }
            label = None if case["label"] is None else Path(case["label"])
            case = Case(**{**tuples, "image": Path(case["image"]), "label": label})
        files = {str(path): (int(size), int(time)) for path, (size, time) in content["files"].items()}
        judged = Report(report["id"], case, tuple(report["fatal"]), dict(report["facts"]))
        return cls(str(content["settings"]), files, judged, int(content["rules"]))


def settings_key(source: Source) -> str:
    """Hash of everything but the files that a case's report and stored volumes depend on."""
    settings = {key: value for key, value in source.settings().items() if key != "edge"}
    described = {"class": type(source).__name__, "name": source.name, **settings}
    return sha256_of_text(json.dumps([RECORDS_FORMAT, STORE_FORMAT, described], sort_keys=True, default=str))[:16]


def case_settings(source: Source, raw: RawCase) -> str:
    """``settings_key`` and what the source says of this case."""
    return sha256_of_text(f"{settings_key(source)}:{raw.id}:{raw.subject}:{raw.image}:{raw.label}:{raw.convention}")[
        :16
    ]


def stats(source: Source, raw: RawCase) -> dict[str, Stat]:
    """Size and time of modification of a case's files, by path; (-1, -1) for one that is not there."""
    found: dict[str, Stat] = {}
    for path in source.files(raw):
        try:
            stat = path.stat()
            found[str(path.absolute())] = (stat.st_size, stat.st_mtime_ns)
        except OSError:
            found[str(path.absolute())] = (-1, -1)
    return found


def write_record(folder: Path, record: Record) -> None:
    """Write one record of a running preparation."""
    write_json(folder / f"{record.report.id}.json", {"format": RECORDS_FORMAT, **record.to_json()})


def write_records(path: Path, records: Iterable[Record]) -> None:
    """Write all records of a finished preparation."""
    write_json(path, {"format": RECORDS_FORMAT, **{record.report.id: record.to_json() for record in records}})


def known_records(finished: Iterable[Path], running: Path) -> list[Record]:
    """All records of finished folders and of the running one; damaged or foreign ones count as none."""
    records = []
    for path in [*sorted(running.glob("*.json")), *(folder / "records.json" for folder in finished)]:
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content.pop("format") != RECORDS_FORMAT:
                continue
            entries = [content] if path.parent == running else list(content.values())
            records += [Record.from_json(entry) for entry in entries]
        except (OSError, ValueError, KeyError, TypeError, AttributeError, DataError):
            continue
    return records
