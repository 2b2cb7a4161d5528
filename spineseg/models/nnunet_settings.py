"""What nnU-Net's planning settles, as plain values in our axis order; no import of nnunetv2.

nnU-Net reads a volume as SimpleITK gives it, (z, y, x), and puts the axis of the largest spacing first
(``transpose_forward``). Its plans, kernels and strides are in that order. ``their_axes`` says which of our axes each of
theirs is; everything that crosses the border is turned here, once. Files are canonical RAS+ (``nnunet_raw``), so axes
are only ever permuted, never flipped.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from spineseg.data.files import read_json, write_json
from spineseg.errors import ConfigError, DataError

T = TypeVar("T")
Axes = tuple[int, int, int]

SETTINGS_FORMAT: Final = "nnunet settings 1"
# The arguments of an architecture that hold one value an axis and stage.
PER_AXIS: Final = ("kernel_sizes", "strides")
# nnU-Net looks the names of a plan up by importing them. A plan can come with somebody's checkpoint: only these pass.
NETWORKS: Final = tuple(
    f"dynamic_network_architectures.architectures.unet.{name}" for name in ("PlainConvUNet", "ResidualEncoderUNet")
)
PARTS: Final[dict[str, str | None]] = {
    "conv_op": "torch.nn.modules.conv.Conv3d",
    "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
    "dropout_op": None,
    "nonlin": "torch.nn.LeakyReLU",
}


@dataclass(frozen=True)
class PlannedSettings:
    """What a plan settles for data and network, in plain values; axes are ours, (x, y, z).

    Attributes:
        spacing_mm: voxel size of the network.
        patch_size: voxels of a training patch and of an inference window.
        batch_size: patches a batch.
        normalization: arguments of ``Normalization``: nnU-Net's percentiles, mean and deviation of foreground HU.
        architecture: ``class_name`` and ``kwargs`` of the network, in our axis order.
        deep_supervision: whether the network is trained on all its resolutions.
        batch_dice: whether the Dice loss pools the batch.
        axes: ``axes[i]`` is our axis that nnU-Net holds as its i-th.
        configuration: name of the configuration within the plans.
        plans: nnU-Net's own plans, in its own order.
    """

    spacing_mm: tuple[float, float, float]
    patch_size: tuple[int, int, int]
    batch_size: int
    normalization: dict[str, float]
    architecture: dict[str, Any]
    deep_supervision: bool
    batch_dice: bool
    axes: Axes
    configuration: str
    plans: dict[str, Any]

    def __post_init__(self) -> None:
        """Make tuples of what JSON gives as lists."""
        for name in ("spacing_mm", "patch_size", "axes"):
            object.__setattr__(self, name, tuple(getattr(self, name)))

    def keys(self) -> dict[str, Any]:
        """Dotted keys of a training configuration and what the plan settles for each, as lists and scalars."""
        return {
            "data.spacing_mm": list(self.spacing_mm),
            "data.patch_size": list(self.patch_size),
            "data.batch_size": self.batch_size,
            **{f"data.normalization.{name}": value for name, value in self.normalization.items()},
            "data.augmentation.axes": list(self.axes),
            "model.architecture": self.architecture,
            "task.loss.batch_dice": self.batch_dice,
        }

    def write(self, path: Path) -> None:
        """Write the settings as JSON, atomically."""
        write_json(path, {"format": SETTINGS_FORMAT, **asdict(self)})

    @classmethod
    def read(cls, path: Path) -> "PlannedSettings":
        """Read what ``write`` wrote.

        Raises:
            DataError: not there or damaged.
            FormatError: of another version.
        """
        content = read_json(path, SETTINGS_FORMAT, "python -m spineseg.train")
        content.pop("format")
        return cls(**content)


def their_axes(transpose_forward: Sequence[int]) -> Axes:
    """Our axis of each of nnU-Net's: SimpleITK's order reverses ours, then ``transpose_forward`` reorders it.

    >>> their_axes([0, 1, 2]), their_axes([2, 0, 1])
    ((2, 1, 0), (0, 2, 1))
    """
    first, second, third = (2 - axis for axis in transpose_forward)
    return first, second, third


def to_ours(values: Sequence[T], axes: Axes) -> tuple[T, T, T]:
    """One value an axis, from nnU-Net's order to ours.

    >>> to_ours(["x", "z", "y"], (0, 2, 1))
    ('x', 'y', 'z')
    """
    x, y, z = (values[axes.index(axis)] for axis in range(3))
    return x, y, z


def to_theirs(values: Sequence[T], axes: Axes) -> tuple[T, T, T]:
    """One value an axis, from our order to nnU-Net's; undoes ``to_ours``.

    >>> to_theirs(("x", "y", "z"), (0, 2, 1))
    ('x', 'z', 'y')
    """
    first, second, third = (values[axis] for axis in axes)
    return first, second, third


def settings_of(plans: Mapping[str, Any], configuration: str = "3d_fullres") -> PlannedSettings:
    """The settings of one configuration of nnU-Net's plans.

    Args:
        plans: the content of a plans file of nnU-Net 2.
        configuration: ``3d_fullres`` or ``3d_lowres``; a cascade and 2D are not trained here.

    Raises:
        ConfigError: no such configuration, or one of 2D or a cascade.
        DataError: plans of a normalisation or an architecture that is not for CT in 3D.
    """
    node = plans["configurations"].get(configuration)
    if node is None:
        there = ", ".join(sorted(plans["configurations"]))
        raise ConfigError(f"nnU-Net planned no configuration '{configuration}'; there are: {there}")
    if "spacing" not in node or len(node["spacing"]) != 3 or node.get("previous_stage"):
        raise ConfigError(f"configuration '{configuration}' is 2D or a cascade; expected 3d_fullres or 3d_lowres")
    if list(node["normalization_schemes"]) != ["CTNormalization"]:
        raise DataError(
            f"the plans normalise by {node['normalization_schemes']}; expected one CT channel (CTNormalization)"
        )
    if "architecture" not in node:
        raise DataError(f"the plans of '{configuration}' describe no architecture: made by an nnU-Net older than 2.4.1")
    axes = their_axes(plans["transpose_forward"])
    hu = plans["foreground_intensity_properties_per_channel"]["0"]
    x, y, z = to_ours([float(value) for value in node["spacing"]], axes)
    return PlannedSettings(
        spacing_mm=(x, y, z),
        patch_size=to_ours([int(value) for value in node["patch_size"]], axes),
        batch_size=int(node["batch_size"]),
        normalization={
            "low": float(hu["percentile_00_5"]),
            "high": float(hu["percentile_99_5"]),
            "mean": float(hu["mean"]),
            "sd": max(float(hu["std"]), 1e-8),
        },
        architecture={
            "class_name": str(node["architecture"]["network_class_name"]),
            "kwargs": turned(node["architecture"]["arch_kwargs"], axes),
        },
        deep_supervision=True,
        batch_dice=bool(node["batch_dice"]),
        axes=axes,
        configuration=configuration,
        plans=dict(plans),
    )


def turned(kwargs: Mapping[str, Any], axes: Axes) -> dict[str, Any]:
    """An architecture's arguments with kernels and strides in our axis order; all sequences become lists."""
    found = {key: list(value) if isinstance(value, list | tuple) else value for key, value in kwargs.items()}
    for key in PER_AXIS:
        found[key] = [list(to_ours(each, axes)) for each in found[key]]
    return found


def checked_architecture(architecture: Mapping[str, Any] | None) -> tuple[str, dict[str, Any]]:
    """Class name and arguments of an architecture that a configuration may ask for.

    Raises:
        ConfigError: none given, or of classes that are not nnU-Net's for 3D.
    """
    if architecture is None:
        raise ConfigError("model.architecture is null: planning settles it (train), or give a planned one")
    if sorted(architecture) != ["class_name", "kwargs"]:
        raise ConfigError(f"model.architecture: expected class_name and kwargs, found {', '.join(architecture)}")
    name, kwargs = str(architecture["class_name"]), dict(architecture["kwargs"])
    if name not in NETWORKS:
        raise ConfigError(f"model.architecture.class_name: expected one of {', '.join(NETWORKS)}, found {name}")
    for key, expected in PARTS.items():
        if kwargs.get(key) != expected:
            raise ConfigError(f"model.architecture.kwargs.{key}: expected {expected}, found {kwargs.get(key)}")
    return name, kwargs
