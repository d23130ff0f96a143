"""What an item says of itself that others must be told: its address, its licence, whom to name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from engine.addresses import doubtful, from_anywhere, public, public_address, resolve
from engine.catalog.cards import SourceCard
from engine.licences import one_line

__all__ = ["LICENCE", "credits_of"]

LICENCE = "natmap:licence"
"""Property of ingested items: a licence in words, for which STAC's own field has no room."""

_LONGEST = 1000  # characters; a catalogue of somebody else's may say anything
_ELSEWHERE = ("other", "various", "proprietary")
"""Licences of STAC that say no more than that a link leads to the terms."""


def credits_of(raw: Mapping[str, Any], card: SourceCard, base: str | None) -> dict[str, Any]:
    """link, licence, attribution and citation of an item, None where nobody states them.

    Parameters
    ----------
    raw : the item's JSON.
    card : of its source, which states the licence of items that do not.
    base : address or path of the document that holds the item.
    """
    said = raw.get("properties")
    properties: Mapping[str, Any] = said if isinstance(said, Mapping) else {}
    licence = _line(properties.get(LICENCE)) or _line(properties.get("license"))
    if licence in (None, *_ELSEWHERE):
        terms = _first(_linked(raw, base, "license"))
        licence = terms or _line(card.licence) or licence
    named = _line(properties.get("attribution"))
    return {
        "link": _first(_linked(raw, base, "self", "canonical")),
        "licence": licence,
        "attribution": named or _providers(properties.get("providers")),
        "citation": _line(properties.get("sci:citation")),
    }


def _linked(raw: Mapping[str, Any], base: str | None, *kinds: str) -> Iterator[str]:
    """Where links lead, those of the first kind first."""
    links = raw.get("links")
    known = [link for link in links if isinstance(link, Mapping)] if isinstance(links, list) else []
    for kind in kinds:
        for link in known:
            href = link.get("href")
            if link.get("rel") == kind and isinstance(href, str):
                with suppress(ValueError):  # no address
                    yield resolve(href, base)


def _first(addresses: Iterator[str]) -> str | None:
    """The first address that leads there from anywhere, also without what signs it."""
    for found in addresses:
        if len(found) <= _LONGEST and from_anywhere(found) and not doubtful(found):
            return public_address(found)
    return None


def _providers(said: Any) -> str | None:
    """Who licenses or produced it."""
    entries = [p for p in said if isinstance(p, Mapping)] if isinstance(said, list) else []
    for role in ("licensor", "producer"):
        named = [
            name
            for entry in entries
            if isinstance(roles := entry.get("roles"), list)
            and role in roles
            and (name := _line(entry.get("name")))
        ]
        if named:
            return _line(", ".join(dict.fromkeys(named)))
    return None


def _line(said: Any) -> str | None:
    """Text of anybody's as one line, without secrets of addresses in it."""
    if not isinstance(said, str):
        return None
    found: str = public(one_line(said[:_LONGEST]))
    return found or None
