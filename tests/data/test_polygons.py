import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from spineseg.data.polygons import outline, rasterise, read_rows, to_row
from spineseg.errors import DataError


@settings(max_examples=200, deadline=None)
@given(arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12))).filter(lambda m: m.any()))
def test_rasterise_takes_outline_back(mask: np.ndarray) -> None:
    np.testing.assert_array_equal(rasterise(outline(mask), mask.shape), mask)


def test_vertebra_with_canal_and_parts_survives_the_label_file() -> None:
    y, x = np.mgrid[:90, :120]
    mask = ((x - 40) ** 2 + (y - 40) ** 2 < 900) & ((x - 45) ** 2 + (y - 40) ** 2 > 90)
    mask[70:80, 90:110] = True
    text = to_row(3, outline(mask), mask.shape)
    [(number, points)] = read_rows(text, class_count=4, shape=mask.shape, what="x.txt")
    assert number == 3
    np.testing.assert_array_equal(rasterise(points, mask.shape), mask)


def test_rasterise_is_pixel_centre_inside() -> None:
    triangle = np.array([[0.0, 0], [4, 0], [0, 4]])
    expected = np.array([[1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]], bool)
    found = rasterise(triangle, (4, 4))
    # Centres on the slanted side itself may fall to either.
    assert (found[~np.fliplr(np.eye(4, dtype=bool))] == expected[~np.fliplr(np.eye(4, dtype=bool))]).all()
    assert not rasterise(np.array([[-9.0, -9], [-5, -9], [-5, -5]]), (4, 4)).any()
    assert rasterise(np.array([[-9.0, -9], [50, -9], [50, 50], [-9, 50]]), (4, 4)).all()
    with pytest.raises(ValueError, match="empty"):
        outline(np.zeros((3, 3), bool))


@pytest.mark.parametrize(
    ("row", "word"),
    [
        ("0 0.1 0.1 0.2 0.2", "2 points"),
        ("0 0.1 0.1 0.2 nan 0.2 0.2", "NaN"),
        ("0 0.1 0.1 1.2 0.1 0.2 0.2", "values from 0.1 to 1.2"),
        ("0 0.1 0.1 -0.2 0.1 0.2 0.2", "values from -0.2"),
        ("1 0.1 0.1 0.2 0.1 0.2 0.2", "class 1"),
        ("-1 0.1 0.1 0.2 0.1 0.2 0.2", "class -1"),
        ("0.5 0.1 0.1 0.2 0.1 0.2 0.2", "class 0.5"),
        ("0 0.1 0.1 0.2 0.1 0.2", "odd number"),
        ("0 a b c", "not numbers"),
    ],
)
def test_bad_rows_are_named_with_their_lines(row: str, word: str) -> None:
    text = f"0 0.1 0.1 0.2 0.1 0.2 0.2\n{row}\n\n0 1\n"
    with pytest.raises(DataError) as error:
        read_rows(text, class_count=1, shape=(10, 10), what="case|1.txt")
    assert "case|1.txt: line 2" in str(error.value) and word in str(error.value) and "line 4" in str(error.value)


def test_rounding_beyond_the_edge_is_the_edge() -> None:
    [(_, points)] = read_rows("0 0 0 1.0000001 0 1 1", class_count=1, shape=(10, 20), what="x")
    assert points.max() == 20
