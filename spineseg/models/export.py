"""A run's network for use elsewhere: as Ultralytics' ``.pt``, or as ONNX.

``python -m spineseg.models.export run=<run> format=onnx|ultralytics output=<file>`` writes the file, and beside it
``<file>.json``, which says what no weights file does: classes, pixel size, HU window, neighbouring slices.
``checkpoint=last`` takes the last epoch's weights instead of the best.

ONNX needs the package of the extra ``export`` (``pip install 'spineseg[export]'``).
"""

import copy
import json
import os
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import torch

from spineseg.data.files import sha256_of_file, write_json
from spineseg.data.slices import STRIDE
from spineseg.errors import ConfigError, SpinesegError
from spineseg.models.yolo import YOLOv8Seg

EXPORT_FORMAT: Final = "exported_model 1"
_OPSET: Final = 17  # what onnxruntime runs since 1.13
_COMMAND: Final = "python -m spineseg.models.export run=<run> format=onnx|ultralytics output=<file>"


@dataclass(frozen=True)
class ExportFacts:
    """What belongs to the weights; written beside and into the exported file.

    Attributes:
        classes: name of each class in the network's order.
        pixel_mm: side of a network pixel.
        window_hu: HU that 0 and 1 of the input stand for; beyond is clipped.
        context: neighbouring slices on either side, as channels.
        image_size: (Y, Z) of training images in pixels.
        simulated: whether the network was trained on simulated scans.
        score_threshold: of the exclusive map, from validation.
        run: where the weights come from.
        checkpoint: ``best`` or ``last``.
    """

    classes: tuple[str, ...]
    pixel_mm: float
    window_hu: tuple[float, float]
    context: int
    image_size: tuple[int, int]
    simulated: bool
    score_threshold: float | None = None
    run: str = ""
    checkpoint: str = "best"

    def as_dict(self) -> dict[str, Any]:
        """Plain values, with how an input is made of a scan."""
        return {
            "format": EXPORT_FORMAT,
            "classes": list(self.classes),
            "pixel_mm": self.pixel_mm,
            "window_hu": list(self.window_hu),
            "context": self.context,
            "channels": "sagittal slices x - context … x + context of the scan in RAS+, border slices repeated",
            "axes": "batch, channel, Y (to the front), Z (to the head); sides multiples of 32, 0 beyond the slice",
            "image_size": list(self.image_size),
            "simulated": self.simulated,
            "score_threshold": self.score_threshold,
            "run": self.run,
            "checkpoint": self.checkpoint,
        }


def export_ultralytics(net: YOLOv8Seg, facts: ExportFacts, path: Path) -> None:
    """Write a checkpoint that ``ultralytics.YOLO(path)`` loads; weights stay float32, so that outputs are the same.

    Ultralytics turns arrays of three channels around (BGR to RGB), tensors it takes as they are: give it a tensor, or
    an array whose first channel is slice x + 1.
    """
    model = copy.deepcopy(net.model).cpu().float().eval().to(memory_format=torch.contiguous_format)
    arguments = {"task": "segment", "mode": "train", "imgsz": max(facts.image_size), "data": None}
    # Ultralytics reads these as attributes of the pickled module.
    for name, value in {"names": _names(facts), "nc": len(facts.classes), "task": "segment"}.items():
        setattr(model, name, value)
    model.args = dict(arguments)
    for parameter in model.parameters():
        parameter.grad = None
    content = {
        "epoch": -1,
        "model": model,
        "ema": None,
        "updates": None,
        "optimizer": None,
        "train_args": arguments,
        "train_metrics": {},
        "date": _now(),
        "version": version("ultralytics"),
        "license": "AGPL-3.0",
        "spineseg": facts.as_dict(),
    }
    _write(path, lambda partial: torch.save(content, partial), {**facts.as_dict(), "kind": "ultralytics"})


def export_onnx(net: YOLOv8Seg, facts: ExportFacts, path: Path) -> None:
    """Write an ONNX file of any batch and image size, which onnxruntime and ``ultralytics.YOLO(path)`` run.

    ``images`` (B, C, H, W) in 0..1 gives ``output0`` (B, 4 + classes + 32, A): centre x, centre y, width and height in
    pixels, class scores, mask coefficients; and ``output1`` (B, 32, H / 4, W / 4): mask prototypes.

    Raises:
        ConfigError: the package onnx is missing.
    """
    if find_spec("onnx") is None:
        raise ConfigError("format=onnx needs the package onnx: pip install 'spineseg[export]'")
    import onnx

    model = copy.deepcopy(net.model).cpu().float().eval().to(memory_format=torch.contiguous_format)
    head: Any = model.model[-1]
    head.export, head.dynamic, head.format = True, True, "onnx"
    # The keys that Ultralytics looks for, and ours in one of our own.
    entries = {
        "description": "YOLOv8-seg of vertebrae in sagittal CT slices",
        "date": _now(),
        "license": "AGPL-3.0",
        "stride": STRIDE,
        "task": "segment",
        "batch": 1,
        "imgsz": list(facts.image_size),
        "names": _names(facts),
        "channels": 2 * facts.context + 1,
        "args": {"dynamic": True},
        "spineseg": json.dumps(facts.as_dict()),
    }

    def save(partial: Path) -> None:
        _trace(model, facts, partial)
        proto = onnx.load(str(partial))
        onnx.helper.set_model_props(proto, {key: str(value) for key, value in entries.items()})
        onnx.checker.check_model(proto)
        onnx.save(proto, str(partial))

    _write(path, save, {**facts.as_dict(), "kind": "onnx"})


def _trace(model: torch.nn.Module, facts: ExportFacts, path: Path) -> None:
    """Write the graph, of any batch and size.

    By the tracing exporter, which Ultralytics uses too: torch's newer one takes ten times as long and two packages more
    for the same outputs.
    """
    axes = {"images": {0: "batch", 2: "height", 3: "width"}, "output0": {0: "batch", 2: "anchors"}}
    example = torch.zeros(1, 2 * facts.context + 1, 2 * STRIDE, 3 * STRIDE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (example,),
            str(path),
            input_names=["images"],
            output_names=["output0", "output1"],
            dynamic_axes={**axes, "output1": {0: "batch", 2: "mask_height", 3: "mask_width"}},
            opset_version=_OPSET,
            dynamo=False,
        )


FORMATS: Final[dict[str, tuple[str, Callable[[YOLOv8Seg, ExportFacts, Path], None]]]] = {
    "onnx": (".onnx", export_onnx),
    "ultralytics": (".pt", export_ultralytics),
}


def _names(facts: ExportFacts) -> dict[int, str]:
    return dict(enumerate(facts.classes))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _write(path: Path, save: Callable[[Path], None], facts: dict[str, Any]) -> None:
    """Give the file its name when it is whole, and write what belongs to it beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".partial-{os.getpid()}-{path.name}")
    save(partial)
    digest = sha256_of_file(partial)
    partial.replace(path)
    beside = {**facts, "file": path.name, "sha256": digest, "torch": torch.__version__}
    write_json(path.with_name(f"{path.name}.json"), {**beside, "ultralytics": version("ultralytics")})


def export_run(run: str, kind: str, output: Path, *, checkpoint: str = "best") -> None:
    """Export a run's network.

    Args:
        run: the run's folder, or its name below ``paths.runs``.
        kind: ``onnx`` or ``ultralytics``.
        output: ``.onnx`` or ``.pt``.
        checkpoint: ``best`` or ``last``.

    Raises:
        ConfigError: another kind or suffix.
        DataError: no such run.
    """
    # Imported here: the model's own module must not need the programs that use it.
    from spineseg.config import compose
    from spineseg.data.datamodules import SliceDataModule
    from spineseg.runs import find_run, read_config
    from spineseg.trained import load_model

    if kind not in FORMATS:
        raise ConfigError(f"format={kind}: expected {' or '.join(FORMATS)}")
    if checkpoint not in ("best", "last"):
        raise ConfigError(f"checkpoint={checkpoint}: expected best or last")
    suffix, write = FORMATS[kind]
    if output.suffix != suffix:
        raise ConfigError(f"output={output}: format={kind} writes a {suffix} file")
    found = find_run(run, Path(compose("predict").paths.runs))
    model = load_model(found, "best" if checkpoint == "best" else "last")
    data = model.datamodule
    if not isinstance(data, SliceDataModule) or not isinstance(model.task.net, YOLOv8Seg):
        raise ConfigError(f"run={run}: {type(model.task.net).__name__} has no export; only YOLOv8-seg does")
    height, width = read_config(found).data.image_size
    facts = ExportFacts(
        classes=model.task.classes,
        pixel_mm=data.pixel_mm,
        window_hu=data.reader.window_hu,
        context=data.reader.context,
        image_size=(int(height), int(width)),
        simulated=model.simulated,
        score_threshold=model.score_threshold,
        run=found.name,
        checkpoint=checkpoint,
    )
    write(model.task.net, facts, output)


def main(arguments: list[str]) -> None:
    """Take ``key=value`` words; see the module.

    Raises:
        ConfigError: a word that is none, an unknown or a missing key.
    """
    given = dict(word.partition("=")[::2] for word in arguments)
    needed = {"run", "format", "output"}
    if not needed <= set(given) <= needed | {"checkpoint"}:
        raise ConfigError(f"found {' '.join(arguments) or 'nothing'}; expected {_COMMAND} [checkpoint=best|last]")
    output = Path(given["output"])
    export_run(given["run"], given["format"], output, checkpoint=given.get("checkpoint", "best"))
    print(f"written: {output} and {output.name}.json")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except SpinesegError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
