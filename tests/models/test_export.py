"""Exported networks are loaded by Ultralytics and onnxruntime and find what ours finds."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from spineseg.errors import ConfigError, DataError
from spineseg.models.detections import SliceDetections, draw, draw_on, suppress
from spineseg.models.export import ExportFacts, export_onnx, export_ultralytics, main
from spineseg.models.yolo import YOLOv8Seg, pretrained_weights

# Where many detections of an untrained head lie above, and none on the line.
SCORE = 0.3


def lively(channels: int = 3, num_classes: int = 1, seed: int = 0) -> YOLOv8Seg:
    """A network whose untrained head gives scores, boxes and masks of all kinds."""
    torch.manual_seed(seed)
    net = YOLOv8Seg(channels, num_classes, scale="n")
    head: Any = net.model.model[-1]
    for branch, spread in ((head.cv2, 0.3), (head.cv3, 3.0), (head.cv4, 1.0)):
        for level in branch:
            nn.init.normal_(level[-1].weight, std=spread)
            nn.init.normal_(level[-1].bias, std=0.5)
    # Statistics of some images, so that activations are neither dead nor huge.
    net.train()
    with torch.no_grad():
        for _ in range(30):
            net(torch.rand(2, channels, 64, 96))
    return net.eval()


def facts(net: YOLOv8Seg, classes: tuple[str, ...] = ("vertebra",)) -> ExportFacts:
    channels = net.model.yaml["channels"]
    return ExportFacts(classes, 1.5, (-200.0, 1000.0), (channels - 1) // 2, (64, 96), simulated=True)


def detect(net: YOLOv8Seg, images: Tensor) -> list[SliceDetections]:
    with torch.no_grad():
        return suppress(net.decode(images), score=SCORE)


@pytest.fixture(scope="module")
def net() -> YOLOv8Seg:
    return lively()


@pytest.fixture(scope="module")
def checkpoint(net: YOLOv8Seg, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "vertebrae.pt"
    export_ultralytics(net, facts(net), path)
    return path


@pytest.fixture(scope="module")
def onnx_file(net: YOLOv8Seg, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "vertebrae.onnx"
    export_onnx(net, facts(net), path)
    return path


@pytest.fixture(autouse=True)
def _torch_as_it_was() -> Any:
    """Ultralytics' predictor sets the number of threads."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def predict(path: Path, source: Any, **settings: Any) -> list[Any]:
    """Ultralytics' own predictor, from the file."""
    from ultralytics import YOLO

    given = {"conf": SCORE, "iou": 0.7, "max_det": 100, "device": "cpu", "verbose": False, "save": False}
    return YOLO(path, task="segment").predict(source, **{**given, **settings})


def images_of(count: int = 2, height: int = 64, width: int = 96, channels: int = 3) -> Tensor:
    return torch.rand(count, channels, height, width, generator=torch.Generator().manual_seed(7))


@pytest.mark.parametrize("kind", ["checkpoint", "onnx_file"])
def test_ultralytics_predicts_the_same(kind: str, net: YOLOv8Seg, request: pytest.FixtureRequest) -> None:
    """Boxes, scores, classes and masks of ``ultralytics.YOLO(path).predict``; it fuses layers, hence the tolerance."""
    images = images_of()
    found = detect(net, images)
    results = predict(request.getfixturevalue(kind), images, imgsz=(64, 96))
    for ours, theirs in zip(found, results, strict=True):
        assert len(ours) > 10, "a test on few detections says little"
        drawn = draw(ours, (64, 96))
        # Detections whose mask is empty in the box are left out by their predictor.
        whole = drawn.masks.flatten(1).any(1)
        # Their results cut boxes at the picture's border.
        boxes = ours.boxes[whole].clamp(min=0).minimum(torch.tensor([96.0, 64.0, 96.0, 64.0]))
        torch.testing.assert_close(boxes, theirs.boxes.xyxy.clone(), atol=1e-2, rtol=1e-4)
        torch.testing.assert_close(ours.scores[whole], theirs.boxes.conf.clone(), atol=1e-4, rtol=1e-4)
        assert theirs.boxes.cls.long().tolist() == ours.classes[whole].tolist()
        assert (drawn.masks[whole] != theirs.masks.data.bool()).float().mean() < 1e-4
        assert theirs.names == {0: "vertebra"}


def test_native_masks_are_those_of_ultralytics(net: YOLOv8Seg, checkpoint: Path) -> None:
    """A picture twice as fine as the network's pixels: ``retina_masks`` against ``draw_on``.

    They cut a mask at the box by a pixel's corner, ours by its centre: half a pixel, so edges are left out.
    """
    generator = np.random.default_rng(0)
    fine = cv2.resize(generator.integers(0, 256, (64, 96, 3), np.uint8), (192, 128), interpolation=cv2.INTER_CUBIC)
    small = cv2.resize(fine, (96, 64), interpolation=cv2.INTER_LINEAR)
    # An array's channels are turned around by their predictor, as the export says.
    image = torch.from_numpy(np.ascontiguousarray(small[:, :, ::-1].transpose(2, 0, 1))).float()[None] / 255
    (found,) = detect(net, image)
    boxes, crops = draw_on(found, (128, 192), (0.5, 0.5))
    (result,) = predict(checkpoint, fine, imgsz=(64, 96), retina_masks=True)
    masks = np.zeros((len(crops), 128, 192), bool)
    for mask, (crop, (y, z)) in zip(masks, crops, strict=True):
        mask[y : y + crop.shape[0], z : z + crop.shape[1]] = crop
    whole = masks.any((1, 2))
    assert whole.sum() > 10
    assert len(result) == whole.sum()
    expected = result.boxes.xyxy.numpy()[:, [1, 0, 3, 2]]
    np.testing.assert_allclose(boxes[whole], expected, atol=2e-2)
    inner = np.zeros_like(masks[whole])
    for mask, (y0, z0, y1, z1) in zip(inner, expected, strict=True):
        mask[int(y0) + 1 : int(y1), int(z0) + 1 : int(z1)] = True
    same = masks[whole] == result.masks.data.numpy().astype(bool)
    assert inner.any() and same[inner].mean() > 1 - 1e-4


def test_the_checkpoint_loads_safely_and_bit_for_bit(net: YOLOv8Seg, checkpoint: Path) -> None:
    """Through our own converter, which refuses all but known classes."""
    weights = pretrained_weights(str(checkpoint))
    for name, value in net.model.state_dict().items():
        assert torch.equal(weights[name], value), name


def test_channels_and_classes_travel_with_the_checkpoint(tmp_path: Path) -> None:
    from ultralytics import YOLO

    names = tuple(f"T{i}" for i in range(1, 13)) + tuple(f"L{i}" for i in range(1, 6))
    net = lively(channels=5, num_classes=len(names))
    export_ultralytics(net, facts(net, names), tmp_path / "levels.pt")
    loaded = YOLO(tmp_path / "levels.pt")
    assert loaded.names == dict(enumerate(names)) and loaded.task == "segment"
    images = images_of(channels=5)
    with torch.no_grad():
        (expected, prototypes), _ = net.model(images)
        (outputs, other), _ = loaded.model.eval()(images)
    assert torch.equal(outputs, expected) and torch.equal(other, prototypes)
    assert net.model.yaml["channels"] == 5 and not hasattr(net.model, "task"), "the exported network is a copy"


def test_their_training_goes_on_from_it(checkpoint: Path) -> None:
    """Their trainer starts from the weights; none of them is frozen but the fixed one."""
    from ultralytics import YOLO

    fixed = [name for name, value in YOLO(checkpoint).model.named_parameters() if not value.requires_grad]
    assert fixed == ["model.22.dfl.conv.weight"]


@pytest.mark.parametrize("shape", [(1, 64, 96), (3, 32, 32), (2, 160, 416)])
def test_onnxruntime_agrees(onnx_file: Path, net: YOLOv8Seg, shape: tuple[int, int, int]) -> None:
    """Any batch and size; boxes to a hundredth of a pixel at 400 pixels, all else to 1e-4."""
    import onnxruntime

    images = images_of(*shape)
    session = onnxruntime.InferenceSession(onnx_file, providers=["CPUExecutionProvider"])
    outputs, prototypes = session.run(None, {"images": images.numpy()})
    with torch.no_grad():
        raw = net.decode(images)
    centre, size = outputs[:, :2], outputs[:, 2:4]
    boxes = np.concatenate([centre - size / 2, centre + size / 2], axis=1).transpose(0, 2, 1)
    np.testing.assert_allclose(boxes, raw.boxes.numpy(), atol=1e-2, rtol=0)
    np.testing.assert_allclose(outputs[:, 4:5].transpose(0, 2, 1), raw.scores.numpy(), atol=1e-4, rtol=1e-3)
    np.testing.assert_allclose(outputs[:, 5:].transpose(0, 2, 1), raw.coefficients.numpy(), atol=1e-3, rtol=1e-3)
    np.testing.assert_allclose(prototypes, raw.prototypes.numpy(), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("kind", ["checkpoint", "onnx_file"])
def test_what_belongs_to_the_weights_lies_beside_them(kind: str, request: pytest.FixtureRequest) -> None:
    path: Path = request.getfixturevalue(kind)
    beside = json.loads(path.with_name(f"{path.name}.json").read_text())
    expected = {"format": "exported_model 1", "classes": ["vertebra"], "pixel_mm": 1.5, "window_hu": [-200.0, 1000.0]}
    assert beside.items() >= {**expected, "context": 1, "simulated": True, "file": path.name}.items()
    assert not list(path.parent.glob(".partial*"))


def test_the_onnx_file_holds_the_facts_too(onnx_file: Path) -> None:
    import onnx

    properties = {entry.key: entry.value for entry in onnx.load(onnx_file).metadata_props}
    assert json.loads(properties["spineseg"])["window_hu"] == [-200.0, 1000.0]
    assert list(onnx_file.parent.glob("*.data")) == [], "weights lie in the file itself"


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        ([], ConfigError, r"expected python -m spineseg\.models\.export"),
        (["run=a", "format=onnx", "outptu=b"], ConfigError, "outptu=b"),
        (["run=a", "format=tflite", "output=b.onnx"], ConfigError, "onnx or ultralytics"),
        (["run=a", "format=onnx", "output=b.pt"], ConfigError, r"\.onnx file"),
        (["run=a", "format=onnx", "output=b.onnx", "checkpoint=worst"], ConfigError, "best or last"),
        (["run=no/such/run", "format=onnx", "output=b.onnx"], DataError, "no run there"),
    ],
)
def test_wrong_words_are_named(words: list[str], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        main(words)


def test_the_command_prints_one_line_of_error() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "spineseg.models.export", "run=nowhere"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and "Traceback" not in done.stderr
