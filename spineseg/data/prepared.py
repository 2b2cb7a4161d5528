"""A prepared folder, as later stages read it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from spineseg.data.cases import Case, read_cases
from spineseg.data.files import read_json
from spineseg.data.sources import Source, reopen
from spineseg.data.splits import Splits, read_splits
from spineseg.data.store import spacing_key
from spineseg.errors import DataError
from spineseg.geometry import SpacingMm

SOURCE_FORMAT: Final = "source 1"


@dataclass(frozen=True)
class Prepared:
    """A prepared folder: its cases, splits, whether the data is simulated, and what ``source.json`` says."""

    root: Path
    cases: tuple[Case, ...]
    simulated: bool
    splits: Splits
    source: dict[str, Any]

    def case(self, case_id: str) -> Case:
        """Look one case up."""
        for case in self.cases:
            if case.id == case_id:
                return case
        raise DataError(f"{self.root}: no case '{case_id}'; cases.csv lists {len(self.cases)}")

    def store(self, spacing_mm: SpacingMm) -> Path:
        """Folder of the stored volumes of a spacing."""
        return self.root / "store" / spacing_key(spacing_mm)

    def open_source(self) -> Source:
        """Make the source again, to read native images and masks."""
        return reopen(self.source["class"], Path(self.source["root"]), self.source["settings"])


def read_prepared(folder: Path) -> Prepared:
    """Read what ``prepare`` wrote, apart from volumes.

    Raises:
        DataError: not a prepared folder, or a damaged one.
        FormatError: written by another version.
    """
    source = read_json(folder / "source.json", SOURCE_FORMAT, "python -m spineseg.prepare")
    return Prepared(
        root=folder,
        cases=read_cases(folder / "cases.csv"),
        simulated=bool(source["simulated"]),
        splits=read_splits(folder / "splits.json"),
        source=source,
    )
