"""What work costs: wall time and peak memory, of the whole process and of one case after another."""

import contextlib
import re
import resource
import sys
import time
from pathlib import Path
from typing import Final, NotRequired, TypedDict

_STATUS: Final = Path("/proc/self/status")
_CLEAR: Final = Path("/proc/self/clear_refs")
# The highest peaks (MB) that were seen: the system forgets them when a case begins.
_highest: dict[str, float] = {}


def peak_memory() -> dict[str, float]:
    """Return the peak memory of this process so far in MB: `peak_ram_mb`, and `peak_vram_mb` where there is a GPU."""
    _peaks()
    return {name: round(value, 1) for name, value in _highest.items()}


class CaseCost(TypedDict):
    """Wall time in seconds, peaks in MB (10⁶ bytes); `peak_vram_mb` where there is a GPU."""

    seconds: float
    peak_mb: float
    peak_vram_mb: NotRequired[float]


class CaseMeter:
    """Seconds and peak memory of one case after another; the clock runs from the start."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Begin a case: its peak is not that of what came before, where the system can forget it (Linux)."""
        _peaks()
        with contextlib.suppress(OSError):
            _CLEAR.write_text("5")
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        self._started = time.perf_counter()

    def read(self) -> CaseCost:
        """Return what the case has cost so far."""
        peaks = _peaks()
        found = CaseCost(seconds=time.perf_counter() - self._started, peak_mb=peaks["peak_ram_mb"])
        if "peak_vram_mb" in peaks:
            found["peak_vram_mb"] = peaks["peak_vram_mb"]
        return found


def _peaks() -> dict[str, float]:
    """Peaks in MB since the last case began, or the process."""
    found = {"peak_ram_mb": _resident_peak_mb()}
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        found["peak_vram_mb"] = torch.cuda.max_memory_allocated() / 1e6
    for name, value in found.items():
        _highest[name] = max(value, _highest.get(name, 0.0))
    return found


def _resident_peak_mb() -> float:
    if _STATUS.is_file() and (line := re.search(r"VmHWM:\s+(\d+) kB", _STATUS.read_text())):
        return int(line[1]) * 1024 / 1e6
    # Bytes on macOS.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
