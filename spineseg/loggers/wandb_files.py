"""What Weights & Biases has written to disk: the values in a run's `.wandb` files."""

import json
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# The files are LevelDB logs: blocks of 32 KiB, records in chunks of (checksum u32, length u16, kind u8, data).
_BLOCK = 32768
_CHUNK = struct.Struct("<IHB")
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


@dataclass(frozen=True)
class HistoryRow:
    """One row of a W&B history: its own row number, and its values by name."""

    row: int
    values: dict[str, Any]


def wandb_files(run_folder: Path, run_id: str) -> list[Path]:
    """Return the files of a run in the order of writing, one for each time that the run was started."""
    found = (run_folder / "wandb").glob(f"*run-*-{run_id}/run-{run_id}.wandb")
    return sorted(found, key=lambda path: path.parent.name.removeprefix("offline-"))


def wait_until_settled(run_folder: Path, run_id: str, *, quiet_s: float = 2.0, limit_s: float = 20.0) -> None:
    """Wait until nobody has written a run's files for a while.

    W&B's helper process outlives a killed run for a moment and writes what it still holds. It names folders by the
    second, so that a run started twice within one would lose the first file.
    """
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        files = wandb_files(run_folder, run_id)
        age_s = time.time() - max((path.stat().st_mtime for path in files), default=0.0)
        if age_s >= quiet_s:
            return
        time.sleep(min(quiet_s - max(age_s, 0.0), 0.5) + 0.01)


def wait_until_ended(run_folder: Path, run_id: str, *, limit_s: float = 10.0) -> None:
    """Wait until the newest file of a run holds its end; W&B's helper process writes it after `finish` has returned."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        files = wandb_files(run_folder, run_id)
        if not files or any(record.WhichOneof("record_type") == "exit" for record in read_records(files[-1])):
            return
        time.sleep(0.05)


def read_records(path: Path) -> Iterator[Any]:
    """Yield the protobuf records of a `.wandb` file; ends at the first chunk that a kill cut short."""
    from wandb.proto import wandb_internal_pb2

    data = path.read_bytes()
    position, parts = _CHUNK.size, b""  # the first seven bytes name the format
    while position + _CHUNK.size <= len(data):
        room = _BLOCK - position % _BLOCK
        if room < _CHUNK.size:
            position += room
            continue
        _, length, kind = _CHUNK.unpack_from(data, position)
        position += _CHUNK.size
        chunk = data[position : position + length]
        if len(chunk) < length or kind not in (_FULL, _FIRST, _MIDDLE, _LAST):
            return
        position += length
        parts = chunk if kind in (_FULL, _FIRST) else parts + chunk
        if kind in (_FULL, _LAST):
            record = wandb_internal_pb2.Record()  # type: ignore[attr-defined]  # made at import
            record.ParseFromString(parts)
            yield record


def read_history(run_folder: Path, run_id: str) -> list[HistoryRow]:
    """Return the merged history of a run over all its files, in the order of writing."""
    rows = []
    for path in wandb_files(run_folder, run_id):
        for record in read_records(path):
            if record.WhichOneof("record_type") != "history":
                continue
            values = {
                "/".join(item.nested_key) if item.nested_key else item.key: json.loads(item.value_json)
                for item in record.history.item
            }
            rows.append(HistoryRow(int(values.pop("_step", record.history.step.num)), values))
    return rows
