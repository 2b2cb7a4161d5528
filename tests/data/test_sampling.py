"""Who draws what: no sample twice, none left out, and the rest of an epoch after a resume is the rest of it."""

import pytest

from spineseg.data.sampling import DrawSampler, OrderedBatches


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("batches", [0, 1, 4])
def test_a_resumed_epoch_takes_the_draws_that_are_left(world: int, batches: int) -> None:
    length, batch = 30, 2
    taken = batches * batch * world
    for rank in range(world):
        whole = DrawSampler(length, rank=rank, world=world, epoch=5)
        resumed = DrawSampler(length, rank=rank, world=world, epoch=5, taken=taken)
        # Loader processes ask before Lightning tells the epoch, Lightning asks after it.
        for _ in range(2):
            assert list(resumed) == list(whole)[batches * batch :]
            resumed.set_epoch(5)
        assert len(resumed) == len(whole) == length // world
        resumed.set_epoch(6)
        whole.set_epoch(6)
        assert list(resumed) == list(whole) and len(list(whole)) == length // world


@pytest.mark.parametrize("length", [1, 7, 8, 9, 24])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_validation_batches_are_the_same_for_any_number_of_processes(length: int, world: int) -> None:
    alone = list(OrderedBatches(length, 4))
    assert [index for batch in alone for index in batch] == list(range(length))
    shares = [OrderedBatches(length, 4, rank=rank, world=world) for rank in range(world)]
    assert sorted(batch for share in shares for batch in share) == alone
    assert [len(list(share)) for share in shares] == [len(share) for share in shares]
