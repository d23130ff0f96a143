"""A recipe's file, of whatever schema: read, overridden, validated, its errors explained."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    StringConstraints,
    ValidationError,
    field_validator,
)
from pydantic.fields import FieldInfo

from engine.errors import RecipeError
from engine.recipes.documents import read_document, read_yaml

__all__ = [
    "CardOrPath",
    "Given",
    "PathText",
    "Strict",
    "Words",
    "explain",
    "load_values",
    "read_recipe",
]

Wanted = TypeVar("Wanted", bound="Strict")

_SHOWN = 20  # of wrong fields
_LONGEST = 120  # letters of a wrong value
_LONGEST_NAME = 200  # bytes; file systems take 255, and some files are called after others


class Strict(BaseModel):
    """Fields that are not there are refused, and nothing changes once it is read."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="wrap")
    @classmethod
    def _numbers_only(cls, value: Any, read: Callable[[Any], Any]) -> Any:
        """A number is written as one: Python takes true, ``1_000`` and digits of any script too."""
        found = read(value)
        _require_numbers(value, found)
        return found


def _require_numbers(value: Any, found: Any) -> None:
    """Refuse what was read as a number and is not written as one, in a field of any depth."""
    if isinstance(value, Mapping) and isinstance(found, BaseModel):
        for name in value.keys() & type(found).model_fields.keys():
            _require_numbers(value[name], getattr(found, name))
    elif isinstance(value, list | tuple) and isinstance(found, list | tuple):
        for one, other in zip(value, found, strict=False):
            _require_numbers(one, other)
    elif isinstance(found, int | float) and not isinstance(found, bool):
        odd = isinstance(value, str) and ("_" in value or not value.isascii())
        if isinstance(value, bool) or odd:
            raise ValueError("it is not written as a number")


class _Place:
    """Marks a field that is a path, or else (`named`) may be the name of a card."""

    def __init__(self, named: bool = False) -> None:
        self.named = named


def _sound(text: str) -> str:
    if not text.strip() or "\0" in text:
        raise ValueError("a path has letters, and no NUL")
    if re.match(r"~[\w.-]*(/|$)", text) and text.count("~") == 1 and ("/" in text or text == "~"):
        raise ValueError(
            "only a shell knows what ~ is; write the folder out, or ./~ for one so named"
        )
    if "://" not in text and max(len(os.fsencode(p)) for p in text.split("/")) > _LONGEST_NAME:
        raise ValueError(f"a name in a path is longer than {_LONGEST_NAME} bytes")
    return text


PathText = Annotated[str, AfterValidator(_sound), _Place()]
"""A path, relative to the recipe's folder; or an address."""
CardOrPath = Annotated[str, AfterValidator(_sound), _Place(named=True)]
"""A path as `PathText`, or the name of a card."""


def _one_line(text: str) -> str:
    if not text.isprintable():
        raise ValueError("text of one line, without control characters")
    return text


Words = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=1000),
    AfterValidator(_one_line),
]
"""Text for people, in one line."""


class Given(dict[str, Any]):
    """What was given as `--set`: errors name the option, paths are taken from where one stands."""


def load_values(source: str | Path | Mapping[str, Any], template: str) -> dict[str, Any]:
    """What a recipe's file says, not validated; a copy of a mapping.

    Raises
    ------
    RecipeError
    """
    if isinstance(source, Mapping):
        return dict(source)
    try:
        values = read_yaml(read_document(Path(source)))
    except FileNotFoundError as error:
        raise RecipeError(
            "there is no such recipe",
            got=source,
            remedy=f"`natmap init {template} > recipe.yaml` writes one to start from",
        ) from error
    except ValueError as error:
        raise RecipeError("the recipe cannot be read", got=f"{source}: {error}") from error
    if not isinstance(values, dict):
        kind = type(values).__name__
        raise RecipeError("the recipe is not a mapping", got=f"{source}: {kind}")
    return values


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
    where = called if isinstance(source, Mapping) else str(source)
    values = load_values(source, template)
    base = Path() if isinstance(source, Mapping) else Path(source).parent
    given = isinstance(overrides, Given)
    for key, value in (overrides or {}).items():
        _set(values, key, _seen_from(base, schema, key, value) if given else value)
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        options = tuple(tuple(key.split(".")) for key in overrides or ()) if given else ()
        problems = [(p["loc"], text) for p, text in _problems(error, schema, template, whose)]
        lines = [f"  {'--set ' * _of(options, loc)}{text}" for loc, text in problems]
        if all(_of(options, loc) for loc, _ in problems):
            where = "--set"
        more = [f"  and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
        text = "\n".join([f"{where} is wrong", *lines[:_SHOWN], *more])
        raise RecipeError(text) from None


def explain(error: ValidationError, schema: type[BaseModel]) -> str:
    """What is wrong with a card, in a line."""
    texts = [text for _, text in _problems(error, schema, None, lambda path: None)]
    more = f"; and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else ""
    return "; ".join(texts[:_SHOWN]) + more


def _of(options: tuple[tuple[str, ...], ...], place: tuple[str | int, ...]) -> bool:
    """Whether a place in a recipe is one that an option set, lies in one, or was made by it."""
    said = tuple(map(str, place))
    return any(
        said[: len(option)] == option or (said and option[: len(said)] == said)
        for option in options
    )


def _set(values: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        step = values.setdefault(parent, {})
        if not isinstance(step, dict):
            raise RecipeError("--set reaches into a value", got=key, expected="section.key=value")
        values[parent] = values = dict(step)
    values[last] = value


# -- paths that were typed ----------------------------------------------------------------------


def _seen_from(base: Path, schema: type[BaseModel], key: str, value: Any) -> Any:
    """A value whose relative paths, from the working directory, become the recipe's own."""
    if base.resolve() == Path.cwd():
        return value
    annotation: Any = schema
    marks: list[Any] = []
    for part in key.split("."):
        field = next((f for n, f in _fields(annotation) if n == part), None)
        if field is None:
            return value
        annotation, marks = field.annotation, field.metadata
    return _moved(base, annotation, marks, value)


def _moved(base: Path, annotation: Any, marks: list[Any], value: Any) -> Any:
    if isinstance(value, Mapping):
        fields = dict(_fields(annotation))
        if not fields:  # a table of the same kind of values
            return {key: _moved(base, annotation, marks, inner) for key, inner in value.items()}
        return {
            key: _moved(base, fields[key].annotation, fields[key].metadata, inner)
            if key in fields
            else inner
            for key, inner in value.items()
        }
    if isinstance(value, list):
        return [_moved(base, annotation, marks, inner) for inner in value]
    mark = next((m for m in (*marks, *_marks(annotation)) if isinstance(m, _Place)), None)
    if mark is None or not isinstance(value, str) or "://" in value or os.path.isabs(value):
        return value
    path = Path(value)
    if mark.named and not (path.exists() or path.suffix or "/" in value or "\\" in value):
        return value
    if ".." in path.parts:
        path = path.resolve()  # a link before it leads elsewhere than the letters say
    return os.path.relpath(Path.cwd() / path, base.resolve())


def _marks(annotation: Any) -> Iterator[Any]:
    """What annotations say beside types, of all parts of one."""
    yield from getattr(annotation, "__metadata__", ())
    for part in get_args(annotation):
        yield from _marks(part)


def _fields(annotation: Any) -> Iterator[tuple[str, FieldInfo]]:
    """Fields of all schemas that an annotation has in it."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield from annotation.model_fields.items()
    for part in get_args(annotation):
        yield from _fields(part)


# -- what is wrong ------------------------------------------------------------------------------


def _problems(
    error: ValidationError,
    schema: type[BaseModel],
    template: str | None,
    whose: Callable[[tuple[str | int, ...]], str | None],
) -> Iterator[tuple[Any, str]]:
    see = "" if template is None else f"; see `natmap init {template}`"
    for problem in error.errors():
        place = problem["loc"]
        path = ".".join(str(p) for p in place) or "recipe"
        if problem["type"] == "extra_forbidden":
            other, near = whose(place), _near(schema, place)
            what = "unknown key; remove it" + (f", or see `natmap init {template}`" if see else "")
            if near:
                what = f"unknown key; did you mean {near}?"
            if other:
                what = f"{other}; leave it out{see.replace('; ', ', or ')}"
            yield problem, f"{path}: {what}"
        elif problem["type"] == "missing":
            yield problem, f"{path}: missing{see}"
        else:
            message = problem["msg"].removeprefix("Value error, ")
            got = problem.get("input")
            text = repr(got)
            text = text if len(text) <= _LONGEST else f"{text[:_LONGEST]} …"
            short = "" if isinstance(got, dict | BaseModel) else f" (got {text})"
            yield problem, f"{path}: {message}{short}"


def _near(schema: type[BaseModel], place: tuple[str | int, ...]) -> str | None:
    """The key that may have been meant by one that is not there."""
    *parents, last = map(str, place)
    annotation: Any = schema
    for part in parents:
        field = next((f for n, f in _fields(annotation) if n == part), None)
        annotation = annotation if field is None else field.annotation
    beside = [name for name, _ in _fields(annotation)]
    for name in get_close_matches(last.replace("-", "_"), beside, 1, 0.7):
        return ".".join([*parents, name])
    elsewhere = [path for path in _paths(schema) if path.rpartition(".")[2] == last]
    return elsewhere[0] if len(elsewhere) == 1 else None


def _paths(annotation: Any, before: str = "") -> Iterator[str]:
    for name, field in _fields(annotation):
        yield before + name
        yield from _paths(field.annotation, f"{before}{name}.")
