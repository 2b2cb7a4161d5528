"""Fixtures that several test folders share."""

import csv
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from spineseg.geometry import Volume
from spineseg.volumes import write_volume


@pytest.fixture(scope="session")
def real_ct() -> Path:
    """Return the folder of real CT scans, or skip where the machine has none."""
    named = os.environ.get("SPINESEG_REAL_CT")
    if not named:
        pytest.skip("SPINESEG_REAL_CT is not set: it names the folder of real CT scans")
    folder = Path(named).resolve()
    if not folder.is_dir():
        pytest.skip(f"SPINESEG_REAL_CT={named}: no such folder")
    return folder


@pytest.fixture(scope="session")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five scans with three bright blocks each, stored in another orientation than RAS."""
    folder = tmp_path_factory.mktemp("scans")
    affine = np.array([[0, 0, -3.0, 0], [-2.0, 0, 0, 0], [0, 2.0, 0, 0], [0, 0, 0, 1]])
    for case in range(5):
        rng = np.random.default_rng(case)
        image = rng.normal(40, 10, (32, 44, 8)).astype(np.int16)
        image[:, :, 0] = -1000
        labels = np.zeros(image.shape, np.uint8)
        for i, level in enumerate((24, 23, 22)):
            block = (slice(6 + case, 20), slice(3 + 13 * i, 13 + 13 * i), slice(2, 7))
            image[block], labels[block] = rng.normal(500, 60, image[block].shape), level
        write_volume(folder / f"case{case}" / "ct.nii.gz", Volume(image, affine))
        write_volume(folder / f"case{case}" / "vertebrae.nii.gz", Volume(labels, affine))
    return folder


@pytest.fixture(scope="session")
def write_series() -> Callable[..., list[Path]]:
    """Write a CT series as DICOM by pydicom, slice by slice, under names that say nothing of their order.

    Takes the folder and the values (X, Y, Z) in HU, and by keyword what differs from a plain axial series: `step` (3,)
    in mm from slice to slice, `spacing` of rows and columns, `orientation`, `origin`, `rescale` of each slice, elements
    of all slices, and `edit(dataset, k)` for each.
    """
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    def write(
        folder: Path,
        hu: np.ndarray,
        *,
        step: tuple[float, float, float] = (0, 0, 2.0),
        spacing: tuple[float, float] = (0.8, 0.7),
        orientation: tuple[float, ...] = (1, 0, 0, 0, 1, 0),
        origin: tuple[float, float, float] = (-20, -30, 100),
        rescale: Callable[[int], tuple[float, float] | None] = lambda k: (1, -1024),
        edit: Callable[[Dataset, int], object] | None = None,
        **elements: object,
    ) -> list[Path]:
        folder.mkdir(parents=True, exist_ok=True)
        shared = {"SeriesInstanceUID": generate_uid(), "StudyInstanceUID": generate_uid(), **elements}
        shared.setdefault("FrameOfReferenceUID", generate_uid())
        paths = []
        for k in range(hu.shape[2]):
            slope, intercept = rescale(k) or (1, 0)
            stored = np.rint((hu[:, :, k].T - intercept) / slope).astype(np.int16)
            image = Dataset()
            image.file_meta = FileMetaDataset()
            image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID = CTImageStorage
            image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID = generate_uid()
            image.Modality, image.ImageType = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"]
            image.PatientName, image.PatientID, image.InstanceNumber = "Doe^Jane", "12345", str(7 * k % 11)
            image.Rows, image.Columns = stored.shape
            image.PixelSpacing, image.ImageOrientationPatient = list(spacing), list(orientation)
            image.ImagePositionPatient = [round(o + k * s, 6) for o, s in zip(origin, step, strict=True)]
            image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
            image.BitsAllocated = image.BitsStored = 16
            image.HighBit, image.PixelRepresentation = 15, 1
            if rescale(k) is not None:
                image.RescaleSlope, image.RescaleIntercept = slope, intercept
            image.PixelData = stored.tobytes()
            for keyword, value in shared.items():
                setattr(image, keyword, value)
            if edit is not None:
                edit(image, k)
            paths.append(folder / f"{(k * 5 + 3) % 97:03d}.dcm")
            image.save_as(paths[-1], enforce_file_format=True)
        return paths

    return write


@pytest.fixture
def validated_by_two() -> Callable[[list[str], Path], tuple[dict[str, float], dict[str, float]]]:
    """Train with two processes, started at once by torchrun, and validate their last checkpoint again with one.

    Takes overrides of `train` and the folder of runs; gives the logged values of the two, and those of the one.
    """
    from spineseg.hardware import build_trainer
    from spineseg.runs import find_run, read_config
    from spineseg.trained import build_datamodule, build_task, load_weights

    def validated(overrides: list[str], runs: Path) -> tuple[dict[str, float], dict[str, float]]:
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "spineseg.train"]
        more = [f"paths.runs={runs}", "trainer.devices=2", "trainer.strategy=ddp"]
        done = subprocess.run(
            [sys.executable, *launcher, *overrides, *more],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        (folder,) = runs.glob("*/*/20*")
        run = find_run(folder)
        with run.log.open() as stream:
            rows = [row for row in csv.DictReader(stream) if row["name"].startswith("val/")]
        cfg = read_config(run)
        datamodule = build_datamodule(cfg)
        task = build_task(cfg, datamodule, pretrained=False)
        load_weights(task, run.last)
        trainer = build_trainer(cfg.trainer, logger=False, devices=1, strategy="auto", enable_progress_bar=False)
        (alone,) = trainer.validate(task, datamodule=datamodule, verbose=False)
        return {row["name"]: float(row["value"]) for row in rows}, dict(alone)

    return validated
