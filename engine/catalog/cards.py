"""Cards: what a source or a boundary file is called, where it comes from, how it is to be read."""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import ConfigDict, Field, ValidationError

from engine.errors import CardError
from engine.recipes.base import Strict, explain
from engine.recipes.documents import read_document, read_yaml

__all__ = [
    "BoundaryCard",
    "SourceCard",
    "card_names",
    "find_boundaries",
    "load_boundary_card",
    "load_source_card",
]

OffsetPolicy = Literal[
    "flag-then-baseline", "flag-then-asset", "baseline", "asset-from-baseline", "asset"
]


class _Card(Strict):
    model_config = ConfigDict(allow_inf_nan=True)  # nodata may be NaN

    name: str
    title: str
    licence: str


class SourceCard(_Card):
    """A collection of scenes.

    Attributes
    ----------
    api : address of a STAC API; or path or address of a catalogue.json or a stac-geoparquet, a path
        from the card's own folder.
    collection : its name there; None: any.
    offset : how the radiometric offset is decided; never by the acquisition date.
    nodata : digital number without data, where item and file declare none; None: no number.
    hosts : that an item of this source names in its links or files, wherever it is found.
    signing : how addresses are made ready for reading.
    assets : B-name (and SCL) to the catalogue's asset key.
    positions : B-name to the band in its file, from 1, where files hold several.
    parameters : query parameters of addresses, in lower case, that say which file is meant; others
        than those that are known are not kept.
    """

    api: str | None = None
    collection: str | None = None
    offset: OffsetPolicy = "asset"
    nodata: float | None = None
    hosts: tuple[str, ...] = ()
    signing: Literal["none", "planetary-computer", "s3"] = "none"
    token_url: str | None = None
    s3_endpoint: str | None = None
    s3_key_variable: str = "AWS_ACCESS_KEY_ID"
    s3_secret_variable: str = "AWS_SECRET_ACCESS_KEY"
    assets: dict[str, str]
    positions: dict[str, int] = Field(default_factory=dict)
    parameters: tuple[str, ...] = ()


class BoundaryCard(_Card):
    """A polygon file that natmap does not ship.

    Attributes
    ----------
    files : names under which it may lie in the user's folder, the best first.
    key : field that names a polygon, for countries.
    """

    files: tuple[str, ...]
    address: str
    key: str | None = None


C = TypeVar("C", bound=_Card)


def card_names(kind: str) -> list[str]:
    """Names of the shipped cards of a kind, ``sources`` or ``boundaries``."""
    found = files("catalogs").joinpath(kind).iterdir()
    return sorted(f.name.removesuffix(".yaml") for f in found if f.name.endswith(".yaml"))


def load_source_card(name: str) -> SourceCard:
    """A shipped source card by name, or a user's own by the path of its YAML file.

    Raises
    ------
    CardError
    """
    return _load(name, "sources", SourceCard)


def load_boundary_card(name: str) -> BoundaryCard:
    """A shipped boundary card by name, or a user's own by path."""
    return _load(name, "boundaries", BoundaryCard)


def _load(name: str, kind: str, form: type[C]) -> C:
    if name.endswith((".yaml", ".yml")):
        path: Any = Path(name)
        if not path.is_file():
            raise CardError("there is no such card", got=name)
    else:
        path = files("catalogs").joinpath(kind, f"{name}.yaml")
        if "/" in name or not path.is_file():
            raise CardError(
                f"there is no card of this name in {kind}",
                got=name,
                expected=", ".join(card_names(kind)),
                remedy="name one of these, or the path of a YAML file of your own",
            )
    try:
        # a card that is shipped may lie in an archive, which is no path
        text = read_document(path) if isinstance(path, Path) else path.read_text(encoding="utf-8")
        return form.model_validate(read_yaml(text))
    except ValidationError as error:
        raise CardError("the card is wrong", got=f"{name}: {explain(error, form)}") from error
    except ValueError as error:
        raise CardError("the card cannot be read", got=f"{name}: {error}") from error


def find_boundaries(card: BoundaryCard, folder: str | Path | None = None) -> Path:
    """The polygon file of a card, in `folder` or in that of NATMAP_BOUNDARIES.

    Raises
    ------
    CardError
        Saying where to get it.
    """
    where = folder or os.environ.get("NATMAP_BOUNDARIES")
    if where:
        for name in card.files:
            path = Path(where) / name
            if path.is_file():
                return path
    raise CardError(
        f"the polygons of {card.name} are not here",
        got=f"folder {where}" if where else "NATMAP_BOUNDARIES is not set",
        expected=" or ".join(card.files),
        remedy=f"get them from {card.address} ({card.licence}), put them into a folder and set "
        "NATMAP_BOUNDARIES to it",
    )
