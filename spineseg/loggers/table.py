"""Every logged value of a run in one CSV file, which is the truth that other trackers are mended from."""

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning_utilities.core.rank_zero import rank_zero_only

from spineseg.data.files import write_text
from spineseg.errors import FormatError

COLUMNS = ("step", "epoch", "name", "value")


@dataclass(frozen=True)
class LoggedValue:
    """One row of `log.csv`: a value by the training batches seen before it was logged; the epoch may be unknown."""

    step: int
    epoch: int | None
    name: str
    value: float

    def line(self) -> str:
        """Return the row as text; the value is written so that reading gives the same bits."""
        stream = io.StringIO()
        epoch = "" if self.epoch is None else self.epoch
        csv.writer(stream, lineterminator="\n").writerow([self.step, epoch, self.name, repr(self.value)])
        return stream.getvalue()


def read_table(path: Path) -> list[LoggedValue]:
    """Read a `log.csv`; a last line that a kill cut short is left out.

    Raises:
        FormatError: The columns are not those of a log.
    """
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    rows = csv.reader(io.StringIO(whole))
    header = next(rows, None)
    if header is not None and tuple(header) != COLUMNS:
        raise FormatError(f"{path}: expected the columns {','.join(COLUMNS)}, found {','.join(header)}")
    return [
        LoggedValue(int(step), int(epoch) if epoch else None, name, float(value)) for step, epoch, name, value in rows
    ]


def logged_values(metrics: Mapping[str, float], step: int | None) -> list[LoggedValue]:
    """Split what Lightning hands to a logger into rows; its added `epoch` becomes a column."""
    epoch = metrics.get("epoch")
    number = None if epoch is None else int(epoch)
    return [LoggedValue(step or 0, number, name, float(value)) for name, value in metrics.items() if name != "epoch"]


class TableLogger(Logger):
    """Appends every logged value to `<run>/log.csv`: step, epoch, name, value.

    A row is handed to the operating system at once, so that killing the process loses none.

    Args:
        run_folder: The run's folder.
        resumed_step: Training batches that the loaded checkpoint has seen; later rows of the killed run are cut.
        file: Name of the file in the run folder.
    """

    def __init__(self, run_folder: Path, resumed_step: int | None = None, file: str = "log.csv") -> None:
        super().__init__()
        self.path = Path(run_folder) / file
        if resumed_step is not None:
            self._cut(resumed_step)

    @property
    def name(self) -> str:
        """Name of the logger."""
        return "table"

    @property
    def version(self) -> None:
        """None: the run folder is the version."""
        return

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the run's `config.yaml` holds them."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append one row a value."""
        self._append(logged_values(metrics, step))

    @rank_zero_only
    def log_missing(self, metrics: Mapping[str, float], step: int) -> None:
        """Append the values of a step that the file does not hold yet."""
        there = {(row.step, row.name) for row in read_table(self.path)} if self.path.is_file() else set()
        self._append([row for row in logged_values(metrics, step) if (row.step, row.name) not in there])

    def _append(self, rows: list[LoggedValue]) -> None:
        if not rows:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as stream:
            header = f"{','.join(COLUMNS)}\n" if stream.tell() == 0 else ""
            stream.write(header + "".join(row.line() for row in rows))

    @rank_zero_only
    def _cut(self, resumed_step: int) -> None:
        if self.path.is_file():
            kept = [row.line() for row in read_table(self.path) if row.step < resumed_step]
            write_text(self.path, f"{','.join(COLUMNS)}\n{''.join(kept)}")
