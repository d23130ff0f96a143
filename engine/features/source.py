"""What a source of features is: opened and checked by the driver, read by workers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from odc.geo.geobox import GeoBox

__all__ = ["HERE", "KNOWN", "FeatureReader", "FeatureSource", "Origin", "Read", "band_names"]

KNOWN = "known"
"""The channel of every feature that says how much of a pixel is known, 0 to 1: its mask."""


HERE = "here"
"""Key of a source's parameters for what is of one place alone."""


class Read(NamedTuple):
    """A feature on a window of the grid.

    Attributes
    ----------
    values : float32 (channel, y, x), NaN where nothing of the pixel is known.
    known : float32 (y, x), the share of the pixel that is known, 0 to 1.
    """

    values: npt.NDArray[np.float32]
    known: npt.NDArray[np.float32]


class FeatureReader(Protocol):
    """What a worker is sent: it can be pickled, and opens its files itself, once for a process."""

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the values without the feature's own, as in ``mean``; `KNOWN` is not one."""

    def read(self, box: GeoBox, anchor: tuple[float, float]) -> Read:
        """The feature on a window whose corner lies on the lattice of `anchor`.

        A pixel depends on the ground below it alone (and a fixed reach about it), never on the
        window: tiles leave no trace. Pixels may be of any size.

        Raises
        ------
        ReadError
            Where a file cannot be read, or is another one than was checked.
        """


@dataclass(frozen=True)
class Origin:
    """A file, or several as one, of which a feature is made: what store and report say of it.

    Attributes
    ----------
    place : absolute path.
    files : how many these are.
    size : bytes of them all.
    crs : as text.
    stamp : of names, sizes and times of its files, hexadecimal.
    year : that it is of; None: it does not say.
    licence, attribution, citation : as the recipe states them.
    """

    place: str
    files: int
    size: int
    crs: str
    stamp: str
    year: int | None = None
    licence: str | None = None
    attribution: str | None = None
    citation: str | None = None


class FeatureSource(Protocol):
    """One feature of a recipe, opened and checked before work starts."""

    @property
    def name(self) -> str:
        """As the recipe calls it."""

    @property
    def reader(self) -> FeatureReader:
        """What workers read it with."""

    @property
    def parameters(self) -> Mapping[str, Any]:
        """JSON values that decide the result beside the files; part of the stage's fingerprint.

        What differs from place to place, as the year that is taken, lies under `HERE`: two cities
        may differ in it and their features be alike.
        """

    @property
    def ranges(self) -> Mapping[str, tuple[float, float]]:
        """What values of a channel can be, where that is not 0 to 1: cubes keep steps of it."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What people should know: a year that is not the wanted one, ground not covered."""

    @property
    def origins(self) -> tuple[Origin, ...]:
        """What it is made of."""

    def stamp(self, bounds: tuple[float, float, float, float]) -> bytes:
        """Of the files that decide the feature within bounds (west, south, east, north, in metres
        of the grid): a tile whose files are the same is not made again."""


def band_names(name: str, channels: tuple[str, ...]) -> tuple[str, ...]:
    """What cards and the store call a feature's channels, the mask last: ``height.mean``."""
    return tuple(f"{name}.{channel}" for channel in (*channels, KNOWN))
