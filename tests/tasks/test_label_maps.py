"""Label maps of slices: targets, grids, counts and instances."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from spineseg.predictions.class_slices import slice_classes
from spineseg.predictions.masks import decode
from spineseg.tasks.label_maps import agreement, class_labels, label_instances, on_grid, pooled_dice


def test_targets_are_the_classes_of_the_index_map() -> None:
    index_map = torch.zeros(3, 4, 6, dtype=torch.uint8)
    index_map[0, 0, :2], index_map[0, 1, :2], index_map[2, 3, 3:] = 1, 2, 1
    found = class_labels(index_map, torch.tensor([4.0, 0.0, 24.0]), torch.tensor([0.0, 0.0, 2.0]))
    assert found.shape == (3, 1, 4, 6) and found.dtype == torch.uint8
    expected = torch.zeros(3, 4, 6, dtype=torch.uint8)
    expected[0, 0, :2], expected[0, 1, :2], expected[2, 3, 3:] = 5, 1, 25
    assert torch.equal(found[:, 0], expected)
    assert not class_labels(index_map * 0, torch.zeros(0), torch.zeros(0)).any()


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_a_finer_grid_is_torchs_bilinear(factor: int) -> None:
    logits = torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(0))
    size = (5 * factor, 7 * factor)
    found = on_grid(logits, size, (1 / factor, 1 / factor))
    expected = nn.functional.interpolate(logits[None], size, mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_ramp_stays_where_it_is_on_any_grid() -> None:
    """Logits that are their own position: between the outer pixel centres every grid reads the same position."""
    ramp = (torch.arange(20.0) + 0.5)[None, :, None].expand(1, 20, 20).contiguous()
    found = on_grid(ramp, (27, 9), (0.7, 1.9))[0]
    places = (np.arange(27) + 0.5) * 0.7
    np.testing.assert_allclose(found[:, 0].numpy(), np.clip(places, 0.5, 19.5), rtol=1e-5)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 1000))
def test_pooled_dice_is_direct_and_knows_no_order(seed: int) -> None:
    rng = np.random.default_rng(seed)
    maps = rng.integers(0, 4, (5, 2, 8, 8)).astype(np.uint8)
    maps[:, 1][maps[:, 1] == 2] = 0  # a class that no reference holds
    parts = [agreement(("a", i), predicted, reference, 4) for i, (predicted, reference) in enumerate(maps)]
    found = pooled_dice(parts, ("L1", "L2", "L3"))
    predicted, reference = maps[:, 0], maps[:, 1]
    expected = {
        f"dice_{name}": 2
        * ((predicted == i) & (reference == i)).sum()
        / ((predicted == i).sum() + (reference == i).sum())
        for name, i in (("L1", 1), ("L3", 3))
    }
    assert found == pytest.approx({**expected, "dice": np.mean(list(expected.values()))})
    assert pooled_dice([*parts[::-1], parts[2]], ("L1", "L2", "L3")) == found
    assert pooled_dice([], ("L1",)) == {"dice": 0.0}


def test_instances_cover_the_argmax_once() -> None:
    rng = np.random.default_rng(0)
    logits = torch.from_numpy(rng.normal(0, 1, (4, 9, 11)).astype(np.float32))
    labels = logits.argmax(0).numpy()
    found = label_instances(3, logits, (20, 21, 22))
    assert found.index == 3 and found.levels.tolist() == [20, 21, 22]
    drawn = sum(decode(rle) * (i + 1) for i, rle in enumerate(found.masks))
    assert np.array_equal(drawn, labels)
    assert found.probabilities is not None
    np.testing.assert_allclose(found.probabilities.sum(axis=1), 1, rtol=1e-5)
    classes = slice_classes(labels.astype(np.uint8))
    for box, (crop, (y, z)) in zip(classes.boxes, classes.crops, strict=True):
        assert box.tolist() == [y, z, y + crop.shape[0], z + crop.shape[1]]
        assert crop[0].any() and crop[-1].any() and crop[:, 0].any() and crop[:, -1].any()
    nothing = label_instances(0, torch.cat([logits[:1] + 99, logits[1:]]), (20, 21, 22))
    assert len(nothing) == 0 and nothing.probabilities is not None and nothing.probabilities.shape == (0, 3)
