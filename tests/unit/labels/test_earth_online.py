"""Answers from Collect Earth Online, as its sample data has them, and what is refused of them."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import shapely
from typer.testing import CliRunner

from engine.cli.app import app
from engine.errors import LabelError
from engine.labels.answer_reading import read_answers
from engine.labels.settling import settle_labels
from engine.labels.training_areas import read_training_areas
from engine.publishing.label_page import LabelCard, label_page

SITES = {"north": (9.0, 48.0), 'a, "b"': (9.1, 48.1), "3": (9.2, 48.2)}
QUESTION = "Local climate zone?"
# as dump-project-raw-data of collect-earth-online writes them, with a mark of UTF-8 before
HEAD = [
    "plotid", "sampleid", "sample_internal_id", "lon", "lat", "email", "flagged",
    "collection_time", "analysis_duration", "used_geodash", "used_kml", "imagery_title",
    "imagery_attributions", "sample_geom", "confidence", "confidence_comment", "pl_site",
    QUESTION, " Guest Interpreters",
]  # fmt: skip
Row = dict[str, str]


@pytest.fixture
def page(tmp_path: Path) -> Path:
    cards = []
    for name, (lon, lat) in SITES.items():
        ground = shapely.geometry.mapping(
            shapely.box(lon - 2e-3, lat - 2e-3, lon + 2e-3, lat + 2e-3)
        )
        cards.append(LabelCard(name, (lon, lat), ground, 2, 0.8, (2,), (), (), (), ()))
    path = tmp_path / "page.html"
    path.write_text(label_page("Neustadt", cards))
    return path


def row(site: str, email: str, answer: str, sample: int = 1, **more: str) -> Row:
    lon, lat = SITES[site]
    values = dict.fromkeys(HEAD, "") | {
        "plotid": str(list(SITES).index(site) + 1), "sampleid": str(sample), "lon": repr(lon),
        "lat": repr(lat), "email": email, "flagged": "false", "analysis_duration": "3.1 secs",
        "imagery_attributions": '{"date": "2023"}', "sample_geom": f"POINT({lon} {lat})",
        "pl_site": site, QUESTION: answer,
    }  # fmt: skip
    return values | more


def write(path: Path, rows: list[Row], head: list[str] = HEAD) -> Path:
    text = io.StringIO()
    table = csv.DictWriter(text, head, lineterminator="\n", extrasaction="ignore")
    table.writeheader()
    table.writerows(rows)
    path.write_text("\ufeff" + text.getvalue().rstrip("\n"), encoding="utf-8")
    return path


GOOD = [
    row("north", "ada@x", "2"), row("north", "ada@x", "Compact mid-rise", 2),
    row("a, \"b\"", "ada@x", "D Low plants"), row("3", "ada@x", "LCZ 10: Heavy industry"),
    row("north", "bo@x", "compact mid rise"),
    row("a, \"b\"", "bo@x", "LCZ B"), row("3", "bo@x", "Heavy industry", flagged="true"),
    row("3", "", ""),
]  # fmt: skip


def test_interpreters_and_their_answers_come_back(page: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "ceo.csv", GOOD)
    found = read_answers([file], [page])
    said = {(a.site.id, a.interpreter): (a.lcz, a.sure) for a in found.answers}
    assert said == {
        ("north", "ada@x"): (2, True), ("north", "bo@x"): (2, True),
        ("a, \"b\"", "ada@x"): (14, True), ("a, \"b\"", "bo@x"): (12, True),
        ("3", "ada@x"): (10, True), ("3", "bo@x"): (10, False),
    }  # fmt: skip
    assert found.empty == 1
    lon, lat = SITES["north"]
    (ground,) = {a.geometry.wkt for a in found.answers if a.site.id == "north"}
    assert shapely.from_wkt(ground).bounds == pytest.approx(
        (lon - 2e-3, lat - 2e-3, lon + 2e-3, lat + 2e-3)
    )
    settled = settle_labels([file], tmp_path / "areas.kml", pages=[page])
    assert settled.agreement.pairs["ada@x", "bo@x"][:2] == (3, pytest.approx(2 / 3))
    assert [site.id for site in settled.disputed] == ['a, "b"']
    assert [area.lcz for area in read_training_areas(tmp_path / "areas.kml").areas] == [2, 10]
    again = settle_labels([file], pages=[page], arbiter="bo@x")
    assert {label.site.id: label.lcz for label in again.labels}['a, "b"'] == 12


def test_a_survey_of_several_questions_names_the_one(page: Path, tmp_path: Path) -> None:
    head = [*HEAD[:-1], "Sure?", HEAD[-1]]
    file = write(tmp_path / "ceo.csv", [r | {"Sure?": "yes"} for r in GOOD], head)
    with pytest.raises(LabelError, match="not one question"):
        read_answers([file], [page])
    with pytest.raises(LabelError, match="no such question"):
        read_answers([file], [page], "LCZ")
    assert len(read_answers([file], [page], QUESTION.lower()).answers) == 6
    args = ["label", str(file), "--page", str(page), "--question", QUESTION]
    result = CliRunner().invoke(app, args)
    assert result.exit_code == 0, result.output
    assert "ada@x and bo@x agree on 67% of 3 sites" in result.output


def first(**more: str) -> Callable[[list[Row]], list[Row]]:
    return lambda rows: [rows[0] | more, *rows[1:]]


BAD: dict[str, tuple[Callable[[list[Row]], Any], str]] = {
    "an unknown answer": (first(**{QUESTION: "Urban"}), r"row 2 .*north.*unknown class"),
    "half a code": (first(**{QUESTION: "2.5"}), "unknown class"),
    "two zones at once": (first(**{QUESTION: "2 or 3"}), "unknown class"),
    "another site": (first(pl_site="south"), "not about a site of the page"),
    "a site elsewhere": (first(lon="10"), "lies elsewhere than site north"),
    "no place": (first(lon="east"), "lies at no place"),
    "NaN": (first(lon="nan"), "lies elsewhere|lies at no place"),
    "nobody": (first(email=" "), "who answered"),
    "guests": (first(**{" Guest Interpreters": '["ann" "bob"]'}), "cannot be told apart"),
    "a flag that is none": (first(flagged="maybe"), "whether it is flagged"),
    "samples that differ": (lambda r: [*r, row("north", "ada@x", "3", 3)], "contradict"),
    "no rows": (lambda r: [], "has no answer"),
    "no answers": (lambda r: [x | {QUESTION: ""} for x in r], "has no answer"),
}


@pytest.mark.parametrize("what", BAD)
def test_what_is_not_an_answer_is_refused(page: Path, tmp_path: Path, what: str) -> None:
    change, words = BAD[what]
    file = write(tmp_path / "ceo.csv", change(GOOD))
    with pytest.raises(LabelError, match=words):
        settle_labels([file], tmp_path / "out.kml", pages=[page])
    assert not (tmp_path / "out.kml").exists()


def test_other_files_are_refused(page: Path, tmp_path: Path) -> None:
    good = write(tmp_path / "ceo.csv", GOOD)
    with pytest.raises(LabelError, match="does not tell the outlines"):
        read_answers([good])
    with pytest.raises(LabelError, match="answered site north twice"):
        read_answers([good, write(tmp_path / "again.csv", GOOD)], [page])
    plots = [name for name in HEAD if name not in ("sampleid", "pl_site")]
    with pytest.raises(LabelError, match="lacks columns"):
        read_answers([write(tmp_path / "plots.csv", GOOD, plots)], [page])
    with pytest.raises(LabelError, match="two columns of one name"):
        read_answers([write(tmp_path / "two.csv", GOOD, [*HEAD, QUESTION])], [page])
    text = good.read_text("utf-8-sig")
    (tmp_path / "cut.csv").write_text(text[: text.index("secs") + 5])
    with pytest.raises(LabelError, match=r"row 2 .* is cut"):
        read_answers([tmp_path / "cut.csv"], [page])
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(LabelError, match="lacks columns"):
        read_answers([tmp_path / "empty.csv"], [page])
    (tmp_path / "odd.csv").write_text(text + '\n"a" b,c')
    with pytest.raises(LabelError, match="cannot be read"):
        read_answers([tmp_path / "odd.csv"], [page])
