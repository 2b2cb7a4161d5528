"""nnU-Net v2's own planning, network, loss and augmentation: the one file that imports nnunetv2.

It is imported inside the functions that need it: its import takes seconds, asks the machine for its name, and a
configuration that names a function of this file can be checked without it. Its folders are environment variables,
which are set around a call and put back. Axes: ``nnunet_settings``.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from importlib import import_module
from json import dumps, loads
from multiprocessing.pool import ThreadPool
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from spineseg.data.files import sha256_of_text, write_text
from spineseg.data.patches import CUBES, Size, Spacing
from spineseg.data.prepared import Prepared
from spineseg.data.sources import Source
from spineseg.data.splits import Split
from spineseg.errors import ConfigError
from spineseg.models.nnunet_raw import MOST_THREADS, raw_key, write_raw
from spineseg.models.nnunet_settings import (
    PARTS,
    PlannedSettings,
    checked_architecture,
    settings_of,
    to_ours,
    to_theirs,
)
from spineseg.processors import processors

Preset = Literal["plain", "resenc_m", "resenc_l"]

_PLANNERS: Final = {
    "plain": ("nnunetv2.experiment_planning.experiment_planners.default_experiment_planner", "ExperimentPlanner"),
    "resenc_m": (
        "nnunetv2.experiment_planning.experiment_planners.residual_unets.residual_encoder_unet_planners",
        "nnUNetPlannerResEncM",
    ),
    "resenc_l": (
        "nnunetv2.experiment_planning.experiment_planners.residual_unets.residual_encoder_unet_planners",
        "nnUNetPlannerResEncL",
    ),
}
AXIS_NAMES: Final = "xyz"


def plan(
    prepared: Prepared,
    source: Source,
    split: Split,
    *,
    work: Path,
    preset: Preset = "plain",
    gpu_memory_gb: float = 8.0,
    configuration: str = "3d_fullres",
    base_features: int = 32,
    max_features: int = 320,
    foreground_voxels: int = 100_000_000,
    spacing_mm: Sequence[float] | None = None,
) -> PlannedSettings:
    """Plan as nnU-Net does: raw data set, fingerprint of the training cases, planner; a plan that still holds is kept.

    nnU-Net fingerprints validation cases too; here a plan never sees them.

    Args:
        prepared: cases and their content hashes.
        source: reads native images and masks; its class list becomes the labels.
        split: training and validation cases; test cases are not exported.
        work: folder for nnU-Net's three folders and its log, nothing is written elsewhere.
        preset: ``plain`` (nnU-Net's default), ``resenc_m`` or ``resenc_l``.
        gpu_memory_gb: what the planner may fill; ResEnc L is made for 24.
        configuration: ``3d_fullres`` or ``3d_lowres``.
        base_features: channels of the first stage; each next one has twice as many,
        max_features: but at most so many.
        foreground_voxels: sample of foreground HU over all cases.
        spacing_mm: x, y, z of the full resolution, which patch and kernels are planned for; None: the planner's choice.

    Returns:
        Plain values in our axis order.

    Raises:
        ConfigError: unknown preset or configuration, masks that name no levels.
        DataError: a case that cannot be read.
    """
    if preset not in _PLANNERS:
        raise ConfigError(f"preset={preset}: expected {', '.join(_PLANNERS)}")
    spacing_mm = spacing_mm and [float(each) for each in spacing_mm]
    given = dumps([preset, gpu_memory_gb, base_features, max_features, foreground_voxels, spacing_mm])
    asked = sha256_of_text(raw_key(prepared, source, split) + given)[:16]
    kept = work / f"plans-{preset}-{asked}.json"
    if not kept.is_file():
        raw = write_raw(prepared, source, split, work / "nnUNet_raw")
        train, features = tuple(split.train), (base_features, max_features)
        plans = _run_planner(raw.name, train, work, preset, gpu_memory_gb, features, foreground_voxels, spacing_mm)
        write_text(kept, dumps(plans, indent=1))
    return settings_of(loads(kept.read_text(encoding="utf-8")), configuration)


def _run_planner(
    name: str,
    train: tuple[str, ...],
    work: Path,
    preset: Preset,
    gpu_memory_gb: float,
    features: tuple[int, int],
    foreground_voxels: int,
    spacing_mm: Sequence[float] | None,
) -> dict[str, Any]:
    preprocessed = work / "nnUNet_preprocessed" / name
    preprocessed.mkdir(parents=True, exist_ok=True)
    # The planner refuses to go on beside the split of another fold.
    (preprocessed / "splits_final.json").unlink(missing_ok=True)
    threads = torch.get_num_threads()
    with nnunet_folders(work), (work / "planning.log").open("w") as log, redirect_stdout(log), redirect_stderr(log):
        module = _nnunetv2("experiment_planning.dataset_fingerprint.fingerprint_extractor")
        with _threads_for_processes(module):
            extractor = module.DatasetFingerprintExtractor(name, num_processes=min(processors(), MOST_THREADS))
            extractor.dataset = {case: extractor.dataset[case] for case in train}
            extractor.num_foreground_voxels_for_intensitystats = foreground_voxels
            extractor.run(overwrite_existing=True)
        planner_module, planner_class = _PLANNERS[preset]
        planner = getattr(_nnunetv2(planner_module.removeprefix("nnunetv2.")), planner_class)(
            name,
            gpu_memory_target_in_gb=gpu_memory_gb,
            # In SimpleITK's order, before the planner turns axes.
            overwrite_target_spacing=None if spacing_mm is None else list(spacing_mm)[::-1],
        )
        planner.UNet_base_num_features, planner.UNet_max_features_3d = features
        # The number of cases caps the batch; it too is of the training cases.
        planner.dataset_json["numTraining"] = len(train)
        try:
            planner.plan_experiment()
        finally:
            torch.set_num_threads(threads)  # it sets its own while it estimates memory
        # From the file, where NumPy's scalars and integer keys have become plain.
        return cast(dict[str, Any], loads((preprocessed / f"{planner.plans_identifier}.json").read_text()))


@contextmanager
def nnunet_folders(work: Path) -> Iterator[None]:
    """Point nnU-Net's environment variables at folders in ``work``, and put them back."""
    names = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
    with _environment({name: str(work / name) for name in names}):
        for name in names:
            (work / name).mkdir(parents=True, exist_ok=True)
        yield


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _threads_for_processes(module: Any) -> Iterator[None]:
    """Let the extractor's pool be one thread: a spawned process would import all of this again, and the caller."""
    before = module.multiprocessing
    module.multiprocessing = SimpleNamespace(get_context=lambda method: SimpleNamespace(Pool=ThreadPool))
    try:
        yield
    finally:
        module.multiprocessing = before


def _nnunetv2(module: str) -> Any:
    """A module of nnunetv2; its import would run a shell to look the machine's name up in a table.

    Raises:
        ConfigError: the package is not installed.
    """
    try:
        with _environment({} if "nnUNet_n_proc_DA" in os.environ else {"nnUNet_n_proc_DA": "1"}):
            return import_module(f"nnunetv2.{module}")
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"nnU-Net needs the package {error.name}, which is not installed: pip install 'nnunetv2>=2.8,<2.9'"
        ) from error


class PlannedNetwork(nn.Module):
    """A network of nnU-Net's: logits of all resolutions in training, of the full one else.

    Args:
        network: as nnU-Net builds it, with a decoder that can give all resolutions.
        deep_supervision: whether training gives a list, highest resolution first.
    """

    def __init__(self, network: nn.Module, deep_supervision: bool) -> None:
        super().__init__()
        self.network = network
        # Never switched: Lightning sets `training` after a validation without calling `train`.
        cast(Any, network).decoder.deep_supervision = deep_supervision
        if not deep_supervision:
            # Heads that give nothing: several processes would wait for their gradients.
            cast(Any, network).decoder.seg_layers[:-1].requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor | list[Tensor]:
        """Logits (B, K, X, Y, Z) of images (B, C, X, Y, Z); in training a list of them, each resolution coarser."""
        outputs: Tensor | list[Tensor] = self.network(images)
        return outputs if self.training or isinstance(outputs, Tensor) else outputs[0]


def planned_network(
    channels: int, num_classes: int, architecture: Mapping[str, Any] | None = None, deep_supervision: bool = True
) -> PlannedNetwork:
    """The network of a plan, from ``dynamic_network_architectures``, initialised as nnU-Net does.

    Args:
        channels: input channels.
        num_classes: classes with background.
        architecture: ``class_name`` and ``kwargs`` as planning settles them, in our axis order.
        deep_supervision: whether it gives all its resolutions in training.

    Raises:
        ConfigError: no architecture, or one of classes that a configuration may not name.
    """
    name, kwargs = checked_architecture(architecture)
    build = _nnunetv2("utilities.get_network_from_plans").get_network_from_plans
    network = build(name, kwargs, tuple(PARTS), channels, num_classes, allow_init=True, deep_supervision=True)
    return PlannedNetwork(network, deep_supervision)


class Loss(nn.Module):
    """nnU-Net's Dice + cross-entropy over one output or all resolutions.

    Resolution i weighs 1 / 2^i, the coarsest nothing, normalised to a sum of 1; a single output weighs 1. The labels
    of a resolution are resized here, by the voxels that nnU-Net's loader takes (``nearest-exact``).

    Args:
        batch_dice: whether the Dice term pools the batch, which the plan says.
    """

    def __init__(self, batch_dice: bool = False) -> None:
        super().__init__()
        dice = _nnunetv2("training.loss.dice").MemoryEfficientSoftDiceLoss
        self.criterion: nn.Module = _nnunetv2("training.loss.compound_losses").DC_and_CE_loss(
            {"batch_dice": batch_dice, "smooth": 1e-5, "do_bg": False, "ddp": False},
            {},
            weight_ce=1,
            weight_dice=1,
            dice_class=dice,
        )
        self._wrap = _nnunetv2("training.loss.deep_supervision").DeepSupervisionWrapper
        # Imports MONAI, so not at the top.
        from spineseg.tasks.losses import nearest

        self._nearest = nearest

    def forward(self, outputs: Tensor | Sequence[Tensor], labels: Tensor) -> Tensor:
        """The loss of logits (B, K, X, Y, Z), or a list of them from fine to coarse, and labels (B, 1, X, Y, Z)."""
        several = _distributed()
        cast(Any, self.criterion).dc.ddp = several
        # In 16 bits the sums over a patch's voxels overflow or lose most of their digits.
        levels = [outputs.float()] if isinstance(outputs, Tensor) else [each.float() for each in outputs]
        with torch.autocast(levels[0].device.type, enabled=False):
            targets = [self._nearest(labels, each.shape[2:]) for each in levels]
            if len(levels) == 1:
                return cast(Tensor, self.criterion(levels[0], targets[0]))
            return cast(Tensor, self._wrap(self.criterion, loss_weights(len(levels), several))(levels, targets))


def loss_weights(count: int, distributed: bool = False) -> list[float]:
    """Weights of ``count`` > 1 resolutions, as nnU-Net's trainer sets them.

    Several processes may not leave parameters without a gradient: there the coarsest weighs 10⁻⁶.

    >>> [round(weight, 3) for weight in loss_weights(4)]
    [0.571, 0.286, 0.143, 0.0]
    """
    weights = np.array([1 / 2**i for i in range(count)])
    weights[-1] = 1e-6 if distributed else 0.0
    return [float(weight) for weight in weights / weights.sum()]


def _distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


@dataclass
class Augmentation:
    """nnU-Net's training transforms as a patch augmentation: its own code, with draws from the generator it is given.

    Its transforms draw from the global generators of NumPy and torch; these are seeded for the call and put back. One
    choice of its would be made by a stopwatch (whether to blur by FFT); here it never is, so that a draw gives the same
    bits every time.

    Args:
        mirror_axes: of ``x`` (left–right), ``y`` (front–back), ``z`` (head–foot). nnU-Net takes all three; head–foot
            makes the names of levels untrue.
        axes: ``axes[i]`` is our axis that nnU-Net holds as its i-th (``PlannedSettings.axes``); thick slices (patches
            more than three times as large in plane) are turned in plane only, and its first axis is the thick one.
    """

    mirror_axes: Sequence[str] = ("x", "y")
    axes: Sequence[int] | None = (2, 1, 0)
    _made: dict[Size, tuple[Any, Size]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check the axes."""
        unknown = sorted(set(self.mirror_axes) - set(AXIS_NAMES))
        if unknown:
            raise ConfigError(f"data.augmentation.mirror_axes: expected any of x, y, z, found {', '.join(unknown)}")
        axes = (2, 1, 0) if self.axes is None else tuple(self.axes)
        if sorted(axes) != [0, 1, 2]:
            raise ConfigError(f"data.augmentation.axes: expected an order of 0, 1, 2, found {list(axes)}")
        self._axes = cast(Size, axes)

    def __getstate__(self) -> dict[str, Any]:
        """Loader processes make their own transforms."""
        return {**self.__dict__, "_made": {}}

    def read_size(self, size: Size) -> Size:
        """Voxels to read for a patch of ``size``: nnU-Net's own margin for turns and zooms (not for the widest)."""
        return self._transforms(size)[1]

    def __call__(
        self,
        image: NDArray[np.float32],
        labels: NDArray[np.uint8],
        size: Size,
        rng: np.random.Generator,
        spacing_mm: Spacing = CUBES,
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """Augment one patch.

        Args:
            image: (X, Y, Z) normalised, of ``read_size(size)``.
            labels: (X, Y, Z) class indices, the same voxels.
            size: of the result.
            rng: two numbers are drawn from it.
            spacing_mm: not looked at: nnU-Net turns patches that are much flatter than wide in their plane alone.
        """
        transforms, _ = self._transforms(size)
        # Copies: its transforms write into what they are given.
        given = {
            "image": torch.from_numpy(np.array(image.transpose(self._axes), np.float32, order="C"))[None],
            "segmentation": torch.from_numpy(np.array(labels.transpose(self._axes), np.int16, order="C"))[None],
        }
        with _seeded(*(int(seed) for seed in rng.integers(2**32, size=2))):
            made = transforms(**given)
        back = np.argsort(self._axes)
        return (
            np.ascontiguousarray(made["image"][0].numpy().transpose(back)),
            np.ascontiguousarray(made["segmentation"][0].numpy().transpose(back).astype(np.uint8)),
        )

    def _transforms(self, size: Size) -> tuple[Any, Size]:
        """nnU-Net's transforms for a patch of ``size``, and the size to read."""
        if size not in self._made:
            trainer = _nnunetv2("training.nnUNetTrainer.nnUNetTrainer").nnUNetTrainer
            theirs = to_theirs(size, self._axes)
            # Its method asks its trainer for no more than this.
            stand_in = SimpleNamespace(
                configuration_manager=SimpleNamespace(patch_size=list(theirs)), print_to_log_file=lambda *_: None
            )
            rotation, flat, read, _ = trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size(stand_in)
            mirrored = tuple(i for i, axis in enumerate(self._axes) if AXIS_NAMES[axis] in self.mirror_axes)
            transforms = trainer.get_training_transforms(list(theirs), rotation, None, mirrored, flat)
            _without_stopwatch(transforms)
            self._made[size] = (transforms, to_ours([int(n) for n in read], self._axes))
        return self._made[size]


def _without_stopwatch(transforms: Any) -> None:
    for each in transforms.transforms:
        inner = getattr(each, "transform", each)
        if hasattr(inner, "benchmark"):
            inner.benchmark = False


@contextmanager
def _seeded(numpy_seed: int, torch_seed: int) -> Iterator[None]:
    """Seed the global generators of NumPy and torch (CPU) and put their states back."""
    state = np.random.get_state()  # noqa: NPY002  nnU-Net draws from the global generator
    with torch.random.fork_rng(devices=[]):
        try:
            np.random.seed(numpy_seed)  # noqa: NPY002
            torch.manual_seed(torch_seed)
            yield
        finally:
            np.random.set_state(state)  # noqa: NPY002
