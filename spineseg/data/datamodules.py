"""LightningDataModules: prepared cases and a split in, batches out."""

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from spineseg.data.augmentation import SliceAugmentation
from spineseg.data.preparation import prepare_source
from spineseg.data.prepared import Prepared, read_prepared
from spineseg.data.sampling import DrawSampler, OrderedBatches, live_and_die_with_training
from spineseg.data.slices import (
    STRIDE,
    Classes,
    SliceDataset,
    SliceReader,
    SliceRef,
    SliceSample,
    collate,
)
from spineseg.data.sources import Source
from spineseg.data.splits import Split, check_leakage, overfit_split, read_split_file
from spineseg.data.store import StoredCase, open_store
from spineseg.errors import ConfigError
from spineseg.geometry import SpacingMm
from spineseg.progress import position


class SliceDataModule(lightning.LightningDataModule):
    """Sagittal slices of a source at a fixed pixel size.

    Args:
        source: where the raw files lie and what their labels mean.
        prepared_root: where prepared sources lie.
        pixel_mm: side of a network pixel; slices keep the scan's own spacing along X.
        image_size: (Y, Z) of training images in pixels, multiples of 32; validation slices keep their own size.
        window_hu: HU window mapped to 0..1.
        context: neighbouring slices on either side, as channels.
        classes: ``vertebra`` (one class) or ``levels`` (the source's class list).
        augmentation: how training slices vary.
        batch_size: slices a batch and process.
        epoch_slices: slices an epoch over all processes; null takes each slice once.
        background: slices without a vertebra, as a share of those with one.
        validation_step_mm: distance of validation slices along X (PROTOCOL §5.1 takes 3 mm).
        fold: test = fold, validation = fold + 1, training = the rest.
        split_seed: seed of the hash that makes the folds.
        split_file: a ``splits.json`` with one split to use instead of the folds.
        overfit: a case's id: training and validation on it alone.
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
        batch_size: int = 16,
        epoch_slices: int | None = None,
        background: float = 0.1,
        validation_step_mm: float = 3.0,
        fold: int = 0,
        split_seed: int = 0,
        split_file: str | None = None,
        overfit: str | None = None,
        seed: int = 0,
        workers: int | None = None,
    ) -> None:
        """Keep the settings; no file is read before ``prepare_data``."""
        super().__init__()
        if len(image_size) != 2 or len(window_hu) != 2 or window_hu[0] >= window_hu[1]:
            raise ConfigError(
                f"expected data.image_size [Y, Z] and data.window_hu [low, high], found {image_size}, {window_hu}"
            )
        if image_size[0] % STRIDE or image_size[1] % STRIDE:
            raise ConfigError(f"data.image_size must be multiples of {STRIDE}, found {list(image_size)}")
        if classes not in ("vertebra", "levels"):
            raise ConfigError(f"data.classes must be vertebra or levels, found {classes}")
        self.source, self.prepared_root, self.augmentation = source, Path(prepared_root), augmentation
        self.pixel_mm, self.image_size = pixel_mm, (image_size[0], image_size[1])
        self.batch_size, self.epoch_slices, self.background = batch_size, epoch_slices, background
        self.validation_step_mm = validation_step_mm
        self.fold, self.split_seed, self.split_file, self.overfit = fold, split_seed, split_file, overfit
        self.workers = workers
        self.reader = SliceReader((window_hu[0], window_hu[1]), context, classes, tuple(source.levels))
        self.seed, self.epochs = seed, 1
        self._prepared: Prepared | None = None
        self._draws: dict[str, int] = {}
        self._resumed_draws: dict[str, int] = {}

    @property
    def channels(self) -> int:
        """Channels of an image."""
        return self.reader.channels

    @property
    def num_classes(self) -> int:
        """Classes of the network."""
        return self.reader.num_classes

    def prepare_data(self) -> None:
        """Audit and convert the source; what still holds is reused."""
        folder = prepare_source(
            self.source,
            prepared_root=self.prepared_root,
            spacing_mm=self._spacing,
            split_seed=self.split_seed,
            workers=None,
        )
        self._prepared = read_prepared(folder)

    def setup(self, stage: str) -> None:
        """Take the run's length from the trainer."""
        if self.trainer is not None:
            self.epochs = self.trainer.max_epochs or 1

    @property
    def prepared(self) -> Prepared:
        """The prepared source; prepares what is missing at first use."""
        if self._prepared is None:
            self.prepare_data()
        assert self._prepared is not None
        return self._prepared

    def split(self) -> Split:
        """The split that the settings name, checked for leakage."""
        cases = self.prepared.cases
        if self.overfit is not None:
            return overfit_split(self.overfit, cases)
        split = (
            read_split_file(Path(self.split_file), cases) if self.split_file else self.prepared.splits.fold(self.fold)
        )
        check_leakage(split, cases)
        return split

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
        rank, world = self._place
        epoch, batches = (0, 0) if self.trainer is None else position(self.trainer)
        self._draws = {"epoch": len(dataset), "batch": self.batch_size * world}
        if batches and self._resumed_draws != self._draws:
            raise ConfigError(
                f"the checkpoint was written inside an epoch, with {self._resumed_draws} draws; now there would be "
                f"{self._draws}: go on with as many processes as before (trainer.devices, trainer.num_nodes)"
            )
        # Lightning cannot know that the sampler goes on at the right draw.
        warnings.filterwarnings("ignore", message="You're resuming from a checkpoint that ended before the epoch")
        return self._loader(
            dataset,
            batch_size=self.batch_size,
            sampler=DrawSampler(
                len(dataset), rank=rank, world=world, epoch=epoch, taken=batches * self._draws["batch"]
            ),
            drop_last=len(dataset) >= self._draws["batch"],
        )

    def val_dataloader(self) -> DataLoader[SliceSample]:
        """Batches of validation slices.

        Raises:
            ConfigError: Fewer batches than processes: Lightning leaves out the validation of one without any.
        """
        dataset = self.val_dataset()
        rank, world = self._place
        if len(dataset) <= (world - 1) * self.batch_size:
            raise ConfigError(
                f"{len(dataset)} validation slices in batches of {self.batch_size} are too few for {world} processes; "
                "lower data.validation_step_mm, data.batch_size or trainer.devices"
            )
        return self._loader(
            dataset, batch_sampler=OrderedBatches(len(dataset), self.batch_size, rank=rank, world=world)
        )

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Move a batch's tensors; Lightning would walk through the name of every slice too."""
        return {
            name: value.to(device, non_blocking=device.type == "cuda") if isinstance(value, Tensor) else value
            for name, value in batch.items()
        }

    def state_dict(self) -> dict[str, Any]:
        """Draws an epoch and a batch, over all processes: in these units a position inside an epoch is kept."""
        return dict(self._draws)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remember the units of the checkpoint."""
        self._resumed_draws = dict(state_dict)

    def _loader(self, dataset: SliceDataset, **batches: Any) -> DataLoader[SliceSample]:
        workers = _free_processors(self._place[1]) if self.workers is None else self.workers
        loader: DataLoader[SliceSample] = DataLoader(
            dataset,
            collate_fn=collate,
            num_workers=workers,
            persistent_workers=workers > 0,
            # Threads and file handles of blosc2 do not survive a fork.
            multiprocessing_context="forkserver" if workers else None,
            worker_init_fn=live_and_die_with_training,
            pin_memory=self.trainer is not None and self.trainer.strategy.root_device.type == "cuda",
            **batches,
        )
        return loader

    @property
    def _place(self) -> tuple[int, int]:
        """This process and the number of processes."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer is not None else (0, 1)

    @property
    def _spacing(self) -> SpacingMm:
        return None, self.pixel_mm, self.pixel_mm

    def _stored(self, ids: Sequence[str]) -> dict[str, StoredCase]:
        return open_store(self.prepared.store(self._spacing), ids)

    def _whole_batches(self, length: int) -> int:
        whole = self.batch_size * self._place[1]
        return length - length % whole if length >= whole else length


def _free_processors(world: int) -> int:
    """Loader processes for each training process: what is left of its share of processors, at most 8."""
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(0, min(8, processors // world - 2))
