"""Parts of a model card: the stream it was fused with, files beside its weights, its probe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import Field

from engine.errors import CardError
from engine.items import BANDS, is_ground, require_order
from engine.recipes.base import Strict

__all__ = ["DataFile", "Fusion", "Probe", "Ranges", "require_bands", "require_ground"]

Ranges = Mapping[str, tuple[float, float]]
"""Of features' bands: the values that the least and the greatest stored number stand for."""


def require_bands(bands: Sequence[str], ranges: Ranges) -> None:
    """Refuse bands that a card cannot have.

    Raises
    ------
    ValueError
    """
    ground = [band for band in bands if is_ground(band)]
    first = len(bands) - len(ground)
    if not first or any(band not in BANDS for band in bands[:first]):
        known = ", ".join(BANDS)
        raise ValueError(f"bands must be of {known}, then those of features; got {bands}")
    if len(set(bands)) != len(bands):
        raise ValueError(f"bands must be different; got {bands}")
    require_order(bands)
    if set(ranges) != set(ground) or any(not low < high for low, high in ranges.values()):
        raise ValueError(f"ranges must be [low, high] of each feature's band; got {dict(ranges)}")


def require_ground(name: str, wanted: Ranges, have: Ranges) -> None:
    """Refuse a recipe without the features that a model looks at, or that keeps them otherwise.

    Raises
    ------
    CardError
    """
    if any(band not in have for band in wanted):
        raise CardError(
            f"model {name} needs features that the recipe lacks",
            got=", ".join(have) or "no section features",
            expected=", ".join(wanted),
            remedy="describe them under features: as in the recipe it was trained with",
        )
    for band, span in wanted.items():
        if tuple(have[band]) != tuple(span):
            raise CardError(
                f"model {name} was made for another range of {band}",
                got=tuple(have[band]),
                expected=tuple(span),
                remedy=f"set range of feature {band.partition('.')[0]} as it was in training",
            )


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
