"""Files on disk: atomic writes, content hashes, and reading our own JSON files with their format checked."""

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from spineseg.errors import DataError, FormatError

_BLOCK: Final = 1 << 20


def write_text(path: Path, text: str) -> None:
    """Write a text file so that its final name never holds half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".partial-{os.getpid()}-{path.name}")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file atomically; its top level holds one entry a line, so that two of them can be compared."""
    lines = [f"  {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in content.items()]
    write_text(path, "{\n" + ",\n".join(lines) + "\n}\n")


def read_json(path: Path, format_name: str, written_by: str) -> dict[str, Any]:
    """Read a JSON file of ours.

    Args:
        path: the file.
        format_name: the ``format`` entry that it must carry, for example ``splits 1``.
        written_by: the command that writes it, for the error.

    Raises:
        DataError: missing or damaged.
        FormatError: another format or version.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; `{written_by}` writes it") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as JSON ({error}); `{written_by}` writes it") from error
    found = content.get("format") if isinstance(content, dict) else None
    if found != format_name:
        raise FormatError(f"{path}: expected format '{format_name}', found '{found}'; `{written_by}` writes it")
    return dict(content)


def sha256_of_text(text: str) -> str:
    """SHA-256 (hex) of a text.

    >>> sha256_of_text("csi2014:case1:0")[:8]
    '3a8d0d38'
    """
    return hashlib.sha256(text.encode()).hexdigest()


def sha256_of_file(path: Path) -> str:
    """SHA-256 (hex) of a file's content."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def below(folder: Path) -> Iterator[Path]:
    """Every file in a folder and below, linked folders too, each folder once; nothing where there is no folder."""
    seen: set[Path] = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        real = Path(place).resolve()
        if real in seen:  # a link to a folder that it lies in, or a second one
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        yield from (Path(place, name) for name in sorted(names))


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file that nobody changes a second name; copy it where the file system has no hard links."""
    try:
        os.link(source, target)
    except OSError:
        target.write_bytes(source.read_bytes())


@contextlib.contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Let one process at a time do something; the lock falls with its process, however that ends.

    Args:
        path: the lock's file; made if missing, its folder must be there.
        what: what the holder does, for those who wait: "another process …".
    """
    with path.open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting: another process {what} ({path})", flush=True)
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield
