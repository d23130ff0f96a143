"""Patches to describe, of chip sets and patch sets; `frames` has those of images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import zarr

from engine.datasets.chips import UNKNOWN, ChipSet, open_chips
from engine.datasets.patches import PatchSet, open_patches
from engine.errors import LabelError
from engine.texture.scene_file import Kind

__all__ = ["NO_LABEL", "RGB", "Block", "ChipPatches", "Patches", "SetPatches", "open_set"]

RGB = ("B04", "B03", "B02")
NO_LABEL = UNKNOWN
"""Code of a pixel without a label."""

_CHIPS, _PATCHES = 32, 1024  # at once: of the one gigabytes in all, of the other a chunk
_GROUND = 2000.0  # metres: side of a square of ground that is a frame of a set with coordinates
_ZERO = 1000  # stored number of a reflectance of 0
_BRIGHT = 0.25  # reflectance shown as white


@dataclass(frozen=True)
class Block:
    """Some patches.

    Attributes
    ----------
    rows : int64 (n,), which they are.
    rgb : red, green and blue, whole numbers from 0, (n, 3, side, side)
    valid : bool (n, side, side), where there is an image.
    labels : uint8 (n, side, side), codes of classes, 255 unknown; None: there are none.
    """

    rows: npt.NDArray[np.int64]
    rgb: npt.NDArray[Any]
    valid: npt.NDArray[np.bool_]
    labels: npt.NDArray[np.uint8] | None


class Patches(Protocol):
    """Patches of one size.

    Attributes
    ----------
    name : shown to people.
    side : pixels.
    labelled : whether pixels have labels.
    frames : names of the images or places that they are cut from.
    frame : int64 (n,), positions in `frames`.
    at : float64 (n, 2), where in the frame: first row and column in pixels; of a set -y and x in
        metres of its CRS, NaN where nobody knows.
    at_pixels : whether it is rows and columns.
    pixel : side of a pixel in metres; None: nobody knows, or several.
    kind : of its numbers: uint8 or uint16 of images, reflectance of composites.
    split : uint8 (n,), as a set has it; None: it has none.
    notes : of what was left out.
    """

    name: str
    side: int
    labelled: bool
    frames: tuple[str, ...]
    frame: npt.NDArray[np.int64]
    at: npt.NDArray[np.float64]
    split: npt.NDArray[np.uint8] | None
    notes: tuple[str, ...]
    at_pixels: bool
    pixel: float | None

    @property
    def kind(self) -> Kind: ...

    def __len__(self) -> int: ...

    def blocks(self) -> Iterator[Block]:
        """All of them, a few at a time, in order."""

    def take(self, rows: npt.NDArray[np.int64]) -> Block:
        """Some of them."""

    def picture(self, block: Block, k: int) -> npt.NDArray[np.uint8]:
        """One of a block as it is shown: uint8 (side, side, 3)."""


class _OfSet(ABC):
    """What chip sets and patch sets have in common."""

    name: str
    frames: tuple[str, ...]
    frame: npt.NDArray[np.int64]
    at: npt.NDArray[np.float64]
    split: npt.NDArray[np.uint8] | None
    notes: tuple[str, ...] = ()
    at_pixels = False
    pixel: float | None
    _count: int
    _at_once: int
    _stored: bool  # reflectance as cubes keep it, or pixels of 8 bits

    @property
    def kind(self) -> Kind:
        """Of its numbers."""
        return "reflectance" if self._stored else "uint8"

    def __len__(self) -> int:
        return self._count

    def _place(
        self,
        places: Sequence[str],
        place: npt.NDArray[np.uint16],
        xy: npt.NDArray[np.float64],
        split: npt.NDArray[np.uint8],
    ) -> None:
        """Frames: squares of ground of a place; the whole place where chips have no coordinates."""
        square = np.floor(np.where(np.isfinite(xy), xy, 0.0) / _GROUND).astype(np.int64)
        told = [
            places[p] if np.isnan(at).any() else f"{places[p]} {x}E {y}N"
            for p, (x, y), at in zip(place.tolist(), square.tolist(), xy, strict=True)
        ]
        names, self.frame = np.unique(np.array(told, object), return_inverse=True)
        self.frames, self._count = tuple(names.tolist()), len(told)
        self.at = np.stack([-xy[:, 1], xy[:, 0]], axis=1)
        self.split = split if (split < 3).any() else None

    def blocks(self) -> Iterator[Block]:
        """All of them, a few at a time, in order."""
        for first in range(0, self._count, self._at_once):
            yield self.take(
                np.arange(first, min(first + self._at_once, self._count), dtype=np.int64)
            )

    @abstractmethod
    def take(self, rows: npt.NDArray[np.int64]) -> Block:
        """Some of them."""

    def picture(self, block: Block, k: int) -> npt.NDArray[np.uint8]:
        """One of a block as it is shown: uint8 (side, side, 3)."""
        shown = block.rgb[k]
        if self._stored:
            shown = 255 * np.clip(shown / (_BRIGHT * 10_000), 0, 1) ** 0.7
        return np.ascontiguousarray(np.moveaxis(shown.astype(np.uint8), 0, -1))


class ChipPatches(_OfSet):
    """The chips of a set.

    Raises
    ------
    LabelError
        Where there are none, or they have no red, green and blue.
    """

    def __init__(self, chips: ChipSet, name: str) -> None:
        self.name, self._chips, self.side = name, chips, chips.side
        self.pixel = chips.resolution if np.isfinite(chips.xy).all() else None
        _require(len(chips), chips.bands, name)
        self.labelled, self._at_once = True, _CHIPS
        self._stored = chips.x.dtype == np.uint16
        self._bands = [chips.bands.index(band) for band in RGB]
        self._place(chips.places, chips.place, chips.xy, chips.split)

    def take(self, rows: npt.NDArray[np.int64]) -> Block:
        """Some of them."""
        x, y, seen = self._chips.take(rows)
        valid: npt.NDArray[np.bool_] = np.ones(y.shape, bool) if seen is None else seen
        rgb = x[:, self._bands]
        return Block(rows, _from_zero(rgb) if self._stored else rgb, valid, y)


class SetPatches(_OfSet):
    """The patches of a set of composites, without their context.

    Raises
    ------
    LabelError
        Where there are none, they have no red, green and blue, or are vectors.
    """

    def __init__(self, found: PatchSet, name: str) -> None:
        self.name, self._set, self.side = name, found, found.patch
        self.pixel = found.resolution
        if found.x.dtype.kind == "f":
            raise LabelError(
                "the patches are published vectors, not pictures",
                got=f"{name}: {found.x.dtype} of {', '.join(found.bands[:4])} …",
                expected="patches of composites or of images",
                remedy="search the store of the embedding by a place",
            )
        _require(len(found), found.bands, name)
        self.labelled = False  # one class for each patch, which says nothing of its pixels
        self._stored, self._at_once = True, _PATCHES
        self._bands = [found.bands.index(band) for band in RGB]
        self._place([p.name for p in found.places], found.place, found.xy, found.split)

    def take(self, rows: npt.NDArray[np.int64]) -> Block:
        """Some of them."""
        rgb = self._set.take(rows)[:, self._bands]
        return Block(rows, _from_zero(rgb), np.asarray((rgb > 0).all(axis=1)), None)


def open_set(path: Path) -> Patches | None:
    """The patches of a chip set or patch set; None where the folder is neither.

    Raises
    ------
    LabelError
    """
    if not (path / "zarr.json").is_file():
        return None
    try:
        inside = set(zarr.open_group(str(path), mode="r").group_keys())
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise LabelError("the set cannot be read", got=f"{path}: {error}") from error
    if "chips" in inside:
        return ChipPatches(open_chips(path), path.name)
    if "patches" in inside:
        return SetPatches(open_patches(path), path.name)
    raise LabelError(
        "the folder is neither a chip set nor a patch set",
        got=f"{path}: {', '.join(sorted(inside)) or 'nothing'}",
        expected="chips, or patches",
    )


def _require(count: int, bands: Sequence[str], name: str) -> None:
    if not count:
        raise LabelError("the set is empty", got=name, expected="one patch or more")
    lacking = [band for band in RGB if band not in bands]
    if lacking:
        raise LabelError(
            "patches lack bands that make their brightness",
            got=f"{name}: {', '.join(bands)}",
            expected=", ".join(RGB),
        )


def _from_zero(stored: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Reflectance x 10,000, nothing below 0."""
    return np.maximum(stored.astype(np.int64) - _ZERO, 0)
