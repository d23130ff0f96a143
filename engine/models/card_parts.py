"""Parts of a model card: its bands, the stream it was fused with, files beside its weights, its
probe."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from engine.errors import RecipeError
from engine.items import BANDS, cube_band, of_period
from engine.recipes.base import Strict

__all__ = ["DataFile", "Fusion", "Probe", "remedy_of_bands", "require_bands"]


def require_bands(bands: Sequence[str]) -> None:
    """Refuse bands that no cube has.

    Raises
    ------
    ValueError
    """
    if not bands or not all(map(_is_band, bands)):
        raise ValueError(
            f"bands must be of {', '.join(BANDS)}, each with its period where the cube has some, "
            f"as in B04@summer; got {bands}"
        )
    if len(set(bands)) != len(bands):
        raise ValueError(f"bands must be different; got {bands}")
    if len({"@" in band for band in bands}) > 1:
        raise ValueError(f"bands must all be of a period, or none of them; got {bands}")


def _is_band(name: str) -> bool:
    """Whether it is a cube's band, called by its B-name."""
    try:
        return cube_band(name) == name
    except RecipeError:
        return False


def remedy_of_bands(wanted: Sequence[str], have: Sequence[str]) -> str:
    """What to change where a cube lacks bands that are wanted."""
    mine, theirs = (
        list(dict.fromkeys(of_period(band)[1] for band in bands)) for bands in (wanted, have)
    )
    if set(mine) <= set(theirs):
        missing = ", ".join(band for band in wanted if band not in have)
        return f"leave imagery.bands out, or add {missing}"
    if mine == [None]:
        return "leave cube.periods out: the model takes one composite"
    return f"give cube.periods those of the model: {', '.join(map(str, mine))}"


class Fusion(Strict):
    """The stream that a graph network was fused with, and how the two were weighed.

    Attributes
    ----------
    beside : name of that stream's model; key : of its card.
    sentinel_weight : its weight, 0 to 1; the rest is the graph's.
    """

    beside: str
    key: str
    sentinel_weight: float = Field(ge=0, le=1)


class DataFile(Strict):
    """A file beside an ONNX file that holds weights of it.

    Attributes
    ----------
    name : of the file, in the card's folder.
    size : bytes.
    sha256 : of the file.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$", max_length=200)
    size: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class Probe(Strict):
    """What a network gives for one fixed input (`engine.models.probes`), checked at loading.

    Attributes
    ----------
    scores, features : some of the numbers, evenly spread.
    tolerance : difference that is allowed, of a number, or of 1 where that is less.
    """

    scores: tuple[float, ...] = Field((), max_length=64)
    features: tuple[float, ...] = Field((), max_length=64)
    tolerance: float = Field(1e-3, gt=0, le=0.1)
