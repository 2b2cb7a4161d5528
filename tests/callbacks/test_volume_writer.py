"""A 3D task's label maps become a predictions folder: native grid, levels, slices, confidence; failures are named."""

import json
from dataclasses import replace
from pathlib import Path

import lightning
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from spineseg.callbacks.prediction_writer import ScanWriter
from spineseg.callbacks.volume_writer import VolumeWriter, object_distributions
from spineseg.data.normalization import Normalization
from spineseg.data.scans import Scan, ScanBatch, ScanVolumes, VolumeScan
from spineseg.errors import ConfigError, DataError
from spineseg.geometry import Volume, canonical
from spineseg.metrics.localisation import body_centre_mm
from spineseg.predictions.instances import SliceInstances, from_masks
from spineseg.predictions.labelling import LabellingSettings
from spineseg.predictions.store import PredictionWriter, open_predictions
from spineseg.predictions.streaming import SlidingWindow, StreamedLabels
from spineseg.volumes import read_volume

# Posterior, inferior, right: nothing lies as in the canonical frame.
AFFINE = np.array([[0, 0, 2.0, -7], [-0.5, 0, 0, 3], [0, -1.0, 0, 11], [0, 0, 0, 1]])
LEVELS = (22, 20, 28)
HU = (-500, 300, 600, 900)


class ByBrightness(lightning.LightningModule):
    """Levels by HU: a network whose answer is known."""

    def __init__(self, inferer: SlidingWindow, patch_size: tuple[int, int, int] = (8, 16, 16)) -> None:
        super().__init__()
        self.inferer, self.patch_size = inferer, patch_size

    def predict_step(self, batch: VolumeScan, batch_index: int) -> StreamedLabels | DataError | None:
        if batch["error"] is not None:
            return None
        try:
            return self.inferer(
                self.logits,
                batch["image"].numpy(),
                patch_size=self.patch_size,
                normalization=Normalization(-1000, 1000, 0, 1),
                num_classes=len(HU),
                grid=batch["canonical_shape"],
                step=batch["step"],
            )
        except DataError as error:
            return error

    def logits(self, images: Tensor) -> Tensor:
        return torch.cat([-(images - value).abs() / 50 for value in HU], dim=1)


def native() -> tuple[Volume, np.ndarray]:
    """A scan and its canonical level ids."""
    ids = np.zeros((30, 44, 12), np.uint8)
    ids[5:15, 4:14, 3:9], ids[5:15, 16:26, 3:9], ids[5:15, 28:38, 4:9] = 28, 20, 22
    values = np.full(29, HU[0])
    values[list(LEVELS)] = HU[1:]
    return Volume(values[ids].astype(np.int16), AFFINE), ids


def predict(
    folder: Path, scans: list[Scan], module: lightning.LightningModule, **settings: bool | str | LabellingSettings
) -> VolumeWriter:
    writer = PredictionWriter(
        folder, provenance={}, slices="label_map", label_convention=str(settings.get("convention", "verse"))
    )
    callback = VolumeWriter(writer, LEVELS, **settings)  # type: ignore[arg-type]
    trainer = lightning.Trainer(
        accelerator="cpu",
        callbacks=[callback],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    batches = DataLoader(ScanVolumes(scans, (None, None, None)), batch_size=None)
    trainer.predict(module, batches, return_predictions=False)
    writer.close()
    return callback


def test_a_case_comes_back_on_its_grid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scan, ids = native()
    callback = predict(tmp_path, [Scan("a", lambda: scan)], ByBrightness(SlidingWindow()))
    assert callback.failures == {}
    assert "a: 12 × 30 × 44 voxels for the network, about " in capsys.readouterr().out
    found = open_predictions(tmp_path).read("a")
    np.testing.assert_array_equal(found.labels.array, ids)
    np.testing.assert_array_equal(found.labels.affine, AFFINE)
    assert found.kind == "levels" and found.slice_kind == "label_map" and found.slices is not None
    upright = canonical(Volume(ids, AFFINE))
    for index, instances in found.slices.items():
        assert set(instances.levels) == set(np.unique(upright.array[index])) - {0}
        assert (instances.scores > 0.9).all() and instances.classes == LEVELS
    facts = json.loads((tmp_path / "a.json").read_text())["levels"]
    assert set(facts) == {"T13", "L1", "L3"}
    for name, level in (("T13", 28), ("L1", 20), ("L3", 22)):
        assert facts[name]["confidence"] > 0.9
        assert facts[name]["body_centre_mm"] == pytest.approx(body_centre_mm(ids == level, AFFINE), abs=0.6)
    confidence = read_volume(tmp_path / "confidence" / "a.nii.gz")
    assert confidence.array.dtype == np.uint8 and confidence.array.min() > 0.9 * 255
    np.testing.assert_array_equal(confidence.affine, AFFINE)
    entry = json.loads((tmp_path / "predictions.json").read_text())["cases"]["a"]
    assert entry["labels"] == "levels" and entry["seconds"] > 0 and entry["peak_mb"] > 0


def test_one_bad_scan_does_not_stop_the_rest(tmp_path: Path) -> None:
    scan, ids = native()
    nan = scan.with_array(np.full(scan.shape, np.nan, np.float32))
    scans = [Scan("nan", lambda: nan), Scan("good", lambda: scan)]
    callback = predict(tmp_path / "a", scans, ByBrightness(SlidingWindow()), slices=False)
    assert set(callback.failures) == {"nan"}
    np.testing.assert_array_equal(open_predictions(tmp_path / "a").read("good").labels.array, ids)

    small = ByBrightness(SlidingWindow(memory_limit_gb=1e-4))
    callback = predict(tmp_path / "b", [Scan("good", lambda: scan)], small)
    assert "memory_limit_gb=0.0001" in callback.failures["good"]
    assert not list((tmp_path / "b").rglob("*.nii.gz"))


def test_what_stops_a_prediction_is_the_cases_reason(tmp_path: Path) -> None:
    class NoNumbers(ByBrightness):
        def logits(self, images: Tensor) -> Tensor:
            return super().logits(images) * torch.nan

    scan, _ = native()
    (tmp_path / "confidence").mkdir()
    (tmp_path / "confidence" / "a.nii.gz").write_bytes(b"of an earlier prediction")
    callback = predict(tmp_path, [Scan("a", lambda: scan)], NoNumbers(SlidingWindow()))
    assert "not finite" in callback.failures["a"]
    assert not list((tmp_path / "confidence").iterdir())


def test_label_maps_need_levels(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="without levels"):
        VolumeWriter(PredictionWriter(tmp_path, provenance={}, slices="label_map"), ())


def test_slices_of_a_label_map_keep_what_scores_low(tmp_path: Path) -> None:
    """A detector's weak instances stay out of the label map; those of a label map are its voxels."""
    mask = np.zeros((1, 6, 7), bool)
    mask[0, 1:5, 2:6] = True
    batch = ScanBatch(
        case="a",
        images=torch.zeros((4, 1, 6, 7)),
        indices=list(range(4)),
        size=(6, 7),
        step=(1.0, 1.0),
        native_shape=(4, 6, 7),
        native_affine=np.eye(4).tolist(),
        last=True,
        error=None,
    )
    slices: list[SliceInstances] = [
        from_masks(x, mask, [0.1], levels=[20], probabilities=np.array([[0.1, 0.6]], np.float32), classes=(19, 20))
        for x in range(4)
    ]
    found = {}
    for kind in ("detections", "label_map"):
        writer = PredictionWriter(tmp_path / kind, provenance={}, slices=kind)  # type: ignore[arg-type]
        callback = ScanWriter(writer, score_threshold=0.5, named=True, kind=kind)  # type: ignore[arg-type]
        module = lightning.LightningModule()
        callback.on_predict_batch_end(lightning.Trainer(logger=False, accelerator="cpu"), module, slices, batch, 0)
        writer.close()
        found[kind] = open_predictions(tmp_path / kind).read("a").labels.array
    assert not found["detections"].any()
    np.testing.assert_array_equal(found["label_map"], np.repeat(mask * 20, 4, axis=0))


def wrong_name() -> tuple[list[tuple[int, int]], Volume]:
    """Bodies T13, L1, L3 of a network that calls the second L3 too: (true level, z of its middle), and the scan."""
    hu = np.full((24, 40, 120), HU[0])
    bodies = [(28, 100), (20, 66), (22, 28)]
    for (_, z), value in zip(bodies, (HU[3], HU[1], HU[1]), strict=True):
        hu[4:20, 8:32, z - 12 : z + 12] = value
    return bodies, Volume(hu.astype(np.int16), np.eye(4))


def test_labelling_renames_the_volume_and_not_the_slices(tmp_path: Path) -> None:
    """L1 is called L3, as the next but one below it: two objects of one name, of which the order mends one."""
    bodies, scan = wrong_name()
    found = {}
    for name, prices in (("on", LabellingSettings(confused=0.3, elsewhere=0.05)), ("off", None)):
        settings = {} if prices is None else {"labelling": prices}
        predict(tmp_path / name, [Scan("a", lambda: scan)], ByBrightness(SlidingWindow()), **settings)
        read = open_predictions(tmp_path / name).read("a")
        found[name] = [int(read.labels.array[12, 20, z]) for _, z in bodies]
        assert read.slices is not None
        assert set(read.slices[12].levels.tolist()) == {28, 22}
        facts = json.loads((tmp_path / name / "a.json").read_text())["levels"]
        assert len(facts) == len(set(found[name]))
        assert all(0 < fact["confidence"] <= 1 for fact in facts.values())
    assert found["off"] == [28, 22, 22]
    assert found["on"] == [28, 20, 22]


def test_labelling_leaves_a_right_label_map_as_it_is(tmp_path: Path) -> None:
    scan, ids = native()
    predict(tmp_path, [Scan("a", lambda: scan)], ByBrightness(SlidingWindow()), labelling=LabellingSettings())
    np.testing.assert_array_equal(open_predictions(tmp_path).read("a").labels.array, ids)


def test_an_objects_distribution_is_that_of_its_voxels() -> None:
    random = np.random.default_rng(0)
    shares = random.dirichlet([0.3] * 3, (5, 8, 12)).transpose(3, 0, 1, 2)
    labels = shares.argmax(axis=0).astype(np.uint8)
    sums = np.stack([[shares[:, x, labels[x] == k].sum(axis=1) for k in range(3)] for x in range(5)])
    counts = np.stack([np.bincount(plane.ravel(), minlength=3) for plane in labels])
    streamed = StreamedLabels(labels, np.zeros_like(labels), counts, sums)
    whole = object_distributions(streamed, labels, np.array([1, 2]))
    for k in (1, 2):
        assert whole[k - 1] == pytest.approx(shares[:, labels == k].mean(axis=1))
    halves = labels.copy()
    halves[:, :, 6:][labels[:, :, 6:] == 2] = 3
    parted = object_distributions(streamed, halves, np.array([1, 2, 2]))
    assert parted[0] == pytest.approx(whole[0]) and parted.sum(axis=1) == pytest.approx(1)


def test_labelling_renames_the_objects_of_slices(tmp_path: Path) -> None:
    """Detections of the slices: a vertebra that most slices name wrongly between two that are right."""
    classes = (18, 19, 20)
    masks = np.zeros((3, 40, 100), bool)
    for n, z in enumerate((80, 50, 20)):
        masks[n, 8:32, z - 12 : z + 12] = True
    belief = np.array([[0.9, 0.1, 0], [0.7, 0.3, 0], [0, 0.1, 0.9]], np.float32)
    slices = [
        from_masks(x, masks, [0.9, 0.8, 0.7], levels=[18, 20, 20], probabilities=belief, classes=classes)
        for x in range(24)
    ]
    # One level once a slice: the second would go as the weaker of two.
    slices = [replace(item, levels=np.array([18, 19, 20])) for item in slices]
    batch = ScanBatch(
        case="a",
        images=torch.zeros((24, 1, 40, 100)),
        indices=list(range(24)),
        size=(40, 100),
        step=(1.0, 1.0),
        native_shape=(24, 40, 100),
        native_affine=np.eye(4).tolist(),
        last=True,
        error=None,
    )
    found = {}
    for prices in (LabellingSettings(), None):
        writer = PredictionWriter(tmp_path / str(prices is None), provenance={}, slices="detections")
        callback = ScanWriter(writer, score_threshold=0.5, named=True, labelling=prices)
        module = lightning.LightningModule()
        callback.on_predict_batch_end(lightning.Trainer(logger=False, accelerator="cpu"), module, slices, batch, 0)
        writer.close()
        read = open_predictions(writer.folder).read("a")
        found[prices is None] = [int(read.labels.array[12, 20, z]) for z in (80, 50, 20)]
        assert read.slices is not None and read.slices[3].levels.tolist() == [18, 19, 20]
    assert found == {True: [18, 18, 20], False: [18, 19, 20]}
