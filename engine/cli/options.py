"""Options that several verbs have, and what `--set` says."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from engine.errors import RecipeError

__all__ = ["Json", "RecipePath", "Set", "read_overrides"]

RecipePath = Annotated[Path, typer.Argument(help="recipe file (YAML)", show_default=False)]
Set = Annotated[
    list[str] | None, typer.Option("--set", help="key=value, overrides the recipe; repeatable")
]
Json = Annotated[bool, typer.Option("--json", help="machine-readable, on stdout")]


def read_overrides(overrides: list[str] | None) -> dict[str, Any]:
    """Keys and values of `--set`, the values read as YAML.

    Raises
    ------
    RecipeError
    """
    import yaml

    values = {}
    for text in overrides or []:
        key, sep, value = text.partition("=")
        if not sep:
            raise RecipeError("--set needs key=value", got=text)
        values[key] = yaml.safe_load(value)
    return values
