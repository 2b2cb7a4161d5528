"""Where a report finds the volumes of a case: predictions beside their scores, the rest in the prepared data."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from spineseg.errors import DataError, SpinesegError
from spineseg.geometry import Volume, canonical
from spineseg.metrics.references import find_references
from spineseg.reporting.places import places_of, without_places

if TYPE_CHECKING:
    from spineseg.data.prepared import Prepared
    from spineseg.reporting.runs import ScoredRun


def read_prediction_of(run: "ScoredRun", case: str, notes: list[str]) -> tuple[Volume, bool] | None:
    """Read a run's label map of a case, canonical, and whether it is named; None and a note where it cannot be read."""
    from spineseg.predictions.store import open_predictions

    if run.predictions is None:
        notes.append(f"{run.name}: its predictions are not kept beside its scores")
        return None
    try:
        rule = str(run.summary.get("prediction_convention") or "verse")
        found = open_predictions(run.predictions).read(case, rule, run.summary.get("prediction_labels"))
    except SpinesegError as error:
        notes.append(f"{run.name}: {without_places(str(error), places_of([run]))}")
        return None
    return canonical(found.labels), found.kind == "levels"


def read_truth(
    runs: Sequence["ScoredRun"], case: str, source: str | None, notes: list[str]
) -> tuple[Volume | None, Volume | None, str | None, bool]:
    """Find a case's image, reference, subject and whether the reference is named.

    From the first run whose prepared data is still there and the same: the scan's own file, else the prepared store.

    Args:
        runs: that scored the case.
        case: id.
        source: name of the data set; None = any.
        notes: gets what was not found and why.
    """
    reasons: list[str] = []
    for run in runs:
        try:
            prepared = _prepared(run)
            if prepared is None:
                continue
            entry = prepared.case(case)
            if source and entry.source != source:
                continue
            try:
                image, reference = _native(prepared, case)
            except SpinesegError:
                image, reference = _stored(prepared, case)
                notes.append("the scan's own file is gone: shown from the prepared store, at its spacing")
            return image, reference, entry.subject, prepared.open_source().labels == "levels"
        except SpinesegError as error:
            reasons.append(without_places(str(error), places_of([run])))
    reason = f" ({reasons[0]})" if reasons else ""
    notes.append(f"scan and reference were not found, label maps only{reason}")
    return None, None, None, True


def _native(prepared: "Prepared", case: str) -> tuple[Volume, Volume | None]:
    entry = prepared.case(case)
    image = canonical(prepared.open_source().read_image(entry))
    matching = [each for each in find_references(prepared.root) if each.case == case]
    return image, canonical(matching[0].load()) if matching else None


def _stored(prepared: "Prepared", case: str) -> tuple[Volume, Volume | None]:
    """From the finest store that holds the case whole."""
    from spineseg.data.store import StoredCase, stored_key

    folders = sorted((prepared.root / "store").glob("*"))
    stored = [StoredCase(folder / case) for folder in folders if stored_key(folder / case) is not None]
    if not stored:
        raise DataError(f"{prepared.root.name}: no stored volume of '{case}'; prepare the data again")
    finest = min(stored, key=lambda each: float(np.prod(each.spacing_mm)))
    whole = (slice(None), slice(None), slice(None))
    image = Volume(finest.read_image_box(whole), finest.affine)
    return image, image.with_array(finest.read_label_box(whole)) if finest.has_label else None


def _prepared(run: "ScoredRun") -> "Prepared | None":
    """The data that a run was scored on; None for other tools' folders, which do not know it.

    Raises:
        DataError: it is not there any more, or is other data now.
    """
    from spineseg.data.files import sha256_of_text
    from spineseg.data.prepared import read_prepared

    place = run.config.get("data", {}).get("prepared_root")
    if place is None or not run.provenance.get("data"):
        return None
    root = Path(str(place)) / str(run.provenance["data"])
    prepared = read_prepared(root)
    known = run.provenance.get("data_hash")
    if known is not None and known != sha256_of_text((root / "cases.csv").read_text(encoding="utf-8")):
        raise DataError(f"{root.name}: the prepared data has changed since the run; prepare it again as it was")
    return prepared
