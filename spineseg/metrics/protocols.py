"""What an evaluation keeps for the protocols table: a case's values under other tools' rules, on disk and back.

``protocols.csv`` and ``protocol_detections.parquet`` lie in the evaluation folder, so that any number of runs can be
compared, or their folds pooled, without images; ``protocol_table`` makes the table of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from spineseg.data.files import write_text
from spineseg.errors import DataError, FormatError
from spineseg.geometry import Volume, canonical
from spineseg.metrics.localisation import Bodies
from spineseg.metrics.overlap import confusion
from spineseg.metrics.protocol_coco import COLUMNS, coco_detections
from spineseg.metrics.protocol_rules import label_map_rows
from spineseg.predictions.store import CasePrediction
from spineseg.vertebrae import level_id

PROTOCOLS_FORMAT: Final = "protocols 1"
ROWS_FILE: Final = "protocols.csv"
DETECTIONS_FILE: Final = "protocol_detections.parquet"
_WRITTEN_BY: Final = "python -m spineseg.evaluate"
_WHERE: Final = ("source", "case", "subject")
_ROW_COLUMNS: Final = ("format", "run", "source", "split", "case", "subject", "tool", "metric", "level", "value")


@dataclass(frozen=True, eq=False)
class ProtocolCases:
    """Cases under other tools' rules.

    Attributes:
        rows: source, case, subject, tool, metric, level, value of the rules for label maps; none of a one-class model.
        detections: source, case, subject and the columns of ``protocol_coco``.
        named: whether levels were scored as classes.
    """

    rows: pd.DataFrame
    detections: pd.DataFrame
    named: bool


def protocol_case(
    reference: Volume,
    prediction: CasePrediction,
    where: Mapping[str, str],
    *,
    reference_named: bool = True,
    scored: pd.DataFrame | None = None,
) -> ProtocolCases:
    """Score one case under other tools' rules, on its native grid.

    Args:
        reference: label map, canonical ids (or numbers that only tell vertebrae apart).
        prediction: what the model says, on the same grid.
        where: source, case and subject.
        reference_named: whether reference labels are levels.
        scored: rows of ``cases.score_case`` of the whole volume, which know some distances already.
    """
    named = reference_named and prediction.kind == "levels"
    truth, found = _canonical(reference), _canonical(Volume(prediction.labels.array, reference.affine))
    detections = coco_detections(truth, found, prediction.slices, slice_kind=prediction.slice_kind, named=named)
    rows: list[dict[str, Any]] = []
    if named:
        pairs = confusion(truth.array, found.array)
        rows = list(label_map_rows(Bodies.of(truth), Bodies.of(found), pairs, _known_nsd(scored)))
    table = pd.DataFrame(rows, columns=["tool", "metric", "level", "value"])
    return ProtocolCases(table.assign(**where), detections.assign(**where), named)


def pool_cases(parts: list[ProtocolCases]) -> ProtocolCases:
    """All cases of a set; levels are classes only if they are in every one."""
    return ProtocolCases(
        rows=pd.concat([part.rows for part in parts], ignore_index=True),
        detections=pd.concat([part.detections for part in parts], ignore_index=True),
        named=all(part.named for part in parts),
    )


def write_protocol_cases(folder: Path, cases: ProtocolCases, *, run: str, split: str) -> None:
    """Write ``protocols.csv`` and ``protocol_detections.parquet`` into an evaluation folder."""
    rows = cases.rows.assign(format=PROTOCOLS_FORMAT, run=run, split=split)
    write_text(folder / ROWS_FILE, rows[list(_ROW_COLUMNS)].to_csv(index=False))
    table = cases.detections.assign(format=PROTOCOLS_FORMAT, named=cases.named)
    narrow = table[["format", "named", *_WHERE, *COLUMNS]]
    narrow = narrow.astype(dict.fromkeys(("format", "mode", *_WHERE), "category"))
    unfinished = folder / f".partial-{DETECTIONS_FILE}"
    try:
        narrow.to_parquet(unfinished, index=False, compression="zstd")
        unfinished.replace(folder / DETECTIONS_FILE)
    finally:
        unfinished.unlink(missing_ok=True)


def read_protocol_cases(folder: Path) -> ProtocolCases:
    """Read what ``write_protocol_cases`` wrote.

    Raises:
        DataError: not there.
        FormatError: another format or version.
    """
    for name in (ROWS_FILE, DETECTIONS_FILE):
        if not (folder / name).is_file():
            raise DataError(f"{folder / name}: no such file; `{_WRITTEN_BY}` writes it: evaluate the predictions again")
    # A case may be called 01.
    types = dict.fromkeys(_ROW_COLUMNS[:-1], str) | {"value": np.float64}
    rows = pd.read_csv(folder / ROWS_FILE, dtype=types, keep_default_na=False, na_values={"value": [""]})
    detections = pd.read_parquet(folder / DETECTIONS_FILE)
    for name, table in ((ROWS_FILE, rows), (DETECTIONS_FILE, detections)):
        found = set(table["format"].unique()) if "format" in table else set()
        if found - {PROTOCOLS_FORMAT} or (len(table) and not found):
            raise FormatError(
                f"{folder / name}: expected format '{PROTOCOLS_FORMAT}', found {sorted(found)}; "
                f"`{_WRITTEN_BY}` writes it"
            )
    named = bool(detections["named"].all()) and len(detections) > 0
    return ProtocolCases(rows.drop(columns="format"), detections.drop(columns=["format", "named"]), named)


def _canonical(volume: Volume) -> Volume:
    turned = canonical(volume)
    return Volume(np.ascontiguousarray(turned.array), turned.affine)


def _known_nsd(scored: pd.DataFrame | None) -> dict[int, float]:
    """NSD at 3 mm of the levels that the protocol itself has measured between whole masks."""
    if scored is None:
        return {}
    rows = scored[(scored["metric"] == "nsd") & (scored["parameter"] == "tau=3") & (scored["status"] == "ok")]
    return {level_id(name): float(value) for name, value in zip(rows["level"], rows["value"], strict=True)}
