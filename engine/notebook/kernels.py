"""The run's kernels on arrays of xarray: what a notebook computes is what a run stores."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import dask.array as da
import numpy as np
import numpy.typing as npt
import xarray as xr
from dask.array.overlap import overlap

from engine.cube.given import (
    Place,
    as_dask,
    blocks_of,
    dataset_of,
    days_of,
    digital_numbers,
    names_of,
    place_of,
    require_dims,
)
from engine.cube.radiometry import ATTRS
from engine.errors import CardError, GridError, RecipeError
from engine.infer.cells import score_cells
from engine.maps.cells import NO_CONFIDENCE, classify
from engine.models.card import ModelCard, find_card, load_card
from engine.products.common import REASON_ATTRS
from engine.products.composite import Composer
from engine.recipes.base import read_recipe
from engine.recipes.sections import Cube, Device

__all__ = ["composite", "score"]

_CELLS = 64  # cells along a block of scores, about
_WHERE = {"grid_mapping": "spatial_ref"}


def composite(
    cube: xr.Dataset | xr.DataTree,
    *,
    method: str = "median",
    cloud_dilation: float = 60.0,
    mask_snow: bool = False,
) -> xr.Dataset:
    """One image of a cube's days, made by the kernel that a run makes its composite with.

    Of a run's own scenes it equals ``composite`` of the store bit for bit wherever that has been
    computed (its reason is not "outside area"), but for a frame as wide as the disc around clouds,
    `cloud_dilation` in whole pixels (6 of 10 m by default), along edges of `cube` beyond which the
    store has scenes: a cloud there is not seen. Scenes of suspect radiometry are told apart by a
    run only: leave them out beforehand; where a run says "suspect", here stands "no scene".

    Nothing is read until it is computed. Dask takes a block at a time, with all its days: scenes x
    bands x pixels x 2 bytes of memory for each thread, and about as much again to sort them. The
    blocks are the chunks of `cube`; where it has none, they are the store's, or less if these hold
    more than 256 MB.

    Parameters
    ----------
    cube : ``bands`` (time, band, y, x) and ``scl`` (time, y, x), of `open_cube`, or scenes of
        `open_store`, decoded or not. Scenes of one ``solar_day`` are merged as a run merges them:
        the first with data, by id.
    method : {"median", "mean", "medoid"}
    cloud_dilation : metres around cloud and cloud shadow, 0 to 1000.
    mask_snow : leave snow out, too.

    Returns
    -------
    Dataset of ``bands`` (band, y, x) uint16 in the stored convention, reflectance x 1e4 + 1000
    with 0 for nodata (`xarray.decode_cf` makes reflectance of it), ``observations`` uint16,
    ``dissent`` uint8 and ``reason`` uint8 (y, x), as a store has them.

    Raises
    ------
    RecipeError
        Where `cube` is no cube of scenes, or a setting is none of what it may be.
    GridError
        Where its pixels are not square, regular and north up.
    """
    data = dataset_of(cube, "bands", "scl")
    settings = {
        "composite": method,
        "cloud_dilation": cloud_dilation,
        "mask_snow": mask_snow,
    }
    wanted = read_recipe(Cube, settings, template="lcz", called="the composite asked for")
    bands, scl = data["bands"], data["scl"]
    require_dims(bands, "time", "band", "y", "x")
    require_dims(scl, "time", "y", "x")
    if scl.dtype != np.uint8 or not data.sizes["time"]:
        raise RecipeError(
            "the cube has no scene, or classes of another type",
            got=f"{data.sizes['time']} scenes, scl {scl.dtype}",
            expected="1 or more, uint8",
        )
    place, names = place_of(bands), names_of(bands)
    composer = Composer(
        wanted.composite,
        place.resolution,
        wanted.cloud_dilation,
        wanted.mask_snow,
        strip=0,
        blue=names.index("B02") if "B02" in names else 0,
    )
    h = composer.halo
    chunks = blocks_of(bands, h)
    stored, classes = digital_numbers(bands, chunks), as_dask(scl, chunks)
    if "solar_day" in data.coords:
        stored, classes = _merge(stored, classes, days_of(data))
    elif len(np.unique(data["time"].values.astype("datetime64[D]"))) < data.sizes["time"]:
        raise RecipeError(
            "the cube has several scenes of one day, and does not say which are one overpass",
            expected="a coordinate solar_day along time, as open_cube makes it",
        )
    edges = overlap(classes, depth={0: 0, 1: h, 2: h}, boundary={0: "none", 1: 0, 2: 0})
    planes = da.blockwise(
        _compose,
        "kyx",
        stored,
        "tbyx",
        edges,
        "tyx",
        composer=composer,
        new_axes={"k": len(names) + 3},
        align_arrays=False,  # the classes' chunks are wider by their halo
        concatenate=True,
        dtype=np.uint16,
        meta=np.empty((0, 0, 0), np.uint16),
    )
    narrow = planes[-2:].astype(np.uint8)
    return xr.Dataset(
        {
            "bands": (("band", "y", "x"), planes[:-3], {**ATTRS, **_WHERE}),
            "observations": (("y", "x"), planes[-3], {"long_name": "usable days", **_WHERE}),
            "dissent": (("y", "x"), narrow[0], {"long_name": "days in dissent", **_WHERE}),
            "reason": (("y", "x"), narrow[1], {**REASON_ATTRS, **_WHERE}),
        },
        coords={"band": bands["band"], **place.coords(data.sizes["y"], data.sizes["x"])},
    )


def score(
    cube: xr.Dataset | xr.DataTree | xr.DataArray,
    card: str | Path | ModelCard,
    *,
    device: Device = "auto",
    precision: str = "float32",
    origin: tuple[float, float] = (0.0, 0.0),
) -> xr.Dataset:
    """A model's scores of the cells of a composite, by the kernel that a run scores with.

    Of a run's own composite they equal ``scores/probability`` of the store (float32, not fused with
    another stream) bit for bit wherever that has been computed, but for a frame of ``card.halo``
    pixels, rounded up to cells, along edges of `cube` beyond which the store has data; of a run's
    scenes the frame is wider by that of `composite`. Bits agree on the same device alone.

    Nothing is read until it is computed. Dask takes blocks of about 64 cells, which lie as the
    run's do, on multiples of their own size from `origin`, with a halo around them.

    Parameters
    ----------
    cube : a composite: of `open_store`, decoded or not, or of `composite`; or its ``bands`` alone
        (band, y, x), valid where none is nodata. Scenes, with a time, are composed first, as
        `composite` does by default.
    card : a shipped model's name, the path of a model card, or a ModelCard. Of a classifier of
        patches.
    device : {"auto", "cpu", "cuda"}
    precision : {"float32", "bfloat16"}
    origin : a point of the grid's lattice in metres, as a recipe's ``grid.origin``.

    Returns
    -------
    Dataset of ``scores`` (class, y, x) float32, NaN where a cell has none; ``classes`` (y, x)
    uint8, the code of the largest score, 0 none; ``confidence`` (y, x) uint8, percent, 255 none.
    Cells that do not lie wholly in `cube` are left out.

    Raises
    ------
    CardError
        Where the model is no classifier of patches, or `cube` lacks bands that it needs, or has
        another resolution.
    GridError
        Where the cube is not on the lattice, or holds no whole cell.
    RecipeError
        Where `cube` is no composite.
    """
    model = card if isinstance(card, ModelCard) else load_card(find_card(str(card), Path()))
    other = model.encodes or model.multilabel is not None
    if model.segments or other or model.architecture == "gcn":
        raise CardError(
            "only classifiers of patches score a composite",
            got=f"{model.name}: {model.architecture}",
            remedy="natmap run scores 1 m images",
        )
    if precision not in ("float32", "bfloat16"):
        raise RecipeError("no such precision", got=precision, expected="float32 or bfloat16")
    model.check_precision(precision)
    bands, observations = _composed(cube)
    place, names = place_of(bands), names_of(bands)
    model.check_cube(tuple(names), place.resolution)
    chunks = blocks_of(bands)
    stored = digital_numbers(bands, chunks)[[names.index(name) for name in model.bands]]
    known = (stored > 0).all(axis=0) if observations is None else as_dask(observations, chunks) > 0
    planes = da.concatenate([stored, known[None].astype(np.uint16)])
    top, left = place.corner(origin)
    rows = _Cells.of(top, bands.sizes["y"], model)
    cols = _Cells.of(left, bands.sizes["x"], model)
    # what lies beyond the cube is invalid, as what lies beyond a grid is
    planes = da.pad(planes, ((0, 0), rows.pad, cols.pad), constant_values=0)
    planes = planes.rechunk((-1, rows.side * model.step, cols.side * model.step))
    h = model.halo
    found = da.map_blocks(
        _score,
        overlap(planes, depth={0: 0, 1: h, 2: h}, boundary={0: "none", 1: 0, 2: 0}),
        card=model,
        device=device,
        precision=precision,
        chunks=((len(model.classes),), (rows.side,) * rows.blocks, (cols.side,) * cols.blocks),
        dtype=np.float32,
        meta=np.empty((0, 0, 0), np.float32),
    )[:, rows.whole, cols.whole]
    found = found.rechunk({0: -1})
    codes = tuple(model.classes)
    chosen = da.map_blocks(
        _classify,
        found,
        codes=codes,
        chunks=((2,), *found.chunks[1:]),
        dtype=np.uint8,
        meta=np.empty((0, 0, 0), np.uint8),
    )
    west, north = origin[0] + cols.first * model.cell, origin[1] - rows.first * model.cell
    cells = Place(place.crs, model.cell, west, north)
    height, width = found.shape[1:]
    none, unknown = {"_FillValue": np.uint8(0)}, {"_FillValue": np.uint8(NO_CONFIDENCE)}
    return xr.Dataset(
        {
            "scores": (("class", "y", "x"), found, dict(_WHERE)),
            "classes": (("y", "x"), chosen[0], {**none, **_WHERE}),
            "confidence": (("y", "x"), chosen[1], {"units": "percent", **unknown, **_WHERE}),
        },
        coords={"class": list(codes), **cells.coords(height, width)},
    )


# -- kernels of a block ---------------------------------------------------------------------------


def _compose(
    bands: npt.NDArray[np.uint16], scl: npt.NDArray[np.uint8], *, composer: Composer
) -> npt.NDArray[np.uint16]:
    """(time, band, y, x), classes with their halo -> bands, observations, dissent, reason."""
    _, n, height, width = bands.shape
    out: dict[str, npt.NDArray[Any]] = {
        "composite/bands": np.zeros((n, height, width), np.uint16),
        "composite/observations": np.zeros((height, width), np.uint16),
        "composite/dissent": np.zeros((height, width), np.uint8),
        "composite/reason": np.zeros((height, width), np.uint8),
    }
    composer.compose(out, 0, bands, scl, None)
    first, *others = out.values()
    return np.concatenate([first, np.stack(others).astype(np.uint16)])


def _score(
    block: npt.NDArray[np.uint16], *, card: ModelCard, device: Device, precision: str
) -> npt.NDArray[np.float32]:
    """Bands in the card's order and validity, with the card's halo -> scores (class, y, x)."""
    # torch costs a process a second and 150 MB: whoever only composes does without
    from engine.infer.predict import get_predictor

    predictor = get_predictor(card, device, precision)
    return score_cells(block[:-1], block[-1] > 0, card, predictor).scores


def _classify(scores: npt.NDArray[np.float32], *, codes: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    return np.stack(classify(scores, codes))


def _merge(
    bands: da.Array, scl: da.Array, days: tuple[tuple[int, ...], ...]
) -> tuple[da.Array, da.Array]:
    """Scenes -> solar days; the classes are the last plane of what a block is merged to."""
    planes = da.blockwise(
        _merge_block,
        "dkyx",
        bands,
        "tbyx",
        scl,
        "tyx",
        days=days,
        new_axes={"d": len(days), "k": bands.shape[1] + 1},
        concatenate=True,
        dtype=np.uint16,
        meta=np.empty((0, 0, 0, 0), np.uint16),
    )
    return planes[:, :-1], planes[:, -1].astype(np.uint8)


def _merge_block(
    bands: npt.NDArray[np.uint16], scl: npt.NDArray[np.uint8], *, days: tuple[tuple[int, ...], ...]
) -> npt.NDArray[np.uint16]:
    """The first scene of a day with data wins, as `engine.cube.read.read_day` has it."""
    _, n, height, width = bands.shape
    out = np.zeros((len(days), n + 1, height, width), np.uint16)
    for day, scenes in zip(out, days, strict=True):
        free = np.ones((height, width), bool)
        for k in scenes:
            takes = free & (scl[k] != 0) & (bands[k] > 0).all(axis=0)
            np.copyto(day[:-1], bands[k], where=takes)
            np.copyto(day[-1], scl[k], where=takes)
            free &= ~takes
    return out


# -- blocks ---------------------------------------------------------------------------------------


def _composed(cube: Any) -> tuple[xr.DataArray, xr.DataArray | None]:
    """Bands of a composite, and the observations, where there are some."""
    if isinstance(cube, xr.DataArray):
        require_dims(cube, "band", "y", "x")
        return cube, None
    data = dataset_of(cube, "bands")
    if "time" in data["bands"].dims:
        data = composite(data)
    require_dims(data["bands"], "band", "y", "x")
    return data["bands"], data.get("observations")


class _Cells(NamedTuple):
    """Cells along one axis of a cube, in blocks on their own lattice."""

    first: int  # whole cell, from the origin
    whole: slice  # such cells, among those of all blocks
    side: int  # of a block, in cells
    blocks: int
    pad: tuple[int, int]  # pixels from the first block's edge to the cube, and after it

    @classmethod
    def of(cls, start: int, pixels: int, card: ModelCard) -> _Cells:
        """Of a cube that begins `start` pixels from the origin."""
        side = card.block * max(round(_CELLS / card.block), 1)
        side = card.block * math.ceil(max(side, card.halo / card.step) / card.block)
        block = side * card.step
        first, last = -(-start // card.step), (start + pixels) // card.step
        if last <= first:
            raise GridError(
                "the cube holds no whole cell",
                got=f"{pixels} px",
                expected=f"cells of {card.cell:g} m, on multiples of their size from the origin",
            )
        begin, end = start // block, -(-(start + pixels) // block)
        pad = (start - begin * block, end * block - start - pixels)
        return cls(first, slice(first - begin * side, last - begin * side), side, end - begin, pad)
