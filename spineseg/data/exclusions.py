"""Exclusions: which cases are left out of a data set, why, and by whom.

An exclusion file is a CSV with a row a case and the columns ``format`` (``exclusions 1`` in every row), ``case``,
``reason`` (a sentence), ``findings`` (of the audit, joined by ``; ``; may be empty), ``proposed_by`` (a program or a
person) and ``blind`` (``true``: decided without looking at any model's predictions on the case). A row that is not
blind is refused: leaving out what a model gets wrong would be choosing the test set by its result.
"""

import csv
import hashlib
import io
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from spineseg.data.files import write_text
from spineseg.errors import DataError, FormatError

EXCLUSIONS_FORMAT: Final = "exclusions 1"
COLUMNS: Final = ("format", "case", "reason", "findings", "proposed_by", "blind")
PROPOSE: Final = "python -m spineseg.prepare propose_exclusions=<file>"


@dataclass(frozen=True)
class Exclusion:
    """One case that is left out: why, the audit's findings, and who proposed it."""

    case: str
    reason: str
    findings: tuple[str, ...] = ()
    proposed_by: str = ""


@dataclass(frozen=True)
class Exclusions:
    """All cases that are left out; ``file`` and ``sha256`` are those of the exclusion file, None for a bare list."""

    rows: tuple[Exclusion, ...] = ()
    file: str | None = None
    sha256: str | None = None

    @property
    def cases(self) -> frozenset[str]:
        """Ids of the cases."""
        return frozenset(row.case for row in self.rows)

    @property
    def note(self) -> str | None:
        """What a report prints; None if no case is left out."""
        if not self.rows:
            return None
        names = ", ".join(sorted(self.cases))
        number = f"{len(self.rows)} case{'s' if len(self.rows) > 1 else ''} excluded"
        if self.file is None or self.sha256 is None:
            return f"{number} by name, without stated reasons: {names}"
        return f"{number} by {self.file} (SHA-256 {self.sha256[:12]}, blind to predictions): {names}"

    def to_json(self) -> dict[str, Any]:
        """Turn into plain values, for ``source.json``."""
        return {
            "count": len(self.rows),
            "file": self.file,
            "sha256": self.sha256,
            "cases": [{**asdict(row), "findings": list(row.findings)} for row in self.rows],
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any] | None) -> "Exclusions":
        """Take from plain values; None (a folder of before there were any) is no exclusion."""
        if content is None:
            return cls()
        rows = tuple(Exclusion(**{**row, "findings": tuple(row["findings"])}) for row in content["cases"])
        return cls(rows, content["file"], content["sha256"])


def read_exclusions(path: Path) -> Exclusions:
    """Read an exclusion file.

    Raises:
        DataError: missing; a row without a case or a reason, not blind, or a case twice.
        FormatError: another format or version.
    """
    try:
        content = path.read_bytes()
        lines = csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline=""))
        missing = [column for column in COLUMNS if column not in (lines.fieldnames or ())]
        listed = list(lines)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as an exclusion file ({error}); `{PROPOSE}` writes one") from error
    if missing:
        raise FormatError(
            f"{path}: expected a table of format '{EXCLUSIONS_FORMAT}', found no column {', '.join(missing)}; "
            f"`{PROPOSE}` writes one"
        )
    rows: dict[str, Exclusion] = {}
    for number, line in enumerate(listed, start=2):
        row = _row(f"{path}, line {number}", line)
        if row.case in rows:
            raise DataError(f"{path}, line {number}: '{row.case}' stands here for the second time; remove one row")
        rows[row.case] = row
    return Exclusions(tuple(rows.values()), path.name, hashlib.sha256(content).hexdigest())


def _row(where: str, line: Mapping[str, str | None]) -> Exclusion:
    cells = {column: (line[column] or "").strip() for column in COLUMNS}
    if cells["format"] != EXCLUSIONS_FORMAT:
        raise FormatError(f"{where}: expected format '{EXCLUSIONS_FORMAT}', found '{cells['format']}'")
    if not cells["case"] or not cells["reason"]:
        raise DataError(f"{where}: expected a case and a reason, found '{cells['case']}' and '{cells['reason']}'")
    if cells["blind"].lower() != "true":
        raise DataError(
            f"{where}: blind is '{cells['blind']}', expected true: a case may be left out only by somebody who has not "
            "seen a model's prediction of it. Remove the row, or let somebody judge it who has not"
        )
    findings = tuple(part.strip() for part in cells["findings"].split(";") if part.strip())
    return Exclusion(cells["case"], cells["reason"], findings, cells["proposed_by"])


def write_exclusions(path: Path, rows: Iterable[Exclusion]) -> None:
    """Write an exclusion file atomically; every row is declared blind."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        findings = "; ".join(row.findings)
        writer.writerow((EXCLUSIONS_FORMAT, row.case, row.reason, findings, row.proposed_by, "true"))
    write_text(path, text.getvalue())
