"""Addresses: what of one may be kept and shown, and where a link leads.

Links of a catalogue carry signatures, tokens and passwords under any name. Whatever is stored,
logged or said in an error passes through `public`, which knows what may stay, not what must go.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urljoin, urlsplit, urlunsplit

__all__ = [
    "as_link",
    "doubtful",
    "dropped",
    "from_anywhere",
    "host_of",
    "is_http",
    "public",
    "public_address",
    "resolve",
]

_KEPT = {
    "alt",
    "asset",
    "assets",
    "band",
    "bands",
    "bbox",
    "collection",
    "collections",
    "count",
    "coverage",
    "coverageid",
    "crs",
    "date",
    "datetime",
    "day",
    "dl",
    "download",
    "end",
    "f",
    "file",
    "filename",
    "format",
    "generation",
    "height",
    "id",
    "ids",
    "inline",
    "item",
    "items",
    "layer",
    "layers",
    "level",
    "limit",
    "month",
    "name",
    "object",
    "offset",
    "page",
    "path",
    "period",
    "product",
    "raw",
    "ref",
    "request",
    "resolution",
    "scene",
    "service",
    "size",
    "start",
    "tile",
    "time",
    "uuid",
    "version",
    "versionid",
    "width",
    "x",
    "y",
    "year",
    "z",
    "zoom",
}
"""Query parameters that say which file is meant; only these are kept."""

_CREDENTIALS = re.compile(
    r"(x-(amz|goog|oss|ms|cos)-.*"
    r"|.*(token|secret|passw|signature|credential|session|oauth|jwt).*|auth|authorization|authkey"
    r"|.*(api|access|subscription|shared)[-_.]?key.*|key|key-?pair-?id|pwd|pw|pass|user(name)?"
    r"|sig|sas|s[etpvri]|spr|sip|ss|srt|sdd|sk[tesv]|skoid|sktid|saoid|suoid|scid"
    r"|exp|expir.*|policy|hmac|code|nonce|ts|timestamp|.*accessid)",
    re.IGNORECASE,
)
"""Those that say who asks and until when. They are dropped: the file is the same without them."""

_SHARED = {"http", "https", "ftp", "ftps", "s3", "gs", "az", "abfs", "abfss"}
"""Schemes of addresses that lead to the same place from every machine."""

_NEARBY = (".localhost", ".local", ".internal", ".lan", ".home.arpa")
"""Ends of names that are known in one network alone."""

_SIGNS = r"(?:[^\s'\"<>]|'(?=[\w%&=.~+/@:$!*-]))"
"""Of an address in a text; a quotation mark where more of the address follows it."""
_ADDRESS = re.compile(rf"[A-Za-z][A-Za-z0-9+.-]*://(?:[^\s/?#@]*@)?{_SIGNS}+")
_QUERY = re.compile(rf"(?<=[^\s'\"<>(\[])\?{_SIGNS}*=(?:{_SIGNS})*")


def public(value: Any) -> Any:
    """Text whose addresses hold no user name, password, or parameter that is not allow-listed.

    Parameters
    ----------
    value : str, or mappings and sequences of them, nested; anything else is returned as it is.
    """
    if isinstance(value, str):
        if "?" not in value and "://" not in value:
            return value
        found = _ADDRESS.sub(lambda match: public_address(match[0]), value)
        return _QUERY.sub(lambda match: _asked(match[0][1:], ()), found)
    if isinstance(value, Mapping):
        return {key: public(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [public(inner) for inner in value]
    return value


def public_address(href: str, also: Collection[str] = ()) -> str:
    """One address, or path, as it may be kept and shown.

    Parameters
    ----------
    href : all of it is the address.
    also : query parameters that are kept besides those that always are.
    """
    head, mark, rest = href.partition("://")
    if not mark:
        return href
    place, _, query = _without_user(rest).partition("#")[0].partition("?")
    return f"{head}://{place}{_asked(query, also)}"


def _without_user(rest: str) -> str:
    """What follows the scheme, from the host on."""
    host = re.match(r"[^/?#]*", rest)[0]  # type: ignore[index]
    if "@" in host:
        return host.rpartition("@")[2] + rest[len(host) :]
    if "@" in rest and re.search(r":(?!\d*$)", re.sub(r"\[.*\]", "", host)):
        return rest.rpartition("@")[2]  # no port, but a password whose / was not encoded
    return rest


def _asked(query: str, also: Collection[str]) -> str:
    parts = [";".join(_kept(part, also)) for part in query.split("&")]
    kept = [part for part in parts if part]
    return f"?{'&'.join(kept)}" if kept else ""


def _kept(part: str, also: Collection[str]) -> list[str]:
    """One parameter, and those that a semicolon joins to it."""
    first, *more = part.split(";")
    allowed = [one for one in _parameters(part) if _name(one) in _KEPT or _name(one) in also]
    found = [first] if first in allowed else []
    found += [one for one in more if one in allowed or (found and "=" not in one)]
    return [_inner(one) for one in found]


def _parameters(part: str) -> list[str]:
    """Those of one part of a query; without a name of its own a piece belongs to the one before."""
    first, *more = part.split(";")
    return [first, *(one for one in more if "=" in one)]


def _inner(part: str) -> str:
    """A parameter; an address in its value is an address, too."""
    name, mark, value = part.partition("=")
    text = unquote(unquote(value))
    cleaned = public(text)
    return part if cleaned == text else f"{name}{mark}{quote(cleaned, safe='/:')}"


def dropped(href: str, also: Collection[str] = ()) -> set[str]:
    """Query parameters of an address that are not kept."""
    if "://" not in href:
        return set()
    parts = _without_user(href.partition("://")[2]).partition("#")[0].partition("?")[2].split("&")
    names = {_name(one) for part in parts for one in _parameters(part) if one}
    return names - _KEPT - set(also)


def doubtful(href: str, also: Collection[str] = ()) -> list[str]:
    """Query parameters that are not kept, and yet may say which file is meant."""
    return sorted(name for name in dropped(href, also) if not _CREDENTIALS.fullmatch(name))


def _name(part: str) -> str:
    return unquote(part.partition("=")[0]).lower()


def is_http(href: str) -> bool:
    """Whether an address leads to a web server."""
    return href[:8].lower().startswith(("http://", "https://"))


def host_of(href: str) -> str:
    """The host that an address names, in lower case; "" where it names none."""
    return (urlsplit(href).hostname or "").rstrip(".")


def from_anywhere(href: str) -> bool:
    """Whether an address may lead others to what it names: no path or host of one's own network.

    By what is written alone; no name is looked up.
    """
    try:
        parts = urlsplit(href)
        host = host_of(href)
    except ValueError:
        return False
    if parts.scheme not in _SHARED or not host or not href.isprintable():
        return False
    if parts.scheme not in ("http", "https", "ftp", "ftps"):
        return True  # the name of a bucket
    try:
        return ipaddress.ip_address(host).is_global
    except ValueError:
        return "." in host and not host.endswith(_NEARBY)


def resolve(href: str, base: str | None) -> str:
    """Where a link of a document leads: an address, or a path of this machine.

    Links are URI references (RFC 3986), relative to their document, with %20 for a blank. Paths
    that were written as they are, without it, are understood where only they lead to a file.

    Parameters
    ----------
    href : the link.
    base : address or path of the document; None: the link stays relative.
    """
    if base is not None and is_http(base):
        return _lower(urljoin(base, href.strip()))
    scheme, mark, rest = href.partition("://")
    if mark and scheme.lower() != "file":
        return _lower(href)
    text = f"/{rest.removeprefix('localhost/').lstrip('/')}" if mark else href
    if text.startswith("/vsi"):
        return text
    above = Path(base).parent if base is not None else Path()
    literal = above / text
    decoded = above / unquote(re.split(r"[?#]", text, maxsplit=1)[0])
    path = literal if literal.is_file() and not decoded.is_file() else decoded
    return str(path) if base is None or text.startswith("/") else str(path.resolve())


def as_link(path: str) -> str:
    """A path as a link that leads to it: what would be read as something else is encoded."""
    return path.replace("%", "%25").replace("?", "%3F").replace("#", "%23")


def _lower(href: str) -> str:
    parts = urlsplit(href)
    return urlunsplit((parts.scheme, *parts[1:]))
