"""What every data module does alike: a source and a split in, loaders that resume at a draw out."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from spineseg.data.preparation import prepare_source
from spineseg.data.prepared import Prepared, read_prepared
from spineseg.data.sampling import DrawSampler, OrderedBatches, live_and_die_with_training
from spineseg.data.scans import Scan
from spineseg.data.sources import Source
from spineseg.data.splits import Split
from spineseg.data.store import Resampling, StoredCase, open_store
from spineseg.errors import ConfigError
from spineseg.geometry import SpacingMm
from spineseg.processors import processors
from spineseg.progress import position


class CaseDataModule(lightning.LightningDataModule, ABC):
    """Prepared cases of a source, divided by a split.

    Args:
        source: where the raw files lie and what their labels mean.
        prepared_root: where prepared sources lie.
        spacing: (x, y, z) in mm of the store that is read; None keeps a case's own.
        resampling: how images come to that spacing.
        batch_size: training samples a batch and process.
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
        *,
        spacing: SpacingMm,
        resampling: Resampling = "linear",
        batch_size: int,
        fold: int,
        split_seed: int,
        split_file: str | None,
        overfit: str | None,
        train_subjects: int | None,
        seed: int,
        workers: int | None,
    ) -> None:
        """Keep the settings; no file is read before ``prepare_data``."""
        super().__init__()
        self.source, self.prepared_root = source, Path(prepared_root)
        self.spacing, self.resampling = spacing, resampling
        self.batch_size, self.workers = batch_size, workers
        self.fold, self.split_seed, self.split_file, self.overfit = fold, split_seed, split_file, overfit
        self.train_subjects, self.seed, self.epochs = train_subjects, seed, 1
        self._prepared: Prepared | None = None
        self._draws: dict[str, int] = {}
        self._resumed_draws: dict[str, int] = {}

    @property
    @abstractmethod
    def channels(self) -> int:
        """Channels of an image."""

    @property
    @abstractmethod
    def input_shape(self) -> tuple[int, ...]:
        """Channels and pixels, or voxels, of one training image: (C, Y, Z) or (C, X, Y, Z)."""

    @property
    @abstractmethod
    def num_classes(self) -> int:
        """Classes of the network."""

    @property
    @abstractmethod
    def class_levels(self) -> tuple[int, ...]:
        """The level of each class but the background; empty where all are one class."""

    @abstractmethod
    def scan_batches(self, scans: Sequence[Scan]) -> IterableDataset[Any]:
        """Whole scans, as the network that is trained on this data is to see them."""

    def prepare_data(self) -> None:
        """Audit and convert the source; what still holds is reused."""
        folder = prepare_source(
            self.source,
            prepared_root=self.prepared_root,
            spacing_mm=self.spacing,
            resampling=self.resampling,
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
        return self.prepared.split(
            fold=self.fold, split_file=self.split_file, overfit=self.overfit, train_subjects=self.train_subjects
        )

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Move a batch's tensors; Lightning would walk through the name of every sample too."""
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

    def _training_loader(self, dataset: Dataset[Any], length: int, collate: Callable[[Any], Any]) -> DataLoader[Any]:
        """Batches of draws, from where a resumed run goes on.

        Args:
            dataset: whose item ``draw`` is a pure function of the seed and the draw.
            length: draws an epoch, over all processes.
            collate: samples to a batch.

        Raises:
            ConfigError: A checkpoint from inside an epoch that was cut into other batches.
        """
        rank, world = self._place
        epoch, batches = (0, 0) if self.trainer is None else position(self.trainer)
        self._draws = {"epoch": length, "batch": self.batch_size * world}
        if batches and self._resumed_draws != self._draws:
            raise ConfigError(
                f"the checkpoint was written inside an epoch, with {self._resumed_draws} draws; now there would be "
                f"{self._draws}: go on with as many processes as before (trainer.devices, trainer.num_nodes)"
            )
        # Lightning cannot know that the sampler goes on at the right draw.
        warnings.filterwarnings("ignore", message="You're resuming from a checkpoint that ended before the epoch")
        return self._loader(
            dataset,
            collate,
            self.loader_workers,
            batch_size=self.batch_size,
            sampler=DrawSampler(length, rank=rank, world=world, epoch=epoch, taken=batches * self._draws["batch"]),
            drop_last=length >= self._draws["batch"],
        )

    def _validation_loader(
        self,
        dataset: Dataset[Any],
        length: int,
        collate: Callable[[Any], Any],
        *,
        batch_size: int,
        few: str,
        workers: int | None = None,
        **more: Any,
    ) -> DataLoader[Any]:
        """Batches in order, dealt to the processes.

        Args:
            dataset: what is validated on.
            length: its samples.
            collate: samples to a batch.
            batch_size: samples a batch.
            few: the end of the error where there are too few: of what, and what to change.
            workers: at most so many loader processes.
            more: for the loader.

        Raises:
            ConfigError: Fewer batches than processes: Lightning leaves out the validation of one without any.
        """
        rank, world = self._place
        if length <= (world - 1) * batch_size:
            raise ConfigError(f"{length} {few.format(world=world)}")
        batches = OrderedBatches(length, batch_size, rank=rank, world=world)
        workers = self.loader_workers if workers is None else min(self.loader_workers, workers)
        return self._loader(dataset, collate, workers, batch_sampler=batches, **more)

    def _loader(
        self, dataset: Dataset[Any], collate: Callable[[Any], Any], workers: int, **more: Any
    ) -> DataLoader[Any]:
        return DataLoader(
            dataset,
            collate_fn=collate,
            num_workers=workers,
            persistent_workers=workers > 0,
            # Threads and file handles of blosc2 do not survive a fork.
            multiprocessing_context="forkserver" if workers else None,
            worker_init_fn=live_and_die_with_training,
            pin_memory=self.trainer is not None and self.trainer.strategy.root_device.type == "cuda",
            **more,
        )

    @property
    def loader_workers(self) -> int:
        """Loader processes of this training process."""
        if self.workers is not None:
            return self.workers
        return _free_processors(self.trainer.num_devices if self.trainer is not None else 1)

    @property
    def _place(self) -> tuple[int, int]:
        """This process and the number of processes."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer is not None else (0, 1)

    def _stored(self, ids: Sequence[str]) -> dict[str, StoredCase]:
        return open_store(self.prepared.store(self.spacing, self.resampling), ids)

    def _whole_batches(self, length: int) -> int:
        whole = self.batch_size * self._place[1]
        return length - length % whole if length >= whole else length


def _free_processors(processes: int) -> int:
    """Loader processes for each training process of this node: what is left of its share of processors, at most 8.

    None on two cores: a second thread of the network is worth more there (experiments/training_loop).
    """
    return max(0, min(8, processors() // processes - 2))
