"""VerSe 2019 and 2020: ``rawdata/sub-X/…_ct.nii.gz`` and ``derivatives/sub-X/…_seg-vert_msk.nii.gz``.

Several scans of a subject share its ``sub-`` folder, so splits go by that. Partly visible vertebrae are not annotated.
"""

from collections.abc import Sequence
from pathlib import Path

from spineseg.data.cases import RawCase
from spineseg.data.sources.base import Edge, Source, volumes_in
from spineseg.vertebrae import L6, T13
from spineseg.volumes import stem


class Verse(Source):
    """VerSe as its authors lay it out; several releases may lie side by side below ``root``.

    Args:
        root: folder that holds ``rawdata`` and ``derivatives``, at any depth.
        levels: levels that named networks tell apart.
        edge: rule for cut levels.
        exclude: case ids, or an exclusion file.
        hu_offset: added to the stored values; the set is in HU.
    """

    name = "verse"
    mask_required = False

    def __init__(
        self,
        root: Path | str,
        levels: Sequence[int | str] = (*range(1, 20), T13, *range(20, 25), L6),
        edge: Edge = "ignore",
        exclude: Sequence[str] | str = (),
        hu_offset: float = 0,
    ) -> None:
        super().__init__(root, levels=levels, edge=edge, exclude=exclude, hu_offset=hu_offset)

    def settings(self) -> dict[str, object]:
        """What the reading of a file depends on."""
        return self._fixed()

    def _find(self) -> list[RawCase]:
        cases = []
        for path in volumes_in(self.root):
            name = stem(path)
            if not name.endswith("_ct"):
                continue
            relative = path.relative_to(self.root)
            # The last `rawdata` of the path: a release may lie in a folder of that name.
            places = [place for place, part in enumerate(relative.parts) if part == "rawdata"]
            if not places:
                continue
            swapped = (*relative.parts[: places[-1]], "derivatives", *relative.parts[places[-1] + 1 : -1])
            mask = Path(*swapped) / f"{name.removesuffix('_ct')}_seg-vert_msk{path.name[len(name) :]}"
            labelled = (self.root / mask).is_file()
            cases.append(RawCase(name.removesuffix("_ct"), relative.parent.name, relative, mask if labelled else None))
        return cases

    def _missing(self) -> str:
        return (
            f"VerSe not found in {self.root}: expected rawdata/sub-X/sub-X_ct.nii.gz and "
            "derivatives/sub-X/sub-X_seg-vert_msk.nii.gz. It is to be had at https://github.com/anjany/verse "
            "(CC BY-SA 4.0); unpack it there and set data.source.root. There is no simulated set of this layout: "
            "python -m spineseg.simulate layout=csi2014 makes one of another"
        )
