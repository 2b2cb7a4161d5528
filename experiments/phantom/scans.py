"""The scans that figures and histograms look at: simulated ones, and real ones where they are to be had."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from spineseg.geometry import Volume, canonical
from spineseg.phantom import PhantomOptions, simulate_case
from spineseg.vertebrae import CONVENTIONS, relabel
from spineseg.volumes import read_volume

DIFFICULTIES: Final = ("easy", "default", "hard")
REAL: Final = {
    "chest_1p5mm": "totalsegmentator_v2",
    "abdomen_3mm": "totalsegmentator_v2",
    "lumbar_crop": "verse",
}


@dataclass(frozen=True)
class Scan:
    """A scan with its vertebrae, axes RAS+: HU and canonical ids."""

    name: str
    image: Volume
    labels: Volume


def simulated(layout: str, difficulty: str, index: int, seed: int = 0) -> Scan:
    """A small case of a set's seed, as ``simulate`` writes it."""
    options = PhantomOptions(layout, "small", difficulty)  # type: ignore[arg-type]
    case = simulate_case(seed, index, options)
    return Scan(f"SIMULATED {layout} {difficulty}", case.image, case.labels)


def real(root: Path | None) -> Iterator[Scan]:
    """The real scans below a folder; none where it is absent."""
    for name, convention in REAL.items():
        folder = root / name if root is not None else None
        if folder is None or not folder.is_dir():
            continue
        files = {path.name.split(".")[0]: path for path in sorted(folder.iterdir())}
        image = canonical(read_volume(files["ct"]))
        found = canonical(read_volume(next(path for key, path in files.items() if key != "ct" and ".nii" in path.name)))
        rule = CONVENTIONS[convention]
        labels = relabel(found.array, rule.table, what=name, drop=rule.other)
        yield Scan(name, image.with_array(np.asarray(image.array, np.float32)), found.with_array(labels))
