"""Where an item comes from: its radiometric policy follows that, not where its copy was found."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any
from urllib.parse import urlsplit

from engine.catalog.cards import SourceCard, card_names, load_source_card

__all__ = ["origin_of"]


def origin_of(raw: Mapping[str, Any], card: SourceCard) -> SourceCard:
    """The shipped card of the source that an item is a copy of, or the card it was found by.

    A user's own card decides for its items, and a shipped one for what its catalogue gives. An item
    of a plain catalogue is traced by its flags, then by the hosts of its links, of its providers
    and of its files, within the collection that it names, and last by that collection's keys of
    assets, in which every source differs.

    Parameters
    ----------
    raw : the item's JSON.
    card : that the catalogue was opened with.
    """
    if card.name != "own":
        return card
    properties, collection = raw.get("properties") or {}, raw.get("collection")
    assets = raw.get("assets")
    if "earthsearch:boa_offset_applied" in properties:
        name = "earth-search-c1" if collection == "sentinel-2-c1-l2a" else "earth-search"
        return load_source_card(name)
    hosts = set(_hosts(raw))
    for known in _shipped():
        if hosts & set(known.hosts) and collection in (None, known.collection):
            return known
    keys = set(assets) if isinstance(assets, Mapping) else set()
    within = [known for known in _shipped() if known.collection == collection]
    alike = [(len(keys & set(known.assets.values())), known) for known in within]
    shared, known = max(alike, key=lambda pair: pair[0], default=(0, card))
    return known if shared else card


@cache
def _shipped() -> tuple[SourceCard, ...]:
    return tuple(load_source_card(name) for name in card_names("sources"))


def _hosts(raw: Mapping[str, Any]) -> Iterator[str]:
    """Hosts that an item names, in lower case."""
    for entry in _addresses(raw):
        if isinstance(entry, str):
            try:
                host = urlsplit(entry).hostname
            except ValueError:  # no address
                continue
            if host:
                yield host.lower()


def _addresses(raw: Mapping[str, Any]) -> Iterator[Any]:
    properties = raw.get("properties") or {}
    for links in (raw.get("links"), properties.get("providers")):
        for link in links if isinstance(links, list) else []:
            if isinstance(link, Mapping):
                yield link.get("href") or link.get("url")
    assets = raw.get("assets")
    for asset in assets.values() if isinstance(assets, Mapping) else []:
        if isinstance(asset, Mapping):
            yield asset.get("href")
