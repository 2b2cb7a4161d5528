"""Every hazard that DATASETS.md names for the Kaggle set, planted in a simulated one: the audit has to find it."""

import gzip
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray

from spineseg.data.audit import Report, across_cases, examine
from spineseg.data.proposal import propose
from spineseg.data.sources.kaggle import FOLDER, Kaggle
from spineseg.simulate import simulate_set

# The set's own values; the simulated case shows T4 (11) to L1 (20) whole, more at its ends.
T5, T7, T8, T9, T10, T12, S1 = 12, 14, 15, 16, 17, 19, 25
Values = NDArray[np.uint8]


@dataclass
class Pair:
    """One case as arrays; a fault changes it and it is written again."""

    image: NDArray[np.int16]
    mask: Values
    image_affine: NDArray[np.float64]
    mask_affine: NDArray[np.float64]


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("kaggle") / "set"
    return simulate_set(output, layout="kaggle", cases=1, size="small", workers=1).parent


@pytest.fixture
def planted(simulated: Path, tmp_path: Path) -> Callable[[Callable[[Pair], None]], Report]:
    """Write the case with a fault in the place of the sound one, and audit it."""

    def plant(fault: Callable[[Pair], None]) -> Report:
        root = tmp_path / "set"
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(simulated, root)
        names = [root / FOLDER / part / "case_0000.nii" for part in ("volumes", "segmentations")]
        image, mask = (nib.load(name) for name in names)
        pair = Pair(np.asarray(image.dataobj), np.asarray(mask.dataobj).astype(np.uint8), image.affine, mask.affine)
        fault(pair)
        for array, affine, name in (
            (pair.image, pair.image_affine, names[0]),
            (pair.mask, pair.mask_affine, names[1]),
        ):
            name.unlink()
            nib.save(nib.Nifti1Image(array, affine), name.with_name("case_0007.nii"))
        return audited(root)["case_0007"]

    return plant


def audited(root: Path) -> dict[str, Report]:
    source = Kaggle(root)
    return {report.id: report for report in across_cases([examine(source, case).report for case in source.cases()])}


def kinds(report: Report) -> set[str]:
    assert report.case is not None, report.fatal
    return {finding.partition(":")[0] for finding in report.case.findings}


def said(report: Report, kind: str) -> str:
    assert report.case is not None, report.fatal
    return " ".join(finding for finding in report.case.findings if finding.startswith(f"{kind}: "))


def names(change: Callable[[Values], Values]) -> Callable[[Pair], None]:
    """A fault that gives every value of the mask another."""
    table = np.arange(256).astype(np.uint8)
    table = change(table)
    table[0] = 0

    def fault(pair: Pair) -> None:
        pair.mask = table[pair.mask]

    return fault


def halves(mask: Values, value: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """A vertebra's lower and upper half."""
    where = mask == value
    middle = np.median(np.nonzero(where)[2])
    upper = np.zeros_like(where)
    upper[..., int(middle) + 1 :] = True
    return where & ~upper, where & upper


def alphabetical(table: Values) -> Values:
    """Classes numbered by their position in a sorted list of file names: C1-C7, L1-L5, S1, T1-T12."""
    listed = [f"C{n}" for n in range(1, 8)] + [f"T{n}" for n in range(1, 13)] + [f"L{n}" for n in range(1, 6)] + ["S1"]
    position = {name: number for number, name in enumerate(sorted(listed, key=lambda n: (n[0], int(n[1:]))), start=1)}
    table[1:26] = [position[name] for name in listed]
    return table


def test_nothing_is_said_of_a_sound_case(simulated: Path) -> None:
    report = audited(simulated)["case_0000"]
    assert kinds(report) <= {"crumb"} and not report.fatal and propose([report]) == []


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        (lambda v: np.where((v > T8) & (v < S1), v + 1, np.where(v == S1, 0, v)), "shifted", "T8 and T10"),
        (lambda v: np.where(v == T9, 0, v), "gap", "no T9"),
        (lambda v: np.where(v == T9, 0, np.where((v > T9) & (v < S1), v - 1, v)), "distance", "T8 and T9"),
        (lambda v: np.where(v == T12, T5, v), "apart", "T5"),
        (lambda v: np.where(v == T9, T8, np.where(v == T8, T9, v)), "order", "T8 lies below T9"),
        (alphabetical, "order", "lies below"),
    ],
)
def test_wrong_names_are_found(planted, change: Callable[[Values], Values], kind: str, words: str) -> None:
    report = planted(names(change))
    assert words in said(report, kind)
    assert [row.case for row in propose([report])] == ["case_0007"]


def test_names_that_run_the_other_way_are_fatal(planted) -> None:
    report = planted(names(lambda v: np.where((v > 7) & (v < S1), 32 - v, 0)))
    assert "run the wrong way" in report.fatal[0]


def test_mixed_vertebrae_are_found(planted) -> None:
    def half_renamed(pair: Pair) -> None:
        pair.mask[halves(pair.mask, T8)[0]] = T9

    def two_names(pair: Pair) -> None:
        lower, _ = halves(pair.mask, T9)
        pair.mask = np.where((pair.mask >= T10) & (pair.mask < S1), pair.mask + 1, pair.mask).astype(np.uint8)
        pair.mask[lower] = T10

    def piece_inside(pair: Pair) -> None:
        inside = np.argwhere(pair.mask == T10)
        centre = np.median(inside, axis=0)
        near = inside[np.linalg.norm(inside - centre, axis=1) < 8]
        pair.mask[tuple(near.T)] = T7

    for fault, kind, words in ((half_renamed, "size", "T8"), (two_names, "size", "T9")):
        assert words in said(planted(fault), kind)
    report = planted(piece_inside)
    assert "T7 lies in T10" in said(report, "mixed") and "T7 touches T10" in said(report, "touch")


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_masks_flipped_or_moved_on_a_right_grid_are_found(planted, axis: int) -> None:
    def flipped(pair: Pair) -> None:
        pair.mask = np.flip(pair.mask, axis)

    def moved(pair: Pair) -> None:
        pair.mask = np.roll(pair.mask, 3, axis)

    # The whole of an image turned with its header left behind: the hazard of a geometry copied from the mask.
    report = planted(flipped)
    assert report.fatal or kinds(report) & {"flipped", "displaced", "order"}
    if axis < 2:
        assert ("left-right", "front-back")[axis] in said(report, "flipped")
    shift = said(planted(moved), "displaced").split("moved by ")[1].split(" mm")[0].split()
    assert float(shift[axis]) < 0 and not any(float(part) for part in np.delete(shift, axis))


def test_grids_values_and_headers(planted) -> None:
    def check(fault: Callable[[Pair], None], words: str) -> None:
        report = planted(fault)
        assert len(report.fatal) == 1 and words in report.fatal[0], report.fatal
        assert "it cannot be used" in propose([report])[0].reason

    def change(name: str, value: Callable[[Pair], object]) -> Callable[[Pair], None]:
        return lambda pair: setattr(pair, name, value(pair))

    off = np.zeros((4, 4))
    off[2, 3] = 3.0
    check(change("mask_affine", lambda p: p.mask_affine + off), "lie up to 3.00 mm from those of case_0007.nii")
    check(change("mask", lambda p: p.mask[:, :-1]), "belongs to another image")
    check(change("mask", lambda p: np.where(p.mask == T10, 26, p.mask)), "unknown label 26")
    check(change("mask", lambda p: p.mask * np.float32(0.5)), "labels are not whole numbers")
    check(change("image", lambda p: p.image + np.int16(1024)), "data.source.hu_offset")


def test_findings_that_are_no_faults_of_names(planted) -> None:
    def empty(pair: Pair) -> None:
        pair.mask[:] = 0

    def finer(pair: Pair) -> None:
        for affine in (pair.image_affine, pair.mask_affine):
            affine[:3, :3] *= 2 / 3

    assert said(planted(empty), "empty") == "empty: the mask has no labelled voxel"
    report = planted(finer)
    assert said(report, "spacing") == "spacing: 1 × 1 × 1 mm, expected 1.5 mm along each axis"
    assert propose([report]) == []


def test_one_mask_of_two_images(simulated: Path, tmp_path: Path) -> None:
    root = tmp_path / "set"
    shutil.copytree(simulated, root)
    volume, mask = (root / FOLDER / part / "case_0000.nii" for part in ("volumes", "segmentations"))
    image = nib.load(volume)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj) + np.int16(1), image.affine), volume.with_name("case_0009.nii"))
    shutil.copy(mask, mask.with_name("case_0009.nii"))
    reports = audited(root)
    assert said(reports["case_0009"], "duplicate") == "duplicate: same mask as case_0000"
    # Which of the two is wrong nobody can tell without looking.
    assert [row.case for row in propose(list(reports.values()))] == ["case_0000", "case_0009"]


def test_names_of_files_that_lie_about_their_bytes(simulated: Path, tmp_path: Path) -> None:
    root = tmp_path / "set"
    shutil.copytree(simulated, root)
    volume, mask = (root / FOLDER / part / "case_0000.nii" for part in ("volumes", "segmentations"))
    volume.rename(volume.with_suffix(".nii.gz"))
    mask.write_bytes(gzip.compress(mask.read_bytes(), 1))
    source = Kaggle(root)
    report = examine(source, source.cases()[0]).report
    assert report.case is not None and not report.fatal
    packing = {finding for finding in report.case.findings if finding.startswith("packing")}
    assert packing == {"packing: case_0000.nii.gz is not gzip", "packing: case_0000.nii is gzip"}
    assert propose([report]) == []
