import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest

import spineseg.phantom
from spineseg.config import compose
from spineseg.data.sources.csi2014 import CSI2014
from spineseg.errors import ConfigError, DataError, FormatError
from spineseg.geometry import Volume
from spineseg.phantom import PhantomOptions, SimulatedCase
from spineseg.simulate import MARKER, _default_workers, simulate_set


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Replace the phantom by a small one and record which cases are drawn."""
    calls: list[int] = []

    def tiny(seed: int, index: int, options: PhantomOptions) -> SimulatedCase:
        calls.append(index)
        image = np.full((4, 5, 6), 10 * seed + index, np.int16)
        return SimulatedCase(
            Volume(image, np.eye(4)), Volume(np.full((4, 5, 6), 20, np.uint8), np.eye(4)), {"size": 1.0}
        )

    monkeypatch.setattr(spineseg.phantom, "simulate_case", tiny)
    return calls


def files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_workers_do_not_change_a_byte(tmp_path: Path) -> None:
    options: dict[str, Any] = {"layout": "kaggle", "cases": 2, "seed": 11}
    simulate_set(tmp_path / "one", workers=1, **options)
    simulate_set(tmp_path / "two", workers=2, **options)
    first, second = files(tmp_path / "one"), files(tmp_path / "two")
    assert first == second
    assert len(first) == 5
    assert not (tmp_path / "two.partial").exists()


def test_marker_says_what_was_simulated(tmp_path: Path, drawn: list[int]) -> None:
    marker = simulate_set(tmp_path / "set", cases=3, seed=4, workers=1)
    found = json.loads(marker.read_text())
    assert marker == tmp_path / "set" / MARKER
    assert found["format"] == "simulated 1"
    assert [found[key] for key in ("layout", "seed", "difficulty", "size")] == ["csi2014", 4, "default", "small"]
    assert [case["id"] for case in found["cases"]] == ["case1", "case2", "case3"]
    assert set().union(*(case["files"] for case in found["cases"])) | {MARKER} == set(files(tmp_path / "set"))


def test_same_settings_use_what_is_there(tmp_path: Path, drawn: list[int], capsys: pytest.CaptureFixture[str]) -> None:
    simulate_set(tmp_path / "set", cases=2, workers=1)
    before = files(tmp_path / "set")
    drawn.clear()
    simulate_set(tmp_path / "set", cases=2, workers=1)
    assert drawn == [] and files(tmp_path / "set") == before
    assert "2 of 2 cases are complete" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_a_set_grows_and_equals_one_made_at_once(tmp_path: Path, drawn: list[int]) -> None:
    simulate_set(tmp_path / "set", cases=2, workers=1)
    drawn.clear()
    simulate_set(tmp_path / "set", cases=4, workers=1)
    assert drawn == [2, 3]
    simulate_set(tmp_path / "whole", cases=4, workers=1)
    assert files(tmp_path / "set") == files(tmp_path / "whole")
    with pytest.raises(ConfigError, match="holds 4 cases, asked: 3"):
        simulate_set(tmp_path / "set", cases=3, workers=1)


@pytest.mark.parametrize("damage", ["truncate", "remove"])
def test_a_damaged_case_is_made_again(tmp_path: Path, drawn: list[int], damage: str) -> None:
    simulate_set(tmp_path / "set", cases=3, workers=1)
    before = files(tmp_path / "set")
    victim = tmp_path / "set" / "case2.raw"
    victim.unlink() if damage == "remove" else victim.write_bytes(victim.read_bytes()[:-10])
    drawn.clear()
    simulate_set(tmp_path / "set", cases=3, workers=1)
    assert drawn == [1] and files(tmp_path / "set") == before


def test_an_interrupted_run_leaves_no_unmarked_set_and_continues(
    tmp_path: Path, drawn: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = spineseg.phantom.simulate_case

    def interrupted(seed: int, index: int, options: PhantomOptions) -> SimulatedCase:
        if index == 2:
            raise KeyboardInterrupt
        return whole(seed, index, options)

    with monkeypatch.context() as patch:
        patch.setattr(spineseg.phantom, "simulate_case", interrupted)
        with pytest.raises(KeyboardInterrupt):
            simulate_set(tmp_path / "set", cases=4, workers=1)
    assert not (tmp_path / "set").exists()
    # Whoever takes what is there for a data set learns that it is simulated.
    assert (tmp_path / "set.partial" / "case1.mhd").is_file() and CSI2014(tmp_path / "set.partial").simulated
    assert json.loads((tmp_path / "set.partial" / MARKER).read_text())["cases"] == []
    drawn.clear()
    simulate_set(tmp_path / "set", cases=4, workers=1)
    assert drawn == [2, 3]
    # What was left by other settings is not mixed in.
    with monkeypatch.context() as patch:
        patch.setattr(spineseg.phantom, "simulate_case", interrupted)
        with pytest.raises(KeyboardInterrupt):
            simulate_set(tmp_path / "other", cases=4, workers=1)
    drawn.clear()
    simulate_set(tmp_path / "other", cases=3, seed=1, workers=1)
    assert drawn == [0, 1, 2]


@pytest.mark.parametrize("change", [{"seed": 5}, {"difficulty": "hard"}, {"layout": "kaggle"}, {"size": "full"}])
def test_other_settings_are_an_error_that_names_them(tmp_path: Path, drawn: list[int], change: dict[str, Any]) -> None:
    simulate_set(tmp_path / "set", cases=1, workers=1)
    before = files(tmp_path / "set")
    key, value = next(iter(change.items()))
    with pytest.raises(ConfigError, match=rf"{key}=.* \(asked: {value}\)"):
        simulate_set(tmp_path / "set", cases=1, workers=1, **change)
    assert files(tmp_path / "set") == before


def test_never_writes_among_real_data(tmp_path: Path, drawn: list[int]) -> None:
    (tmp_path / "case1.mhd").write_text("real")
    with pytest.raises(DataError, match="real data"):
        simulate_set(tmp_path, cases=1, workers=1)
    assert files(tmp_path) == {"case1.mhd": b"real"} and drawn == []


def test_a_marker_of_another_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / MARKER).write_text('{"format": "simulated 9"}')
    with pytest.raises(FormatError, match="simulated 9"):
        simulate_set(tmp_path, cases=1)


@pytest.mark.parametrize(("key", "value"), [("cases", 0), ("seed", -1), ("workers", 0)])
def test_bad_numbers_are_refused(tmp_path: Path, key: str, value: int) -> None:
    bad: dict[str, Any] = {key: value}
    with pytest.raises(ConfigError, match=f"{key}={value}"):
        simulate_set(tmp_path / "set", **bad)


def test_workers_are_counted_where_a_system_has_no_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1e12))
    assert _default_workers("small") == 3


def test_config_gives_the_simulated_folder_of_the_layout() -> None:
    cfg = compose("simulate", ["layout=kaggle", "paths.data=somewhere"])
    assert cfg.output == "somewhere/simulated/kaggle"


def test_program_prints_one_line_for_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "scan.nii").write_text("real")
    command = [sys.executable, "-m", "spineseg.simulate", f"output={tmp_path}", "cases=1"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode == 1
    assert result.stderr.startswith("error: ") and "Traceback" not in result.stderr
    assert (tmp_path / "scan.nii").read_text() == "real"
