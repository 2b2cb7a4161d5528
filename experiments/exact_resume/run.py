"""Kill a training at random instants, resume it, and compare its end with that of a run that was left alone.

Resumable: kills whose row is in the table are not done again. See README.md for the question and the command.
"""

import argparse
import csv
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from datetime import date
from pathlib import Path
from typing import Final

import numpy as np
import torch

from spineseg import __version__
from spineseg.checkpoints import COSTS, differences, read_checkpoint, steps_done
from spineseg.loggers.table import read_table
from spineseg.runs import Run

HERE: Final = Path(__file__).parent
EPOCHS: Final = 12  # the start-up, most of it imports, must not take most of the kills
BATCHES: Final = 8  # an epoch
# Three batches are summed for a step, so that a kill falls between them and across epochs; saves every second, inside
# epochs too; validation, best checkpoint and early stopping at every other epoch.
COMMON: Final = (
    "trainer=cpu",
    f"trainer.max_epochs={EPOCHS}",
    "trainer.check_val_every_n_epoch=2",
    "trainer.log_every_n_steps=1",
    "callbacks.checkpoints.every_n_minutes=0.02",
    "callbacks.panels.every_n_epochs=2",
    "score_splits=[]",
)
SETTINGS: Final = {
    # YOLOv8n from scratch.
    "yolo": (
        "+experiment=yolo_csi",
        "+preset=quick",
        "data.pixel_mm=2",
        "data.image_size=[64,128]",
        "data.batch_size=4",
        f"data.epoch_slices={4 * BATCHES}",
        "data.validation_step_mm=18",
        "data.augmentation.mosaic=0.5",
        "data.augmentation.close_mosaic_epochs=1",
        "optim.nominal_batch=12",
    ),
    # MONAI's 3D U-Net on small patches, one validation case.
    "unet3d": (
        "+experiment=unet_csi",
        "+preset=quick",
        "data.spacing_mm=[4,4,4]",
        "data.patch_size=[32,32,32]",
        "data.batch_size=2",
        f"data.epoch_patches={2 * BATCHES}",
        "data.validation_cases=1",
        "optim.nominal_batch=6",
    ),
}
TOO_LATE: Final = "nothing: it had ended"


@dataclass(frozen=True)
class Row:
    """One kill.

    Attributes:
        kill: its number.
        workers: loader processes.
        seconds: processor time that the program had had, which does not depend on what else the machine does.
        interrupted: what was at work, as far as the log shows it.
        resumed_from: the last checkpoint.
        weights, average, optimiser, rest: whether these parts of the final checkpoint are the same bits.
        log: whether `log.csv` holds the same rows, each once, but for times.
        run: whether it is the same folder and W&B id, where there was one.
    """

    kill: int
    workers: int
    seconds: float
    interrupted: str
    resumed_from: str
    weights: bool
    average: bool
    optimiser: bool
    rest: bool
    log: bool
    run: bool

    @property
    def identical(self) -> bool:
        """Whether nothing differs."""
        return all((self.weights, self.average, self.optimiser, self.rest, self.log, self.run))


def command(setting: Sequence[str], work: Path, runs: Path, *more: str) -> list[str]:
    """The training's command line."""
    places = (f"paths.prepared={work / 'prepared'}", f"paths.runs={runs}")
    return [sys.executable, "-m", "spineseg.train", *setting, *places, *more]


def call(line: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    """Start a program; what it says is appended to a file."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    with log.open("ab") as stream:
        return subprocess.Popen(line, stdout=stream, stderr=subprocess.STDOUT, env=environment)


def processor_seconds(pid: int) -> float:
    """Processor time of a process so far."""
    fields_ = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields_[11]) + int(fields_[12])) / os.sysconf("SC_CLK_TCK")


def until(process: subprocess.Popen[bytes], limit: float = float("inf")) -> float:
    """Wait until a program has ended or has had so many seconds of processor time; returns what it had."""
    seconds = 0.0
    while seconds < limit and process.poll() is None:
        seconds = max(seconds, processor_seconds(process.pid))
        time.sleep(0.005)
    return seconds


def finish(line: Sequence[str], log: Path) -> float:
    """Run a program to its end; returns its processor time in seconds."""
    process = call(line, log)
    seconds = until(process)
    if process.wait():
        sys.exit(f"{' '.join(line)} failed; see {log}")
    return seconds


def only_run(runs: Path) -> Run | None:
    """The run of a folder of runs; None before there is one."""
    found = sorted(path.parent for path in runs.glob("*/*/20*/config.yaml"))
    if len(found) > 1:
        sys.exit(f"{runs}: {len(found)} runs where there should be one")
    return Run(found[0].resolve()) if found else None


def place(steps: int) -> str:
    """Epoch and batch of a number of batches, both from 1."""
    return f"epoch {steps // BATCHES + 1}, {steps % BATCHES} of {BATCHES} batches"


def interrupted(run: Run | None) -> str:
    """What was at work when the run was killed."""
    if run is None:
        return "before there was a run"
    steps = 1 + max((row.step for row in read_table(run.log)), default=-1) if run.log.is_file() else 0
    if run.provenance.is_file() and "fit_seconds" in run.provenance.read_text():
        return "after the training"
    if not steps:
        return "before the first batch"
    return f"after {place(steps)} logged"


def compare(kill: int, workers: int, seconds: float, was: str, origin: str, whole: Run, killed: Run, same: bool) -> Row:
    """Compare two finished runs."""
    left, right = read_checkpoint(whole.last), read_checkpoint(killed.last)
    parts = {
        "weights": ("current_model_state",),
        "average": ("state_dict",),
        "optimiser": ("optimizer_states", "lr_schedulers"),
    }
    named = {key for keys in parts.values() for key in keys}
    parts["rest"] = tuple(sorted((left.keys() | right.keys()) - named))
    found = {
        name: differences([left.get(k) for k in keys], [right.get(k) for k in keys]) for name, keys in parts.items()
    }
    rows = [sorted((r for r in read_table(run.log) if r.name not in COSTS), key=repr) for run in (whole, killed)]
    for name, items in found.items():
        for item in items[:3]:
            print(f"  {name}: {item}")
    return Row(
        kill, workers, round(seconds, 2), was, origin, **{name: not items for name, items in found.items()},
        log=rows[0] == rows[1] and len({(r.step, r.name) for r in rows[1]}) == len(rows[1]),
        run=same,
    )  # fmt: skip


def one_kill(kill: int, seconds: float, whole: Run, setting: Sequence[str], work: Path) -> Row:
    """Kill one run after so many seconds, resume it and compare."""
    workers = kill % 2
    runs, log = work / f"kill_{kill:02d}", work / f"kill_{kill:02d}.txt"
    shutil.rmtree(runs, ignore_errors=True)
    line = command(setting, work, runs, f"data.workers={workers}")
    process = call(line, log)
    seconds = until(process, seconds)
    process.send_signal(signal.SIGKILL)
    ended = process.wait() == 0
    run = only_run(runs)
    was = TOO_LATE if ended else interrupted(run)
    saved = run is not None and run.last.is_file()
    steps = steps_done(read_checkpoint(run.last)) if run is not None and saved else 0
    origin = place(steps) if saved else ("its start" if run is not None else "nothing: started again")
    identity = _identity(run)
    # The one who was killed before there was a run starts again; all others resume.
    again = line if run is None else [*line[:3], f"resume={run.root}", f"paths.runs={runs}"]
    finish(again, log)
    resumed = only_run(runs)
    assert resumed is not None
    same = run is None or (resumed == run and identity in ("", _identity(resumed)))
    return compare(kill, workers, seconds, was, origin, whole, resumed, same)


def _identity(run: Run | None) -> str:
    path = None if run is None else run.root / "wandb" / "id"
    return path.read_text() if path is not None and path.is_file() else ""


def read_rows(path: Path) -> list[Row]:
    """The kills that were done."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8") as stream:
        return [
            Row(
                **{
                    item.name: raw[item.name] == "True" if item.type is bool else item.type(raw[item.name])  # type: ignore[operator]
                    for item in fields(Row)
                }
            )
            for raw in csv.DictReader(stream)
        ]


def write_tables(rows: Sequence[Row], path: Path, total: float) -> None:
    """Write the rows as CSV, and for people as Markdown."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, [item.name for item in fields(Row)])
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
    yes = sum(row.identical for row in rows)
    lines = [
        f"{yes} of {len(rows)} resumed runs end in the same bits as the run that was left alone. Simulated scans.",
        "",
        f"spineseg {__version__}, torch {torch.__version__}, Python {platform.python_version()}, "
        f"{len(os.sched_getaffinity(0))} cores, {date.today()}; the setting is in SETTINGS of run.py; seconds are of "
        f"the processor, the run that was left alone had {total:.1f}.",
        "",
        "| kill | loader processes | seconds | interrupted | resumed from | identical |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        differ = [name for name, same in asdict(row).items() if same is False]
        shown = "yes" if row.identical else f"**no**: {', '.join(differ)}"
        lines.append(
            f"| {row.kill} | {row.workers} | {row.seconds} | {row.interrupted} | {row.resumed_from} | {shown} |"
        )
    path.with_suffix(".md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    """Run what is missing of the experiment."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scans", type=Path, default=Path("data/simulated/csi2014"), help="simulated CSI 2014 scans")
    parser.add_argument("--work", type=Path, default=Path("runs/exact_resume"), help="where the runs lie")
    parser.add_argument("--network", choices=SETTINGS, default="yolo")
    parser.add_argument("--table", type=Path, help="else kills_<network>.csv beside this script")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    work, table = arguments.work.absolute(), arguments.table or HERE / f"kills_{arguments.network}.csv"
    setting = (*SETTINGS[arguments.network], *COMMON, f"data.source.root={arguments.scans.absolute()}")
    os.environ["OMP_NUM_THREADS"] = "1"  # sums of two processes have the same bits with equal threads alone
    work.mkdir(parents=True, exist_ok=True)
    time_file = work / "undisturbed.txt"
    if not time_file.is_file():
        # The first prepares the scans, the second is what the others must equal.
        for name in ("preparing", "whole"):
            shutil.rmtree(work / name, ignore_errors=True)
            seconds = finish(command(setting, work, work / name, "data.workers=0"), work / f"{name}.txt")
        time_file.write_text(f"{seconds}\n")
    total = float(time_file.read_text())
    whole = only_run(work / "whole")
    assert whole is not None
    rows = {row.kill: row for row in read_rows(table)}
    # One instant in each of as many equal stretches as there are kills: from start-up to the end.
    shares = np.random.default_rng(arguments.seed).random(arguments.kills)
    for kill in range(arguments.kills):
        if kill not in rows:
            seconds = total * (kill + float(shares[kill])) / arguments.kills
            row = one_kill(kill, seconds, whole, setting, work)
            while row.interrupted == TOO_LATE:  # no two runs need the same processor time
                seconds *= 0.95
                row = one_kill(kill, seconds, whole, setting, work)
            rows[kill] = row
            write_tables([rows[number] for number in sorted(rows)], table, total)
            print(rows[kill], "identical" if rows[kill].identical else "DIFFERENT", flush=True)
    if not all(row.identical for row in rows.values()):
        sys.exit("not all ends are identical")


if __name__ == "__main__":
    main()
