"""The page of training areas: every area, its ground, and what is doubtful about it."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from engine.datasets.review import review
from engine.errors import LabelError
from engine.labels.training_areas import read_training_areas


class Cards(HTMLParser):
    """Counts what a browser would show."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.cards = self.pictures = self.outlines = 0
        self.sources: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.cards += values.get("class") == "card"
        self.outlines += tag == "path"
        if tag == "image":
            self.pictures += 1
            self.sources.append(str(values["href"]))


def test_every_area_is_shown_on_its_ground(reference: Path, tmp_path: Path) -> None:
    areas = reference / "truth" / "training-areas.geojson"
    shutil.copytree(reference / "truth", tmp_path / "truth")
    bare = shutil.copy(reference / "recipe.yaml", tmp_path)
    with pytest.raises(LabelError, match="no composite"):
        review(areas, tmp_path / "page.html", recipe=bare)
    # one area is said to be another class: it looks unlike those
    text = json.loads(areas.read_text())
    field = "lcz" if "lcz" in text["features"][0]["properties"] else "Class"
    codes = [str(feature["properties"][field]) for feature in text["features"]]
    common = max(set(codes), key=codes.count)
    wrong = next(k for k, code in enumerate(codes) if code in ("17", "G", "11", "A", "14", "D"))
    text["features"][wrong]["properties"][field] = common
    spoilt = tmp_path / "spoilt <areas>.geojson"
    spoilt.write_text(json.dumps(text))
    count, doubtful = review(spoilt, tmp_path / "page.html", recipe=reference / "recipe.yaml")
    found = read_training_areas(spoilt)
    assert count == len(found.areas)
    page = (tmp_path / "page.html").read_text()
    shown = Cards(page)
    assert shown.cards == count
    assert shown.outlines == 2 * count
    assert shown.pictures > 0.9 * count
    assert all(area.id in page for area in found.areas)
    assert (doubtful == page.count("<h2>To look at") and doubtful) or doubtful > 0
    assert "unlike its class" in page
    assert "<areas>" not in page  # what a file is called is text
    assert not re.search(r"<script|https?://", page)
    pixels = [
        matplotlib.image.imread(io.BytesIO(base64.b64decode(source.partition(",")[2])), "jpg")
        for source in shown.sources[:10]
    ]
    assert np.mean([p[..., :3].std() for p in pixels]) > 5  # ground, not plain colour


def test_without_a_recipe_there_are_outlines(reference: Path, tmp_path: Path) -> None:
    areas = reference / "truth" / "training-areas.geojson"
    count, _ = review(areas, tmp_path / "page.html")
    shown = Cards((tmp_path / "page.html").read_text())
    assert (shown.cards, shown.pictures) == (count, 0)
