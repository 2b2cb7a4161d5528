import hashlib
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spineseg.data.cases import Case, read_cases, write_cases
from spineseg.data.splits import (
    Split,
    check_leakage,
    fewer_subjects,
    make_splits,
    overfit_split,
    read_split_file,
    read_splits,
    subject_folds,
    write_splits,
)
from spineseg.errors import ConfigError, DataError, FormatError


def case(name: str, subject: str | None = None, source: str = "csi2014", labelled: bool = True) -> Case:
    return Case(
        id=name,
        subject=subject or name,
        source=source,
        image=Path(f"{name}.mhd"),
        label=Path(f"{name}_label.mhd") if labelled else None,
        shape=(4, 5, 6),
        spacing_mm=(0.3125, 0.3125, 1.0),
        orientation="LPS",
        levels=(8, 9),
        cut_levels=(9,),
        findings=("gap: no T7 between T6 and T8",),
        image_sha256=hashlib.sha256(name.encode()).hexdigest(),
        label_sha256="0" * 64 if labelled else None,
    )


CSI = [case(f"case{number}") for number in range(1, 11)]


def test_rank_rule_gives_two_of_ten_subjects_to_each_fold() -> None:
    splits = make_splits(CSI, rule="rank", seed=0)
    assert sorted(splits.folds.values()) == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    # The rule, written out once more: position in the sorted hashes, modulo 5.
    order = sorted(CSI, key=lambda c: hashlib.sha256(f"csi2014:{c.subject}:0".encode()).hexdigest())
    assert splits.folds == {c.id: position % 5 for position, c in enumerate(order)}


def test_an_excluded_case_moves_nobody() -> None:
    everyone = [c.subject for c in CSI]
    whole = make_splits(CSI, rule="rank", seed=3, subjects=everyone)
    part = make_splits(CSI[:4] + CSI[6:], rule="rank", seed=3, subjects=everyone)
    assert all(whole.folds[name] == fold for name, fold in part.folds.items())


def test_fewer_subjects_are_always_among_more_and_nobody_else_moves() -> None:
    twice = [replace(c, id=f"{c.id}-again", image_sha256=f"{c.id}-again") for c in CSI]
    splits = make_splits([*CSI, *twice], rule="rank", seed=0)
    whole = splits.fold(1)
    kept = [fewer_subjects(whole, count, [*CSI, *twice], 0) for count in range(1, 7)]
    for count, split in enumerate(kept, start=1):
        assert len({splits.subjects[name] for name in split.train}) == count
        assert len(split.train) == 2 * count  # both scans of each
        assert (split.val, split.test) == (whole.val, whole.test)
    assert all(set(few.train) < set(more.train) for few, more in pairwise(kept))
    assert kept[-1] == whole
    for count in (0, 7):
        with pytest.raises(ConfigError, match=f"train_subjects={count}: expected 1 to 6"):
            fewer_subjects(whole, count, CSI + twice, 0)


@settings(max_examples=30)
@given(st.sets(st.text(min_size=1, max_size=8), min_size=1, max_size=30), st.integers(0, 5))
def test_hash_rule_is_the_subjects_own(subjects: set[str], seed: int) -> None:
    folds = subject_folds(subjects, source="kaggle", rule="hash", seed=seed)
    for subject in subjects:
        digest = int(hashlib.sha256(f"kaggle:{subject}:{seed}".encode()).hexdigest(), 16)
        assert folds[subject] == digest % 5
        assert subject_folds([subject], source="kaggle", rule="hash", seed=seed)[subject] == folds[subject]


@pytest.mark.parametrize("fold", range(5))
def test_fold_parts_cover_all_cases_once_and_do_not_leak(fold: int) -> None:
    splits = make_splits(CSI, rule="rank", seed=0)
    split = splits.fold(fold)
    assert sorted(split.train + split.val + split.test) == sorted(c.id for c in CSI)
    assert {splits.folds[name] for name in split.test} == {fold}
    assert {splits.folds[name] for name in split.val} == {(fold + 1) % 5}
    check_leakage(split, CSI)


def test_scans_of_one_subject_stay_together_and_unlabelled_ones_stay_out() -> None:
    cases = [case(f"s{n}_{scan}", f"s{n}", "verse") for n in range(20) for scan in "ab"] + [case("x", labelled=False)]
    splits = make_splits(cases, rule="hash", seed=0)
    assert "x" not in splits.folds
    for n in range(20):
        assert splits.folds[f"s{n}_a"] == splits.folds[f"s{n}_b"]
    for fold in range(5):
        check_leakage(splits.fold(fold), cases)


def test_leaks_are_named() -> None:
    twin = replace(CSI[1], image_sha256=CSI[0].image_sha256)
    with pytest.raises(DataError, match=r"case1 \(train\) and case2 \(test\) have the same image content"):
        check_leakage(Split(("case1",), ("case3",), ("case2",)), [CSI[0], twin, CSI[2]])
    scans = [case("a", "s"), case("b", "s"), case("c")]
    with pytest.raises(DataError, match="same subject"):
        check_leakage(Split(("a", "c"), ("b",), ()), scans)
    with pytest.raises(DataError, match="same subject"):
        check_leakage(Split(("a", "c"), ("a",), ()), scans)
    with pytest.raises(DataError, match=r"unknown case case77; nearest: case"):
        check_leakage(Split(("case77",), (), ()), CSI)


def test_overfit_shows_one_case_twice_on_purpose() -> None:
    split = overfit_split("case3", CSI)
    assert split.train == split.val == ("case3",) and len(split.test) == 9 and split.overfit == "case3"
    check_leakage(split, CSI)
    with pytest.raises(DataError, match="nearest: case3"):
        overfit_split("case33", CSI)


def test_too_few_subjects_and_wrong_folds_are_told() -> None:
    splits = make_splits(CSI[:1], rule="rank", seed=0)
    with pytest.raises(DataError, match=r"has no (train|val) case: 1 subjects.*overfit"):
        splits.fold(0)
    with pytest.raises(ConfigError, match=r"data\.fold=5"):
        splits.fold(5)
    with pytest.raises(DataError, match="no case has a mask"):
        make_splits([case("x", labelled=False)], rule="rank", seed=0)


def test_files_round_trip(tmp_path: Path) -> None:
    splits = make_splits(CSI, rule="rank", seed=7, simulated=True)
    write_splits(tmp_path / "splits.json", splits)
    assert read_splits(tmp_path / "splits.json") == splits
    odd = [
        *CSI,
        replace(case('a|b ü, "c"'), findings=("order: T1 lies below T2, x", "crumb: L1")),
        case("u", labelled=False),
    ]
    write_cases(tmp_path / "cases.csv", odd)
    assert read_cases(tmp_path / "cases.csv") == tuple(odd)


def test_other_versions_and_damage_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "splits.json"
    with pytest.raises(DataError, match=r"spineseg\.prepare"):
        read_splits(path)
    path.write_text('{"format": "splits 9"}')
    with pytest.raises(FormatError, match="expected format 'splits 1', found 'splits 9'"):
        read_splits(path)
    path.write_text('{"format": "splits 1"}')
    with pytest.raises(DataError, match="damaged"):
        read_splits(path)
    path.write_text("{")
    with pytest.raises(DataError, match="JSON"):
        read_splits(path)
    table = tmp_path / "cases.csv"
    write_cases(table, CSI)
    table.write_text(table.read_text().replace("cases 1,case2", "cases 2,case2"))
    with pytest.raises(FormatError, match="line 3"):
        read_cases(table)
    table.write_text("id,subject\na,b\n")
    with pytest.raises(FormatError, match="no column"):
        read_cases(table)
    write_cases(table, CSI)
    table.write_text(table.read_text().replace("4 5 6", "4 5"))
    with pytest.raises(DataError, match="line 2: a damaged row"):
        read_cases(table)


def test_split_file_of_the_user(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text('{"train": ["case1", "case2"], "val": ["case3"]}')
    assert read_split_file(path, CSI) == Split(("case1", "case2"), ("case3",), ())
    path.write_text('{"train": ["case1"], "val": ["case1"]}')
    with pytest.raises(DataError, match="leaks"):
        read_split_file(path, CSI)
    for text in ("[]", "{", '{"train": []}', '{"train": ["x"], "val": ["case1"]}'):
        path.write_text(text)
        with pytest.raises(DataError):
            read_split_file(path, CSI)


def test_an_excluded_case_leaves_a_split_of_the_user_too(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text('{"train": ["case1", "case2"], "val": ["case3"], "test": ["gone"]}')
    assert read_split_file(path, CSI, excluded=["gone"]) == Split(("case1", "case2"), ("case3",), ())
    with pytest.raises(DataError, match="unknown case gone"):
        read_split_file(path, CSI)
