"""A static STAC catalogue of one's own images: links only, beside the folder, never in it."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import shapely
from rasterio._err import CPLE_BaseError  # of warps; it has no public name
from rasterio.enums import ColorInterp
from rasterio.warp import transform_bounds, transform_geom
from shapely.geometry import mapping

from engine.addresses import as_link
from engine.catalog.credits import LICENCE
from engine.catalog.described import RGB, forms_of, names_of, places_of, require_whole
from engine.errors import RecipeError, first_line
from engine.files import together
from engine.items import band_name
from engine.licences import stac_licence

__all__ = ["Ingested", "ingest"]

_SUFFIXES = (".tif", ".tiff", ".jp2", ".vrt")
_AT_ONCE = 8  # files
_STEP, _STEP_DEGREES = 10_000.0, 0.1  # metres; edges of a frame are no lines in degrees
_DATES = (re.compile(r"(20\d\d)-(\d\d)-(\d\d)"), re.compile(r"(?<!\d)(20\d\d)(\d\d)(\d\d)(?!\d)"))


@dataclass(frozen=True)
class Ingested:
    """What was written: the catalogue, its files, and what had to be assumed.

    `skipped` are files that could not be described, with the reason.
    """

    catalog: Path
    files: int
    notes: tuple[str, ...]
    skipped: tuple[str, ...] = ()


def ingest(
    folder: str | Path,
    out: str | Path | None = None,
    *,
    bands: Sequence[str] | None = None,
    when: str | None = None,
    scale: float | None = None,
    offset: float | None = None,
    nodata: float | None = None,
    skip: bool = False,
    title: str | None = None,
    licence: str | None = None,
    attribution: str | None = None,
    citation: str | None = None,
) -> Ingested:
    """Describe a folder of rasters as a STAC catalogue.

    Parameters
    ----------
    folder : with GeoTIFF, JPEG 2000 or VRT files; searched through.
    out : folder of the catalogue; by default ``FOLDER-stac`` beside it.
    bands : names of the files' bands; by default what the files say: names in any usual spelling,
        or colours of 8 bits, a fourth band beside red, green and blue being near infrared; or, for
        ten unnamed bands, the order of So2Sat. Alpha is no band.
    when : a date (2024-10-24), or a file name pattern such as ``*_{year}_*``; by default the date
        in the file's name or its time tag.
    scale, offset : reflectance = DN * scale + offset; by default those of each file, 1e-4 and 0
        where it has none.
    nodata : digital number without data; by default none is declared.
    skip : leave out files that cannot be described, and list them.
    title : of the catalogue.
    licence : under which the images may be used, an SPDX identifier or words; attribution : who is
        to be named; citation : how they are cited. Maps of them state it.

    Raises
    ------
    RecipeError
        Where files cannot be described, with all of them; nothing is written then.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise RecipeError("there is no such folder", got=folder)
    target = Path(out) if out is not None else folder.with_name(folder.name + "-stac")
    inside = target.resolve() == folder.resolve() or folder.resolve() in target.resolve().parents
    if inside:
        raise RecipeError(
            "the catalogue would be written into the folder of images",
            got=target,
            remedy="name a folder beside it with --out",
        )
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in _SUFFIXES)
    if not files:
        raise RecipeError("the folder holds no images", got=folder, expected=" ".join(_SUFFIXES))
    date_of = _dater(when)
    notes: list[str] = []
    names = tuple(band_name(b) for b in bands) if bands else None
    if names and len(set(names)) < len(names):
        raise RecipeError(
            "--bands names a band twice",
            got=", ".join(names),
            expected="each band of the files once",
        )

    def describe(path: Path) -> dict[str, Any] | RecipeError:
        try:
            return _describe(path, names, date_of, scale, offset, nodata, notes.append)
        except RecipeError as error:
            return error

    with ThreadPoolExecutor(max_workers=_AT_ONCE) as pool:  # thousands, maybe of a network's disk
        found = list(pool.map(describe, files))
    items = [item for item in found if isinstance(item, dict)]
    terms = _terms(licence, attribution, citation)
    for item in items:
        item["properties"] |= terms
    wrong = [error for error in found if isinstance(error, RecipeError)]
    if wrong and not (skip and items):
        more = (
            [f"{len(wrong) - 1} more of {len(files)} files, as {wrong[1].got}"] if wrong[1:] else []
        )
        raise RecipeError(
            wrong[0].what,
            got="; ".join([str(wrong[0].got), *more]),
            expected=wrong[0].expected,
            remedy=wrong[0].remedy or "leave it out, or say --skip",
        )
    twice = [name for name, n in Counter(item["id"] for item in items).items() if n > 1]
    if twice:
        raise RecipeError("two files have one name", got=", ".join(sorted(twice)[:5]))
    notes += _doubles(items)
    for item in items:
        for asset in item["assets"].values():
            asset["href"] = _link_from(target.resolve(), Path(asset["href"]))
    links = [
        {"rel": "item", "href": as_link(f"./{item['id']}.json"), "type": "application/json"}
        for item in items
    ]
    catalog = {
        "type": "Catalog",
        "stac_version": "1.1.0",
        "id": folder.name,
        **({"title": title} if title else {}),
        "description": f"Images of {folder.name}, described by natmap ingest",
        "links": links,
    }
    with together(target, mark="catalog.json") as part:
        for name, value in (*((item["id"], item) for item in items), ("catalog", catalog)):
            (part / f"{name}.json").write_text(json.dumps(value, indent=1), encoding="utf-8")
    skipped = tuple(f"{error.what}: {error.got}" for error in wrong)
    return Ingested(target / "catalog.json", len(items), tuple(sorted(set(notes))), skipped)


def _terms(
    licence: str | None, attribution: str | None, citation: str | None
) -> dict[str, str | list[dict[str, Any]]]:
    """What an item says of its terms, in the fields of STAC; nothing of what is not stated."""
    found: dict[str, str | list[dict[str, Any]]] = {}
    if licence:
        kind = stac_licence(licence) or "other"
        found["license"] = kind
        if kind == "other":
            found[LICENCE] = licence
    if attribution:
        found["providers"] = [{"name": attribution, "roles": ["producer", "licensor"]}]
    if citation:
        found["sci:citation"] = citation
    return found


def _link_from(folder: Path, path: Path) -> str:
    """A link to an image: relative where catalogue and images lie together, and may move so."""
    beside = folder.parent in path.parents
    return as_link(os.path.relpath(path, folder) if beside else str(path))


def _describe(
    path: Path,
    bands: tuple[str, ...] | None,
    date_of: Callable[[Path, dict[str, str]], date],
    scale: float | None,
    offset: float | None,
    nodata: float | None,
    note: Callable[[str], None],
) -> dict[str, Any]:
    try:
        with rasterio.open(path) as file:
            if file.crs is None or file.transform.is_identity:
                raise RecipeError(
                    "a file has no georeference",
                    got=path.name,
                    remedy="give it one (gdal_edit.py -a_srs … -a_ullr …), or leave it out",
                )
            if file.transform.b or file.transform.d:
                raise RecipeError("a file is rotated", got=path.name, expected="north-up")
            colours = file.colorinterp
            if colours[0] == ColorInterp.palette:
                raise RecipeError(
                    "a file's pixels are positions in a palette",
                    got=path.name,
                    remedy="write it as red, green and blue (gdal_translate -expand rgb)",
                )
            kind = file.dtypes[0]
            names = bands or names_of(path, file.descriptions, colours, kind, note)
            if kind != "uint8" and {*RGB} <= {*names} <= {*RGB, "B08"}:
                note("files of colours that have no 8 bits a band serve as imagery, not as images")
            places = places_of(colours, len(names))
            if places is None:
                raise RecipeError(
                    "the bands do not fit the file",
                    got=f"{len(names)} names for {file.count} bands of {path.name}",
                )
            own = (file.scales[0], file.offsets[0]) != (1.0, 0.0)
            if kind in ("uint8", "int8") and scale is None and not own:
                _require_colours(path, names)
            forms = forms_of(path, file, places, scale, offset, nodata, note)
            if np.dtype(kind).kind == "f" and scale is None:
                require_whole(path, file, nodata, places)
            crs, transform, size = file.crs, file.transform, (file.height, file.width)
            moment = date_of(path, file.tags())
    except rasterio.errors.RasterioError as error:
        raise RecipeError("a file cannot be read", got=f"{path.name}: {error}") from error
    west, south, east, north = rasterio.transform.array_bounds(*size, transform)
    try:
        step = _STEP_DEGREES if crs.is_geographic else _STEP / crs.linear_units_factor[1]
        frame = shapely.segmentize(shapely.box(west, south, east, north), step)
        geometry = transform_geom(crs, "EPSG:4326", mapping(frame))
        bbox = list(transform_bounds(crs, "EPSG:4326", west, south, east, north))
    except (CPLE_BaseError, rasterio.errors.RasterioError, rasterio.errors.CRSError) as error:
        raise RecipeError(
            "a file's frame cannot be placed on the globe",
            got=f"{path.name}: {first_line(error)[:120]}",
            expected="a CRS of the earth, not one of a site or a machine, and corners within it",
            remedy="give it its true CRS (gdal_edit.py -a_srs …), or leave it out",
        ) from error
    epsg = crs.to_epsg()
    if nodata is not None:
        forms = [{**form, "nodata": nodata} for form in forms]
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "id": path.stem,
        "collection": "ingested",
        "geometry": geometry,
        "bbox": bbox,
        "properties": {
            "datetime": f"{moment}T12:00:00Z",
            "proj:code": f"EPSG:{epsg}" if epsg else crs.to_wkt(),
            "proj:shape": list(size),
            "proj:transform": list(transform)[:6],
        },
        "links": [],
        "assets": {
            name: {
                "href": str(path.resolve()),
                "natmap:band": place,
                "bands": [{"name": name, **form}],
            }
            for place, name, form in zip(places, names, forms, strict=True)
        },
    }


def _require_colours(path: Path, names: Sequence[str]) -> None:
    """Refuse 8 bits that are no image: reflectance x 10000 has no room in them."""
    if not {*RGB} <= {*names} <= {*RGB, "B08"}:
        raise RecipeError(
            "a file's 8 bits are neither colours nor reflectance x 10000",
            got=f"{', '.join(names[:12])} of {path.name}",
            expected="16 bits, or red, green and blue of an image",
            remedy="say how its numbers become reflectance with --scale",
        )


def _doubles(items: Sequence[dict[str, Any]]) -> list[str]:
    """Files of one frame and day, of which only one shows."""
    groups: dict[str, list[str]] = {}
    for item in items:
        groups.setdefault(json.dumps(item["properties"], sort_keys=True), []).append(item["id"])
    doubles = [names for names in groups.values() if len(names) > 1]
    if not doubles:
        return []
    first = "; ".join(" and ".join(names[:3]) for names in doubles[:3])
    return [
        f"{sum(map(len, doubles))} files share frame and day with another ({first}"
        f"{'; …' if len(doubles) > 3 else ''}): where both have data, the order of the mosaic "
        "decides which one shows"
    ]


def _dater(when: str | None) -> Callable[[Path, dict[str, str]], date]:
    if when is not None and "{" not in when:
        try:
            fixed = date.fromisoformat(when)
        except ValueError as error:
            raise RecipeError(
                "--date is not a date", got=when, expected="2024-10-24, or a pattern with {year}"
            ) from error
        return lambda path, tags: fixed
    pattern = None
    if when is not None:
        text = re.escape(when).replace(r"\*", ".*")
        for part, digits in (("year", 4), ("month", 2), ("day", 2)):
            text = text.replace(rf"\{{{part}\}}", rf"(?P<{part}>\d{{{digits}}})")
        pattern = re.compile(text)

    def find(path: Path, tags: dict[str, str]) -> date:
        if pattern is not None:
            match = pattern.fullmatch(path.stem) or pattern.fullmatch(path.name)
            parts = match.groupdict() if match else {}
            found = (
                [(parts.get("year", 0), parts.get("month", 7), parts.get("day", 1))]
                if match
                else []
            )
        else:
            texts = path.stem, tags.get("TIFFTAG_DATETIME", "").replace(":", "-")
            found = [digits for text in texts for form in _DATES for digits in form.findall(text)]
        for digits in found:
            with suppress(ValueError):  # a tile's number may look like a date
                return date(*map(int, digits))
        raise RecipeError(
            "a file's date cannot be told",
            got=path.name,
            expected=f"the pattern {when}" if when else "a date in the name, as 2024-10-24",
            remedy="say it with --date, or give a pattern such as --date '*_{year}_*'",
        )

    return find
