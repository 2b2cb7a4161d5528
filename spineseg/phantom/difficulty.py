"""How widely people and scanners differ: three named settings, frozen before any model is tuned on them."""

from dataclasses import dataclass
from typing import Final, Literal

Rates = Literal["none", "published", "oversampled"]


@dataclass(frozen=True)
class Difficulty:
    """How widely subjects and scanners differ: ranges drawn uniformly, standard deviations drawn normally.

    Args:
        size_sd: of the one size factor a subject; ``residual_sd`` of each level's own factor.
        curve_spread: sd of kyphosis and lordosis around their means, 1 = as published; ``cobb_deg`` the largest
            scoliosis (half of the subjects have less than a quarter of it).
        age_years: range of the ages; ``trabecular_sd`` sd of L1's HU around the mean at that age.
        variants: which column of ``variants.PRIORS`` says how often anatomical variants and diseases occur.
        cortical_hu: range of the cortex before blur.
        noise_hu: range of the noise of a standard kernel at 2 mm; a smooth one has 0.55 of it, a sharp one 2.2 times.
        kernels: shares of the smooth, the standard and the sharp kernel.
        slice_mm: the thickest slices that scans are resampled from.
        streak: the largest noise along x through shoulders and hips, as a share of the noise.
        calibration: sd of the scale of HU; its offset has 300 HU times that.
        turn_deg: the largest turn of the person about his long axis.
        metal_share: share of cases with an implant; ``padded_share`` with padding outside the field's circle.
        contrast_share: share of cases with contrast medium in the vessels.
    """

    size_sd: float
    residual_sd: float
    curve_spread: float
    cobb_deg: float
    age_years: tuple[float, float]
    trabecular_sd: float
    variants: Rates
    cortical_hu: tuple[float, float]
    noise_hu: tuple[float, float]
    contrast_share: float
    kernels: tuple[float, float, float]
    slice_mm: float
    streak: float
    calibration: float
    turn_deg: float
    metal_share: float
    padded_share: float


DIFFICULTIES: Final[dict[str, Difficulty]] = {
    "easy": Difficulty(
        size_sd=0.06,
        residual_sd=0.02,
        curve_spread=0.4,
        cobb_deg=0.0,
        age_years=(25, 50),
        trabecular_sd=20,
        variants="none",
        cortical_hu=(950, 1050),
        noise_hu=(6, 10),
        contrast_share=0.0,
        kernels=(0.3, 0.7, 0.0),
        slice_mm=1.5,
        streak=0.0,
        calibration=0.0,
        turn_deg=3.0,
        metal_share=0.0,
        padded_share=0.0,
    ),
    "default": Difficulty(
        size_sd=0.07,
        residual_sd=0.03,
        curve_spread=1.0,
        cobb_deg=10.0,
        age_years=(20, 90),
        trabecular_sd=40,
        variants="published",
        cortical_hu=(850, 1200),
        noise_hu=(9, 22),
        contrast_share=0.4,
        kernels=(0.3, 0.45, 0.25),
        slice_mm=3.0,
        streak=1.0,
        calibration=0.012,
        turn_deg=10.0,
        metal_share=0.03,
        padded_share=0.3,
    ),
    "hard": Difficulty(
        size_sd=0.09,
        residual_sd=0.04,
        curve_spread=1.4,
        cobb_deg=40.0,
        age_years=(20, 95),
        trabecular_sd=50,
        variants="oversampled",
        cortical_hu=(750, 1250),
        noise_hu=(18, 32),
        contrast_share=0.5,
        kernels=(0.2, 0.35, 0.45),
        slice_mm=5.0,
        streak=2.0,
        calibration=0.025,
        turn_deg=15.0,
        metal_share=0.15,
        padded_share=0.4,
    ),
}
