"""What is a version of what: the same ground at the same time, and nothing else."""

from __future__ import annotations

import itertools
import json
from datetime import datetime, timedelta
from typing import Any

import pytest
import shapely

from engine.catalog.versions import newest
from engine.items import Asset, Item

NOON = datetime.fromisoformat("2023-05-01T10:05:00+00:00")
TAKE = "GS2A_20230501T100031_041000_N05.09"
WHOLE, NORTH, SOUTH = (14, 46, 15, 47), (14, 46.5, 15, 47), (14, 46, 15, 46.6)


def item(name: str, box: tuple[float, ...] = WHOLE, **more: Any) -> Item:
    values: dict[str, Any] = {
        "id": name,
        "collection": "sentinel-2-l2a",
        "source": "own",
        "datetime": NOON,
        "bbox": box,
        "geometry": json.loads(shapely.to_geojson(shapely.box(*box))),
        "centroid_lon": 14.5,
        "stamp": name,
        "assets": {"B02": Asset("/x.tif")},
        "tile": "33TWM",
    }
    return Item(**values | more)


def kept(*items: Item) -> set[str]:
    """Ids of those that stay, which do not depend on the order."""
    answers = {frozenset(i.id for i in newest(order)[0]) for order in itertools.permutations(items)}
    [found] = answers
    assert newest(items)[1] == len(items) - len(found)
    return set(found)


SAME: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "strip": ({"strip": "20230501T100512"}, {"strip": "20230501T100512"}),
    "take": ({"datatake": TAKE}, {"datatake": TAKE.replace("05.09", "05.10")}),
    "strip of one": ({"datatake": TAKE, "strip": "20230501T100512"}, {"datatake": TAKE}),
    "id": ({}, {}),
}


@pytest.mark.parametrize("same", SAME)
def test_the_newest_baseline_wins(same: str) -> None:
    one, other = SAME[same]
    assert kept(
        item("S2A_33TWM_20230501_1_L2A", baseline="05.09", **one),
        item("S2A_33TWM_20230501_0_L2A", baseline="05.10", **other),
    ) == {"S2A_33TWM_20230501_0_L2A"}


APART: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "strips": ({"strip": "20230501T100026"}, {"strip": "20230501T100512"}),
    "strips of one take": (
        {"strip": "20230501T100026", "datatake": TAKE},
        {"strip": "20230501T100512", "datatake": TAKE},
    ),
    "takes": ({"datatake": TAKE}, {"datatake": "GS2A_20230501T101031_041001_N05.09"}),
    "satellites": ({"datatake": TAKE}, {"datatake": "GS2C_20230501T100031_000001_N05.09"}),
    "days": ({}, {"datetime": NOON + timedelta(days=1)}),
    "tiles": ({}, {"tile": "33TWN"}),
}


@pytest.mark.parametrize("apart", APART)
def test_what_is_not_one_acquisition_stays(apart: str) -> None:
    one, other = APART[apart]
    names = {"S2A_33TWM_20230501_0_L2A", "S2A_33TWM_20230501_1_L2A"}
    first, second = sorted(names)
    assert kept(item(first, **one), item(second, **other)) == names


@pytest.mark.parametrize("said", [{}, {"datatake": TAKE}])
def test_two_parts_of_a_tile_are_no_versions_and_each_has_its_own(said: dict[str, str]) -> None:
    """Without a datastrip only the footprints tell: both parts stay, each in its newest form."""
    assert kept(
        item("S2A_33TWM_20230501_0_L2A", NORTH, baseline="05.09", **said),
        item("S2A_33TWM_20230501_1_L2A", SOUTH, baseline="05.09", **said),
        item("S2A_33TWM_20230501_2_L2A", NORTH, baseline="05.10", **said),
    ) == {"S2A_33TWM_20230501_1_L2A", "S2A_33TWM_20230501_2_L2A"}
