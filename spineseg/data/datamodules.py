"""LightningDataModules: prepared cases and a split in, batches out."""

from collections.abc import Sequence

import numpy as np
from torch.utils.data import DataLoader, IterableDataset

from spineseg.data.augmentation import SliceAugmentation
from spineseg.data.loading import CaseDataModule
from spineseg.data.normalization import Normalization
from spineseg.data.patches import (
    PatchAugmentation,
    PatchDataset,
    PatchSample,
    VolumeBatch,
    VolumeDataset,
    collate_patches,
    only_volume,
)
from spineseg.data.scans import Scan, ScanBatch, ScanSlices, ScanVolumes, VolumeScan
from spineseg.data.slices import (
    STRIDE,
    Classes,
    Masks,
    SliceDataset,
    SliceReader,
    SliceRef,
    SliceSample,
    collate,
)
from spineseg.data.sources import Source
from spineseg.data.store import Resampling, StoredCase, as_spacing
from spineseg.errors import ConfigError
from spineseg.geometry import SpacingMm

__all__ = ["CaseDataModule", "PatchDataModule", "SliceDataModule"]


class SliceDataModule(CaseDataModule):
    """Sagittal slices of a source at a fixed pixel size.

    Args:
        source: where the raw files lie and what their labels mean.
        prepared_root: where prepared sources lie.
        pixel_mm: side of a network pixel; slices keep the scan's own spacing along X.
        image_size: (Y, Z) of training images in pixels, multiples of 32; validation slices keep their own size.
        window_hu: HU window mapped to 0..1.
        context: neighbouring slices on either side, as channels.
        classes: ``vertebra`` (one class) or ``levels`` (the source's class list).
        masks: of training slices: ``bitmap``, or ``polygon`` (holes filled, parts joined).
        augmentation: how training slices vary.
        batch_size: slices a batch and process.
        epoch_slices: slices an epoch over all processes; null takes each slice once.
        background: slices without a vertebra, as a share of those with one.
        validation_step_mm: distance of validation slices along X (PROTOCOL §5.1 takes 3 mm).
        fold: test = fold, validation = fold + 1, training = the rest.
        split_seed: seed of the hash that makes the folds.
        split_file: a ``splits.json`` with one split to use instead of the folds.
        overfit: a case's id: training and validation on it alone.
        train_subjects: of the training subjects take so many, by the hash rule of the folds; null takes all.
        seed: of the draws.
        workers: loader processes; null takes what the machine leaves.
    """

    def __init__(
        self,
        source: Source,
        prepared_root: str,
        augmentation: SliceAugmentation,
        pixel_mm: float = 1.0,
        image_size: Sequence[int] = (640, 640),
        window_hu: Sequence[float] = (-200.0, 1000.0),
        context: int = 1,
        classes: Classes = "vertebra",
        masks: Masks = "bitmap",
        batch_size: int = 16,
        epoch_slices: int | None = None,
        background: float = 0.1,
        validation_step_mm: float = 3.0,
        fold: int = 0,
        split_seed: int = 0,
        split_file: str | None = None,
        overfit: str | None = None,
        train_subjects: int | None = None,
        seed: int = 0,
        workers: int | None = None,
    ) -> None:
        """Keep the settings; no file is read before ``prepare_data``."""
        if len(image_size) != 2 or len(window_hu) != 2 or window_hu[0] >= window_hu[1]:
            raise ConfigError(
                f"expected data.image_size [Y, Z] and data.window_hu [low, high], found {image_size}, {window_hu}"
            )
        if image_size[0] % STRIDE or image_size[1] % STRIDE:
            raise ConfigError(f"data.image_size must be multiples of {STRIDE}, found {list(image_size)}")
        if classes not in ("vertebra", "levels"):
            raise ConfigError(f"data.classes must be vertebra or levels, found {classes}")
        super().__init__(
            source,
            prepared_root,
            spacing=(None, pixel_mm, pixel_mm),
            batch_size=batch_size,
            fold=fold,
            split_seed=split_seed,
            split_file=split_file,
            overfit=overfit,
            train_subjects=train_subjects,
            seed=seed,
            workers=workers,
        )
        self.augmentation, self.pixel_mm, self.image_size = augmentation, pixel_mm, (image_size[0], image_size[1])
        self.epoch_slices, self.background, self.validation_step_mm = epoch_slices, background, validation_step_mm
        if masks not in ("bitmap", "polygon"):
            raise ConfigError(f"data.masks={masks}: expected bitmap or polygon")
        self.reader = SliceReader((window_hu[0], window_hu[1]), context, classes, tuple(source.levels), masks)

    @property
    def channels(self) -> int:
        """Channels of an image."""
        return self.reader.channels

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Channels and pixels of one training image: (C, Y, Z)."""
        return self.channels, *self.image_size

    @property
    def num_classes(self) -> int:
        """Classes of the network."""
        return self.reader.num_classes

    @property
    def class_levels(self) -> tuple[int, ...]:
        """The level of each class; empty where all are one class."""
        return self.reader.levels if self.reader.classes == "levels" else ()

    def train_dataset(self) -> SliceDataset:
        """Slices with a vertebra, and a share of those without, drawn once by the seed."""
        stored = self._stored(self.split().train)
        refs = [SliceRef(case, int(x)) for case, item in stored.items() for x in np.flatnonzero(item.label_voxels)]
        empty = [
            SliceRef(case, int(x)) for case, item in stored.items() for x in np.flatnonzero(item.label_voxels == 0)
        ]
        count = min(len(empty), round(self.background * len(refs)))
        chosen = np.random.default_rng((self.seed, len(empty))).permutation(len(empty))[:count]
        refs += [empty[i] for i in sorted(chosen)]
        return SliceDataset(
            stored,
            refs,
            self.reader,
            size=self.image_size,
            augmentation=self.augmentation,
            epochs=self.epochs,
            length=self._whole_batches(self.epoch_slices or len(refs)),
            seed=self.seed,
        )

    def val_dataset(self) -> SliceDataset:
        """Every so many mm a slice, those without a vertebra too: what is found there is false."""
        stored = self._stored(self.split().val)
        refs = []
        for case, item in stored.items():
            spacing = item.spacing_mm[0]
            picks = np.arange(0, item.shape[0], max(1.0, self.validation_step_mm / spacing))
            refs += [SliceRef(case, int(x)) for x in np.unique(np.round(picks).astype(int)) if x < item.shape[0]]
        return SliceDataset(stored, refs, self.reader)

    def train_dataloader(self) -> DataLoader[SliceSample]:
        """Batches of training slices, from where a resumed run goes on.

        Raises:
            ConfigError: A checkpoint from inside an epoch that was cut into other batches.
        """
        dataset = self.train_dataset()
        return self._training_loader(dataset, len(dataset), collate)

    def val_dataloader(self) -> DataLoader[SliceSample]:
        """Batches of validation slices.

        Raises:
            ConfigError: Fewer batches than processes.
        """
        dataset = self.val_dataset()
        few = (
            f"validation slices in batches of {self.batch_size} are too few for {{world}} processes; "
            "lower data.validation_step_mm, data.batch_size or trainer.devices"
        )
        return self._validation_loader(dataset, len(dataset), collate, batch_size=self.batch_size, few=few)

    def scan_batches(self, scans: Sequence[Scan]) -> IterableDataset[ScanBatch]:
        """Every native sagittal slice of whole scans, in batches."""
        return ScanSlices(scans, self.reader, pixel_mm=self.pixel_mm, batch_size=self.batch_size)


class PatchDataModule(CaseDataModule):
    """Patches of a source's volumes for label-map networks; whole cases for validation.

    Cases without a mask are left out. A mask's levels that are not among the source's become background.

    Args:
        source: where the raw files lie and what their labels mean.
        prepared_root: where prepared sources lie.
        normalization: from HU to what the network sees.
        augmentation: how training patches vary; null leaves them as they are.
        spacing_mm: (x, y, z) of a network voxel in mm; null, or one null of three, keeps a case's own.
        resampling: how images come to that spacing, ``linear`` or ``cubic``; masks take the nearest label.
        patch_size: (X, Y, Z) of training patches in voxels.
        batch_size: patches a batch and process.
        epoch_patches: patches an epoch over all processes; null takes one of each case.
        foreground: share of the patches that are centred on a voxel of a level; the level is chosen first.
        validation_cases: so many of the validation cases, evenly spaced in the split; null takes all.
        fold: test = fold, validation = fold + 1, training = the rest.
        split_seed: seed of the hash that makes the folds.
        split_file: a ``splits.json`` with one split to use instead of the folds.
        overfit: a case's id: training and validation on it alone.
        train_subjects: of the training subjects take so many, by the hash rule of the folds; null takes all.
        seed: of the draws.
        workers: loader processes; null takes what the machine leaves.
    """

    def __init__(
        self,
        source: Source,
        prepared_root: str,
        normalization: Normalization,
        augmentation: PatchAugmentation | None = None,
        spacing_mm: Sequence[float | None] | None = (1.5, 1.5, 1.5),
        resampling: Resampling = "linear",
        patch_size: Sequence[int] = (96, 96, 96),
        batch_size: int = 2,
        epoch_patches: int | None = 500,
        foreground: float = 0.33,
        validation_cases: int | None = None,
        fold: int = 0,
        split_seed: int = 0,
        split_file: str | None = None,
        overfit: str | None = None,
        train_subjects: int | None = None,
        seed: int = 0,
        workers: int | None = None,
    ) -> None:
        """Keep the settings; no file is read before ``prepare_data``."""
        if len(patch_size) != 3 or min(patch_size) < 1:
            raise ConfigError(f"expected data.patch_size [X, Y, Z] in voxels, found {list(patch_size)}")
        if not 0 <= foreground <= 1:
            raise ConfigError(f"data.foreground is a share of the patches, 0 to 1; found {foreground}")
        if validation_cases is not None and validation_cases < 1:
            raise ConfigError(f"data.validation_cases must be null or at least 1, found {validation_cases}")
        if source.labels != "levels":
            raise ConfigError(
                f"data: the masks of '{source.name}' number instances, not levels, so no label map can be learnt from "
                "them; use another source, or data=slices with data.classes=vertebra"
            )
        super().__init__(
            source,
            prepared_root,
            spacing=as_spacing(spacing_mm),
            resampling=resampling,
            batch_size=batch_size,
            fold=fold,
            split_seed=split_seed,
            split_file=split_file,
            overfit=overfit,
            train_subjects=train_subjects,
            seed=seed,
            workers=workers,
        )
        self.normalization, self.augmentation = normalization, augmentation
        self.patch_size = (patch_size[0], patch_size[1], patch_size[2])
        self.epoch_patches, self.foreground, self.validation_cases = epoch_patches, foreground, validation_cases
        self.levels = tuple(source.levels)

    @property
    def channels(self) -> int:
        """Channels of an image."""
        return 1

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """Channels and voxels of one training patch: (C, X, Y, Z)."""
        return self.channels, *self.patch_size

    @property
    def num_classes(self) -> int:
        """Classes of the network, background included."""
        return len(self.levels) + 1

    @property
    def spacing_mm(self) -> SpacingMm:
        """Spacing (x, y, z) in mm of a network voxel; None keeps a scan's own."""
        return self.spacing

    @property
    def class_levels(self) -> tuple[int, ...]:
        """The level of each class but the background."""
        return self.levels

    def train_dataset(self) -> PatchDataset:
        """Patches of the training cases."""
        stored = self._labelled(self.split().train)
        return PatchDataset(
            stored,
            self.levels,
            size=self.patch_size,
            normalization=self.normalization,
            augmentation=self.augmentation,
            foreground=self.foreground,
            length=self._whole_batches(self.epoch_patches or len(stored)),
            seed=self.seed,
        )

    def val_dataset(self) -> VolumeDataset:
        """Whole validation cases."""
        stored = self._labelled(self.split().val)
        ids = list(stored)
        count = min(self.validation_cases or len(ids), len(ids))
        chosen = [ids[i * len(ids) // count] for i in range(count)]
        return VolumeDataset({name: stored[name] for name in chosen}, self.levels)

    def train_dataloader(self) -> DataLoader[PatchSample]:
        """Batches of training patches, from where a resumed run goes on.

        Raises:
            ConfigError: A checkpoint from inside an epoch that was cut into other batches.
        """
        dataset = self.train_dataset()
        return self._training_loader(dataset, len(dataset), collate_patches)

    def val_dataloader(self) -> DataLoader[VolumeBatch]:
        """Validation cases, one a batch.

        Raises:
            ConfigError: Fewer cases than processes.
        """
        dataset = self.val_dataset()
        few = (
            "validation cases are too few for {world} processes; raise data.validation_cases, or lower trainer.devices"
        )
        # Whole volumes: few at a time, or the loaders fill the memory.
        workers = min(self.loader_workers, 2)
        return self._validation_loader(
            dataset,
            len(dataset),
            only_volume,
            batch_size=1,
            few=few,
            workers=workers,
            prefetch_factor=1 if workers else None,
        )

    def scan_batches(self, scans: Sequence[Scan]) -> IterableDataset[VolumeScan]:
        """Whole scans at the network's spacing."""
        return ScanVolumes(scans, self.spacing, resampling=self.resampling)

    def _labelled(self, ids: Sequence[str]) -> dict[str, StoredCase]:
        return {name: case for name, case in self._stored(ids).items() if case.has_label}
