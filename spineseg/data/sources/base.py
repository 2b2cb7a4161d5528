"""What every source can do: list cases, read an image in HU and a mask in canonical level ids on the image's grid."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import ClassVar, Final, Literal, cast

import numpy as np
from numpy.typing import NDArray

from spineseg.data.cases import Case, RawCase
from spineseg.data.exclusions import PROPOSE, Exclusion, Exclusions, read_exclusions
from spineseg.data.files import below
from spineseg.data.splits import SplitRule
from spineseg.errors import ConfigError, DataError
from spineseg.geometry import Array, Grid, Volume, canonical, canonical_grid, restore
from spineseg.vertebrae import LEVELS, convention, level_id, relabel
from spineseg.volumes import is_volume, read_grid, read_volume

Edge = Literal["ignore", "count", "crop"]
AnyCase = RawCase | Case

# Mask and image may lie this far apart: what float32 headers and rounded DICOM positions leave.
GRID_TOLERANCE_MM: Final = 0.1
MARKER: Final = "SIMULATED.json"


class Source(ABC):
    """One data set on disk.

    Attributes:
        name: short name; prepared folders and split hashes carry it.
        root: folder (or zip) of the files.
        levels: canonical ids that networks with named levels are to tell apart, cranial to caudal.
        edge: how levels cut by the field of view are scored (PROTOCOL 7).
        split_rule: how subjects get their fold (CONTRACTS).
        labels: whether mask values are levels, or only tell instances apart.
        mask_required: whether an image without a mask is a fault of the set.
        expected_levels: how many levels a mask should hold; None if that varies.
        expected_spacing_mm: spacing of every image along each axis; None if that varies.
        download: whether ``prepare`` is to fetch the set first.
    """

    name: str
    split_rule: ClassVar[SplitRule] = "hash"
    labels: ClassVar[Literal["levels", "instances"]] = "levels"
    mask_required: ClassVar[bool] = True
    expected_levels: ClassVar[int | None] = None
    expected_spacing_mm: ClassVar[float | None] = None
    hounsfield: ClassVar[bool] = True

    def __init__(
        self,
        root: Path | str,
        *,
        levels: Sequence[int | str],
        edge: Edge,
        exclude: Sequence[str] | str = (),
        hu_offset: float = 0,
        download: bool = False,
    ) -> None:
        self.root = Path(root)
        self.levels = as_levels(levels)
        if edge not in ("ignore", "count", "crop"):
            raise ConfigError(f"data.source.edge={edge}: expected ignore, count or crop")
        self.edge: Edge = edge
        self.exclusions = _excluded(exclude)
        self.hu_offset = hu_offset
        self.download = download

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.root)!r})"

    @property
    def simulated(self) -> bool:
        """Whether ``simulate`` made the files: its marker lies in the root or up to two folders above."""
        return any((folder / MARKER).is_file() for folder in (self.root, *self.root.absolute().parents[:2]))

    def cases(self) -> list[RawCase]:
        """List the cases, excluded ones left out.

        A mask without an image is listed with the image's expected path, so that the audit names it.

        Raises:
            DataError: nothing there (saying where the set is to be had and how to simulate it), two files of one case.
        """
        everything = self._find()
        found = [case for case in everything if self._takes(case)]
        twice = sorted({case.id for case in found if sum(other.id == case.id for other in found) > 1})
        if twice:
            raise DataError(f"{self.root}: two cases are called {', '.join(twice)}; rename or remove one of each")
        excluded = self.exclusions.cases
        self._check_named("exclude", excluded, found)
        for key, named in self._by_case().items():
            self._check_named(key, named, everything)
        kept = [case for case in found if case.id not in excluded]
        if not kept:
            raise DataError(self._missing())
        return kept

    def _takes(self, case: RawCase) -> bool:
        """Whether a case of the files is one of the set."""
        return True

    def _by_case(self) -> dict[str, Mapping[str, object]]:
        """Settings of single cases by key, each by case id."""
        return {}

    def _check_named(self, key: str, named: Iterable[str], cases: Sequence[RawCase]) -> None:
        """Refuse a setting that names a case which is not there."""
        known = {case.id for case in cases}
        if known and (strange := sorted(set(named) - known)):
            like = get_close_matches(strange[0], sorted(known), n=1, cutoff=0.0)[0]
            raise ConfigError(
                f"data.source.{key} names no case of {self.root}: {', '.join(strange)}; did you mean '{like}'?"
            )

    def subjects(self) -> tuple[str, ...]:
        """All subjects of the data set, excluded ones too: what the rank rule of splits ranks."""
        return tuple(sorted({case.subject for case in self._find() if self._takes(case)}))

    def read_image(self, case: AnyCase) -> Volume:
        """Read an image: int16 HU on the native grid.

        Raises:
            DataError: unreadable, voxels that are not finite, or values that do not fit int16.
        """
        path = self.root / case.image
        volume = read_volume(path)
        return volume.with_array(as_hounsfield(volume.array, self.hu_offset, what=str(path)))

    def read_labels(self, case: AnyCase) -> Volume:
        """Read a mask: uint8 canonical level ids on the image's native grid.

        A mask stored with other axes is turned to the image's; it then carries the image's affine bit for bit.

        Raises:
            DataError: no mask, unreadable, unknown labels, another shape, or grids apart (in mm).
        """
        if case.label is None:
            raise DataError(f"{self.root / case.image}: case '{case.id}' has no mask")
        path = self.root / case.label
        volume = read_volume(path)
        labels = volume.with_array(self._canonical_ids(volume.array, case, str(path)))
        return on_grid(labels, read_grid(self.root / case.image), what=str(path), image=case.image.name)

    def files(self, case: AnyCase) -> tuple[Path, ...]:
        """Every file on disk that the case is made of."""
        paths = [case.image] if case.label is None else [case.image, case.label]
        return tuple(part for path in paths for part in parts(self.root / path))

    def fetch(self) -> None:
        """Download the set into ``root``.

        Raises:
            ConfigError: this source has no download.
        """
        raise ConfigError(
            f"data.source.download=true: '{self.name}' cannot be downloaded; put its files in {self.root}"
        )

    def given_split(self) -> dict[str, list[str]] | None:
        """Case ids of train, val and test as the data set itself divides them; None if it does not."""
        return None

    @abstractmethod
    def settings(self) -> dict[str, object]:
        """What a reader of the files depends on, as keyword arguments of the class; hashed into the prepared name."""

    @abstractmethod
    def _find(self) -> list[RawCase]:
        """List all cases; empty if there are none."""

    @abstractmethod
    def _missing(self) -> str:
        """Message for a root without cases."""

    def _canonical_ids(self, array: Array, case: AnyCase, what: str) -> NDArray[np.uint8]:
        """Turn a mask's values into canonical level ids: by the convention that bears the source's name."""
        return relabel(array, convention(self.name).table, what=what)

    def _fixed(self, **values: object) -> dict[str, object]:
        """Settings that every source has."""
        return {"levels": list(self.levels), "edge": self.edge, "hu_offset": self.hu_offset, **values}


def as_levels(levels: Sequence[int | str]) -> tuple[int, ...]:
    """Turn names or ids of levels into ids.

    >>> as_levels(["T12", 20])
    (19, 20)
    """
    ids = tuple(level_id(level) if isinstance(level, str) else int(level) for level in levels)
    unknown = [level for level in ids if level not in LEVELS]
    if unknown or len(set(ids)) != len(ids):
        raise ConfigError(f"data.source.levels={list(levels)}: expected distinct canonical ids (1 to 28) or names")
    return ids


def as_hounsfield(array: Array, offset: float, *, what: str) -> NDArray[np.int16]:
    """Add the offset and round to int16.

    Raises:
        DataError: NaN or infinite voxels, or values that int16 cannot hold (never a silent wrap).
    """
    if array.dtype == np.int16 and offset == 0:
        return cast(NDArray[np.int16], array)
    if not np.issubdtype(array.dtype, np.number) or np.issubdtype(array.dtype, np.complexfloating):
        raise DataError(f"{what}: expected numbers, found {array.dtype}; export the image again")
    if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
        bad = int(np.count_nonzero(~np.isfinite(array)))
        raise DataError(f"{what}: {bad:,} voxels are NaN or infinite; expected HU. Export the image again")
    low, high = float(array.min()) + offset, float(array.max()) + offset
    if low < -32768 or high > 32767:
        raise DataError(
            f"{what}: values from {low:g} to {high:g} HU; expected -32768 to 32767 (int16). "
            "Check the file's rescale slope and data.source.hu_offset"
        )
    if np.issubdtype(array.dtype, np.integer) and float(offset).is_integer():
        return cast(NDArray[np.int16], (array.astype(np.int32) + np.int32(offset)).astype(np.int16))
    return cast(NDArray[np.int16], np.rint(array.astype(np.float32) + np.float32(offset)).astype(np.int16))


def on_grid(labels: Volume, native: Grid, *, what: str, image: str) -> Volume:
    """Bring a mask to the grid of its image: axes may be permuted or flipped, voxels may not be elsewhere.

    Raises:
        DataError: another shape, or corners more than ``GRID_TOLERANCE_MM`` apart.
    """
    upright, expected = canonical(labels), canonical_grid(native)
    if upright.shape != expected.shape:
        raise DataError(
            f"{what}: shape {labels.shape}, expected {native.shape} as {image} has; "
            "this mask belongs to another image or was resampled"
        )
    apart_mm = upright.grid.distance_mm(expected)
    if apart_mm > GRID_TOLERANCE_MM:
        raise DataError(
            f"{what}: its voxels lie up to {apart_mm:.2f} mm from those of {image}; expected the same grid "
            f"(within {GRID_TOLERANCE_MM} mm). Copy the affine from the image only if you know the mask was drawn on it"
        )
    return restore(upright, native)


def parts(path: Path) -> tuple[Path, ...]:
    """The file and, for a MetaImage or NRRD header, the data file that it names in its own folder."""
    if path.suffix.lower() not in (".mhd", ".nhdr") or not path.is_file():
        return (path,)
    for line in path.read_text(errors="replace").splitlines():
        key, _, value = line.replace(":", "=", 1).partition("=")
        if key.strip().lower() in ("elementdatafile", "data file") and value.strip().upper() != "LOCAL":
            # The bare name: a header must not lead a reader out of its folder.
            return path, path.parent / Path(value.strip()).name
    return (path,)


def _excluded(exclude: Sequence[str] | str) -> Exclusions:
    """Exclusions from a list of case ids, which gives no reasons, or from an exclusion file."""
    if not isinstance(exclude, str):
        return Exclusions(tuple(Exclusion(case, "") for case in sorted({str(case) for case in exclude})))
    if not Path(exclude).is_file():
        raise ConfigError(
            f"data.source.exclude={exclude}: no such file; expected a list of case ids, or an exclusion file as "
            f"`{PROPOSE}` writes it"
        )
    return read_exclusions(Path(exclude))


def by_name(paths: Iterable[Path], name: Callable[[Path], str]) -> dict[str, Path]:
    """Files by a name that each has for itself.

    Raises:
        DataError: two of one name.
    """
    found: dict[str, Path] = {}
    for path in paths:
        if (other := found.setdefault(name(path), path)) != path:
            raise DataError(
                f"{path}: a second file of '{name(path)}' beside {other}; rename or remove one of them, or list cases "
                "with ids of their own (data/source=folder data.source.pairs=<csv>)"
            )
    return found


def volumes_in(folder: Path) -> Iterable[Path]:
    """Volume files in a folder and below, sorted; unfinished files (leading dot) left out."""
    return sorted(path for path in below(folder) if is_volume(path) and not path.name.startswith("."))
