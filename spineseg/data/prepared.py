"""A prepared folder, as later stages read it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from spineseg.data.cases import Case, read_cases
from spineseg.data.exclusions import Exclusions
from spineseg.data.files import read_json
from spineseg.data.sources import Source, reopen
from spineseg.data.splits import (
    Split,
    Splits,
    check_leakage,
    fewer_subjects,
    overfit_split,
    read_split_file,
    read_splits,
)
from spineseg.data.store import Resampling, spacing_key
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

    @property
    def exclusions(self) -> Exclusions:
        """Which cases were left out, by which file and why; tables print its ``note``."""
        return Exclusions.from_json(self.source.get("exclusions"))

    def store(self, spacing_mm: SpacingMm, resampling: Resampling = "linear") -> Path:
        """Folder of the stored volumes of a spacing."""
        return self.root / "store" / spacing_key(spacing_mm, resampling)

    def split(
        self, *, fold: int, split_file: str | None = None, overfit: str | None = None, train_subjects: int | None = None
    ) -> Split:
        """A split of the cases, checked for leakage.

        Args:
            fold: test = fold, validation = fold + 1, training = the rest.
            split_file: a split to use instead; excluded cases leave it, too.
            overfit: a case's id: training and validation on it alone.
            train_subjects: of the training subjects take so many, by the hash rule of the folds; None takes all.
        """
        if overfit is not None:
            split = overfit_split(overfit, self.cases)
        elif split_file is not None:
            split = read_split_file(Path(split_file), self.cases, self.exclusions.cases)
            self._check_labelled(split, split_file)
        else:
            split = self.splits.fold(fold)
            check_leakage(split, self.cases)
        return split if train_subjects is None else fewer_subjects(split, train_subjects, self.cases, self.splits.seed)

    def _check_labelled(self, split: Split, split_file: str) -> None:
        """Refuse scans without a mask, which would be taken for scans without a vertebra."""
        if self.source["labels"] != "levels":
            return  # of pictures without a row of labels, that is so
        named = {*split.train, *split.val, *split.test}
        if bare := sorted(case.id for case in self.cases if case.id in named and case.label is None):
            raise DataError(
                f"{split_file}: no mask: {', '.join(bare)}; take them out of the split, or bring their masks"
            )

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
