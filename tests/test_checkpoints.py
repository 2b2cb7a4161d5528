"""Checkpoints are whole or not there, sealed, and cannot run code."""

import contextlib
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from spineseg.checkpoints import publish, read_checkpoint, seal_path
from spineseg.errors import DataError


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": {"w": torch.arange(3.0)}, "epoch": 1}, tmp_path / "partial")
    publish(tmp_path / "partial", [path])
    return path


def test_published_checkpoint_reads_back(checkpoint: Path) -> None:
    assert torch.equal(read_checkpoint(checkpoint)["state_dict"]["w"], torch.arange(3.0))
    assert sorted(path.name for path in checkpoint.parent.iterdir()) == ["last.ckpt", "last.ckpt.sha256"]


def test_two_names_share_the_content_but_not_the_fate(tmp_path: Path) -> None:
    for epoch, names in ((0, ["best.ckpt", "last.ckpt"]), (1, ["last.ckpt"])):
        torch.save({"state_dict": {}, "epoch": epoch}, tmp_path / "partial")
        publish(tmp_path / "partial", [tmp_path / name for name in names])
    assert read_checkpoint(tmp_path / "best.ckpt")["epoch"] == 0
    assert read_checkpoint(tmp_path / "last.ckpt")["epoch"] == 1


@pytest.mark.parametrize("stop_at", range(5))
def test_kill_at_any_moment_leaves_a_valid_pair(
    checkpoint: Path, stop_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stop before the n-th renaming or linking: the old or the new content is there, and its seal accepts it."""
    torch.save({"state_dict": {}, "epoch": 2}, checkpoint.parent / "partial")
    left = stop_at

    def counted(real: Any) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal left
            if left == 0:
                raise KeyboardInterrupt
            left -= 1
            return real(*arguments, **named)

        return call

    with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
        patch.setattr(Path, "replace", counted(Path.replace))
        patch.setattr(os, "link", counted(os.link))
        publish(checkpoint.parent / "partial", [checkpoint])
    assert read_checkpoint(checkpoint)["epoch"] in (1, 2)
    publish_again = checkpoint.parent / "again"
    torch.save({"state_dict": {}, "epoch": 3}, publish_again)
    publish(publish_again, [checkpoint])
    assert read_checkpoint(checkpoint)["epoch"] == 3


@pytest.mark.parametrize("keep", [0, 10, 300])
def test_truncated_file_is_refused(checkpoint: Path, keep: int) -> None:
    checkpoint.write_bytes(checkpoint.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"last\.ckpt: damaged: its SHA-256 is"):
        read_checkpoint(checkpoint)
    seal_path(checkpoint).unlink()
    with pytest.raises(DataError, match=r"last\.ckpt: (not a readable checkpoint|refused)"):
        read_checkpoint(checkpoint)


def test_missing_file_names_the_program(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"spineseg\.train"):
        read_checkpoint(tmp_path / "no.ckpt")


class Canary:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("plain_pickle", [True, False])
def test_hostile_pickle_is_refused_and_runs_nothing(tmp_path: Path, plain_pickle: bool) -> None:
    path, canary = tmp_path / "evil.ckpt", tmp_path / "canary"
    content = {"state_dict": Canary(canary)}
    if plain_pickle:
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path)
    with pytest.raises(DataError, match=r"evil\.ckpt: refused"):
        read_checkpoint(path)
    assert not canary.exists()


def test_other_content_is_refused(tmp_path: Path) -> None:
    torch.save({"weights": 1}, tmp_path / "other.pt")
    with pytest.raises(DataError, match="expected a checkpoint of a run"):
        read_checkpoint(tmp_path / "other.pt")
