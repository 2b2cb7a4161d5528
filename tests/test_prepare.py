import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from spineseg.geometry import Volume
from spineseg.volumes import write_volume


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for number in range(5):
        image = rng.normal(-995, 8, (12, 12, 20))
        image[2:-2, 2:-2] = rng.normal(40, 15, (8, 8, 20))
        labels = np.zeros(image.shape, np.uint8)
        labels[4:8, 4:8, 4:9], labels[4:8, 4:8, 11:16] = 21, 20
        labels[4, 4, 4 + number] = 0  # no two masks are the same: that would be a finding
        image[labels > 0] = 300
        write_volume(tmp_path / "scans" / f"s{number}" / "ct.nii.gz", Volume(image.astype(np.int16), np.eye(4)))
        write_volume(tmp_path / "scans" / f"s{number}" / "mask.nii.gz", Volume(labels, np.eye(4)))
    return tmp_path / "scans"


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "spineseg.prepare", *arguments], cwd=cwd, capture_output=True, text=True, timeout=120
    )


def test_program_prepares_and_then_has_nothing_to_do(scans: Path, tmp_path: Path) -> None:
    arguments = ("data/source=folder", f"data.source.root={scans}", "paths.prepared=out", "data.spacing_mm=[null,1,1]")
    first, second = (run(*arguments, "workers=1", cwd=tmp_path) for _ in range(2))
    assert first.returncode == second.returncode == 0, first.stderr
    assert "5 cases (5 with masks) in out/folder-" in first.stdout and "preparing" in first.stdout
    assert "preparing" not in second.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "scans"]


def test_program_names_all_faults_in_one_error(scans: Path, tmp_path: Path) -> None:
    (scans / "s1" / "ct.nii.gz").write_bytes(b"")
    (scans / "s2" / "mask.nii.gz").write_bytes(b"no nifti")
    done = run("data/source=folder", f"data.source.root={scans}", "paths.prepared=out", "workers=1", cwd=tmp_path)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "s1: " in done.stderr and "s2: " in done.stderr and "error: 2 fatal findings" in done.stderr


def test_program_proposes_exclusions_that_it_then_honours(scans: Path, tmp_path: Path) -> None:
    (scans / "s1" / "ct.nii.gz").write_bytes(b"")
    arguments = ("data/source=folder", f"data.source.root={scans}", "paths.prepared=out", "workers=1")
    proposed = run(*arguments, "propose_exclusions=out.csv", cwd=tmp_path)
    assert proposed.returncode == 0, proposed.stderr
    assert "1 of 5 cases proposed for exclusion in out.csv" in proposed.stdout
    assert (tmp_path / "out.csv").read_text().splitlines()[1].startswith("exclusions 1,s1,audit: it cannot be used,")
    again = run(*arguments, "propose_exclusions=out.csv", cwd=tmp_path)
    assert again.returncode == 1 and "error: propose_exclusions=out.csv: it is there" in again.stderr
    done = run(*arguments, "data.source.exclude=out.csv", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "4 cases (4 with masks) in out/folder-" in done.stdout
    assert "1 case excluded by out.csv (SHA-256 " in done.stdout and "blind to predictions): s1" in done.stdout


def test_program_says_where_a_missing_set_is_to_be_had(tmp_path: Path) -> None:
    done = run("data/source=csi2014", cwd=tmp_path)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "7049844" in done.stderr and "spineseg.simulate layout=csi2014" in done.stderr
    assert list(tmp_path.iterdir()) == []
