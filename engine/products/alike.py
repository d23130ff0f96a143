"""Cards that map in the place of a recipe's own: where they lie, and whether they fit beside it."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from engine.errors import CardError, RecipeError
from engine.models.card import ModelCard, find_card, load_card
from engine.models.onnx_checks import examine_weights
from engine.recipes.base import CardOrPath

__all__ = ["find_beside", "find_within", "load_alike"]

_ALIKE = ("bands", "ranges", "resolution", "cell", "context", "patch", "overlap", "output")
"""Fields of a card by which images are read, windows lie, and scores are stored."""


def find_within(text: str, folder: Path, whose: str) -> Path:
    """Where the card lies that a file names, which others may have written.

    Parameters
    ----------
    text : path of a card from the file's folder, or the name of a shipped one.
    folder : the file's.
    whose : the card is, in errors.

    Raises
    ------
    RecipeError, CardError
        Where the path leads out of the folder without being absolute, and where there is none.
    """
    try:
        path = TypeAdapter(CardOrPath).validate_python(text.strip())
    except ValidationError as error:
        said = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise RecipeError(f"card of {whose}: {said}", got=text) from error
    if not os.path.isabs(path) and ".." in Path(os.path.normpath(path)).parts:
        raise RecipeError(
            f"the card of {whose} lies outside the file's folder",
            got=path,
            expected="a path within that folder, or an absolute one",
        )
    return find_beside(path, folder, whose)


def find_beside(path: str, folder: Path, whose: str) -> Path:
    """Where a card lies that a recipe or a file names.

    Raises
    ------
    CardError
    """
    try:
        return find_card(path, folder)
    except CardError as error:
        raise CardError(
            f"there is no card for {whose}",
            got=path,
            expected=error.expected,
            remedy=error.remedy,
        ) from error


def load_alike(
    where: Path, rest: ModelCard, precision: str, *, whose: str, remedy: str
) -> ModelCard:
    """A card, with weights that are its own, that reads and scores as the recipe's does.

    Parameters
    ----------
    where : it lies.
    rest : card of the recipe.
    precision : that it is to run in.
    whose : it is, in errors.
    remedy : where it does not fit.

    Raises
    ------
    CardError, WeightsError
    """
    try:
        card = load_card(where)
    except CardError as error:
        raise CardError(
            f"the card of {whose} cannot be used: {error.what}",
            got=error.got,
            expected=error.expected,
            remedy=error.remedy,
        ) from error
    if not card.segments:
        raise CardError(
            f"the card of {whose} is of no segmenter",
            got=f"{card.name}: {card.architecture}",
            expected="a segmenter as the recipe's card",
        )
    mine = {name: getattr(card, name) for name in _ALIKE} | {"classes": _classes_of(card)}
    theirs = {name: getattr(rest, name) for name in _ALIKE} | {"classes": _classes_of(rest)}
    if other := [name for name in mine if mine[name] != theirs[name]]:
        raise CardError(
            f"the card of {whose} does not fit the recipe's",
            got=f"{card.name}: " + "; ".join(f"{name} {_told(mine[name])}" for name in other),
            expected=f"{rest.name}: " + "; ".join(f"{n} {_told(theirs[n])}" for n in other),
            remedy=remedy,
        )
    card.check_precision(precision)
    examine_weights(card)
    return card


def _classes_of(card: ModelCard) -> tuple[tuple[int, str], ...]:
    return tuple((c.code, c.name) for c in card.legend)


def _told(value: object) -> str:
    if not isinstance(value, tuple):
        return str(value)
    return ", ".join(f"{v[0]} {v[1]}" if isinstance(v, tuple) else str(v) for v in value)
