"""Several training processes and the one run folder that they share, however they were started."""

import os
from collections.abc import Callable
from pathlib import Path

import lightning
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment

from spineseg.errors import ConfigError
from spineseg.runs import Run

# Set for the processes that Lightning starts, which repeat the command line but belong to the first process's run.
RUN_FOLDER_VARIABLE = "SPINESEG_RUN_FOLDER"


def run_of_all(trainer: lightning.Trainer, make: Callable[[], Run]) -> Run:
    """Let the first process make a run, and give it to all.

    Processes that Lightning starts later inherit its folder in an environment variable; those that torchrun, srun or
    the like have started at once are connected here, earlier than Lightning would, and told. All must see the folder.

    Args:
        trainer: of this process; not running yet.
        make: makes the run.

    Raises:
        ConfigError: Several machines whose processes were started by hand one by one.
    """
    environment: ClusterEnvironment | None = getattr(trainer.strategy, "cluster_environment", None)
    if environment is None or trainer.world_size == 1:
        return make()
    if not environment.creates_processes_externally:
        if not trainer.is_global_zero:
            raise ConfigError(
                "this is not the first machine of the training, and nothing has told it the run's folder; start the "
                "processes with torchrun or srun"
            )
        run = make()
        os.environ[RUN_FOLDER_VARIABLE] = str(run.root)
        return run
    inherited = os.environ.get(RUN_FOLDER_VARIABLE)
    if inherited and isinstance(environment, LightningEnvironment) and not trainer.is_global_zero:
        return Run(Path(inherited))
    trainer.strategy.setup_environment()
    return Run(Path(trainer.strategy.broadcast(str(make().root) if trainer.is_global_zero else "")))
