"""Where a study's workers run: in this process, beside it, or on a cluster."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from spineseg.errors import ConfigError
from spineseg.processors import processors
from spineseg.studies.processes import die_with_parent
from spineseg.studies.running import Stop
from spineseg.studies.workers import Worker, WorkerSettings
from spineseg.targets import plain

# Which signal a cluster sends before a worker's time is up; submitit reads it when it is imported.
PREEMPTION = ("SUBMITIT_PREEMPT_SIGNAL", "USR1")


def launch(
    launcher: DictConfig, settings: WorkerSettings, workers: int, stop: Stop, tick: Callable[[], None]
) -> list[str]:
    """Run a study's workers until they are done.

    Args:
        launcher: the node ``launcher``.
        settings: what the workers are told.
        workers: how many.
        stop: asked whether to end.
        tick: called several times a second.

    Returns:
        What went wrong with workers, not with jobs.
    """
    if workers < 1:
        raise ConfigError(f"workers={workers}: expected at least one")
    if launcher.kind == "basic":
        if workers > 1:
            raise ConfigError(f"workers={workers} with launcher=basic: expected launcher=joblib, or one worker")
        Worker(settings, stop, tick).work()
        return []
    if launcher.kind == "joblib":
        return _side_by_side(settings, workers, stop, tick)
    return _submitted(launcher, settings, workers, stop, tick)


class SubmittedWorker:
    """A worker as submitit pickles it.

    Args:
        settings: what it is told.
        terminable: whether SIGTERM ends it; Slurm also sends one before it queues a job again, to be waited for.
    """

    def __init__(self, settings: WorkerSettings, *, terminable: bool) -> None:
        self._settings, self._terminable = settings, terminable
        self._worker: Worker | None = None

    def __call__(self) -> None:
        """Work until nothing is left."""
        self._worker = worker = Worker(self._settings)
        if self._terminable:
            signal.signal(signal.SIGTERM, lambda number, _: setattr(worker.stop, "code", 128 + number))
        worker.work()

    def checkpoint(self) -> Any:
        """Before the time is up: let the job save and end, and be queued again; the next turn goes on with it."""
        import submitit

        if self._worker is not None:
            self._worker.stop.code = 128 + signal.SIGUSR1
            self._worker.runner.interrupt()
        return submitit.helpers.DelayedSubmission(SubmittedWorker(self._settings, terminable=self._terminable))


def _side_by_side(settings: WorkerSettings, workers: int, stop: Stop, tick: Callable[[], None]) -> list[str]:
    """Processes on this machine; one that dies leaves the others alone, which take its job over."""
    log = Path(settings.folder) / "workers"
    log.mkdir(exist_ok=True)
    running: dict[int, subprocess.Popen[bytes]] = {}
    for number in range(workers):
        own = replace(settings, environment={**settings.environment, **_share(number, workers)})
        with (log / f"{number}.txt").open("ab") as stream:
            running[number] = subprocess.Popen(
                [sys.executable, "-m", "spineseg.studies.workers", own.to_json()],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=die_with_parent(signal.SIGTERM),
            )
    told = False
    try:
        while any(process.poll() is None for process in running.values()):
            if stop.code is not None and not told:
                _signal_all(running, signal.SIGTERM)
                told = True
            tick()
            time.sleep(0.2)
    finally:
        _signal_all(running, signal.SIGTERM)
        for process in running.values():
            process.wait()
    if stop.code is not None:
        return []
    return [
        f"worker {number} ended with {_shown(process.returncode)}: {log / f'{number}.txt'}"
        for number, process in running.items()
        if process.returncode != 0
    ]


def _submitted(
    launcher: DictConfig, settings: WorkerSettings, workers: int, stop: Stop, tick: Callable[[], None]
) -> list[str]:
    """Jobs of submitit; those on a cluster go on when this process ends."""
    os.environ.setdefault(*PREEMPTION)
    try:
        import submitit
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"launcher={launcher.kind}: the package submitit is missing; install spineseg[study]"
        ) from error

    local = launcher.kind == "submitit_local"
    if not local and shutil.which("sbatch") is None:
        raise ConfigError("launcher=submitit_slurm: there is no sbatch here; start it where Slurm's programs are")
    folder = Path(settings.folder).absolute() / "workers"
    executor = submitit.AutoExecutor(
        folder=folder / "%j", cluster="local" if local else "slurm", slurm_max_num_timeout=launcher.requeues
    )
    executor.update_parameters(**_parameters(launcher, local=local))
    # Who waits for others on a cluster holds what it was given: it leaves, and the next start takes over.
    elsewhere = replace(settings, folder=str(Path(settings.folder).absolute()), wait=local)
    jobs: list[Any] = [executor.submit(SubmittedWorker(elsewhere, terminable=local)) for _ in range(workers)]
    print(f"workers: {', '.join(job.job_id for job in jobs)}", flush=True)
    told = False
    while not all(job.done() for job in jobs):
        if stop.code is not None and local and not told:
            told = True
            for job in jobs:
                os.kill(int(job.job_id), signal.SIGTERM)  # submitit's process beside the worker, which passes it on
        if stop.code is not None and not local:
            print(f"they go on in the queue; to end them: scancel {' '.join(job.job_id for job in jobs)}", flush=True)
            return []
        tick()
        time.sleep(0.2 if local else 5.0)
    wrong: list[str] = []
    for job in jobs:
        failure = None if stop.code is not None else job.exception()
        if failure is not None:
            said = str(failure).strip().splitlines()
            reason = said[-1] if said else type(failure).__name__
            wrong.append(f"worker {job.job_id}: {reason}: {job.paths.stderr}")
    return wrong


def _parameters(launcher: DictConfig, *, local: bool) -> dict[str, Any]:
    """What submitit is told; what only Slurm knows is left out elsewhere."""
    given: dict[str, Any] = {"timeout_min": launcher.timeout_min, "gpus_per_node": launcher.gpus, "name": "spineseg"}
    if local:
        return given
    slurm = {
        "cpus_per_task": launcher.cpus,
        "mem_gb": launcher.memory_gb,
        "slurm_signal_delay_s": launcher.signal_delay_s,
        "slurm_partition": launcher.partition,
        "slurm_account": launcher.account,
        "slurm_qos": launcher.qos,
        "slurm_additional_parameters": plain(launcher.additional) or None,
        "slurm_setup": plain(launcher.setup) or None,
    }
    return {**given, **{name: value for name, value in slurm.items() if value is not None}}


def _share(number: int, workers: int) -> dict[str, str]:
    """One worker's part of the machine: processors, and a GPU of its own where there are several."""
    share = {}
    if "OMP_NUM_THREADS" not in os.environ and workers > 1:
        share["OMP_NUM_THREADS"] = str(max(1, processors() // workers))
    cards = _cards()
    if len(cards) > 1:
        share["CUDA_VISIBLE_DEVICES"] = cards[number % len(cards)]
    return share


def _cards() -> list[str]:
    """The GPUs that this process may use."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [each for each in visible.split(",") if each]
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    listed = subprocess.run([program, "--list-gpus"], capture_output=True, text=True, check=False, timeout=30)
    return [str(index) for index, line in enumerate(listed.stdout.splitlines()) if line.startswith("GPU ")]


def _signal_all(running: "dict[int, subprocess.Popen[bytes]]", number: int) -> None:
    for process in running.values():
        if process.poll() is None:
            process.send_signal(number)


def _shown(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"
