"""Patches and whole volumes for 3D networks: read from the store, normalised, with class indices as labels.

Class 0 is background, class i + 1 the i-th level of the source's list; other levels of a mask become background.
"""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple, Protocol, TypedDict, cast, runtime_checkable

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from spineseg.data.normalization import Normalization
from spineseg.data.sampling import permutation
from spineseg.data.store import Box, StoredCase
from spineseg.errors import ConfigError

Size = tuple[int, int, int]
Spacing = tuple[float, float, float]
CUBES: Final[Spacing] = (1.0, 1.0, 1.0)

# Voxels of a level that patches are centred on, and levels whose voxels a process remembers: 24 MB at most.
POSITIONS: Final = 1000
REMEMBERED: Final = 4096


class PatchRef(NamedTuple):
    """Where a patch lies: the case's id and its first voxel in the store's grid, which may be negative."""

    case: str
    corner: Size


class PatchSample(TypedDict):
    """One patch."""

    image: Tensor  # (X, Y, Z) float32, normalised
    labels: Tensor  # (X, Y, Z) uint8 class indices
    ref: PatchRef


class PatchBatch(TypedDict):
    """A batch of patches of one size."""

    images: Tensor  # (B, 1, X, Y, Z) float32, normalised
    labels: Tensor  # (B, 1, X, Y, Z) uint8 class indices
    refs: list[PatchRef]


class VolumeBatch(TypedDict):
    """A whole prepared case, for validation; cases differ in size, so a batch is one."""

    case: str
    image: Tensor  # (X, Y, Z) int16 HU, the store's grid
    labels: Tensor  # (X, Y, Z) uint8 class indices
    spacing_mm: tuple[float, float, float]


class PatchAugmentation(Protocol):
    """How training patches vary."""

    def read_size(self, size: Size) -> Size:
        """Voxels to read along X, Y, Z so that a patch of ``size`` is full however it is turned."""
        ...

    def __call__(
        self,
        image: NDArray[np.float32],
        labels: NDArray[np.uint8],
        size: Size,
        rng: np.random.Generator,
        spacing_mm: Spacing = CUBES,
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """Vary a patch.

        Args:
            image: normalised, of ``read_size(size)``.
            labels: class indices of the same voxels.
            size: of what is given back, about the same centre.
            rng: all that may be drawn from.
            spacing_mm: of the voxels.
        """
        ...


@runtime_checkable
class SparingAugmentation(Protocol):
    """A patch augmentation that knows beforehand what a single draw needs: most turn nothing."""

    def drawn_size(self, size: Size, rng: np.random.Generator, spacing_mm: Spacing = CUBES) -> Size:
        """Voxels to read for the draw of a generator in this state, in place of ``read_size``."""
        ...


class PatchDataset(Dataset[PatchSample]):
    """Training patches; item ``draw`` is a pure function of (seed, draw).

    Draws count on through the epochs, and cases come in a fresh permutation each time all have been drawn from, as
    slices do in ``SliceDataset``. A share of the draws is centred on a voxel of a level: the level is chosen first, all
    of the case alike, so that small ones are seen as often as large ones; the others lie anywhere. nnU-Net fixes the
    places of such patches in a batch; here each draw decides for itself. A patch is moved to lie within the scan as far
    as it fits; what a turned one shows beyond it is air.

    Args:
        cases: the opened store by case id.
        levels: canonical ids of the classes from 1 on.
        size: (X, Y, Z) of a patch in voxels.
        normalization: from HU to what the network sees.
        augmentation: null leaves patches as they are.
        foreground: share of the draws that are centred on a level.
        length: draws an epoch; null takes every case once.
        seed: the run's seed.
    """

    def __init__(
        self,
        cases: Mapping[str, StoredCase],
        levels: Sequence[int],
        *,
        size: Size,
        normalization: Normalization,
        augmentation: PatchAugmentation | None = None,
        foreground: float = 1 / 3,
        length: int | None = None,
        seed: int = 0,
    ) -> None:
        """Check that there is something to draw."""
        if not cases:
            raise ConfigError("no case to take patches from: the split is empty, or none of its cases has a mask")
        self.cases, self.ids, self.levels = cases, tuple(cases), tuple(levels)
        self.size, self.normalization, self.augmentation = size, normalization, augmentation
        self.foreground, self.length, self.seed = foreground, length or len(cases), seed
        self._lookup = class_indices(levels)
        self._positions: dict[tuple[str, int], NDArray[np.int32]] = {}

    def __len__(self) -> int:
        """Samples an epoch."""
        return self.length

    def __getitem__(self, draw: int) -> PatchSample:
        """The patch of a draw; see the class for what a draw is."""
        # One thread a worker: the loader's parallelism is its workers.
        cv2.setNumThreads(0)
        case = self.cases[self.case_of(draw)]
        corner = self._corner(case, np.random.default_rng((self.seed, draw)))
        reach = self._reach(case, draw)
        start = [first - (n - side) // 2 for first, n, side in zip(corner, reach, self.size, strict=True)]
        image, labels = self._read(case, start, reach)
        if self.augmentation is not None:
            image, labels = self.augmentation(image, labels, self.size, self._variation(draw), case.spacing_mm)
        return PatchSample(
            image=torch.from_numpy(np.ascontiguousarray(image)),
            labels=torch.from_numpy(np.ascontiguousarray(labels)),
            ref=PatchRef(case.id, corner),
        )

    def case_of(self, draw: int) -> str:
        """Id of the case that a draw takes its patch from."""
        round_, position = divmod(draw, len(self.ids))
        return self.ids[int(permutation(self.seed, round_, len(self.ids))[position])]

    def _variation(self, draw: int) -> np.random.Generator:
        """What a draw's augmentation draws from: another one than its place, so that neither moves the other."""
        return np.random.default_rng((self.seed, draw, 1))

    def _reach(self, case: StoredCase, draw: int) -> Size:
        if self.augmentation is None:
            return self.size
        if isinstance(self.augmentation, SparingAugmentation):
            return self.augmentation.drawn_size(self.size, self._variation(draw), case.spacing_mm)
        return self.augmentation.read_size(self.size)

    def _corner(self, case: StoredCase, rng: np.random.Generator) -> Size:
        slack = np.array(case.shape) - self.size
        low, high = np.minimum(slack, 0), np.maximum(slack, 0)
        levels = [level for level in case.level_boxes if level in self.levels]
        if rng.random() < self.foreground and levels:
            voxels = self._voxels(case, levels[rng.integers(len(levels))])
            place = np.clip(voxels[rng.integers(len(voxels))] - np.array(self.size) // 2, low, high)
        else:
            place = rng.integers(low, high + 1)
        x, y, z = place.tolist()
        return x, y, z

    def _voxels(self, case: StoredCase, level: int) -> NDArray[np.int32]:
        """Voxels (N, 3) of a level: all, or a sample that depends on the case and the level alone."""
        voxels = self._positions.get((case.id, level))
        if voxels is None:
            box = case.level_boxes[level]
            labels = case.read_label_box(box)
            places = np.flatnonzero(labels == level)
            if len(places) > POSITIONS:
                places = np.random.default_rng(level).choice(places, POSITIONS, replace=False)
            origin = np.array([part.start for part in box], np.int32)
            voxels = np.stack(np.unravel_index(places, labels.shape), axis=1).astype(np.int32) + origin
            if len(self._positions) >= REMEMBERED:
                del self._positions[next(iter(self._positions))]
            self._positions[case.id, level] = voxels
        return voxels

    def _read(
        self, case: StoredCase, start: Sequence[int], size: Size
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """A box of the store, filled up with air and background where it leaves the scan."""
        spans = [(max(a, 0), min(a + n, end)) for a, n, end in zip(start, size, case.shape, strict=True)]
        if all(high - low == n for (low, high), n in zip(spans, size, strict=True)):
            return self._read_inside(case, spans)
        image, labels = np.full(size, self.normalization.air, np.float32), np.zeros(size, np.uint8)
        if all(low < high for low, high in spans):
            inner = tuple(slice(low - a, high - a) for (low, high), a in zip(spans, start, strict=True))
            image[inner], labels[inner] = self._read_inside(case, spans)
        return image, labels

    def _read_inside(
        self, case: StoredCase, spans: Sequence[tuple[int, int]]
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        x, y, z = (slice(low, high) for low, high in spans)
        return self.normalization(case.read_image_box((x, y, z))), look_up(self._lookup, case.read_label_box((x, y, z)))


class VolumeDataset(Dataset[VolumeBatch]):
    """Whole cases of the store, in order.

    Args:
        cases: the opened store by case id.
        levels: canonical ids of the classes from 1 on.
    """

    def __init__(self, cases: Mapping[str, StoredCase], levels: Sequence[int]) -> None:
        """Check that there is something to validate on."""
        if not cases:
            raise ConfigError("no case to validate on: the split is empty, or none of its cases has a mask")
        self.cases = list(cases.values())
        self._lookup = class_indices(levels)

    def __len__(self) -> int:
        """Number of cases."""
        return len(self.cases)

    def __getitem__(self, index: int) -> VolumeBatch:
        """One case."""
        case = self.cases[index]
        whole: Box = (slice(None), slice(None), slice(None))
        return VolumeBatch(
            case=case.id,
            image=torch.from_numpy(case.read_image_box(whole)),
            labels=torch.from_numpy(look_up(self._lookup, case.read_label_box(whole))),
            spacing_mm=case.spacing_mm,
        )


def class_indices(levels: Sequence[int]) -> NDArray[np.uint8]:
    """Class index of each level id, (256,): i + 1 for the i-th level, 0 for all others.

    >>> class_indices([22, 20])[[0, 20, 21, 22]].tolist()
    [0, 2, 0, 1]
    """
    lookup = np.zeros(256, np.uint8)
    lookup[list(levels)] = np.arange(1, len(levels) + 1)
    return lookup


def look_up(table: NDArray[np.uint8], values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Table entry of each value, at a tenth of the time of ``table[values]``."""
    return cast(NDArray[np.uint8], cv2.LUT(values.reshape(len(values), -1), table).reshape(values.shape))


def collate_patches(samples: Sequence[PatchSample]) -> PatchBatch:
    """Stack patches of one size."""
    return PatchBatch(
        images=torch.stack([sample["image"] for sample in samples])[:, None],
        labels=torch.stack([sample["labels"] for sample in samples])[:, None],
        refs=[sample["ref"] for sample in samples],
    )


def only_volume(samples: Sequence[VolumeBatch]) -> VolumeBatch:
    """The one volume of a batch."""
    (volume,) = samples
    return volume
