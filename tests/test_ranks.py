"""One run folder for all processes, whoever started them."""

from pathlib import Path
from typing import Any

import pytest
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

from spineseg.errors import ConfigError
from spineseg.ranks import RUN_FOLDER_VARIABLE, run_of_all
from spineseg.runs import Run


class Strategy:
    """What is asked of a strategy; the first process's words reach the others through `said`."""

    def __init__(self, environment: Any, said: list[Any]) -> None:
        self.cluster_environment, self.said, self.connected = environment, said, False

    def setup_environment(self) -> None:
        self.connected = True

    def broadcast(self, value: Any) -> Any:
        assert self.connected
        self.said.append(value)
        return self.said[0]


class Trainer:
    def __init__(self, rank: int, world: int, environment: Any, said: list[Any] | None = None) -> None:
        self.is_global_zero, self.world_size = rank == 0, world
        self.strategy = Strategy(environment, [] if said is None else said)


class Maker:
    def __init__(self, root: Path) -> None:
        self.root, self.made = root, 0

    def __call__(self) -> Run:
        self.made += 1
        return Run(self.root / str(self.made))


@pytest.fixture(autouse=True)
def _no_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOCAL_RANK", RUN_FOLDER_VARIABLE):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def test_one_process_makes_its_run(tmp_path: Path) -> None:
    make = Maker(tmp_path)
    assert run_of_all(Trainer(0, 1, None), make) == Run(tmp_path / "1")  # type: ignore[arg-type]


def test_processes_that_lightning_starts_inherit_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make = Maker(tmp_path)
    run = run_of_all(Trainer(0, 2, LightningEnvironment()), make)  # type: ignore[arg-type]
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert run_of_all(Trainer(1, 2, LightningEnvironment()), make) == run  # type: ignore[arg-type]
    assert make.made == 1


def test_processes_that_are_there_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that an outer training left in the environment is not taken for theirs."""
    monkeypatch.setenv(RUN_FOLDER_VARIABLE, str(tmp_path / "other"))
    make, said = Maker(tmp_path), []
    runs = [run_of_all(Trainer(rank, 3, TorchElasticEnvironment(), said), make) for rank in range(3)]  # type: ignore[arg-type]
    assert runs == [Run(tmp_path / "1")] * 3
    assert make.made == 1


def test_a_second_machine_started_by_hand_is_refused(tmp_path: Path) -> None:
    make = Maker(tmp_path)
    with pytest.raises(ConfigError, match="torchrun or srun"):
        run_of_all(Trainer(2, 4, LightningEnvironment()), make)  # type: ignore[arg-type]
    assert not make.made
