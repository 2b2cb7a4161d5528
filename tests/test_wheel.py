"""The wheel holds conf/ and works from any directory."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from spineseg.checkpoints import publish
from spineseg.cli import available
from spineseg.config import compose
from spineseg.geometry import Volume
from spineseg.provenance import write_provenance
from spineseg.runs import create_run
from spineseg.train import check_train
from spineseg.trained import build_datamodule, build_task
from spineseg.volumes import read_volume, write_volume

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
    page = ROOT / "spineseg" / "reporting" / "page"
    assert {f"spineseg/reporting/page/{path.name}" for path in page.iterdir()} <= names
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


def test_a_run_predicts_from_an_installed_wheel(installed: Path, tmp_path: Path) -> None:
    """The run's folder has moved, the package lies elsewhere, and so does the working directory."""
    cfg = compose(
        "train", ["+experiment=yolo_csi", "+preset=quick", "model.scale=n", f"paths.runs={tmp_path / 'runs'}"]
    )
    check_train(cfg)
    run = create_run(cfg, [])
    task = build_task(cfg, build_datamodule(cfg), pretrained=False)
    partial = run.checkpoints / ".partial.ckpt"
    torch.save({"state_dict": task.state_dict(), "spineseg": {"score_threshold": 0.3}}, partial)
    publish(partial, [run.best])
    write_provenance(run, simulated=True)
    moved = shutil.copytree(run.root, tmp_path / "elsewhere" / "run")
    affine = np.diag([-3.0, 2.0, 2.0, 1.0])
    hu = np.random.default_rng(0).integers(-1000, 1000, (6, 40, 60)).astype(np.int16)
    hu[:2] = -1000
    write_volume(tmp_path / "scan.nii.gz", Volume(hu, affine))
    command = [
        "predict",
        f"run={moved}",
        f"input={tmp_path / 'scan.nii.gz'}",
        f"output={tmp_path / 'out'}",
        "trainer=cpu",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "spineseg", *command],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed / "site")},
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    found = read_volume(tmp_path / "out" / "scan.nii.gz")
    assert found.shape == hu.shape
    np.testing.assert_array_equal(found.affine, affine)
    assert (tmp_path / "out" / "scan.png").is_file() and (tmp_path / "out" / "predictions.json").is_file()
