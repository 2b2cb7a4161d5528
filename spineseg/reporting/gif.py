"""An animated pass through a scan from side to side, reference and prediction side by side."""

import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from spineseg.errors import DataError
from spineseg.reporting.case_views import CaseView, LabelMap, color_of, shrunk
from spineseg.reporting.overlay import OPACITY, WIDTH_PX, WINDOW_HU
from spineseg.vertebrae import LEVELS, level_name

# Tried in turn until the file is small enough: height of a panel in pixels, and how many slices are shown.
_SIZES: Final = ((400, 48), (360, 40), (320, 32), (280, 28), (240, 24), (200, 20), (160, 16), (120, 12))
_HEADER_PX: Final = 20
_GAP_PX: Final = 4
_GRAYS: Final = 48
_FRAME_MS: Final = 140
_WARNING: Final = (255, 200, 90)

Rgb = NDArray[np.uint8]
Panel = tuple[str, LabelMap]


def write_gif(
    view: CaseView, path: Path, *, run: str | None = None, label: str | None = None, most_mb: float = 3
) -> None:
    """Write an animated GIF through a case: sagittal slices from the patient's right to left, labels over them.

    Head up, front of the body on the left. Without a reference the prediction stands alone; without a scan the labels
    stand on black. "SIMULATED" is written into every frame of a simulated case, "OVERFIT" into those of such a check.

    Args:
        view: a case; it is cut to what is labelled.
        path: of the GIF; written atomically.
        run: whose prediction is shown; None = the first.
        label: what is written above it; None = the run's name.
        most_mb: size of the file in MB (10⁶ bytes); frames get smaller and fewer until it holds.

    Raises:
        DataError: no prediction of that run, or no size is small enough.
    """
    name = next(iter(view.predictions), None) if run is None else run
    if name is None or name not in view.predictions:
        raise DataError(f"case '{view.case}': no prediction of {run or 'any run'}; found {', '.join(view.predictions)}")
    small = shrunk(view, longest=256, voxels=6e6)
    maps = [each for each in small.maps if each.run in (None, name)]
    panels = [("Reference" if each.run is None else label or name, each) for each in maps]
    shown = {(int(value), named) for _, labels, named in maps for value in np.unique(labels.array) if value}
    colors = sorted({color_of(value, named=named) for value, named in shown})
    pixel_bytes = 0.0
    for height, count in _SIZES:
        # A size that the last one's bytes a pixel make hopeless is not tried, the smallest apart.
        if pixel_bytes * height**2 * count > 1.3e6 * most_mb and (height, count) != _SIZES[-1]:
            continue
        content = _encoded(_frames(small, panels, height, count), colors)
        pixel_bytes = len(content) / (height**2 * count)
        if len(content) <= most_mb * 1e6:
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(f".partial-{path.name}")
            partial.write_bytes(content)
            partial.replace(path)
            return
    raise DataError(f"case '{view.case}': no GIF of {most_mb} MB can show it; allow more")


def _frames(view: CaseView, panels: Sequence[Panel], height: int, count: int) -> Iterator[Image.Image]:
    marked = np.zeros(view.volume.shape[0], np.bool_)
    for _, (_, labels, _) in panels:
        marked |= (labels.array > 0).any(axis=(1, 2))
    span = np.flatnonzero(marked) if marked.any() else np.arange(len(marked))
    chosen = np.unique(np.linspace(span[-1], span[0], min(count, len(span))).round().astype(int))[::-1]
    return (_frame(view, panels, int(x), height) for x in chosen)


def _frame(view: CaseView, panels: Sequence[Panel], x: int, height: int) -> Image.Image:
    _, y_mm, z_mm = view.spacing_mm
    _, y, z = view.volume.shape
    # A few axial slices are wide and low.
    ratio = (y * y_mm) / (z * z_mm)
    height = max(1, round(min(height, WIDTH_PX / ratio)))
    width = max(60, round(height * ratio))
    across = len(panels) * (width + _GAP_PX) - _GAP_PX
    frame = Image.new("RGB", (across, height + 2 * _HEADER_PX))
    draw = ImageDraw.Draw(frame)
    banner = "SIMULATED  " * view.simulated + "OVERFIT  " * view.overfit
    _write(draw, f"{banner}{view.case}", 0, _HEADER_PX + height, across, _WARNING if banner else None)
    gray = _gray(view.image.array[x] if view.image is not None else None, (y, z))
    for number, (title, (_, labels, named)) in enumerate(panels):
        left = number * (width + _GAP_PX)
        _write(draw, title, left, 0, width)
        tile = _tile(gray, labels.array[x], named, (width, height))
        frame.paste(tile, (left, _HEADER_PX))
    return frame


def _gray(hu: NDArray[np.generic] | None, shape: tuple[int, int]) -> Rgb:
    """A slice (Y, Z) in few grays: what noise there is must not fill the file."""
    if hu is None:
        return np.zeros(shape, np.uint8)
    low, high = WINDOW_HU
    share = np.clip((hu.astype(np.float32) - low) / (high - low), 0, 1)
    return np.asarray((share * (_GRAYS - 1)).round() * (255 / (_GRAYS - 1)), np.uint8)


def _tile(gray: Rgb, labels: NDArray[np.integer], named: bool, size: tuple[int, int]) -> Image.Image:
    rgb = np.repeat(gray[:, :, None], 3, axis=2).astype(np.float32)
    present = [int(value) for value in np.unique(labels) if value]
    for value in present:
        where = labels == value
        rgb[where] = (1 - OPACITY) * rgb[where] + OPACITY * np.array(color_of(value, named=named), np.float32)
    # (Y, Z) → rows from head to foot, columns from front to back.
    upright = np.ascontiguousarray(rgb.round().astype(np.uint8).transpose(1, 0, 2)[::-1, ::-1])
    tile = Image.fromarray(upright).resize(size, Image.Resampling.BILINEAR)
    draw, font = ImageDraw.Draw(tile), ImageFont.load_default(10)
    for value in present:
        places = np.argwhere(labels == value)
        if len(places) < 30:
            continue
        y, z = places.mean(axis=0) + 0.5
        place = (size[0] * (1 - y / labels.shape[0]), size[1] * (1 - z / labels.shape[1]))
        text = level_name(value) if named and value in LEVELS else str(value)
        draw.text(place, text, fill=(255, 255, 255), font=font, anchor="mm", stroke_width=1, stroke_fill=(0, 0, 0))
    return tile


def _write(
    draw: ImageDraw.ImageDraw, text: str, left: int, top: int, width: int, color: tuple[int, int, int] | None = None
) -> None:
    """A line of text, its end cut where it is too long."""
    font = ImageFont.load_default(12)
    while text and draw.textlength(text, font=font) > width - 6:
        text = text[:-1]
    draw.text((left + 3, top + 3), text, fill=color or (235, 235, 235), font=font)


def _encoded(frames: Iterable[Image.Image], colors: list[tuple[int, int, int]]) -> bytes:
    """One palette for all frames, made for what they hold, so that colours neither flicker nor fade to gray.

    Frames are taken one by one: as indices they need a third of the memory.
    """
    palette = Image.new("P", (1, 1))
    palette.putpalette([channel for color in _palette(colors) for channel in color])
    indexed = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    stream = io.BytesIO()
    indexed[0].save(
        stream, format="GIF", save_all=True, append_images=indexed[1:], duration=_FRAME_MS, loop=0, disposal=1
    )
    return stream.getvalue()


def _palette(colors: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """At most 256 colours: grays, the banner's, and each label's colour over a few grays."""
    found = [(round(255 * n / (_GRAYS - 1)),) * 3 for n in range(_GRAYS)] + [_WARNING]
    shades = max(2, min(8, (256 - len(found)) // max(1, len(colors))))
    for color in colors:
        for gray in np.linspace(0, 255, shades):
            blend = (1 - OPACITY) * gray + OPACITY * np.array(color)
            found.append((round(blend[0]), round(blend[1]), round(blend[2])))
    return found[:256]
