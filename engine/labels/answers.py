"""Answers of interpreters: GeoJSON as the labelling page saves it, read and checked."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import shapely
from shapely.geometry import shape
from shapely.geometry.base import BaseGeometry

from engine.errors import LabelError, RecipeError
from engine.labels.agreement import Agreement, agree, settle
from engine.legend import parse_class

__all__ = [
    "DATA",
    "MEMBER",
    "Answer",
    "Answers",
    "Key",
    "Label",
    "alike",
    "labels_of",
    "read_answers",
    "read_page",
]

MEMBER = "natmap"
"""Member of the collection that tells the page, its city, and the ids of all its sites."""

DATA = "sites"
"""Id of the page's element that holds its sites as JSON."""

_MOST_BYTES = 200 << 20
_CRS84 = ("urn:ogc:def:crs:OGC:1.3:CRS84", "urn:ogc:def:crs:EPSG::4326", "EPSG:4326")
_NEAR = 1e-6  # degrees, a tenth of a metre


class Key(NamedTuple):
    """A site: the page that shows it, and its id there."""

    page: str
    id: str


@dataclass(frozen=True)
class Answer:
    """What an interpreter said of a site.

    Attributes
    ----------
    site : Key
    city : that the page is of.
    interpreter : name.
    lcz : 1 to 17.
    sure : False where the interpreter marked a doubt.
    geometry : polygon in degrees.
    """

    site: Key
    city: str
    interpreter: str
    lcz: int
    sure: bool
    geometry: BaseGeometry


class Label(NamedTuple):
    """A label that stands, of a site."""

    site: Key
    city: str
    lcz: int
    geometry: BaseGeometry


@dataclass(frozen=True)
class Answers:
    """Answers of all files.

    Attributes
    ----------
    answers : by page, site and interpreter.
    empty : features without a class, which are no answers.
    """

    answers: tuple[Answer, ...]
    empty: int

    @property
    def votes(self) -> dict[Key, dict[str, int]]:
        """Of each site the class by interpreter."""
        found: dict[Key, dict[str, int]] = {}
        for answer in self.answers:
            found.setdefault(answer.site, {})[answer.interpreter] = answer.lcz
        return found

    def agreement(self) -> Agreement:
        """How far interpreters agree."""
        return agree(self.votes)  # type: ignore[arg-type]  # a Mapping's keys are invariant


def labels_of(found: Answers, arbiter: str | None = None) -> tuple[list[Label], dict[Key, str]]:
    """The labels that stand, in order, and the sites in dispute with what was said.

    Parameters
    ----------
    found : from `read_answers`.
    arbiter : interpreter whose answers stand against all others.

    Raises
    ------
    LabelError
        Where the arbiter answered nothing.
    """
    names = {answer.interpreter for answer in found.answers}
    if arbiter is not None and arbiter not in names:
        raise LabelError("the arbiter answered nothing", got=arbiter, expected=", ".join(names))
    unsure: dict[Any, set[str]] = {}
    for answer in found.answers:
        if not answer.sure:
            unsure.setdefault(answer.site, set()).add(answer.interpreter)
    stands = settle(found.votes, unsure, arbiter)  # type: ignore[arg-type]
    where = {answer.site: answer for answer in found.answers}
    labels = [
        Label(site, where[site].city, code, where[site].geometry)
        for site, code in stands.lcz.items()
    ]
    return labels, stands.disputed


class _Sites(NamedTuple):
    """Of a page: its stamp and city, and its sites; their ground where the page itself is known."""

    page: str
    city: str
    ids: frozenset[str]
    ground: Mapping[str, BaseGeometry]


def read_page(path: str | Path) -> dict[str, Any]:
    """The data of a labelling page: ``page``, ``city``, and ``sites`` with ``id``, ``geometry``.

    Raises
    ------
    LabelError
        Where it is no such page.
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
        "it is no labelling page", got=Path(path).name, expected="HTML of `natmap label --out`"
    )


def read_answers(paths: Sequence[str | Path], pages: Sequence[str | Path] = ()) -> Answers:
    """Answers of one or more interpreters, of one or more pages.

    Parameters
    ----------
    paths : GeoJSON files that the page saved.
    pages : the pages themselves. With them the sites and their ground are the page's; without them
        the files' own list of ids is believed.

    Raises
    ------
    LabelError
        Where a file cannot be read or has no answer; where an answer has an unknown class, an id
        that is not its page's, no interpreter, another ground than the page, or is the second one
        of an interpreter for a site.
    """
    if not paths:
        raise LabelError("there is no file of answers", expected="GeoJSON that a page saved")
    known = {}
    for page in pages:
        data = read_page(page)
        ground = {str(site["id"]): shape(site["geometry"]) for site in data["sites"]}
        known[str(data["page"])] = _Sites(data["page"], data["city"], frozenset(ground), ground)
    found: dict[tuple[Key, str], tuple[Answer, str]] = {}
    empty = 0
    for path in map(Path, paths):
        answers, nothing = _read(path, known, bool(pages))
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


def _text(path: Path, what: str) -> str:
    if not path.is_file():
        raise LabelError(f"there is no such file: {what}", got=str(path))
    if path.stat().st_size > _MOST_BYTES:
        raise LabelError(f"the {what} is too large", got=f"{path.stat().st_size} bytes")
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise LabelError(f"the {what} cannot be read", got=f"{path.name}: {error}") from error


def _read(path: Path, known: Mapping[str, _Sites], given: bool) -> tuple[list[Answer], int]:
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
    if not answers:
        raise LabelError(
            f"{path.name} has no answer", got=f"{len(features)} features, none with a class"
        )
    return answers, empty


def _sites_of(
    values: Mapping[str, Any], told: Any, known: Mapping[str, _Sites], given: bool, name: str,
    number: int,
) -> _Sites:  # fmt: skip
    """The sites of the page that a feature says it is of."""
    page = values.get("page")
    if given:
        if page not in known:
            raise LabelError(
                f"feature {number} of {name} is of another page", got=page,
                expected=", ".join(known), remedy="give the page that was filled in: --page",
            )  # fmt: skip
        return known[str(page)]
    try:
        ids = frozenset(str(one) for one in told["ids"])
        own = _Sites(str(told["page"]), str(told["city"]), ids, {})
    except (KeyError, TypeError) as error:
        raise LabelError(
            f"{name} does not tell the sites of its page",
            got=f"no member {MEMBER} with page, city and ids",
            remedy="other software drops it: give the page itself, --page PAGE.html",
        ) from error
    if page != own.page:
        raise LabelError(f"feature {number} of {name} is of another page", got=page,
                         expected=own.page)  # fmt: skip
    return own


def _answer(values: Mapping[str, Any], ground: BaseGeometry, sites: _Sites, where: str) -> Answer:
    name = values.get("id")
    name = str(int(name)) if isinstance(name, float) and name.is_integer() else str(name)
    if name not in sites.ids:
        raise LabelError(
            f"{where} is no site of the page", got=name,
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
        raise LabelError(f"{where} is no valid polygon", got=ground.geom_type)
    page = sites.ground.get(name)
    if page is not None and not alike(page, ground):
        raise LabelError(f"{where} lies elsewhere than the page's site {name}",
                         remedy="the outline of a site is not to be changed")  # fmt: skip
    return Answer(Key(sites.page, name), sites.city, interpreter, lcz, bool(sure), page or ground)


def alike(one: BaseGeometry, other: BaseGeometry) -> bool:
    """Whether two outlines in degrees are the same, but for a tenth of a metre."""
    return bool(shapely.hausdorff_distance(one, other) <= _NEAR)


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
