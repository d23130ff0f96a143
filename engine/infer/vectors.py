"""Embedding vectors as they are stored: floats, or whole numbers with a scale for each vector.

A vector of int8 is scaled by its own largest component, so a quiet place keeps as many steps as a
loud one. The scale lies in an array of its own, NaN where there is no vector: the form
``per_pixel_scale`` of the Zarr convention ``geoemb:``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BeforeValidator

from engine.errors import RunError
from engine.store.arrays import ArraySpec

__all__ = [
    "VectorType",
    "decode_vectors",
    "encode_vectors",
    "vector_arrays",
    "vector_outputs",
]

_STEPS = 127  # of int8 each way; -128 is left to others' "no data"

VectorType = Annotated[
    Literal["float32", "float16", "int8"] | None,
    BeforeValidator(
        lambda value: (
            {True: "float16", False: None}.get(value, value) if isinstance(value, bool) else value
        )
    ),
]
"""How vectors are stored; None: not at all."""


def encode_vectors(
    vectors: npt.NDArray[np.float32], kind: str
) -> tuple[npt.NDArray[Any], npt.NDArray[np.float32] | None]:
    """Vectors as they are stored.

    Parameters
    ----------
    vectors : float32 (feature, y, x), NaN where there is none.
    kind : {"float32", "float16", "int8"}

    Returns
    -------
    Values (feature, y, x), 0 of int8 where there is no vector; and of int8 the scales (y, x).

    Raises
    ------
    RunError
        Where a component is infinite, or too large for float16.
    """
    missing = np.isnan(vectors).any(axis=0)
    largest = np.where(missing, np.nan, np.abs(vectors).max(axis=0, initial=0.0))
    limit = float(np.finfo(kind).max) if kind != "int8" else float(np.finfo("float32").max)
    if (largest > limit).any():
        raise RunError(
            f"an embedding does not fit {kind}",
            got=f"a component of {np.nanmax(largest):g}",
            expected=f"at most {limit:g}",
            remedy="store it as int8 or float32, or look at the model's weights",
        )
    if kind != "int8":
        return vectors.astype(kind), None
    scale = (largest / _STEPS).astype(np.float32)
    steps = np.divide(vectors, scale, out=np.zeros_like(vectors), where=scale > 0)
    return np.rint(np.where(missing, 0, steps)).clip(-_STEPS, _STEPS).astype(np.int8), scale


def decode_vectors(
    values: npt.NDArray[Any], scale: npt.NDArray[np.float32] | None
) -> npt.NDArray[np.float32]:
    """Vectors that were stored, float32 (feature, ...), NaN where there is none.

    Parameters
    ----------
    values : (feature, ...)
    scale : (...), of int8.
    """
    found = values.astype(np.float32)
    if scale is not None:
        found *= scale
    return found


def vector_arrays(
    path: str, kind: str, features: Sequence[int | str], resolution: float, chunk: int
) -> tuple[ArraySpec, ...]:
    """The arrays that hold vectors: of int8 with ``<path>_scale``."""
    labels = (("feature", tuple(features)),)
    if kind != "int8":
        return (ArraySpec(path, kind, resolution, chunk, np.nan, leading=labels),)
    return (
        ArraySpec(
            path,
            kind,
            resolution,
            chunk,
            0,
            leading=labels,
            attrs={"scale_array": _scale(path).partition("/")[2]},
        ),
        ArraySpec(_scale(path), "float32", resolution, chunk, np.nan),
    )


def vector_outputs(
    path: str, kind: str, vectors: npt.NDArray[np.float32]
) -> dict[str, npt.NDArray[Any]]:
    """What a stage with `vector_arrays` gives."""
    values, scale = encode_vectors(vectors, kind)
    return {path: values} if scale is None else {path: values, _scale(path): scale}


def _scale(path: str) -> str:
    return f"{path}_scale"
