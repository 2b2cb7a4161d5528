"""The protocols table: what an evaluation keeps, ranks and reversals, and the folders of several models."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spineseg.errors import DataError, FormatError
from spineseg.evaluate import Reference, evaluate_folder
from spineseg.geometry import Volume
from spineseg.metrics.protocol_table import (
    COLUMNS,
    HEADLINES,
    EvaluatedModel,
    ProtocolTable,
    as_csv,
    as_markdown,
    protocol_table,
    protocol_values,
    write_protocol_table,
)
from spineseg.metrics.protocols import ProtocolCases, pool_cases, read_protocol_cases
from spineseg.predictions.store import LabelKind, PredictionWriter

AFFINE = np.array([[0.0, 0, 3, -20], [-2.0, 0, 0, 7], [0, 2.5, 0, 11], [0, 0, 0, 1]])
LEVELS = (19, 20, 21, 22)


def truth(n: int) -> Volume:
    labels = np.zeros((16, 62, 10), np.uint8)
    for row, level in enumerate(LEVELS):
        z = 49 - 14 * row + n % 2
        labels[3:12, z : z + 9, 2:8] = level
    return Volume(labels, AFFINE)


def thin(volume: Volume) -> Volume:
    """Every level a plane short at the front: a worse outline."""
    array = volume.array.copy()
    array[3] = 0
    return volume.with_array(array)


def inventive(volume: Volume) -> Volume:
    """Right, and a crumb of a level that is not there."""
    array = volume.array.copy()
    array[14, 30, 5] = 24
    return volume.with_array(array)


def evaluated(folder: Path, change: object, kind: LabelKind = "levels", cases: range = range(3)) -> Path:
    with PredictionWriter(folder / "p", provenance={}) as writer:
        for n in cases:
            labels = change(truth(n))  # type: ignore[operator]
            writer.write(f"c{n}", labels, kind, None, seconds=1.0, peak_mb=1.0)
    references = [Reference(f"c{n}", f"s{n}", partial(truth, n), None, "phantom") for n in cases]
    output = folder / "e"
    evaluate_folder(references, folder / "p", output, edge="ignore", run=folder.name, split="t", simulated=True)
    return output


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("evaluations")
    return {change.__name__: evaluated(root / change.__name__, change) for change in (thin, inventive)}


def models(folders: dict[str, Path]) -> list[EvaluatedModel]:
    return [EvaluatedModel.of_folder(name, folder) for name, folder in folders.items()]


def test_a_crumb_turns_nnunets_order_around(folders: dict[str, Path]) -> None:
    table = protocol_table(models(folders))
    first = table.ranks.loc["inventive"]
    assert first["spineseg dice"] == first["verse dice"] == first["monai dice"] == 1
    assert first["nnunet dice"] == 2
    (found,) = [r for r in table.reversals if r.column == "nnunet dice"]
    assert (found.against, found.better, found.worse) == ("spineseg dice", "inventive", "thin")
    assert table.marked("thin", "nnunet dice") and not table.marked("thin", "verse dice")
    text = as_markdown(table, simulated=True)
    assert "SIMULATED" in text and "nnunet dice prefers thin to inventive" in text
    assert next(line for line in text.splitlines() if line.startswith("| nnunet dice")).count("⇅") == 2
    assert {(r.against, r.column) for r in table.headline_reversals} >= {("nnunet dice", "verse dice")}


def test_evaluate_writes_the_table_of_its_own_run(folders: dict[str, Path]) -> None:
    table = pd.read_csv(folders["thin"] / "tables" / "protocols.csv").set_index(["tool", "metric"])["value"]
    summary = json.loads((folders["thin"] / "summary.json").read_text())["metrics"]
    for metric in ("dice", "nsd", "hd95", "id", "mask_map50", "mask_map50_named", "mask_map50_95"):
        assert table["spineseg", metric] == pytest.approx(summary[metric]["value"])
    rows = read_protocol_cases(folders["thin"]).rows
    dice = rows[(rows["tool"] == "verse") & (rows["metric"] == "dice")]["value"]
    assert (len(dice), table["verse", "dice"]) == (12, pytest.approx(dice.mean()))
    assert "protocols 1" in (folders["thin"] / "protocols.csv").read_text()
    assert "⇅ " not in (folders["thin"] / "tables" / "protocols.md").read_text()


def test_folds_are_pooled_and_seeds_averaged(tmp_path: Path, folders: dict[str, Path]) -> None:
    own = {"dice": {"value": 0.5}}
    halves = tuple(evaluated(tmp_path / f"{part}", thin, cases=part) for part in (range(0, 1), range(1, 3)))
    whole = EvaluatedModel.of_folder("whole", folders["thin"])
    table = protocol_table([whole, EvaluatedModel("folds", own, (halves,))]).values
    tools = [column.name for column in COLUMNS if column.tool != "spineseg"]
    np.testing.assert_allclose(table.loc["folds", tools].astype(float), table.loc["whole", tools].astype(float))
    assert table.loc["folds", "spineseg dice"] == 0.5
    seeds = EvaluatedModel("seeds", own, ((folders["thin"],), (folders["inventive"],)))
    both = protocol_table([*models(folders), seeds]).values
    np.testing.assert_allclose(both.loc["seeds", tools], both.loc[["thin", "inventive"], tools].mean())


def test_a_one_class_model_has_the_agnostic_ap_alone(tmp_path: Path) -> None:
    def numbered(volume: Volume) -> Volume:
        return volume.with_array((volume.array > 0) * (volume.array - 18).astype(np.uint8))

    values = protocol_values(read_protocol_cases(evaluated(tmp_path / "one", numbered, "instances")))
    known = {name for name, value in values.items() if np.isfinite(value)}
    assert known == {
        f"coco {mode} {m}" for mode in ("instance", "component") for m in ("ap", "ap50", "ap75", "ap_small")
    }
    assert values["coco instance ap"] == pytest.approx(1)


@given(st.lists(st.lists(st.floats(0, 1), min_size=len(COLUMNS), max_size=len(COLUMNS)), min_size=1, max_size=5))
@settings(max_examples=40, deadline=None)
def test_reversals_are_the_pairs_in_another_order(rows: list[list[float]]) -> None:
    from spineseg.metrics import protocol_table as module

    names = [f"m{n}" for n in range(len(rows))]
    values = {
        name: dict(zip((c.name for c in COLUMNS), row, strict=True)) for name, row in zip(names, rows, strict=True)
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_values_of", lambda model: values[model.name])
        table = protocol_table([EvaluatedModel(name, {}, ()) for name in names])
    own = {column.family: column for column in reversed(COLUMNS)}
    for column in COLUMNS:
        base = own[column.family]
        # What differs by less than a rank can tell may be one or the other.
        clear, any_at_all = (
            {
                (a, b)
                for a in names
                for b in names
                if (values[a][base.name] - values[b][base.name]) * (1 if base.rising else -1) > least
                and (values[a][column.name] - values[b][column.name]) * (1 if column.rising else -1) < -least
            }
            for least in (1e-8, 0.0)
        )
        assert clear <= {(r.better, r.worse) for r in table.reversals if r.column == column.name} <= any_at_all
        assert {table.ranks[column.name].min()} == {1.0}
    assert set(HEADLINES) <= {column.name for column in COLUMNS}


def test_the_first_of_each_family_is_this_protocols() -> None:
    first: dict[str, str] = {}
    for column in COLUMNS:
        first.setdefault(column.family, column.tool)
    assert set(first.values()) == {"spineseg"}
    assert len({column.name for column in COLUMNS}) == len(COLUMNS)


def test_damaged_and_missing_files_are_named(tmp_path: Path, folders: dict[str, Path]) -> None:
    with pytest.raises(DataError, match=r"protocols\.csv.*evaluate the predictions again"):
        read_protocol_cases(tmp_path)
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("protocols.csv", "protocol_detections.parquet"):
        (copy / name).write_bytes((folders["thin"] / name).read_bytes())
    (copy / "protocols.csv").write_text((copy / "protocols.csv").read_text().replace("protocols 1", "protocols 9"))
    with pytest.raises(FormatError, match="protocols 9"):
        read_protocol_cases(copy)
    with pytest.raises(DataError, match=r"summary\.json"):
        EvaluatedModel.of_folder("a", copy)
    twin = models(folders)[0]
    with pytest.raises(DataError, match="called thin"):
        protocol_table([twin, twin])


def test_tables_come_back_from_csv(tmp_path: Path, folders: dict[str, Path]) -> None:
    table = protocol_table(models(folders))
    write_protocol_table(tmp_path, table, simulated=False)
    assert "SIMULATED" not in (tmp_path / "protocols.md").read_text()
    long = pd.read_csv(tmp_path / "protocols.csv")
    assert (tmp_path / "protocols.csv").read_text() == as_csv(table, simulated=False)
    again = long.assign(name=long["tool"] + " " + long["metric"]).pivot(index="model", columns="name", values="value")
    for column in COLUMNS:
        np.testing.assert_allclose(again.loc["thin", column.name], table.values.loc["thin", column.name])
    assert isinstance(table, ProtocolTable) and long["reversed"].any()


def test_pooling_keeps_every_case(folders: dict[str, Path]) -> None:
    parts = [read_protocol_cases(folder) for folder in folders.values()]
    pooled = pool_cases(parts)
    assert isinstance(pooled, ProtocolCases) and pooled.named
    assert len(pooled.rows) == sum(len(part.rows) for part in parts)
