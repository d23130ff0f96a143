"""What bands are called: the usual spellings, by platform, to the names of Sentinel-2."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from engine.items import BANDS, SCL

__all__ = ["numbering_of", "understand"]

_WORDS = {
    "B01": "coastal, coastal aerosol, aerosol, ultra blue",
    "B02": "blue",
    "B03": "green",
    "B04": "red",
    "B05": "rededge1, red edge 1, rededge071, vre1, vegetation red edge 1",
    "B06": "rededge2, red edge 2, rededge075, vre2, vegetation red edge 2",
    "B07": "rededge3, red edge 3, rededge078, vre3, vegetation red edge 3",
    "B08": "nir, near infrared, near infra red",
    "B8A": "nir08, nir narrow, narrow nir, rededge4, red edge 4",
    "B09": "nir09, water vapour, water vapor",
    "B11": "swir16, swir1, swir 1, short wave infrared 1",
    "B12": "swir22, swir2, swir 2, short wave infrared 2",
    SCL: "scl, scene classification, scene classification layer",
}
_SPELT = {
    re.sub(r"[^a-z0-9]", "", word): name
    for name, words in _WORDS.items()
    for word in words.split(",")
}

_SENTINEL = {f"{k}": f"B{k:02}" for k in range(1, 13) if k != 10} | {"8a": "B8A"}
_LANDSAT = dict(zip("1234567", ("B01", "B02", "B03", "B04", "B8A", "B11", "B12"), strict=True))
"""By number: of OLI on Landsat 8 and 9, whose near infrared is as narrow as Sentinel's B8A."""

_NUMBER = re.compile(r"(?:s2[a-d]?)?(?:band|b)?0*(\d{1,2}a?)(?:(?:10|20|30|60)m)?")


def numbering_of(raw: Mapping[str, Any]) -> Mapping[str, str] | None:
    """Which bands a number means in an item: None where that cannot be told.

    Of a platform that is neither Sentinel-2 nor Landsat 8 or 9 numbers mean nothing, nor where no
    platform is told and a number contradicts the common name of its band.

    Parameters
    ----------
    raw : the item's JSON; platform, instruments, collection and id tell.
    """
    properties = raw.get("properties") or {}
    platform = [properties.get(key) for key in ("platform", "constellation", "instruments")]
    told = [*platform, raw.get("collection"), raw.get("id")]
    text = " ".join(str(value) for value in told if value).lower()
    if re.search(r"landsat|\boli\b|hlsl30|hls\.l30|hls2?-l30|\blc0[89]_", text):
        older = re.search(r"landsat[-_ ]?[4-7]\b|\bl[et]0[4-7]_|\b(etm|tm)\b", text)
        return None if older else _LANDSAT
    if re.search(r"sentinel[-_ ]?2|\bs2[a-d]?(?![a-z0-9])|hls\.?s30|hls2?-s30|\bmsi\b", text):
        return _SENTINEL
    return None if any(platform) or _contradicted(raw.get("assets")) else _SENTINEL


def _contradicted(assets: Any) -> bool:
    """Whether the key of an asset of one band and its common name mean different bands."""
    for key, asset in assets.items() if isinstance(assets, Mapping) else ():
        for name in ("bands", "eo:bands"):
            entries = asset.get(name) if isinstance(asset, Mapping) else None
            if isinstance(entries, list) and len(entries) == 1 and isinstance(entries[0], Mapping):
                common = entries[0].get("eo:common_name") or entries[0].get("common_name")
                meant = understand(common) if isinstance(common, str) else None
                if meant is not None and understand(str(key)) not in (None, meant):
                    return True
    return False


def understand(name: str, numbers: Mapping[str, str] | None = _SENTINEL) -> str | None:
    """The B-name (or SCL) of a band as people and programs write it, None if it is not known.

    Upper and lower case, blanks and hyphens do not matter: ``B2``, ``b02_10m``, ``Band 2``,
    ``B4, central wavelength 665 nm``, ``Red Edge 1``, ``nir08``, ``SCL_20m``.
    ``rededge`` alone names three bands, and is not understood.

    Parameters
    ----------
    name : str
    numbers : from `numbering_of`; None: numbers mean nothing.
    """
    for text in (name, re.split(r"[,(;:]", name)[0]):
        plain = re.sub(r"[^a-z0-9]", "", text.lower())
        word = re.sub(r"(?:10|20|30|60)m$", "", plain)
        if word in _SPELT:
            return _SPELT[word]
        match = _NUMBER.fullmatch(plain)
        if match and numbers is not None and not plain.isdigit():
            found = numbers.get(match[1])
            if found is not None and (found in BANDS or found == SCL):
                return found
    return None
