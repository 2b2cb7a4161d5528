"""Writers of the real data sets' layouts: file names, number formats and label values as the real files have them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from spineseg.data.files import sha256_of_file
from spineseg.geometry import Volume
from spineseg.phantom import Layout, SimulatedCase
from spineseg.phantom.facts import levels_in
from spineseg.vertebrae import LEVELS, SACRUM, in_convention, level_id
from spineseg.volumes import write_volume

_HU_OFFSET: Final = 1000  # CSI 2014 stores HU + 1000, clipped to twelve bits
_NOTE: Final = "SIMULATED by spineseg"
# Levels that masks leave out, though the convention has values for the neck's.
_LEFT_OUT: Final[dict[Layout, tuple[int, ...]]] = {"csi2014": (*range(1, level_id("T1")), SACRUM), "kaggle": ()}


@dataclass(frozen=True)
class CaseFiles:
    """Where a case lies, relative to the data set's root."""

    id: str
    image: Path
    label: Path

    @property
    def all(self) -> tuple[Path, ...]:
        """Every file of the case: a ``.mhd`` header has its ``.raw`` beside it."""
        files = []
        for path in (self.image, self.label):
            files += [path, path.with_suffix(".raw")] if path.suffix == ".mhd" else [path]
        return tuple(files)


def case_files(layout: Layout, index: int) -> CaseFiles:
    """Names of the case with an index from 0.

    CSI 2014 counts from 1. Kaggle's ids have gaps (0003, 0009, 0019, …: 136 of 0 to 1224 are absent, one in nine).

    >>> case_files("csi2014", 0).label.as_posix()
    'case1_label.mhd'
    >>> [case_files("kaggle", index).id for index in (2, 3, 8)]
    ['case_0002', 'case_0004', 'case_0010']
    """
    if layout == "csi2014":
        name = f"case{index + 1}"
        return CaseFiles(name, Path(f"{name}.mhd"), Path(f"{name}_label.mhd"))
    number, found = -1, -1
    while found < index:
        number += 1
        found += not (number % 100 == 3 or number % 10 == 9)
    name = f"case_{number:04d}"
    root = Path("spine_segmentation_nnunet_v2")
    return CaseFiles(name, root / "volumes" / f"{name}.nii", root / "segmentations" / f"{name}.nii")


def write_case(root: Path, layout: Layout, index: int, case: SimulatedCase) -> dict[str, str]:
    """Write a case in a layout; returns the SHA-256 of every file by its path relative to ``root``.

    Levels that the layout does not label (CSI 2014: all but T1 to L5) become background. The headers say that the files
    are simulated: a MetaImage's comment, a NIfTI's extension.
    """
    files = case_files(layout, index)
    labels = native_labels(layout, case.labels.array)
    if layout == "csi2014":
        image = case.image.array + np.int16(_HU_OFFSET)  # -3024 to 3071 HU: no value leaves int16
        np.clip(image, 0, 4095, out=image)
        volumes = _to_lps(case.image.with_array(image)), _to_lps(case.labels.with_array(labels))
    else:
        volumes = case.image, case.labels.with_array(labels)
    for path, volume in zip((files.image, files.label), volumes, strict=True):
        write_volume(root / path, volume, extension={"note": _NOTE})
    return {path.as_posix(): sha256_of_file(root / path) for path in files.all}


def native_labels(layout: Layout, labels: NDArray[np.uint8]) -> NDArray[np.unsignedinteger]:
    """Canonical ids → the values of the layout's masks: hundreds from 100 = L5 to 1700 = T1, or 1-25.

    A person with a level less leaves its value out (11 thoracic levels: 500 = L1, 700 = T11), so that whoever reads the
    hundreds from 100 = L5 upwards names each level rightly.

    Raises:
        DataError: T13 or L6, for which neither layout has a value; ``simulate_case`` draws another person instead.
    """
    kept = np.array(sorted(levels_in(labels) - {*_LEFT_OUT[layout]}), np.uint8)
    values = in_convention(kept, layout, what="a simulated case")
    lookup = np.zeros(max(LEVELS) + 1, values.dtype)
    lookup[kept] = values
    native = np.empty(labels.shape, values.dtype)
    # A slab at a time: NumPy looks up by 64-bit copies of the labels.
    for slab, theirs in zip(native, labels, strict=True):
        slab[...] = lookup[theirs]
    return native


def _to_lps(volume: Volume) -> Volume:
    """Flip x and y, so that the header's directions are the identity, as a CT scanner writes them."""
    affine = volume.affine.copy()
    for axis in (0, 1):
        affine[:3, 3] += affine[:3, axis] * (volume.shape[axis] - 1)
        affine[:3, axis] *= -1
    return Volume(np.ascontiguousarray(volume.array[::-1, ::-1]), affine)
