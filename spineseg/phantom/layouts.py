"""Writers of the real data sets' layouts: file names, number formats and label values as the real files have them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spineseg.data.files import sha256_of_file
from spineseg.errors import DataError
from spineseg.geometry import Volume
from spineseg.phantom import Layout, SimulatedCase
from spineseg.vertebrae import CONVENTIONS, L6, T13, level_name
from spineseg.volumes import write_volume

_HU_OFFSET = 1000  # CSI 2014 stores HU + 1000, clipped to twelve bits


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

    CSI 2014 counts from 1. Kaggle's ids have gaps (0003, 0009, 0019, …: about one in nine is absent).

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
        found += not (number == 3 or number % 10 == 9)
    name = f"case_{number:04d}"
    root = Path("spine_segmentation_nnunet_v2")
    return CaseFiles(name, root / "volumes" / f"{name}.nii", root / "segmentations" / f"{name}.nii")


def write_case(root: Path, layout: Layout, index: int, case: SimulatedCase) -> dict[str, str]:
    """Write a case in a layout; returns the SHA-256 of every file by its path relative to ``root``.

    Levels that the layout does not label (CSI 2014: all but T1 to L5) become background.
    """
    files = case_files(layout, index)
    labels = native_labels(layout, case.labels.array)
    if layout == "csi2014":
        image = np.clip(case.image.array.astype(np.int32) + _HU_OFFSET, 0, 4095).astype(np.int16)
        write_volume(root / files.image, _to_lps(Volume(image, case.image.affine)))
        write_volume(root / files.label, _to_lps(Volume(labels, case.labels.affine)))
    else:
        write_volume(root / files.image, case.image)
        write_volume(root / files.label, Volume(labels, case.labels.affine))
    return {path.as_posix(): sha256_of_file(root / path) for path in files.all}


def native_labels(layout: Layout, labels: NDArray[np.uint8]) -> NDArray[np.uint16] | NDArray[np.uint8]:
    """Canonical ids → the values of the layout's masks: hundreds from 100 = L5 to 1700 = T1, or 1-25.

    A person with a level less leaves its value out (11 thoracic levels: 500 = L1, 700 = T11), so that whoever reads the
    hundreds from 100 = L5 upwards names each level rightly.

    Raises:
        DataError: T13 or L6, for which neither layout has a value; ``simulate_case`` draws another person instead.
    """
    found = np.bincount(labels.ravel(), minlength=256)
    nameless = [level_name(level) for level in (T13, L6) if found[level]]
    if nameless:
        raise DataError(f"layout {layout} has no value for {', '.join(nameless)}; expected levels C1 to L5 and S1 only")
    lookup = np.zeros(256, dtype=np.uint16)
    for value, level in CONVENTIONS[layout].table.items():
        lookup[level] = value
    if layout == "csi2014":
        lookup[lookup > 1700] = 0
        return lookup[labels]
    return lookup.astype(np.uint8)[labels]


def _to_lps(volume: Volume) -> Volume:
    """Flip x and y, so that the header's directions are the identity, as a CT scanner writes them."""
    affine = volume.affine.copy()
    for axis in (0, 1):
        affine[:3, 3] += affine[:3, axis] * (volume.shape[axis] - 1)
        affine[:3, axis] *= -1
    return Volume(np.ascontiguousarray(volume.array[::-1, ::-1]), affine)
