"""Patches into scenes: mean shift (Comaniciu and Meer 2002) or KMeans on a part, then all by the
nearest mode.

Rows are put into an order of their values first, and libraries get one thread: neither the order
of patches nor the number of cores shows in a scene.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.cluster import KMeans, estimate_bandwidth
from threadpoolctl import threadpool_limits

from engine.jit import compiled
from engine.texture.nearest import RARE, nearest

__all__ = [
    "LEAST_BANDWIDTH",
    "Modes",
    "assign",
    "bandwidth_of",
    "draw",
    "in_order",
    "k_means",
    "mean_shift",
    "numbered",
]

LEAST_BANDWIDTH = 0.02
"""The noise of a histogram of the 56 x 56 codes of a patch of 64 px is 0.018."""
FAR = 2.0
"""Bandwidths from its mode beyond which a patch is `RARE`."""

_FEWEST = 5  # patches of a bin that begins a search for a mode
_SEEDS = 500  # where no bin holds so many
_STEPS, _STILL = 300, 1e-3  # of a search; bandwidths by which a mode moves no more
_LOOKED_AT = 2000  # patches whose neighbours tell a bandwidth

Points = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Modes:
    """Scenes by their middles, the largest first.

    Attributes
    ----------
    centres : float64 (scenes, components)
    far : distance beyond which a patch is in no scene; infinite: each is in one.
    """

    centres: Points
    far: float

    def __len__(self) -> int:
        return len(self.centres)


def in_order(points: Points) -> npt.NDArray[np.intp]:
    """Positions of rows in ascending order of their values, first component first."""
    return np.lexsort(points.T[::-1])


def draw(points: Points, most: int, seed: int, *, leave: float = 0.0) -> Points:
    """Some of the rows, by chance, in ascending order; the same ones in whatever order they come.

    Parameters
    ----------
    points : (n, components), ascending as `in_order` has them.
    most : rows at most.
    seed : of the drawing.
    leave : share of the rows that is left out, 0 to 1.
    """
    count = min(most, max(round(len(points) * (1 - leave)), 1))
    if count == len(points):
        return points
    return points[np.sort(np.random.default_rng(seed).permutation(len(points))[:count])]


def bandwidth_of(points: Points, quantile: float) -> float:
    """Mean distance from a patch to the furthest of the share `quantile` that is nearest to it.

    Parameters
    ----------
    points : (n, components), ascending.
    quantile : 0 to 1.
    """
    some = draw(points, _LOOKED_AT, 0)
    with threadpool_limits(1):
        return float(estimate_bandwidth(some, quantile=quantile))


def mean_shift(points: Points, bandwidth: float) -> Modes:
    """Modes of the density of some patches, by a flat kernel from bins that hold five or more; from
    the fullest bins where none does. A mode has five patches in its kernel at least.

    scikit-learn's asks a search of neighbours for each step of each seed: 10 to 20 times as long.

    Parameters
    ----------
    points : (n, components), ascending.
    bandwidth : radius of the kernel, above 0.

    Returns
    -------
    Modes; none where no five patches are so near to each other.
    """
    points = np.ascontiguousarray(points)
    centres = _seeds(points, bandwidth)
    held = np.zeros(len(centres), np.int64)
    _climb(points, centres, bandwidth, held)
    order = np.lexsort((*centres.T[::-1], -held))
    order = order[held[order] >= _FEWEST]
    kept: list[int] = []
    for k in order.tolist():  # the fullest first; what lies in its kernel is the same mode
        apart = np.sqrt(((centres[kept] - centres[k]) ** 2).sum(axis=1))
        if not (apart <= bandwidth).any():
            kept.append(k)
    return Modes(centres[kept], FAR * bandwidth)


@compiled
def _climb(points: Any, centres: Any, radius: float, held: Any) -> None:
    """Move each centre to the mean of the points within a radius until it stands still.

    Parameters
    ----------
    points : float64 (n, components)
    centres : float64 (m, components), moved.
    radius : of the kernel.
    held : int64 (m,), to fill: how many points lie in the kernel in the end.
    """
    mean = np.empty(points.shape[1])
    for k in range(len(centres)):
        for _ in range(_STEPS):
            mean[:] = 0.0
            count = 0
            for i in range(len(points)):
                total = 0.0
                for j in range(points.shape[1]):
                    step = points[i, j] - centres[k, j]
                    total += step * step
                if total <= radius * radius:
                    count += 1
                    for j in range(points.shape[1]):
                        mean[j] += points[i, j]
            held[k] = count
            if count == 0:
                break
            moved = 0.0
            for j in range(points.shape[1]):
                step = mean[j] / count - centres[k, j]
                moved += step * step
                centres[k, j] += step
            if moved <= (_STILL * radius) ** 2:
                break


def _seeds(points: Points, bandwidth: float) -> Points:
    """The means of the patches of bins a bandwidth wide, of those that hold five or more; where
    there are none, of the fullest ones.

    Means, and not the middles of bins: in 22 dimensions the middle of a bin may have no patch
    within twice the bandwidth.
    """
    bins = np.round(points / bandwidth)
    _, which, counts = np.unique(bins, axis=0, return_inverse=True, return_counts=True)
    sums = np.zeros((len(counts), points.shape[1]))
    np.add.at(sums, which.reshape(-1), points)
    means = np.asarray(sums / counts[:, None])
    full = counts >= _FEWEST
    if full.any():
        return means[full]
    return means[np.argsort(-counts, kind="stable")[:_SEEDS]]


def k_means(points: Points, count: int, seed: int) -> Modes:
    """So many middles that the patches lie near to one of them; each patch is in a scene.

    Parameters
    ----------
    points : (n, components), ascending, with `count` different rows or more.
    count : of scenes.
    seed : of the first middles.
    """
    with threadpool_limits(1):
        found = KMeans(count, n_init=5, random_state=seed).fit(points)
    return Modes(np.ascontiguousarray(found.cluster_centers_, np.float64), np.inf)


def assign(points: Points, modes: Modes) -> tuple[npt.NDArray[np.int64], Points]:
    """The nearest mode of each patch, `RARE` where that is too far, and its distance.

    Each patch is worked out alone, so that others beside it change no bit.

    Parameters
    ----------
    points : (n, components)
    modes : Modes

    Returns
    -------
    Scenes int64 (n,) and distances float64 (n,), infinite where there is no mode.
    """
    scene = np.full(len(points), RARE, np.int64)
    distance = np.full(len(points), np.inf)
    if len(modes):
        nearest(np.ascontiguousarray(points), modes.centres, scene, distance)
        scene[distance > modes.far] = RARE
    return scene, distance


def numbered(points: Points, modes: Modes) -> Modes:
    """The same modes with the largest scene first; modes without a patch are left out.

    Of scenes as large the one with the lesser centre comes first.

    Parameters
    ----------
    points : all patches (n, components).
    modes : in any order.
    """
    scene, _ = assign(points, modes)
    sizes = np.bincount(scene[scene != RARE], minlength=len(modes))
    order = np.lexsort((*modes.centres.T[::-1], -sizes))
    return Modes(modes.centres[order[sizes[order] > 0]], modes.far)
