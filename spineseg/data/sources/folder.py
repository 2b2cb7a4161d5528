"""Any folder of images and masks: pairs found by name, or listed in a table, with a named label convention."""

import csv
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from spineseg.data.cases import RawCase
from spineseg.data.sources.base import AnyCase, Edge, Source, by_name, volumes_in
from spineseg.errors import ConfigError, DataError
from spineseg.geometry import Array
from spineseg.vertebrae import SACRUM, T13, convention, relabel
from spineseg.volumes import stem

IMAGE_NAMES: Final = ("ct", "image", "img", "volume")
MASK_NAMES: Final = ("vertebrae", "label", "labels", "mask", "seg", "segmentation")
FOLDER_PAIRS: Final = (
    ("images", "labels"),
    ("imagesTr", "labelsTr"),
    ("images", "masks"),
    ("volumes", "segmentations"),
)
MASK_SUFFIXES: Final = ("_seg-vert_msk", "_vertebrae", "_labels", "_label", "_mask", "_seg", "-label")


class Folder(Source):
    """Images and masks of one's own.

    Without ``pairs``, cases are found in this order: ``<case>/ct.nii.gz`` with ``<case>/vertebrae.nii.gz`` (or label,
    mask, seg, segmentation); ``images/<case>.nii.gz`` with ``labels/<case>.nii.gz`` (nnU-Net's ``_0000`` is dropped);
    ``<case>.nii.gz`` beside ``<case>_label.nii.gz``. Images without a mask are reported, not refused.

    Args:
        root: folder that holds everything.
        convention: what mask values mean (a name of ``spineseg.vertebrae.CONVENTIONS``).
        conventions: other conventions for single cases, by case id.
        pairs: CSV with the columns image, and optionally subject, label, convention, id; paths relative to the table.
        include: patterns of case ids to take.
        levels: levels that named networks tell apart.
        edge: rule for cut levels.
        exclude: case ids, or an exclusion file.
        hu_offset: added to the stored values to give HU.
        name: name of the set in prepared folders and split hashes.
    """

    mask_required = False

    def __init__(
        self,
        root: Path | str,
        convention: str = "verse",
        conventions: Mapping[str, str] | None = None,
        pairs: Path | str | None = None,
        include: Sequence[str] = ("*",),
        levels: Sequence[int | str] = (*range(1, 20), T13, *range(20, SACRUM + 1)),
        edge: Edge = "ignore",
        exclude: Sequence[str] | str = (),
        hu_offset: float = 0,
        name: str = "folder",
    ) -> None:
        super().__init__(root, levels=levels, edge=edge, exclude=exclude, hu_offset=hu_offset)
        self.name = name
        self.convention = convention
        self.conventions = dict(conventions or {})
        self.pairs = None if pairs is None else Path(pairs)
        self.include = tuple(include)
        for used in (convention, *self.conventions.values()):
            _check_convention(used)

    def settings(self) -> dict[str, object]:
        """What the reading of a file depends on."""
        return self._fixed(convention=self.convention, conventions=self.conventions, name=self.name)

    def _takes(self, case: RawCase) -> bool:
        return any(fnmatch(case.id, pattern) for pattern in self.include)

    def _find(self) -> list[RawCase]:
        if self.pairs is not None:
            return self._from_table(self.pairs)
        return self._subfolders() or self._folder_pairs() or self._side_by_side()

    def _by_case(self) -> dict[str, Mapping[str, object]]:
        return {"conventions": self.conventions}

    def _case(self, case_id: str, image: Path, label: Path | None) -> RawCase:
        relative = None if label is None else label.relative_to(self.root)
        return RawCase(case_id, case_id, image.relative_to(self.root), relative, self.conventions.get(case_id))

    def _subfolders(self) -> list[RawCase]:
        cases = []
        for folder in sorted(p for p in self.root.iterdir() if p.is_dir()) if self.root.is_dir() else []:
            files = by_name(
                (path for path in volumes_in(folder) if path.parent == folder), lambda path: stem(path).lower()
            )
            image = next((files[name] for name in IMAGE_NAMES if name in files), None)
            label = next((files[name] for name in MASK_NAMES if name in files), None)
            if image is not None or label is not None:
                # A lone mask is listed with the image that it lacks, so that the audit names it.
                cases.append(self._case(folder.name, image or folder / "ct.nii.gz", label))
        return cases

    def _folder_pairs(self) -> list[RawCase]:
        for image_folder, mask_folder in FOLDER_PAIRS:
            images = by_name(volumes_in(self.root / image_folder), lambda path: stem(path).removesuffix("_0000"))
            masks = by_name(volumes_in(self.root / mask_folder), stem)
            names = sorted(images.keys() | masks.keys())
            if names:
                expected = self.root / image_folder
                return [self._case(n, images.get(n, expected / f"{n}.nii.gz"), masks.get(n)) for n in names]
        return []

    def _side_by_side(self) -> list[RawCase]:
        files = by_name((path for path in volumes_in(self.root) if path.parent == self.root), stem)
        masks: dict[str, Path] = {}
        for name, path in files.items():
            suffix = next((s for s in MASK_SUFFIXES if name.endswith(s)), None)
            if suffix is not None:
                masks[name.removesuffix(suffix)] = path
        images = {name: path for name, path in files.items() if path not in masks.values()}
        by_mask = {name.removesuffix("_ct"): name for name in images} | {name: name for name in images}
        labels = {by_mask[name]: path for name, path in masks.items() if name in by_mask}
        cases = [self._case(name, path, labels.get(name)) for name, path in sorted(images.items())]
        orphans = sorted(name for name in masks if name not in by_mask)
        return cases + [self._case(name, self.root / f"{name}.nii.gz", masks[name]) for name in orphans]

    def _from_table(self, table: Path) -> list[RawCase]:
        if not table.is_file():
            raise DataError(f"{table}: no such table; data.source.pairs names a CSV with the column image")
        cases = []
        with table.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            if "image" not in (reader.fieldnames or ()):
                raise DataError(
                    f"{table}: expected the columns subject, image, label, convention; found {reader.fieldnames}"
                )
            for row in reader:
                image, label = self._listed(table, row["image"]), self._listed(table, row.get("label"))
                if image is None:
                    raise DataError(f"{table}, line {reader.line_num}: no image; expected a path")
                case_id = row.get("id") or stem(image)
                used = row.get("convention") or self.conventions.get(case_id)
                if used:
                    _check_convention(used)
                cases.append(RawCase(case_id, row.get("subject") or case_id, image, label, used or None))
        return cases

    def _listed(self, table: Path, cell: str | None) -> Path | None:
        """A path of the table, relative to the root where it lies below it, else absolute."""
        if not cell or not cell.strip():
            return None
        path = (table.parent / cell.strip()).absolute()
        root = self.root.absolute()
        return path.relative_to(root) if path.is_relative_to(root) else path

    def _missing(self) -> str:
        return (
            f"no image found in {self.root} (include: {', '.join(self.include)}): expected <case>/ct.nii.gz with "
            "<case>/vertebrae.nii.gz, images/<case>.nii.gz with labels/<case>.nii.gz, <case>.nii.gz beside "
            "<case>_label.nii.gz, or data.source.pairs=<csv with subject, image, label, convention>. The files are "
            "yours to bring; to try the programs: python -m spineseg.simulate layout=csi2014, then data/source=csi2014 "
            "data.source.root=data/simulated/csi2014"
        )

    def _canonical_ids(self, array: Array, case: AnyCase, what: str) -> NDArray[np.uint8]:
        used = getattr(case, "convention", None) or self._convention_of(case.id)
        known = convention(used)
        return relabel(array, known.table, what=what, drop=known.other)

    def _convention_of(self, case_id: str) -> str:
        if self.pairs is not None and case_id not in self.conventions:
            listed = next((case.convention for case in self._from_table(self.pairs) if case.id == case_id), None)
            return listed or self.convention
        return self.conventions.get(case_id, self.convention)


def _check_convention(name: str) -> None:
    try:
        convention(name)
    except ConfigError as error:
        raise ConfigError(f"data.source.convention: {error}") from None
