"""Jobs of a sweep in other processes: each runs once, and the exit code says what happened."""

import subprocess
import sys
from pathlib import Path

import pytest

from spineseg.config import conf_dir
from spineseg.errors import ConfigError
from spineseg.presets import with_parts

FAILING = """
from omegaconf import DictConfig
from spineseg.config import program
from spineseg.errors import DataError

@program("simulate")
def main(cfg: DictConfig) -> None:
    if cfg.seed == 2:
        raise DataError("two is bad")
    print("done", cfg.seed, flush=True)

if __name__ == "__main__":
    main()
"""
TRAIN = """
import sys
from pathlib import Path
from spineseg.config import program
import spineseg.train as train

@program("train")
def main(cfg) -> None:
    train.main(cfg)

if __name__ == "__main__":
    sys.executable = str(Path(__file__).parent / "python")
    main()
"""


@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_failing_job_of_a_launcher_makes_the_sweep_fail(tmp_path: Path, launcher: str) -> None:
    (tmp_path / "failing.py").write_text(FAILING)
    words = ["failing.py", "-m", "seed=1,2,4", f"hydra/launcher={launcher}", f"paths.runs={tmp_path}"]
    done = subprocess.run([sys.executable, *words], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    printed = done.stdout + "".join(path.read_text() for path in tmp_path.rglob("*_log.out"))
    assert done.returncode == 1
    assert "error: two is bad" in done.stderr
    assert "Traceback" not in done.stderr
    assert "done 1" in printed.replace("done\n 1", "done 1")
    assert "done 4" in printed


@pytest.mark.parametrize(("code", "expected"), [(0, 0), (3, 1)])
def test_jobs_of_several_processes_are_commands_of_their_own(tmp_path: Path, code: int, expected: int) -> None:
    """In place of Python stands a script that writes its arguments down: what Lightning's children would repeat."""
    (tmp_path / "sweep.py").write_text(TRAIN)
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/started\nexit {code}\n')
    python.chmod(0o755)
    given = ["+experiment=yolo_csi", "trainer=ddp", "trainer.devices=2", "seed=0,1", f"paths.runs={tmp_path}/runs"]
    done = subprocess.run(
        [sys.executable, "sweep.py", "-m", *given], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == expected, done.stderr
    started = (tmp_path / "started").read_text().splitlines()
    assert [line.split()[:2] for line in started] == [["-m", "spineseg.train"]] * 2
    assert [("seed=0" in line.split(), "seed=1" in line.split()) for line in started] == [(True, False), (False, True)]
    assert not any("0,1" in line or line.split().count("-m") > 1 for line in started)


def test_preset_sees_the_recipes_of_a_sweep() -> None:
    def choices(overrides: list[str]) -> dict[str, str | None]:
        (recipe,) = [each.partition("=")[2] for each in overrides if each.startswith("+experiment=")]
        return {"model": "yolov8s_seg" if recipe.startswith("yolo") else "unet2d"}

    with pytest.raises(ConfigError, match="recipes of different kinds"):
        with_parts(["-m", "+sweep=pixel_size", "+preset=quick"], conf_dir(), choices)
