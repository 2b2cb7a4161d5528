from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spineseg.data.audit import Report
from spineseg.data.cases import Case
from spineseg.data.exclusions import COLUMNS, Exclusion, Exclusions, read_exclusions, write_exclusions
from spineseg.data.proposal import REASONS, propose
from spineseg.errors import DataError, FormatError

HEAD = ",".join(COLUMNS) + "\n"
CASE = Case("a", "a", "kaggle", Path("a"), Path("b"), (9, 9, 9), (1.0, 1.0, 1.0), "RAS", (), (), (), "x", "y")


def report(*findings: str, fatal: tuple[str, ...] = ()) -> Report:
    return Report("a", replace(CASE, findings=findings), fatal)


words = st.text(st.characters(codec="utf-8", exclude_characters=";", exclude_categories=["Cc", "Cs"]), min_size=1).map(
    lambda text: f"x{text}x"
)


@given(st.lists(st.tuples(words, words, st.lists(words, max_size=3), words), unique_by=lambda row: row[0]))
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, listed: list) -> None:
    rows = [Exclusion(case, reason, tuple(findings), who) for case, reason, findings, who in listed]
    path = tmp_path_factory.mktemp("exclusions") / "a.csv"
    write_exclusions(path, rows)
    found = read_exclusions(path)
    assert list(found.rows) == rows and found.file == "a.csv"
    assert Exclusions.from_json(found.to_json()) == found


@pytest.mark.parametrize(
    ("row", "error", "words"),
    [
        ("exclusions 1,c1,mixed,,me,false", DataError, "line 2.*blind is 'false', expected true"),
        ("exclusions 1,c1,mixed,,me,", DataError, "blind is ''"),
        ("exclusions 1,c1,,,me,true", DataError, "a case and a reason"),
        ("exclusions 1,,mixed,,me,true", DataError, "a case and a reason"),
        ("exclusions 2,c1,mixed,,me,true", FormatError, "expected format 'exclusions 1', found 'exclusions 2'"),
        ("exclusions 1,c1,mixed,,me,true\nexclusions 1,c1,gap,,me,true", DataError, "line 3.*second time"),
    ],
)
def test_a_row_without_reason_or_not_blind_is_refused(tmp_path: Path, row: str, error: type, words: str) -> None:
    (tmp_path / "a.csv").write_text(HEAD + row + "\n")
    with pytest.raises(error, match=words):
        read_exclusions(tmp_path / "a.csv")


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("case_0001\ncase_0004\n")
    with pytest.raises(FormatError, match=r"no column format, case.*propose_exclusions"):
        read_exclusions(tmp_path / "a.csv")
    (tmp_path / "a.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="cannot be read as an exclusion file"):
        read_exclusions(tmp_path / "a.csv")


def test_only_doubtful_truth_is_proposed() -> None:
    harmless = ("crumb: T10 2 voxels, 0.00 ml", "fragments: L1 2 parts, largest 98%", "packing: a.nii is gzip")
    assert propose([report(), report(*harmless), report("duplicate: same image as b"), Report("b", None, ())]) == []
    for kind, reason in REASONS.items():
        [row] = propose([report(*harmless, f"{kind}: what was found")])
        assert reason in row.reason and row.findings == (f"{kind}: what was found",)
    [row] = propose([Report("b", None, ("b.nii: cut short; copy it again",))])
    assert row.case == "b" and row.findings == ("b.nii: cut short, copy it again",)
    [row] = propose([report("gap: no T9", "gap: no L1", fatal=("wrong way",))])
    assert row.reason == "audit: it cannot be used, a level is missing between its neighbours"
    assert len(row.findings) == 3


def test_notes_name_cases_and_file() -> None:
    rows = (Exclusion("b", "r"), Exclusion("a", "r"))
    assert Exclusions(rows, "f.csv", "0123456789abcdef").note == (
        "2 cases excluded by f.csv (SHA-256 0123456789ab, blind to predictions): a, b"
    )
    assert Exclusions(rows[:1]).note == "1 case excluded by name, without stated reasons: b"
