"""Files of answers: GeoJSON as the labelling page saves it, and what Collect Earth Online gives."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import shapely
from shapely.geometry import shape
from shapely.geometry.base import BaseGeometry

from engine.errors import LabelError, RecipeError
from engine.labels.answers import Answer, Answers, Key, PageSites, alike
from engine.labels.earth_online import read_samples
from engine.legend import parse_class

__all__ = ["DATA", "MEMBER", "read_answers", "read_page"]

MEMBER = "natmap"
"""Member of the collection that tells the page, its city, and the ids of all its sites."""

DATA = "sites"
"""Id of the page's element that holds its sites as JSON."""

_MOST_BYTES = 200 << 20
_CRS84 = ("urn:ogc:def:crs:OGC:1.3:CRS84", "urn:ogc:def:crs:EPSG::4326", "EPSG:4326")


def read_page(path: str | Path) -> dict[str, Any]:
    """The data of a labelling page: ``page``, ``city``, and ``sites`` with ``id``, ``geometry``.

    Raises
    ------
    LabelError
        Where it is not such a page.
    """
    text = _text(Path(path), "page")
    found = re.search(rf'<script type="application/json" id="{DATA}">(.*?)</script>', text, re.S)
    try:
        data = json.loads(found[1]) if found else None
        if data is not None and data["page"] and data["city"] and data["sites"]:
            return dict(data)
    except (ValueError, KeyError, TypeError):
        pass
    raise LabelError(
        "that is not a labelling page", got=Path(path).name, expected="HTML of `natmap label --out`"
    )


def read_answers(
    paths: Sequence[str | Path], pages: Sequence[str | Path] = (), question: str | None = None
) -> Answers:
    """Answers of one or more interpreters, of one or more pages.

    Parameters
    ----------
    paths : GeoJSON files that the page saved, or CSV files with the sample data of Collect Earth
        Online, which need their page.
    pages : the pages themselves. With them the sites and their ground are the page's; without them
        the files' own list of ids is believed.
    question : of a survey of Collect Earth Online, that asks for the zone; by default its only one.

    Raises
    ------
    LabelError
        Where a file cannot be read or has no answer; where an answer has an unknown class, an id
        that is not its page's, no interpreter, another ground than the page, or is the second one
        of an interpreter for a site; and see `engine.labels.earth_online.read_samples`.
    """
    if not paths:
        raise LabelError("there is no file of answers", expected="GeoJSON that a page saved")
    if question is not None and not any(_is_table(Path(path)) for path in paths):
        raise LabelError("a question goes with a CSV of Collect Earth Online", got=question)
    known = {}
    for page in pages:
        data = read_page(page)
        ground = {str(site["id"]): shape(site["geometry"]) for site in data["sites"]}
        known[str(data["page"])] = PageSites(data["page"], data["city"], frozenset(ground), ground)
    found: dict[tuple[Key, str], tuple[Answer, str]] = {}
    empty = 0
    for path in map(Path, paths):
        answers, nothing = (
            _samples(path, known, question) if _is_table(path) else _read(path, known, bool(pages))
        )
        if not answers:
            raise LabelError(f"{path.name} has no answer", got=f"{nothing} without a class")
        empty += nothing
        for answer in answers:
            before = found.get((answer.site, answer.interpreter))
            if before is not None:
                raise LabelError(
                    f"{answer.interpreter} answered site {answer.site.id} twice",
                    got=f"LCZ {before[0].lcz} in {before[1]}, LCZ {answer.lcz} in {path.name}",
                    remedy="keep one of them",
                )
            found[answer.site, answer.interpreter] = answer, path.name
    _require_one_ground([answer for answer, _ in found.values()])
    order = sorted(found)
    return Answers(tuple(found[key][0] for key in order), empty)


def _is_table(path: Path) -> bool:
    return path.suffix.lower() == ".csv"


def _samples(
    path: Path, known: Mapping[str, PageSites], question: str | None
) -> tuple[list[Answer], int]:
    text = _text(path, "file of answers")
    if not known:
        raise LabelError(
            f"{path.name} does not tell the outlines of its sites",
            remedy="give the page that its plots were made with: --page PAGE.html",
        )
    return read_samples(text, path.name, list(known.values()), question)


def _text(path: Path, what: str) -> str:
    if not path.is_file():
        raise LabelError(f"there is no such file: {what}", got=str(path))
    if path.stat().st_size > _MOST_BYTES:
        raise LabelError(f"the {what} is too large", got=f"{path.stat().st_size} bytes")
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise LabelError(f"the {what} cannot be read", got=f"{path.name}: {error}") from error


def _read(path: Path, known: Mapping[str, PageSites], given: bool) -> tuple[list[Answer], int]:
    """Answers of a file, and how many features have none."""
    text = _text(path, "file of answers")
    try:
        document = json.loads(text)
        features = document["features"]
        fields = [dict(feature["properties"]) for feature in features]
        shapes = [shape(feature["geometry"]) for feature in features]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError,
            shapely.errors.ShapelyError) as error:  # fmt: skip
        raise LabelError(
            "the file of answers cannot be read",
            got=f"{path.name}: {type(error).__name__}: {str(error)[:100]}",
            expected="GeoJSON as the labelling page saves it",
        ) from error
    _require_degrees(document.get("crs"), shapes, path.name)
    told = document.get(MEMBER)
    answers, empty = [], 0
    for number, (values, ground) in enumerate(zip(fields, shapes, strict=True), 1):
        sites = _sites_of(values, told, known, given, path.name, number)
        if values.get("lcz") in (None, ""):
            empty += 1
            continue
        answers.append(_answer(values, ground, sites, f"feature {number} of {path.name}"))
    return answers, empty


def _sites_of(
    values: Mapping[str, Any], told: Any, known: Mapping[str, PageSites], given: bool, name: str,
    number: int,
) -> PageSites:  # fmt: skip
    """The sites of the page that a feature says it is of."""
    page = values.get("page")
    if given:
        if page not in known:
            raise LabelError(
                f"feature {number} of {name} belongs to another page", got=page,
                expected=", ".join(known), remedy="give the page that was filled in: --page",
            )  # fmt: skip
        return known[str(page)]
    try:
        ids = frozenset(str(one) for one in told["ids"])
        own = PageSites(str(told["page"]), str(told["city"]), ids, {})
    except (KeyError, TypeError) as error:
        raise LabelError(
            f"{name} does not tell the sites of its page",
            got=f"no member {MEMBER} with page, city and ids",
            remedy="other software drops it: give the page itself, --page PAGE.html",
        ) from error
    if page != own.page:
        raise LabelError(f"feature {number} of {name} belongs to another page", got=page,
                         expected=own.page)  # fmt: skip
    return own


def _answer(
    values: Mapping[str, Any], ground: BaseGeometry, sites: PageSites, where: str
) -> Answer:
    name = values.get("id")
    name = str(int(name)) if isinstance(name, float) and name.is_integer() else str(name)
    if name not in sites.ids:
        raise LabelError(
            f"{where} is not about a site of the page", got=name,
            expected=f"one of {len(sites.ids)} ids: {', '.join(sorted(sites.ids)[:5])} …",
        )  # fmt: skip
    interpreter = str(values.get("interpreter") or "").strip()
    if not interpreter:
        raise LabelError(f"{where} does not say who answered", expected="a field interpreter")
    try:
        lcz = parse_class(values["lcz"])
    except RecipeError as error:
        raise LabelError(
            f"{where}, site {name}, has an unknown class", got=repr(values["lcz"]),
            expected="1 to 17, A to G, or 101 to 107",
        ) from error  # fmt: skip
    sure = values.get("sure", True)
    if sure not in (True, False):  # 0 and 1 too, as other software writes them
        raise LabelError(f"{where} does not say whether it is sure", got=repr(sure),
                         expected="true or false")  # fmt: skip
    if ground.is_empty or ground.geom_type not in ("Polygon", "MultiPolygon") or (
        not ground.is_valid
    ):  # fmt: skip
        raise LabelError(f"{where} is not a valid polygon", got=ground.geom_type)
    page = sites.ground.get(name)
    if page is not None and not alike(page, ground):
        raise LabelError(f"{where} lies elsewhere than the page's site {name}",
                         remedy="the outline of a site is not to be changed")  # fmt: skip
    return Answer(Key(sites.page, name), sites.city, interpreter, lcz, bool(sure), page or ground)


def _require_degrees(told: Any, shapes: Sequence[BaseGeometry], name: str) -> None:
    if told is not None:
        try:
            crs = str(told["properties"]["name"])
        except (KeyError, TypeError):
            crs = str(told)
        if crs not in _CRS84:
            raise LabelError(f"{name} is not in degrees", got=crs[:80],
                             expected="longitude and latitude, WGS 84")  # fmt: skip
    for number, one in enumerate(shapes, 1):
        west, south, east, north = one.bounds if not one.is_empty else (0, 0, 0, 0)
        if not (-180 <= west <= east <= 180 and -90 <= south <= north <= 90):
            raise LabelError(f"feature {number} of {name} is not in degrees",
                             got=f"{west:g}, {south:g} to {east:g}, {north:g}")  # fmt: skip


def _require_one_ground(answers: Sequence[Answer]) -> None:
    first: dict[Key, Answer] = {}
    for answer in answers:
        other = first.setdefault(answer.site, answer)
        if not alike(other.geometry, answer.geometry):
            raise LabelError(
                f"site {answer.site.id} lies elsewhere for {answer.interpreter}",
                expected=f"as for {other.interpreter}",
                remedy="give the page itself: --page PAGE.html",
            )
