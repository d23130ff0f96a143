"""The labelling page in a real browser, by keyboard alone: its answers come back as labels."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.answers import answer
from support.browser import DESK, PHONE, Browser
from support.town import SITES, build_town
from typer.testing import CliRunner

from engine.cli.app import app
from engine.datasets.labelling import Labelled, label
from engine.datasets.review import review
from engine.labels.answer_reading import read_answers, read_page
from engine.labels.training_areas import read_training_areas
from engine.legend import LCZ

KEYS = "1234567890ABCDEFG"


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_town(tmp_path_factory.mktemp("town"))


@pytest.fixture(scope="module")
def made(town: Path) -> Labelled:
    """The page; its recipe names images of 1 m itself."""
    return label(town.parent / "sites.geojson", town, town.parent / "page.html")


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    with Browser(tmp_path) as opened:
        yield opened


def state(browser: Browser) -> dict[str, Any]:
    """What the page shows: the site in focus, what each is said to be, and the line of the bar."""
    return dict(
        browser.script("""{
          here: document.activeElement.getAttribute("aria-label"),
          said: Object.fromEntries([...document.querySelectorAll(".site")].map(
            card => [card.getAttribute("aria-label").slice(5),
                     card.querySelector(".said").textContent])),
          told: document.getElementById("told").textContent,
          done: document.getElementById("done").value}""")
    )


def test_a_page_is_filled_in_by_keyboard_and_its_answers_become_labels(
    town: Path, made: Labelled, browser: Browser, tmp_path: Path
) -> None:
    order = [site["id"] for site in read_page(made.page)["sites"]]
    n = len(order)
    proposed = {name: one.lcz for name, one in made.proposals.items()}
    assert set(order[:3]) == {"estate", "halls", "under cloud"}  # in conflict
    assert proposed["halls"] is None
    browser.open(made.page)
    browser.press("s")
    assert state(browser)["told"] == "type your name, press Enter, then S"
    browser.type("Ada")
    browser.press("Enter")
    assert state(browser)["here"] == f"site {order[0]}"
    for key, zone in zip(KEYS, LCZ, strict=True):  # each answers, and can be given again
        browser.press(key.lower(), "k")
        said = state(browser)
        assert said["here"] == f"site {order[0]}"
        assert said["said"][order[0]] == f"{zone.label} {zone.title}"
        pressed = ".here [aria-pressed=true]"
        assert browser.script(f"document.querySelector('{pressed}').value") == str(zone.code)
    browser.press("x")
    assert state(browser)["said"][order[0]] == "no answer yet"
    browser.press("z")  # undone, twice
    assert state(browser)["said"][order[0]] == "G Water"
    browser.press("z")
    assert state(browser)["said"][order[0]] == "F Bare soil or sand"
    browser.script("""[...Array(3)].forEach(() => document.dispatchEvent(
        new KeyboardEvent("keydown", {key: "5", bubbles: true, repeat: true})))""")
    assert state(browser)["done"] == 1  # a key that is held down answers nothing
    # the true class of each; of the second with a doubt, the third is skipped and comes last
    truth = {name: code for name, (_, code) in SITES.items()}
    key_of = {name: KEYS[code - 1] for name, code in truth.items()}
    browser.press(key_of[order[0]], key_of[order[1]], "ArrowUp", "u", "j", "n")
    assert state(browser)["here"] == f"site {order[3]}"
    for name in order[3:]:
        browser.press("Enter" if proposed[name] == truth[name] else key_of[name])
    assert state(browser)["here"] == f"site {order[2]}"
    if proposed[order[2]] is None:
        browser.press("Enter")
        assert "no proposal here" in state(browser)["told"]
    browser.press(key_of[order[2]], "n")
    assert state(browser)["told"] == "every site has an answer: press S to save"
    browser.press("Shift+S")
    assert state(browser)["told"] == f"{n} of {n} answered, saved to Neustadt-Ada.geojson"
    file = browser.downloaded("Neustadt-Ada.geojson")

    found = {one.site.id: one for one in read_answers([file], [made.page]).answers}
    assert {name: one.lcz for name, one in found.items()} == truth
    assert [name for name in order if not found[name].sure] == [order[1]]
    assert {one.interpreter for one in found.values()} == {"Ada"}
    ours = json.loads(answer(made.page, tmp_path, "Ada", truth, [order[1]]).read_text())
    theirs = json.loads(file.read_text())
    for each in (*ours["features"], *theirs["features"]):
        each["properties"].pop("answered")
    assert theirs == ours  # what other tests write is what a browser saves
    labels = tmp_path / "labels.gpkg"
    result = CliRunner().invoke(
        app, ["label", str(file), "--page", str(made.page), "--to", str(labels)]
    )
    assert result.exit_code == 0, result.output
    assert "nobody is sure" in result.output
    known = sorted(code for name, code in truth.items() if name != order[1])
    assert sorted(area.lcz for area in read_training_areas(labels).areas) == known

    # closed and opened again: Ada goes on where she was, another begins
    browser.open(made.page)
    browser.press("Tab")
    browser.type("Ada")
    browser.press("Enter")
    assert state(browser)["done"] == n
    browser.open(made.page)
    browser.press("Tab")
    browser.type("Bo")
    browser.press("Enter")
    assert state(browser)["done"] == 0
    browser.press("s")
    assert state(browser)["told"] == "there is no answer to save"


def test_pages_are_readable_at_any_width(
    town: Path, made: Labelled, browser: Browser, tmp_path: Path
) -> None:
    """Nothing is wider than the window, no text is faint, and what has the focus is outlined."""
    answers = answer(made.page, tmp_path, "Ada", {name: code for name, (_, code) in SITES.items()})
    labels, areas = tmp_path / "labels.geojson", tmp_path / "areas.html"
    assert CliRunner().invoke(app, ["label", str(answers), "--to", str(labels)]).exit_code == 0
    review(labels, areas, recipe=town)
    for size in (DESK, PHONE):
        browser.resize(*size)
        for page in (areas, made.page):
            browser.open(page)
            assert browser.overflow() <= 0
            assert browser.faint() == []
        browser.press("2", "3", "u", "4")
        assert browser.faint() == []
        outline = "getComputedStyle(document.activeElement).outlineWidth"
        assert browser.script(outline) == "3px"
        assert browser.script("""(() => {
          const card = document.activeElement.getBoundingClientRect();
          const bar = document.getElementById("bar").getBoundingClientRect();
          return bar.bottom <= card.top && card.top < window.innerHeight / 2;
        })()""")  # the bar does not cover it
        outside = browser.script("""[...document.querySelectorAll("body *")].filter(one =>
          one.getBoundingClientRect().right > document.documentElement.clientWidth + 1).length""")
        assert outside == 0


def test_the_recipe_s_own_images_are_shown(made: Labelled) -> None:
    text = made.page.read_text()
    halls = text[text.index("aria-label='site halls'") :].partition("</section>")[0]
    assert halls.count("<image") == 3
    assert "1 m image<" in halls
    far = text[text.index("aria-label='site meadow'") :].partition("</section>")[0]
    assert "1 m image: none here" in far


def test_a_blind_page_tells_nothing_that_the_rule_thinks(town: Path, tmp_path: Path) -> None:
    blind = label(
        town.parent / "sites.geojson", town, tmp_path / "blind.html", blind=True
    ).page.read_text()
    for words in ("cannot decide", "not sure:", "proposed:", "compact from"):
        assert words not in blind.partition("<script")[0].partition("<div id=bar")[2]
    assert "but heights" in blind  # sources that contradict each other are no proposal
