"""A case as several models see it: image, reference and predictions on one grid."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from spineseg.errors import DataError, SpinesegError
from spineseg.geometry import Volume, resample_image, resample_labels, resample_labels_to
from spineseg.reporting.case_data import read_prediction_of, read_truth
from spineseg.reporting.standing import overfit_of
from spineseg.vertebrae import LEVELS, ORDER, rank

if TYPE_CHECKING:
    from spineseg.reporting.runs import ScoredRun

# Headers in float32 and rounded positions leave less than this between grids that are meant to be one.
_GRID_TOLERANCE_MM: Final = 0.1


class LabelMap(NamedTuple):
    """A label map, the run whose it is (None: the reference), and whether its values are levels."""

    run: str | None
    volume: Volume
    named: bool


@dataclass(frozen=True, eq=False)
class CaseView:
    """One case side by side; all volumes are canonical RAS+ and lie on one grid.

    Attributes:
        case: id.
        subject: the person.
        source: name of the data set.
        image: HU (X, Y, Z); None where it was not found.
        reference: canonical level ids; None where it was not found.
        predictions: label map of each run by the run's name: level ids, or vertebrae numbered from 1.
        named: of each run, whether its values are levels.
        simulated: whether `simulate` made the case.
        reference_named: whether the reference's values are levels.
        notes: what is not shown and why.
        overfit: whether a run was trained on its validation case alone.
    """

    case: str
    subject: str
    source: str
    image: Volume | None
    reference: Volume | None
    predictions: Mapping[str, Volume]
    named: Mapping[str, bool]
    simulated: bool
    reference_named: bool = True
    notes: tuple[str, ...] = ()
    overfit: bool = False

    @property
    def volume(self) -> Volume:
        """Any of the volumes, for the grid that they share."""
        return next(volume for volume in (self.image, self.reference, *self.predictions.values()) if volume is not None)

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance of neighbouring voxels along X, Y, Z in mm."""
        return self.volume.spacing_mm

    @property
    def maps(self) -> tuple[LabelMap, ...]:
        """All label maps, the reference first."""
        first = () if self.reference is None else (LabelMap(None, self.reference, self.reference_named),)
        return (*first, *(LabelMap(run, volume, self.named[run]) for run, volume in self.predictions.items()))


def case_views(runs: Sequence["ScoredRun"], case: str, source: str | None = None) -> CaseView:
    """Gather a case: image and reference from the first run whose data is still there, predictions from all.

    Args:
        runs: in the order in which they are shown.
        case: id.
        source: name of the data set, where two have a case of that id.

    Raises:
        DataError: no run has a readable prediction of the case, and no reference is found either.
    """
    notes: list[str] = []
    image, reference, subject, reference_named = read_truth(runs, case, source, notes)
    predictions: dict[str, Volume] = {}
    named: dict[str, bool] = {}
    moved: list[str] = []
    grid = reference or image
    for run in runs:
        found = read_prediction_of(run, case, notes)
        if found is None:
            continue
        labels, is_named = found
        if grid is not None and labels.grid.distance_mm(grid.grid) > _GRID_TOLERANCE_MM:
            try:
                labels = resample_labels_to(labels, grid.grid)
                moved.append(run.name)
            except SpinesegError:
                notes.append(f"{run.name}: predicted on a grid that is turned against the reference's; not shown")
                continue
        grid = grid or labels
        if run.name in predictions:
            raise DataError(f"{run.name}: two runs of that name; rename one of them")
        predictions[run.name], named[run.name] = labels, is_named
    if grid is None:
        listed = ", ".join(run.name for run in runs)
        raise DataError(f"case '{case}': neither a prediction nor a reference found in {listed}; keep the predictions")
    if moved:
        who = "predictions" if len(moved) == len(predictions) > 1 else ", ".join(moved)
        notes.append(f"{who}: made on another grid, shown on the nearest voxels of this one")
    return CaseView(
        case=case,
        subject=subject or case,
        source=source or "",
        image=image,
        reference=reference,
        predictions=predictions,
        named=named,
        simulated=any(run.simulated for run in runs),
        reference_named=reference_named,
        notes=tuple(notes),
        overfit=overfit_of(runs) is not None,
    )


def shrunk(view: CaseView, *, longest: int = 256, voxels: float = 8e6, margin_mm: float = 20) -> CaseView:
    """Cut a view to what is labelled plus a margin, and make it coarse enough to travel in a page.

    Images are averaged over the new voxels, labels take the nearest; nothing is made finer than it was.

    Args:
        view: a case.
        longest: of voxels along any axis, so that no slice has a longer side.
        voxels: of the whole volume.
        margin_mm: around all labels of all maps.
    """
    first, stop = _labelled_box(view, margin_mm)
    box = tuple(slice(a, b) for a, b in zip(first, stop, strict=True))
    shift = np.eye(4)
    shift[:3, 3] = first
    affine = view.volume.affine @ shift
    old = np.array(view.spacing_mm)
    sizes = stop - first
    spacing = np.maximum(old, old * sizes / longest)
    for _ in range(8):  # axes that are coarse already give nothing away, so one step may not be enough
        excess = float(np.prod(np.maximum(1, np.round(sizes * old / spacing)))) / voxels
        if excess <= 1:
            break
        spacing = np.maximum(spacing, spacing.min() * max(excess ** (1 / 3), 1.02))
    x, y, z = (float(value) for value in spacing)

    def cut(volume: Volume) -> Volume:
        return Volume(np.ascontiguousarray(volume.array[box]), affine)

    def small(volume: Volume) -> Volume:
        return resample_labels(cut(volume), (x, y, z))

    return replace(
        view,
        image=None if view.image is None else resample_image(cut(view.image), (x, y, z)),
        reference=None if view.reference is None else small(view.reference),
        predictions={name: small(volume) for name, volume in view.predictions.items()},
    )


def color_of(value: int, *, named: bool) -> tuple[int, int, int]:
    """Colour (sRGB) of a label; numbered vertebrae take the levels' colours in turn, as in overlays."""
    if named and value in LEVELS:
        return LEVELS[value].color
    return LEVELS[ORDER[(value - 1) % len(ORDER)]].color


def present_levels(view: CaseView) -> list[int]:
    """Level ids that occur in any named map, cranial to caudal."""
    maps = [volume for _, volume, named in view.maps if named]
    found = {int(value) for volume in maps for value in np.flatnonzero(np.bincount(volume.array.ravel()))}
    return sorted(found & set(LEVELS), key=rank)


def _labelled_box(view: CaseView, margin_mm: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    shape = np.array(view.volume.shape, np.int64)
    lows, highs = [], []
    for _, volume, _ in view.maps:
        marked = volume.array > 0
        if not marked.any():
            continue
        spans = [np.flatnonzero(marked.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
        lows.append([span[0] for span in spans])
        highs.append([span[-1] + 1 for span in spans])
    if not lows:
        return np.zeros(3, np.int64), shape
    margin = np.ceil(margin_mm / np.array(view.spacing_mm)).astype(np.int64)
    low = np.maximum(0, np.min(lows, axis=0) - margin)
    return low.astype(np.int64), np.minimum(shape, np.max(highs, axis=0) + margin).astype(np.int64)
