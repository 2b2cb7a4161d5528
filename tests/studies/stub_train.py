"""Stands in for `spineseg.train` in tests of studies: the same run folder and exit codes, in a fraction of a second.

Its value is a function of its overrides. It saves a step every `STUB_STEP_S` seconds and goes on from there with
`resume=`. `STUB_LOG` gets a line for each start, resume and end. Overrides name what it is to suffer:
`optim.momentum=0.11` is an error of the user's, 0.12 a bug, 0.13 SIGKILL, 0.14 a full disk, 0.15 no results; none of
these where the file `STUB_MENDED` is there.
"""

import hashlib
import json
import os
import signal
import sys
import time
from datetime import datetime
from pathlib import Path

STEPS = 4


def overrides(arguments: list[str]) -> dict[str, str]:
    pairs = (each.lstrip("+").partition("=") for each in arguments)
    return {key: value.strip("'") for key, _, value in pairs}


def note(what: str, job: str) -> None:
    with Path(os.environ["STUB_LOG"]).open("a") as stream:
        stream.write(f"{what} {job}\n")


def suffer(momentum: str | None) -> None:
    if Path(os.environ.get("STUB_MENDED", "nowhere")).exists():
        return
    if momentum == "0.11":
        sys.exit("error: case7: no such scan; put it there")
    if momentum == "0.12":
        raise ZeroDivisionError("a bug")
    if momentum == "0.13":
        os.kill(os.getpid(), signal.SIGKILL)
    if momentum == "0.14":
        sys.exit("error: last.ckpt: the disk is full ([Errno 28] No space left on device)")
    if momentum == "0.15":
        sys.exit(0)


def main() -> None:
    given = overrides(sys.argv[1:])
    stopped = False

    def stop(number: int, frame: object) -> None:
        nonlocal stopped
        stopped = True

    signal.signal(signal.SIGTERM, stop)
    if "resume" in given:
        root = Path(given["resume"])
        note("resume", root.parent.name)
        settings = json.loads((root / "config.yaml").read_text())["settings"]
    else:
        parent = Path(given["paths.runs"]) / given["run.group"] / given["run.name"]
        root = parent / datetime.now().strftime("%Y-%m-%d_%H-%M-%S-%f")
        note("start", parent.name)
        partial = parent / ".partial-run"
        partial.mkdir(parents=True, exist_ok=True)
        places = ("paths.", "run.", "logger.")
        settings = {key: value for key, value in given.items() if not key.startswith(places)}
        content = {"format": "config 1", "settings": settings, "trainer": {"max_epochs": STEPS}}
        (partial / "config.yaml").write_text(json.dumps(content))
        partial.rename(root)
    steps = root / "steps"
    done = int(steps.read_text()) if steps.exists() else 0
    print(f"going on from step {done}", flush=True)
    lr = float(settings.get("optim.lr0", 0.1))
    while done < STEPS:
        if done == 1:
            suffer(settings.get("optim.momentum"))
        end = time.monotonic() + float(os.environ.get("STUB_STEP_S", "0.02"))
        while time.monotonic() < end and not stopped:
            time.sleep(0.005)
        done += 1
        with (root / "log.csv").open("a") as stream:
            stream.write("step,epoch,name,value\n" * (done == 1))
            stream.write(f"{done},{done - 1},val/mask_map50,{done * (1 - lr) / STEPS}\n")
        (root / "partial").write_text(str(done))
        (root / "partial").replace(steps)
        if stopped:
            sys.exit(143)
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    value = 1 - lr if "search" in os.environ.get("STUB_VALUE", "") else int(digest[:6], 16) / 0xFFFFFF
    split = settings["score_splits"].strip("[]")
    entry = {"value": value, "low": None, "high": None, "subjects": 1}
    results = {
        "format": "results 1",
        "protocol": "1.0",
        "simulated": False,
        "splits": {split: {"dice": entry}},
        "cost": {},
    }
    (root / "results.json").write_text(json.dumps(results))
    note("end", root.parent.name)


if __name__ == "__main__":
    main()
