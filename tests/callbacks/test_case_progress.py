"""One line a case where nobody watches, with what became of it."""

from typing import Any, cast

import numpy as np
import pytest

from spineseg.callbacks.case_progress import CaseProgress


def test_a_line_a_case(capsys: pytest.CaptureFixture[str]) -> None:
    failures = {"b": "cut short"}
    progress = CaseProgress(2, failures)
    none = cast(Any, None)
    progress.on_predict_start(none, none)
    grid = {"native_shape": (4, 5, 6), "native_affine": np.eye(4).tolist()}
    batches: list[Any] = [
        {"case": "a", "last": False, "indices": [0, 1], **grid},
        {"case": "a", "last": True, "indices": [2, 3], **grid},
        {"case": "b"},  # a volume
    ]
    for k, batch in enumerate(batches):
        progress.on_predict_batch_start(none, none, batch, k)
        progress.on_predict_batch_end(none, none, None, batch, k)
    progress.teardown(none, none, "predict")
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("1/2  a: predicted in ") and second.startswith("2/2  b: failed in ")


def test_bars_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    progress = CaseProgress(2)
    none = cast(Any, None)
    progress.on_predict_start(none, none)
    assert progress._bars is not None
    batch: Any = {"case": "a", "last": False, "indices": [0, 1]}
    batch |= {"native_shape": (4, 5, 6), "native_affine": [[0, 0, 2, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]]}
    progress.on_predict_batch_start(none, none, batch, 0)
    progress.on_predict_batch_end(none, none, None, batch, 0)
    scans, inside = progress._bars.tasks
    assert (inside.description, inside.total, inside.completed) == ("a", 6, 2) and scans.completed == 0
    progress.on_predict_batch_end(none, none, None, {**batch, "last": True}, 1)
    scans, inside = progress._bars.tasks
    assert scans.completed == 1 and (inside.description, inside.total) == ("reading", None)
    progress.teardown(none, none, "predict")
