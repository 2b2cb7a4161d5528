from pathlib import Path

import pytest

from spineseg.errors import ConfigError
from spineseg.studies.folder import Job
from spineseg.studies.planning import check_jobs, checked_hardware
from spineseg.studies.running import Places

JOB = Job("0" * 12, {"recipe": "yolo_csi"}, ("+experiment=yolo_csi", "data.source.root=x"), False, "d", "s")


def test_hardware_is_of_the_machine_alone() -> None:
    machine = ("trainer=ddp", "+trainer.benchmark=true", "trainer.precision=32-true", "data.workers=8")
    tracking = ("logger.wandb=null", "~logger.wandb", "logger.wandb.mode=online")
    assert checked_hardware([*machine, *tracking]) == (*machine, *tracking)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.max_epochs=1", r"trainer\.max_epochs is not of the machine alone"),
        ("data.batch_size=4", r"data\.batch_size is not of the machine alone"),
        ("trainer.precison=32", r"did you mean 'trainer\.precision'"),
        ("loggers.wandb=null", r"loggers\.wandb"),
        ("+preset=quick", "preset"),
        ("data.workers", "expected key=value"),
    ],
)
def test_what_moves_numbers_is_refused(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        checked_hardware([override])


def test_misspelt_hardware_is_named_before_anything_runs_even_if_all_jobs_are_known(tmp_path: Path) -> None:
    def places(*hardware: str) -> Places:
        return Places(*([str(tmp_path)] * 3), hardware)

    check_jobs({JOB.hash: JOB}, {JOB.hash}, places("data.workers=1"))
    with pytest.raises(ConfigError, match=r"wandb"):
        check_jobs({JOB.hash: JOB}, {JOB.hash}, places("logger.wandbb.mode=online"))
