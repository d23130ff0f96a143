"""Parts of a model card: its bands, the stream it was fused with, files beside its weights, its
probe."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from engine.items import BANDS
from engine.recipes.base import Strict

__all__ = ["DataFile", "Fusion", "Probe", "of_vectors", "require_bands"]

_MOST_BANDS = 4096
_LONGEST = 100  # letters of a channel's name


def of_vectors(bands: Sequence[str]) -> bool:
    """Whether bands are channels of published vectors, as A00 and T000, and not of a cube."""
    return bands[0] not in BANDS


def require_bands(bands: Sequence[str]) -> None:
    """Refuse bands that are neither all of a cube nor all channels of published vectors.

    Raises
    ------
    ValueError
    """
    if not 1 <= len(bands) <= _MOST_BANDS:
        raise ValueError(f"bands must be 1 to {_MOST_BANDS}; got {len(bands)}")
    some = list(bands)[:20]
    if len(set(bands)) != len(bands):
        raise ValueError(f"bands must be different; got {some}")
    if len({band in BANDS for band in bands}) > 1:
        raise ValueError(
            f"bands must all be of {', '.join(BANDS)}, or all be channels of published vectors; "
            f"got {some}"
        )
    if any(not b.strip() or len(b) > _LONGEST or "@" in b or not b.isprintable() for b in bands):
        raise ValueError(f"bands must have names of letters; got {some}")


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
