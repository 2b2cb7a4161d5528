import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import spineseg.data.building
from spineseg.data.exclusions import Exclusion, Exclusions, read_exclusions, write_exclusions
from spineseg.data.preparation import audit_source, prepare_source
from spineseg.data.prepared import Prepared, read_prepared
from spineseg.data.proposal import propose
from spineseg.data.sources.csi2014 import CSI2014
from spineseg.data.sources.folder import Folder
from spineseg.data.store import _write_array, open_store, stored_key
from spineseg.errors import DataError, FormatError
from spineseg.geometry import Volume
from spineseg.volumes import read_volume, write_volume

NATIVE = (None, None, None)
Prepare = Callable[..., Path]


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the volume files that were read in this process."""
    names: list[str] = []

    def counted(path: Path):
        names.append(f"{path.parent.name}/{path.name}")
        return read_volume(path)

    monkeypatch.setattr("spineseg.data.sources.base.read_volume", counted)
    return names


@pytest.fixture
def prepare(tmp_path: Path) -> Prepare:
    def run(source, spacing_mm=NATIVE, split_seed: int = 0, workers: int | None = 1, resampling="linear") -> Path:
        return prepare_source(
            source,
            prepared_root=tmp_path / "prepared",
            spacing_mm=spacing_mm,
            split_seed=split_seed,
            workers=workers,
            resampling=resampling,
        )

    return run


def tree(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_prepared_folder_holds_what_the_contract_says(make_csi: Callable[..., Path], prepare: Prepare) -> None:
    source = CSI2014(make_csi(5))
    (source.root / "SIMULATED.json").write_text("{}")
    prepared = read_prepared(prepare(source))
    assert isinstance(prepared, Prepared) and prepared.root.name.startswith("csi2014-")
    assert [case.id for case in prepared.cases] == [f"case{n}" for n in range(1, 6)]
    assert prepared.simulated and prepared.splits.simulated
    for name in ("audit.json", "splits.json", "source.json"):
        assert json.loads((prepared.root / name).read_text())["simulated"] is True
    assert sorted(prepared.splits.folds.values()) == [0, 1, 2, 3, 4]
    stored = open_store(prepared.store(NATIVE), [case.id for case in prepared.cases])
    again = prepared.open_source()
    for case in prepared.cases:
        labels = again.read_labels(case)
        assert stored[case.id].label_voxels.sum() == np.count_nonzero(labels.array)
        assert case.levels == tuple(range(8, 25)) and case.findings == ()
    assert not list(prepared.root.parent.glob("*.partial")) and not list(prepared.root.rglob(".partial*"))


def test_unchanged_data_is_not_read_again(make_folder: Callable[..., Path], prepare: Prepare, reads: list[str]) -> None:
    source = Folder(make_folder(5))
    folder = prepare(source)
    assert len(reads) == 10
    before = tree(folder)
    reads.clear()
    assert prepare(Folder(source.root)) == folder
    assert reads == [] and tree(folder) == before


def test_changed_added_and_excluded_cases_cost_only_themselves(
    make_folder: Callable[..., Path], prepare: Prepare, reads: list[str]
) -> None:
    source = Folder(make_folder(5))
    first = prepare(source)
    reads.clear()
    mask = read_volume(source.root / "s1" / "vertebrae.nii.gz")
    write_volume(source.root / "s1" / "vertebrae.nii.gz", mask.with_array(np.where(mask.array == 22, 0, mask.array)))
    second = prepare(source)
    assert second != first and reads == ["s1/ct.nii.gz", "s1/vertebrae.nii.gz"]
    reads.clear()
    third = prepare(Folder(source.root, exclude=["s2"]))
    assert third not in (first, second) and reads == []
    assert [case.id for case in read_prepared(third).cases] == ["s0", "s1", "s3", "s4"]
    assert {case.name for case in (third / "store" / "native").iterdir()} == {"s0", "s1", "s3", "s4"}
    fourth = prepare(source, split_seed=1)
    assert fourth not in (first, second, third) and reads == []
    fifth = prepare(Folder(source.root, edge="count"))
    assert fifth not in (first, second, third, fourth) and reads == []
    assert read_prepared(fifth).source["edge"] == "count"


def test_touched_files_of_the_same_content_give_the_same_folder(
    make_folder: Callable[..., Path], prepare: Prepare, reads: list[str]
) -> None:
    source = Folder(make_folder(2))
    folder = prepare(source)
    os.utime(source.root / "s0" / "ct.nii.gz", ns=(1, 1))
    reads.clear()
    assert prepare(source) == folder and len(reads) == 2
    reads.clear()
    assert prepare(source) == folder and reads == []
    assert not list(folder.parent.glob("*.partial"))


def test_a_corrected_header_is_prepared_anew(make_folder: Callable[..., Path], prepare: Prepare) -> None:
    """The voxels are the same, but they lie elsewhere: neither the listing nor the store is what it was."""
    source = Folder(make_folder(2))
    before = prepare(source, spacing_mm=(None, 1.0, 1.0))
    for name in ("ct.nii.gz", "vertebrae.nii.gz"):
        volume = read_volume(source.root / "s0" / name)
        finer = volume.affine @ np.diag([0.5, 0.5, 0.5, 1])
        write_volume(source.root / "s0" / name, Volume(volume.array, finer))
    after = prepare(source, spacing_mm=(None, 1.0, 1.0))
    assert after != before
    was, found = (read_prepared(folder).case("s0").spacing_mm for folder in (before, after))
    assert found == pytest.approx([side / 2 for side in was])
    stored = open_store(after / "store" / "native_1_1", ["s0"])["s0"]
    assert stored.shape[1:] != open_store(before / "store" / "native_1_1", ["s0"])["s0"].shape[1:]
    assert prepare(source, spacing_mm=(None, 1.0, 1.0)) == after


def test_a_moved_set_is_opened_where_it_lies_now(make_folder: Callable[..., Path], prepare: Prepare) -> None:
    source = Folder(make_folder(2))
    folder = prepare(source)
    moved = source.root.rename(source.root.with_name("elsewhere"))
    assert prepare(Folder(moved)) == folder
    prepared = read_prepared(folder)
    assert prepared.open_source().read_image(prepared.cases[0]).array.size


def test_a_download_holds_the_lock(
    make_folder: Callable[..., Path], prepare: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two jobs of a sweep that both begin with it would unpack into each other."""
    source, held = Folder(make_folder(2)), list[bool]()
    source.download = True

    def fetch() -> None:
        with (tmp_path / "prepared" / ".folder.lock").open() as lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        held.append(True)

    monkeypatch.setattr(source, "fetch", fetch)
    prepare(source)
    assert held == [True]


def test_scans_without_a_mask_are_refused_in_a_split_file(make_folder: Callable[..., Path], prepare: Prepare) -> None:
    """They would be trained on as scans without a vertebra."""
    root = make_folder(3)
    (root / "s1" / "vertebrae.nii.gz").unlink()
    prepared = read_prepared(prepare(Folder(root)))
    (root / "split.json").write_text('{"train": ["s0", "s1"], "val": ["s2"]}')
    with pytest.raises(DataError, match=r"no mask: s1"):
        prepared.split(fold=0, split_file=str(root / "split.json"))
    (root / "split.json").write_text('{"train": ["s0"], "val": ["s2"]}')
    assert prepared.split(fold=0, split_file=str(root / "split.json")).train == ("s0",)


def test_a_full_disk_is_said_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> int:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match=r"No space left on device.*image\.b2nd"):
        _write_array(tmp_path / "image.b2nd", np.zeros((2, 3, 4), np.int16))


def test_second_spacing_joins_the_folder(make_folder: Callable[..., Path], prepare: Prepare, reads: list[str]) -> None:
    source = Folder(make_folder(2))
    folder = prepare(source)
    assert prepare(source, spacing_mm=(None, 1.0, 1.0)) == folder
    assert {path.name for path in (folder / "store").iterdir()} == {"native", "native_1_1"}
    reads.clear()
    assert prepare(source) == prepare(source, spacing_mm=(None, 1.0, 1.0)) == folder and reads == []


def test_cubic_store_stands_beside_the_linear_one(
    make_folder: Callable[..., Path], prepare: Prepare, reads: list[str]
) -> None:
    source, spacing = Folder(make_folder(2)), (1.5, 1.5, 1.5)
    folder = prepare(source, spacing)
    assert prepare(source, spacing, resampling="cubic") == folder
    prepared = read_prepared(folder)
    stores = [open_store(prepared.store(spacing, name), ["s0", "s1"]) for name in ("linear", "cubic")]
    assert stores[0]["s0"].key != stores[1]["s0"].key
    assert (stores[0]["s0"].read_image(5, 6) != stores[1]["s0"].read_image(5, 6)).any()
    reads.clear()
    assert prepare(source, spacing) == prepare(source, spacing, resampling="cubic") == folder and reads == []


def test_exclusion_file_is_honoured_and_named(
    make_folder: Callable[..., Path], prepare: Prepare, tmp_path: Path, reads: list[str]
) -> None:
    source = Folder(make_folder(6))
    everyone = read_prepared(prepare(source))
    assert everyone.exclusions == Exclusions() and everyone.exclusions.note is None
    reads.clear()
    file = tmp_path / "mixed.csv"
    write_exclusions(file, [Exclusion("s2", "T12 holds half of L1", ("mixed: 40% of T12 lies in L1",), "a reader")])
    prepared = read_prepared(prepare(Folder(source.root, exclude=str(file))))
    assert reads == [] and prepared.root != everyone.root
    assert "s2" not in {case.id for case in prepared.cases} and not list(prepared.root.rglob("s2"))
    # Nobody else moves: the hash of the others is their own.
    assert dict(prepared.splits.folds) == {name: f for name, f in everyone.splits.folds.items() if name != "s2"}
    said = json.loads((prepared.root / "source.json").read_text())["exclusions"]
    assert said["count"] == 1 and said["file"] == "mixed.csv" and said["cases"][0]["case"] == "s2"
    assert said["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert prepared.exclusions == read_exclusions(file)
    assert prepared.exclusions.note is not None and said["sha256"][:12] in prepared.exclusions.note
    # The same cases for another reason are another folder: what is printed has to be what was meant.
    write_exclusions(file, [Exclusion("s2", "another reason")])
    again = read_prepared(prepare(Folder(source.root, exclude=str(file))))
    assert again.root != prepared.root and again.exclusions.rows[0].reason == "another reason" and reads == []


def test_audit_alone_stops_at_nothing_and_is_not_done_twice(
    make_folder: Callable[..., Path], prepare: Prepare, tmp_path: Path, reads: list[str]
) -> None:
    source = Folder(make_folder(4))
    (source.root / "s1" / "vertebrae.nii.gz").write_bytes(b"no nifti")
    reports = audit_source(source, prepared_root=tmp_path / "prepared", workers=1)
    assert [report.id for report in reports if report.fatal] == ["s1"] and len(reports) == 4
    assert not list((tmp_path / "prepared").rglob("*.b2nd"))
    [row] = propose(reports)
    assert row.case == "s1" and "cannot be used" in row.reason and "vertebrae.nii.gz" in row.findings[0]
    write_exclusions(tmp_path / "out.csv", [row])
    reads.clear()
    kept = [case.id for case in read_prepared(prepare(Folder(source.root, exclude=str(tmp_path / "out.csv")))).cases]
    assert kept == ["s0", "s2", "s3"]
    reads.clear()
    assert [
        r.id for r in audit_source(Folder(source.root, exclude=["s1"]), prepared_root=tmp_path / "prepared")
    ] == kept
    assert reads == []


def test_interrupted_it_goes_on_where_it_was(
    make_folder: Callable[..., Path], prepare: Prepare, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Folder(make_folder(5))
    whole = spineseg.data.building.run_job

    def killed(job):
        if job.raw.id == "s3":
            raise KeyboardInterrupt
        return whole(job)

    monkeypatch.setattr("spineseg.data.building.run_job", killed)
    with pytest.raises(KeyboardInterrupt):
        prepare(source)
    root = source.root.parent / "prepared"
    assert [path.suffix for path in root.glob("folder-*")] == [".partial"]
    half = next(root.glob("*.partial")) / "store" / "native" / ".partial-1-s3"
    half.mkdir()
    reads.clear()
    monkeypatch.setattr("spineseg.data.building.run_job", whole)
    folder = prepare(source)
    assert sorted(reads) == [f"s{n}/{name}.nii.gz" for n in (3, 4) for name in ("ct", "vertebrae")]
    assert len(open_store(folder / "store" / "native", [f"s{n}" for n in range(5)])) == 5
    assert not half.exists() and not list(root.glob("*.partial"))


def test_fatal_findings_are_all_told_and_nothing_bears_a_final_name(
    make_folder: Callable[..., Path], prepare: Prepare, reads: list[str]
) -> None:
    source = Folder(make_folder(5))
    ct = source.root / "s1" / "ct.nii.gz"
    whole = ct.read_bytes()
    ct.write_bytes(whole[:-3000])
    mask = read_volume(source.root / "s3" / "vertebrae.nii.gz")
    wrong = mask.with_array(np.where(mask.array == 20, 77, mask.array))
    write_volume(source.root / "s3" / "vertebrae.nii.gz", wrong)
    for _ in range(2):
        reads.clear()
        with pytest.raises(DataError) as error:
            prepare(source)
        assert "2 fatal findings" in str(error.value) and "unknown label 77" in str(error.value)
        assert str(ct) in str(error.value)
    # The second time only the faulty cases were read again.
    assert {name.split("/")[0] for name in reads} == {"s1", "s3"}
    root = source.root.parent / "prepared"
    assert [path.suffix for path in root.glob("folder-*")] == [".partial"]
    assert "77" in (next(root.glob("*.partial")) / "audit.json").read_text()
    ct.write_bytes(whole)
    write_volume(source.root / "s3" / "vertebrae.nii.gz", mask)
    reads.clear()
    prepare(source)
    assert {name.split("/")[0] for name in reads} == {"s1", "s3"}
    assert not list(root.glob("*.partial"))


def test_lost_and_damaged_store_cases_are_built_again(
    make_folder: Callable[..., Path], prepare: Prepare, reads: list[str]
) -> None:
    source = Folder(make_folder(3))
    folder = prepare(source)
    shutil.rmtree(folder / "store" / "native" / "s0")
    (folder / "store" / "native" / "s1" / "meta.json").write_text("{")
    (folder / "records.json").write_text("not json")
    reads.clear()
    assert prepare(source) == folder
    assert all(stored_key(folder / "store" / "native" / name) for name in ("s0", "s1", "s2"))
    assert json.loads((folder / "records.json").read_text())["format"] == "records 1"


def test_processes_give_the_same_folder(make_folder: Callable[..., Path], prepare: Prepare, tmp_path: Path) -> None:
    source = Folder(make_folder(3))
    serial = prepare(source)
    parallel = prepare_source(source, prepared_root=tmp_path / "other", spacing_mm=NATIVE, split_seed=0, workers=2)
    assert serial.name == parallel.name
    for name in ("cases.csv", "splits.json", "audit.json"):
        assert (serial / name).read_bytes() == (parallel / name).read_bytes()


def test_pairs_table_conventions_survive(make_folder: Callable[..., Path], prepare: Prepare) -> None:
    root = make_folder(1)
    mask = read_volume(root / "s0" / "vertebrae.nii.gz")
    total = np.where(mask.array > 0, 51 - mask.array, 0).astype(np.uint8)
    write_volume(root / "s0" / "vertebrae.nii.gz", mask.with_array(total))
    (root / "pairs.csv").write_text(
        "id,image,label,convention\nx,s0/ct.nii.gz,s0/vertebrae.nii.gz,totalsegmentator_v2\n"
    )
    prepared = read_prepared(prepare(Folder(root, pairs=root / "pairs.csv")))
    np.testing.assert_array_equal(prepared.open_source().read_labels(prepared.cases[0]).array, mask.array)


def test_unwritable_and_foreign_folders_are_named(
    make_folder: Callable[..., Path], prepare: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Folder(make_folder(2))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "image.b2nd")

    monkeypatch.setattr("spineseg.data.store._write_array", full)
    with pytest.raises(DataError, match=r"image\.b2nd: cannot be written \(No space left on device\).*paths\.prepared"):
        prepare(source)
    with pytest.raises(DataError, match="no such file"):
        read_prepared(tmp_path)
    (tmp_path / "source.json").write_text('{"format": "source 7"}')
    with pytest.raises(FormatError, match="source 7"):
        read_prepared(tmp_path)
