"""What an asset's numbers are: band, scale, offset, nodata; docs/assets.md says who is believed."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from engine.catalog.cards import SourceCard
from engine.catalog.names import understand
from engine.errors import ItemError
from engine.items import BANDS

__all__ = [
    "Found",
    "baseline_of",
    "find_asset",
    "form_of",
    "is_stated",
    "number_of",
    "offset_of",
]

Found = tuple[Mapping[str, Any], int]
"""An asset, and the position of a band in its lists of bands and in its file, from 1."""

_FLAGS = ("earthsearch:boa_offset_applied", "sentinel:boa_offset_applied")
_BASELINES = ("s2:processing_baseline", "sentinel:processing_baseline", "processing:version")
_URIS = ("s2:product_uri", "sentinel:product_id", "s2:datatake_id", "s2:datatake-id")
_LEAST_BASELINE = 0.01  # of numbers; 0 and below are none
_SHIFT = -0.1  # BOA_ADD_OFFSET of baseline 04.00 and later, as reflectance
_LISTS = ("bands", "eo:bands")
_PICTURE = re.compile(
    r"visual|(?<![a-z])tci|true.?colou?r|thumbnail|overview|preview|quicklook|browse|render"
)
"""In the key of what is a picture, whatever its roles: taken where no other asset has a band."""
_NUMBER = re.compile(
    r"\s*([-+]?\d*\.?\d+([eE][-+]?\d+)?|[-+]?\d+\.|[-+]?(nan|inf(inity)?))\s*", re.A | re.I
)


def find_asset(
    assets: Mapping[str, Any],
    band: str,
    card: SourceCard,
    numbers: Mapping[str, str] | None,
) -> Found | None:
    """The asset that holds a band: by the card's key, by its own key, or by the names in it.

    Parameters
    ----------
    assets : the item's.
    band : B-name or SCL.
    card : SourceCard
    numbers : what numbers mean in this item, from `engine.catalog.names.numbering_of`.
    """
    usable = {
        str(key): asset
        for key, asset in assets.items()
        if isinstance(asset, Mapping) and isinstance(asset.get("href"), str) and asset["href"]
    }
    key = card.assets.get(band)
    # a shipped card knows its catalogue; the keys of one's own are names like others
    if key in usable and (card.name != "own" or understand(key, numbers) == band):
        return usable[key], _position(usable[key], band, card, numbers)
    for own in (band, BANDS.get(band, "scl"), band.lower()):
        if own in usable and understand(own, numbers) == band:
            return usable[own], _position(usable[own], band, card, numbers)
    data = {name: asset for name, asset in usable.items() if _is_data(asset)}
    plain = {name: asset for name, asset in data.items() if not _PICTURE.search(name.lower())}
    if any(_has_bands(name, asset, numbers) for name, asset in plain.items()):
        data = plain
    spelt = [(name, asset) for name, asset in data.items() if understand(name, numbers) == band]
    inner = [asset for asset in data.values() if _named(asset, band, numbers) is not None]
    for asset in (*(asset for _, asset in sorted(spelt, key=_coarseness)), *inner):
        return asset, _position(asset, band, card, numbers)
    return None


def _has_bands(name: str, asset: Mapping[str, Any], numbers: Mapping[str, str] | None) -> bool:
    return understand(name, numbers) in BANDS or any(_named(asset, b, numbers) for b in BANDS)


def _coarseness(entry: tuple[str, Mapping[str, Any]]) -> float:
    """Metres of a pixel by an asset's key or `gsd`: of copies of a band the finest is taken."""
    key, asset = entry
    if match := re.search(r"(?<!\d)(\d{2})m$", key.lower()):
        return float(match[1])
    size = asset.get("gsd")
    return float(size) if isinstance(size, int | float) and size > 0 else math.inf


def _is_data(asset: Mapping[str, Any]) -> bool:
    """Whether an asset is the data, and no picture of it."""
    roles = asset.get("roles") or []
    return not {"thumbnail", "overview", "visual", "metadata"} & {str(role) for role in roles}


def _position(
    asset: Mapping[str, Any], band: str, card: SourceCard, numbers: Mapping[str, str] | None
) -> int:
    told = asset.get("natmap:band")
    if told is not None:
        return int(told)
    if band in card.positions:
        return card.positions[band]
    return _named(asset, band, numbers) or 1


def _named(asset: Mapping[str, Any], band: str, numbers: Mapping[str, str] | None) -> int | None:
    """Where a band's name stands in an asset's lists of bands, from 1."""
    for key in _LISTS:
        for place, entry in enumerate(_entries(asset, key), 1):
            names = (entry.get("name"), entry.get("eo:common_name"), entry.get("common_name"))
            known = (understand(name, numbers) for name in names if isinstance(name, str))
            if next((name for name in known if name is not None), None) == band:
                return place
    return None


def _entries(asset: Mapping[str, Any], key: str) -> Sequence[Mapping[str, Any]]:
    found = asset.get(key)
    if not isinstance(found, list):
        return ()
    return [entry if isinstance(entry, Mapping) else {} for entry in found]


def form_of(asset: Mapping[str, Any], position: int) -> dict[str, float | None]:
    """scale, offset and nodata that an asset states for one of its bands; what it does not is None.

    raster:bands (STAC 1.0) and bands (1.1) have an entry for each band of the file, or one for
    all.

    Raises
    ------
    ItemError
        Where one of them is not a number, or the entries are none.
    """
    entries = []
    for key in ("raster:bands", "bands"):
        found = _entries(asset, key)
        told = asset.get(key)
        if told is not None and found != told:  # passed over, they would say scale and offset
            raise ItemError(f"its {key} is not a list of objects", got=repr(told)[:80])
        several = len(found) > 1
        at = position - 1 if several else 0
        entries.append(found[at] if at < len(found) else {})
    old, new = entries
    form: dict[str, float | None] = {}
    for key in ("scale", "offset", "nodata"):
        told = (
            old.get(key),
            new.get(f"raster:{key}"),
            asset.get(f"raster:{key}"),
            new.get(key),
            asset.get(key),
        )
        form[key] = next((_number(key, value) for value in told if value is not None), None)
    return form


def number_of(key: str, value: Any) -> float:
    """A number that an item states, in JSON's form or as text of it.

    Raises
    ------
    ItemError
        Of what else Python would take for a number too: true, ``1_000``, digits of other scripts.
    """
    try:
        if isinstance(value, bool) or (isinstance(value, str) and not _NUMBER.fullmatch(value)):
            raise ValueError
        return float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise ItemError(f"its {key} is not a number", got=repr(value)[:80]) from error


def _number(key: str, value: Any) -> float:
    number = number_of(key, value)
    if key != "nodata" and not (math.isfinite(number) and (key == "offset" or number > 0)):
        raise ItemError(f"its {key} cannot be", got=repr(value)[:80], expected="a finite number")
    return number


def offset_of(
    card: SourceCard,
    properties: Mapping[str, Any],
    baseline: str | None,
    form: Mapping[str, float | None],
) -> float:
    """The offset that is still to be added, by the card's policy; never by the date.

    Raises
    ------
    ItemError
        Where a flag is neither true nor false, or where an item of unknown origin has a baseline
        with an offset, and does not say whether that is still in its numbers.
    """
    applied = next((_flag(properties, f) for f in _FLAGS if properties.get(f) is not None), None)
    stated = form["offset"]
    own = stated or 0.0
    late = baseline is not None and float(baseline) >= 4.0
    match card.offset:
        case "flag-then-baseline":
            return 0.0 if applied or not late else _SHIFT
        case "flag-then-asset":
            if card.name == "own" and late and applied is None and stated is None:
                raise ItemError(
                    "it does not say whether the offset of its baseline is still to be added",
                    got=f"baseline {baseline}, no offset, and no flag that it was applied",
                    expected="raster:offset of each band (-0.1, or 0 where it was applied)",
                    remedy="state it in the items, or describe the source with a card of your own",
                )
            return 0.0 if applied else own
        case "baseline":
            return (_SHIFT if late else 0.0) if stated is None else stated
        case "asset-from-baseline":
            return own if baseline is None or late else 0.0
        case "asset":
            return own


def _flag(properties: Mapping[str, Any], name: str) -> bool:
    value = properties[name]
    if not isinstance(value, bool):  # "false" is true to Python
        raise ItemError(f"its {name} is neither true nor false", got=repr(value)[:80])
    return value


def is_stated(
    card: SourceCard, properties: Mapping[str, Any], form: Mapping[str, float | None]
) -> bool:
    """Whether the item, or the policy of its source, says all of scale and offset."""
    if card.offset not in ("asset", "flag-then-asset"):
        return True
    flagged = any(properties.get(f) is not None for f in _FLAGS)
    return form["scale"] is not None and (flagged or form["offset"] is not None)


def baseline_of(properties: Mapping[str, Any], card: SourceCard, identity: str = "") -> str | None:
    """The processing baseline of Sentinel-2, as ``05.09``; also of 5.09 and N0509.

    Where the item does not say it, its product's name does, or `identity`, its own.

    Raises
    ------
    ItemError
        Where something else is said, and is Sentinel's own word or decides the offset by the card:
        what is to be added to the item's numbers would be a guess.
    """
    odd = None
    for name in _BASELINES:
        value = properties.get(name)
        if value is None or value == "":
            continue
        own = name != "processing:version"  # which anybody's processor may have
        decides = own or "baseline" in card.offset
        number = isinstance(value, int | float) and not isinstance(value, bool)
        said = f"{value:05.2f}" if number else str(value)
        match = re.fullmatch(r"\D*(\d{1,2})\.?(\d{2})\D*", said, re.ASCII)
        plain = value >= _LEAST_BASELINE if number else not isinstance(value, bool | list | Mapping)
        if match and plain and (decides or len(match[1]) == 2):
            return f"{int(match[1]):02}.{match[2]}"
        if decides and odd is None:
            odd = name, value
    for text in (*(properties.get(name) for name in _URIS), identity):
        if match := re.search(r"_N(\d{2})\.?(\d{2})(?:_|$)", str(text or "")):
            return f"{match[1]}.{match[2]}"
    if odd is not None:
        raise ItemError(
            f"its {odd[0]} is not a processing baseline",
            got=repr(odd[1])[:80],
            expected="as in 05.09",
        )
    return None
