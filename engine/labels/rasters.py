"""Rasters of classes, and of places: read as what they say, or refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from affine import Affine
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.vrt import WarpedVRT

from engine.errors import NatmapError

__all__ = ["TOLERANCE", "onto", "read_shown", "require_plain", "require_upright"]


TOLERANCE = 1e-3
"""Of a pixel, by which a place may be missed; GDAL's own, an eighth, takes the neighbour's value of
one pixel in a hundred, and is no faster."""


def require_plain(file: rasterio.DatasetReader, refuse: type[NatmapError]) -> None:
    """Refuse a raster that does not say what it is with its first band as it stands.

    Raises
    ------
    NatmapError
        Of the class `refuse`: where it has several bands of data, complex numbers, a scale or an
        offset, or both alpha and a mask.
    """
    bands = [k for k, use in enumerate(file.colorinterp, 1) if use != ColorInterp.alpha]
    if bands != [1]:
        names = [text or f"band {k}" for k, text in enumerate(file.descriptions, 1) if k in bands]
        raise refuse(
            "a raster of classes or places has several bands",
            got=f"{file.name}: {', '.join(names[:8])}{', …' if len(names) > 8 else ''}",
            expected="one band, and alpha at most after it",
            remedy="write the one that is meant into a file of its own (gdal_translate -b 2 …)",
        )
    if file.dtypes[0].startswith("complex"):
        raise refuse(
            "a raster of classes or places holds complex numbers",
            got=f"{file.name}: {file.dtypes[0]}",
            expected="codes",
        )
    masked = MaskFlags.per_dataset in file.mask_flag_enums[0] or not file.mask_flag_enums[0]
    if len(file.colorinterp) > 1 and masked and MaskFlags.alpha not in file.mask_flag_enums[0]:
        raise refuse(
            "a raster of classes or places is hidden by alpha and by a mask",
            got=file.name,
            expected="one of the two",
            remedy="write what both show into a file with nodata",
        )
    if (file.scales[0], file.offsets[0]) != (1.0, 0.0):
        raise refuse(
            "a raster of classes or places has a scale",
            got=f"{file.name}: scale {file.scales[0]:g} and offset {file.offsets[0]:g}",
            expected="codes as they stand in the file",
            remedy="write its values out (gdal_translate -unscale …)",
        )


def require_upright(file: rasterio.DatasetReader, refuse: type[NatmapError]) -> None:
    """Refuse a map whose rows do not run from west to east: its squares are no blocks of ground.

    Raises
    ------
    NatmapError
        Of the class `refuse`.
    """
    at = file.transform
    if at.b or at.d or not at.a > 0:
        raise refuse(
            "the map is rotated",
            got=f"{file.name}: {tuple(at)[:6]}",
            expected="rows from west to east",
            remedy="write it on a grid that is not (gdalwarp -r near)",
        )


def read_shown(file: Any, window: Any = None) -> npt.NDArray[Any]:
    """A window of the first band; NaN where the file's mask or alpha hides it.

    Its nodata stays as it is. Values are of the file's own type where it has no mask.
    """
    values: npt.NDArray[Any] = file.read(1, window=window)
    flags = file.mask_flag_enums[0]
    alpha = [k for k, use in enumerate(file.colorinterp, 1) if use == ColorInterp.alpha]
    if alpha:  # where nodata is declared GDAL's mask is of that
        shown = file.read(alpha[0], window=window) > 0
    elif MaskFlags.per_dataset in flags or not flags:
        shown = file.read_masks(1, window=window) > 0
    else:
        return values
    return values if shown.all() else np.where(shown, values, np.nan)


def onto(
    file: rasterio.DatasetReader, crs: Any, transform: Affine, shape: tuple[int, int]
) -> WarpedVRT:
    """A raster on another grid by its nearest pixels, as float64.

    NaN outside of it, at its nodata and where it is masked.
    """
    return WarpedVRT(
        file,
        crs=crs,
        transform=transform,
        height=shape[0],
        width=shape[1],
        resampling=Resampling.nearest,
        dtype="float64",
        nodata=np.nan,
        tolerance=TOLERANCE,
    )
