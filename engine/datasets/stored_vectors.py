"""Vectors of an embedding's cells, read from its store when they are asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from engine.infer.vectors import decode_vectors

__all__ = ["StoredVectors"]


class StoredVectors:
    """A table of vectors (cells, features) that stays in its store.

    It holds one row of the array's chunks at a time, as it is stored, and knows the last one: who
    asks for its rows in order reads each chunk once.

    Parameters
    ----------
    array : Zarr array (feature, y, x).
    scale : float32 (y, x), of int8; None: there is none.
    rows, cols : int64 (n,), the cells in the order of the table; rows never descend.
    """

    def __init__(
        self,
        array: Any,
        scale: Any | None,
        rows: npt.NDArray[np.int64],
        cols: npt.NDArray[np.int64],
    ) -> None:
        self._array, self._scale = array, scale
        self._rows, self._cols = rows, cols
        self._high = int(array.chunks[1])
        self._known: tuple[int, Any, Any] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Cells and features."""
        return len(self._rows), int(self._array.shape[0])

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, where: slice | npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Vectors of some cells, float32 (cells, features), NaN where there is none."""
        rows, cols = self._rows[where], self._cols[where]
        found = np.empty((len(rows), self.shape[1]), np.float32)
        bands = rows // self._high
        for band in np.unique(bands).tolist():
            here = bands == band
            values, scale = self._band(band)
            at = rows[here] - band * self._high, cols[here]
            found[here] = decode_vectors(
                values[:, at[0], at[1]], None if scale is None else scale[at]
            ).T
        return found

    def _band(self, band: int) -> tuple[Any, Any]:
        if self._known is None or self._known[0] != band:
            rows = slice(band * self._high, (band + 1) * self._high)
            self._known = None  # not two at a time
            values = np.asarray(self._array[:, rows])
            self._known = band, values, None if self._scale is None else self._scale[rows]
        return self._known[1], self._known[2]
