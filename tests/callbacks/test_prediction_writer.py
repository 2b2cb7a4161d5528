"""Cases that fail between others, and what is said of each level: where its body is, and how sure the model is."""

from pathlib import Path

import lightning
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from spineseg.callbacks.prediction_writer import CaseByCase, ScanWriter, confidences, describe
from spineseg.data.scans import Scan, ScanBatch, ScanSlices
from spineseg.data.slices import SliceReader
from spineseg.errors import DataError
from spineseg.geometry import Volume
from spineseg.metrics.localisation import body_centre_mm
from spineseg.predictions.instances import SliceInstances, from_masks
from spineseg.predictions.store import PredictionWriter, open_predictions

AFFINE = np.array([[0.5, 0, 0, -30], [0, 0.5, 0, 12], [0, 0, 2.0, 5], [0, 0, 0, 1]])


def objects() -> np.ndarray[tuple[int, ...], np.dtype[np.uint16]]:
    found = np.zeros((40, 60, 30), np.uint16)
    found[10:30, 8:28, 20:28] = 1
    found[10:30, 8:28, 4:10] = 2
    found[15:25, 30:50, 4:6] = 3
    return found


def test_a_level_of_two_objects_is_one_with_their_weighted_score() -> None:
    numbers = objects()
    values = np.array([0, 19, 20, 20], np.uint8)
    labels = values[numbers]
    found = describe(labels, AFFINE, confidences(values, numbers, np.array([0.9, 0.8, 0.2])), named=True)
    assert set(found) == {"T12", "L1"}
    assert found["T12"]["confidence"] == pytest.approx(0.9)
    sizes = np.bincount(numbers.ravel())
    assert found["L1"]["confidence"] == pytest.approx(
        (0.8 * sizes[2] + 0.2 * sizes[3]) / (sizes[2] + sizes[3]), abs=1e-4
    )
    for name, level in (("T12", 19), ("L1", 20)):
        exact = body_centre_mm(labels == level, AFFINE, level=level)
        assert found[name]["body_centre_mm"] == pytest.approx(exact, abs=0.5)


def test_unnamed_vertebrae_go_by_number_and_crumbs_have_a_centre() -> None:
    numbers = objects()
    numbers[39, 59, 29] = 4
    found = describe(numbers, AFFINE, confidences(np.arange(5), numbers, np.array([0.9, 0.8, 0.2, 0.1])), named=False)
    assert list(found) == ["1", "2", "3", "4"]
    assert found["4"] == {"body_centre_mm": [-10.5, 41.5, 63.0], "confidence": 0.1}


class Fragile(lightning.LightningModule):
    """One whole-slice instance a slice; stopped at slice 2 of some cases, and counting the batches that reach it."""

    def __init__(self, stops: dict[str, Exception]) -> None:
        super().__init__()
        self.stops, self.seen = stops, list[str]()

    def predict_step(self, batch: ScanBatch, batch_index: int) -> list[SliceInstances]:
        self.seen.append(batch["case"])
        if batch["case"] in self.stops and 2 in batch["indices"]:
            raise self.stops[batch["case"]]
        return [from_masks(index, np.ones((1, *batch["size"]), bool), [0.9]) for index in batch["indices"]]


def test_what_stops_a_case_stops_no_other(tmp_path: Path) -> None:
    image = Volume(np.zeros((6, 8, 9), np.int16), np.eye(4))
    stops = {"b": DataError("logits that are not finite"), "c": torch.OutOfMemoryError("CUDA out of memory. Tried")}
    module = Fragile(stops)
    writer = PredictionWriter(tmp_path, provenance={})
    callback = ScanWriter(writer, score_threshold=0.5, named=False)
    reader = SliceReader((-200.0, 1000.0), context=0, classes="vertebra", levels=())
    scans = [Scan(name, lambda: image) for name in "abcd"]
    trainer = lightning.Trainer(accelerator="cpu", callbacks=[callback], logger=False, enable_progress_bar=False)
    batches = DataLoader(ScanSlices(scans, reader, pixel_mm=1.0, batch_size=2), batch_size=None)
    trainer.predict(CaseByCase(module), batches, return_predictions=False)
    writer.close()
    assert set(callback.failures) == {"b", "c"} and callback.failures["b"] == "logits that are not finite"
    assert "GPU has too little memory" in callback.failures["c"] and "data.batch_size=2" in callback.failures["c"]
    found = open_predictions(tmp_path)
    assert set(found.files) == {"a", "d"} and dict(found.failures) == callback.failures
    assert all(found.read(case).labels.array.all() for case in "ad")
    # What is lost already is not computed.
    assert [module.seen.count(case) for case in "abcd"] == [3, 2, 2, 3]
