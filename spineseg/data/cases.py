"""Cases: one scan each, as a source lists it (``RawCase``) and as the audit describes it (``Case``, ``cases.csv``)."""

import csv
import io
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from spineseg.data.files import write_text
from spineseg.errors import DataError, FormatError
from spineseg.vertebrae import LEVELS, rank

CASES_FORMAT: Final = "cases 1"
COLUMNS: Final = (
    "format",
    "id",
    "subject",
    "source",
    "image",
    "label",
    "shape",
    "spacing_mm",
    "orientation",
    "levels",
    "cut_levels",
    "findings",
    "image_sha256",
    "label_sha256",
)
# An id names files and folders in every later stage; `|` and unicode are met in the wild and harmless, these are not.
_UNSAFE_ID: Final = re.compile(r"[/\\\x00-\x1f]|^\.|^$")


@dataclass(frozen=True)
class RawCase:
    """One scan as its source lists it, before anything was read.

    Paths are relative to the source's root (absolute where a file lies outside it). ``convention`` names the label
    convention where it is the case's own.
    """

    id: str
    subject: str
    image: Path
    label: Path | None
    convention: str | None = None

    def __post_init__(self) -> None:
        """Check that the id can name files."""
        if _UNSAFE_ID.search(self.id) or not self.subject:
            raise DataError(
                f"{self.image}: case id '{self.id}' (subject '{self.subject}') cannot name files; expected a name "
                "without slashes, control characters or a leading dot. Rename the file or the row of the table."
            )


@dataclass(frozen=True)
class Case:
    """One audited scan: a row of ``cases.csv``.

    ``shape``, ``spacing_mm`` and ``orientation`` are the native grid's, ``levels`` canonical ids from cranial to
    caudal, ``cut_levels`` those that touch a face of the volume. ``image`` and ``label`` are relative to the source's
    root. ``findings`` are warnings; a case with a fatal finding never becomes a row.
    """

    id: str
    subject: str
    source: str
    image: Path
    label: Path | None
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    orientation: str
    levels: tuple[int, ...]
    cut_levels: tuple[int, ...]
    findings: tuple[str, ...]
    image_sha256: str
    label_sha256: str | None

    def __post_init__(self) -> None:
        """Check what later stages rely on."""
        if len(self.shape) != 3 or min(self.shape) < 1 or min(self.spacing_mm) <= 0:
            raise DataError(f"case '{self.id}': impossible grid, shape {self.shape}, spacing {self.spacing_mm} mm")
        if not set(self.cut_levels) <= set(self.levels):
            raise DataError(f"case '{self.id}': cut levels {self.cut_levels} are not among its levels {self.levels}")
        if (self.label is None) != (self.label_sha256 is None):
            raise DataError(f"case '{self.id}': a label file and its hash go together")


def column_order(levels: Iterable[int]) -> tuple[int, ...]:
    """Sort level ids from cranial to caudal; ids that are no level (instance numbers) stay in numeric order.

    >>> column_order({20, 28, 19})
    (19, 28, 20)
    """
    found = set(levels)
    return tuple(sorted(found, key=rank)) if found <= set(LEVELS) else tuple(sorted(found))


def write_cases(path: Path, cases: Iterable[Case]) -> None:
    """Write ``cases.csv`` atomically; the first column of every row carries the format."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for case in cases:
        writer.writerow(
            (
                CASES_FORMAT,
                case.id,
                case.subject,
                case.source,
                case.image.as_posix(),
                case.label.as_posix() if case.label else "",
                " ".join(map(str, case.shape)),
                " ".join(f"{value:.9g}" for value in case.spacing_mm),
                case.orientation,
                " ".join(map(str, case.levels)),
                " ".join(map(str, case.cut_levels)),
                "; ".join(case.findings),
                case.image_sha256,
                case.label_sha256 or "",
            )
        )
    write_text(path, text.getvalue())


def read_cases(path: Path) -> tuple[Case, ...]:
    """Read ``cases.csv``.

    Raises:
        DataError: the file is missing or a row is damaged.
        FormatError: another format or version.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; `python -m spineseg.prepare` writes it")
    with path.open(newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream)
        missing = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
        if missing:
            raise FormatError(
                f"{path}: expected a table of format '{CASES_FORMAT}', found no column {', '.join(missing)}; "
                "`python -m spineseg.prepare` writes it"
            )
        return tuple(_case(path, number, row) for number, row in enumerate(reader, start=2))


def _case(path: Path, number: int, row: dict[str, str]) -> Case:
    if row["format"] != CASES_FORMAT:
        raise FormatError(
            f"{path}, line {number}: expected format '{CASES_FORMAT}', found '{row['format']}'; "
            "`python -m spineseg.prepare` of this version writes it"
        )
    try:
        shape = tuple(int(value) for value in row["shape"].split())
        spacing_mm = tuple(float(value) for value in row["spacing_mm"].split())
        return Case(
            id=row["id"],
            subject=row["subject"],
            source=row["source"],
            image=Path(row["image"]),
            label=Path(row["label"]) if row["label"] else None,
            shape=(shape[0], shape[1], shape[2]),
            spacing_mm=(spacing_mm[0], spacing_mm[1], spacing_mm[2]),
            orientation=row["orientation"],
            levels=tuple(int(value) for value in row["levels"].split()),
            cut_levels=tuple(int(value) for value in row["cut_levels"].split()),
            findings=tuple(value for value in row["findings"].split("; ") if value),
            image_sha256=row["image_sha256"],
            label_sha256=row["label_sha256"] or None,
        )
    except (ValueError, IndexError, AttributeError) as error:
        raise DataError(f"{path}, line {number}: a damaged row ({error}); run `python -m spineseg.prepare`") from error
