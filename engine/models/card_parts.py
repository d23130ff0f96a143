"""Parts of a model card: its bands, terms and classes, what outputs mean, the stream it was fused
with, files beside its weights, its probe."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Annotated

from pydantic import AfterValidator, Field

from engine.errors import CardError, RecipeError
from engine.items import BANDS, cube_band, is_ground, of_period, require_order
from engine.legend import NamedClass
from engine.licences import one_line
from engine.recipes.base import Strict

__all__ = [
    "DataFile",
    "Fusion",
    "MultiLabel",
    "Probe",
    "Ranges",
    "Terms",
    "of_vectors",
    "require_bands",
    "require_encoder",
    "require_ground",
    "require_inputs",
    "require_multilabel",
    "require_names",
]

Ranges = Mapping[str, tuple[float, float]]
"""Of features' bands: the values that the least and the greatest stored number stand for."""

_MOST_BANDS = 4096
_LONGEST = 100  # letters of a channel's name


def _shown(text: str) -> str:
    """Words of a card as they can be shown; not without a word less than it states."""
    found = one_line(text)
    if text.strip() and not found:
        raise ValueError("it has no sign that could be shown")
    return found


Terms = Annotated[str, AfterValidator(_shown)]
"""Under which terms something may be used, and who is to be named."""


def of_vectors(bands: Sequence[str]) -> bool:
    """Whether bands are channels of published vectors, as A00 and T000, and not of a cube."""
    return not any(_is_band(band) or is_ground(band) for band in bands)


def require_bands(bands: Sequence[str], ranges: Ranges) -> None:
    """Refuse bands that a card cannot have.

    They are of a cube, then of features, each of these with its range; or all are channels of
    published vectors, without ranges.

    Raises
    ------
    ValueError
    """
    if not 1 <= len(bands) <= _MOST_BANDS:
        raise ValueError(f"bands must be 1 to {_MOST_BANDS}; got {len(bands)}")
    some = list(bands)[:20]
    if len(set(bands)) != len(bands):
        raise ValueError(f"bands must be different; got {some}")
    ground = [] if of_vectors(bands) else [band for band in bands if is_ground(band)]
    imagery = bands[: len(bands) - len(ground)]
    if of_vectors(bands):
        if any(
            not b.strip() or len(b) > _LONGEST or "@" in b or not b.isprintable() for b in bands
        ):
            raise ValueError(
                "bands that are channels of published vectors must have names that can be shown, "
                f"without @, of {_LONGEST} signs or fewer; got {some}"
            )
    elif not imagery or not all(map(_is_band, imagery)):
        raise ValueError(
            f"bands must be of {', '.join(BANDS)}, each with its period where the cube has some, "
            "as in B04@summer, then those of features; or all be channels of published vectors; "
            f"got {some}"
        )
    if len({"@" in band for band in imagery}) > 1:
        raise ValueError(f"bands must all be of a period, or none of them; got {some}")
    require_order(bands)
    if set(ranges) != set(ground) or any(not low < high for low, high in ranges.values()):
        raise ValueError(f"ranges must be [low, high] of each feature's band; got {dict(ranges)}")


def _is_band(name: str) -> bool:
    """Whether it is a cube's band, called by its B-name."""
    try:
        return cube_band(name) == name
    except RecipeError:
        return False


def require_inputs(name: str, wanted: Sequence[str], bands: Sequence[str], vectors: bool) -> None:
    """Refuse bands of a cube, or (`vectors`) of a source, without those that a model looks at.

    Raises
    ------
    CardError
    """
    if of_vectors(wanted) != vectors:
        takes = {False: "reflectance of scenes, or images", True: "published vectors"}
        raise CardError(
            f"model {name} takes {takes[not vectors]}",
            got=f"a recipe of {takes[vectors]}",
            expected=", ".join(wanted[:5]),
            remedy=f"give {'imagery' if vectors else 'embeddings'} in the recipe",
        )
    have = list(bands) if vectors else [cube_band(band) for band in bands]
    if any(band not in have for band in wanted):
        other = "name another source in embeddings"
        raise CardError(
            f"model {name} needs bands that the {'source' if vectors else 'cube'} lacks",
            got=", ".join(have),
            expected=", ".join(wanted),
            remedy=other if vectors else _remedy_of_bands(wanted, have),
        )


def _remedy_of_bands(wanted: Sequence[str], have: Sequence[str]) -> str:
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


class MultiLabel(Strict):
    """That a model says of each class whether it occurs in a patch: by the sigmoid of its logit.

    Attributes
    ----------
    share : of a patch that a class covers at least, where it is said to occur, 0 to 1; of 0 a pixel
        is enough.
    thresholds : of each class, in the order of the outputs; it occurs from this probability on.
    others : codes of labels that are known, and none of the classes; for figures.
    """

    share: float = Field(ge=0, le=1)
    thresholds: tuple[Annotated[float, Field(ge=0, le=1)], ...]
    others: tuple[Annotated[int, Field(ge=0, le=254)], ...] = ()


LABELLERS = ("resnet",)
"""Architectures of multi-label models."""


def require_names(
    names: Sequence[NamedClass],
    codes: Collection[int],
    ignored: Sequence[int],
    segments: bool,
    labels: bool,
) -> None:
    """Refuse classes of their own that a card cannot have.

    Raises
    ------
    ValueError
    """
    if labels and not names:
        raise ValueError("names: a multi-label model has classes of its own")
    if names and not ((segments or labels) and 2 <= len(names) <= 64):
        raise ValueError(
            "names are of a segmenter, or a multi-label model, with 2 to 64 classes of its own"
        )
    if len({c.name for c in names}) < len(names):
        raise ValueError("names of classes must be different")
    if set(ignored) & set(codes):
        raise ValueError("a code is a class, or ignored; not both")


def require_multilabel(
    found: MultiLabel | None, architecture: str, classes: int, output: str
) -> None:
    """Refuse sigmoids where a card's network has none, and a network of sigmoids without them.

    Raises
    ------
    ValueError
    """
    if (found is not None) != (architecture in LABELLERS):
        raise ValueError(
            f"multilabel goes with architecture {', '.join(LABELLERS)}, and that one with it; got "
            f"architecture: {architecture}"
        )
    if found is None:
        return
    if len(found.thresholds) != classes:
        raise ValueError(f"multilabel has {len(found.thresholds)} thresholds for {classes} classes")
    if output != "logit":
        raise ValueError(f"output: of a multi-label model logit; got {output}")


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


def require_encoder(name: str, mine: str | None, theirs: str) -> None:
    """Refuse published vectors of another model than a card has learnt from.

    Names of channels tell no two models apart that number them alike. Where either side does not
    say which model it was, nothing is known to be wrong.

    Parameters
    ----------
    name : of the card; mine : its encoder, None where it does not say.
    theirs : as the vectors' source says, "" where it does not.

    Raises
    ------
    CardError
    """
    if mine and theirs and mine != theirs:
        raise CardError(
            f"model {name} has learnt from vectors of another model",
            got=theirs,
            expected=mine,
            remedy="train on vectors of this source, or map those that the model learnt from",
        )
