"""Volumes along other axes, and an evaluation with its summary."""

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from spineseg.geometry import Volume
from spineseg.metrics.folder import evaluate_folder
from spineseg.metrics.references import Reference


def turned(volume: Volume, codes: str) -> Volume:
    """The same voxels stored along other axes."""
    orientation = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(volume.affine), nib.orientations.axcodes2ornt(codes)
    )
    affine = volume.affine @ nib.orientations.inv_ornt_aff(orientation, volume.shape)
    return Volume(np.ascontiguousarray(nib.orientations.apply_orientation(volume.array, orientation)), affine)


def evaluated(references: list[Reference], predictions: Path, output: Path, **options: Any) -> dict[str, Any]:
    settings = {"edge": "ignore", "run": "tool", "split": "", "simulated": True, **options}
    return evaluate_folder(references, predictions, output, **settings)


def summary_of(output: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((output / "summary.json").read_text())
    return found
