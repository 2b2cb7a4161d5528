"""Jobs of an experiment: each is a process of its own and leaves a file, so that a stopped script goes on."""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def result(work: Path, name: str) -> dict[str, Any]:
    """What a finished job left."""
    return dict(json.loads((work / "jobs" / f"{name}.json").read_text()))


def keep(work: Path, name: str, found: dict[str, Any]) -> None:
    """Leave what a job found, whole or not at all."""
    partial = work / "jobs" / f".{name}.partial"
    partial.write_text(json.dumps(found, indent=1))
    partial.replace(work / "jobs" / f"{name}.json")


def finish(script: Path, work: Path, todo: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Do the jobs that are not done, in order, by ``<script> --work <work> --job <name>``; what each left.

    Raises:
        SystemExit: a job failed; the message ends with the last lines of its log.
    """
    for number, name in enumerate(todo, start=1):
        print(f"[{number}/{len(todo)}] {name}", end=" ", flush=True)
        if (work / "jobs" / f"{name}.json").is_file():
            print("done before", flush=True)
            continue
        started = time.perf_counter()
        log = work / "jobs" / f"{name}.log"
        command = [sys.executable, str(script), "--work", str(work), "--job", name]
        with log.open("w") as stream:
            done = subprocess.run(command, stdout=stream, stderr=subprocess.STDOUT, check=False)
        print(f"{time.perf_counter() - started:.0f} s", flush=True)
        if done.returncode:
            tail = "\n  ".join(log.read_text().splitlines()[-12:])
            raise SystemExit(f"error: job {name} failed, see {log}:\n  {tail}")
    return {name: result(work, name) for name in todo}
