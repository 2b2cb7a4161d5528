"""The wheel holds conf/ and works from any directory."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from spineseg.cli import available

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel and install it alone into a folder of its own."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run([*pip, *build], check=True, timeout=120)
    (wheel,) = folder.glob("spineseg-*.whl")
    install = ["install", "--no-deps", "--no-index", "--target", str(folder / "site"), str(wheel)]
    subprocess.run([*pip, *install], check=True, timeout=120)
    return folder


def test_wheel_holds_every_configuration_file_and_no_tests(installed: Path) -> None:
    (wheel,) = installed.glob("spineseg-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    conf = {f"spineseg/conf/{path.relative_to(ROOT / 'conf')}" for path in (ROOT / "conf").rglob("*.yaml")}
    assert conf <= names
    assert "spineseg/py.typed" in names
    assert not any(name.startswith(("tests/", "conf/")) for name in names)


@pytest.mark.parametrize("name", available())
def test_installed_program_helps_from_another_directory(installed: Path, name: str, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(installed / "site")}
    done = subprocess.run(
        [sys.executable, "-m", "spineseg", name, "--help"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert f"spineseg {name}" in done.stdout


def test_installed_conf_is_the_one_that_is_used(installed: Path, tmp_path: Path) -> None:
    code = "import spineseg.config as c; print(c.conf_dir()); print(c.compose('simulate').seed)"
    environment = {**os.environ, "PYTHONPATH": str(installed / "site")}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=environment, check=True
    )
    assert done.stdout.splitlines() == [str(installed / "site" / "spineseg" / "conf"), "0"]
