"""Patch sets: labelled patches cut from composites, kept in Zarr in the composites' convention."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from engine.errors import LabelError
from engine.files import whole_folder
from engine.models.card_parts import Ranges

__all__ = [
    "BANDS",
    "BLOCK",
    "NO_GROUP",
    "PatchSet",
    "Place",
    "cut",
    "join",
    "open_patches",
    "stored_patches",
    "write_patches",
]

BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
"""Of published sets, in their order."""

_CHUNK = 1024
_OF_EACH = ("y", "xy", "group", "place", "split")
NO_GROUP = -1
"""Of pseudo-labels: they are of no training area."""

_MASKED = 0.05  # share of invalid pixels from which a patch is no example
BLOCK = 40
"""Cells along a block whose pixels are read at once."""
_MOST = 3.0  # reflectance; more is another scale

Read = Callable[[slice, slice], tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]]


@dataclass(frozen=True)
class Place:
    """Where patches were cut: a composite with its name and dates.

    Attributes
    ----------
    name : of the city, country or recipe.
    period : of the imagery, as the recipe has it.
    crs : of the coordinates.
    """

    name: str
    period: str
    crs: str


@dataclass(frozen=True)
class PatchSet:
    """Labelled patches.

    Attributes
    ----------
    x : uint16 (n, band, side, side), side = patch + 2 context
        Stored convention, 0 is nodata; float32 of published vectors, NaN is nodata. A Zarr array or
        one in memory.
    y : uint8 (n,), codes 1 to 17
    xy : float64 (n, 2)
        Centres, in metres of their place's CRS.
    group : int64 (n,)
        Training area within its place.
    place : uint16 (n,), position in `places`
    split : uint8 (n,), positions in `splits.SPLITS`, 255 for none
    bands : B-names, or channels of published vectors
    patch, context : pixels
    resolution : metres
    places : tuple of Place
    nodes : float16 (n, 50, 5), optional
        Packed graph of each patch's window, where 1 m images are beside the composites.
    instances : dict, optional
        How the graphs' instances were made.
    ranges : of bands of features, what their stored numbers stand for.
    confidence : float32 (n,), optional
        Of pseudo-labels, over 0 to 1; NaN of labels. None: all are labels.
    encoder : of published vectors, the model that made them, "" where their source does not say.
    pseudo_side : of the ground that a pseudo-label is of, in metres; 0 where there are none.
    """

    x: Any
    y: npt.NDArray[np.uint8]
    xy: npt.NDArray[np.float64]
    group: npt.NDArray[np.int64]
    place: npt.NDArray[np.uint16]
    split: npt.NDArray[np.uint8]
    bands: tuple[str, ...]
    patch: int
    context: int
    resolution: float
    places: tuple[Place, ...]
    nodes: Any = None
    instances: dict[str, str] | None = None
    ranges: Ranges = field(default_factory=dict)
    confidence: npt.NDArray[np.float32] | None = None
    pseudo_side: float = 0.0
    encoder: str = ""

    @property
    def pseudo(self) -> npt.NDArray[np.bool_]:
        """Which are pseudo-labels, (n,)."""
        if self.confidence is None:
            return np.zeros(len(self), bool)
        return np.isfinite(self.confidence)

    @property
    def weights(self) -> npt.NDArray[np.float32] | None:
        """What each counts in training, (n,): labels 1; None: all alike."""
        if self.confidence is None:
            return None
        return np.where(self.pseudo, self.confidence, np.float32(1))

    def __len__(self) -> int:
        return len(self.y)

    def take(self, where: npt.NDArray[np.intp], context: int = 0) -> npt.NDArray[Any]:
        """Patches at positions, in memory, with so much of their context."""
        if context > self.context:
            raise LabelError(
                "the patch set has less context than the model needs",
                got=f"{self.context} px",
                expected=f"{context} px or more",
                remedy="cut the patches again with a larger context",
            )
        rim = self.context - context
        side = self.patch + 2 * self.context
        inner = slice(rim, side - rim)
        if isinstance(self.x, np.ndarray):
            found: npt.NDArray[Any] = self.x[where][:, :, inner, inner]
        else:
            # by chunks: scattered positions would open each chunk again and again
            shape = len(where), len(self.bands), *[side - 2 * rim] * 2
            found = np.empty(shape, self.x.dtype)
            for first in range(0, len(self), _CHUNK):
                here = (where >= first) & (where < first + _CHUNK)
                if here.any():
                    part = self.x[first : first + _CHUNK]
                    found[here] = part[where[here] - first][:, :, inner, inner]
        return found

    def only(self, where: npt.NDArray[np.intp]) -> PatchSet:
        """The patches at positions, in memory."""
        own = {name: getattr(self, name)[where] for name in _OF_EACH}
        nodes = None if self.nodes is None else self.nodes[:][where]
        sure = None if self.confidence is None else self.confidence[where]
        return replace(self, x=self.take(where, self.context), **own, nodes=nodes, confidence=sure)


def cut(
    read: Read,
    rows: npt.NDArray[np.int64],
    cols: npt.NDArray[np.int64],
    bands: int,
    *,
    patch: int = 32,
    context: int = 16,
    step: int = 10,
    vectors: bool = False,
    block: int = BLOCK,
) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
    """Cut the patches about cells out of a composite, or out of published vectors.

    Parameters
    ----------
    read : (rows, columns) of pixels -> (values (band, y, x), valid bool (y, x))
        Slices may reach beyond the composite; there nothing is valid.
    rows, cols : of the cells, from the composite's corner.
    bands : how many.
    patch, context : pixels; step : pixels of a cell.
    vectors : whether values are float32, else uint16.
    block : cells along a block whose pixels are read at once.

    Returns
    -------
    x : uint16 (n, band, side, side), 0 where invalid; or float32, NaN where invalid
    good : bool (n,), False where over 5 % of the patch itself is invalid
    """
    side, before = patch + 2 * context, (patch - step) // 2 + context
    nothing = np.float32(np.nan) if vectors else np.uint16(0)
    x = np.full((len(rows), bands, side, side), nothing)
    good = np.zeros(len(rows), bool)
    if not len(rows):
        return x, good
    inner = slice(context, context + patch)
    blocks, inverse = np.unique(
        np.stack([rows // block, cols // block]), axis=1, return_inverse=True
    )
    for number in range(blocks.shape[1]):
        here = np.flatnonzero(inverse.reshape(-1) == number)
        top, left = rows[here].min() * step - before, cols[here].min() * step - before
        bottom = int(rows[here].max()) * step - before + side
        right = int(cols[here].max()) * step - before + side
        values, valid = read(slice(int(top), bottom), slice(int(left), right))
        values = np.where(valid, values, nothing)
        for k in here:
            i, j = int(rows[k]) * step - before - top, int(cols[k]) * step - before - left
            x[k] = values[:, i : i + side, j : j + side]
            good[k] = valid[i : i + side, j : j + side][inner, inner].mean() >= 1 - _MASKED
    return x, good


def write_patches(path: str | Path, found: PatchSet, **attrs: Any) -> None:
    """Write a patch set; one that is there is replaced when this one is whole.

    Parameters
    ----------
    path : of the folder.
    found : PatchSet
    attrs : kept with it.
    """
    with whole_folder(Path(path)) as folder:
        _write(zarr.open_group(str(folder), mode="w", attributes=attrs), found)


def _write(group: zarr.Group, found: PatchSet) -> None:
    inner = group.create_group("patches")
    side = found.patch + 2 * found.context
    vectors = found.x.dtype.kind == "f"
    x = inner.create_array(
        "x",
        shape=(len(found), len(found.bands), side, side),
        chunks=(_CHUNK, len(found.bands), side, side),
        dtype=found.x.dtype,
        fill_value=np.nan if vectors else 0,
    )
    for first in range(0, len(found), _CHUNK):
        x[first : first + _CHUNK] = found.x[first : first + _CHUNK]
    for name in (*_OF_EACH, *(() if found.confidence is None else ("confidence",))):
        values = getattr(found, name)
        chunks = (_CHUNK, *values.shape[1:])
        inner.create_array(name, data=values, chunks=chunks)
    if found.nodes is not None:
        nodes = np.asarray(found.nodes[:])
        inner.create_array("nodes", data=nodes, chunks=(_CHUNK, *nodes.shape[1:]))
    inner.attrs.update(
        {
            "instances": found.instances,
            "bands": list(found.bands),
            "ranges": {band: list(span) for band, span in found.ranges.items()},
            "patch": found.patch,
            "context": found.context,
            "resolution": found.resolution,
            "places": [vars(place) for place in found.places],
            **({"pseudo_side": found.pseudo_side} if found.pseudo_side else {}),
            **({"encoder": found.encoder} if found.encoder else {}),
            **({} if vectors else {"scale_factor": 1e-4, "add_offset": -0.1}),
        }
    )


def open_patches(path: str | Path) -> PatchSet:
    """Open a patch set; patches stay on disk.

    Raises
    ------
    LabelError
    """
    try:
        group: Any = zarr.open_group(str(path), mode="r")["patches"]
        attrs = group.attrs
        also = ("confidence",) if "confidence" in group else ()
        arrays = {name: group[name][:] for name in (*_OF_EACH, *also)}
        return PatchSet(
            group["x"],
            **arrays,
            bands=tuple(attrs["bands"]),
            patch=int(attrs["patch"]),
            context=int(attrs["context"]),
            resolution=float(attrs["resolution"]),
            places=tuple(Place(**place) for place in attrs["places"]),
            ranges={band: (low, high) for band, (low, high) in attrs.get("ranges", {}).items()},
            nodes=group.get("nodes"),
            instances=attrs.get("instances"),
            pseudo_side=float(attrs.get("pseudo_side", 0.0)),
            encoder=str(attrs.get("encoder", "")),
        )
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise LabelError("the patch set cannot be read", got=f"{path}: {error}") from error


def join(parts: Sequence[PatchSet]) -> PatchSet:
    """Patch sets of several places as one, in memory."""
    first = parts[0]
    for part in parts[1:]:
        same = ("bands", "ranges", "patch", "context", "resolution", "instances", "encoder")
        for name in same:
            if getattr(part, name) != getattr(first, name):
                raise LabelError(
                    "patch sets do not go together",
                    got=f"{name} {getattr(part, name)}",
                    expected=f"{getattr(first, name)}",
                )
    sides = sorted({part.pseudo_side for part in parts} - {0.0})
    if len(sides) > 1:
        raise LabelError(
            "pseudo-labels are of cells of different sizes",
            got=", ".join(f"{side:g} m" for side in sides),
            remedy="propagate all of them on embeddings of one size of cells",
        )
    offsets = np.cumsum([0, *[len(part.places) for part in parts]])
    return PatchSet(
        np.concatenate([part.x[:] for part in parts]),
        np.concatenate([part.y for part in parts]),
        np.concatenate([part.xy for part in parts]),
        np.concatenate([part.group for part in parts]),
        np.concatenate(
            [part.place + np.uint16(n) for part, n in zip(parts, offsets, strict=False)]
        ),
        np.concatenate([part.split for part in parts]),
        first.bands,
        first.patch,
        first.context,
        first.resolution,
        tuple(place for part in parts for place in part.places),
        None if first.nodes is None else np.concatenate([part.nodes[:] for part in parts]),
        first.instances,
        first.ranges,
        np.concatenate([_sure(part) for part in parts]) if sides else None,
        sides[0] if sides else 0.0,
        first.encoder,
    )


def _sure(part: PatchSet) -> npt.NDArray[np.float32]:
    """The confidence of each of its patches, NaN of labels."""
    if part.confidence is None:
        return np.full(len(part), np.nan, np.float32)
    return part.confidence


def stored_patches(
    reflectance: npt.NDArray[Any], name: str, side: int = 32
) -> npt.NDArray[np.uint16]:
    """Patches of a published set in the stored convention: x 10,000 + 1,000, 0 is nodata.

    Parameters
    ----------
    reflectance : (n, side, side, 10), 0 to about 1.
    name : of the file, for errors.

    Returns
    -------
    uint16 (n, 10, side, side)

    Raises
    ------
    LabelError
        Where they have another form, or values that are no reflectance.
    """
    if reflectance.shape[1:] != (side, side, len(BANDS)):
        raise LabelError(
            "a patch has another form",
            got=f"{name}: {reflectance.shape[1:]}",
            expected=(side, side, len(BANDS)),
        )
    if not np.isfinite(reflectance).all():
        raise LabelError("a patch has values that are not numbers", got=name)
    if float(reflectance.max(initial=0.0)) > _MOST:
        raise LabelError(
            "values are not reflectance",
            got=f"{name}: up to {reflectance.max():g}",
            expected="0 to about 1",
            remedy="divide digital numbers by 10,000",
        )
    values = np.rint(np.asarray(reflectance, np.float64) * 10_000 + 1_000)
    return np.moveaxis(np.clip(values, 1, 65_534).astype(np.uint16), 3, 1)
