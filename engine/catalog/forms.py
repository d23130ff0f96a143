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

__all__ = ["Found", "baseline_of", "find_asset", "form_of", "is_stated", "offset_of"]

Found = tuple[Mapping[str, Any], int]
"""An asset, and the position of a band in its lists of bands and in its file, from 1."""

_FLAGS = ("earthsearch:boa_offset_applied", "sentinel:boa_offset_applied")
_BASELINES = ("s2:processing_baseline", "sentinel:processing_baseline", "processing:version")
_URIS = ("s2:product_uri", "sentinel:product_id", "s2:datatake_id", "s2:datatake-id")
_SHIFT = -0.1  # BOA_ADD_OFFSET of baseline 04.00 and later, as reflectance
_LISTS = ("bands", "eo:bands")


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
    spelt = [asset for name, asset in usable.items() if understand(name, numbers) == band]
    inner = [asset for asset in usable.values() if _named(asset, band, numbers) is not None]
    for asset in (*spelt, *inner):
        if _is_data(asset):
            return asset, _position(asset, band, card, numbers)
    return None


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
        Where one of them is not a number.
    """
    entries = []
    for key in ("raster:bands", "bands"):
        found = _entries(asset, key)
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


def _number(key: str, value: Any) -> float:
    try:
        if isinstance(value, bool):
            raise ValueError
        number = float(value)
    except (TypeError, ValueError) as error:
        raise ItemError(f"its {key} is not a number", got=repr(value)[:80]) from error
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
        Where an item of unknown origin has a baseline with an offset, and does not say whether
        that is still in its numbers.
    """
    applied = next((properties[f] for f in _FLAGS if properties.get(f) is not None), None)
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


def is_stated(
    card: SourceCard, properties: Mapping[str, Any], form: Mapping[str, float | None]
) -> bool:
    """Whether the item, or the policy of its source, says all of scale and offset."""
    if card.offset not in ("asset", "flag-then-asset"):
        return True
    flagged = any(properties.get(f) is not None for f in _FLAGS)
    return form["scale"] is not None and (flagged or form["offset"] is not None)


def baseline_of(properties: Mapping[str, Any], identity: str = "") -> str | None:
    """The processing baseline of Sentinel-2, as ``05.09``; by a name of the product if need be.

    Raises
    ------
    ItemError
        Where it says one that is none: what is to be added to its numbers would be a guess.
    """
    odd = None
    for name in _BASELINES:
        said = properties.get(name)
        own = name != "processing:version"  # which anybody's processor may have
        if own and isinstance(said, int | float) and not isinstance(said, bool):
            said = f"{said:05.2f}"
        match = re.fullmatch(r"\D*(\d{1,2})\.(\d{2})\D*|\D*(\d{2})(\d{2})\D*", str(said or ""))
        if match and (own or len(match[1] or match[3]) == 2):
            return f"{match[1] or match[3]:0>2}.{match[2] or match[4]}"
        odd = said if own and said else odd
    for text in (*(properties.get(name) for name in _URIS), identity):
        if match := re.search(r"_N(\d{2})\.?(\d{2})(?:_|$)", str(text or "")):
            return f"{match[1]}.{match[2]}"
    if odd is not None:
        raise ItemError("its processing baseline is not one", got=repr(odd)[:80], expected="05.09")
    return None
