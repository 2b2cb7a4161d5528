"""The cases of a page: what its viewer draws, and how the models did on them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from spineseg.reporting.case_scores import CaseScore, shown_runs
from spineseg.reporting.case_views import CaseView, case_views, color_of, present_levels, shrunk
from spineseg.reporting.mesh import label_meshes
from spineseg.reporting.settings import label_runs
from spineseg.reporting.volumes3d import encode_labels, encode_meshes, encode_scan
from spineseg.vertebrae import LEVELS, ORDER, level_id, level_name, rank

if TYPE_CHECKING:
    from spineseg.reporting.runs import ScoredRun

# More label maps than this side by side can no longer be compared, and make the page heavy.
MOST_MAPS: Final = 6


@dataclass(frozen=True)
class DiceCell:
    """A level's Dice as text, and its step of ten for the colour; None = no value."""

    text: str
    shade: int | None


@dataclass(frozen=True)
class DiceRow:
    """A model's Dice in a case."""

    label: str
    mean: str
    cells: tuple[DiceCell, ...]


@dataclass(frozen=True)
class PageCase:
    """A case as the page takes it; ``data`` is JSON for the viewer."""

    number: int
    title: str
    lead: str
    notes: tuple[str, ...]
    has_reference: bool
    levels: tuple[Mapping[str, Any], ...]
    maps: tuple[Mapping[str, str], ...]
    dice: tuple[DiceRow, ...]
    data: str


def page_case(
    runs: Sequence["ScoredRun"], score: CaseScore, number: int, labels: Mapping[str, str] | None = None
) -> PageCase:
    """Gather, shrink and encode a case.

    Args:
        runs: of the report; those that predicted the case are shown, one a model.
        score: of the case.
        number: its place on the page.
        labels: recipe → name of the model.

    Raises:
        DataError: nothing of the case can be read.
    """
    models, seeds = shown_runs(list(zip(label_runs(runs, labels or {}), runs, strict=True)), score)
    drawn, beyond = models[:MOST_MAPS], models[MOST_MAPS:]
    names = {run.name: label for label, run in drawn}
    whole = case_views([run for _, run in drawn], score.case, score.source)
    view = shrunk(whole)
    notes = [*view.notes]
    if seeds:
        notes.append(f"one seed a model is drawn; other seeds: {'; '.join(seeds)}")
    if beyond:
        notes.append(f"{MOST_MAPS} models are drawn at most; not drawn: {'; '.join(label for label, _ in beyond)}")
    levels = sorted({*present_levels(view), *_scored_levels(score)}, key=rank)
    maps = [{"label": "Reference", "dice": ""}] if view.reference is not None else []
    maps += [{"label": names[name], "dice": f"Dice {_dice_text(score, name)}"} for name in view.predictions]
    return PageCase(
        number=number,
        title=score.case if score.subject == score.case else f"{score.case} (subject {score.subject})",
        lead=_lead(score, whole, view),
        notes=tuple(notes),
        has_reference=view.reference is not None and bool(view.predictions),
        levels=tuple(
            {"id": level, "name": level_name(level), "color": f"rgb{LEVELS[level].color}"} for level in levels
        ),
        maps=tuple(maps),
        dice=_dice_rows(score, names, levels),
        data=json.dumps(viewer_data(view), separators=(",", ":")).replace("<", "\\u003c"),
    )


def viewer_data(view: CaseView) -> dict[str, Any]:
    """What the page's viewer takes: shape, spacing, scan, label maps with their meshes, names and colours."""
    maps = []
    for run, volume, named in view.maps:
        maps.append(
            {
                "reference": run is None,
                "named": named,
                "labels": encode_labels(volume.array),
                "mesh": encode_meshes(label_meshes(volume)),
            }
        )
    return {
        "shape": list(view.volume.shape),
        "spacing_mm": [round(value, 5) for value in view.spacing_mm],
        "scan": None if view.image is None else encode_scan(view.image.array),
        "maps": maps,
        "levels": {str(level.id): [level.name, list(level.color)] for level in LEVELS.values()},
        "numbers": [list(color_of(value, named=False)) for value in range(1, len(ORDER) + 1)],
    }


def _lead(score: CaseScore, whole: CaseView, view: CaseView) -> str:
    size = " × ".join(str(n) for n in view.volume.shape)
    step = " × ".join(f"{value:.3g}" for value in view.spacing_mm)
    native = " × ".join(f"{value:.3g}" for value in whole.spacing_mm)
    source = f"{score.source}: " if score.source else ""
    return (
        f"{source}mean Dice {score.mean:.3f} over {len(score.dice)} run{'s' * (len(score.dice) != 1)}. "
        f"Shown: what is labelled and 20 mm around it, {size} voxels of {step} mm (the scan's: {native} mm)."
    )


def _dice_rows(score: CaseScore, labels: Mapping[str, str], levels: Sequence[int]) -> tuple[DiceRow, ...]:
    if not score.levels:
        return ()
    rows = []
    for name, label in labels.items():
        values = score.levels.get(name, {})
        cells = [values.get(level_name(level)) for level in levels]
        rows.append(DiceRow(label, _dice_text(score, name), tuple(_dice_cell(value) for value in cells)))
    return tuple(rows)


def _dice_cell(value: float | None) -> DiceCell:
    return DiceCell("–", None) if value is None else DiceCell(f"{value:.2f}", int(min(max(value, 0), 1) * 10))


def _dice_text(score: CaseScore, name: str) -> str:
    """A run's Dice in a case; one without levels has that of the whole spine."""
    return f"{score.dice[name]:.3f}{'' if name in score.levels else ' (spine)'}"


def _scored_levels(score: CaseScore) -> set[int]:
    return {level_id(name) for values in score.levels.values() for name in values}
