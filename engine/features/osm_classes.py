"""Which objects of OpenStreetMap are which ground: its tags of today, and those of past years.

Tags are those of the OSM wiki's pages of `natural`, `landuse`, `leisure`, `waterway`, `highway`
and `aeroway`. Deprecated ones stay in the table, because an extract of a past year has them.
Keys of what is gone (`abandoned:*`, `disused:*`, `was:*`) are other keys, and match nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["BUILT", "CLASSES", "LCZ_OF", "WATER", "classes_of", "width_of"]

WATER = "water"

CLASSES: Mapping[str, Mapping[str, str]] = {
    WATER: {
        "natural": "water bay strait lake",
        "water": "*",
        "landuse": "reservoir basin salt_pond pond",
        "waterway": "riverbank dock",
    },
    "wetland": {"natural": "wetland marsh", "wetland": "*"},
    "wood": {
        "natural": "wood forest",
        "landuse": "forest wood",
        "landcover": "trees",
        "wood": "*",
    },
    "orchard": {"landuse": "orchard"},
    "scrub": {"natural": "scrub heath fell shrubbery", "landuse": "vineyard scrub"},
    "grass": {
        "natural": "grassland",
        "landuse": "grass meadow village_green recreation_ground",
        "landcover": "grass",
        "leisure": "pitch",
    },
    "park": {"leisure": "park garden golf_course"},
    "farmland": {"landuse": "farmland farm field agricultural"},
    "rock": {"natural": "bare_rock rock scree shingle stone", "landuse": "quarry"},
    "bare": {
        "natural": "sand beach dune mud",
        "landuse": "construction landfill brownfield greenfield",
    },
    "paved": {"aeroway": "apron runway taxiway", "amenity": "parking"},
    "building": {"building": "*"},
    "road": {"highway": "*"},
}
"""Of each class, the values of each key, any that is not "no" where it says ``*``."""

LCZ_OF: Mapping[str, int] = {
    WATER: 17,
    "wetland": 14,
    "wood": 11,
    "orchard": 12,
    "scrub": 13,
    "grass": 14,
    "farmland": 14,
    "rock": 15,
    "paved": 15,
    "bare": 16,
}
"""The natural classes as local climate zones. A park may be any of A to D, and is none here."""

BUILT = ("building", "road")
"""Classes that say nothing of a local climate zone: heights are lacking."""

_LINES = ("highway", "aeroway")
"""Keys of ways that are lines, even where they end where they begin, unless they say area=yes."""

_WIDTHS: Mapping[str, float] = {
    "motorway": 12.0,
    "trunk": 10.0,
    "primary": 9.0,
    "secondary": 7.5,
    "tertiary": 6.5,
    "unclassified": 5.5,
    "residential": 5.5,
    "living_street": 5.0,
    "pedestrian": 5.0,
    "service": 4.0,
    "track": 3.0,
}
"""Metres of a carriageway whose width nobody has written: assumed, two lanes and what is paved
beside them. Paths and footways are left out."""

_LANE = 3.25  # metres
_MOST_LANES, _MOST_WIDTH = 12, 60.0


def classes_of(tags: Mapping[str, str], *, line: bool = False) -> tuple[str, ...]:
    """Classes of an area with these tags.

    Parameters
    ----------
    tags : of one object.
    line : whether it is a way, which a road or a runway may be as a line.
    """
    if _is_hidden(tags):
        return ()
    is_line = line and tags.get("area") != "yes"
    found = []
    for name, keys in CLASSES.items():
        for key, values in keys.items():
            text = tags.get(key)
            if text is None or (is_line and key in _LINES and text != "apron"):
                continue
            told = {part.strip() for part in text.split(";")} - {"no", ""}
            if told and (values == "*" or told & {*values.split()}):
                found.append(name)
                break
    if WATER in found and tags.get("intermittent") == "yes":
        found.remove(WATER)
    return tuple(found)


def width_of(tags: Mapping[str, str]) -> float | None:
    """Metres of a road that is a line; None of what is no carriageway."""
    kind = tags.get("highway", "").removesuffix("_link")
    if kind not in _WIDTHS or _is_hidden(tags) or tags.get("area") == "yes":
        return None
    told = _number(tags.get("width", "").removesuffix("m"))
    if told is not None and 1.0 <= told <= _MOST_WIDTH:
        return told
    lanes = _number(tags.get("lanes", ""))
    if lanes is not None and 1 <= lanes <= _MOST_LANES:
        return max(lanes * _LANE, _WIDTHS[kind])
    return _WIDTHS[kind]


def _number(text: str) -> float | None:
    try:
        return float(text.strip())
    except ValueError:
        return None


def _is_hidden(tags: Mapping[str, str]) -> bool:
    """Whether it lies where no image from above sees it."""
    return (
        tags.get("tunnel", "no") != "no"
        or tags.get("location") in ("underground", "indoor")
        or tags.get("indoor", "no") not in ("no", "")
        or tags.get("parking") in ("underground", "multi-storey", "rooftop")
        or ("building" in tags and tags.get("layer", "").startswith("-"))
    )
