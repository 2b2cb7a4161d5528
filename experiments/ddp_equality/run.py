"""Train in several processes, then validate the same checkpoint in one: are the numbers the same bits?

Resumable: trainings whose row is in the table are not done again. See README.md for the question and the command.
"""

import argparse
import csv
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from datetime import date
from pathlib import Path
from typing import Final

import torch

from spineseg import __version__
from spineseg.hardware import build_trainer
from spineseg.loggers.table import read_table
from spineseg.runs import Run, find_run, read_config
from spineseg.trained import build_datamodule, build_task, load_weights

HERE: Final = Path(__file__).parent
SETTING: Final = (
    "+experiment=yolo_csi",
    "+preset=quick",
    "data.pixel_mm=2",
    "data.image_size=[64,128]",
    "data.batch_size=4",
    "data.epoch_slices=480",
    "data.validation_step_mm=6",
    "data.workers=0",
    "trainer=cpu",
    "trainer.strategy=ddp",
    "trainer.max_epochs=4",  # enough for detections: of values that are all 0 equality says nothing
    "trainer.check_val_every_n_epoch=1",
    "trainer.log_every_n_steps=1",
    "callbacks.panels=null",
    "logger.wandb.mode=disabled",
    "score_splits=[]",
)
CASES: Final = (("Lightning", 2), ("torchrun", 2), ("torchrun", 3))


@dataclass(frozen=True)
class Row:
    """One training.

    Attributes:
        started_by: what starts the processes.
        processes: number of them.
        run_folders: folders of runs that were made.
        slices: validation slices, over all processes.
        twice: slices that were validated more than once.
        batches: validation batches of each process.
        values: monitored values of the last epoch.
        equal: those that one process gives to the bit.
        weights_agree: whether the processes hold the same weights after training.
        averages_agree: the same of the EMA with its buffers.
    """

    started_by: str
    processes: int
    run_folders: int
    slices: int
    twice: int
    batches: str
    values: int
    equal: int
    weights_agree: bool
    averages_agree: bool


def train(started_by: str, processes: int, scans: Path, work: Path) -> Row:
    """Train in several processes and compare with one."""
    runs, seen = work / f"{started_by}_{processes}", work / f"{started_by}_{processes}_seen"
    for folder in (runs, seen):
        shutil.rmtree(folder, ignore_errors=True)
    places = (f"data.source.root={scans}", f"paths.prepared={work / 'prepared'}", f"paths.runs={runs}")
    witness = ("+callbacks.witness._target_=witness.Witness", f"+callbacks.witness.folder={seen}")
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    started = [sys.executable, *(launcher if started_by == "torchrun" else []), str(HERE / "worker.py")]
    line = [*started, *SETTING, *places, *witness, f"trainer.devices={processes}"]
    log = work / f"{started_by}_{processes}.txt"
    with log.open("wb") as stream:
        if subprocess.run(line, stdout=stream, stderr=subprocess.STDOUT, check=False).returncode:
            sys.exit(f"{' '.join(line)} failed; see {log}")
    folders = sorted(runs.glob("*/*/20*"))
    run = find_run(folders[-1])
    ranks = [json.loads((seen / f"{rank}.json").read_text()) for rank in range(processes)]
    slices = [tuple(ref) for rank in ranks for batch in rank["seen"] for ref in batch]
    rows = [row for row in read_table(run.log) if row.name.startswith("val/")]
    last = max(row.step for row in rows)
    logged = {row.name: row.value for row in rows if row.step == last}
    alone = validate_alone(run)
    return Row(
        started_by=started_by,
        processes=processes,
        run_folders=len(folders),
        slices=len(slices),
        twice=len(slices) - len(set(slices)),
        batches=" + ".join(str(len(rank["seen"])) for rank in ranks),
        values=len(logged.keys() | alone.keys()),
        equal=sum(alone.get(name) == value for name, value in logged.items()),
        weights_agree=len({rank["weights"] for rank in ranks}) == 1,
        averages_agree=len({rank["average"] for rank in ranks}) == 1,
    )


def validate_alone(run: Run) -> dict[str, float]:
    """The monitored values of a run's last checkpoint in this one process, with the same batches."""
    cfg = read_config(run)
    datamodule = build_datamodule(cfg)
    task = build_task(cfg, datamodule, pretrained=False)
    load_weights(task, run.last)
    trainer = build_trainer(cfg.trainer, logger=False, devices=1, strategy="auto", enable_progress_bar=False)
    (values,) = trainer.validate(task, datamodule=datamodule, verbose=False)
    return dict(values)


def read_rows(path: Path) -> list[Row]:
    """The trainings that were done."""
    if not path.is_file():
        return []
    kinds = {item.name: item.type for item in fields(Row)}
    with path.open(encoding="utf-8") as stream:
        return [
            Row(**{name: text == "True" if kinds[name] is bool else kinds[name](text) for name, text in raw.items()})
            for raw in csv.DictReader(stream)
        ]


def write_tables(rows: Sequence[Row], path: Path) -> None:
    """Write the rows as CSV, and for people as Markdown."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, [item.name for item in fields(Row)])
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
    names = [item.name.replace("_", " ") for item in fields(Row)]
    lines = [
        f"Simulated scans. spineseg {__version__}, torch {torch.__version__} (gloo), Python "
        f"{platform.python_version()}, {len(os.sched_getaffinity(0))} cores, {date.today()}; the setting is SETTING "
        "in run.py.",
        "",
        f"| {' | '.join(names)} |",
        f"|{'---|' * len(names)}",
        *(f"| {' | '.join(str(value) for value in asdict(row).values())} |" for row in rows),
    ]
    path.with_suffix(".md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    """Run what is missing of the experiment."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scans", type=Path, default=Path("data/simulated/csi2014"), help="simulated CSI 2014 scans")
    parser.add_argument("--work", type=Path, default=Path("runs/ddp_equality"), help="where the runs lie")
    parser.add_argument("--table", type=Path, default=HERE / "processes.csv")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # sums of two processes have the same bits with equal threads alone
    torch.set_num_threads(1)
    work = arguments.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    rows = {(row.started_by, row.processes): row for row in read_rows(arguments.table)}
    for case in CASES:
        if case not in rows:
            rows[case] = train(*case, arguments.scans.absolute(), work)
            write_tables([rows[key] for key in CASES if key in rows], arguments.table)
            print(rows[case], flush=True)
    good = all(
        row.equal == row.values and not row.twice and row.run_folders == 1 and row.weights_agree and row.averages_agree
        for row in rows.values()
    )
    if not good:
        sys.exit("not all numbers are equal")


if __name__ == "__main__":
    main()
