"""What stored codes mean: vectors, and why a pixel has none; codes are never interpolated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

__all__ = [
    "ALPHAEARTH",
    "NODATA",
    "PER_PIXEL",
    "TESSERA",
    "VALID",
    "WATER",
    "Decoded",
    "Linear",
    "PerPixel",
    "Rule",
    "SignedSquare",
]

VALID, WATER, NODATA = 0, 1, 2
"""States of a pixel."""

Decoded = tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]
"""Vectors (channel, y, x), NaN where there is none, and states (y, x)."""

_LARGEST = float(np.finfo("float32").max) / 256  # a code of int8 times this is finite


class Rule(Protocol):
    """From codes (channel, y, x), and scales where the rule wants them, to vectors and states."""

    def __call__(self, codes: npt.NDArray[Any], scales: npt.NDArray[Any] | None) -> Decoded:
        """Decode."""


@dataclass(frozen=True)
class PerPixel:
    """Vector = code * scale, each pixel with a scale of its own, or each of its channels.

    A scale that is not finite, negative or absurd says that there is no vector.

    Attributes
    ----------
    water : whether NaN says water, as TESSERA's Zarr has it.
    most : scales above are absurd.
    nodata : a finite scale that says no data; None: there is none.
    """

    water: bool = False
    most: float = _LARGEST
    nodata: float | None = None

    def __call__(self, codes: npt.NDArray[Any], scales: npt.NDArray[Any] | None) -> Decoded:
        assert scales is not None, "the rule has scales"
        each = scales if scales.ndim == 3 else scales[None]
        with np.errstate(invalid="ignore"):
            good = (each >= 0) & (each <= self.most)
        if self.nodata is not None:
            good &= each != np.float32(self.nodata)
        state = np.where(good.all(axis=0), VALID, NODATA).astype(np.uint8)
        if self.water:
            state[np.isnan(each).all(axis=0)] = WATER
        vectors = codes.astype(np.float32)
        with np.errstate(invalid="ignore", over="ignore"):
            vectors *= each
        return _finish(vectors, state, codes.dtype)


@dataclass(frozen=True)
class SignedSquare:
    """AlphaEarth's: vector = sign(code) * (code / 127.5)**2, of unit length; -128 is no data.

    Of the published codes it is so in all channels or in none; one of them alone leaves a vector
    without a component, which is none either.
    """

    def __call__(self, codes: npt.NDArray[Any], scales: npt.NDArray[Any] | None) -> Decoded:
        vectors = codes.astype(np.float32)
        vectors /= np.float32(127.5)
        vectors *= np.abs(vectors)
        state = np.where((codes == -128).any(axis=0), NODATA, VALID).astype(np.uint8)
        return _finish(vectors, state, codes.dtype)


@dataclass(frozen=True)
class Linear:
    """Vector = code * scale + offset; floats that are not finite are no data.

    Attributes
    ----------
    scale, offset : finite.
    nodata : code that says so in all channels, or number that does in any; None: there is none.
    """

    scale: float = 1.0
    offset: float = 0.0
    nodata: float | None = None

    def __call__(self, codes: npt.NDArray[Any], scales: npt.NDArray[Any] | None) -> Decoded:
        state = np.zeros(codes.shape[1:], np.uint8)
        if self.nodata is not None:
            floats = codes.dtype.kind == "f"
            with np.errstate(over="ignore"):  # as the type has it: -9999 of float16 is -10000
                number = codes.dtype.type(self.nodata) if floats else self.nodata
            none = codes == number
            # a single code may be a component; a float without a component is no vector
            state[none.any(axis=0) if floats else none.all(axis=0)] = NODATA
        with np.errstate(over="ignore"):
            vectors = codes.astype(np.float32)
            if (self.scale, self.offset) != (1.0, 0.0):
                vectors *= np.float32(self.scale)
                vectors += np.float32(self.offset)
        return _finish(vectors, state, codes.dtype)


TESSERA = PerPixel(water=True, most=1.0)
"""NaN is water, infinite is no data; genuine scales are below 0.15, and 2.8e32 has been seen."""
PER_PIXEL = PerPixel()
ALPHAEARTH = SignedSquare()


def _finish(
    vectors: npt.NDArray[np.float32], state: npt.NDArray[np.uint8], stored: np.dtype[Any]
) -> Decoded:
    if stored.kind == "f":
        state[(state == VALID) & ~np.isfinite(vectors).all(axis=0)] = NODATA
    vectors[:, state != VALID] = np.nan
    return vectors, state
