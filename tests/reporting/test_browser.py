"""The page in a browser without a network: no request, no complaint; sorting, sliders and the 3D view work."""

import base64
import io
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from spineseg.geometry import Volume
from spineseg.reporting.case_scores import CaseScore
from spineseg.reporting.case_views import CaseView
from spineseg.reporting.html import write_html
from spineseg.reporting.runs import Table
from spineseg.vertebrae import LEVELS
from tests.reporting.page_cases import World, picture

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
FRAME = pd.DataFrame(
    {
        "Model": ["b", "a", "d", "c"],
        "Dice": ["0.90 [0.8, 1.0]", "n/a", "0.10", "0.50"],
        "Level": ["T10", "L1", "C2", "T2"],
    }
)


@pytest.fixture(scope="module")
def html(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    table = Table("main", "Dice of all models.", FRAME)
    report = world.report(tables={"main": table}, figures={"figure": picture(folder / "figure.png")})
    write_html(report, folder / "report.html", worst=2)
    return folder / "report.html"


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    api = pytest.importorskip("playwright.sync_api")
    program = os.environ.get("CHROME") or shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no browser: neither chromium nor google-chrome is installed, and CHROME names none")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(FLAGS), timeout=120_000)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: "Browser", html: Path) -> "Iterator[Page]":
    """The open page, with all cases unpacked; nothing asked, nothing complained of, up to the end of the test."""
    context = browser.new_context(offline=True, viewport={"width": 1200, "height": 900})
    page = context.new_page()
    complaints, requests = [], []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(html.as_uri())
    page.locator(".case[data-ready]").nth(1).wait_for(timeout=60_000)
    yield page
    assert complaints == []
    assert [url for url in requests if not url.startswith("data:")] == [html.as_uri()]
    context.close()


def pixels(canvas: "Locator") -> np.ndarray:
    """RGBA (height, width, 4) of a canvas."""
    text = canvas.evaluate("c => c.toDataURL('image/png').split(',')[1]")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))).convert("RGBA"))


def tinted(image: np.ndarray) -> int:
    """Pixels that are neither gray nor empty."""
    return int(((image[..., :3].max(axis=2).astype(int) - image[..., :3].min(axis=2)) > 12).sum())


def column(page: "Page", table: str, place: int) -> list[str]:
    return page.locator(f"table[aria-labelledby={table}] tbody tr td:nth-child({place})").all_inner_texts()


def drawn(page: "Page") -> None:
    """Wait until what was asked for is on the screen."""
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def test_a_heading_sorts_by_number_and_by_place_in_the_spine(page: "Page") -> None:
    heads = page.locator("table[aria-labelledby=table-1] thead th")
    dice = heads.nth(1)
    assert column(page, "table-1", 1) == ["b", "a", "d", "c"]
    dice.locator("button").click()
    assert column(page, "table-1", 2) == ["0.10", "0.50", "0.90 [0.8, 1.0]", "n/a"]
    assert dice.get_attribute("aria-sort") == "ascending"
    dice.locator("button").focus()
    page.keyboard.press("Enter")
    assert column(page, "table-1", 2) == ["0.90 [0.8, 1.0]", "0.50", "0.10", "n/a"]
    heads.nth(2).locator("button").click()
    assert column(page, "table-1", 3) == ["C2", "T2", "T10", "L1"]
    states = [heads.nth(n).get_attribute("aria-sort") for n in range(3)]
    assert states == ["none", "none", "ascending"]


@pytest.mark.parametrize("plane", ["sagittal", "coronal", "axial"])
def test_a_slider_changes_the_picture_of_every_panel(page: "Page", plane: str) -> None:
    section = page.locator(f".case >> nth=0 >> .plane[data-plane={plane}]")
    canvases = section.locator("canvas")
    assert canvases.count() == 4
    # Into a vertebra: the middle of the column may lie between two.
    page.locator(".case >> nth=0 >> .go[data-level='20']").click()
    drawn(page)
    before = [pixels(canvases.nth(n)) for n in range(4)]
    assert all(tinted(image) > 100 for image in before)
    slider = section.locator("input[type=range]")
    slider.focus()
    page.keyboard.press("Home")
    drawn(page)
    after = [pixels(canvases.nth(n)) for n in range(4)]
    for one, other in zip(before, after, strict=True):
        assert one.shape == other.shape and np.abs(one.astype(int) - other).mean() > 2
    assert section.locator("output").first.inner_text().startswith("1 of ")


def test_labels_have_their_levels_colours_and_can_be_taken_away(page: "Page") -> None:
    case = page.locator(".case").first
    canvas = case.locator(".plane[data-plane=sagittal] canvas").first
    case.locator(".cross").uncheck()
    case.locator(".opacity").evaluate("e => { e.value = 100; e.dispatchEvent(new Event('input')); }")
    drawn(page)
    image = pixels(canvas)[..., :3].reshape(-1, 3)
    # Rows of L1 are above those of L3.
    rows = {}
    for level in (19, 20, 21, 22):
        hit = np.flatnonzero((np.abs(image.astype(int) - LEVELS[level].color).max(axis=1)) < 4)
        assert len(hit) > 50, LEVELS[level].name
        rows[level] = hit.mean()
    assert rows[19] < rows[20] < rows[21] < rows[22]
    case.locator(".level[data-level='20']").click()
    drawn(page)
    left = pixels(canvas)[..., :3].reshape(-1, 3)
    assert not (np.abs(left.astype(int) - LEVELS[20].color).max(axis=1) < 4).any()
    case.locator("[data-mode=none]").check()
    drawn(page)
    assert tinted(pixels(canvas)) == 0


def test_differences_show_where_a_model_is_wrong(page: "Page") -> None:
    case = page.locator(".case").first  # the one that `shifted` renames
    case.locator(".cross").uncheck()
    case.locator("[data-mode=differences]").check()
    case.locator(".opacity").evaluate("e => { e.value = 100; e.dispatchEvent(new Event('input')); }")
    drawn(page)
    assert case.locator("[data-mode]:checked").count() == 1
    assert case.locator(".key").is_visible()
    panels = case.locator(".plane[data-plane=sagittal] canvas")
    pink = {}
    for number in range(4):
        image = pixels(panels.nth(number))[..., :3].astype(int)
        pink[number] = int((np.abs(image - (255, 79, 154)).max(axis=2) < 4).sum())
    assert pink[2] > 500 and pink[1] == pink[3] == 0  # good, shifted, one_class after the reference


def test_a_click_moves_the_other_planes_and_a_level_name_all_of_them(page: "Page") -> None:
    case = page.locator(".case").first
    places = [f".plane[data-plane={plane}] input" for plane in ("sagittal", "coronal", "axial")]
    before = [case.locator(place).input_value() for place in places]
    canvas = case.locator(".plane[data-plane=sagittal] canvas").first
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    assert box is not None
    canvas.click(position={"x": box["width"] * 0.9, "y": box["height"] * 0.1})
    after = [int(case.locator(place).input_value()) for place in places]
    ends = [int(case.locator(place).get_attribute("max") or 0) for place in places]
    assert after[0] == int(before[0])
    # Front is on the left and the head above: Y falls to the right, Z downwards.
    assert after[1] == pytest.approx(0.1 * ends[1], abs=2) and after[2] == pytest.approx(0.9 * ends[2], abs=2)
    heights = []
    for level in (19, 20, 21, 22):
        case.locator(f".go[data-level='{level}']").click()
        drawn(page)
        heights.append(int(case.locator(places[2]).input_value()))
    assert heights == sorted(heights, reverse=True) and len(set(heights)) == 4


def test_surfaces_are_drawn_and_turn(page: "Page") -> None:
    case = page.locator(".case").first
    canvases = case.locator(".space canvas")
    assert canvases.count() == 4
    first = [pixels(canvases.nth(n)) for n in range(4)]
    assert all((image[..., 3] > 0).mean() > 0.05 for image in first)
    case.locator("[data-turn=left]").click()
    drawn(page)
    turned = pixels(canvases.first)
    assert (turned != first[0]).mean() > 0.05
    canvases.first.focus()
    page.keyboard.press("ArrowLeft")
    drawn(page)
    assert (pixels(canvases.first) != turned).mean() > 0.01
    # From the left the front of the body is on the left: the processes behind stand on the right.
    shape = (turned[..., 3] > 0).sum(axis=0)
    wide = np.flatnonzero(shape)
    middle = (wide[0] + wide[-1]) // 2
    assert shape[: middle + 1].sum() > 1.3 * shape[middle:].sum()


def test_a_page_is_no_wider_than_a_phone_and_has_a_dark_side(browser: "Browser", html: Path) -> None:
    context = browser.new_context(offline=True, viewport={"width": 390, "height": 800}, color_scheme="dark")
    page = context.new_page()
    page.goto(html.as_uri())
    page.locator(".case[data-ready]").nth(1).wait_for(timeout=60_000)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    back = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(back)
    page.locator("#theme").click()
    assert page.evaluate(back) != dark == "rgb(20, 23, 27)"
    context.close()


def columns(numbers: tuple[int, ...], slices: int) -> Volume:
    """A block for each number, the first at the head, (slices, 24, 40)."""
    labels = np.zeros((slices, 24, 40), np.uint16)
    for row, number in enumerate(numbers):
        labels[:, 6:18, 28 - 12 * row : 36 - 12 * row] = number
    return Volume(labels, np.diag([3.0, 2.0, 2.0, 1.0]))


def test_numbers_are_no_levels_and_one_slice_is_a_case(
    browser: "Browser", world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C1 to C3 beside vertebrae that are numbered 1 to 3; in the second case on a single slice."""
    runs = world.runs

    def view(_: object, case: str, source: str) -> CaseView:
        truth = columns((1, 2, 3), 1 if case == "case1" else 8)
        hu = truth.with_array(np.where(truth.array > 0, 500, 0).astype(np.int16))
        maps = {runs["one_class"].name: truth, runs["good"].name: truth}
        named = {runs["one_class"].name: False, runs["good"].name: True}
        return CaseView(case, case, source, hu, truth, maps, named, simulated=True)

    scores = [
        CaseScore(case, "tiny", case, {run.name: 0.5 for run in (runs["one_class"], runs["good"])})
        for case in ("case0", "case1")
    ]
    monkeypatch.setattr("spineseg.reporting.html_cases.case_views", view)
    monkeypatch.setattr("spineseg.reporting.html.worst_cases", lambda *_: scores)
    write_html(world.report(runs=(runs["one_class"], runs["good"])), tmp_path / "report.html", worst=2)
    page = browser.new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto((tmp_path / "report.html").as_uri())
    page.locator(".case[data-ready]").nth(1).wait_for(timeout=60_000)
    for number in range(2):
        case = page.locator(".case").nth(number)
        space = case.locator(".space canvas")
        before = [int((pixels(space.nth(n))[..., 3] > 0).sum()) for n in range(3)]
        assert min(before) > 100
        case.locator(".level[data-level='2']").click()
        drawn(page)
        after = [int((pixels(space.nth(n))[..., 3] > 0).sum()) for n in range(3)]
        # The reference and the named model lose C2; vertebra 2 of the one-class model is no C2.
        assert after[0] < before[0] and after[1] == before[1] and after[2] < before[2]
    flat = page.locator(".case").nth(1).locator(".plane[data-plane=sagittal]")
    assert flat.locator("input").get_attribute("max") == "0"
    assert flat.locator("output").first.inner_text() == "1 of 1"
    assert all(tinted(pixels(flat.locator("canvas").nth(n))) > 100 for n in range(3))
    assert complaints == []
    page.close()


def test_a_damaged_case_says_so_and_the_next_one_is_shown(browser: "Browser", html: Path, tmp_path: Path) -> None:
    text = html.read_text(encoding="utf-8")
    broken = text.replace('id="case-1-data">{"shape":', 'id="case-1-data">{"shape":[1,', 1)
    assert broken != text
    (tmp_path / "broken.html").write_text(broken, encoding="utf-8")
    page = browser.new_page()
    page.goto((tmp_path / "broken.html").as_uri())
    page.locator(".case[data-ready]").wait_for(timeout=60_000)
    assert "cannot show" in page.locator(".status").first.inner_text()
    assert page.locator(".case >> nth=1 >> .viewer").is_visible()
    assert not page.locator(".case >> nth=0 >> .viewer").is_visible()
    page.close()
