"""Mutated recipes, model cards, KML, GeoJSON and GeoPackages; each kind with its oracle."""

from __future__ import annotations

import json
import random
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import geopandas
import shapely
import yaml
from pydantic import BaseModel

from engine.errors import LabelError, NatmapError
from engine.models.card import load_card
from engine.pipeline.templates import TEMPLATES
from engine.products.registry import load_recipe, load_training
from engine.recipes.propagating import load_propagation_recipe
from engine.vectors.read import read_vectors
from support.mutate import Place, at, flip, mutate

__all__ = ["KINDS", "check_file"]

_KML = "http://www.opengis.net/kml/2.2"
_SHIPPED = Path("engine/models/shipped/lcz-made-up/card.json")
_SQUARES = [shapely.box(11 + k, 48, 11.5 + k, 48.5) for k in range(4)]
_HOLE = shapely.box(20, 50, 21, 51) - shapely.box(20.2, 50.2, 20.8, 50.8)
_LOOSE = {"yes": True, "no": False, "true": True, "false": False, "on": True, "off": False}


def check_file(kind: str, seed: int, folder: Path) -> tuple[str, str | None]:
    """What a seed's mutation of a kind is, and what is wrong with its result."""
    return KINDS[kind](random.Random(f"{kind} {seed}"), folder)


# -- recipes and cards -------------------------------------------------------------------------


def _recipe(random_: random.Random, folder: Path) -> tuple[str, str | None]:
    name = random_.choice(sorted(set(TEMPLATES) - {"adapt"}))
    load: Callable[[Path], BaseModel] = load_training if "train" in name else load_recipe
    if name == "propagate":
        load = load_propagation_recipe
    path = folder / "recipe.yaml"
    text = TEMPLATES[name]
    if random_.random() < 0.2:
        path.write_bytes(flip(text.encode(), random_))
        return f"{name}: bytes", _tried(lambda: load(path))[1]
    mutated, place, what = mutate(yaml.safe_load(text), random_)
    said = f"{name} {'.'.join(map(str, place))}: {what}"
    try:
        path.write_text(yaml.safe_dump(mutated, allow_unicode=True), errors="surrogatepass")
    except (yaml.YAMLError, RecursionError, ValueError):
        return said, None  # no document at all
    found, wrong = _tried(lambda: load(path))
    return said, wrong or (_told(found, mutated, place) if found is not None else None)


def _card(random_: random.Random, folder: Path) -> tuple[str, str | None]:
    text = _SHIPPED.read_text()
    path = folder / "card.json"
    weights = folder / json.loads(text)["properties"]["natmap:card"]["weights"]
    weights.write_bytes((2).to_bytes(8, "little") + b"{}")
    if random_.random() < 0.2:
        path.write_bytes(flip(text.encode(), random_))
        return "bytes", _tried(lambda: load_card(path))[1]
    mutated, place, what = mutate(
        json.loads(text), random_, lambda place: place[:2] == ("properties", "natmap:card")
    )
    said = f"{'.'.join(map(str, place))}: {what}"
    path.write_text(json.dumps(mutated))
    found, wrong = _tried(lambda: load_card(path))
    if found is not None:
        _ = found.key, found.halo, found.block, found.legend  # what a plan asks of it
        if place[:2] == ("properties", "natmap:card"):
            wrong = wrong or _told(found, mutated["properties"]["natmap:card"], place[2:])
    return said, wrong


def _tried(load: Callable[[], Any]) -> tuple[Any, str | None]:
    """What was loaded, or what is wrong with how it was refused."""
    try:
        return load(), None
    except NatmapError as error:
        text = str(error)
        return None, None if 0 < len(text) < 20_000 else f"an error of {len(text)} letters"


def _told(found: Any, document: Any, place: Place) -> str | None:
    """Whether a model's field has the value that the document says."""
    value, got = at(document, place), found
    for key in place:
        if isinstance(got, BaseModel) and isinstance(key, str):
            got = getattr(got, key, None)
        elif (isinstance(got, Mapping) and key in got) or (
            isinstance(got, list | tuple) and isinstance(key, int) and key < len(got)
        ):
            got = got[key]
        else:
            return None
    if value is None:
        return None  # it is not there, or null: the field has its own default
    said = f"{value!a:.100} became {got!a:.100}"
    if isinstance(got, bool):
        word = _LOOSE.get(value.lower(), value) if isinstance(value, str) else value
        return None if word in (got, str(int(got))) else said
    if isinstance(got, int | float):
        if isinstance(value, str) and re.fullmatch(r"\s*[-+.eE\d]+\s*", value, re.ASCII):
            value = float(value)
        right = isinstance(value, int | float) and not isinstance(value, bool) and value == got
        return None if right else said
    if isinstance(got, str) and got != value:
        return said
    return None


# -- vectors -----------------------------------------------------------------------------------


def _geojson(random_: random.Random, folder: Path) -> tuple[str, str | None]:
    text = geopandas.GeoDataFrame(
        {"class": [1, 2, 3, 4, 5]}, geometry=[*_SQUARES, _HOLE], crs=4326
    ).to_json()
    path = folder / "areas.geojson"
    if random_.random() < 0.15:
        path.write_bytes(flip(text.encode(), random_))
        return "bytes", _read(path)[1]
    mutated, place, what = mutate(json.loads(text), random_)
    said = f"{'/'.join(map(str, place))}: {what}"
    try:
        path.write_text(json.dumps(mutated))
    except (ValueError, RecursionError):
        return said, None
    found, wrong = _read(path)
    if found is None or wrong:
        return said, wrong
    features = mutated.get("features")
    shapes = [_shape(f.get("geometry")) for f in features or [mutated]]
    return said, _same(shapes, *found)


def _shape(geometry: Any) -> Any:
    """What shapely makes of it, which others wrote; None where that is nothing, or no polygon."""
    try:
        made = shapely.force_2d(shapely.geometry.shape(geometry))
    except Exception:
        return None
    return made if "Polygon" in made.geom_type and not made.is_empty else None


def _kml(random_: random.Random, folder: Path) -> tuple[str, str | None]:
    def ring(coordinates: Any) -> str:
        places = " ".join(f"{x},{y},0" for x, y in coordinates)
        return f"<LinearRing><coordinates>{places}</coordinates></LinearRing>"

    marks = []
    for number, shape in enumerate([*_SQUARES, _HOLE]):
        inner = "".join(
            f"<innerBoundaryIs>{ring(hole.coords)}</innerBoundaryIs>" for hole in shape.interiors
        )
        outer = f"<outerBoundaryIs>{ring(shape.exterior.coords)}</outerBoundaryIs>"
        data = f'<ExtendedData><Data name="code"><value>{number}</value></Data></ExtendedData>'
        polygon = f"<Polygon>{outer}{inner}</Polygon>"
        marks.append(f"<Placemark><name>{number}</name>{data}{polygon}</Placemark>")
    folders = "".join(
        f"<Folder><name>{name}</name>{''.join(some)}</Folder>"
        for name, some in (("a", marks[:2]), ("b", marks[2:]))
    )
    text = f'<kml xmlns="{_KML}"><Document>{folders}</Document></kml>'
    path = folder / "areas.kml"
    if random_.random() < 0.2:
        path.write_bytes(flip(text.encode(), random_))
        return "bytes", _read(path)[1]
    tree = ElementTree.fromstring(text)
    said = _change(tree, random_)
    path.write_bytes(ElementTree.tostring(tree, "utf-8"))
    found, wrong = _read(path)
    if found is None or wrong or " became " in said:
        return said, wrong  # of names that KML does not have, what is a polygon nobody can say
    shapes = [_polygon(p) for p in tree.iterfind(f".//{{{_KML}}}Placemark//{{{_KML}}}Polygon")]
    return said, _same(shapes, *found)


def _change(tree: ElementTree.Element, random_: random.Random) -> str:
    """One change of an XML document."""
    parents = [(parent, child) for parent in tree.iter() for child in parent]
    rings = [pair for pair in parents if pair[1].tag.endswith("coordinates")]
    parent, child = random_.choice(rings if random_.random() < 0.6 else parents)
    name = child.tag.rpartition("}")[2]
    match random_.randrange(9):
        case 0:
            parent.remove(child)
            return f"{name} dropped"
        case 1:
            parent.append(child)
            return f"{name} doubled"
        case 2:
            child.tag = random_.choice([child.tag.upper(), name, f"{{{_KML}}}x", f"{{x}}{name}"])
            return f"{name} became {child.tag}"
        case 3:
            child.text = random_.choice(["", "x", "NaN", "1e308", "\u202e٣", "x" * 300_000])
            return f"{name} says {child.text!a:.40}"
        case 4:
            inner = child
            for _ in range(random_.choice([10, 190, 400])):
                inner = ElementTree.SubElement(inner, child.tag)
            return f"{name} nested"
        case _:
            return f"{name}: {_coordinates(child, random_)}"


def _coordinates(element: ElementTree.Element, random_: random.Random) -> str:
    changes: tuple[tuple[str, Callable[[list[str]], str]], ...] = (
        ("swapped", lambda p: f"{p[1]},{p[0]},0"),
        ("one number", lambda p: p[0]),
        ("blanks", lambda p: f"{p[0]} , {p[1]} , 0"),
        ("NaN", lambda p: f"nan,{p[1]}"),
        ("infinite", lambda p: f"{p[0]},inf"),
        ("comma", lambda p: f"{p[0].replace('.', ',')},{p[1]}"),
        ("underscore", lambda p: f"{p[0].replace('.', '_0.')},{p[1]}"),
        ("Arabic", lambda p: f"{p[0].translate(str.maketrans('0123456789', '٠١٢٣٤٥٦٧٨٩'))},{p[1]}"),
        ("far", lambda p: f"{p[0]}e5,{p[1]}"),
        ("turned", lambda p: f"{float(p[0]) + 360},{p[1]}"),
        ("same", lambda p: "11,48"),
        ("lines", lambda p: f"\r\n\t{p[0]},{p[1]},0\r\n"),
        ("words", lambda p: f"{p[0]}E,{p[1]}N"),
    )
    what, change = random_.choice(changes)
    pairs = [place.split(",") for place in (element.text or "").split()]
    if all(len(pair) >= 2 for pair in pairs):
        element.text = " ".join(change(pair) for pair in pairs)
    return what


def _polygon(element: ElementTree.Element) -> Any:
    """A polygon, read straight; None where it cannot be."""

    def rings(tag: str) -> list[Any]:
        found = element.iterfind(f"{{{_KML}}}{tag}/{{{_KML}}}LinearRing/{{{_KML}}}coordinates")
        return [
            [tuple(map(float, place.split(",")[:2])) for place in (each.text or "").split()]
            for each in found
        ]

    try:
        outer, inner = rings("outerBoundaryIs"), rings("innerBoundaryIs")
        return shapely.Polygon(outer[0], inner)
    except (ValueError, IndexError, shapely.errors.ShapelyError):
        return None


def _package(random_: random.Random, folder: Path) -> tuple[str, str | None]:
    kept, path = folder / "sound.gpkg", folder / "areas.gpkg"
    if not kept.exists():
        frame = geopandas.GeoDataFrame({"class": [1, 2, 3, 4]}, geometry=_SQUARES, crs=4326)
        frame.to_file(kept, layer="areas")
    shutil.copy(kept, path)
    path.write_bytes(flip(path.read_bytes(), random_))
    return "bytes", _read(path)[1]  # it has no checksums: what its values were, nobody can tell


def _read(path: Path) -> tuple[tuple[list[Any], list[str]] | None, str | None]:
    def read() -> tuple[list[Any], list[str]]:
        found = read_vectors(path, wanted=lambda name: True)
        return [p for _, parts in found.polygons(LabelError) for p in parts.polygons], found.notes

    return _tried(read)


def _same(want: list[Any], got: list[Any], notes: list[str]) -> str | None:
    """Whether polygons are those of the document, or a note says why not."""
    if any(shape is None for shape in want):
        # not each feature is a polygon to others: at least those that are
        want = [shape for shape in want if shape is not None]
        more = True
    else:
        more = False
    if any(not s.is_valid or s.bounds[2] - s.bounds[0] > 180 or s.area == 0 for s in want):
        return None  # repaired, or taken to cross 180 degrees
    one, other = sum(s.area for s in want), sum(s.area for s in got)
    if abs(one - other) <= 1e-9 * max(one, 1) or notes or (more and other > one):
        return None
    return f"polygons of {other} square degrees, and the document has {one}"


KINDS: dict[str, Callable[[random.Random, Path], tuple[str, str | None]]] = {
    "recipe": _recipe,
    "card": _card,
    "geojson": _geojson,
    "kml": _kml,
    "geopackage": _package,
}
