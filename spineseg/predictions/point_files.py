"""Body centres in VerSe's own file: ``<case>_ctd.json`` (Sekuboyina et al., "VerSe", Medical Image Analysis 2021)."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spineseg.data.files import write_text
from spineseg.errors import DataError
from spineseg.geometry import Grid, index_to_mm, mm_to_index
from spineseg.vertebrae import LEVELS, rank


def point_file(centres_mm: Mapping[int, NDArray[np.float64]], native: Grid) -> list[dict[str, Any]]:
    """VerSe's list: the axes' directions, then voxel positions X, Y, Z along them, labels in VerSe's convention.

    Args:
        centres_mm: (3,) in mm, RAS+, of each canonical level id.
        native: the grid to which indices belong; 0 is the centre of the first voxel.
    """
    points: list[dict[str, Any]] = [{"direction": list(native.orientation)}]
    for level in sorted(centres_mm, key=rank):
        x, y, z = (round(float(value), 1) for value in mm_to_index(native.affine, centres_mm[level]))
        points.append({"label": level, "X": x, "Y": y, "Z": z})
    return points


def write_points(path: Path, centres_mm: Mapping[int, NDArray[np.float64]], native: Grid) -> None:
    """Write the file; see ``point_file``."""
    write_text(path, json.dumps(point_file(centres_mm, native)))


def read_points(path: Path, native: Grid) -> dict[int, NDArray[np.float64]]:
    """Positions in mm, RAS+, of each level of a VerSe file.

    Args:
        path: the file.
        native: the grid of the scan or mask that it belongs to.

    Raises:
        DataError: no such list, another orientation than the grid's, unknown labels.
    """
    try:
        head, *points = json.loads(path.read_text(encoding="utf-8"))
        directions = "".join(head["direction"])
        found = {int(point["label"]): np.array([point["X"], point["Y"], point["Z"]], float) for point in points}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: no VerSe centroid file ({error}); expected a direction, then labelled points") from (
            error
        )
    if directions != native.orientation:
        raise DataError(f"{path}: points along {directions}, but the scan's axes run {native.orientation}")
    if unknown := sorted(set(found) - set(LEVELS)):
        raise DataError(f"{path}: unknown label {unknown[0]}; expected VerSe's 1 to 28")
    return {level: index_to_mm(native.affine, index) for level, index in found.items()}
