import hashlib
import http.server
import io
import sys
import threading
import types
import zipfile
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from spineseg.data.download import fetch_doi, fetch_files, fetch_kaggle
from spineseg.errors import DataError


class Server:
    def __init__(self, folder: Path) -> None:
        requests: Counter[str] = Counter()

        class Handler(http.server.SimpleHTTPRequestHandler):
            def do_GET(self) -> None:
                requests[self.path] += 1
                super().do_GET()

            def log_message(self, *_: object) -> None: ...

        self.requests = requests
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
        self.url = f"http://127.0.0.1:{self.server.server_port}/"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "served").mkdir()
    served = Server(tmp_path / "served")
    yield served
    served.server.shutdown()
    served.server.server_close()


def serve(tmp_path: Path, name: str, content: bytes) -> str:
    (tmp_path / "served" / name).write_bytes(content)
    return "sha256:" + hashlib.sha256(content).hexdigest()


def zipped(**entries: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name.replace("__", "/"), content)
    return buffer.getvalue()


def test_files_arrive_whole_archives_are_unpacked_and_nothing_is_fetched_twice(tmp_path: Path, server: Server) -> None:
    registry = {
        "case1.mha": serve(tmp_path, "case1.mha", b"one"),
        "rest.zip": serve(tmp_path, "rest.zip", zipped(set__case2=b"two")),
    }
    for _ in range(2):
        fetch_files(server.url, registry, tmp_path / "data")
    assert (tmp_path / "data" / "case1.mha").read_bytes() == b"one"
    assert (tmp_path / "data" / "set" / "case2").read_bytes() == b"two"
    assert server.requests == {"/case1.mha": 1, "/rest.zip": 1}


def test_an_interrupted_download_goes_on_with_the_missing_files(tmp_path: Path, server: Server) -> None:
    registry = {"a.mha": serve(tmp_path, "a.mha", b"a"), "b.mha": serve(tmp_path, "b.mha", b"b")}
    (tmp_path / "served" / "b.mha").unlink()
    with pytest.raises(DataError, match=r"b\.mha: could not be downloaded .*Run the command again"):
        fetch_files(server.url, registry, tmp_path / "data", retries=0)
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["a.mha"]
    serve(tmp_path, "b.mha", b"b")
    fetch_files(server.url, registry, tmp_path / "data")
    assert server.requests["/a.mha"] == 1 and (tmp_path / "data" / "b.mha").read_bytes() == b"b"


def test_a_wrong_checksum_leaves_no_file(tmp_path: Path, server: Server) -> None:
    registry = {"a.mha": serve(tmp_path, "a.mha", b"right")}
    serve(tmp_path, "a.mha", b"wrong")
    with pytest.raises(DataError, match="could not be downloaded"):
        fetch_files(server.url, registry, tmp_path / "data", retries=0)
    assert not (tmp_path / "data" / "a.mha").exists()


def test_hostile_archives_and_names_are_refused(tmp_path: Path, server: Server) -> None:
    content = zipped(**{"..__canary": b"x"})
    with pytest.raises(DataError, match="leads out"):
        fetch_files(server.url, {"x.zip": serve(tmp_path, "x.zip", content)}, tmp_path / "data")
    assert not (tmp_path / "canary").exists()
    with pytest.raises(DataError, match="no plain file name"):
        fetch_files(server.url, {"../x": None}, tmp_path / "data")


def test_doi_without_connection_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pooch

    def offline(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(pooch.Pooch, "load_registry_from_doi", offline)
    with pytest.raises(DataError, match=r"doi\.org/10\.5281/zenodo\.7049844: .*no route to host.*by hand"):
        fetch_doi("10.5281/zenodo.7049844", tmp_path / "data")


def test_kaggle_is_linked_and_its_failure_names_the_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def download(slug: str) -> str:
        calls.append(slug)
        return str(tmp_path / "cache")

    (tmp_path / "cache" / "volumes").mkdir(parents=True)
    monkeypatch.setitem(sys.modules, "kagglehub", types.SimpleNamespace(dataset_download=download))
    (tmp_path / "kaggle").mkdir()
    for _ in range(2):
        fetch_kaggle("a/b", tmp_path / "kaggle")
    assert calls == ["a/b"] and (tmp_path / "kaggle" / "volumes").is_dir()

    (tmp_path / "cache" / "volumes").rmdir()  # a cluster empties caches, or removes them
    fetch_kaggle("a/b", tmp_path / "kaggle")
    (tmp_path / "cache").rmdir()
    fetch_kaggle("a/b", tmp_path / "kaggle")
    assert calls == ["a/b"] * 3 and (tmp_path / "kaggle").is_symlink()

    def refuse(slug: str) -> str:
        raise RuntimeError("401\nlong text")

    monkeypatch.setitem(sys.modules, "kagglehub", types.SimpleNamespace(dataset_download=refuse))
    with pytest.raises(DataError, match=r"\(401\); it needs your Kaggle token"):
        fetch_kaggle("a/b", tmp_path / "other")
    monkeypatch.setitem(sys.modules, "kagglehub", None)
    with pytest.raises(DataError, match="pip install kagglehub"):
        fetch_kaggle("a/b", tmp_path / "other")
