"""Downloads: CSI 2014 from Zenodo through pooch, the Kaggle set through kagglehub, both imported only when wanted.

A file gets its name when it is whole and, where its checksum is known, right; what is there already is kept, so that
an interrupted download goes on with the next file.
"""

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from spineseg.data.archives import is_archive, unpack
from spineseg.errors import DataError


def fetch_doi(doi: str, root: Path) -> None:
    """Download all files of a repository record into ``root`` and unpack archives; checksums are the record's own.

    Args:
        doi: for example ``10.5281/zenodo.7049844``.
        root: folder of the data set.

    Raises:
        DataError: no connection, a wrong checksum, a hostile archive.
    """
    import pooch

    where = f"https://doi.org/{doi}"
    try:
        record = pooch.create(path=root, base_url=f"doi:{doi}/", registry=None, retry_if_failed=2)
        record.load_registry_from_doi()
    except Exception as error:  # pooch hands through whatever requests and the repository's API raise
        raise _unreachable(where, root, error) from error
    _fetch(record, root, where)


def fetch_files(base_url: str, registry: Mapping[str, str | None], root: Path, *, retries: int = 2) -> None:
    """Download named files from one address into ``root`` and unpack archives.

    Args:
        base_url: address with a slash at its end.
        registry: file name → checksum (``sha256:…``, ``md5:…``), or None where unknown.
        root: folder of the data set.
        retries: how often to try again after a broken connection or a wrong checksum.

    Raises:
        DataError: as ``fetch_doi``.
    """
    import pooch

    record = pooch.create(path=root, base_url=base_url, registry=dict(registry), retry_if_failed=retries)
    _fetch(record, root, base_url)


def _fetch(record: Any, root: Path, where: str) -> None:
    for name in sorted(record.registry):
        # A record is somebody else's: its names must not choose where files go.
        if PurePosixPath(name).name != name or name.startswith("."):
            raise DataError(f"{where}: refused: '{name}' is no plain file name")
        marker = root / f".unpacked-{name}"
        if marker.is_file():
            continue
        print(f"downloading {name} to {root}", flush=True)
        try:
            path = Path(record.fetch(name))
        except Exception as error:  # as above
            raise _unreachable(f"{where}, {name}", root, error) from error
        if is_archive(path):
            unpack(path, root)
            marker.touch()


def fetch_kaggle(slug: str, root: Path) -> None:
    """Download a Kaggle data set with kagglehub into its own cache and link it to ``root``.

    Raises:
        DataError: no kagglehub, no token, no connection, or ``root`` is a folder with files.
    """
    if root.is_dir() and any(root.iterdir()):
        return
    try:
        import kagglehub
    except ImportError as error:
        raise DataError("the download needs the package kagglehub: pip install kagglehub") from error
    try:
        path = Path(kagglehub.dataset_download(slug))
    except Exception as error:  # kagglehub hands through whatever its HTTP client raises
        raise DataError(
            f"{slug} could not be downloaded ({_line(error)}); it needs your Kaggle token (kaggle.com, Settings, API) "
            f"and a connection. Or download it by hand and unpack it in {root}"
        ) from error
    if root.is_symlink():  # to a cache that was emptied
        root.unlink()
    elif root.is_dir():
        root.rmdir()
    root.parent.mkdir(parents=True, exist_ok=True)
    root.symlink_to(path.absolute(), target_is_directory=True)


def _unreachable(where: str, root: Path, error: Exception) -> DataError:
    return DataError(
        f"{where}: could not be downloaded ({_line(error)}). Run the command again to go on with the missing files, or "
        f"download them by hand into {root}"
    )


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
