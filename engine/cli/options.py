"""Options that several verbs have, and what `--set` says."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from engine.errors import RecipeError

__all__ = ["Json", "RecipePath", "Set", "read_codes", "read_overrides", "read_source"]

RecipePath = Annotated[
    Path, typer.Argument(help="recipe file (YAML); - is standard input", show_default=False)
]
Set = Annotated[
    list[str] | None, typer.Option("--set", help="key=value, overrides the recipe; repeatable")
]
Json = Annotated[bool, typer.Option("--json", help="machine-readable, on stdout")]

_STDIN = Path("-")


def read_source(recipe: Path) -> Path | Mapping[str, Any]:
    """A recipe's path as it is, or what standard input says.

    Raises
    ------
    RecipeError
    """
    if recipe != _STDIN:
        return recipe
    from engine.recipes.documents import MOST_BYTES, read_yaml

    try:
        values = read_yaml(sys.stdin.buffer.read(MOST_BYTES + 1).decode("utf-8"))
    except ValueError as error:
        raise RecipeError("the recipe cannot be read", got=f"standard input: {error}") from error
    if not isinstance(values, dict):
        kind = type(values).__name__
        raise RecipeError("the recipe is not a mapping", got=f"standard input: {kind}")
    return values


def read_overrides(overrides: list[str] | None) -> dict[str, Any]:
    """Keys and values of `--set`, the values read as YAML.

    Raises
    ------
    RecipeError
    """
    from engine.recipes.base import Given
    from engine.recipes.documents import read_yaml

    values = Given()
    for text in overrides or []:
        key, sep, value = text.partition("=")
        if not sep or not all(key.split(".")):
            raise RecipeError("--set needs key=value", got=text, expected="section.key=value")
        try:
            values[key] = read_yaml(value)
        except ValueError as error:
            raise RecipeError(f"--set {key} cannot be read", got=f"{value}: {error}") from error
    return values


def read_codes(option: str, text: str) -> list[int]:
    """Codes of an option, as in 10,20,30.

    Raises
    ------
    RecipeError
    """
    try:
        return [int(part) for part in text.split(",")] if text.strip() else []
    except ValueError as error:
        raise RecipeError(f"{option} takes codes", got=text, expected="as in 10,20,30") from error
