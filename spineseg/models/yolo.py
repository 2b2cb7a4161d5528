"""YOLOv8-seg from Ultralytics' own description and loss: the one file that imports ultralytics.

Ultralytics is AGPL-3.0; its import has side effects (threads, ``torch.save``, a settings file in the home folder),
which are undone or kept away here.
"""

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypedDict, cast

import torch
from torch import Tensor, nn

from spineseg.errors import ConfigError, DataError

os.environ.setdefault("YOLO_CONFIG_DIR", str(Path(tempfile.gettempdir()) / f"spineseg-ultralytics-{os.getuid()}"))
os.environ.setdefault("YOLO_AUTOINSTALL", "false")
os.environ.setdefault("YOLO_VERBOSE", "false")
Path(os.environ["YOLO_CONFIG_DIR"]).mkdir(parents=True, exist_ok=True)
_threads, _save = torch.get_num_threads(), torch.save
from ultralytics.nn.tasks import SegmentationModel  # noqa: E402  the environment above must be set before this import
from ultralytics.utils import IterableSimpleNamespace  # noqa: E402
from ultralytics.utils.downloads import GITHUB_ASSETS_NAMES, attempt_download_asset  # noqa: E402
from ultralytics.utils.loss import v8SegmentationLoss  # noqa: E402

torch.set_num_threads(_threads)
torch.save = _save

PROTOTYPE_STRIDE = 4


class InstanceTargets(TypedDict):
    """What the loss needs beside the images; H and W are the image's Y and Z axes in network pixels."""

    index_map: Tensor  # (B, H, W) uint8; 0 background, i + 1 the i-th instance of that image
    classes: Tensor  # (N,) float
    boxes: Tensor  # (N, 4) centre x, centre y, width, height, each ÷ the image's W or H
    batch_index: Tensor  # (N,) float; the image of each instance, instances of an image in the order of index_map


@dataclass(frozen=True)
class LossGains:
    """Weights of the loss terms; the defaults are Ultralytics'."""

    box: float = 7.5
    cls: float = 0.5
    dfl: float = 1.5


@dataclass(frozen=True)
class RawDetections:
    """Decoded, not yet suppressed: every anchor of every level. ``raw`` is what the loss takes."""

    boxes: Tensor  # (B, A, 4) x0, y0, x1, y1 in pixels
    scores: Tensor  # (B, A, C) in 0..1
    coefficients: Tensor  # (B, A, 32)
    prototypes: Tensor  # (B, 32, H / 4, W / 4)
    raw: dict[str, Any]


class YOLOv8Seg(nn.Module):
    """YOLOv8-seg for any number of channels and classes.

    Args:
        channels: input channels.
        num_classes: classes of the head.
        scale: Ultralytics' size letter.
        weights: null trains from scratch; a name such as ``yolov8s-seg.pt`` downloads Ultralytics' COCO weights; a
            path reads an Ultralytics ``.pt`` file. Layers whose shape differs (the class head) keep their start values.
        gains: weights of the loss terms.
        norm_momentum: share of a batch in the running statistics of the normalisation; Ultralytics' 0.03 needs some
            hundred steps before they can be used, more than a short run has.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        scale: Literal["n", "s", "m", "l", "x"] = "s",
        weights: str | None = None,
        gains: LossGains | None = None,
        norm_momentum: float = 0.03,
    ) -> None:
        """Build the network; the criterion is built later, on the device the network has by then."""
        super().__init__()
        self.model = SegmentationModel(f"yolov8{scale}-seg.yaml", ch=channels, nc=num_classes, verbose=False)
        for module in self.model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = norm_momentum
        self.gains = gains or LossGains()
        self.loaded = 0
        if weights is not None:
            self.loaded = self.load_weights(pretrained_weights(weights))

    def forward(self, images: Tensor) -> dict[str, Any]:
        """Raw outputs of the head for the loss: images (B, C, H, W) in 0..1."""
        out = self.model(images)
        return cast(dict[str, Any], out[1] if isinstance(out, tuple) else out)

    def decode(self, images: Tensor) -> RawDetections:
        """Boxes, class scores and mask coefficients of all anchors; the network must be in evaluation mode."""
        (_, prototypes), raw = self.model(images)
        outputs = self._decoded(raw).transpose(1, 2)
        num_classes = outputs.shape[2] - 4 - prototypes.shape[1]
        centre, size = outputs[..., :2], outputs[..., 2:4]
        return RawDetections(
            boxes=torch.cat([centre - size / 2, centre + size / 2], dim=2),
            scores=outputs[..., 4 : 4 + num_classes],
            coefficients=outputs[..., 4 + num_classes :],
            prototypes=prototypes.float(),
            raw=raw,
        )

    def _decoded(self, raw: dict[str, Any]) -> Tensor:
        """Decode the head's outputs in float32: under bfloat16 autocast a box at pixel 500 would move in steps of 2."""
        head = self.model.model[-1]
        head.shape = None  # anchors of the last call may be 16-bit
        with torch.autocast(images_device(raw), enabled=False):
            return cast(Tensor, head._inference({key: _to_float(value) for key, value in raw.items()}))

    def loss(self, raw: dict[str, Any], targets: InstanceTargets) -> tuple[Tensor, dict[str, Tensor]]:
        """Ultralytics' loss: the sum of its terms times the batch size, and the terms by name (detached).

        Everything is taken to float32 first: the assignment and the box loss lose too much in 16 bits.
        """
        raw = {key: _to_float(value) for key, value in raw.items()}
        batch = {
            "batch_idx": targets["batch_index"],
            "cls": targets["classes"],
            "bboxes": targets["boxes"],
            "masks": mask_targets(targets["index_map"]),
        }
        with torch.autocast(images_device(raw), enabled=False):
            parts, names = self._criterion()(raw, batch)
        return parts.sum(), names

    def load_weights(self, weights: dict[str, Tensor]) -> int:
        """Take over every tensor whose name and shape fit, and COCO's first convolution for any channel count.

        A grey slice in three equal channels gives the sum of the three kernels; that sum is placed on the middle
        channel and the neighbours start at zero, so that the network starts as it would on the grey image.

        Returns:
            The number of tensors taken over.
        """
        own = self.model.state_dict()
        stem = "model.0.conv.weight"
        taken = {key: value.float() for key, value in weights.items() if key in own and value.shape == own[key].shape}
        if stem in weights and weights[stem].shape[1] == 3 and weights[stem].shape[0] == own[stem].shape[0]:
            kernel = torch.zeros_like(own[stem])
            kernel[:, kernel.shape[1] // 2] = weights[stem].float().sum(dim=1)
            taken[stem] = kernel
        self.model.load_state_dict({**own, **taken})
        return len(taken)

    def _criterion(self) -> v8SegmentationLoss:
        device = next(self.model.parameters()).device
        # Kept outside the module's state; built anew if the network has moved, since it holds tensors on a device.
        criterion = self.__dict__.get("_loss")
        if criterion is None or criterion.device != device:
            self.model.args = IterableSimpleNamespace(**vars(self.gains), overlap_mask=True)
            criterion = self.__dict__["_loss"] = v8SegmentationLoss(self.model)
        return criterion


def mask_targets(index_map: Tensor) -> Tensor:
    """Take an index map (B, H, W) to the prototypes' size (B, H / 4, W / 4).

    Each takes the instance that has at least two of the four pixels around its middle, which is what Ultralytics'
    resizing of each bitmap comes to. A single pixel beside the middle would shift every mask by half a pixel against
    where bilinear upsampling draws it, and small instances do not survive that.
    """
    low, high = PROTOTYPE_STRIDE // 2 - 1, PROTOTYPE_STRIDE // 2
    corners = [index_map[:, y::PROTOTYPE_STRIDE, x::PROTOTYPE_STRIDE] for y in (low, high) for x in (low, high)]
    a, b, c, d = torch.stack(corners).sort(dim=0).values
    # Equal numbers now lie side by side; between two instances with two pixels each, the higher number wins.
    return torch.where(c == d, d, torch.where(b == c, c, torch.where(a == b, a, torch.zeros_like(a))))


def images_device(raw: dict[str, Any]) -> str:
    """Device type of the head's outputs."""
    return cast(str, raw["boxes"].device.type)


def _to_float(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.float()
    return [item.float() for item in value] if isinstance(value, list) else value


def yolov8_seg(
    channels: int,
    num_classes: int,
    scale: Literal["n", "s", "m", "l", "x"] = "s",
    weights: str | None = None,
    box: float = 7.5,
    cls: float = 0.5,
    dfl: float = 1.5,
    norm_momentum: float = 0.03,
) -> YOLOv8Seg:
    """YOLOv8-seg with its loss gains as plain values; see ``YOLOv8Seg``."""
    return YOLOv8Seg(channels, num_classes, scale, weights, LossGains(box, cls, dfl), norm_momentum)


def pretrained_weights(weights: str) -> dict[str, Tensor]:
    """Plain tensors from an Ultralytics ``.pt`` by path or by asset name; cached beside the file.

    The file is a pickle, so it is converted once, in a process of its own, through Ultralytics' loader restricted to
    known model classes; from then on only the plain tensors are read.

    Raises:
        ConfigError: the weights can be neither found nor downloaded.
        DataError: the file is no Ultralytics checkpoint, or holds foreign classes.
    """
    source = Path(weights).expanduser()
    if not source.is_file():
        if source.name != weights or weights not in GITHUB_ASSETS_NAMES:
            raise ConfigError(
                f"model.weights={weights}: no such file, and no name of Ultralytics' weights; {_WAYS_OUT}"
            )
        source = _download(weights)
    plain = source.with_name(source.stem + ".weights.pt")
    if not plain.is_file() or plain.stat().st_mtime < source.stat().st_mtime:
        done = subprocess.run(
            [sys.executable, "-m", "spineseg.models.yolo", str(source), str(plain)], capture_output=True, text=True
        )
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise DataError(f"{source}: not a checkpoint of known Ultralytics classes, refused ({reason})")
    return cast(dict[str, Tensor], torch.load(plain, map_location="cpu", weights_only=True))


_WAYS_OUT = (
    "either download the file elsewhere and set model.weights=<path to the .pt>, or train from scratch with "
    "model.weights=null"
)


def _download(name: str) -> Path:
    target = Path(torch.hub.get_dir()) / "spineseg" / name
    if target.is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        found = Path(attempt_download_asset(str(target)))
    except Exception as error:  # its downloader raises whatever the network does
        raise ConfigError(f"model.weights={name}: the download failed ({error}); {_WAYS_OUT}") from error
    if not found.is_file():
        raise ConfigError(f"model.weights={name}: the download failed; {_WAYS_OUT}")
    return found


def _convert(source: Path, target: Path) -> None:
    """Write the tensors of an Ultralytics checkpoint as plain weights (EMA where it has one)."""
    from ultralytics.nn.tasks import torch_safe_load

    checkpoint, _ = torch_safe_load(str(source), safe_only=True)
    model = checkpoint.get("ema") or checkpoint.get("model")
    if not isinstance(model, nn.Module):
        raise TypeError(f"{source} holds no model")
    partial = target.with_name(f".partial-{os.getpid()}-{target.name}")
    torch.save({key: value.contiguous() for key, value in model.float().state_dict().items()}, partial)
    partial.replace(target)


if __name__ == "__main__":
    _convert(Path(sys.argv[1]), Path(sys.argv[2]))
