"""What is said of a trained model beside its predictions."""

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from spineseg.data.files import write_json
from spineseg.provenance import PROVENANCE_FORMAT
from spineseg.runs import Run
from spineseg.trained import TrainedModel, origin


def test_predictions_say_whom_their_model_has_seen(tmp_path: Path) -> None:
    known: list[dict[str, list[str]]] = [
        {"train_subjects": ["s:a", "s:b"]},
        # With those that the weights had seen which it began with.
        {"train_subjects": ["s:b"], "seen_subjects": ["s:b", "s:c"]},
        {},
    ]
    runs = [Run(tmp_path / str(number)) for number in range(3)]
    for run, content in zip(runs, known, strict=True):
        write_json(run.provenance, {"format": PROVENANCE_FORMAT, **content})
    first, *others = runs
    model = TrainedModel(cast(Any, None), cast(Any, None), None, simulated=False)
    assert origin([first], model, "best")["train_subjects"] == ["s:a", "s:b"]
    ensemble = replace(model, members=(model, model, model))
    assert origin([first, *others], ensemble, "best")["train_subjects"] == ["s:a", "s:b", "s:c"]
    assert "train_subjects" not in origin(others[1:], model, "best")
