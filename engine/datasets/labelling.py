"""The labelling workflow: sites with all that is known of their ground, as a page for people."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import shapely
from shapely.geometry.base import BaseGeometry

from engine.datasets.ground import City
from engine.datasets.label_ground import Measured, SiteGround, find_roles, index
from engine.datasets.pictures import NO_DATA, StoredImage
from engine.datasets.site_frames import Site, read_sites
from engine.datasets.stored_ground import StoredGround
from engine.errors import LabelError
from engine.files import write_whole
from engine.grid.area import reproject
from engine.labels.answer_reading import read_answers
from engine.labels.answers import Answers, alike, labels_of
from engine.labels.earth_online import write_plots
from engine.labels.rule import Figures, Proposal, conflicts, propose, undecided
from engine.legend import LCZ
from engine.products.registry import load_recipe
from engine.publishing.label_page import LabelCard, Shown, label_page
from engine.store.location import location_of

__all__ = ["PATCH", "Labelled", "label"]

PATCH = 320.0
"""Side of the square about a point that is labelled, in metres: a patch of 32 pixels of 10 m."""

_MARGIN, _NEAR = 240.0, 60.0  # metres about a site in its pictures of 10 m and of 1 m
_WIDEST = 1000  # pixels of 1 m that are read of a site
_MOST = 1500  # sites of a page, which a browser still opens
_WGS84 = "EPSG:4326"
_TOLD = 5  # sites that an error names
_APART = 1000.0  # metres: a lone shed on a meadow stands apart from nothing


@dataclass(frozen=True)
class Labelled:
    """What a page shows.

    Attributes
    ----------
    page : where it is.
    proposals : of the rule, by site, in the file's order.
    figures : of each site's ground.
    conflicts : of each site, one line each.
    notes : what the rule looked at.
    """

    page: Path
    proposals: dict[str, Proposal]
    figures: dict[str, Figures]
    conflicts: dict[str, tuple[str, ...]]
    notes: tuple[str, ...]


def label(
    sites: str | Path,
    recipe: str | Path,
    out: str | Path = "labels.html",
    *,
    images: str | Path | None = None,
    heights: str | None = None,
    use: Mapping[str, Sequence[str]] | None = None,
    answers: Sequence[str | Path] = (),
    pages: Sequence[str | Path] = (),
    question: str | None = None,
    blind: bool = False,
    plots: str | Path | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> Labelled:
    """Write a page on which people label sites, by keyboard and without a network.

    Parameters
    ----------
    sites : file of points or polygons. A point stands for the square of 320 m about it, which is
        what an answer labels; figures of a polygon smaller than that are those of such a square.
    recipe : map recipe whose stored composite and features show the ground.
    out : the page, HTML.
    images : recipe of 1 m images (product `ugs`, say), which are shown beside it; by default those
        that `recipe` itself names.
    heights : feature of buildings' heights; by default one of kind `heights` called so.
    use : bands of features by what they are the share of (`engine.datasets.label_ground.ROLES`);
        by default those whose channel is called so.
    answers : files of answers: then the page has only the sites in dispute, and shows what was
        said.
    pages, question : of these answers (`engine.labels.settling.settle_labels`).
    blind : without the rule's proposals.
    plots : CSV of the sites for Collect Earth Online, beside the page.
    tell : hears what the rule looks at.

    Raises
    ------
    NatmapError
        Before any picture is read: where sites, recipes, features or answers cannot be used, there
        is no composite, or a site lies beyond it.
    """
    path = Path(recipe)
    told = load_recipe(path)
    image = StoredImage(
        location_of(told.store, path.parent), f"natmap run {recipe} --until composite"
    )
    found = read_sites(Path(sites), image.crs)
    if len(found) > _MOST:
        raise LabelError("too many sites for a page", got=len(found), expected=f"up to {_MOST}",
                         remedy="split the file")  # fmt: skip
    stored = StoredGround(image.root)
    features: Sequence[Any] = getattr(told, "features", None) or ()
    if features and not stored.names:
        raise LabelError(
            f"the store of {told.name} lacks the recipe's features",
            got="no features",
            remedy=f"natmap run {recipe} --until composite",
        )
    roles = find_roles(features, stored.names, heights, use or {})
    photos = _images(path, told, images)
    outlines = {site.name: _outline(site, image.crs) for site in found}
    _require_within(found, outlines, image)
    said: dict[str, tuple[str, ...]] = {}
    if answers:
        places = {s.name: _degrees(s, outlines[s.name], image.crs) for s in found}
        said = _disputes(read_answers(answers, pages, question), places)
        found = [site for site in found if site.name in said]
        if not found:
            raise LabelError("no site is in dispute", got=", ".join(str(a) for a in answers))
    ground = SiteGround(image, roles)
    cards, proposals, figures, doubts = [], {}, {}, {}
    for site in found:
        measured = ground.measure(_measured_ground(outlines[site.name]))
        proposals[site.name] = propose(measured.figures)
        figures[site.name] = measured.figures
        doubts[site.name] = _doubts(measured)
        shown = _pictures(outlines[site.name], image, photos)
        card = _card(site, _degrees(site, outlines[site.name], image.crs), measured, shown)
        cards.append(
            replace(
                card,
                lcz=proposals[site.name].lcz,
                confidence=proposals[site.name].confidence,
                candidates=proposals[site.name].candidates,
                reasons=proposals[site.name].reasons,
                conflicts=doubts[site.name],
                said=said.get(site.name, ()),
                undecided=undecided(proposals[site.name]),
            )
        )
        doubts[site.name] += (cards[-1].undecided,) if cards[-1].undecided else ()
    notes = (*roles.notes, *_lacks(figures.values()))
    for note in notes:
        tell(note)
    write_whole(Path(out), label_page(told.name, cards, notes, blind=blind))
    if plots is not None:
        write_plots([card.id for card in cards], [card.place for card in cards], Path(plots))
    return Labelled(Path(out), proposals, figures, doubts, notes)


def _images(path: Path, told: Any, images: str | Path | None) -> City | None:
    """The 1 m images that are shown; None where no recipe names some."""
    bands = "B04", "B03", "B02"
    if images is not None:
        return City(Path(images), bands)
    if getattr(told, "images", None) is None:
        return None
    return City(path, bands, beside=True)


def _outline(site: Site, crs: str) -> BaseGeometry:
    """The ground that an answer labels, in the composite's CRS."""
    if site.ground.geom_type == "Point":
        x, y = site.xy
        half = PATCH / 2
        return shapely.box(x - half, y - half, x + half, y + half)
    if not site.ground.is_valid or site.ground.area == 0:
        raise LabelError(f"site {site.name} is not a valid polygon", remedy="mend its outline")
    return site.ground


def _measured_ground(outline: BaseGeometry) -> BaseGeometry:
    """The ground whose figures a site has: local climate zones are of hundreds of metres."""
    if outline.area >= PATCH**2:
        return outline
    middle, half = outline.centroid, PATCH / 2
    return shapely.box(middle.x - half, middle.y - half, middle.x + half, middle.y + half)


def _require_within(
    sites: Sequence[Site], outlines: Mapping[str, BaseGeometry], image: StoredImage
) -> None:
    whole = shapely.box(*image.bounds)
    beyond = [site.name for site in sites if not whole.contains(outlines[site.name])]
    if beyond:
        more = f" and {len(beyond) - _TOLD} more" if len(beyond) > _TOLD else ""
        raise LabelError(
            "sites lie beyond the map",
            got=f"{', '.join(beyond[:_TOLD])}{more}, of {len(sites)}",
            expected=f"within {', '.join(f'{v:.0f}' for v in image.bounds)} of {image.crs}",
            remedy="leave them out, or label them with a recipe that covers them",
        )


def _disputes(found: Answers, places: Mapping[str, BaseGeometry]) -> dict[str, tuple[str, ...]]:
    """What was said of the sites in dispute.

    Parameters
    ----------
    found : answers.
    places : what an answer labels of each site, in degrees.
    """
    _, disputed = labels_of(found)
    strange = sorted(
        {
            a.site.id
            for a in found.answers
            # sites of another city may have the same numbers
            if a.site.id not in places or not alike(places[a.site.id], a.geometry)
        }
    )
    if strange:
        raise LabelError(
            "the answers are about other sites than the file's", got=", ".join(strange[:5])
        )
    said: dict[str, list[str]] = {}
    for answer in found.answers:
        if answer.site in disputed:
            doubt = "" if answer.sure else ", not sure"
            words = f"{LCZ[answer.lcz - 1].label} by {answer.interpreter}{doubt}"
            said.setdefault(answer.site.id, []).append(words)
    return {name: tuple(lines) for name, lines in said.items()}


def _doubts(measured: Measured) -> tuple[str, ...]:
    said = (*measured.doubts, *conflicts(measured.figures))
    if measured.imagery == 0:
        return ("there is no imagery of the site", *said)
    if measured.imagery < 0.5:
        return (f"imagery covers only {measured.imagery:.0%} of the site", *said)
    return said


_NAMES = {
    "building": ("buildings", "%"), "height": ("mean height", "m"),
    "spread": ("spread of heights", "m"), "tallest": ("highest", "m"),
    "known": ("heights known", "%"), "spacing": ("spacing", "m"), "pervious": ("pervious", "%"),
    "impervious": ("sealed, open", "%"), "industry": ("industry", "%"), "trees": ("trees", "%"),
    "scrub": ("scrub", "%"), "low": ("low plants", "%"), "bare": ("bare", "%"),
    "rock": ("rock", "%"), "water": ("water", "%"), "ndvi": ("NDVI", ""), "ndwi": ("NDWI", ""),
}  # fmt: skip


def _card(
    site: Site, degrees: BaseGeometry, measured: Measured, shown: tuple[Shown, ...]
) -> LabelCard:
    """What is known of a site, without what the rule makes of it."""
    rows = []
    for name, (words, unit) in _NAMES.items():
        value = getattr(measured.figures, name)
        if value is not None and not (name == "spacing" and value > _APART):
            text = f"{value:.0%}" if unit == "%" else f"{value:.1f} m" if unit else f"{value:.2f}"
            rows.append((words, text))
    point = site.degrees
    if point.geom_type != "Point":
        point = point.representative_point()
    geometry = json.loads(shapely.to_geojson(degrees))
    place = float(point.x), float(point.y)
    return LabelCard(site.name, place, geometry, None, 0.0, (), (), (), tuple(rows), shown)


def _degrees(site: Site, outline: BaseGeometry, crs: str) -> BaseGeometry:
    if site.degrees.geom_type != "Point":
        return site.degrees
    return reproject(outline, crs, _WGS84)


def _pictures(outline: BaseGeometry, image: StoredImage, photos: City | None) -> tuple[Shown, ...]:
    """The composite, its NDVI, and the images of 1 m where there are some."""
    box = _frame(outline, _MARGIN)
    rings = _rings(outline, box)
    shown = [Shown("composite", image.picture(box), rings)]
    if {"B04", "B08"} <= set(image.names):
        shown.append(Shown("NDVI: brown -0.2 to green 0.9", _green(image, box), rings))
    if photos is not None:
        near = _frame(outline, _NEAR)
        if near[2] > _WIDEST:
            middle = outline.representative_point()
            near = middle.x - _WIDEST / 2, middle.y + _WIDEST / 2, float(_WIDEST)
        shown.append(_photo(outline, photos, near, image.crs))
    return tuple(shown)


def _frame(outline: BaseGeometry, margin: float) -> tuple[float, float, float]:
    """A square about a site: its western and northern edge, and its side."""
    west, south, east, north = outline.bounds
    side = max(east - west, north - south) + 2 * margin
    return (west + east - side) / 2, (south + north + side) / 2, side


def _rings(
    outline: BaseGeometry, box: tuple[float, float, float]
) -> tuple[npt.NDArray[np.float64], ...]:
    """Rings in a picture's frame, 0 to 1, y downward."""
    west, north, side = box
    return tuple(
        (np.array(ring.coords)[:, :2] - [west, north]) * [1 / side, -1 / side]
        for part in shapely.get_parts(outline)
        for ring in (part.exterior, *part.interiors)
    )


def _green(image: StoredImage, box: tuple[float, float, float]) -> npt.NDArray[np.uint8] | None:
    """NDVI from -0.2, brown, to 0.9, green; grey without data. None where all is without."""
    values = image.window(box, ("B08", "B04"))
    if values is None:
        return None
    ndvi = index(values[0], values[1])
    if np.isnan(ndvi).all():
        return None
    colours = mpl.colormaps["BrBG"](np.clip((np.nan_to_num(ndvi) + 0.2) / 1.1, 0, 1))[..., :3]
    colours[np.isnan(ndvi)] = NO_DATA / 255
    return np.asarray(255 * colours + 0.5, np.uint8)


def _photo(outline: BaseGeometry, photos: City, box: tuple[float, float, float], crs: str) -> Shown:
    """A window of the images of 1 m, on their own grid."""
    if photos.grid.crs != crs:
        middle = reproject(shapely.Point(box[0] + box[2] / 2, box[1] - box[2] / 2), crs,
                           photos.grid.crs)  # fmt: skip
        outline = reproject(outline, crs, photos.grid.crs)
        box = middle.x - box[2] / 2, middle.y + box[2] / 2, box[2]
    x0, y0 = photos.grid.anchor
    col, row, side = round(box[0] - x0), round(y0 - box[1]), round(box[2])
    found = photos.read((row, col), side)
    near = (x0 + col, y0 - row, float(side))
    picture = None
    if found.valid.any():
        picture = np.moveaxis(np.where(found.valid, found.bands, NO_DATA), 0, -1).astype(np.uint8)
    return Shown("1 m image", picture, _rings(outline, near))


def _lacks(figures: Iterable[Figures]) -> list[str]:
    """What the rule did without at every site."""
    every = list(figures)
    words = {
        "height": "heights of buildings", "building": "shares of buildings",
        "pervious": "pervious cover", "industry": "industry", "trees": "trees", "ndvi": "NDVI",
    }  # fmt: skip
    lacks = [
        text for name, text in words.items() if all(getattr(one, name) is None for one in every)
    ]
    return [f"not known of any site: {', '.join(lacks)}"] if lacks else []
