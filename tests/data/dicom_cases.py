"""Slices for tests of DICOM, and the one series of a folder."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import EnhancedCTImageStorage

from spineseg.data.dicom import Series, find_series

Write = Callable[..., list[Path]]
SHAPE = (10, 12, 6)


def values(shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    return np.random.default_rng(0).integers(-1000, 1500, shape).astype(np.int16)


def only(where: Path) -> Series:
    found = find_series(where)
    assert not found.broken
    (series,) = found.series
    return series


def enhanced(paths: list[Path], target: Path) -> None:
    """Write slices as frames of one enhanced CT, the last first."""
    slices = [pydicom.dcmread(path) for path in reversed(paths)]
    image = pydicom.dcmread(paths[0])
    image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
    image.NumberOfFrames = len(slices)
    image.PixelData = b"".join(part.PixelData for part in slices)

    def group(**elements: object) -> list[Dataset]:
        one = Dataset()
        for keyword, value in elements.items():
            setattr(one, keyword, value)
        return [one]

    image.SharedFunctionalGroupsSequence = group(
        PixelMeasuresSequence=group(PixelSpacing=image.PixelSpacing, SliceThickness=2),
        PlaneOrientationSequence=group(ImageOrientationPatient=image.ImageOrientationPatient),
    )
    image.PerFrameFunctionalGroupsSequence = [
        group(
            PlanePositionSequence=group(ImagePositionPatient=part.ImagePositionPatient),
            PixelValueTransformationSequence=group(RescaleSlope=part.RescaleSlope, RescaleIntercept=-1024),
        )[0]
        for part in slices
    ]
    for keyword in ("PixelSpacing", "ImageOrientationPatient", "ImagePositionPatient", "RescaleSlope"):
        delattr(image, keyword)
    del image.RescaleIntercept
    image.save_as(target, enforce_file_format=True)
