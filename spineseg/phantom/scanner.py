"""The scanner: where the field of view lies, and blur, noise and number format."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from spineseg.phantom.shapes import Array, Frame, Vec, VoxelGrid
from spineseg.phantom.sizes import COLUMN, DIFFICULTIES
from spineseg.phantom.subject import Subject
from spineseg.phantom.trunk import Trunk
from spineseg.vertebrae import level_id

# Ends of the scanned range of the kaggle layout, cranial and caudal: most scans show a part of the spine.
_WINDOWS = tuple(
    tuple(ends.split("-")) for ends in ("T1-L2", "T8-S1", "C6-S1", "C5-L3", "T4-S1", "C1-T6", "C7-L1", "C1-S1")
)
_FWHM_TO_SIGMA = 1 / 2.3548
_SLICES = 16  # worked on at a time; bounds memory


def extent_mm(subject: Subject, frames: Mapping[int, Frame], level: int) -> tuple[Vec, Vec]:
    """World-aligned corners that hold the body and the arch of a vertebra without its transverse processes."""
    size, frame = subject.sizes[level], frames[level]
    back = -size.depth / 2 - size.canal_depth - size.spinous_back - 3.0
    half = size.height / 2
    low = (-size.width / 2, back, -half - size.disc - 10)
    return frame.world_bounds(low, (size.width / 2, size.depth / 2, half + 6))


def field_of_view(
    rng: np.random.Generator, layout: str, size: str, subject: Subject, frames: Mapping[int, Frame], trunk: Trunk
) -> VoxelGrid:
    """Choose the voxel grid of a scan.

    CSI 2014: the whole thoracic and lumbar spine in a narrow field, square pixels of 0.31-0.45 mm (full, 512 × 512) or
    about 1.15 mm (small), slices of 1 or 1.35 mm. Kaggle: 1.5 mm voxels over a varying part of the spine, the
    whole trunk (full) or about the spine (small).
    """
    draws = [float(v) for v in rng.uniform(size=8)]
    if layout == "csi2014":
        return _csi2014(draws, size, subject, frames)
    spacing = 1.5
    top, bottom = _WINDOWS[int(draws[0] * len(_WINDOWS))]
    high = frames[level_id(top)].origin[2] + 8.0 + 22.0 * draws[1]
    low = frames[level_id(bottom)].origin[2] - 8.0 - (60.0 if bottom == "S1" else 22.0) * draws[2]
    seen = [level for level in COLUMN if low < frames[level].origin[2] < high]
    corners = [extent_mm(subject, frames, level) for level in seen]
    front = max(c[1][1] for c in corners)
    back = min(c[0][1] for c in corners)
    center = float(np.mean([frames[level].origin[0] for level in seen]))
    if size == "full":
        half_width = 150.0 + 40.0 * draws[3]
        z = np.linspace(low, high, 50)
        skin = float(np.interp(z, trunk.z, trunk.back).min())
        back = skin - 15.0 - 30.0 * draws[4]
        front = skin + 2 * float(np.interp(z, trunk.z, trunk.half_depth).max()) + 20.0
    else:
        half_width = 62.0 + 16.0 * draws[3]
        back, front = back - 14.0 - 12.0 * draws[4], front + 16.0 + 24.0 * draws[5]
    counts = [max(8, round(v / spacing)) for v in (2 * half_width, front - back, high - low)]
    return VoxelGrid((counts[0], counts[1], counts[2]), (spacing,) * 3, (center - half_width, back, low))


def _csi2014(draws: list[float], size: str, subject: Subject, frames: Mapping[int, Frame]) -> VoxelGrid:
    labelled = range(level_id("T1"), level_id("L5") + 1)
    corners = [extent_mm(subject, frames, level) for level in labelled]
    back, front = min(c[0][1] for c in corners) - 6.0, max(c[1][1] for c in corners) + 8.0
    # T1 and L5 lie wholly inside; some of C7 and S1 is seen, and not labelled.
    low = corners[-1][0][2] - 6.0 - 20.0 * draws[0]
    high = corners[0][1][2] + 8.0 + 20.0 * draws[1]
    columns, rows = (512, 512) if size == "full" else (120, 152)
    pixel = 0.31 + 0.14 * draws[2] if size == "full" else 1.1 + 0.1 * draws[2]
    pixel = round(max(pixel, (front - back) / rows, 116.0 * subject.size / columns), 6)
    thickness = 1.0 if size == "full" else 1.35
    center = float(np.mean([frames[level].origin[0] for level in labelled]))
    middle = (front + back) / 2 + 4.0 * draws[3]
    origin = (center - pixel * (columns - 1) / 2, middle - pixel * (rows - 1) / 2, low)
    return VoxelGrid((columns, rows, round((high - low) / thickness)), (pixel, pixel, thickness), origin)


def scan(
    rng: np.random.Generator, noise_rng: np.random.Generator, canvas: Array, grid: VoxelGrid, difficulty: str
) -> tuple[NDArray[np.int16], dict[str, float]]:
    """Turn true HU into a scan, in place: point spread, slice profile, band-limited noise, whole numbers.

    Args:
        rng: of the scanner's settings.
        noise_rng: of the noise.
        canvas: (X, Y, Z) true HU averaged over each voxel; overwritten.
        grid: its grid.
        difficulty: the range of the noise.

    Returns:
        int16 HU from -1024 to 3071, and the scanner's settings.
    """
    # The reconstruction kernel; small voxels see more of it than large ones.
    fwhm = float(rng.uniform(0.9, 1.5))
    noise = float(rng.uniform(*DIFFICULTIES[difficulty].noise_hu))
    pixel, _, thickness = grid.spacing
    for axis, sigma in ((0, fwhm / pixel), (1, fwhm / pixel), (2, 0.6 * max(1.0, fwhm / thickness))):
        # In pieces along another axis: SciPy copies what it filters in place.
        other = 2 if axis < 2 else 0
        for start in range(0, canvas.shape[other], _SLICES):
            piece = canvas[(slice(None),) * other + (slice(start, start + _SLICES),)]
            piece[...] = gaussian_filter1d(piece, sigma * _FWHM_TO_SIGMA, axis=axis, mode="nearest", truncate=3.0)
    out = np.empty(canvas.shape, dtype=np.int16)
    # Reconstruction passes a band: little at low frequencies (ramp filter), nothing beyond the kernel's cut.
    fine, broad = max(0.5, 0.45 / pixel), max(1.4, 1.5 / pixel)
    first = _band(noise_rng, (1, *canvas.shape[:2]), fine, broad)
    gain = np.float32(noise / float(first.std()) / np.sqrt(1 + 0.4**2))
    for start in range(0, canvas.shape[2], _SLICES):
        block = canvas[:, :, start : start + _SLICES]
        fresh = np.concatenate([first, _band(noise_rng, (block.shape[2], *canvas.shape[:2]), fine, broad)])
        # Neighbouring slices share some of their noise.
        mixed = gain * (fresh[1:] + np.float32(0.4) * fresh[:-1])
        first = fresh[-1:]
        block += mixed.transpose(1, 2, 0)
        out[:, :, start : start + _SLICES] = np.clip(np.rint(block), -1024, 3071)
    return out, {"psf_fwhm_mm": round(fwhm, 3), "noise_hu": round(noise, 2)}


def _band(rng: np.random.Generator, shape: tuple[int, ...], fine: float, broad: float) -> Array:
    """Noise of slices (n, X, Y), band-limited in their planes."""
    white = rng.standard_normal(shape, dtype=np.float32)
    for axis in (1, 2):
        white = gaussian_filter1d(white, fine, axis=axis, mode="wrap", truncate=3.0)
    low = white
    for axis in (1, 2):
        low = gaussian_filter1d(low, broad, axis=axis, mode="wrap", truncate=2.5)
    band: Array = white - np.float32(0.8) * low
    return band
