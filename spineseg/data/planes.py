"""Slices kept in memory as long as all of a data set's fit, so that a store on disk is unpacked once in a process."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from spineseg.data.store import StoredCase

# Of each loader process: some ten scans at 1 mm.
LIMIT_BYTES = 256 * 2**20
BYTES_A_PIXEL = 3  # int16 HU and uint8 labels


class Labels(NamedTuple):
    """Level ids of one slice (Y, Z), and those that there are by rising id."""

    map: NDArray[np.uint8]
    present: NDArray[np.uint8]


@dataclass
class Planes:
    """Sagittal slices of some cases, HU and labels apart, as the store has them.

    What is kept changes nothing but the time. Slices are kept for good where all fit, else only the last few.

    Args:
        cases: by id.
        used: indices along X that will be asked for, by case: whether all fit is known from the start.
        few: slices to keep where not all fit.
        limit_bytes: of what is kept where all fit.
    """

    cases: Mapping[str, StoredCase]
    used: Mapping[str, int]
    few: int
    limit_bytes: int = LIMIT_BYTES
    _images: dict[tuple[str, int], NDArray[np.int16]] = field(default_factory=dict, init=False, repr=False)
    _labels: dict[tuple[str, int], Labels] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        """Add up what all slices take."""
        sizes = {case: self.cases[case].shape for case in self.used}
        total = sum(min(count, sizes[case][0]) * sizes[case][1] * sizes[case][2] for case, count in self.used.items())
        self.all_fit = total * BYTES_A_PIXEL <= self.limit_bytes

    def __getstate__(self) -> dict[str, Any]:
        """Loader processes begin with nothing kept."""
        return {**self.__dict__, "_images": {}, "_labels": {}}

    def image(self, case: str, low: int, high: int) -> Sequence[NDArray[np.int16]]:
        """HU (Y, Z) of the slices ``low`` to ``high`` (excluded)."""
        missing = [x for x in range(low, high) if (case, x) not in self._images]
        if missing:
            first = missing[0]
            for x, plane in enumerate(self.cases[case].read_image(first, missing[-1] + 1), start=first):
                self._images.setdefault((case, x), plane.copy())  # a view would keep all that was read
        planes = [self._images[case, x] for x in range(low, high)]
        self._trim(self._images, high - low)
        return planes

    def label(self, case: str, x: int) -> Labels:
        """Level ids of a slice."""
        found = self._labels.get((case, x))
        if found is None:
            read = self.cases[case].read_label(x)
            present = np.flatnonzero(np.bincount(read.ravel(), minlength=256)[1:]).astype(np.uint8) + 1
            found = self._labels[case, x] = Labels(read, present)
            self._trim(self._labels, 1)
        return found

    def _trim(self, kept: dict[tuple[str, int], Any], planes: int) -> None:
        while not self.all_fit and len(kept) > self.few * planes:
            del kept[next(iter(kept))]
