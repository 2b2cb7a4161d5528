"""CSI 2014 (SpineWeb data set 2): ten CT scans of the thoracic and lumbar spine, ``caseN`` and ``caseN_label``.

Two copies circulate: MetaImage with masks in hundreds (which vertebra 100 is stands nowhere, hence the anchor), and
single files with masks 1..24 = C1..L5. Both are read, each in ``.mhd``/``.raw``, ``.mha``, ``.nii`` or ``.nii.gz``.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final, Literal

import numpy as np
from numpy.typing import NDArray

from spineseg.data.cases import RawCase
from spineseg.data.sources.base import AnyCase, Edge, Source, volumes_in
from spineseg.data.splits import SplitRule
from spineseg.errors import ConfigError, DataError
from spineseg.geometry import Array
from spineseg.vertebrae import csi2014_convention, level_id, relabel
from spineseg.volumes import stem

ZENODO_DOI: Final = "10.5281/zenodo.7049844"
_NAME: Final = re.compile(r"case[_-]?0*(\d+)([_-]label)?", re.IGNORECASE)
_SUBJECTS: Final = tuple(f"case{number}" for number in range(1, 11))
LabelStyle = Literal["auto", "hundreds", "numbers"]


class CSI2014(Source):
    """CSI 2014 as ``root/**/caseN.*`` and ``root/**/caseN_label.*``.

    Args:
        root: folder of the files.
        hu_offset: added to the stored values (0 to 4095) to give HU; the audit checks it by the air peak.
        anchor: which level a mask's hundreds start from: ``{label: 100, level: L5}``; ``label: lowest`` takes each
            mask's own smallest value.
        anchors: other anchors for single cases, by case id.
        larger: whether larger hundreds are more ``cranial`` (the audit checks it by world z) or more ``caudal``.
        label_style: ``hundreds``, ``numbers`` (1..24 = C1..L5) or ``auto``, by the values of each mask.
        levels: levels that named networks tell apart.
        edge: rule for cut levels.
        exclude: case ids, or an exclusion file.
        download: fetch the public-domain copy first.
    """

    name = "csi2014"
    split_rule: ClassVar[SplitRule] = "rank"
    expected_levels: ClassVar[int | None] = 17

    def __init__(
        self,
        root: Path | str,
        hu_offset: float = -1000,
        anchor: Mapping[str, Any] | None = None,
        anchors: Mapping[str, Mapping[str, Any]] | None = None,
        larger: Literal["cranial", "caudal"] = "cranial",
        label_style: LabelStyle = "auto",
        levels: Sequence[int | str] = tuple(range(8, 25)),
        edge: Edge = "ignore",
        exclude: Sequence[str] | str = (),
        download: bool = False,
    ) -> None:
        super().__init__(root, levels=levels, edge=edge, exclude=exclude, hu_offset=hu_offset, download=download)
        if larger not in ("cranial", "caudal") or label_style not in ("auto", "hundreds", "numbers"):
            raise ConfigError(
                f"data.source.larger={larger}, label_style={label_style}: expected cranial or caudal, and auto, "
                "hundreds or numbers"
            )
        self.larger = larger
        self.label_style = label_style
        self.anchor = _anchor("data.source.anchor", anchor or {"label": 100, "level": "L5"})
        self.anchors = {case: _anchor(f"data.source.anchors.{case}", a) for case, a in (anchors or {}).items()}

    def settings(self) -> dict[str, object]:
        """What the reading of a file depends on."""
        return self._fixed(anchor=self.anchor, anchors=self.anchors, larger=self.larger, label_style=self.label_style)

    def _by_case(self) -> dict[str, Mapping[str, object]]:
        return {"anchors": self.anchors}

    def subjects(self) -> tuple[str, ...]:
        """The ten subjects, be they on disk or not (ranks must not move with an absent file), and further ones."""
        found = super().subjects()
        return found if self.simulated else tuple(sorted({*found, *_SUBJECTS}))

    def fetch(self) -> None:
        """Download the Zenodo copy; files that are there and whole are kept."""
        from spineseg.data.download import fetch_doi

        fetch_doi(ZENODO_DOI, self.root)

    def _find(self) -> list[RawCase]:
        images: dict[int, Path] = {}
        masks: dict[int, Path] = {}
        for path in volumes_in(self.root):
            match = _NAME.fullmatch(stem(path))
            if match is None:
                continue
            files = masks if match[2] else images
            number = int(match[1])
            if number in files:
                raise DataError(f"{path}: case{number} has a second file, {files[number]}; remove one of them")
            files[number] = path.relative_to(self.root)
        cases = []
        for number in sorted(images.keys() | masks.keys()):
            mask = masks.get(number)
            image = images.get(number)
            if image is None and mask is not None:
                image = mask.with_name(re.sub(r"[_-]label", "", mask.name, flags=re.IGNORECASE))
            if image is not None:
                cases.append(RawCase(f"case{number}", f"case{number}", image, mask))
        return cases

    def _missing(self) -> str:
        return (
            f"CSI 2014 not found in {self.root}: expected case1.mhd + case1.raw with case1_label.mhd + case1_label.raw "
            "(or .mha, .nii, .nii.gz), and so on to case10. SpineWeb no longer answers; a public-domain copy is Zenodo "
            f"record 7049844 (https://doi.org/{ZENODO_DOI}). Download it: python -m spineseg.prepare "
            "data/source=csi2014 data.source.download=true. Or make a simulated set: python -m spineseg.simulate "
            "layout=csi2014, then data.source.root=data/simulated/csi2014"
        )

    def _canonical_ids(self, array: Array, case: AnyCase, what: str) -> NDArray[np.uint8]:
        # Whether all values are whole is relabel's to say.
        values = [int(value) for value in np.unique(array) if value != 0]
        # One odd value among hundreds is a fault to name, not the other style.
        hundreds = self.label_style == "hundreds" or (self.label_style == "auto" and max(values, default=0) >= 100)
        if not hundreds:
            return relabel(array, {level: level for level in range(1, 25)}, what=what)
        return relabel(array, self._table(case.id, values), what=what)

    def _table(self, case_id: str, values: Sequence[int]) -> dict[int, int]:
        anchor = self.anchors.get(case_id, self.anchor)
        label = min(values, default=100) if anchor["label"] == "lowest" else int(anchor["label"])
        if label <= 0 or label % 100:
            return dict(csi2014_convention().table)  # relabel then names the odd value
        if self.larger == "cranial":
            return dict(csi2014_convention(label, anchor["level"]).table)
        first = level_id(anchor["level"])
        return {label + 100 * (level - first): level for level in range(1, 25) if label + 100 * (level - first) > 0}


def _anchor(where: str, anchor: Mapping[str, Any]) -> dict[str, Any]:
    """Check an anchor when the source is made, before any file is read."""
    label = anchor.get("label")
    numeric = isinstance(label, int) and not isinstance(label, bool) and label > 0 and label % 100 == 0
    if set(anchor) != {"label", "level"} or not (label == "lowest" or numeric) or anchor["level"] is None:
        raise ConfigError(
            f"{where}={dict(anchor)}: expected label: a positive multiple of 100 or 'lowest', and level: a name, as L5"
        )
    csi2014_convention(100, str(anchor["level"]))
    return {"label": label, "level": str(anchor["level"])}
