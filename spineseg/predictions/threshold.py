"""The ``threshold`` baseline: what a spine model has to beat, the largest bright component, closed (no training)."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import cc3d
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, gaussian_filter

from spineseg.costs import CaseMeter
from spineseg.errors import DataError
from spineseg.geometry import Volume
from spineseg.predictions.store import PredictionWriter

if TYPE_CHECKING:
    from spineseg.data.scans import Scan

# The value of predict's `run` that asks for this baseline.
NAME: Final = "threshold"
_SLICES = 48  # closed at a time; bounds the memory of the distances


@dataclass(frozen=True)
class ThresholdSettings:
    """Settings of the baseline, round values chosen before any score was seen.

    Attributes:
        hounsfield: what is brighter is bone: about midway between soft tissue (50) and the median vertebra voxel (275).
        smoothing_mm: standard deviation of the Gaussian before the threshold; about a scanner's point spread.
        closing_mm: radius of the ball that closes the component: fills trabecular gaps, leaves the canal (7 mm) open.
    """

    hounsfield: float = 150.0
    smoothing_mm: float = 1.0
    closing_mm: float = 3.0


DEFAULTS: Final = ThresholdSettings()


def threshold_spine(image: Volume, settings: ThresholdSettings = DEFAULTS) -> Volume:
    """Mask of the largest 6-connected component above a HU threshold, closed; ribs and pelvis come with it.

    Args:
        image: (X, Y, Z) HU, any orientation.
        settings: threshold, smoothing and closing.

    Returns:
        uint8 0 or 1 on the image's grid, empty where nothing is bright.
    """
    spacing = image.spacing_mm
    # No further than the filter reaches: SciPy's default of 4 sd costs a third more and moves no voxel that matters.
    sigma = [settings.smoothing_mm / step for step in spacing]
    smooth = gaussian_filter(image.array.astype(np.float32), sigma, mode="nearest", truncate=3.0)
    component = _largest(smooth > settings.hounsfield)
    return image.with_array(_closed(component, settings.closing_mm, spacing).astype(np.uint8))


def _largest(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    labels = cc3d.connected_components(mask.astype(np.uint8), connectivity=6)
    sizes = np.bincount(labels.ravel(), minlength=1)
    sizes[0] = 0
    largest: NDArray[np.bool_] = (labels == int(sizes.argmax())) & mask
    return largest


def _closed(mask: NDArray[np.bool_], radius_mm: float, spacing: Sequence[float]) -> NDArray[np.bool_]:
    """Close with a ball in mm: dilate, then erode, by distances; what lies beyond the volume is no part of either."""
    places = np.flatnonzero(mask.any(axis=(0, 1)))
    if radius_mm <= 0 or not len(places):
        return mask
    reach = [int(np.ceil(radius_mm / step)) + 1 for step in spacing]
    margin = 2 * reach[2]
    closed = mask.copy()
    for start in range(int(places[0]), int(places[-1]) + 1, _SLICES):
        stop = min(start + _SLICES, int(places[-1]) + 1)
        low, high = max(0, start - margin), min(mask.shape[2], stop + margin)
        # Room on all sides, so that the volume's border erodes nothing that was dilated across it.
        part = np.pad(mask[:, :, low:high], [(n, n) for n in reach])
        if not part.any():
            continue
        grown = np.asarray(distance_transform_edt(~part, sampling=spacing)) <= radius_mm
        shrunk = np.asarray(distance_transform_edt(np.pad(grown, 1), sampling=spacing))[1:-1, 1:-1, 1:-1] > radius_mm
        inner = shrunk[reach[0] : -reach[0], reach[1] : -reach[1], reach[2] : -reach[2]]
        closed[:, :, start:stop] |= inner[:, :, start - low : stop - low]
    return closed


def predict_threshold(
    scans: Sequence["Scan"],
    output: Path,
    settings: ThresholdSettings = DEFAULTS,
    *,
    convention: str = "verse",
    simulated: bool = False,
) -> dict[str, str]:
    """Write a predictions folder of the baseline: one unnamed object a scan.

    Args:
        scans: what to predict on.
        output: the predictions folder.
        settings: of the baseline.
        convention: recorded in the folder; there are no level values to write.
        simulated: whether `simulate` made the scans.

    Returns:
        The reason for each case that failed; the others are written.
    """
    from rich.progress import track

    from spineseg.data.scans import failure_reason

    failures: dict[str, str] = {}
    provenance = {"run": NAME, "simulated": simulated, "settings": asdict(settings)}
    with PredictionWriter(output, provenance=provenance, slices="label_map", label_convention=convention) as writer:
        for scan in track(scans, description=NAME):
            meter = CaseMeter()
            try:
                mask = threshold_spine(scan.read(), settings)
            except (DataError, MemoryError) as error:
                failures[scan.case] = failure_reason(scan.case, error)
                writer.fail(scan.case, failures[scan.case])
                continue
            writer.write(scan.case, mask, "instances", None, **meter.read())
    return failures
