"""The pixels of a CT slice in HU: compressed or not, rescaled, padding as air."""

from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels.decoders.base import Decoder, get_decoder
from pydicom.pixels.utils import pixel_array
from pydicom.uid import UID, ImplicitVRLittleEndian

from spineseg.data.dicom_files import DAMAGED
from spineseg.data.dicom_headers import Frame
from spineseg.data.dicom_stack import AIR_HU
from spineseg.errors import DataError

# What scanners and exports write outside the measured circle, in HU or before the rescale to it.
PADDING_HU: Final = (-2000, -3024)
# Above this, a "padding value" is one that tissue has too, and is not taken for padding.
_PADDING_BELOW_HU: Final = -900


def stored_pixels(image: Dataset, frame: Frame) -> NDArray[np.integer]:
    """Stored values (rows, columns) of a frame.

    Raises:
        DataError: no gray values, short or damaged pixel data, a compression that no package here reads.
    """
    name = frame.file.name
    if image.get("SamplesPerPixel", 1) != 1 or image.get("PhotometricInterpretation", "MONOCHROME2") != "MONOCHROME2":
        raise DataError(
            f"{name}: {image.get('PhotometricInterpretation')} with {image.get('SamplesPerPixel')} samples a pixel; "
            "expected MONOCHROME2 with one"
        )
    if "PixelData" not in image:
        raise DataError(f"{name}: has no pixel data: the file is cut short or holds a header alone; copy it again")
    syntax = getattr(image.file_meta, "TransferSyntaxUID", None)
    if syntax is None:
        image.file_meta.TransferSyntaxUID = syntax = ImplicitVRLittleEndian
    if syntax.is_compressed:
        decoder = _decoder(syntax, name)
        if not decoder.is_available:
            raise DataError(
                f"{name}: its pixels are compressed ({syntax.name}) and no installed package reads that; "
                f"install one of: {'; '.join(decoder.missing_dependencies)} "
                "(`pip install spineseg[dicom]` brings what CT needs)"
            )
    else:
        expected = _stored_bytes(image)
        if len(image.PixelData) < expected:
            raise DataError(
                f"{name}: pixel data of {len(image.PixelData):,} bytes, expected {expected:,}; it is cut short: "
                "copy it again"
            )
    try:
        return pixel_array(image, index=frame.index)
    except DAMAGED as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{name}: its pixels cannot be read ({first}); copy it again") from error


def _decoder(syntax: UID, name: str) -> Decoder:
    try:
        return get_decoder(syntax)
    except NotImplementedError as error:
        raise DataError(f"{name}: a compression that cannot be read ({syntax.name}); export it uncompressed") from error


def _stored_bytes(image: Dataset) -> int:
    count = int(image.get("NumberOfFrames") or 1)
    return int(image.Rows) * int(image.Columns) * count * int(image.BitsAllocated) // 8


def hounsfield(stored: NDArray[np.integer], frame: Frame) -> NDArray[np.int16]:
    """Stored values to HU by the frame's own rescale; what was not measured becomes air.

    Raises:
        DataError: a rescale of 0 or not finite, or values beyond int16.
    """
    slope = 1.0 if frame.slope is None else frame.slope
    intercept = 0.0 if frame.intercept is None else frame.intercept
    if not (np.isfinite(slope) and np.isfinite(intercept)) or slope == 0:
        raise DataError(
            f"{frame.file.name}: RescaleSlope {slope:g}, RescaleIntercept {intercept:g}; expected finite numbers and "
            "a slope that is not 0"
        )
    hu = stored * slope + intercept
    padded = np.isin(hu, PADDING_HU) | np.isin(stored, PADDING_HU)
    if frame.padding is not None:
        low, high = frame.padding
        padded |= (stored >= low) & (stored <= high) & (hu < _PADDING_BELOW_HU)
    hu = np.where(padded, AIR_HU, hu)
    if hu.min() < -32768 or hu.max() > 32767:
        raise DataError(
            f"{frame.file.name}: values from {hu.min():g} to {hu.max():g} HU; expected -32768 to 32767. Check its "
            "RescaleSlope and RescaleIntercept"
        )
    rounded: NDArray[np.int16] = np.rint(hu).astype(np.int16)
    return rounded
