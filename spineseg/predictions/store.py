"""The predictions folder: a label map and the slice instances of each case, and ``predictions.json`` beside them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, cast, get_args

import numpy as np

from spineseg.data.files import read_json, write_json, write_text
from spineseg.errors import DataError
from spineseg.geometry import Volume, canonical_grid
from spineseg.predictions.headers import read_extension
from spineseg.predictions.instances import SliceInstances
from spineseg.predictions.layouts import find_label_maps, read_label_map
from spineseg.predictions.masks import Rle
from spineseg.vertebrae import convention, level_name
from spineseg.volumes import is_volume, read_volume, write_volume

FOLDER_FORMAT: Final = "predictions 1"
SLICES_FORMAT: Final = "slices 1"
FOLDER_FILE: Final = "predictions.json"
_COMMAND: Final = "python -m spineseg.predict"

# Whether label values are levels, or only tell the vertebrae of a one-class model apart.
LabelKind = Literal["levels", "instances"]
# Whether slice instances are a detector's, which overlap, or the slices of a label map, which do not.
SliceKind = Literal["detections", "label_map"]


@dataclass(frozen=True)
class CasePrediction:
    """What a model says of one case.

    Attributes:
        case: id.
        labels: native grid; canonical level ids (uint8), or vertebrae numbered from cranial to caudal (uint16).
        kind: which of the two.
        slices: instances by slice index, canonical frame; None where only the label map exists (scores are then 1).
        slice_kind: where the slices' instances come from.
    """

    case: str
    labels: Volume
    kind: LabelKind
    slices: Mapping[int, SliceInstances] | None = None
    slice_kind: SliceKind = "label_map"


@dataclass(frozen=True)
class PredictionFolder:
    """A predictions folder, opened; any folder of label maps is one (``layouts``).

    Attributes:
        root: the folder.
        files: label map of each case, or its folder of one file a structure.
        kinds: what the label values of each case are; None without predictions.json, where each file's header says so
            if it is ours.
        failures: reason of each case that could not be predicted.
        slice_kind: where slice instances come from; without predictions.json each case's own file says it.
        score_threshold: of the exclusive map; None where validation did not give one.
        convention: of the label values of named maps; None where the folder does not say.
        provenance: what ``predict`` says of the model; empty for other tools' folders.
    """

    root: Path
    files: Mapping[str, Path]
    kinds: Mapping[str, LabelKind] | None = None
    failures: Mapping[str, str] = field(default_factory=dict)
    slice_kind: SliceKind = "label_map"
    score_threshold: float | None = None
    convention: str | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def read(self, case: str, convention_name: str = "verse", labels: LabelKind | None = None) -> CasePrediction:
        """Read one case; label values of a named map become canonical ids.

        Args:
            case: id.
            convention_name: of label values, where neither the folder nor the file itself says.
            labels: what label values are, where neither says; None = levels.

        Raises:
            DataError: no such case, a file that ``predict`` did not write, a damaged one, labels that the convention
                does not know, or that are said to be something else than they are.
            FormatError: slices or a header of another version.
        """
        if case not in self.files:
            raise DataError(f"{self.root}: no prediction of case '{case}'; expected {case}.nii.gz")
        if self.kinds is not None and case not in self.kinds:
            raise DataError(
                f"{self.files[case]}: {FOLDER_FILE} beside it does not list case '{case}', so that nobody knows what "
                "its label values mean; predict the case again, or move the file to a folder of its own"
            )
        path: Path = self.files[case]
        said = read_extension(path, FOLDER_FORMAT) if self.kinds is None else {"labels": self.kinds[case]}
        kind: LabelKind = (said or {}).get("labels", labels or "levels")
        if labels not in (None, kind):
            raise DataError(
                f"{path}: holds labels: {kind}, as `{_COMMAND}` wrote; leave prediction_labels={labels} out"
            )
        rule = self.convention or str((said or {}).get("convention", convention_name))
        # One file a structure names its levels, though nobody may want to score the names.
        named = kind == "levels" or path.is_dir()
        volume = read_label_map(path, rule) if named else read_volume(path)
        found = volume if kind == "levels" else volume.with_array(_numbers(volume, path))
        beside = self.root / f"{case}.json"
        if not beside.is_file():
            return CasePrediction(case, found, kind)
        if self.kinds is not None:
            return CasePrediction(case, found, kind, _read_slices(beside, found), self.slice_kind)
        slice_kind = _said_kind(beside)
        if slice_kind is None:
            return CasePrediction(case, found, kind)
        return CasePrediction(case, found, kind, _read_slices(beside, found), slice_kind)


def open_predictions(folder: Path) -> PredictionFolder:
    """Open a predictions folder of ours, or any folder of label maps in one of the ``layouts``.

    Raises:
        DataError: no such folder, no label map in it, or a prediction that was interrupted.
        FormatError: ``predictions.json`` of another version.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; expected one label map a case (<case>.nii.gz)")
    ours = (folder / FOLDER_FILE).is_file()
    files = {case: found.path for case, found in find_label_maps(folder, flat=ours).items()}
    if not ours:
        if not files:
            raise DataError(
                f"{folder}: holds no label map; expected <case>.nii.gz, <case>/vertebrae_L1.nii.gz … "
                "(TotalSegmentator) or …/<case>_seg-vert_msk.nii.gz (VerSe)"
            )
        return PredictionFolder(folder, files)
    content = read_json(folder / FOLDER_FILE, FOLDER_FORMAT, _COMMAND)
    try:
        if not content["complete"]:
            raise DataError(
                f"{folder}: predict was interrupted after {len(content['cases'])} cases; run `{_COMMAND}` again"
            )
        return PredictionFolder(
            root=folder,
            files=files,
            kinds={case: entry["labels"] for case, entry in content["cases"].items()},
            failures=content["failures"],
            slice_kind=content["slices"],
            score_threshold=content["score_threshold"],
            convention=content["convention"],
            provenance=content["provenance"],
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{folder / FOLDER_FILE}: damaged ({error!r}); `{_COMMAND}` writes it") from error


class PredictionWriter:
    """Write a predictions folder case by case; ``predictions.json`` says so until ``close`` that it is not complete.

    Args:
        folder: made if missing. What the same model wrote there before stays listed, and cases that are predicted again
            are written over; the same run's split is listed anew.
        provenance: model, versions, whether the data is simulated; plain values.
        score_threshold: of the exclusive map (PROTOCOL 5.6); None where there was no validation.
        slices: where the slice instances come from.
        label_convention: of the label values in the files of named models.

    Raises:
        DataError: the folder holds volumes that are not this model's predictions.
        ConfigError: a convention that nobody knows.
    """

    def __init__(
        self,
        folder: Path,
        *,
        provenance: Mapping[str, Any],
        score_threshold: float | None = None,
        slices: SliceKind = "detections",
        label_convention: str = "verse",
    ) -> None:
        self.folder = folder
        # Looked up before anything is predicted.
        self._level_of = convention(label_convention).table
        self._cases: dict[str, dict[str, Any]] = {}
        self._failures: dict[str, str] = {}
        self._head: dict[str, Any] = {
            "format": FOLDER_FORMAT,
            "convention": label_convention,
            "slices": slices,
            "score_threshold": score_threshold,
            "provenance": dict(provenance),
        }
        self._take_over()
        folder.mkdir(parents=True, exist_ok=True)
        self._write_folder_file(complete=False)

    def __enter__(self) -> "PredictionWriter":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.close()

    def write(
        self,
        case: str,
        labels: Volume,
        kind: LabelKind,
        slices: Sequence[SliceInstances] | None,
        *,
        seconds: float,
        peak_mb: float,
        peak_vram_mb: float | None = None,
        levels: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        """Write one case.

        Args:
            case: id.
            labels: on the native grid; values in the writer's convention (uint8, or uint16 where one of its values is
                above 255), or vertebrae numbered from 1 (uint16).
            kind: which of the two.
            slices: instances in the canonical frame; None = label map only.
            seconds: wall time of the case.
            peak_mb: peak memory in MB (10⁶ bytes).
            peak_vram_mb: of the GPU, where there is one.
            levels: of each level by name: body centre in mm, confidence.
        """
        wide = kind == "instances" or max(self._level_of) > np.iinfo(np.uint8).max
        array = labels.array.astype(np.uint16 if wide else np.uint8)
        if not np.array_equal(array, labels.array):
            raise DataError(f"case '{case}': label values beyond {array.dtype}; expected {kind}")
        if slices is not None:
            size = list(canonical_grid(labels.grid).shape[1:])
            content = {"format": SLICES_FORMAT, "case": case, "slices_of": self._head["slices"], "size": size}
            rows = [_slice_entry(s) for s in sorted(slices, key=lambda s: s.index) if len(s)]
            text = json.dumps(content | {"levels": dict(levels or {}), "slices": rows}, separators=(",", ":"))
            write_text(self.folder / f"{case}.json", text)
        else:
            (self.folder / f"{case}.json").unlink(missing_ok=True)
        write_volume(
            self.folder / f"{case}.nii.gz",
            Volume(array, labels.affine),
            extension={
                "format": FOLDER_FORMAT,
                "labels": kind,
                "convention": self._head["convention"],
                "names": self._value_names(array) if kind == "levels" else {},
            },
        )
        self._failures.pop(case, None)
        self._cases[case] = {"labels": kind, "seconds": round(seconds, 3), "peak_mb": round(peak_mb, 1)}
        if peak_vram_mb is not None:
            self._cases[case]["peak_vram_mb"] = round(peak_vram_mb, 1)
        self._write_folder_file(complete=False)

    def _value_names(self, array: np.ndarray[Any, np.dtype[Any]]) -> dict[str, str]:
        """Level name of each value that occurs, for readers who do not know the convention."""
        present = np.flatnonzero(np.bincount(array.ravel())).tolist()
        return {str(value): level_name(self._level_of[value]) for value in present if value in self._level_of}

    def fail(self, case: str, reason: str) -> None:
        """Record that a case could not be predicted."""
        self._failures[case] = reason
        # An earlier prediction of it, if this folder lists one, is no longer this model's word.
        if self._cases.pop(case, None) is not None:
            for name in (f"{case}.nii.gz", f"{case}.json", f"{case}.png"):
                (self.folder / name).unlink(missing_ok=True)
        self._write_folder_file(complete=False)

    def close(self) -> None:
        """Declare the folder complete."""
        self._write_folder_file(complete=True)

    def _take_over(self) -> None:
        """Keep what the same model predicted here before; refuse to mix two models, or to write over scans."""
        file = self.folder / FOLDER_FILE
        if not file.is_file():
            found = sorted(p.name for p in self.folder.iterdir() if is_volume(p)) if self.folder.is_dir() else []
            if found:
                raise DataError(
                    f"{self.folder}: holds volumes that `{_COMMAND}` did not write ({', '.join(found[:3])}"
                    f"{', …' if len(found) > 3 else ''}); give an empty or new folder"
                )
            return
        content = read_json(file, FOLDER_FORMAT, _COMMAND)
        old, new = content["provenance"], self._head["provenance"]
        if "split" in new and [old.get(key) for key in ("run", "split")] == [new.get("run"), new["split"]]:
            return  # a run scores its split again: all cases are predicted anew
        # As it would be read back: tuples become lists.
        head = json.loads(json.dumps(self._head))
        differing = [key for key in head if content.get(key) != head[key]]
        if differing and (content["cases"] or content["failures"]):
            raise DataError(
                f"{self.folder}: holds predictions of another model or with other settings (differing: "
                f"{', '.join(differing)}; there: run {old.get('run', 'unknown')}); give another folder, or remove "
                "this one first"
            )
        self._cases = {
            case: entry for case, entry in content["cases"].items() if (self.folder / f"{case}.nii.gz").is_file()
        }
        self._failures = dict(content["failures"])

    def _write_folder_file(self, *, complete: bool) -> None:
        content = self._head | {"complete": complete, "cases": self._cases, "failures": self._failures}
        write_json(self.folder / FOLDER_FILE, content)


def _slice_entry(s: SliceInstances) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "index": s.index,
        "rle": [rle["counts"] for rle in s.masks],
        # The shortest text that gives the same float32 again: equal ranks, small files.
        "score": [float(str(score)) for score in s.scores],
        "level": [int(level) or None for level in s.levels],
        "box": [[round(float(edge), 3) for edge in box] for box in s.boxes],
    }
    if s.probabilities is not None:
        entry["classes"] = list(s.classes)
        entry["distribution"] = [[round(float(p), 5) for p in row] for row in s.probabilities]
    return entry


def _read_slices(path: Path, labels: Volume) -> dict[int, SliceInstances]:
    content = read_json(path, SLICES_FORMAT, _COMMAND)
    count, height, width = canonical_grid(labels.grid).shape
    if content["size"] != [height, width]:
        raise DataError(
            f"{path}: slices of size {content['size']}; expected [Y, Z] = {[height, width]} of the label map"
        )
    try:
        found = {row["index"]: _slice(row, (height, width)) for row in content["slices"]}
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: damaged slices ({error!r}); `{_COMMAND}` writes them") from error
    if beyond := [index for index in found if not 0 <= index < count]:
        raise DataError(f"{path}: slice {beyond[0]}; expected 0 to {count - 1}")
    return found


def _slice(row: Mapping[str, Any], size: tuple[int, int]) -> SliceInstances:
    return SliceInstances(
        index=row["index"],
        size=size,
        masks=tuple(Rle(size=list(size), counts=counts) for counts in row["rle"]),
        scores=np.array(row["score"], np.float32),
        levels=np.array([level or 0 for level in row["level"]], np.int64),
        boxes=np.array(row["box"], np.float64),
        probabilities=np.array(row["distribution"], np.float32) if "distribution" in row else None,
        classes=tuple(row.get("classes", ())),
    )


def _said_kind(path: Path) -> SliceKind | None:
    """Where a case's slices come from, if the file is ours and says it; else it is another tool's own."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    ours = isinstance(content, dict) and str(content.get("format", "")).startswith(SLICES_FORMAT.split()[0] + " ")
    said = content.get("slices_of") if ours else None
    return cast(SliceKind, said) if said in get_args(SliceKind) else None


def _numbers(volume: Volume, path: Path) -> np.ndarray[Any, np.dtype[np.uint16]]:
    numbers = volume.array.astype(np.uint16)
    if not np.array_equal(numbers, volume.array):
        raise DataError(f"{path}: expected whole numbers 0 to 65535 that tell vertebrae apart")
    return numbers
