"""Features of the ground as a map's store has them, for examples that are cut there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from engine.errors import LabelError
from engine.products.features import STORED

__all__ = ["StoredGround"]


class StoredGround:
    """The stage `features` of a store, where it has one.

    Parameters
    ----------
    root : of a state of the store; None: there is no store.
    """

    def __init__(self, root: zarr.Group | None) -> None:
        self._stored: Any = None if root is None else root.get(STORED)
        told: Any = {} if self._stored is None else self._stored.attrs["ranges"]
        self._ranges = {str(name): (float(low), float(high)) for name, (low, high) in told.items()}
        self.names = list(self._ranges)

    def require(self, bands: Sequence[str], name: str, recipe: str) -> None:
        """Refuse a store that lacks bands of features.

        Raises
        ------
        LabelError
        """
        if any(band not in self.names for band in bands):
            raise LabelError(
                f"the store of {name} lacks features of the model",
                got=", ".join(self.names) or "no features",
                expected=", ".join(bands),
                remedy=f"describe them under features: of {recipe}, then natmap run {recipe} "
                "--until composite",
            )

    def read(self, bands: Sequence[str], rows: slice, cols: slice) -> npt.NDArray[np.uint16]:
        """Stored numbers (band, y, x) of a window of the store."""
        part = np.asarray(self._stored[:, rows, cols])
        return part[[self.names.index(band) for band in bands]]

    def ranges_of(self, bands: Sequence[str]) -> dict[str, tuple[float, float]]:
        """What the stored numbers of bands stand for."""
        return {band: self._ranges[band] for band in bands}
