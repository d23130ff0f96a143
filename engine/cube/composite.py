"""From days to one image: masked median, mean or medoid, and why a pixel has none."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from engine.accounting import Pool, spent
from engine.cube.clouds import READ_FAILED
from engine.cube.gdal import cores
from engine.legend import Reason

__all__ = ["DISSENT", "count_dissent", "explain", "mean", "median", "medoid", "reduce_days"]

DISSENT = 400
"""Digital numbers (0.04 of reflectance) by which a day must depart from the composite to count."""

_MASKED = np.uint16(65535)
_STRIP = 64  # rows sorted at once, so that the strip of all days stays in cache


def reduce_days(
    method: str, bands: npt.NDArray[np.uint16], usable: npt.NDArray[np.bool_]
) -> npt.NDArray[np.uint16]:
    """Reduce days to one value for each band and pixel.

    Parameters
    ----------
    method : {"median", "mean", "medoid"}
    bands : uint16 (time, band, y, x)
        Stored convention; 0 is nodata.
    usable : bool (time, y, x)

    Returns
    -------
    uint16 (band, y, x); 0 where no day is usable.
    """
    if not len(bands):
        return np.zeros(bands.shape[1:], np.uint16)
    if method == "medoid":
        with spent("composite"):
            return medoid(bands, usable)
    reduce = {"median": median, "mean": mean}[method]
    out = np.empty(bands.shape[1:], np.uint16)

    def band(b: int) -> None:
        with spent("composite"):
            out[b] = reduce(bands[:, b], usable)

    with Pool(max_workers=cores()) as pool:
        list(pool.map(band, range(len(out))))
    return out


def median(values: npt.NDArray[np.uint16], usable: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint16]:
    """Median over time; of an even count the mean of the middle two, rounded half to even.

    Parameters
    ----------
    values : uint16 (time, y, x), below 65535 where usable
    usable : bool (time, y, x)

    Returns
    -------
    uint16 (y, x); 0 where no day is usable.
    """
    days, height, width = values.shape
    out = np.zeros((height, width), np.uint16)
    for top in range(0, height, _STRIP):
        strip = usable[:, top : top + _STRIP]
        rows = [
            np.where(u, v, _MASKED)
            for u, v in zip(strip, values[:, top : top + _STRIP], strict=True)
        ]
        spare = np.empty_like(rows[0])
        for a, b in _network(days):
            np.minimum(rows[a], rows[b], out=spare)
            np.maximum(rows[a], rows[b], out=rows[b])
            rows[a], spare = spare, rows[a]
        # Masked values have sunk to the end, so the middle depends on how many are left.
        count = strip.sum(axis=0, dtype=np.uint16)
        low, high = np.zeros_like(spare), np.zeros_like(spare)
        for n in range(1, days + 1):
            here = count == n
            np.copyto(low, rows[(n - 1) // 2], where=here)
            np.copyto(high, rows[n // 2], where=here)
        out[top : top + _STRIP] = _half(low.astype(np.uint32) + high)
    return out


def _half(total: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """Half of it, rounded half to even."""
    half = total >> 1
    return half + (total & half & 1)


@lru_cache
def _network(n: int) -> tuple[tuple[int, int], ...]:
    """Comparators that sort n values: Batcher's odd-even merge sort (Knuth, TAOCP 5.2.2 M)."""
    pairs: list[tuple[int, int]] = []
    p = 1
    while p < n:
        k = p
        while k >= 1:
            for j in range(k % p, n - k, 2 * k):
                pairs += [
                    (i + j, i + j + k)
                    for i in range(min(k, n - j - k))
                    if (i + j) // (2 * p) == (i + j + k) // (2 * p)
                ]
            k //= 2
        p *= 2
    return tuple(pairs)


def mean(values: npt.NDArray[np.uint16], usable: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint16]:
    """Mean over time, rounded half to even; shapes as in `median`."""
    total = np.where(usable, values, 0).sum(axis=0, dtype=np.uint64)
    count = usable.sum(axis=0)
    average: npt.NDArray[np.float64] = np.rint(total / np.maximum(count, 1))
    return average.astype(np.uint16)


def medoid(bands: npt.NDArray[np.uint16], usable: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint16]:
    """The day nearest to all others: least sum of Euclidean distances over bands; ties: earliest.

    Parameters
    ----------
    bands : uint16 (time, band, y, x)
    usable : bool (time, y, x)

    Returns
    -------
    uint16 (band, y, x); 0 where no day is usable.
    """
    days, n_bands, height, width = bands.shape
    out = np.zeros((n_bands, height, width), np.uint16)
    for top in range(0, height, _STRIP):
        part = bands[:, :, top : top + _STRIP].astype(np.float64)
        here = usable[:, top : top + _STRIP]
        cost = np.zeros(here.shape)
        for a in range(days):
            for b in range(a + 1, days):
                apart = np.sqrt(((part[a] - part[b]) ** 2).sum(axis=0))
                apart *= here[a] & here[b]
                cost[a] += apart
                cost[b] += apart
        cost[~here] = np.inf
        best = cost.argmin(axis=0)
        taken = np.take_along_axis(bands[:, :, top : top + _STRIP], best[None, None], axis=0)[0]
        out[:, top : top + _STRIP] = np.where(here.any(axis=0), taken, 0)
    return out


def count_dissent(
    values: npt.NDArray[np.uint16],
    usable: npt.NDArray[np.bool_],
    composite: npt.NDArray[np.uint16],
) -> npt.NDArray[np.uint8]:
    """Usable days that depart from the composite by more than `DISSENT`.

    In the blue band that is cloud, cloud shadow or snow which the scene classification missed, or
    change. Of two days that disagree both depart from the median; one day alone never does.

    Parameters
    ----------
    values : uint16 (time, y, x), one band.
    usable : bool (time, y, x)
    composite : uint16 (y, x), the same band.

    Returns
    -------
    uint8 (y, x); at most 255.
    """
    found = np.zeros(composite.shape, np.uint16)
    middle = composite.astype(np.int32)
    for day, good in zip(values, usable, strict=True):
        found += good & (np.abs(day - middle) > DISSENT)
    return np.minimum(found, 255).astype(np.uint8)


def explain(
    observations: npt.NDArray[np.uint16],
    scl: npt.NDArray[np.uint8],
    suspect: npt.NDArray[np.bool_] | None = None,
) -> npt.NDArray[np.uint8]:
    """Why a pixel of the composite has no data.

    A pixel that one item lost and another item of that day shows has the class of the latter: where
    that is cloud the pixel says so, and the tile's flag says that a read failed.

    Parameters
    ----------
    observations : uint16 (y, x)
        Usable days.
    scl : uint8 (time, y, x)
        Merged classes of the days, without halo.
    suspect : bool (y, x), optional
        Where an item with suspect radiometry was left out.

    Returns
    -------
    uint8 (y, x) of `Reason`; where several hold: read failed, suspect, no scene, all cloud.
    """
    failed = (scl == READ_FAILED).any(axis=0)
    seen = ((scl != 0) & (scl != READ_FAILED)).any(axis=0)
    out = np.where(seen, Reason.ALL_CLOUD, Reason.NO_SCENE).astype(np.uint8)
    if suspect is not None:
        out[suspect] = Reason.SUSPECT
    out[failed] = Reason.READ_FAILED
    out[observations > 0] = Reason.DATA
    return out
