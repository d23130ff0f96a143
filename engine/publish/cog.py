"""Cloud-optimised GeoTIFFs, written strip by strip: no product is ever whole in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import rasterio
import rasterio.shutil
from odc.geo.geobox import GeoBox
from rasterio.windows import Window

from engine.errors import PublishError

__all__ = ["Layer", "write_cog"]

_STRIP = 1024  # rows


@dataclass(frozen=True)
class Layer:
    """How one raster of a product is written.

    Attributes
    ----------
    key : its asset key: map, classes, confidence, observations, reason.
    suffix : of the file's name, after the product's.
    overview : how overviews are made; classes must not be averaged.
    colours : code to RRGGBB, for rasters of codes.
    """

    key: str
    suffix: str
    title: str
    dtype: str
    nodata: float | None
    overview: Literal["mode", "nearest", "average"] = "nearest"
    colours: Mapping[int, str] | None = None


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
    read : gives rows of the layer, (rows, x).
    tags : metadata of the file.

    Raises
    ------
    PublishError
        Where the disk is full or the folder cannot be written.
    """
    height, width = box.shape
    rough = path.with_suffix(".part.tif")
    try:
        with rasterio.open(
            rough,
            "w",
            driver="GTiff",
            height=height,
            width=width,
            count=1,
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
            for top in range(0, height, _STRIP):
                rows = slice(top, min(top + _STRIP, height))
                strip = np.ascontiguousarray(read(rows), dtype=layer.dtype)
                file.write(strip, 1, window=Window(0, top, width, rows.stop - top))
            file.update_tags(**tags)
            file.set_band_description(1, layer.title)
            if layer.colours:
                file.write_colormap(1, {c: _rgba(v) for c, v in layer.colours.items()})
        rasterio.shutil.copy(
            rough,
            path,
            driver="COG",
            compress="DEFLATE",
            predictor="YES" if layer.colours is None else "NO",
            overview_resampling=layer.overview.upper(),
            blocksize=512,
        )
    except (rasterio.errors.RasterioError, OSError) as error:
        raise PublishError(
            "a raster cannot be written",
            got=f"{path.name}: {error}",
            remedy="make room or name another folder in `publish`; the store is untouched",
        ) from error
    finally:
        rough.unlink(missing_ok=True)


def _rgba(text: str) -> tuple[int, int, int, int]:
    red, green, blue = (int(text[i : i + 2], 16) for i in (0, 2, 4))
    return red, green, blue, 255
