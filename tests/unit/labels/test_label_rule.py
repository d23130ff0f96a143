"""The decision rule: each class of the published table, soft thresholds, what is not known."""

from __future__ import annotations

import dataclasses
import math

import pytest

from engine.errors import LabelError
from engine.labels.rule import Figures, conflicts, propose, undecided

# middles of the ranges of Stewart and Oke (2012, table 3): building, sealed, pervious, height,
# height over spacing
TABLE = {
    1: (0.50, 0.50, 0.05, 40.0, 2.0),
    2: (0.55, 0.40, 0.08, 17.0, 1.4),
    3: (0.55, 0.30, 0.15, 6.0, 1.1),
    4: (0.30, 0.35, 0.35, 40.0, 1.0),
    5: (0.30, 0.40, 0.30, 17.0, 0.5),
    6: (0.30, 0.30, 0.45, 6.0, 0.5),
    7: (0.75, 0.05, 0.15, 3.0, 1.5),
    8: (0.40, 0.48, 0.10, 6.0, 0.2),
    9: (0.15, 0.10, 0.70, 6.0, 0.17),
}


def site(code: int, **more: float) -> Figures:
    building, sealed, pervious, height, canyon = TABLE[code]
    return Figures(
        building=building, impervious=sealed, pervious=pervious, height=height,
        spacing=height / canyon, water=0.0, trees=0.1, scrub=0.0, bare=0.0, **more,
    )  # fmt: skip


@pytest.mark.parametrize("code", TABLE)
def test_the_middle_of_each_built_type_is_that_type(code: int) -> None:
    found = propose(site(code))
    assert found.lcz == code
    assert found.confidence > 0.5
    assert found.candidates[0] == code
    text = " ".join(found.reasons)
    assert f"{TABLE[code][0]:.0%}" in text
    assert f"{TABLE[code][3]:.1f} m high" in text


def test_industry_is_parted_by_a_map_of_it_or_by_bare_yards() -> None:
    assert propose(site(6, industry=0.6)).lcz == 10
    assert propose(site(6, industry=0.0)).lcz == 6
    yards = Figures(building=0.25, impervious=0.3, pervious=0.45, bare=0.4, height=9.0)
    assert propose(yards).lcz == 10


@pytest.mark.parametrize(
    ("code", "known"),
    [
        (11, {"trees": 0.8}),
        (12, {"trees": 0.3, "scrub": 0.0}),
        (13, {"trees": 0.05, "scrub": 0.7}),
        (14, {"trees": 0.02, "scrub": 0.0}),
        (15, {"impervious": 0.9, "trees": 0.0}),
        (16, {"impervious": 0.0, "bare": 0.9, "trees": 0.0}),
        (17, {"water": 0.95}),
    ],
)
def test_natural_types_are_parted_by_their_cover(code: int, known: dict[str, float]) -> None:
    base = {"building": 0.0, "impervious": 0.02, "bare": 0.02, "water": 0.0}
    assert propose(Figures(**(base | known))).lcz == code


def test_without_heights_no_level_is_claimed() -> None:
    blind = dataclasses.replace(site(2), height=None, spacing=None)
    found = propose(blind)
    assert found.lcz is None
    assert found.confidence < 0.7
    assert {2, 3} <= set(found.candidates)
    assert "heights are not known" in found.reasons


def test_ndvi_alone_says_green_and_not_which() -> None:
    found = propose(Figures(ndvi=0.8))
    assert found.lcz is None
    assert set(found.candidates) <= {11, 12, 13, 14}
    assert "cannot decide: it may be" in undecided(found)
    assert propose(Figures(ndvi=-0.3, ndwi=0.6)).lcz == 17
    assert propose(Figures()).lcz is None


def test_near_a_threshold_confidence_falls_and_both_sides_are_named() -> None:
    sure, torn = site(2), dataclasses.replace(site(2), height=10.0, spacing=7.0)
    assert propose(torn).confidence < propose(sure).confidence
    assert {2, 3} & set(propose(torn).candidates) == {2, 3}
    taller = [
        propose(dataclasses.replace(site(5), height=h)).lcz for h in (6.0, 9.0, 11.0, 23.0, 28.0)
    ]
    assert taller == [6, 6, 5, 5, 4]


def test_contradictions_are_told() -> None:
    def told(**more: float) -> str:
        f = dataclasses.replace(site(2), **more)
        return " / ".join((*conflicts(f), undecided(propose(f))))

    assert told() == ""
    assert "NDVI is 0.80" in told(ndvi=0.8)
    assert "water 60%" in told(water=0.6)
    assert "together cover 125%" in told(pervious=0.7)
    assert "differ widely" in told(spread=15.0)
    assert "only 30% of the ground" in told(known=0.3)


@pytest.mark.parametrize(
    ("name", "value"), [("building", 1.2), ("height", -3.0), ("ndvi", math.nan), ("water", -0.1)]
)
def test_impossible_figures_are_refused(name: str, value: float) -> None:
    with pytest.raises(LabelError, match=name):
        Figures(**{name: value})
