"""The page as text: one file, nothing from outside, nothing of the machine, and "SIMULATED" wherever it belongs."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from spineseg.errors import DataError
from spineseg.reporting.case_scores import CaseScore, shown_runs, worst_cases
from spineseg.reporting.html import write_html
from spineseg.reporting.html_cases import MOST_MAPS, page_case
from spineseg.reporting.html_tables import page_table
from spineseg.reporting.places import without_places
from spineseg.reporting.runs import Table
from tests.reporting.page_cases import World, picture

FRAME = pd.DataFrame({"Model": ["a", "b", "c"], "Dice": [0.9, np.nan, 0.123456], "Levels": [3, 4, 5]})


def written(world: World, tmp_path: Path, worst: int = 0, **changes: object) -> str:
    tables = {"main": Table("main", "Dice of all models.", FRAME, ("n = 3, no intervals",))}
    changes = {"tables": tables, "figures": {"worst_case": picture(tmp_path / "figure.png")}, **changes}
    write_html(world.report(**changes), tmp_path / "report.html", worst=worst)
    return (tmp_path / "report.html").read_text(encoding="utf-8")


def case_data(html: str) -> list[dict]:
    blocks = re.findall(r'<script type="application/json" id="case-\d+-data">(.*?)</script>', html, re.S)
    return [json.loads(block) for block in blocks]


def test_nothing_is_asked_of_a_network_and_nothing_runs_but_our_script(world: World, tmp_path: Path) -> None:
    html = written(world, tmp_path, worst=1)
    sources = re.findall(r'(?:src|href)="([^"]{0,60})', html)
    assert sources and all(each.startswith(("data:image/", "#")) for each in sources)
    assert not re.search(r"https?://|//cdn|@import|url\(", html)
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', html)
    assert policy is not None and "default-src 'none'" in policy.group(1)
    assert "unsafe" not in policy.group(1)
    # Attributes that the policy would refuse.
    assert not re.search(r'\s(?:style|onclick|onload|onerror)="', html)


def test_a_simulated_page_says_so_on_every_section_table_and_figure(world: World, tmp_path: Path) -> None:
    mark = '<strong class="simulated">SIMULATED</strong>'
    html = written(world, tmp_path, worst=1)
    assert "<title>SIMULATED" in html
    for opening in ("h2>", "h3 ", "h4>"):
        headings = re.findall(rf"<{opening}.*?</{opening[:2]}>", html, re.S)
        assert headings and all(mark in heading for heading in headings), opening
    captions = re.findall(r'<p class="caption".*?</p>', html, re.S)
    assert len(captions) == len(re.findall("<table", html)) == 3
    assert all(mark in caption for caption in captions)
    pictures = re.findall(r'<figure class="picture">.*?</figure>', html, re.S)
    assert len(pictures) == 1 and mark in pictures[0]
    real = written(world, tmp_path, simulated=False)
    assert mark not in real and "<title>SIMULATED" not in real


def test_hostile_names_are_text(world: World, tmp_path: Path) -> None:
    evil = "<script>alert(1)</script><img src=x onerror=alert(2)>"
    frame = pd.DataFrame({evil: [evil, '" onmouseover="alert(3)'], "Dice": [1.0, 0.5]})
    run = world.runs["good"]
    bad = replace(run, recipe=evil, name=run.name)
    html = written(
        world,
        tmp_path,
        worst=1,
        title=evil,
        notes=(evil,),
        runs=(bad,),
        tables={"t": Table("t", evil, frame, (evil,))},
        figures={evil: picture(tmp_path / "x.png")},
    )
    assert "<script>alert" not in html and "<img src=x" not in html and '" onmouseover="' not in html
    assert html.count("&lt;script&gt;alert(1)") >= 6


def test_no_place_on_the_machine_is_told(world: World, tmp_path: Path) -> None:
    frame = pd.DataFrame({"Model": [str(world.root / "secret" / "model.ckpt")], "Dice": [0.5]})
    notes = (f"read {world.root}/scans/person.nii.gz twice", "~/private/notes.txt", "n/a at 3 mm/s")
    changed = replace(world.runs["good"], provenance={"data": str(world.root / "prepared")})
    html = written(world, tmp_path, worst=1, notes=notes, runs=(changed,), tables={"t": Table("t", "c", frame)})
    assert str(world.root) not in html and str(tmp_path) not in html and str(Path.home()) + "/" not in html
    assert "…/person.nii.gz" in html and "…/model.ckpt" in html and "…/notes.txt" in html and "n/a at 3 mm/s" in html
    assert without_places(r"C:\Users\me\scan.nii") == "…/scan.nii"


def test_the_viewer_holds_the_cases_voxels_and_every_model(world: World, tmp_path: Path) -> None:
    html = written(world, tmp_path, worst=2)
    cases = case_data(html)
    assert len(cases) == 2
    expected = worst_cases(list(world.runs.values()), 2)
    titles = re.findall(r'<h3 id="case-\d-name">\d\. (\w+)', html)
    assert titles == [score.case for score in expected]
    for case in cases:
        # The other tool's predictions are where nobody said: its place is told, its panel missing.
        assert [map_["reference"] for map_ in case["maps"]] == [True, False, False, False]
        assert [map_["named"] for map_ in case["maps"]] == [True, True, True, False]
        assert case["scan"] is not None and max(case["shape"]) <= 256
        assert all(map_["mesh"]["parts"] for map_ in case["maps"])
    assert "other_tool: its predictions are not kept" in html
    assert len(html) < 2e6


def test_labels_alone_are_shown_where_the_scan_is_not_found(world: World, tmp_path: Path) -> None:
    tool = replace(world.runs["other_tool"], predictions=world.root / "other")
    html = written(world, tmp_path, worst=1, runs=(tool,))
    (case,) = case_data(html)
    assert case["scan"] is None and len(case["maps"]) == 1
    assert "label maps only" in html and 'data-mode="differences"' not in html
    lost = written(world, tmp_path, worst=1, runs=(replace(tool, predictions=None),))
    assert case_data(lost) == [] and "cannot be shown" in lost


def test_cells_are_sorted_by_the_numbers_behind_them() -> None:
    frame = pd.DataFrame(
        {
            "Dice": ["0.812 [0.70, 0.90]", "n/a", "−0.5"],
            "Level": ["T10", "T2", "L1"],
            "Note": ["12 of 3", "none", "7"],
            "Cost": ["1 h", "90 s", "–"],
            "Count": [1200, 7, 30],
            "Share": [0.5, np.nan, 100.25],
            "None": ["–", "n/a", "– (0 levels)"],
        }
    )
    values = pd.DataFrame({"Cost": [3600.0, 90.0, np.nan]})
    table = page_table(Table("t", "c", frame, values=values, marks={(0, "Dice"): frozenset({"best"})}))
    columns = {column.text: column for column in table.columns}
    cells = {name: [row[n] for row in table.rows] for n, name in enumerate(columns)}
    keys = {name: [cell.key for cell in cells[name]] for name in cells}
    assert keys["Dice"] == ["0.812", None, "-0.5"] and columns["Dice"].numeric
    assert float(keys["Level"][1]) < float(keys["Level"][0]) < float(keys["Level"][2])
    assert columns["Level"].numeric and not columns["Level"].right
    assert not columns["Note"].numeric and keys["Note"] == ["12 of 3", "none", "7"]
    assert keys["Cost"] == ["3600.0", "90.0", None] and cells["Cost"][0].text == "1 h"
    assert [cell.text for cell in cells["Count"]] == ["1,200", "7", "30"]
    assert [cell.text for cell in cells["Share"]] == ["0.500", "–", "100.250"]
    assert columns["None"].right and keys["None"] == [None, None, None]
    assert cells["Dice"][0].mark == "best" and cells["Dice"][2].mark == ""


def test_a_dash_is_no_text_and_a_hash_no_number() -> None:
    texts = pd.DataFrame({"Note": ["–", "b", "a"], "Data hash": ["12e45678", "34567890", "1e234567"]})
    for values in (None, texts):
        note, hashes = zip(*page_table(Table("t", "c", texts, values=values)).rows, strict=True)
        assert [cell.key for cell in note] == [None, "b", "a"]
        assert values is None or [cell.key for cell in hashes] == ["12e45678", "34567890", "1e234567"]
    mixed = page_table(Table("t", "c", texts.iloc[[0, 2]]))
    assert not mixed.columns[1].numeric and mixed.rows[0][1].key == "12e45678"


def test_a_folder_with_a_space_is_cut_like_any_other() -> None:
    root = Path("/home/somebody/My Scans/runs")
    text = f"{root}/a/best.ckpt: damaged; /home/somebody/My Scans/cases.csv twice; /home/somebodyelse/x.csv"
    assert without_places(text, (root,)) == "…/best.ckpt: damaged; …/cases.csv twice; …/x.csv"


def test_an_overfit_check_says_so_on_the_page(world: World, tmp_path: Path) -> None:
    run = replace(world.runs["good"], provenance={**world.runs["good"].provenance, "overfit": "case1"})
    assert "OVERFIT check on case1, no result" in written(world, tmp_path, runs=(run,))
    assert "OVERFIT" not in written(world, tmp_path)


def test_one_run_a_model_is_drawn_and_the_rest_is_named(world: World) -> None:
    run = world.runs["good"]
    seeds = [replace(run, name=f"good/{seed}", seed=seed) for seed in (2, 0, 1)]
    many = [replace(run, name=f"m{n}", recipe=f"m{n}") for n in range(MOST_MAPS + 2)]
    elsewhere = replace(seeds[1], recipe="elsewhere", metrics=run.metrics.assign(source="another set"))
    score = CaseScore("case0", "tiny", "case0", {each.name: 0.5 for each in [*seeds, *many]})
    named = [(each.recipe, each) for each in (elsewhere, *seeds, *many)]
    shown, seeds_left = shown_runs(named, score)
    assert [(model, each.name) for model, each in shown][:2] == [("good", "good/0"), ("m0", "m0")]
    assert len(shown) == 1 + len(many) and seeds_left == ["good, seed 2", "good, seed 1"]
    case = page_case([elsewhere, *seeds, *many], score, 1)
    assert len(case.maps) == 1 + MOST_MAPS
    assert "one seed a model is drawn; other seeds: good, seed 2; good, seed 1" in case.notes
    # The models beyond are no seeds of the others.
    assert f"{MOST_MAPS} models are drawn at most; not drawn: m5; m6; m7" in case.notes


def test_a_run_called_reference_stands_beside_the_reference(world: World) -> None:
    run = replace(world.runs["good"], name="reference", recipe="Reference")
    score = CaseScore("case0", "tiny", "case0", {"reference": 0.5})
    data = json.loads(page_case([run], score, 1).data)
    assert [each["reference"] for each in data["maps"]] == [True, False]
    assert data["maps"][0]["labels"] != data["maps"][1]["labels"]


def test_two_settings_of_a_recipe_are_two_models_as_in_the_tables(world: World) -> None:
    run = world.runs["good"]
    twins = [
        replace(run, name=f"good/{rate}/{seed}", seed=seed, config={**run.config, "optim": {"lr0": rate}})
        for rate in (0.01, 0.1)
        for seed in (0, 1)
    ]
    score = CaseScore("case0", "tiny", "case0", {each.name: 0.5 for each in twins})
    case = page_case(twins, score, 1, {"good": "Good"})
    assert [each["label"] for each in case.maps] == ["Reference", "Good (lr0 0.01)", "Good (lr0 0.1)"]


def test_a_missing_figure_is_an_error_and_a_pdf_gives_its_picture(world: World, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing\.png"):
        written(world, tmp_path, figures={"a": tmp_path / "nothing.png"})
    assert not list(tmp_path.glob("*.html"))
    (tmp_path / "figure.pdf").write_bytes(b"%PDF")
    picture(tmp_path / "figure.png")
    assert "data:image/png;base64," in written(world, tmp_path, figures={"a": tmp_path / "figure.pdf"})
    assert not list(tmp_path.glob(".partial*"))
