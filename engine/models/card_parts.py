"""Parts of a model card: the stream it was fused with, files beside its weights, its probe."""

from __future__ import annotations

from pydantic import Field

from engine.recipes.base import Strict

__all__ = ["DataFile", "Fusion", "Probe"]


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
