"""The values that a pruner judges a running trial by: those of the job's ``log.csv``."""

import csv
import io
import math
import time
from collections.abc import Callable
from pathlib import Path

import optuna


def monitored_values(log: Path, monitor: str) -> dict[int, float]:
    """The last value of each epoch; empty before there is any. A line that is being written is left out."""
    try:
        text = log.read_text(encoding="utf-8")
    except OSError:
        return {}
    rows = csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1]))
    found = ((row["epoch"], row["value"]) for row in rows if row["name"] == monitor)
    return {int(epoch): float(value) for epoch, value in found if epoch}


def falls(monitor: str) -> bool:
    """Whether less of a logged value is better: of losses, as all terms of training are; validation logs scores.

    >>> falls("train/loss"), falls("val/dice")
    (True, False)
    """
    return monitor.startswith("train/") or "loss" in monitor


class Watch:
    """Whether a trial is to end early; to be asked often, looks every few seconds.

    Args:
        trial: Optuna's.
        log: finds the job's log; None before there is one.
        monitor: name of the value.
        direction: of the search, in which Optuna's pruners judge these values, too: where the monitor's better values
            lie the other way (Dice, in a search for the least distance), their negatives are reported.
        every_s: seconds between two looks.
    """

    def __init__(
        self,
        trial: optuna.Trial,
        log: Callable[[], Path | None],
        monitor: str,
        direction: str = "maximize",
        every_s: float = 2.0,
    ) -> None:
        self._trial, self._log, self._monitor, self._every_s = trial, log, monitor, every_s
        (known,) = (each for each in trial.study.get_trials(deepcopy=False) if each.number == trial.number)
        self._reported = set(known.intermediate_values)
        self._looked = -math.inf
        self._sign = 1.0 if (direction == "minimize") == falls(monitor) else -1.0

    def __call__(self) -> bool:
        """Report what is new, and ask the pruner."""
        if time.monotonic() - self._looked < self._every_s:
            return False
        self._looked = time.monotonic()
        log = self._log()
        if log is None:
            return False
        new = {
            epoch: value
            for epoch, value in sorted(monitored_values(log, self._monitor).items())
            if epoch not in self._reported and math.isfinite(value)
        }
        for epoch, value in new.items():
            self._trial.report(self._sign * value, epoch)
            self._reported.add(epoch)
        return bool(new) and self._trial.should_prune()
