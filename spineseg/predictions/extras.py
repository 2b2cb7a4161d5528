"""What ``predict`` writes beside the label maps once they are there: pictures, points, DICOM segmentations."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from spineseg.data.files import write_json
from spineseg.errors import ConfigError, DataError
from spineseg.geometry import canonical
from spineseg.predictions.store import CasePrediction, open_predictions

if TYPE_CHECKING:
    from spineseg.data.scans import Scan

OUTPUTS: Final = ("nifti", "json", "png", "points", "dicom_seg")
_BESIDE: Final = frozenset(OUTPUTS) - {"nifti", "json"}
FAILURES_FILE: Final = "failures.json"
FAILURES_FORMAT: Final = "failures 1"


@dataclass(frozen=True)
class Origin:
    """What made the predictions.

    Attributes:
        name: of the model's run.
        learned: whether by a trained network; else by thresholds and morphology.
        simulated: whether that was trained on simulated scans.
    """

    name: str
    learned: bool = True
    simulated: bool = False


def check_outputs(outputs: Sequence[str], scans: Sequence["Scan"], *, named: bool) -> None:
    """Refuse outputs that cannot be had, before anything is computed.

    Args:
        outputs: as asked for.
        scans: what is to be predicted.
        named: whether the model, or what names its objects, gives levels.

    Raises:
        ConfigError: unknown ones, none that is a label map, points without levels, or a package that is missing.
        DataError: ``dicom_seg`` where no scan is DICOM.
    """
    if "nifti" not in outputs or set(outputs) - set(OUTPUTS):
        raise ConfigError(f"outputs={list(outputs)}: expected nifti, and of {', '.join(OUTPUTS[1:])} what is wanted")
    if "points" in outputs and not named:
        raise ConfigError(
            "outputs: points is VerSe's file of named body centres, and this model names no level; leave points out "
            "(the numbered objects' centres are in <case>.json)"
        )
    if "dicom_seg" not in outputs:
        return
    try:
        import highdicom  # noqa: F401
    except ImportError as error:
        raise ConfigError("outputs: dicom_seg needs highdicom; `pip install spineseg[dicom]`") from error
    readable = [scan for scan in scans if not scan.unreadable]
    others = [scan.case for scan in readable if scan.series is None]
    listed = f"{', '.join(others[:3])}{', …' * (len(others) > 3)}"
    if others and len(others) == len(readable):
        raise DataError(
            f"outputs: dicom_seg refers to the DICOM slices it was made from, and no scan is DICOM ({listed}); leave "
            "dicom_seg out, or give the DICOM series as input"
        )
    if others:
        print(f"note: no DICOM segmentation of {listed}: {'they are' if len(others) > 1 else 'it is'} no DICOM")


def write_extras(
    scans: Sequence["Scan"], folder: Path, outputs: Sequence[str], failures: Mapping[str, str], origin: Origin
) -> dict[str, str]:
    """Write pictures, points and DICOM segmentations of the cases that were predicted, and ``failures.json``.

    Args:
        scans: what was predicted.
        folder: of the predictions, complete.
        outputs: those of ``OUTPUTS``.
        failures: reason of each case that has no prediction.
        origin: the model.

    Returns:
        The failures, with those of cases of which an output could not be made.
    """
    found = dict(failures)
    predictions = open_predictions(folder)
    for scan in scans:
        if scan.case in failures:
            for name in (f"{scan.case}_ctd.json", f"{scan.case}_seg.dcm"):
                (folder / name).unlink(missing_ok=True)
            continue
        if not _BESIDE.intersection(outputs):  # label maps need not be read again
            continue
        try:
            _write(scan, predictions.read(scan.case), folder, outputs, origin)
        except DataError as error:
            found[scan.case] = f"predicted, but not all of its outputs could be written: {error}"
    # Those of earlier calls that were not tried again still stand.
    known = {case: reason for case, reason in predictions.failures.items() if case not in found}
    write_json(folder / FAILURES_FILE, {"format": FAILURES_FORMAT, "failures": known | found})
    return found


def _write(scan: "Scan", predicted: CasePrediction, folder: Path, outputs: Sequence[str], origin: Origin) -> None:
    named = predicted.kind == "levels"
    if "png" in outputs:
        draw_overlay(scan, predicted, folder, simulated=origin.simulated)
    if "points" in outputs:
        from spineseg.predictions.centres import label_centres_mm
        from spineseg.predictions.point_files import write_points

        upright = canonical(predicted.labels)
        centres = label_centres_mm(upright.array, upright.affine, named=True)
        write_points(folder / f"{scan.case}_ctd.json", centres, predicted.labels.grid)
    if "dicom_seg" in outputs and scan.series is not None:
        from spineseg.predictions.dicom_seg import write_dicom_seg

        if not write_dicom_seg(
            folder / f"{scan.case}_seg.dcm", predicted.labels, scan.series, named=named, origin=origin
        ):
            print(
                f"note: {scan.case}: nothing was found in it, and a DICOM segmentation may not be empty: none written"
            )


def draw_overlay(scan: "Scan", predicted: CasePrediction, folder: Path, *, simulated: bool) -> None:
    """Draw a scan with its label map, ``<case>.png``."""
    from spineseg.reporting.overlay import write_overlay

    title = f"{scan.case}{', model of SIMULATED scans' * simulated}"
    named = predicted.kind == "levels"
    write_overlay(folder / f"{scan.case}.png", scan.read(), predicted.labels, named=named, title=title)
