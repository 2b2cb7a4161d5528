"""A label map as DICOM segmentation: one label-map object that refers to the slices it was made from.

DICOM PS3.3 A.51, segmentation type LABELMAP; levels carry the SNOMED codes of CID 7151 and its relatives. The object
names the patient, as its series does: the standard files it with the same patient and study.
"""

import contextlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import RLELossless

from spineseg import __version__
from spineseg.data.dicom_files import DAMAGED, quiet
from spineseg.data.dicom_headers import Frame
from spineseg.errors import DataError
from spineseg.geometry import Volume
from spineseg.predictions.extras import Origin
from spineseg.vertebrae import COCCYX, L6, LEVELS, SACRUM, T13, level_name

if TYPE_CHECKING:
    from spineseg.data.dicom import Series

_SERIES_NUMBER: Final = 9000  # beyond those of a scanner
_BONE: Final = codes.SCT.Bone
_VERTEBRA: Final = codes.SCT.Vertebra


def level_code(level: int) -> Code:
    """SNOMED code of a canonical level; T13 and L6, for which there is none, are vertebrae.

    >>> level_code(20).value, level_code(20).meaning
    ('66794005', 'L1 vertebra')
    """
    if level in (SACRUM, COCCYX):
        keyword = "Sacrum" if level == SACRUM else "Coccyx"
    else:
        keyword = "Vertebra" if level in (T13, L6) else f"{level_name(level)}Vertebra"
    found: Code = getattr(codes.SCT, keyword)
    return found


def dicom_seg(labels: Volume, series: "Series", *, named: bool, origin: Origin) -> hd.seg.Segmentation | None:
    """Make the segmentation object; None where the map is empty, which no segmentation may be.

    Args:
        labels: (X, Y, Z) on the grid that ``Series.read`` gives: canonical level ids, or numbers.
        series: the slices.
        named: whether labels are levels.
        origin: what made it.

    Raises:
        DataError: labels on another grid, headers that lack what a segmentation must repeat, or a multi-frame file of
            which the series has not every frame.
    """
    found = series.stack()
    if labels.shape != found.grid.shape or labels.grid.distance_mm(found.grid) > 1e-2:
        raise DataError(
            f"{series.case}: labels of shape {labels.shape} do not lie on the grid of the DICOM series, "
            f"{found.grid.shape}; predict the series itself again"
        )
    present = [int(value) for value in np.unique(labels.array) if value]
    if not present:
        return None
    planes: NDArray[Any] = found.to_slices(labels.array).astype(np.uint8 if max(present) < 256 else np.uint16)
    # The tilt may move a crumb of a level off the last pixel row.
    present = [value for value in present if (planes == value).any()]
    headers = series.headers()
    planes = _as_in_file(planes, found.frames, headers)
    try:
        with quiet(), _silent():
            return hd.seg.Segmentation(
                source_images=[_repeatable(header, found.grid.spacing_mm[2]) for header in headers],
                pixel_array=planes,
                segmentation_type=hd.seg.SegmentationTypeValues.LABELMAP,
                segment_descriptions=_segments(present, named=named, origin=origin),
                series_instance_uid=hd.UID(),
                series_number=_SERIES_NUMBER,
                sop_instance_uid=hd.UID(),
                instance_number=1,
                manufacturer="spineseg",
                manufacturer_model_name="spineseg",
                software_versions=__version__,
                device_serial_number="none",
                content_label="VERTEBRAE" if named else "SPINE",
                content_description=_description(named=named, origin=origin),
                series_description="Spine segmentation" + " (SIMULATED training data)" * origin.simulated,
                transfer_syntax_uid=RLELossless,
            )
    except DAMAGED as error:
        raise DataError(
            f"{series.case}: no DICOM segmentation can be made of this series ({str(error).splitlines()[0]}); its "
            "headers lack what the standard asks for. Leave dicom_seg out of outputs, or export the series again"
        ) from error


def write_dicom_seg(path: Path, labels: Volume, series: "Series", *, named: bool, origin: Origin) -> bool:
    """Write the segmentation object atomically; see ``dicom_seg``. An empty map leaves no file and gives False."""
    made = dicom_seg(labels, series, named=named, origin=origin)
    if made is None:
        path.unlink(missing_ok=True)
        return False
    partial = path.with_name(f".partial-{path.name}")
    try:
        made.save_as(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return True


def _as_in_file(planes: NDArray[Any], frames: Sequence[Frame], headers: Sequence[Dataset]) -> NDArray[Any]:
    """Planes (N, rows, columns) as highdicom pairs them: with slice after slice, or with the frames of the one file.

    Raises:
        DataError: the file holds other frames than the series.
    """
    if len(headers) != 1:
        return planes
    indices = [frame.index for frame in frames]
    count = int(headers[0].get("NumberOfFrames") or 1)
    if sorted(indices) != list(range(count)):
        raise DataError(
            f"{frames[0].file.name}: {len(set(indices))} of its {count} frames are in the series; expected all of "
            "them, for a DICOM segmentation refers to the file's frames. Export the series again"
        )
    return planes[np.argsort(indices)]


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Without highdicom's warnings and log, which repeat the patient's name and UIDs."""
    log = logging.getLogger("highdicom")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        log.setLevel(level)


def _repeatable(header: Dataset, apart_mm: float) -> Dataset:
    """A header with what the standard lets be empty, and some devices leave out, as highdicom reads it."""
    if not header.get("SpecificCharacterSet"):
        header.SpecificCharacterSet = "ISO_IR 100"
    for keyword in ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyID", "AccessionNumber"):
        if keyword not in header:
            setattr(header, keyword, "")
    for keyword in ("StudyDate", "StudyTime"):
        if keyword not in header:
            setattr(header, keyword, None)
    if not header.get("SliceThickness"):
        header.SliceThickness = round(apart_mm, 6)
    return header


def _segments(present: Sequence[int], *, named: bool, origin: Origin) -> list[hd.seg.SegmentDescription]:
    family = codes.cid7162.ArtificialIntelligence if origin.learned else codes.cid7162.MorphologicalOperations
    algorithm = hd.AlgorithmIdentificationSequence(name=origin.name[:64], family=family, version=__version__)
    found = []
    for value in present:
        if named:
            label, code, color = level_name(value), level_code(value), LEVELS[value].color
        elif origin.learned:
            label, code, color = f"Vertebra {value}", _VERTEBRA, None
        else:
            label, code, color = f"Bone {value}", _BONE, None
        found.append(
            hd.seg.SegmentDescription(
                segment_number=value,
                segment_label=label,
                segmented_property_category=codes.cid7150.AnatomicalStructure,
                segmented_property_type=code,
                algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
                algorithm_identification=algorithm,
                tracking_uid=hd.UID(),
                tracking_id=label,
                display_color=None if color is None else hd.color.CIELabColor.from_rgb(*color),
            )
        )
    return found


def _description(*, named: bool, origin: Origin) -> str:
    what = "Vertebral levels" if named else "Vertebrae, not named" if origin.learned else "Bone by a threshold"
    return f"{what}{', model of SIMULATED scans' * origin.simulated}"
