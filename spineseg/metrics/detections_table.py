"""The detections table (``detections.parquet``): its columns, writing and reading it."""

import os
from pathlib import Path
from typing import Final, Literal

import pandas as pd

from spineseg.errors import DataError, FormatError
from spineseg.metrics.matching import IOU_THRESHOLDS

DETECTIONS_FORMAT: Final = "detections 1"

DetectionSet = Literal["exclusive", "native"]
Shape = Literal["mask", "box"]
# Rows of reference instances stand in the same table.
REFERENCE: Final = "reference"
CELLS: Final[tuple[tuple[Shape, bool], ...]] = (("mask", False), ("mask", True), ("box", False), ("box", True))


def state_columns(shape: Shape, *, named: bool) -> list[str]:
    """Columns of the states at the ten IoUs.

    >>> state_columns("mask", named=False)[0]
    'mask_agnostic_50'
    """
    naming = "named" if named else "agnostic"
    return [f"{shape}_{naming}_{round(100 * iou)}" for iou in IOU_THRESHOLDS]


STATE_COLUMNS: Final = tuple(column for shape, named in CELLS for column in state_columns(shape, named=named))
COLUMNS: Final = ("set", "source", "case", "subject", "slice", "level", "score", "area_mm2", "counted", "iou")


def write_detections(path: Path, table: pd.DataFrame) -> None:
    """Write the detections of all cases (columns source, case and subject added) as parquet, atomically."""
    text = ("format", "set", "source", "case", "subject")
    narrow = table.assign(format=DETECTIONS_FORMAT)[["format", *COLUMNS, *STATE_COLUMNS]]
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".partial-{os.getpid()}-{path.name}")
    try:
        narrow.astype(dict.fromkeys(text, "category")).to_parquet(unfinished, index=False, compression="zstd")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def read_detections(path: Path) -> pd.DataFrame:
    """Read ``detections.parquet``, from which AP can be computed again (``pooling.ap_from_detections``).

    Raises:
        DataError: no such file.
        FormatError: another format or version.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; `python -m spineseg.evaluate` writes it")
    table = pd.read_parquet(path)
    found = set(table["format"].unique()) if "format" in table else set()
    if found != {DETECTIONS_FORMAT}:
        raise FormatError(
            f"{path}: expected format '{DETECTIONS_FORMAT}', found {sorted(found)}; "
            "`python -m spineseg.evaluate` writes it"
        )
    return table.drop(columns="format")
