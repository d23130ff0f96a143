"""Memory that a file may ask for: a small one can state any size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from rasterio.enums import Interleaving
from rasterio.io import DatasetReader

from engine.errors import ReadError

__all__ = ["require_blocks", "require_room"]

_MOST = 1 << 30  # bytes at once, decoded


def require_room(file: DatasetReader, bands: Sequence[int], size: Sequence[Any]) -> None:
    """Refuse to read more at once than any map needs.

    Parameters
    ----------
    file : open.
    bands : that are read together, from 1.
    size : height and width of what is read.

    Raises
    ------
    ReadError
    """
    _require("what is to be read of the file", file, bands, size)


def require_blocks(file: DatasetReader, band: int) -> None:
    """Refuse a file of whose blocks one alone is too large: GDAL decodes them whole.

    Raises
    ------
    ReadError
    """
    together = file.interleaving == Interleaving.pixel
    bands = range(1, file.count + 1) if together else [band]
    _require("a block of the file", file, bands, file.block_shapes[band - 1])


def _require(what: str, file: DatasetReader, bands: Sequence[int], size: Sequence[Any]) -> None:
    height, width = (int(side) for side in size)
    each = sum(np.dtype(file.dtypes[band - 1]).itemsize for band in bands)
    if height * width * each > _MOST:
        raise ReadError(
            f"{what} is too large",
            got=f"{height} x {width} pixels, {height * width * each / 2**30:.3g} GiB",
            expected=f"at most {_MOST >> 30} GiB",
            remedy="write it with pixels not far smaller than the map's, in blocks of 512 pixels "
            "(a cloud-optimised GeoTIFF)",
        )
