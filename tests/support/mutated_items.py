"""Mutated items beside untouched ones, through search, normal form and snapshot; and an oracle.

The oracle is of two parts. A field may change what depends on it, and nothing else (`_REACH`). And
what it changes must be what the mutated document says; else the item is left out, or has a note.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import shapely
from dateutil.parser import isoparse

from engine.catalog.search import SearchResult, find_source, search
from engine.catalog.snapshot import read_snapshot, write_snapshot
from engine.errors import CatalogError
from engine.grid.area import Area
from engine.items import Item
from engine.recipes.sections import Imagery
from support.mutate import Place, at, mutate

__all__ = ["Items"]

_EARTH = Area(shapely.box(-180, -90, 180, 90), "EPSG:4326")
_BAND = "B04"
_ALL = "."
"""Everything: what tells the source of an item decides how all of it is read."""

_REACH = (
    (r"id", r"id|tile|notes|baseline|datatake"),
    (r"collection", _ALL),
    (r"links(/.*)?", r"link|source|licence|assets/.*"),
    (r"properties/providers(/.*)?", r"source|licence|assets/.*"),
    (r"(type|stac_version|stac_extensions|bbox)(/.*)?", r"$."),
    (r"geometry(/.*)?", r"geometry|bbox|centroid_lon|notes|assets/\w+/(crs|transform|shape)"),
    (r"properties/(datetime|start_datetime|end_datetime)", r"datetime|end"),
    (r"properties/eo:cloud_cover", r"cloud_cover|notes"),
    (r"properties/view:off_nadir", r"off_nadir|notes"),
    (r"properties/license", r"licence|notes"),
    (r"properties/proj:.*", r"notes|assets/\w+/(crs|transform|shape)"),
    (r"properties/.*(baseline|processing:version)", r"baseline|stamp|notes|assets/\w+/offset"),
    (r"properties/.*boa_offset_applied", r"notes|assets/\w+/offset|source|licence|stamp"),
    (r"properties/.*:product_(uri|id)", r"stamp|notes|baseline|assets/\w+/offset"),
    (r"properties/(grid:code|s2:mgrs_tile|(mgrs|sentinel):.*)", r"tile|stamp|notes"),
    (r"properties/.*data(strip|take).*", r"strip|datatake|notes"),
    (r"properties/(.*:product_type|.*generation_time|processing:.*)", r"stamp|notes"),
    (r"properties/(platform|constellation|instruments)(/.*)?", r"stamp|notes|assets/.*"),
    (r"assets/.*", r"stamp|notes|assets/.*|source|licence"),
    (r"properties|assets", _ALL),
)
"""What a change of a field of a document may change of the normal form; of others, nothing."""

_LIKELY = re.compile(
    r"(id|collection|geometry.*|properties|bbox"
    r"|properties/(datetime|.*cloud_cover|view:.*|license|proj:.*|.*baseline|.*offset.*|grid:.*"
    r"|s2:(data|mgrs|product).*|mgrs:.*|sentinel:.*|platform|constellation|instruments.*)"
    r"|assets|assets/(blue|red|scl|B02|B04|SCL)(/(href|raster:bands|eo:bands|bands|proj:|file:).*)?)"
)


_ASKED = re.compile(
    r"geometry.*|properties(/(datetime|start_datetime|end_datetime|eo:cloud_cover))?"
)
"""What search asks for: an item may be passed over for it without a word."""


class Items:
    """Cases of three items, each with one change, beside two others.

    Parameters
    ----------
    data : folder of the real test data.
    """

    def __init__(self, data: Path) -> None:
        paths = [*data.glob("stac-items/*.json"), *data.glob("sentinel2-maribor/**/*.json")]
        found: dict[str, dict[str, Any]] = {}
        for path in sorted(paths):
            document = json.loads(path.read_text())
            for item in document.get("features", [document]):
                if item.get("type") == "Feature" and "L1C" not in str(item["id"]):
                    found.setdefault(str(item["id"]), item)
        self.items = list(found.values())
        self._forms: dict[str, dict[str, Any]] = {}

    def check(self, seed: int, folder: Path) -> tuple[str, str | None]:
        """What a seed's mutations are, and what is wrong with their result; None: nothing is."""
        random_ = random.Random(seed)
        *untouched, first, second, third = random_.sample(self.items, 5)
        cases = [(item, *mutate(item, random_, _likely)) for item in (first, second, third)]
        name = "; ".join(f"{item['id']} {_text(at)}: {what}" for item, _, at, what in cases)
        for item in (*untouched, first, second, third):
            if item["id"] not in self._forms:
                self._forms[item["id"]] = _forms(_find(folder, item))[item["id"]]
        cases = [case for case in cases if _is_json(case[1])]
        try:
            found = _find(folder, untouched[0], *(case[1] for case in cases), untouched[1])
        except CatalogError as error:
            return name, f"the whole search was refused: {error}"
        forms = _forms(found)
        for item in untouched:
            if forms.get(item["id"]) != self._forms[item["id"]]:
                return name, f"{item['id']} came out differently: {found}"
        snapshot = folder / "items.parquet"
        write_snapshot(found.items, snapshot)
        if _forms_of(read_snapshot(snapshot)) != forms:
            return name, "the snapshot gave back other items"
        gone = 0
        for item, mutated, place, _ in cases:
            form = forms.get(str(mutated.get("id", "without id")))
            if form is not None:
                wrong = self._wrong(item, mutated, place, form)
                if wrong:
                    return name, f"{item['id']}: {wrong}"
            gone += form is None and not _ASKED.fullmatch(_text(place))
        if gone > len(found.left_out):
            return name, f"{gone} are gone, and there are fewer reasons: {found.left_out}"
        return name, None

    def _wrong(self, item: Any, mutated: Any, place: Place, form: dict[str, Any]) -> str | None:
        said, sound = _text(place), self._forms[item["id"]]
        one, other = _flat(form), _flat(sound)
        changed = {
            key for key in one.keys() | other.keys() if one.get(key, _ALL) != other.get(key, _ALL)
        }
        reach = next((r for p, r in _REACH if re.fullmatch(p, said)), None)
        if reach != _ALL:
            beyond = {key for key in changed if not re.fullmatch(reach or r"$.", key)}
            if beyond:
                return f"it changed {sorted(beyond)} as well: {_of(form, beyond)}"
        return _meaning(mutated, said, place, form, sound)


def _meaning(
    mutated: Any, said: str, place: Place, form: dict[str, Any], sound: dict[str, Any]
) -> str | None:
    """Whether values that were taken over are those that the document says."""
    value = at(mutated, place)
    noted = form["notes"] != sound["notes"]
    got: Any
    if said == "properties/datetime" and isinstance(value, str) and value.strip():
        got = form["datetime"]
        try:
            moment = isoparse(re.sub(r"(:\d\d):60(?!\d)", r"\1:59", value))  # a leap second
        except ValueError:
            return f"{value!a} became {got}"
        same = isoparse(got).replace(tzinfo=None) == (
            moment.replace(tzinfo=None) - (moment.utcoffset() or moment - moment)
        )
        return None if same else f"{value!a} became {got}"
    if said in ("properties/eo:cloud_cover", "properties/view:off_nadir"):
        got, top = form[said.partition(":")[2]], 100 if "cloud" in said else 180
        if value is None or noted:
            return None
        sound_value = _number(value)
        well = sound_value is not None and sound_value == got and 0 <= abs(got) <= top
        return None if well and (got >= 0 or top == 180) else f"{value!a} became {got}"
    if said.endswith("boa_offset_applied") and not (isinstance(value, bool) or value is None):
        return None if noted else f"{value!a} was taken for true or false"
    if re.fullmatch(r"properties/(s2|sentinel):processing_baseline", said) and value is not None:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        text = f"{value:05.2f}" if number and value >= 0.01 else str(value).strip()
        digits = re.fullmatch(r"N?(\d{1,2})\.?(\d{2})", text)
        products = [v for k, v in mutated["properties"].items() if "product" in k]
        named = digits or re.search(r"_N(\d\d)(\d\d)_", f"{products}")  # where it is none itself
        told = named and f"{int(named[1]):02}.{named[2]}"
        return None if form["baseline"] == told else f"{value!a} became {form['baseline']}"
    one = re.fullmatch(
        r"assets/([^/]+)/(raster:bands|bands)/0/(raster:)?(scale|offset|nodata)", said
    )
    if one and value is not None:
        return _number_of_a_band(mutated["assets"][one[1]], one[4], value, form)
    if re.fullmatch(r"assets/[^/]+/(raster:bands|bands)(/0)?", said) and not noted:
        kind = dict if said.endswith("/0") else list
        known = _key_of(mutated["assets"][place[1]], form)
        if known and value is not None and not isinstance(value, kind):
            return f"what is not a list of bands was passed over: {value!a:.100}"
    if said.startswith("geometry/coordinates") or said == "geometry":
        return _same_ground(mutated["geometry"], form)
    return None


def _number_of_a_band(asset: Any, name: str, value: Any, form: dict[str, Any]) -> str | None:
    band = _key_of(asset, form)
    number = _number(value)
    if band is None or (name == "offset" and form["source"] != "own"):
        return None  # no band of it is used, or the source's policy decides
    if band == "SCL" and name != "nodata":
        return None
    got = form["assets"][band][name]
    same = number == got or str(number) == str(got)  # NaN
    return None if same else f"{name} {value!a} became {got}"


def _key_of(asset: Any, form: dict[str, Any]) -> str | None:
    """The band that is read from an asset."""
    # one band may have files of one name in the folders of several resolutions
    end = str(asset.get("href", "")).removeprefix("./") if isinstance(asset, Mapping) else ""
    found = [band for band, made in form["assets"].items() if end and made["href"].endswith(end)]
    return found[0] if len(found) == 1 else None


def _number(value: Any) -> float | None:
    """A number as JSON or as people write it; True is none, nor is 1_000."""
    if isinstance(value, str):
        plain = re.fullmatch(
            r"\s*[-+]?(\d+\.?\d*([eE][-+]?\d+)?|nan|inf|infinity)\s*", value.lower(), re.A
        )
        return float(value) if plain else None
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def _same_ground(geometry: Any, form: dict[str, Any]) -> str | None:
    """A footprint within -180 and 180 is the one that the document has."""
    got = shapely.geometry.shape(form["geometry"])
    try:
        want = shapely.force_2d(shapely.geometry.shape(geometry))
    except Exception as error:
        return f"a footprint of {geometry!a:.200}, which shapely does not read: {error}"
    west, _, east, _ = want.bounds
    if not want.is_valid or west < -180 or east > 180 or east - west > 90:
        return None  # repaired, or folded
    off = got.symmetric_difference(want).area
    return (
        None if off <= 1e-9 * max(want.area, 1e-12) else f"a footprint off by {off} square degrees"
    )


def _find(folder: Path, *items: Any) -> SearchResult:
    path = folder / "catalog.json"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": list(items)}))
    wanted = Imagery.model_validate({"catalog": str(path), "period": "1900-01-02/2200-12-30"})
    return search(*find_source(wanted), _EARTH, wanted, [_BAND])


def _forms(found: SearchResult) -> dict[str, dict[str, Any]]:
    return _forms_of(found.items)


def _forms_of(items: tuple[Item, ...]) -> dict[str, dict[str, Any]]:
    # as text, so that NaN equals NaN and 0.0 differs from -0.0
    return {
        item.id: json.loads(json.dumps(item.to_dict()), parse_constant=_constant) for item in items
    }


def _constant(text: str) -> str:
    return str(float(text))


def _is_json(value: Any) -> bool:
    try:
        json.loads(json.dumps(value))
    except (ValueError, RecursionError):
        return False
    return True


def _likely(place: Place) -> bool:
    return bool(_LIKELY.fullmatch(_text(place)))


def _text(place: Place) -> str:
    return "/".join(map(str, place))


def _flat(form: dict[str, Any]) -> dict[str, Any]:
    found = {key: value for key, value in form.items() if key != "assets"}
    for band, asset in form["assets"].items():
        found |= {f"assets/{band}/{key}": value for key, value in asset.items()}
    return found


def _of(form: dict[str, Any], keys: set[str]) -> str:
    return str({key: _flat(form).get(key) for key in sorted(keys)})[:300]
