"""Which pixels of a file say something: nodata, masks, alpha, NaN; docs/assets.md is the table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.windows import Window

from engine.cube.radiometry import UNDERFLOWED, wraps
from engine.cube.room import require_room
from engine.items import SCL, Asset, Item

__all__ = ["Validity", "validity_of"]

LEAST, MOST = -0.1, 6.0
"""Reflectances that can be: below and above them a number is none."""


@dataclass(frozen=True)
class Validity:
    """What says that a pixel of a band has no data.

    Attributes
    ----------
    numbers : values without data, the one that decides first.
    most : the largest value that is one, None where all are.
    alpha : band that is 0 there, None if there is none.
    mask : whether the file has a mask of its own, inside of it or beside it.
    apart : whether that mask is of this band alone, and not of all.
    """

    numbers: tuple[float, ...] = ()
    most: float | None = None
    alpha: int | None = None
    mask: bool = False
    apart: bool = False

    @property
    def nodata(self) -> float | None:
        """The number that invalid pixels get, and have."""
        return self.numbers[0] if self.numbers else None

    @property
    def opaque(self) -> bool:
        """Whether the file says itself where it has data: in alpha or a mask."""
        return self.mask or self.alpha is not None

    def shown(
        self, file: rasterio.DatasetReader, index: int, **how: Any
    ) -> npt.NDArray[np.bool_] | None:
        """Where alpha and mask show data, bool (y, x), None where there is neither.

        Parameters
        ----------
        file, index : the band.
        how : ``window`` or ``out_shape``, as of the read that it belongs to.
        """
        found: npt.NDArray[np.bool_] | None = None
        if self.alpha is not None:  # the band: where nodata is declared GDAL's mask is of that
            found = file.read(self.alpha, **how) > 0
        if self.mask:
            masked = file.read_masks(index, **how) > 0
            found = masked if found is None else found & masked
        return found

    def invalid(self, values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Which values say nothing, bool of their shape."""
        found = ~np.isfinite(values) if values.dtype.kind == "f" else np.zeros(values.shape, bool)
        for number in self.numbers:
            if math.isfinite(number):
                found |= values == number
        if self.most is not None:
            found |= values > self.most
        return found

    def read(
        self, file: rasterio.DatasetReader, index: int, window: Window
    ) -> tuple[npt.NDArray[Any], float | None]:
        """A window of a band, and the one number that its invalid pixels have (NaN has none).

        Of a file of whole numbers without such a number, whose mask hides some, values are floats.
        """
        require_room(file, [index], (window.height, window.width))
        values = file.read(index, window=window)
        shown = self.shown(file, index, window=window)
        plain = shown is None and len(self.numbers) < 2 and not _has_infinity(values)
        if plain and (self.most is None or values.max(initial=0) <= self.most):
            return values, self.nodata
        hidden = self.invalid(values)
        if shown is not None:
            hidden |= ~shown
        nodata = self._held(values.dtype)
        if nodata is None and values.dtype.kind != "f":
            values = values.astype(np.float32 if values.dtype.itemsize < 4 else np.float64)
        if hidden.any():
            values[hidden] = np.nan if nodata is None else nodata
        return values, nodata

    def _held(self, dtype: np.dtype[Any]) -> float | None:
        """The first of the numbers that the type has."""
        if dtype.kind == "f":
            return next((n for n in self.numbers if math.isfinite(n)), None)
        limits = np.iinfo(dtype)
        for number in self.numbers:
            if math.isfinite(number) and limits.min <= number <= limits.max and number % 1 == 0:
                return number
        return limits.max if self.most is not None else None

    def sample(
        self, file: rasterio.DatasetReader, index: int, size: tuple[int, int]
    ) -> np.ma.MaskedArray[Any, Any]:
        """The whole band at a smaller size, nearest; what says nothing is masked."""
        require_room(file, [index], size)
        how = {"out_shape": size, "resampling": Resampling.nearest}
        values = file.read(index, **how)
        found: np.ma.MaskedArray[Any, Any] = np.ma.MaskedArray(
            values, replace(self, most=None).invalid(values)
        )
        shown = self.shown(file, index, **how)
        if shown is not None:
            found.mask |= ~shown
        return found


def validity_of(
    file: rasterio.DatasetReader, asset: Asset, item: Item, name: str
) -> tuple[Validity, tuple[str, ...]]:
    """Decide what says that a pixel of an asset has no data.

    Parameters
    ----------
    file : open.
    asset : of the item.
    item : whose bands a fourth band may be, which many a file calls alpha by default.
    name : B-name or SCL.

    Returns
    -------
    Validity, and what people should know.
    """
    own = file.nodatavals[asset.index - 1]
    told = [asset.nodata, own, asset.card_nodata]
    numbers = [number for number in told if number is not None][:1]
    notes = []
    if own is not None and numbers and not _same(own, numbers[0]):
        reflectance = own * asset.scale + asset.offset
        if name == SCL or not LEAST < reflectance < MOST:  # also of NaN
            numbers.append(own)
            notes.append(f"{name}: the file's nodata {own:g} counts beside {numbers[0]:g}")
        else:
            notes.append(f"{name}: the file's nodata {own:g} is a value, the item's is believed")
    most = None
    kind = file.dtypes[asset.index - 1]
    if name != SCL and kind == "uint16" and wraps(asset):
        most = float(UNDERFLOWED)
    alpha, (masked, apart) = _alpha(file, asset, item), _masked(file, asset)
    return Validity(tuple(numbers), most, alpha, masked, apart), tuple(notes)


def _has_infinity(values: npt.NDArray[Any]) -> bool:
    return values.dtype.kind == "f" and bool(np.isinf(values).any())


def _same(one: float, other: float) -> bool:
    return one == other or (math.isnan(one) and math.isnan(other))


def _alpha(file: rasterio.DatasetReader, asset: Asset, item: Item) -> int | None:
    """The band of opacity; a band that the item calls one of its own is none."""
    claimed = {other.index for other in item.assets.values() if other.href == asset.href}
    uses: Sequence[ColorInterp] = file.colorinterp
    found = [k for k, use in enumerate(uses, 1) if use == ColorInterp.alpha and k not in claimed]
    return found[0] if found else None


def _masked(file: rasterio.DatasetReader, asset: Asset) -> tuple[bool, bool]:
    """Whether a band has a mask, and one of its own.

    Nodata of all bands together is one, and gives way to a band's.
    """
    flags = file.mask_flag_enums[asset.index - 1]
    if not flags:  # GDAL's way to say so
        return True, True
    declared = asset.nodata is not None or file.nodatavals[asset.index - 1] is not None
    shadowed = MaskFlags.nodata in flags and declared
    whole = MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags and not shadowed
    return whole, False
