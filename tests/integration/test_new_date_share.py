"""A date over a tenth of a country costs about a tenth of its own bytes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import shapely
import yaml
from services.faulty import PROGRAMS
from services.required import need
from support.benchmark import load
from support.noise import write_noise
from support.shared import workers

from engine.synthetic.country import AUTUMN, Country, to_degrees
from engine.synthetic.districts import World
from engine.synthetic.scene import CRS

pytestmark = pytest.mark.slow
new_date = load("new_date")

STRIP = Country(World(31), 17_600, 1_600, AUTUMN[:2])
"""A row of twenty tiles of 800 m lies in it: far longer than what looks for a new item, 5 km."""


def judge(found: dict[str, Any]) -> None:
    whole = found["full"]
    assert all(count >= whole["of"] for count in whole["tiles"].values())  # inputs with a halo
    assert 0 < found["bytes_share"] <= 0.12
    # tiles that the item may reach look for it; those that have a pixel of it run on
    share = found["tiles_share"]
    assert share["scores"] < share["scenes"] == share["composite"] < 0.5
    assert 0.1 <= share["map"] <= 0.2


def test_a_new_date_over_a_tenth_of_a_strip(tmp_path: Path) -> None:
    need(*PROGRAMS)
    dates = (*STRIP.overpasses, new_date.late(STRIP))
    write_noise(replace(STRIP, overpasses=dates), tmp_path / "scenes")
    new_date.copy_model(tmp_path, tile=80)
    left, bottom, right, _ = STRIP.bounds
    row = shapely.box(left + 800, bottom, right - 800, bottom + 800).buffer(-1, join_style="mitre")
    (tmp_path / "area.geojson").write_text(shapely.to_geojson(to_degrees(row, CRS)))
    recipe = {
        "name": "strip",
        "product": "lcz",
        "area": {"file": "area.geojson"},
        "grid": {"crs": CRS, "resolution": 10, "tile": 80},
        "imagery": {},
        "cube": {"composite": "median", "keep_scenes": True},
        "model": {"card": "./model"},
        "filter": {"method": "gaussian"},
        "store": "./store",
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    found = new_date.measure(tmp_path, STRIP, workers())
    assert found["full"]["of"] == 20
    judge(found)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_new_date_over_a_tenth_of_a_country(tmp_path: Path) -> None:
    need(*PROGRAMS)
    country = Country(World(31), 32_000, 32_000)
    new_date.make(tmp_path, country, tile=160)
    found = new_date.measure(tmp_path, country)
    assert found["full"]["of"] >= 400
    judge(found)
