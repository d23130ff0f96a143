"""Instances in 1 m images: regions of one look, for the graph network.

A segmenter takes an image and gives masks. They are sought once per block of ground, anchored to
the grid, and windows of 320 m are clipped from them: neighbouring windows share two thirds of
their ground, and would each be segmented again, differently. (DF4LCZ runs Segment Anything on each
window; a partition covers the window and never overlaps, its masks may do both. Train and infer
with the same segmenter.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.ndimage import find_objects

__all__ = [
    "KINDS",
    "LEAST",
    "MOST",
    "SEGMENTATIONS",
    "SEGMENTERS",
    "Instance",
    "clip",
    "merge_small",
    "segment",
]

LEAST = 50
"""Pixels of an instance, at least."""
MOST = 50
"""Instances of a window: the largest."""

SEGMENTATIONS = ("shared", "per_window")
"""Once per block of ground, or for each window."""

Image = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int32]
Kind = Literal["felzenszwalb", "slic", "sam"]


@dataclass(frozen=True)
class Instance:
    """A region of an image.

    Attributes
    ----------
    top, left : px of the mask's corner in the image.
    mask : bool (y, x), no row or column empty at its rim.
    """

    top: int
    left: int
    mask: npt.NDArray[np.bool_]

    @property
    def area(self) -> int:
        """Pixels."""
        return int(self.mask.sum())


def segment(
    rgb: Image,
    kind: Kind = "felzenszwalb",
    valid: npt.NDArray[np.bool_] | None = None,
    checkpoint: Path | None = None,
    device: str = "cpu",
) -> tuple[Instance, ...]:
    """Segment an image.

    Parameters
    ----------
    rgb : uint8 (y, x, 3)
    kind : ``felzenszwalb`` (sigma 0.8, scale 200, at least 100 px) or ``slic`` (60 segments for
        each 320 x 320 px, compactness 10): parts of the image that cover it; or ``sam``, Segment
        Anything: things in it, which may overlap and leave gaps.
    valid : bool (y, x), optional
        Other pixels belong to no instance.
    checkpoint : folder of the network, for ``sam``.
    device : "cpu" or "cuda", where that runs.

    Returns
    -------
    Instances of at least 50 px, the largest first; equal ones by place.

    Raises
    ------
    ValueError
        Where there is no such segmenter, or it is no image of three bytes a pixel.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown segmenter {kind}; there are {', '.join(KINDS)}")
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
        raise ValueError(f"an image must be uint8 (y, x, 3), got {rgb.dtype} {rgb.shape}")
    if kind == "sam":
        from engine.models.sam import find_masks, load_sam  # torch, which the others do without

        assert checkpoint is not None
        masks = find_masks(rgb, load_sam(checkpoint, device))
        return _largest(masks if valid is None else masks & valid)
    labels = merge_small(SEGMENTERS[kind](rgb), rgb)
    if valid is not None and not valid.all():
        labels = np.where(valid, labels, -1)
    return instances_of(labels)


def _felzenszwalb(rgb: Image) -> Labels:
    from skimage.segmentation import felzenszwalb

    found: Labels = felzenszwalb(rgb / 255.0, scale=200, sigma=0.8, min_size=100).astype(np.int32)
    return found


def _slic(rgb: Image) -> Labels:
    from skimage.segmentation import slic

    count = max(round(60 * rgb.shape[0] * rgb.shape[1] / 320**2), 1)
    found: Labels = slic(rgb, n_segments=count, compactness=10, start_label=0).astype(np.int32)
    return found


SEGMENTERS: dict[str, Callable[[Image], Labels]] = {"felzenszwalb": _felzenszwalb, "slic": _slic}
"""Segmenters that need no weights, by name; each gives a label to every pixel."""
KINDS = (*SEGMENTERS, "sam")
"""All of them."""


def merge_small(labels: Labels, rgb: Image, least: int = LEAST) -> Labels:
    """Join regions under `least` px to the neighbour whose mean colour is nearest.

    The smallest first; of equally near neighbours the one with the lowest label. Then neighbours
    of the same mean colour, to a level of each band, become one: a blurred edge between two plain
    fields would else leave strips along it.
    """
    _, flat = np.unique(labels, return_inverse=True)
    labels = flat.reshape(labels.shape).astype(np.int32)
    regions = _Regions(labels, rgb)
    order = np.argsort(regions.areas, kind="stable").tolist()
    small = [k for k in order if regions.areas[k] < least]
    while small:
        k = small.pop(0)
        if regions.areas[k] >= least or regions.into[k] != k or not regions.near[k]:
            continue
        best = min(sorted(regions.near[k]), key=lambda n: regions.apart(k, n))
        regions.join(k, best)
        if regions.areas[best] < least:
            small.append(best)
    for k in range(len(regions.into)):
        while regions.into[k] == k and (
            same := [n for n in sorted(regions.near[k]) if regions.apart(k, n) <= 1.0]
        ):
            regions.join(same[0], k)
    return regions.labels(labels)


class _Regions:
    """Regions of a label map: areas, colours, neighbours; joined one into another.

    Numbers of Python, as arrays of three take ten times as long.
    """

    def __init__(self, labels: Labels, rgb: Image) -> None:
        count = int(labels.max()) + 1
        self.into = np.arange(count)
        self.areas: list[int] = np.bincount(labels.ravel(), minlength=count).tolist()
        sums = [np.bincount(labels.ravel(), rgb[..., k].ravel(), count) for k in range(3)]
        self._sums: list[list[float]] = np.stack(sums, axis=1).tolist()
        self.near: list[set[int]] = [set() for _ in range(count)]
        for one, other in ((labels[:, :-1], labels[:, 1:]), (labels[:-1], labels[1:])):
            different = one != other
            pairs = np.unique(np.stack([one[different], other[different]]), axis=1)
            for a, b in pairs.T.tolist():
                self.near[a].add(b)
                self.near[b].add(a)

    def apart(self, one: int, other: int) -> float:
        """Largest difference of the mean colours, in levels."""
        here, there = self.areas[one], self.areas[other]
        pairs = zip(self._sums[one], self._sums[other], strict=True)
        return max(abs(a / here - b / there) for a, b in pairs)

    def join(self, one: int, other: int) -> None:
        """Make a region part of its neighbour."""
        self.into[one] = other
        self.areas[other] += self.areas[one]
        self._sums[other] = [a + b for a, b in zip(self._sums[other], self._sums[one], strict=True)]
        for n in self.near[one]:
            self.near[n].discard(one)
            if n != other:
                self.near[n].add(other)
                self.near[other].add(n)
        self.near[one] = set()

    def labels(self, labels: Labels) -> Labels:
        """The label map after all joins."""
        ends = self.into.copy()
        while (further := self.into[ends]).tolist() != ends.tolist():
            ends = further
        found: Labels = ends[labels].astype(np.int32)
        return found


def _largest(masks: npt.NDArray[np.bool_]) -> tuple[Instance, ...]:
    """Masks (n, y, x) of at least 50 px as instances, the largest first; equal ones by place."""
    found = []
    for mask in masks:
        if mask.sum() >= LEAST:
            (rows, cols), *_ = find_objects(mask.astype(np.int8))
            found.append(Instance(rows.start, cols.start, mask[rows, cols]))
    return tuple(sorted(found, key=lambda i: (-i.area, i.top, i.left)))


def instances_of(labels: Labels) -> tuple[Instance, ...]:
    """The regions of a label map, the largest first; equal ones by place. Below 0 is none."""
    found = [
        Instance(rows.start, cols.start, labels[rows, cols] == number)
        for number, (rows, cols) in _regions(labels)
    ]
    return tuple(sorted(found, key=lambda i: (-i.area, i.top, i.left)))


def _regions(labels: Labels) -> Iterator[tuple[int, tuple[slice, slice]]]:
    for number, place in enumerate(find_objects(labels + 1)):
        if place is not None:
            yield number, place


def clip(instances: tuple[Instance, ...], top: int, left: int, side: int) -> tuple[Instance, ...]:
    """What of instances lies in a window, as instances of the window.

    Parts under 50 px are dropped and the 50 largest kept. A window with fewer than two gets the
    cells of a 4 x 4 grid instead.
    """
    found: list[Instance] = []
    for one in instances:
        height, width = one.mask.shape
        rows = slice(max(top - one.top, 0), min(top + side - one.top, height))
        cols = slice(max(left - one.left, 0), min(left + side - one.left, width))
        if rows.start >= rows.stop or cols.start >= cols.stop:
            continue
        part = one.mask[rows, cols]
        if part.sum() < LEAST:
            continue
        down, across = np.flatnonzero(part.any(axis=1)), np.flatnonzero(part.any(axis=0))
        found.append(
            Instance(
                one.top + rows.start + int(down[0]) - top,
                one.left + cols.start + int(across[0]) - left,
                part[down[0] : down[-1] + 1, across[0] : across[-1] + 1],
            )
        )
    if len(found) < 2:
        quarter = side // 4
        full = np.ones((quarter, quarter), bool)
        return tuple(
            Instance(quarter * row, quarter * col, full) for row in range(4) for col in range(4)
        )
    found.sort(key=lambda i: (-i.area, i.top, i.left))
    return tuple(found[:MOST])
