"""Oracle rows for the 2D way: what a perfect detector would score, given its pixels, its masks and the lifting.

Each takes the reference apart into sagittal slices and puts it together again as a detector's output would be: the
distance of a model to the last row is what better training can still gain, that of the rows to 1 what it cannot.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from spineseg.costs import CaseMeter
from spineseg.errors import ConfigError, DataError
from spineseg.geometry import Volume, canonical, canonical_grid, resample_labels, restore
from spineseg.predictions.drawn_masks import STRIDE, drawn_mask
from spineseg.predictions.instances import SliceInstances
from spineseg.predictions.lifting import lift
from spineseg.predictions.masks import encode_crop
from spineseg.predictions.naming import most_probable
from spineseg.predictions.slicing import slice_labels
from spineseg.predictions.store import LabelKind, PredictionWriter
from spineseg.vertebrae import in_convention

if TYPE_CHECKING:
    from spineseg.data.prepared import Prepared

# Values of predict's `run` that ask for them.
OracleName = Literal["oracle_native", "oracle_pixel", "oracle_mask"]
ORACLES: Final[tuple[OracleName, ...]] = get_args(OracleName)
_EMPTY: Final = np.zeros((0, 4), np.float64)


@dataclass(frozen=True)
class OracleSettings:
    """What a detector sees and draws.

    Attributes:
        pixel_mm: side of a network pixel; the scan's own spacing along X.
        mask_ratio: network pixels a mask pixel along each side; even. YOLOv8-seg's prototypes have a quarter.
    """

    pixel_mm: float = 1.0
    mask_ratio: int = 4

    def __post_init__(self) -> None:
        """Check both."""
        if not self.pixel_mm > 0:
            raise ConfigError(f"pixel_mm={self.pixel_mm}: expected a length above 0, as data.pixel_mm of a recipe")
        if self.mask_ratio < 2 or self.mask_ratio % 2 or STRIDE % self.mask_ratio:
            raise ConfigError(f"mask_ratio={self.mask_ratio}: expected 2, 4, 8, 16 or 32 network pixels a mask pixel")


DEFAULTS: Final = OracleSettings()


def find_settings(pixel_mm: float | None, mask_ratio: int | None, like: str | None, runs: Path) -> OracleSettings:
    """Settings by keys, or those of a run.

    Args:
        pixel_mm: None = that of ``like``, else 1 mm.
        mask_ratio: None = 4.
        like: a run on slices; None = none.
        runs: where runs lie.

    Raises:
        ConfigError: a pixel size beside a run, or a run that does not see slices.
    """
    if like is not None:
        from spineseg.runs import find_run, read_config

        seen = read_config(find_run(like, runs)).data.get("pixel_mm")
        if seen is None:
            raise ConfigError(f"like={like}: a run on volumes has no pixel size; name one on slices, or give pixel_mm=")
        if pixel_mm is not None:
            raise ConfigError(
                f"pixel_mm={pixel_mm:g} beside like={like}, whose pixels have {seen:g} mm: give one of them"
            )
        pixel_mm = float(seen)
    return OracleSettings(
        DEFAULTS.pixel_mm if pixel_mm is None else pixel_mm, DEFAULTS.mask_ratio if mask_ratio is None else mask_ratio
    )


def find_prepared(where: Path, name: str) -> "Prepared":
    """The prepared source that ``input`` names.

    Raises:
        DataError: it is none: an oracle reads references.
    """
    from spineseg.data.prepared import read_prepared

    folder = where if where.is_dir() else where.parent
    if not (folder / "cases.csv").is_file():
        raise DataError(
            f"{where}: run={name} reads references, so that input= has to be a folder (or its cases.csv) that "
            "`python -m spineseg.prepare` wrote"
        )
    return read_prepared(folder)


def oracle_slices(name: OracleName, labels: Volume, settings: OracleSettings = DEFAULTS) -> list[SliceInstances]:
    """Perfect instances of every sagittal slice, on native pixels.

    ``oracle_native``: the reference's own. ``oracle_pixel``: its labels at network pixels (nearest, as the training
    targets), drawn back. ``oracle_mask``: of those the masks at the model's mask resolution (a mask pixel is set where
    two of the four pixels around its middle are, as in training), drawn back. Drawing is a detector's: bilinear between
    pixel centres, inside where more than half, cut at the box, which is perfect too.

    Args:
        name: which oracle.
        labels: reference label map (X, Y, Z), canonical frame.
        settings: of the detector.
    """
    whole = slice_labels(labels.array)
    if name == "oracle_native":
        return whole
    network = resample_labels(labels, (None, settings.pixel_mm, settings.pixel_mm)).array
    found: dict[int, list[tuple[int, NDArray[np.bool_], tuple[int, int]]]] = {}
    ratio = settings.mask_ratio if name == "oracle_mask" else 1
    steps = [spacing / settings.pixel_mm for spacing in labels.spacing_mm[1:]]
    boxes: list[tuple[slice, ...] | None] = list(ndimage.find_objects(network))
    for level, box in enumerate(boxes, start=1):
        if box is None:
            continue
        for x in range(box[0].start, box[0].stop):
            plane = network[x] == level
            drawn = drawn_mask(plane, ratio, steps, labels.shape[1:])
            if drawn is not None:
                found.setdefault(x, []).append((level, *drawn))
    return [_instances(s.index, s.size, found.get(s.index, [])) for s in whole]


def lifted_levels(slices: Sequence[SliceInstances], shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Lift named instances to a label map (X, Y, Z), as ``predict`` does: an object is the level it votes for."""
    lifted = lift(slices, shape)
    levels = np.zeros(len(lifted.scores) + 1, np.uint8)
    if lifted.classes:
        levels[1:] = most_probable(lifted.distributions, lifted.classes)
    named: NDArray[np.uint8] = levels[lifted.labels]
    return named


def predict_oracle(
    name: OracleName,
    prepared: "Prepared",
    output: Path,
    settings: OracleSettings = DEFAULTS,
    *,
    convention: str = "verse",
) -> dict[str, str]:
    """Write a predictions folder of an oracle for the cases of a prepared source.

    Args:
        name: which oracle.
        prepared: a source with references.
        output: the predictions folder.
        settings: of the detector.
        convention: of the label values in the files.

    Returns:
        The reason for each case that failed, for example one without a reference; the others are written.
    """
    from rich.progress import track

    source = prepared.open_source()
    kind: LabelKind = "levels" if source.labels == "levels" else "instances"
    failures: dict[str, str] = {}
    provenance = {"run": name, "simulated": prepared.simulated, "settings": _settings(name, settings)}
    with PredictionWriter(output, provenance=provenance, slices="label_map", label_convention=convention) as writer:
        for case in track(prepared.cases, description=name):
            meter = CaseMeter()
            try:
                if case.label is None:
                    raise DataError(f"case '{case.id}': cases.csv names no reference, and an oracle needs one")
                native = source.read_labels(case)
                turned = canonical(native)
                truth = Volume(np.ascontiguousarray(turned.array), turned.affine)
                slices = oracle_slices(name, truth, settings)
                array: NDArray[Any] = lifted_levels(slices, truth.shape)
                if kind == "levels":
                    array = in_convention(array, convention, what=f"oracle of {case.id}")
                labels = restore(Volume(array, canonical_grid(native.grid).affine), native.grid)
                writer.write(case.id, labels, kind, slices, **meter.read())
            except DataError as error:
                failures[case.id] = str(error)
                writer.fail(case.id, str(error))
    return failures


def _settings(name: OracleName, settings: OracleSettings) -> dict[str, float | int]:
    """Those that this oracle looks at."""
    used = {"oracle_native": (), "oracle_pixel": ("pixel_mm",), "oracle_mask": ("pixel_mm", "mask_ratio")}[name]
    return {key: value for key, value in asdict(settings).items() if key in used}


def _instances(
    index: int, size: tuple[int, int], parts: Sequence[tuple[int, NDArray[np.bool_], tuple[int, int]]]
) -> SliceInstances:
    masks = tuple(encode_crop(crop, corner, size) for _, crop, corner in parts)
    bare = SliceInstances(
        index=index,
        size=size,
        masks=masks,
        scores=np.ones(len(parts), np.float32),
        levels=np.array([level for level, _, _ in parts], np.int64),
        boxes=np.zeros((len(parts), 4)) if parts else _EMPTY,
    )
    return bare.with_masks(masks)
