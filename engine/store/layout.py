"""What a store holds: its identity, its arrays with their coordinates, its split manifests."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

import icechunk
import numpy as np
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec

from engine.grid.grid import Grid, grid_mapping
from engine.store.arrays import DAYS, FIRST_DAY, ArraySpec, nodata_of

__all__ = [
    "create_arrays",
    "differences",
    "form_of",
    "identity_of",
    "other_meanings",
    "split_manifests",
]

# A commit rewrites each manifest that it touches, so they must be small; but merging a fork costs
# the square of the declared splits: 0.1 ms with 400, 0.8 with 900, 8 with 2,500, 48 with 6,400.
_SPLITS = 640
_SPAN = 5 * 366  # days of a manifest of daily arrays: a tile's days are written together
_QUARTER = 92  # of the ledger's, which has few references and changes with every commit


def identity_of(grid: Grid, specs: Iterable[ArraySpec], **more: Any) -> dict[str, Any]:
    """What may never change in a store, as JSON values."""
    return {
        "crs": grid.crs,
        "anchor": [a % grid.tile_size for a in grid.anchor],
        "tile_size": grid.tile_size,
        "bounds": list(grid.bounds),
        **more,
        "arrays": {spec.path: form_of(grid, spec) for spec in specs},
    }


def form_of(grid: Grid, spec: ArraySpec) -> dict[str, Any]:
    places: dict[str, Any] = {}
    if spec.extent != "area":
        chunk = spec.chunk_side(grid.pixels(spec.resolution))
        places = {"resolution": spec.resolution, "chunk": chunk}
    return {
        "dtype": spec.dtype,
        **places,
        "dims": list(spec.dims),
        "labels": {dim: list(labels) for dim, labels in spec.leading},
    }


def differences(
    wanted: Mapping[str, Any],
    mine: Mapping[str, Any],
    meanings: Mapping[str, tuple[Any, Any]],
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What two identities, and the names of codes, have that is not the same: wanted, and mine.

    Arrays that one of them lacks are no difference: a store gets them when they are needed.
    """
    arrays, others = mine["arrays"], (wanted.keys() | mine.keys()) - {"arrays"}
    apart = [name for name in sorted(others) if wanted.get(name) != mine.get(name)]
    forms = [path for path, form in wanted["arrays"].items() if arrays.get(path, form) != form]
    asked = {name: wanted.get(name) for name in apart}
    seen = {name: mine.get(name) for name in apart}
    asked |= {path: wanted["arrays"][path] for path in forms}
    seen |= {path: arrays[path] for path in forms}
    asked |= {f"meaning of {path}": one for path, (one, _) in meanings.items()}
    seen |= {f"meaning of {path}": other for path, (_, other) in meanings.items()}
    return asked, seen


def other_meanings(root: zarr.Group, specs: Iterable[ArraySpec]) -> dict[str, tuple[Any, Any]]:
    """Codes that an array of a store gives another name than a spec does: (wanted, there) by path.

    One that only one of them knows is none of these: natmap itself has got more reasons.
    """
    found = {}
    for spec in specs:
        if "flag_values" not in spec.attrs or spec.path not in root:
            continue
        wanted, there = (_meanings(attrs) for attrs in (spec.attrs, root[spec.path].attrs))
        apart = sorted(code for code in wanted.keys() & there.keys() if wanted[code] != there[code])
        if apart:
            found[spec.path] = {c: wanted[c] for c in apart}, {c: there[c] for c in apart}
    return found


def _meanings(attrs: Mapping[str, Any]) -> dict[int, str]:
    codes, names = attrs.get("flag_values", ()), str(attrs.get("flag_meanings", "")).split()
    return dict(zip(codes, names, strict=False))


def split_manifests(grid: Grid, specs: list[ArraySpec]) -> icechunk.ManifestConfig:
    """Split manifests so that a commit rewrites few references, within what setting one bears."""
    condition, by = icechunk.ManifestSplitCondition, icechunk.ManifestSplitDimCondition
    splitting: dict[Any, dict[Any, int]] = {}
    for spec in specs:
        if spec.extent == "area":
            continue
        n = grid.pixels(spec.resolution) // spec.chunk
        down, across = grid.n_rows * n, grid.n_cols * n
        spans = -(-DAYS // _SPAN) if spec.daily else 1
        side = int((_SPLITS / spans) ** 0.5)
        sizes = {by.DimensionName("y"): -(-down // side), by.DimensionName("x"): -(-across // side)}
        if spec.daily:
            sizes[by.DimensionName("time")] = _SPAN
        splitting[condition.path_matches(f"^/{spec.path}$")] = sizes
    splitting[condition.path_matches("^/ledger/.*")] = {by.DimensionName("time"): _QUARTER}
    return icechunk.ManifestConfig(
        preload=icechunk.ManifestPreloadConfig(max_total_refs=0),
        splitting=icechunk.ManifestSplittingConfig.from_dict(splitting),
    )


def create_arrays(root: zarr.Group, grid: Grid, specs: Iterable[ArraySpec]) -> None:
    for spec in specs:
        size: tuple[int, ...] = ()
        chunk: tuple[int, ...] = ()
        if spec.extent != "area":
            size = grid.array_shape(spec.resolution)
            chunk = (spec.chunk_side(grid.pixels(spec.resolution)),) * 2
        group = root.require_group(spec.group)
        group.create_array(
            spec.name,
            shape=((DAYS,) if spec.daily else ()) + spec.lead_shape + size,
            chunks=((1,) if spec.daily else ()) + spec.lead_shape + chunk,
            dtype=spec.dtype,
            fill_value=spec.fill,
            dimension_names=spec.dims,
            # level 1 of bits takes half the time of level 3 of bytes, for 3 % more space
            # and a checksum tells a chunk whose bits flipped from one that was written so
            compressors=[
                BloscCodec(cname=spec.codec, clevel=1, shuffle="bitshuffle"),
                Crc32cCodec(),
            ],
            attributes=_attributes(spec),
        )
        _create_coordinates(group, grid, spec)


def _attributes(spec: ArraySpec) -> dict[str, Any]:
    nodata = nodata_of(spec.dtype, spec.fill, spec.attrs)
    # NaN needs no declaration, and JSON has none
    declared = {} if nodata is None or math.isnan(nodata) else {"_FillValue": int(nodata)}
    where = {} if spec.extent == "area" else {"grid_mapping": "spatial_ref"}
    return {**spec.attrs, **declared, **where}


def _create_coordinates(group: zarr.Group, grid: Grid, spec: ArraySpec) -> None:
    axes: dict[str, tuple[Any, dict[str, Any]]] = {}
    if spec.extent != "area":
        west, _, _, north = grid.bounds
        height, width = grid.array_shape(spec.resolution)
        axes["y"] = (
            north - (np.arange(height) + 0.5) * spec.resolution,
            {"standard_name": "projection_y_coordinate", "units": "m"},
        )
        axes["x"] = (
            west + (np.arange(width) + 0.5) * spec.resolution,
            {"standard_name": "projection_x_coordinate", "units": "m"},
        )
    if spec.daily:
        days = {"units": f"days since {FIRST_DAY}", "calendar": "proleptic_gregorian"}
        axes["time"] = (np.arange(DAYS, dtype="int32"), days)
    for dim, labels in spec.leading:
        axes[dim] = (np.asarray(labels), {})
    for dim, (values, attrs) in axes.items():
        if dim in group:
            continue
        if values.dtype.kind == "U":
            # Zarr has no settled type for text; the labels are kept as JSON and put back on
            # opening, the array itself only counts.
            attrs = {"labels": json.dumps([str(v) for v in values])}
            values = np.arange(len(values), dtype="int32")
        coordinate = group.create_array(
            dim,
            shape=values.shape,
            dtype=values.dtype,
            dimension_names=(dim,),
            attributes=attrs,
            compressors=[ZstdCodec(), Crc32cCodec()],
        )
        coordinate[:] = values
    if spec.extent != "area" and "spatial_ref" not in group:
        group.create_array(
            "spatial_ref",
            shape=(),
            dtype="int32",
            dimension_names=(),
            attributes=grid_mapping(grid.crs, grid.geobox(spec.resolution).transform),
        )
