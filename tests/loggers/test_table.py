"""log.csv keeps every value to the bit, and is cut where a run is resumed."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spineseg.errors import FormatError
from spineseg.loggers.table import LoggedValue, TableLogger, read_table

rows = st.builds(
    LoggedValue,
    step=st.integers(0, 10**9),
    epoch=st.none() | st.integers(0, 10**6),
    name=st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20),
    value=st.floats(allow_nan=False) | st.sampled_from([1e-300, 0.1, float("inf")]),
)


@given(st.lists(rows, max_size=20))
def test_text_reads_back_to_the_bit(tmp_path_factory: pytest.TempPathFactory, values: list[LoggedValue]) -> None:
    path = tmp_path_factory.mktemp("log") / "log.csv"
    path.write_text("step,epoch,name,value\n" + "".join(row.line() for row in values), encoding="utf-8")
    assert read_table(path) == values


def test_metrics_become_rows_at_once(tmp_path: Path) -> None:
    logger = TableLogger(tmp_path)
    logger.log_metrics({"train/loss": 0.1, "epoch": 2}, step=7)
    logger.log_metrics({"val/dice": float("nan")}, step=8)
    first, second = read_table(tmp_path / "log.csv")
    assert first == LoggedValue(7, 2, "train/loss", 0.1)
    assert (second.step, second.epoch, second.name) == (8, None, "val/dice")
    assert second.value != second.value


@pytest.mark.parametrize("resumed_step", [0, 2, 5])
def test_resume_cuts_what_the_checkpoint_has_not_seen(tmp_path: Path, resumed_step: int) -> None:
    logger = TableLogger(tmp_path)
    for step in range(4):
        logger.log_metrics({"a": step, "b": -step, "epoch": 0}, step=step)
    TableLogger(tmp_path, resumed_step=resumed_step)
    assert [row.step for row in read_table(tmp_path / "log.csv") if row.name == "a"] == list(range(4))[:resumed_step]


def test_line_cut_short_by_a_kill_is_left_out(tmp_path: Path) -> None:
    TableLogger(tmp_path).log_metrics({"a": 1.0}, step=1)
    path = tmp_path / "log.csv"
    path.write_text(path.read_text() + "2,,a,0.1")
    assert [row.step for row in read_table(path)] == [1]
    TableLogger(tmp_path, resumed_step=2).log_metrics({"a": 0.5}, step=2)
    assert [(row.step, row.value) for row in read_table(path)] == [(1, 1.0), (2, 0.5)]


def test_missing_values_are_added_once(tmp_path: Path) -> None:
    logger = TableLogger(tmp_path)
    logger.log_missing({"a": 1.0, "epoch": 0}, step=3)
    logger.log_missing({"a": 2.0, "b": 3.0, "epoch": 0}, step=3)
    assert [(row.name, row.value) for row in read_table(tmp_path / "log.csv")] == [("a", 1.0), ("b", 3.0)]


def test_other_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("epoch,loss\n1,2\n")
    with pytest.raises(FormatError, match="expected the columns step,epoch,name,value"):
        TableLogger(tmp_path, resumed_step=1)
