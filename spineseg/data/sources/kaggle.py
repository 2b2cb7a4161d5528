"""Kaggle's ``pycadmk/spine-segmentation-from-ct-scans``: 1089 pairs at 1.5 mm, 25 levels C1 to S1.

Case numbers have gaps (0 to 1224), so files are listed, never counted. 25 is S1 here, where VerSe's 25 is L6.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Final

from spineseg.data.cases import RawCase
from spineseg.data.sources.base import Edge, Source, by_name, volumes_in
from spineseg.vertebrae import SACRUM
from spineseg.volumes import stem

SLUG: Final = "pycadmk/spine-segmentation-from-ct-scans"
FOLDER: Final = "spine_segmentation_nnunet_v2"
_NAME: Final = re.compile(r"case_(\d+)")


class Kaggle(Source):
    """The set as ``root/[spine_segmentation_nnunet_v2/]{volumes,segmentations}/case_NNNN.nii[.gz]``.

    Args:
        root: folder that holds the set, or its ``spine_segmentation_nnunet_v2`` folder.
        levels: levels that named networks tell apart.
        edge: rule for cut levels; the set annotates parts of vertebrae.
        exclude: case ids, or an exclusion file (10–15 % of the masks it derives from mix vertebrae).
        hu_offset: added to the stored values; the set is in HU.
        download: fetch it with kagglehub first (needs your Kaggle token).
    """

    name = "kaggle"
    expected_spacing_mm: ClassVar[float | None] = 1.5

    def __init__(
        self,
        root: Path | str,
        levels: Sequence[int | str] = (*range(1, 25), SACRUM),
        edge: Edge = "count",
        exclude: Sequence[str] | str = (),
        hu_offset: float = 0,
        download: bool = False,
    ) -> None:
        super().__init__(root, levels=levels, edge=edge, exclude=exclude, hu_offset=hu_offset, download=download)

    def settings(self) -> dict[str, object]:
        """What the reading of a file depends on."""
        return self._fixed()

    def fetch(self) -> None:
        """Download the set with kagglehub and link it to ``root``."""
        from spineseg.data.download import fetch_kaggle

        fetch_kaggle(SLUG, self.root)

    def _find(self) -> list[RawCase]:
        folders = [self.root / FOLDER, self.root]
        folder = next((f for f in folders if (f / "volumes").is_dir() or (f / "segmentations").is_dir()), None)
        if folder is None:
            return []
        images, masks = (self._numbered(folder / part) for part in ("volumes", "segmentations"))
        cases = []
        for name in sorted(images.keys() | masks.keys()):
            mask = masks.get(name)
            image = images.get(name) or (folder / "volumes" / f"{name}.nii").relative_to(self.root)
            cases.append(RawCase(name, name, image, mask))
        return cases

    def _numbered(self, folder: Path) -> dict[str, Path]:
        files = by_name((path for path in volumes_in(folder) if _NAME.fullmatch(stem(path))), stem)
        return {name: path.relative_to(self.root) for name, path in files.items()}

    def _missing(self) -> str:
        return (
            f"the Kaggle spine set was not found in {self.root}: expected {FOLDER}/volumes/case_NNNN.nii and "
            f"{FOLDER}/segmentations/case_NNNN.nii. It is https://www.kaggle.com/datasets/{SLUG}. Download it (needs "
            "your Kaggle token): python -m spineseg.prepare data/source=kaggle data.source.download=true. Or make a "
            "simulated set: python -m spineseg.simulate layout=kaggle, then data.source.root=data/simulated/kaggle"
        )
