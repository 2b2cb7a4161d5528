"""Identification against a data set's own centroids (PROTOCOL 1.6), where it comes with a point file."""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform
from numpy.typing import NDArray

from spineseg.geometry import Grid
from spineseg.metrics.case_rows import CaseMaps, Row, Status, row
from spineseg.metrics.identification import identified
from spineseg.predictions.point_files import read_points

Points = Mapping[int, NDArray[np.float64]]


def reference_points_mm(path: Path, native: Grid) -> dict[int, NDArray[np.float64]]:
    """Centroids (3,) in mm, RAS+, of each level of a VerSe file.

    The file counts voxels along axes of its own, which need not be those of the mask as it is stored.

    Args:
        path: the file.
        native: grid of the label map.

    Raises:
        DataError: no such list, or unknown labels.
    """
    try:
        turn = ornt_transform(
            io_orientation(native.affine), axcodes2ornt(json.loads(path.read_text(encoding="utf-8"))[0]["direction"])
        )
    except (OSError, ValueError, LookupError, TypeError):
        return read_points(path, native)  # which says what is wrong with the file
    shape = [0, 0, 0]
    for axis, (target, _) in enumerate(turn):
        shape[int(target)] = native.shape[axis]
    turned = Grid((shape[0], shape[1], shape[2]), native.affine @ inv_ornt_aff(turn, native.shape))
    return read_points(path, turned)


def point_rows(maps: CaseMaps, points_mm: Points | None) -> Iterator[Row]:
    """Rows of ``id_points``: identification as in PROTOCOL 1.2 with the set's own points in place of the reference's.

    A level counts that the case counts and that has a point; nearest is asked among all points.

    Args:
        maps: the case.
        points_mm: (3,) of each level; None = the set has none, and there are no rows.
    """
    if points_mm is None or not maps.named:
        return
    levels = [level for level in maps.edge.levels if level in points_mm]
    predicted = {label: maps.prediction.centre_mm(label, level=label) for label in maps.located}
    found = identified(points_mm, predicted, levels)
    for level in levels:
        status: Status = "ok" if level in predicted else "missed"
        apart = float(np.linalg.norm(points_mm[level] - predicted[level])) if status == "ok" else math.nan
        yield row(level, "identified_points", found[level], status)
        yield row(level, "point_error_mm", apart, status)
    right = sum(found.values())
    yield row("", "id_points", right / len(levels) if levels else math.nan, "ok" if levels else "empty")
    yield row("", "identified_point_levels", right, "ok" if levels else "empty")
    yield row("", "point_levels", len(levels), "ok" if levels else "empty")
