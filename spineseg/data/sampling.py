"""Which samples an epoch takes in which process: pure functions of a position, which is what a resume needs."""

import os
import signal
from collections.abc import Iterator
from functools import lru_cache
from multiprocessing import forkserver
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler


class DrawSampler(Sampler[int]):
    """The draws of an epoch that fall to this process: every ``world``-th, none repeated to fill up.

    Args:
        length: draws an epoch, over all processes.
        rank: this process.
        world: processes.
        epoch: the epoch to begin with. Not 0 after a resume: loader processes fetch ahead before Lightning calls
            ``set_epoch`` for the first time.
        taken: draws of that epoch which all processes together have behind them.
    """

    def __init__(self, length: int, *, rank: int = 0, world: int = 1, epoch: int = 0, taken: int = 0) -> None:
        """Begin at draw ``epoch * length + taken``."""
        super().__init__()
        self.length, self.rank, self.world, self.epoch, self.taken = length, rank, world, epoch, taken

    def set_epoch(self, epoch: int) -> None:
        """Lightning tells the epoch before each one; another than the present one begins with its first draw."""
        if epoch != self.epoch:
            self.epoch, self.taken = epoch, 0

    def __iter__(self) -> Iterator[int]:
        """Draws of this epoch that are left."""
        start = self.epoch * self.length
        return iter(range(start + self.taken + self.rank, start + self.length, self.world))

    def __len__(self) -> int:
        """Draws of a whole epoch in this process; Lightning counts those that were taken itself."""
        return len(range(self.rank, self.length, self.world))


class OrderedBatches(Sampler[list[int]]):
    """Whole batches in order, of which this process gets every ``world``-th.

    The batches are the same for any number of processes, and so are the numbers: a slice's result may depend, in its
    last bits, on the slices that share its batch. None is repeated; processes may get unequally many.
    """

    def __init__(self, length: int, batch_size: int, *, rank: int = 0, world: int = 1) -> None:
        """Cut ``length`` samples into batches."""
        super().__init__()
        self.length, self.batch_size, self.rank, self.world = length, batch_size, rank, world

    def __iter__(self) -> Iterator[list[int]]:
        """The batches of this process."""
        for start in range(self.rank * self.batch_size, self.length, self.world * self.batch_size):
            yield list(range(start, min(start + self.batch_size, self.length)))

    def __len__(self) -> int:
        """Batches of this process."""
        return len(range(self.rank * self.batch_size, self.length, self.world * self.batch_size))


@lru_cache(maxsize=4)
def permutation(seed: int, round_: int, count: int) -> NDArray[np.int64]:
    """Order in which ``count`` things are drawn in a round; each round has its own."""
    return np.random.default_rng((seed, round_, count)).permutation(count)


def live_and_die_with_training(worker: int) -> None:
    """Let a loader process outlive SIGTERM, but not the training process (a ``worker_init_fn``).

    A scheduler sends SIGTERM to every process, and training still needs its loaders to reach a save. When training is
    killed, the fork server ends as the last open end of a pipe closes, and torch ends the loaders when the server is
    gone; but each of them has inherited such an end, so that all would stay for ever, a gigabyte each.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    server: Any = vars(forkserver)["_forkserver"]
    if server._forkserver_alive_fd is not None:
        os.close(server._forkserver_alive_fd)
        server._forkserver_alive_fd = None
