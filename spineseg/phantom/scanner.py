"""The scanner: kernel, slice profile, metal's streaks, calibration, noise, padding and number format."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import correlate1d, gaussian_filter1d

from spineseg.phantom.difficulty import DIFFICULTIES
from spineseg.phantom.draws import Draws
from spineseg.phantom.metal import Implant, lay_metal, streaks
from spineseg.phantom.shapes import Array, VoxelGrid

Kernel = Literal["smooth", "standard", "sharp"]

# Range of the point spread's FWHM (mm), noise relative to the standard kernel, and gain and width (mm) of the
# enhancement of edges.
_KERNELS: Final[dict[Kernel, tuple[tuple[float, float], float, tuple[float, float], float]]] = {
    "smooth": ((1.2, 1.6), 0.55, (0.0, 0.0), 1.0),
    "standard": ((0.85, 1.15), 1.0, (0.0, 0.2), 1.0),
    "sharp": ((0.65, 0.85), 2.2, (0.3, 0.8), 1.1),
}
_THICKNESSES: Final = (0.75, 1.0, 1.5, 2.0, 2.5, 3.0, 5.0)  # mm
_PADDING: Final = (-1024, -2000, -3024)
_FWHM_TO_SIGMA: Final = 1 / 2.3548
_SHARED: Final = 0.4  # of a slice's noise, that is its neighbour's
_SLICES: Final = 16  # worked on at a time; bounds memory


@dataclass(frozen=True)
class Settings:
    """A scanner's settings.

    ``slice_mm`` is the slices' thickness and ``step_mm`` their distance: when it is more than the grid's, the scan
    was resampled. ``noise_hu`` is the sd in soft tissue of the scan as it is stored. ``padding`` is what lies outside
    the circle of reconstruction, None when the field shows none of it.
    """

    kernel: Kernel
    psf_fwhm_mm: float
    edge_gain: float
    slice_mm: float
    step_mm: float
    noise_hu: float
    streak: float
    cupping_hu: float
    scale: float
    offset_hu: float
    padding: int | None

    def facts(self) -> dict[str, float | str | None]:
        """Plain numbers and names, rounded."""
        return {k: round(v, 4) if isinstance(v, float) else v for k, v in asdict(self).items()}


def draw_settings(rng: np.random.Generator, layout: str, difficulty: str, grid: VoxelGrid) -> Settings:
    """Draw a scanner; the number of draws does not depend on the values drawn.

    CSI 2014 is stored as it was scanned; Kaggle's volumes are resampled from slices of many thicknesses.
    """
    spread = DIFFICULTIES[difficulty]
    draws = Draws(rng)
    pick, sharp, edge, thin, overlap, dose, streak, cup, pad, kind = (draws.uniform() for _ in range(10))
    scale, offset = (draws.normal(0.0, 1.0, -2.0, 2.0) for _ in range(2))
    kernel = list(_KERNELS)[min(2, int(np.searchsorted(np.cumsum(spread.kernels), pick)))]
    (low, high), louder, (least, most), _ = _KERNELS[kernel]
    choices = [mm for mm in _THICKNESSES if mm <= spread.slice_mm]
    thickness = step = grid.spacing[2]
    if layout != "csi2014":
        thickness = choices[int(thin * len(choices))]
        step = thickness if overlap < 0.6 else 0.7 * thickness
    base = spread.noise_hu[0] + dose * (spread.noise_hu[1] - spread.noise_hu[0])
    return Settings(
        kernel=kernel,
        psf_fwhm_mm=low + sharp * (high - low),
        edge_gain=least + edge * (most - least),
        slice_mm=thickness,
        step_mm=max(step, grid.spacing[2]),
        noise_hu=float(np.clip(base * louder * np.sqrt(2.0 / max(1.0, thickness)), 4.0, 70.0)),
        streak=streak * spread.streak,
        cupping_hu=12.0 * cup * (spread.calibration > 0),
        scale=1.0 + scale * spread.calibration,
        offset_hu=300.0 * offset * spread.calibration,
        padding=_PADDING[int(kind * len(_PADDING))] if pad < spread.padded_share else None,
    )


def scan(
    settings: Settings,
    noise_rng: np.random.Generator,
    canvas: Array,
    grid: VoxelGrid,
    implants: tuple[Implant, ...] = (),
    broad_z: Sequence[float] = (),
) -> NDArray[np.int16]:
    """Turn true HU into a scan.

    Args:
        settings: the scanner's.
        noise_rng: of the noise.
        canvas: (X, Y, Z) true HU averaged over each voxel; overwritten.
        grid: its grid.
        implants: metal that the person bears.
        broad_z: heights (mm) of shoulders and hips, which starve the rays along x.

    Returns:
        int16 HU from -1024 to 3071, and padding.
    """
    # A stream each: streaks leave the noise as it is.
    starved, horizontal = noise_rng.spawn(2)
    metal = lay_metal(canvas, grid, implants)
    point_spread(canvas, grid, settings.psf_fwhm_mm)
    slice_profile(canvas, grid, settings)
    nx, ny, nz = grid.shape
    out = np.empty(canvas.shape, dtype=np.int16)
    x, y = (np.arange(n, dtype=np.float32) * np.float32(grid.spacing[0]) for n in (nx, ny))
    away = (x - x[-1] / 2)[:, None] ** 2 + (y - y[-1] / 2)[None, :] ** 2
    # Rays through the middle of the body are weakest: most noise, and beam hardening lowers HU.
    middle = np.exp(-away / np.float32(2 * 130.0**2))
    louder = 0.6 + 0.4 * middle
    louder = (louder / np.sqrt((louder**2).mean()))[:, :, None]
    outside = away > (max(float(x[-1]), float(y[-1])) / 2) ** 2
    noise = _Noise(noise_rng, (nx, ny), grid, settings)
    weights = np.zeros(nz, dtype=np.float32)
    for height in broad_z:
        weights = np.maximum(weights, np.exp(-(((grid.axis(2) - np.float32(height)) / np.float32(38.0)) ** 2)))
    edge = _KERNELS[settings.kernel][3] / grid.spacing[0]
    for start in range(0, nz, _SLICES):
        block = canvas[:, :, start : start + _SLICES]
        if settings.edge_gain:
            soft = gaussian_filter1d(gaussian_filter1d(block, edge, axis=0, truncate=3.0), edge, axis=1, truncate=3.0)
            block += np.float32(settings.edge_gain) * (block - soft)
        block -= np.float32(settings.cupping_hu) * middle[:, :, None] * np.clip((block + 1000.0) / 1000.0, 0.0, 1.0)
        block += noise.slices(start, start + block.shape[2]) * louder
        for k in range(block.shape[2]):
            share = settings.streak * float(weights[start + k])
            if share > 0.05:
                block[:, :, k] += np.float32(share * settings.noise_hu) * _horizontal(horizontal, (nx, ny), grid)
            points = metal[metal[:, 2] == start + k][:, :2]
            if len(points):
                block[:, :, k] += streaks(starved, points, grid)
        block += np.float32(settings.scale - 1.0) * (block + 1000.0) + np.float32(settings.offset_hu)
        values = np.clip(np.rint(block), -1024, 3071).astype(np.int16)
        if settings.padding is not None:
            values[outside] = settings.padding
        out[:, :, start : start + _SLICES] = values
    return out


def point_spread(canvas: Array, grid: VoxelGrid, fwhm_mm: float) -> None:
    """Blur in the plane of the slices, in place; a voxel's average is blur already."""
    pixel = grid.spacing[0]
    variance = (fwhm_mm * _FWHM_TO_SIGMA) ** 2 - pixel**2 / 12
    if variance < (0.15 * pixel) ** 2:
        return
    for axis in (0, 1):
        # In pieces along another axis: SciPy copies what it filters in place.
        for start in range(0, canvas.shape[2], _SLICES):
            piece = canvas[:, :, start : start + _SLICES]
            piece[...] = gaussian_filter1d(piece, variance**0.5 / pixel, axis=axis, mode="nearest", truncate=3.0)


def slice_profile(canvas: Array, grid: VoxelGrid, settings: Settings) -> None:
    """Average over the thickness of the slices, and interpolate between those that were scanned, in place."""
    spacing, nz = grid.spacing[2], grid.shape[2]
    # A box as wide as the slice, with partial voxels at its ends; thin slices keep a trace of their neighbours.
    width = max(settings.slice_mm / spacing, 1.15)
    reach = int(np.ceil((width - 1) / 2))
    weights = np.clip((width + 1) / 2 - np.abs(np.arange(-reach, reach + 1)), 0.0, 1.0)
    weights /= weights.sum()
    # The canvas is averaged over the mean spacing. Where slices lie further apart than that, two taps add the variance
    # that an average over a whole slice has beyond it (a box's is its width² / 12, two taps' twice their weight).
    tap = max(0.0, 1.0 - (grid.voxel_mm / spacing) ** 2) / 24
    weights = np.convolve(weights, (tap, 1.0 - 2.0 * tap, tap))
    low, share = _scanned(np.arange(nz), spacing, settings.step_mm)
    resampled = settings.step_mm > 1.01 * spacing
    places = np.arange(int(low.max()) + 2) * (settings.step_mm / spacing)
    below = np.minimum(places.astype(np.intp), nz - 1)
    above, part = np.minimum(below + 1, nz - 1), (places - np.floor(places)).astype(np.float32)
    for start in range(0, canvas.shape[0], _SLICES):
        piece = correlate1d(canvas[start : start + _SLICES], weights, axis=2, mode="nearest")
        if resampled:
            scanned = piece[..., below] * (1 - part) + piece[..., above] * part
            piece = scanned[..., low] * (1 - share) + scanned[..., low + 1] * share
        canvas[start : start + _SLICES] = piece


def _scanned(index: NDArray[np.intp], spacing: float, step_mm: float) -> tuple[NDArray[np.intp], Array]:
    """The scanned slice below each slice of the grid, and how far beyond it that lies, 0 to 1."""
    place = index * (spacing / max(step_mm, spacing))
    low = np.floor(place + 1e-6).astype(np.intp)
    return low, np.clip(place - low, 0.0, 1.0).astype(np.float32)


class _Noise:
    """Noise by slice, in order: band-limited in the plane, part of it shared by neighbours, resampled as the scan."""

    def __init__(self, rng: np.random.Generator, plane: tuple[int, int], grid: VoxelGrid, settings: Settings) -> None:
        self._rng, self._plane, self._grid, self._step = rng, plane, grid, settings.step_mm
        pixel = grid.spacing[0]
        # Reconstruction passes a band: little at low frequencies (ramp filter), nothing beyond the kernel's cut.
        cut = 0.42 * settings.psf_fwhm_mm
        self._fine, self._broad = max(0.5, cut / pixel), max(1.4, 3.3 * cut / pixel)
        self._last = self._band(1)
        _, share = _scanned(np.arange(grid.shape[2]), grid.spacing[2], settings.step_mm)
        shared = _SHARED / (1 + _SHARED**2)
        left = float(((1 - share) ** 2 + share**2 + 2 * share * (1 - share) * shared).mean())
        self._gain = np.float32(settings.noise_hu / float(self._last.std()) / np.sqrt((1 + _SHARED**2) * left))
        self._made: dict[int, Array] = {}
        self._next = 0

    def slices(self, start: int, stop: int) -> Array:
        """Noise of slices of the grid, (X, Y, n); asked for in order."""
        low, share = _scanned(np.arange(start, stop), self._grid.spacing[2], self._step)
        last = int(low.max()) + 1
        if last >= self._next:
            fresh = np.concatenate([self._last, self._band(last + 1 - self._next)])
            mixed = self._gain * (fresh[1:] + np.float32(_SHARED) * fresh[:-1])
            self._made |= dict(enumerate(mixed, start=self._next))
            self._next, self._last = last + 1, fresh[-1:]
        self._made = {index: plane for index, plane in self._made.items() if index >= int(low[0])}
        planes = [self._made[int(m)] * (1 - s) + self._made[int(m) + 1] * s for m, s in zip(low, share, strict=True)]
        return np.stack(planes, axis=2)

    def _band(self, count: int) -> Array:
        """Noise of slices (n, X, Y), band-limited in their planes."""
        white = self._rng.standard_normal((count, *self._plane), dtype=np.float32)
        for axis in (1, 2):
            white = gaussian_filter1d(white, self._fine, axis=axis, mode="wrap", truncate=3.0)
        low = white
        for axis in (1, 2):
            low = gaussian_filter1d(low, self._broad, axis=axis, mode="wrap", truncate=2.5)
        band: Array = white - np.float32(0.8) * low
        return band


def _horizontal(rng: np.random.Generator, plane: tuple[int, int], grid: VoxelGrid) -> Array:
    """Streaks along x, sd 1: what starved rays through both shoulders or hips leave."""
    pixel = grid.spacing[0]
    white = rng.standard_normal(plane, dtype=np.float32)
    long = gaussian_filter1d(white, 22.0 / pixel, axis=0, mode="wrap", truncate=2.0)
    fine = gaussian_filter1d(long, max(0.6, 0.5 / pixel), axis=1, mode="wrap", truncate=3.0)
    band: Array = fine - gaussian_filter1d(fine, 3.0 / pixel, axis=1, mode="wrap", truncate=2.0)
    band /= band.std()
    return band
