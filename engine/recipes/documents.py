"""YAML and JSON that others wrote: read within bounds, and nothing in them counts twice.

A parser takes the last of two equal keys without a word, and an alias may stand for a billion
values. What is read here becomes recipes, cards and settings.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

__all__ = ["MOST_BYTES", "read_document", "read_json", "read_yaml"]

MOST_BYTES = 256 << 10
"""Of a document; a recipe of each product's template has 2 kB."""
_MOST_VALUES = 50_000  # with all that aliases stand for
_DEEPEST = 40  # levels
_INTEGER, _DECIMAL = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"
_PLAIN = re.compile(r"[-+]?(0|[1-9][0-9]*)|0x[0-9a-fA-F]+|0o[0-7]+")
_MERGE = "tag:yaml.org,2002:merge"  # the key <<


def read_document(path: Path, most: int = MOST_BYTES) -> str:
    """The text of a file of a bounded size.

    Raises
    ------
    FileNotFoundError
    ValueError
        Where it cannot be read, is too large, or is no UTF-8.
    """
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from error
    if len(data) > most:
        raise ValueError(f"it has more than {most:,} bytes")
    return data.decode("utf-8")  # its error is a ValueError


def read_yaml(text: str) -> Any:
    """The value of a YAML document.

    Raises
    ------
    ValueError
        Where it is no YAML, names a key twice, holds what no value can be, or is too large or too
        deep, with all that its aliases stand for.
    """
    if len(text) > MOST_BYTES:
        raise ValueError(f"it has more than {MOST_BYTES:,} letters")
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
    except (OverflowError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def read_json(text: str) -> Any:
    """The value of a JSON document; NaN and Infinity, which are no JSON, are refused.

    Raises
    ------
    ValueError
        Where it is no JSON, names a key twice, or is too deep.
    """
    try:
        found = json.loads(text, object_pairs_hook=_once, parse_constant=_no_number)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error
    level, depth = [found], 0
    while level := [inner for value in level for inner in _inner(value)]:
        depth += 1
        if depth >= _DEEPEST:
            raise ValueError(f"it is nested deeper than {_DEEPEST} levels")
    return found


def _inner(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _once(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"{key} is there twice")
        found[key] = value
    return found


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is not a finite number")


class _Loader(yaml.SafeLoader):
    """A safe loader that bounds depth and number of values, and refuses a key named twice."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0

    def get_single_node(self) -> yaml.Node | None:
        """The document's node."""
        node: yaml.Node | None = super().get_single_node()
        if node is not None:
            _count(node, {})
        return node

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """One node, no deeper than is allowed."""
        if self._depth >= _DEEPEST:
            raise ValueError(f"it is nested deeper than {_DEEPEST} levels")
        self._depth += 1
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        if isinstance(node, yaml.ScalarNode):
            _require_text(node.value)
            _require_number(node)
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """A mapping, each of its keys once."""
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise ValueError(f"a key is not a plain word{_place(key)}")
            value = key.tag, key.value
            if value in seen:
                raise ValueError(f"{key.value} is there twice{_place(key)}")
            seen.add(value)
        return node


def _count(node: yaml.Node, known: dict[int, int]) -> int:
    """Values of a node with all that aliases in it stand for."""
    if id(node) in known:
        if not known[id(node)]:
            raise ValueError(f"an alias stands for what it is a part of{_place(node)}")
        return known[id(node)]
    known[id(node)] = 0  # not counted to its end
    total = 1
    if isinstance(node, yaml.MappingNode):
        total += sum(_count(inner, known) for pair in node.value for inner in pair)
    elif isinstance(node, yaml.SequenceNode):
        total += sum(_count(inner, known) for inner in node.value)
    if total > _MOST_VALUES:
        raise ValueError(f"it holds more than {_MOST_VALUES:,} values, with all aliases")
    known[id(node)] = total
    return total


def _require_text(text: str) -> None:
    if "\0" in text or any("\ud800" <= sign <= "\udfff" for sign in text):
        raise ValueError(f"{text[:40]!a} is not text: it has a NUL or half a sign")


def _require_number(node: yaml.ScalarNode) -> None:
    """Refuse what YAML 1.1 takes for another number than anybody else: 0160 is 112, 1:30 is 90."""
    if node.tag == _INTEGER and not _PLAIN.fullmatch(node.value):
        raise ValueError(
            f"{node.value} is not written as a number{_place(node)}: "
            "without leading zeros, colons and underscores; or in quotes, where it is a text"
        )
    if node.tag == _DECIMAL and (":" in node.value or "_" in node.value):
        raise ValueError(f"{node.value} is not written as a number{_place(node)}")


def _place(node: yaml.Node) -> str:
    mark = node.start_mark
    return "" if mark is None else f" (line {mark.line + 1})"
