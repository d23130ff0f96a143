"""A recipe's file, of whatever schema: read, overridden, validated, its errors explained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from engine.errors import RecipeError

__all__ = ["Strict", "product_of", "read_recipe"]

Wanted = TypeVar("Wanted", bound="Strict")


class Strict(BaseModel):
    """Fields that are not there are refused, and nothing changes once it is read."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def product_of(path: str | Path) -> str:
    """The product that a recipe file names, of whatever schema; "" where it names none."""
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, OSError):
        return ""  # whoever reads the recipe says what is wrong with it
    return str(values.get("product", "")) if isinstance(values, dict) else ""


def read_recipe(
    schema: type[Wanted],
    source: str | Path | Mapping[str, Any],
    overrides: Mapping[str, Any] | None = None,
    *,
    template: str,
    called: str = "the recipe",
    whose: Callable[[tuple[str | int, ...]], str | None] = lambda path: None,
) -> Wanted:
    """Read and validate a recipe of any schema, or a section of one.

    `template` is what `natmap init` calls it, `called` what errors call a mapping, `whose` says of
    a key that the schema lacks where it belongs.
    """
    values: Any
    if isinstance(source, Mapping):
        values, where = dict(source), called
    else:
        where = str(source)
        try:
            values = yaml.safe_load(Path(source).read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise RecipeError(
                "there is no such recipe",
                got=where,
                remedy=f"`natmap init {template} > recipe.yaml` writes one to start from",
            ) from error
        except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
            raise RecipeError("the recipe is not YAML", got=f"{where}: {error}") from error
        if not isinstance(values, dict):
            kind = type(values).__name__
            raise RecipeError("the recipe is not a mapping", got=f"{where}: {kind}")
    for key, value in (overrides or {}).items():
        _set(values, key, value)
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        raise RecipeError(f"{where} is wrong\n{_explain(error, template, whose)}") from None


def _set(values: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        step = values.setdefault(parent, {})
        if not isinstance(step, dict):
            raise RecipeError("--set reaches into a value", got=key, expected="section.key=value")
        values[parent] = values = dict(step)
    values[last] = value


def _explain(
    error: ValidationError, template: str, whose: Callable[[tuple[str | int, ...]], str | None]
) -> str:
    lines = []
    for problem in error.errors():
        path = ".".join(str(p) for p in problem["loc"]) or "recipe"
        if problem["type"] == "extra_forbidden":
            other = whose(problem["loc"])
            what = f"{other}; leave it out" if other else "unknown key; remove it"
            lines.append(f"  {path}: {what}, or see `natmap init {template}`")
        elif problem["type"] == "missing":
            lines.append(f"  {path}: missing; see `natmap init {template}`")
        else:
            message = problem["msg"].removeprefix("Value error, ")
            got = problem.get("input")
            short = "" if isinstance(got, dict | BaseModel) else f" (got {got!r})"
            lines.append(f"  {path}: {message}{short}")
    return "\n".join(lines)
