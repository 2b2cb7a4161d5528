"""Who lies in the scanner: which cases share a person, and which do not."""

import itertools
from typing import get_args

import numpy as np

from spineseg.phantom import Layout
from spineseg.phantom.scene import case_streams, draw_scene


def test_no_person_of_one_layout_is_one_of_the_other() -> None:
    people = {
        layout: {draw_scene(0, index, layout, "small", "default").subject.size for index in range(12)}
        for layout in get_args(Layout)
    }
    assert all(len(sizes) == 12 for sizes in people.values())
    for first, second in itertools.combinations(people.values(), 2):
        assert not first & second


def test_every_case_attempt_and_stage_has_a_stream_of_its_own() -> None:
    # 2³² + 7 has the words (7, 1): its case 0 must not be case 1 of seed 7.
    seeds = (0, 1, 7, 2**32 + 7, 7 * 2**32, 2**96 + 7)
    keys = list(itertools.product(seeds, get_args(Layout), range(3), range(2)))
    words = [stream.bit_generator.random_raw() for key in keys for stream in case_streams(*key)]
    assert len(set(words)) == len(words) == 6 * len(keys)


def test_a_stream_depends_on_its_arguments_alone() -> None:
    first, second = (case_streams(3, "kaggle", 2)[0] for _ in range(2))
    assert np.array_equal(first.random(5), second.random(5))


def test_sizes_of_a_layout_share_their_persons() -> None:
    small, full = (draw_scene(3, 1, "csi2014", size, "easy") for size in ("small", "full"))
    assert small.subject == full.subject and small.grid != full.grid
