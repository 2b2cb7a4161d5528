"""Two processes on one machine: one run folder, and the validation numbers of one process, to the bit."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from spineseg.geometry import Volume
from spineseg.volumes import write_volume

ValidatedByTwo = Callable[[list[str], Path], tuple[dict[str, float], dict[str, float]]]
SETTING = [
    "+experiment=yolo_csi",
    "+preset=quick",
    "data/source=folder",
    "data.pixel_mm=2",
    "data.fold=2",
    "data.image_size=[64,64]",
    "data.batch_size=4",
    "data.epoch_slices=12",
    "data.validation_step_mm=3",
    "data.workers=0",
    "trainer=cpu",
    "trainer.max_epochs=1",
    "trainer.check_val_every_n_epoch=1",
    "trainer.precision=32-true",
    "trainer.log_every_n_steps=1",
    "trainer.num_sanity_val_steps=0",
    "callbacks.panels=null",
    "logger.wandb.mode=disabled",
    "score_splits=[]",
]


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five scans; the two for validation have 9 slices each."""
    folder = tmp_path_factory.mktemp("scans")
    for case in range(5):
        image = np.random.default_rng(case).normal(40, 10, (9, 32, 44)).astype(np.int16)
        image[:, 0] = -1000
        labels = np.zeros(image.shape, np.uint8)
        for i, level in enumerate((24, 23, 22)):
            block = (slice(2, 7), slice(6 + case, 20), slice(3 + 13 * i, 13 + 13 * i))
            image[block], labels[block] = 500, level
        write_volume(folder / f"case{case}" / "ct.nii.gz", Volume(image, np.diag([3.0, 2.0, 2.0, 1.0])))
        write_volume(folder / f"case{case}" / "vertebrae.nii.gz", Volume(labels, np.diag([3.0, 2.0, 2.0, 1.0])))
    return folder


def test_two_processes_validate_as_one(scans: Path, tmp_path: Path, validated_by_two: ValidatedByTwo) -> None:
    """Started by torchrun, which starts both at once; one gets three batches of four slices, the other two.

    A slice that counted twice would move the loss.
    """
    places = [f"data.source.root={scans}", f"paths.prepared={tmp_path}/prepared"]
    logged, alone = validated_by_two([*SETTING, *places], tmp_path / "runs")
    assert {"val/loss", "val/mask_map50", "val/box_map50_95", "val/dice"} <= logged.keys()
    assert logged == alone
