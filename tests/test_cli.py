"""The console script and the programs as a shell sees them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from spineseg.cli import available

ROOT = Path(__file__).parent.parent
# What must not be loaded to print a help text: it takes seconds.
HEAVY = "torch", "lightning", "pandas", "scipy", "SimpleITK", "nibabel", "wandb", "ultralytics", "blosc2", "matplotlib"
LIST_HEAVY = f"""
import runpy, sys
sys.argv = ["x", "--help"]
try:
    runpy.run_module({{module!r}}, run_name="__main__", alter_sys=True)
except SystemExit as end:
    assert not end.code
print("LOADED", [name for name in {HEAVY!r} if name in sys.modules])
"""


def run(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, cwd=cwd, env=environment, check=False, timeout=120
    )


@pytest.mark.parametrize("name", available())
def test_help_of_a_program_imports_nothing_heavy(name: str, tmp_path: Path) -> None:
    done = run("-c", LIST_HEAVY.format(module=f"spineseg.{name}"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "LOADED []" in done.stdout
    assert f"spineseg {name}" in done.stdout
    assert not any(tmp_path.iterdir())


def test_help_lists_the_programs(tmp_path: Path) -> None:
    done = run("-m", "spineseg", "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert all(name in done.stdout for name in available())


def test_console_form_equals_module_form(tmp_path: Path) -> None:
    overrides = ["cases=3", "--cfg", "job"]
    console = run("-m", "spineseg", "simulate", *overrides, cwd=tmp_path)
    module = run("-m", "spineseg.simulate", *overrides, cwd=tmp_path)
    assert console.returncode == 0
    assert console.stdout == module.stdout
    assert "cases: 3" in console.stdout


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["-m", "spineseg", "simulat"], "did you mean 'simulate'"),
        (["-m", "spineseg.simulate", "sed=1"], "did you mean 'seed'"),
        (["-m", "spineseg.simulate", "layout=csi2015"], "csi2014"),
        (["-m", "spineseg.simulate", "cases=many"], "many"),
    ],
)
def test_mistake_is_one_error_without_traceback(arguments: list[str], expected: str, tmp_path: Path) -> None:
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert expected in done.stderr
    assert "Traceback" not in done.stderr
    assert not any(tmp_path.iterdir())


FAILING = """
import sys
from omegaconf import DictConfig
from spineseg.config import program
from spineseg.errors import DataError

@program("simulate")
def main(cfg: DictConfig) -> None:
    if cfg.seed == 2:
        raise DataError("two is bad")
    if cfg.seed == 3:
        raise ZeroDivisionError("a bug")
    print("done", cfg.seed)

main()
"""


def test_failing_job_of_a_sweep_lets_the_others_run(tmp_path: Path) -> None:
    (tmp_path / "failing.py").write_text(FAILING)
    done = run("failing.py", "-m", "seed=1,2,4", cwd=tmp_path)
    assert done.returncode == 1
    assert "done 1" in done.stdout
    assert "done 4" in done.stdout
    assert done.stderr.startswith("error: two is bad")
    assert "Traceback" not in done.stderr


def test_bug_keeps_its_traceback(tmp_path: Path) -> None:
    (tmp_path / "failing.py").write_text(FAILING)
    done = run("failing.py", "seed=3", cwd=tmp_path)
    assert done.returncode == 1
    assert "ZeroDivisionError: a bug" in done.stderr
