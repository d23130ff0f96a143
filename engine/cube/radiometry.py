"""The one convention of stored digital numbers, and the guard against a wrong offset.

Stored: uint16 = reflectance x 1e4 + 1000, 0 = nodata, 1..65534 where valid. An item whose offset
was already applied, or that never had one, gains 1000; dark pixels do not clip, and one array may
mix items of any baseline.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.cube.kernels import encode_where
from engine.items import SCL, Asset

__all__ = ["ATTRS", "NODATA", "UNDERFLOWED", "decode", "encode", "find_suspect", "lay", "wraps"]

NODATA = 0
UNDERFLOWED = 60_000
"""Digital numbers of 16 bits above this one fell below 0 and came round: 64,536 is -1,000."""

_BRIGHTEST = 2.0
"""Median reflectance of a whole scene that cannot be: clouds at a low sun have up to 1.5."""

_GAIN, _SHIFT, _MOST = 10_000, 1_000, 65_534  # 65535 marks a masked value while sorting

ATTRS: dict[str, Any] = {
    "scale_factor": 1e-4,
    "add_offset": -0.1,
    "_FillValue": NODATA,
    "standard_name": "surface_bidirectional_reflectance",
    "units": "1",
}
"""CF attributes of arrays in the stored convention."""


def encode(
    dn: npt.NDArray[Any], scale: float, offset: float, valid: npt.NDArray[np.bool_]
) -> npt.NDArray[np.uint16]:
    """Digital numbers of an item to the stored convention.

    Parameters
    ----------
    dn : array of any real type
        Digital numbers as read.
    scale, offset : float
        Reflectance = dn * scale + offset.
    valid : bool array of the same shape
        Elsewhere the result is 0.

    Returns
    -------
    uint16 array; 1..65534 where valid. Exact for integer `dn` and the usual scale of 1e-4.
    """
    factor, shift = scale * _GAIN, offset * _GAIN + _SHIFT
    whole = np.issubdtype(dn.dtype, np.integer)
    if whole and abs(factor - 1) < 1e-9 and abs(shift - round(shift)) < 1e-6:
        stored: npt.NDArray[Any] = dn.astype(np.int32)
        stored += np.int32(round(shift))
    else:
        # 1e-9: a product that should be x.5 may fall short of it by a float's last bit
        stored = np.rint(np.where(valid, dn, 0).astype(np.float64) * factor + shift + 1e-9)
    np.clip(stored, 1, _MOST, out=stored)
    stored *= valid  # NODATA is 0
    return stored.astype(np.uint16)


def lay(
    dn: npt.NDArray[Any],
    take: npt.NDArray[np.bool_],
    scale: float,
    offset: float,
    into: npt.NDArray[np.uint16],
) -> None:
    """Put digital numbers, encoded, into `into` where `take` holds; as `encode` in one pass."""
    encode_where(dn, take, scale * _GAIN, offset * _GAIN + _SHIFT, _MOST, into)


def decode(stored: npt.NDArray[np.uint16]) -> npt.NDArray[np.float32]:
    """Stored numbers to reflectance; NaN where nodata."""
    reflectance = (stored.astype(np.float32) - _SHIFT) / _GAIN
    return np.where(stored == NODATA, np.float32(np.nan), reflectance)


def find_suspect(
    samples: Mapping[str, npt.NDArray[Any]], assets: Mapping[str, Asset]
) -> str | None:
    """Why an item's radiometry cannot be right, or None.

    The guard of the published defect "flag says not applied, pixels are shifted already": more
    than 1 % of valid pixels of B02 or B11 below -0.02 reflectance, or the 1st percentile of B12
    over water (SCL 6) above 0.08. And that of numbers which fell below 0 and came round: more than
    0.1 % of a band's valid pixels. And that of a scale that makes no reflectance, such as of
    percent: a median above 2.

    Parameters
    ----------
    samples : by band, decimated digital numbers of the whole asset, one shape; ``SCL`` too. What
        says nothing is masked.
    assets : by band.
    """
    water = samples.get(SCL)
    for band in ("B02", "B11", "B12"):
        if band not in samples:
            continue
        dn, asset = np.ma.getdata(samples[band]), assets[band]
        valid = ~np.ma.getmaskarray(samples[band])
        wrapped = valid & (dn > UNDERFLOWED) & (dn.dtype.kind in "iu")
        share = float(wrapped.sum() / max(valid.sum(), 1))
        if share > 0.001 and wraps(asset):
            return f"{100 * share:.1f} % of {band} is above {UNDERFLOWED:,}: it fell below 0"
        reflectance = dn.astype(np.float64) * asset.scale + asset.offset
        if valid.any() and (middle := float(np.median(reflectance[valid]))) > _BRIGHTEST:
            return f"the median of {band} is {middle:.3g}, no reflectance: its scale is another"
        if band == "B12":
            over = valid & (np.ma.getdata(water) == 6) if water is not None else valid & False
            if over.sum() >= 30 and (low := float(np.percentile(reflectance[over], 1))) > 0.08:
                return f"B12 over water is {low:.3f} at its 1st percentile, expected under 0.08"
        elif valid.any():
            share = float((reflectance[valid] < -0.02).mean())
            if share > 0.01:
                return f"{100 * share:.1f} % of {band} is below -0.02, expected under 1 %"
    return None


def wraps(asset: Asset) -> bool:
    """Whether numbers of 16 bits above `UNDERFLOWED` can be no reflectance of an asset."""
    return UNDERFLOWED * asset.scale + asset.offset > 5.5
