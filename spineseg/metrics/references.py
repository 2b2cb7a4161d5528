"""References: whose scan it is, which levels are cut, and how to load the label map."""

import csv
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from spineseg.errors import DataError
from spineseg.geometry import Volume
from spineseg.metrics.edges import EdgePolicy
from spineseg.predictions.layouts import find_label_maps, points_beside, read_label_map
from spineseg.vertebrae import convention

if TYPE_CHECKING:
    from spineseg.data.cases import Case
    from spineseg.data.sources import Source


@dataclass(frozen=True)
class Reference:
    """The truth of one case.

    Attributes:
        case: id; the prediction bears its name.
        subject: the person, the unit of statistics.
        load: gives the label map on the native grid, canonical level ids.
        cut_levels: levels that the field of view cuts; None = those that touch a face of the label map.
        source: name of the data set.
        named: whether label values are levels, or only tell vertebrae apart.
        points: the set's own centroids in VerSe's file format; None where it has none.
    """

    case: str
    subject: str
    load: Callable[[], Volume]
    cut_levels: tuple[int, ...] | None = None
    source: str = ""
    named: bool = True
    points: Path | None = None


def find_references(where: Path, *, convention_name: str = "verse", subjects: Path | None = None) -> list[Reference]:
    """References of a folder of label maps (``predictions.layouts``), or of the ``cases.csv`` that ``prepare`` wrote.

    Args:
        where: the folder, or ``cases.csv`` (or the prepared folder that holds it).
        convention_name: of a plain folder's label values; a prepared folder knows its own.
        subjects: a CSV with the columns case and subject; only its cases are scored. None = all; where the layout
            names no subjects each case is then one of its own.

    Raises:
        DataError: nothing there, or a case of the CSV that is not.
    """
    prepared = prepared_folder(where)
    found = _folder_references(where, convention_name) if prepared is None else _prepared_references(prepared)
    if subjects is None:
        return found
    people = _read_subjects(subjects)
    if unknown := sorted(set(people) - {reference.case for reference in found}):
        raise DataError(f"{subjects}: no reference of {', '.join(unknown)} in {where}; mend the column 'case'")
    return [replace(reference, subject=people[reference.case]) for reference in found if reference.case in people]


def prepared_folder(where: Path) -> Path | None:
    """The folder that `prepare` wrote, given by itself or by its ``cases.csv``; None for anything else.

    A ``cases.csv`` alone may be anybody's: `prepare` puts ``source.json`` beside its own.
    """
    if not where.is_dir() and where.name != "cases.csv":
        return None
    folder = where if where.is_dir() else where.parent
    return folder if all((folder / name).is_file() for name in ("cases.csv", "source.json")) else None


def case_reference(source: "Source", case: "Case") -> Reference:
    """Reference of a case of a source, with the set's own centroids where they lie beside its mask."""
    points = None if case.label is None else points_beside(source.root / case.label)
    load = partial(source.read_labels, case)
    named = source.labels == "levels"
    # The audit knows which levels are cut; of numbers, the mask itself has to say it.
    cut = case.cut_levels if named else None
    return Reference(case.id, case.subject, load, cut, case.source, named=named, points=points)


def _folder_references(folder: Path, convention_name: str) -> list[Reference]:
    if folder.is_file():
        raise DataError(
            f"{folder}: expected a folder, or prepare's cases.csv (with source.json beside it), found a file"
        )
    convention(convention_name)  # a wrong name is told before the first file is opened
    files = find_label_maps(folder) if folder.is_dir() else {}
    if not files:
        raise DataError(
            f"{folder}: expected a folder of label maps (<case>.nii.gz, <case>/vertebrae_L1.nii.gz … or VerSe's "
            "derivatives), or the cases.csv of `prepare`"
        )
    return [
        Reference(
            file.case,
            file.subject,
            partial(read_label_map, file.path, convention_name),
            source=folder.name,
            points=file.points,
        )
        for file in files.values()
    ]


def _prepared_references(folder: Path) -> list[Reference]:
    from spineseg.data.prepared import read_prepared

    prepared = read_prepared(folder)
    source = prepared.open_source()
    return [case_reference(source, case) for case in prepared.cases if case.label is not None]


def default_edge(where: Path) -> EdgePolicy:
    """How cut levels are scored unless somebody says: as the source of a ``cases.csv`` has it, else ``ignore``."""
    if (prepared := prepared_folder(where)) is not None:
        from spineseg.data.prepared import read_prepared

        return read_prepared(prepared).open_source().edge
    return "ignore"


def is_simulated(where: Path) -> bool:
    """Whether `simulate` made the references: its marker lies beside them or up to two folders above."""
    if (prepared := prepared_folder(where)) is not None:
        from spineseg.data.prepared import read_prepared

        return read_prepared(prepared).simulated
    folder = where.parent if where.is_file() else where
    return any((place / "SIMULATED.json").is_file() for place in (folder, *folder.absolute().parents[:2]))


def _read_subjects(path: Path) -> dict[str, str]:
    if not path.is_file():
        raise DataError(f"{path}: no such file; expected a CSV with the columns case and subject")
    # Excel puts a byte order mark before the first column's name.
    with path.open(newline="", encoding="utf-8-sig") as stream:
        rows = list(csv.DictReader(stream))
    if not rows or not {"case", "subject"} <= set(rows[0]):
        found = ", ".join(rows[0]) if rows else "nothing"
        raise DataError(f"{path}: expected a CSV with the columns case and subject, found {found}")
    people: dict[str, str] = {}
    for line, row in enumerate(rows, start=2):
        case, subject = ((row[name] or "").strip() for name in ("case", "subject"))
        if not case or not subject:
            raise DataError(f"{path}: line {line}: expected a case and its subject, found '{case}' and '{subject}'")
        if case in people:
            raise DataError(f"{path}: line {line}: case '{case}' stands there twice; keep one line")
        people[case] = subject
    return people
