"""Cloud-optimised GeoTIFFs, written strip by strip: no product is ever whole in memory."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
import rasterio.shutil
from odc.geo.geobox import GeoBox
from rasterio._err import CPLE_BaseError  # what `shutil.copy` raises; it has no public name
from rasterio.windows import Window

from engine.errors import PublishError
from engine.publishing.forms import Layer

__all__ = ["write_cog"]

_STRIP = 1024  # rows


def write_cog(
    path: Path,
    layer: Layer,
    box: GeoBox,
    read: Callable[[slice], npt.NDArray[Any]],
    tags: Mapping[str, str],
) -> None:
    """Write one layer.

    Parameters
    ----------
    path : Path
    layer : Layer
    box : GeoBox
    read : gives rows of the layer, (rows, x); of one with bands (band, rows, x).
    tags : metadata of the file.

    Raises
    ------
    PublishError
        Where the disk is full or the folder cannot be written; no file is left then.
    """
    height, width = box.shape
    rough = path.with_suffix(".part.tif")
    written = 0
    try:
        with rasterio.open(
            rough,
            "w",
            driver="GTiff",
            height=height,
            width=width,
            count=max(len(layer.bands), 1),
            dtype=layer.dtype,
            crs=str(box.crs),
            transform=box.transform,
            nodata=layer.nodata,
            tiled=True,
            blockxsize=512,
            blockysize=512,
            compress="deflate",
            bigtiff="if_safer",
        ) as file:
            for rows, window in _strips(height, width):
                strip = np.ascontiguousarray(read(rows), dtype=layer.dtype)
                planes = strip if strip.ndim == 3 else strip[None]
                file.write(planes, window=window)
                written = zlib.crc32(strip.data, written)
            file.update_tags(**tags)
            for number, title in enumerate(layer.bands or (layer.title,), 1):
                file.set_band_description(number, title)
            if layer.palette:
                file.write_colormap(1, {code: layer.rgba(code) for code in layer.palette})
        rasterio.shutil.copy(
            rough,
            path,
            driver="COG",
            compress="DEFLATE",
            predictor="YES" if layer.palette is None else "NO",
            overview_resampling=layer.overview.upper(),
            blocksize=512,
            bigtiff="if_safer",
        )
        if _checksum(path) != written:
            raise OSError("it reads back other than it was written")
    except (rasterio.errors.RasterioError, CPLE_BaseError, OSError) as error:
        path.unlink(missing_ok=True)
        raise PublishError(
            "a raster cannot be written",
            got=f"{path.name}: {error}",
            remedy="make room or name another folder in `publish`; the store is untouched",
        ) from error
    finally:
        rough.unlink(missing_ok=True)


def _strips(height: int, width: int) -> Iterator[tuple[slice, Window]]:
    for top in range(0, height, _STRIP):
        stop = min(top + _STRIP, height)
        yield slice(top, stop), Window(0, top, width, stop - top)


def _checksum(path: Path) -> int:
    """What the file really holds: GDAL says nothing where the last blocks meet a full disk."""
    found = 0
    with rasterio.open(path) as file:
        for _, window in _strips(*file.shape):
            strip = np.ascontiguousarray(file.read(window=window))
            found = zlib.crc32(strip.data, found)
    return found
