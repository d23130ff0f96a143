"""Small files of published embeddings, made by the documented rules with numpy and the like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import zarr
from affine import Affine
from odc.geo.geobox import GeoBox
from pyproj import Transformer

GEOEMB = {"name": "geoemb:", "uuid": "61c12cc5-0e28-4056-999a-480cf3fb7e4c"}


def square_root(vectors: np.ndarray) -> np.ndarray:
    """Codes of AlphaEarth."""
    return np.clip(np.rint(np.sign(vectors) * np.sqrt(np.abs(vectors)) * 127.5), -127, 127).astype(
        np.int8
    )


def attributes(channels: int, **more: Any) -> dict[str, Any]:
    """What the convention asks for."""
    return {
        "zarr_conventions": [GEOEMB],
        "geoemb:type": "pixel",
        "geoemb:dimensions": channels,
        "geoemb:model": "https://example.org/model",
        "geoemb:source_data": ["https://example.org/scenes"],
        **more,
    }


def per_pixel(nodata: str = "NaN", name: str = "scales") -> dict[str, Any]:
    """Quantization with scales in an array."""
    return {
        "method": "per_pixel_scale",
        "original_dtype": "float32",
        "quantized_dtype": "int8",
        "scale": {"type": "array", "array_name": name, "nodata": nodata},
    }


def place(crs: str, transform: Sequence[float], shape: Sequence[int]) -> dict[str, Any]:
    """Where a group lies."""
    return {
        "proj:code": crs,
        "spatial:transform": list(transform),
        "spatial:shape": list(shape),
    }


def put(
    group: zarr.Group, name: str, values: np.ndarray, dims: Sequence[str], **more: Any
) -> zarr.Array:
    """An array in a group, in small chunks."""
    made = group.create_array(
        name,
        shape=values.shape,
        chunks=more.pop("chunks", tuple(min(n, max(12, n // 4)) for n in values.shape)),
        dtype=values.dtype,
        dimension_names=tuple(dims),
        **more,
    )
    made[...] = values
    return made


def store(
    folder: Path,
    vectors: np.ndarray,
    scales: np.ndarray | None,
    attrs: Mapping[str, Any],
    dims: Sequence[str] = ("feature", "y", "x"),
) -> Path:
    """A store with arrays at its root."""
    group = zarr.open_group(folder, mode="w", zarr_format=3)
    group.attrs.update(attrs)
    put(group, "embeddings", vectors, dims)
    if scales is not None:
        put(group, "scales", scales, [dim for dim in dims if dim not in ("feature", "band")])
    return folder


def zone(
    root: zarr.Group,
    name: str,
    crs: str,
    transform: Sequence[float],
    codes: np.ndarray,
    scales: np.ndarray,
    years: Sequence[int],
) -> zarr.Group:
    """A zone of TESSERA: codes (time, band, y, x), scales (time, y, x)."""
    group = root.create_group(name)
    group.attrs.update(place(crs, transform, codes.shape[2:]))
    put(group, "embeddings", codes, ("time", "band", "y", "x"), chunks=(1, *codes.shape[1:]))
    put(group, "scales", scales.astype(np.float32), ("time", "y", "x"), fill_value=np.inf)
    put(group, "time", np.asarray(years, "int32"), ("time",))
    return group


def tile(
    folder: Path,
    year: int,
    lon: float,
    lat: float,
    codes: np.ndarray,
    scales: np.ndarray,
    land: np.ndarray,
    crs: str,
    transform: Affine,
) -> str:
    """One of TESSERA's tiles of numpy files: codes (y, x, 128); its name."""
    name = f"grid_{lon:.2f}_{lat:.2f}"
    here = folder / "global_0.1_degree_representation" / str(year) / name
    here.mkdir(parents=True)
    np.save(here / f"{name}.npy", codes)
    np.save(here / f"{name}_scales.npy", scales.astype(np.float32))
    masks = folder / "global_0.1_degree_tiff_all"
    masks.mkdir(exist_ok=True)
    write(masks / f"{name}.tiff", land[None].astype(np.uint8), crs, transform)
    return name


def write(path: Path, values: np.ndarray, crs: str, transform: Affine, **more: Any) -> None:
    """A GeoTIFF of (band, y, x)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        count=len(values),
        height=values.shape[1],
        width=values.shape[2],
        dtype=values.dtype,
        crs=crs,
        transform=transform,
        **more,
    ) as file:
        file.write(values)


def south_up(path: Path, codes: np.ndarray, crs: str, west: float, north: float) -> None:
    """A file of AlphaEarth, whose rows go north: codes (64, y, x) north up."""
    south = north - 10 * codes.shape[1]
    write(path, codes[:, ::-1], crs, Affine(10, 0, west, 0, 10, south), nodata=-128)


def window(crs: str, west: float, north: float, shape: tuple[int, int], side: float = 10) -> GeoBox:
    """Pixels of a map, north up."""
    return GeoBox(shape, Affine(side, 0, west, 0, -side, north), crs)


def nearest(
    box: GeoBox, crs: str, transform: Sequence[float], shape: tuple[int, int]
) -> list[list[tuple[int, int] | None]]:
    """Row and column of the source pixel that holds each centre, one by one; None outside."""
    move = _move(str(box.crs), crs)
    back = ~Affine(*transform)
    found: list[list[tuple[int, int] | None]] = []
    for i in range(box.shape[0]):
        found.append([])
        for j in range(box.shape[1]):
            col, row = back * move.transform(*(box.transform * (j + 0.5, i + 0.5)))
            inside = 0 <= row < shape[0] and 0 <= col < shape[1]
            found[-1].append((int(row // 1), int(col // 1)) if inside else None)
    return found


@lru_cache
def _move(source: str, target: str) -> Transformer:
    return Transformer.from_crs(source, target, always_xy=True)
