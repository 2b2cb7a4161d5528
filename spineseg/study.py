"""The program ``study``: many trainings that answer one question; run again, it goes on where it was."""

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from spineseg.config import check, conf_dir, program
from spineseg.errors import ConfigError, DataError

if TYPE_CHECKING:
    from spineseg.studies.folder import Job, StudyFolder
    from spineseg.studies.running import Places, Stop


@program("study")
def main(cfg: DictConfig) -> None:
    """Plan, say what it will take, run what is open, and name what failed."""
    if OmegaConf.is_missing(cfg.study, "name"):
        known = ", ".join(sorted(path.stem for path in (conf_dir() / "study").glob("*.yaml")))
        raise ConfigError(f"no study chosen: give +study=<name>; there are: {known}")
    check(cfg)
    from spineseg.studies.board import Board
    from spineseg.studies.folder import StudyFolder
    from spineseg.studies.launchers import launch
    from spineseg.studies.planning import checked_hardware
    from spineseg.studies.running import DiskFullError, Places, Stop
    from spineseg.studies.workers import WorkerSettings, stop_on_signals

    if not re.fullmatch(r"[\w][\w.+-]*", str(cfg.study.name)):
        raise ConfigError(f"study.name={cfg.study.name}: expected a plain folder name of letters, digits, _ . + -")
    runs = Path(cfg.paths.runs)
    folder = StudyFolder(Path(cfg.study.output) if cfg.study.output else runs / "studies" / str(cfg.study.name))
    places = Places(cfg.paths.data, cfg.paths.prepared, cfg.paths.runs, checked_hardware(cfg.hardware))
    like = None
    if cfg.search.space:
        total, like = plan_search(cfg, folder, places)
    else:
        total = plan_matrix(cfg, folder, places)
    if cfg.retry == "failed":
        retry_failed(cfg, folder)
    folder.write_ledger()
    workers = int(cfg.workers or cfg.launcher.workers)
    announce(cfg, folder, total, workers, like)
    settings = WorkerSettings(str(folder.root), places, cfg.lease_timeout_s)
    stop = Stop()
    stop_on_signals(stop)
    try:
        with Board(folder, f"{cfg.study.name}: {cfg.study.question}", total, workers, runs, like) as board:
            wrong = launch(cfg.launcher, settings, workers, stop, board.tick)
    except DiskFullError as error:
        raise DataError(f"{folder.root}: {error}; free some space and start the study again: it goes on") from error
    folder.write_ledger()
    if cfg.study.command is None and any(job.state == "done" for job in folder.all_jobs()):
        summarise(folder)
    conclude(cfg, folder, total, wrong, stop)


def plan_matrix(cfg: DictConfig, folder: "StudyFolder", places: "Places") -> int:
    """Write down what is asked and each job of a matrix; returns how many there are."""
    from spineseg.studies import planning
    from spineseg.studies.continuing import check_same_kind, renew_jobs
    from spineseg.studies.identity import DataIdentities
    from spineseg.studies.running import Measure

    split = str(cfg.study.split or "test")
    check_same_kind(folder)
    planned = planning.plan_matrix(cfg, split, places, DataIdentities())
    known = {path.parent.name for path in folder.jobs.glob("*/job.json")}
    if cfg.study.command is None:
        planning.check_jobs(planned, known, places)
    renew_jobs(folder, planned, Measure(str(cfg.study.metric), split), cfg.lease_timeout_s)
    for job in planned.values():
        folder.add_job(job)
    folder.write_study(
        {**asked(cfg, split), "simulated": any(job.simulated for job in planned.values()), "plan": list(planned)}
    )
    return len(planned)


def plan_search(cfg: DictConfig, folder: "StudyFolder", places: "Places") -> "tuple[int, Job]":
    """Write down what is asked of a search; returns how many trials there are to be, and what they are like."""
    from spineseg.studies import planning
    from spineseg.studies.continuing import check_same_search
    from spineseg.studies.identity import DataIdentities
    from spineseg.studies.matrix import JobSpec
    from spineseg.studies.search import Trials, distributions, override

    split = str(cfg.study.split or "val")
    base = planning.search_base(cfg, split)
    search: Any = OmegaConf.to_container(cfg.search, resolve=True)
    search["trials"] = int(cfg.trials or search["trials"])
    # One trial in the middle of the space shows a misspelt key before anything is asked for.
    middle = [override(name, _some(found)) for name, found in distributions(search["space"]).items()]
    probe = JobSpec(base.labels, (*base.overrides, *middle))
    job = planning.make_job(probe, places, cfg.study.preset, DataIdentities())
    if cfg.study.command is None:
        planning.check_jobs({job.hash: job}, set(), places)
    if search["pruner"] is not None and search["monitor"] is None:
        search["monitor"] = planning.monitor_of(base, places)
    content = {
        **asked(cfg, split),
        "metric": search["metric"] or cfg.study.metric,
        "simulated": job.simulated,
        "search": search,
        "base": {"labels": dict(base.labels), "overrides": list(base.overrides)},
        "data_hash": job.data_hash,
        "split_hash": job.split_hash,
    }
    check_same_search(folder, content)
    folder.write_study(content)
    return Trials(folder, search).total, job


def asked(cfg: DictConfig, split: str) -> dict[str, Any]:
    """What a study's folder says of its question."""
    from spineseg.studies.matrix import read_axes

    study: Any = OmegaConf.to_container(cfg.study)
    axes = {axis.name: list(axis.levels) for axis in read_axes(study["axes"])}
    kept = ("name", "question", "preset", "design", "baseline", "seeds", "folds", "metric", "command")
    return {
        **{name: study[name] for name in kept},
        "split": split,
        "factors": {"recipe": study["recipes"], **axes},
        "overrides": study["overrides"],
        "search": None,
    }


def retry_failed(cfg: DictConfig, folder: "StudyFolder") -> None:
    """Let failed jobs run again; they go on from their last checkpoint."""
    from dataclasses import replace

    from spineseg.studies.leases import Observer, held

    observer = Observer(cfg.lease_timeout_s)
    for job in folder.all_jobs():
        lease = observer.acquire(folder.leases(job.hash)) if job.state == "failed" else None
        if lease is not None:
            now = folder.read_job(job.hash)
            if now.state == "failed":
                folder.write_job(replace(now, state="pending"))
            lease.release()
    if cfg.search.space:
        from spineseg.studies.search import Trials

        with held(observer, folder.root / "asking"):
            Trials(folder, folder.read_study()["search"]).retry_failed()


def announce(cfg: DictConfig, folder: "StudyFolder", total: int, workers: int, like: "Job | None") -> None:
    """Say what there is to do, and what time and disk it will take."""
    import shutil

    from spineseg.studies.estimate import estimate, known_costs, shown_bytes, shown_seconds

    jobs = folder.all_jobs()
    settled = sum(job.state in ("done", "pruned", "failed") for job in jobs)
    simulated = " (simulated data)" if folder.read_study()["simulated"] else ""
    print(f"study {folder.root}{simulated}: {cfg.study.question}")
    print(f"{total} jobs, {settled} of them settled, {workers} worker{'s' * (workers > 1)}, {cfg.launcher.kind}")
    to_come = [] if like is None else [like] * (total - len(jobs))
    found = estimate([*jobs, *to_come], known_costs(folder, [*jobs, *to_come], Path(cfg.paths.runs)), workers, {})
    if found.unknown:
        print(f"time and disk unknown: no finished job or run of {', '.join(found.unknown)} to go by yet")
    elif found.jobs and found.seconds is not None and found.disk_bytes is not None:
        free = shutil.disk_usage(folder.root).free
        print(
            f"about {shown_seconds(found.seconds)} and {shown_bytes(found.disk_bytes)} of {shown_bytes(free)} free, "
            f"by {'; '.join(found.sources)}"
        )
        if found.disk_bytes > free:
            print("warning: that is more than the disk has", file=sys.stderr)


def summarise(folder: "StudyFolder") -> None:
    """Log the study's tables and figures; what cannot be drawn must not hide what failed, nor the exit code."""
    from spineseg.loggers.study_summary import log_study

    try:
        log_study(folder.root, folder.root / "figures")
    except Exception as error:
        said = f"warning: no summary of {folder.root} was logged: {type(error).__name__}: {error}"
        print(f"{said}; the ledger is whole; `report study=… output=…` makes tables and figures of it", file=sys.stderr)


def conclude(cfg: DictConfig, folder: "StudyFolder", total: int, wrong: list[str], stop: "Stop") -> None:
    """Say what came of it; exit code 0 if every job is done, 1 if not, 130 or 143 if it was stopped."""
    jobs = folder.all_jobs()
    plan = set(folder.plan())
    if plan:
        jobs = [job for job in jobs if job.hash in plan]
    done = sum(job.state in ("done", "pruned") for job in jobs)
    if cfg.search.space:  # trials: two with the same parameters are one job
        from spineseg.studies.search import Trials

        done = Trials(folder, folder.read_study()["search"]).done()
    print(f"{done} of {total} jobs done; ledger: {folder.ledger}")
    if cfg.search.space:
        show_best(folder)
    from spineseg.studies.board import shown_labels

    for line in wrong:
        print(f"error: {line}", file=sys.stderr)
    for job in jobs:
        if job.state == "failed":
            print(f"failed: {job.hash} ({shown_labels(job)}): {job.error}; {folder.output(job.hash)}", file=sys.stderr)
        elif job.state not in ("done", "pruned"):
            print(f"{job.state}: {job.hash} ({shown_labels(job)})", file=sys.stderr)
    if stop.code is not None:
        sys.exit(stop.code)
    if done < total or wrong:
        sys.exit(1)


def show_best(folder: "StudyFolder") -> None:
    """Print a search's best trial."""
    from spineseg.studies.search import JOB, Trials

    trials = Trials(folder, folder.read_study()["search"])
    best = trials.best()
    print(f"{len(trials.all())} of {trials.total} trials")
    if best is not None:
        params = ", ".join(f"{name}={value}" for name, value in best.params.items())
        print(f"best: trial {best.number}, {best.value:.4f}, {params}; job {best.user_attrs[JOB]}")


def _some(distribution: Any) -> Any:
    """One value that a parameter may have."""
    return distribution.choices[0] if hasattr(distribution, "choices") else distribution.low


if __name__ == "__main__":
    main()
