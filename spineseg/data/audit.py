"""The audit: every case is read once and judged; all that is wrong is known before any training starts."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from spineseg.data.alignment import check_alignment
from spineseg.data.cases import Case, RawCase, column_order
from spineseg.data.column import check_column
from spineseg.data.files import write_json
from spineseg.data.plausibility import (
    Verdict,
    check_hounsfield,
    check_levels,
    content_box,
    cut_levels,
    level_shapes,
)
from spineseg.data.sources.base import Source
from spineseg.errors import DataError, SpinesegError
from spineseg.geometry import Volume, canonical

AUDIT_FORMAT: Final = "audit 1"
# Raised when a case may be judged otherwise than before: what is known of it is then found anew.
AUDIT_RULES: Final = 2
# Finer is micro-CT, coarser is a localiser; or the header is in other units.
SPACING_MM: Final = (0.1, 10.0)


@dataclass(frozen=True)
class Report:
    """What the audit knows of one case: a row for ``cases.csv`` if the files can be read, and what is fatally wrong.

    ``facts`` are plain numbers for ``audit.json``: air peak and bone mean in HU, voxels of each level.
    """

    id: str
    case: Case | None
    fatal: tuple[str, ...]
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Examined:
    """A report with the volumes that were read for it, so that nobody reads them again."""

    report: Report
    image: Volume | None
    labels: Volume | None


def examine(source: Source, raw: RawCase) -> Examined:
    """Read a case once and judge it; what cannot be read becomes a fatal finding, never an exception."""
    fatal: list[str] = []
    findings: list[str] = []
    image_path = source.root / raw.image
    findings.extend(message for path in source.files(raw) for message in _packing(path))
    image = _attempt(lambda: source.read_image(raw), image_path, fatal)
    labels: Volume | None = None
    if raw.label is not None:
        before = list(fatal)
        labels = _attempt(lambda: source.read_labels(raw), source.root / raw.label, fatal)
        # A damaged image header shows when the mask is brought to the image's grid, too: say it once.
        if image is None and any(str(image_path) in message for message in fatal[len(before) :]):
            fatal = before
    elif source.mask_required:
        fatal.append(
            f"{image_path}: case '{raw.id}' has no mask; expected one beside it. Add it, or leave the case out "
            f"(data.source.exclude=[{raw.id}])"
        )
    else:
        findings.append("no mask: not used for training")
    if image is None:
        return Examined(Report(raw.id, None, tuple(fatal)), None, labels)
    return _judge(source, raw, image, labels, fatal, findings)


def _judge(
    source: Source, raw: RawCase, image: Volume, labels: Volume | None, fatal: list[str], findings: list[str]
) -> Examined:
    facts: dict[str, Any] = {}
    if not all(SPACING_MM[0] <= value <= SPACING_MM[1] for value in image.spacing_mm):
        spacing = " × ".join(f"{value:g}" for value in image.spacing_mm)
        findings.append(f"spacing: {spacing} mm, expected {SPACING_MM[0]} to {SPACING_MM[1]} along each axis")
    elif source.expected_spacing_mm and not np.allclose(image.spacing_mm, source.expected_spacing_mm, rtol=1e-3):
        spacing = " × ".join(f"{value:g}" for value in image.spacing_mm)
        findings.append(f"spacing: {spacing} mm, expected {source.expected_spacing_mm:g} mm along each axis")
    levels: tuple[int, ...] = ()
    cut: tuple[int, ...] = ()
    if source.hounsfield:
        verdict = check_hounsfield(image.array, None if labels is None else labels.array)
        _note(verdict, source.root / raw.image, fatal, findings)
        facts |= {"air_peak_hu": verdict.air_peak_hu, "bone_mean_hu": _rounded(verdict.bone_mean_hu)}
    if labels is not None and raw.label is not None:
        if source.labels == "instances":
            facts["instances"] = int(np.count_nonzero(np.bincount(labels.array.ravel())[1:]))
        else:
            shapes = level_shapes(labels)
            levels = column_order(shapes)
            facts["level_voxels"] = {str(level): shapes[level].voxels for level in levels}
            cut = column_order(cut_levels(shapes.values(), content_box(image.array)))
            verdict = check_levels(shapes, labels.affine, source.levels, source.expected_levels, cut)
            _note(verdict, source.root / raw.label, fatal, findings)
            findings.extend(check_column(shapes, cut, float(np.prod(labels.spacing_mm))))
        if source.hounsfield and not fatal:
            findings.extend(check_alignment(canonical(image), canonical(labels)))
    case = Case(
        id=raw.id,
        subject=raw.subject,
        source=source.name,
        image=raw.image,
        label=raw.label if labels is not None else None,
        shape=image.shape,
        spacing_mm=image.spacing_mm,
        orientation=image.orientation,
        levels=levels,
        cut_levels=cut,
        findings=tuple(findings),
        image_sha256=content_sha256(image),
        label_sha256=None if labels is None else content_sha256(labels),
    )
    return Examined(Report(raw.id, case, tuple(fatal), facts), image, labels)


def content_sha256(volume: Volume) -> str:
    """SHA-256 of the voxels in canonical order and their shape.

    Not of the file: the same scan is found again when it was compressed, converted or flipped in its storage.
    """
    array = np.ascontiguousarray(canonical(volume).array)
    digest = hashlib.sha256(f"{array.dtype.str}{array.shape}".encode())
    digest.update(array.data)
    return digest.hexdigest()


def across_cases(reports: Sequence[Report]) -> list[Report]:
    """Add what only all cases together show: one image or one mask under two names.

    Two subjects with one image would leak over a split, so that is fatal; one subject's repeated scan, and equal masks
    of different images, are findings.
    """
    images: dict[str, list[Case]] = defaultdict(list)
    masks: dict[str, list[Case]] = defaultdict(list)
    for report in reports:
        if report.case is not None:
            images[report.case.image_sha256].append(report.case)
            if report.case.label_sha256 is not None and report.case.levels:
                masks[report.case.label_sha256].append(report.case)
    result = []
    for report in reports:
        case = report.case
        if case is None:
            result.append(report)
            continue
        fatal, findings = list(report.fatal), list(case.findings)
        twins = [other for other in images[case.image_sha256] if other.id != case.id]
        strangers = [other for other in twins if other.subject != case.subject]
        # Each pair once, at its later case.
        if first := [other for other in strangers if other.id < case.id]:
            fatal.append(
                f"{case.image}: the same image as {first[0].image} of another subject ('{first[0].subject}'); expected "
                f"each scan once. Leave one out (data.source.exclude=[{case.id}])"
            )
        if kin := [other.id for other in twins if other.subject == case.subject]:
            findings.append(f"duplicate: same image as {' '.join(kin)}")
        same_mask = [] if case.label_sha256 is None else masks[case.label_sha256]
        if others := [other.id for other in same_mask if other.image_sha256 != case.image_sha256]:
            findings.append(f"duplicate: same mask as {' '.join(others)}")
        result.append(replace(report, case=replace(case, findings=tuple(findings)), fatal=tuple(fatal)))
    return result


def write_audit(path: Path, reports: Sequence[Report], source: Source) -> None:
    """Write ``audit.json``: for each case its fatal findings, warnings and facts."""
    write_json(
        path,
        {
            "format": AUDIT_FORMAT,
            "source": source.name,
            "simulated": source.simulated,
            "cases_with_fatal_findings": sum(bool(report.fatal) for report in reports),
            "cases_with_findings": sum(bool(report.case and report.case.findings) for report in reports),
            **{
                report.id: {
                    "fatal": list(report.fatal),
                    "findings": list(report.case.findings) if report.case else [],
                    **report.facts,
                }
                for report in reports
            },
        },
    )


def refuse(reports: Iterable[Report], where: Path) -> None:
    """Stop if any case has a fatal finding.

    Raises:
        DataError: all of them, one a line.
    """
    lines = [f"{report.id}: {message}" for report in reports for message in report.fatal]
    if lines:
        raise DataError(
            f"{len(lines)} fatal finding{'s' if len(lines) > 1 else ''} in the data; nothing was prepared "
            f"(all findings: {where}):\n  " + "\n  ".join(lines)
        )


def _packing(path: Path) -> Iterable[str]:
    """Say where a NIfTI's name and bytes disagree: read here, but other programs go by the name and fail."""
    if path.name.lower().endswith((".nii", ".nii.gz")) and path.is_file():
        with path.open("rb") as stream:
            packed = stream.read(2) == b"\x1f\x8b"
        if packed != path.name.lower().endswith(".gz"):
            yield f"packing: {path.name} is {'' if packed else 'not '}gzip"


def _attempt(read: Callable[[], Volume], path: Path, fatal: list[str]) -> Volume | None:
    try:
        return read()
    except (SpinesegError, OSError) as error:
        fatal.append(str(error))
    except MemoryError as error:
        raise DataError(f"{path}: not enough memory to read it; set workers=1") from error
    except Exception as error:  # damaged headers make format libraries raise whatever; one file must not stop the audit
        fatal.append(
            f"{path}: cannot be read ({type(error).__name__}: {error}); it is damaged: copy or download it again"
        )
    return None


def _note(verdict: Verdict, path: Path, fatal: list[str], findings: list[str]) -> None:
    fatal.extend(f"{path}: {message}" for message in verdict.fatal)
    findings.extend(message.replace("; ", ", ") for message in verdict.findings)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)
