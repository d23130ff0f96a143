"""Connections to web servers: where they may lead, and how much may come.

A catalogue of somebody else's decides which addresses are asked. They may lead into the network of
whoever runs natmap, by name, by number, or by a redirect. So a connection is looked at once it is
made, and before anything is sent: by then the name is resolved.
"""

from __future__ import annotations

import ipaddress
import logging
import socket
import time
from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from requests.auth import HTTPBasicAuth
from requests.utils import get_auth_from_url, get_netrc_auth, select_proxy
from urllib3 import Retry
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError

from engine.addresses import host_of, public

__all__ = [
    "Bounds",
    "PrivateHostError",
    "TooMuchError",
    "adapter",
    "is_private",
    "log_in",
    "private_at",
]


def _say_nothing_secret(record: logging.LogRecord) -> bool:
    record.msg, record.args = public(record.getMessage()), ()
    return True


for _name in ("urllib3.connectionpool", "urllib3.util.retry", "pystac_client.stac_api_io"):
    logging.getLogger(_name).addFilter(_say_nothing_secret)  # they log addresses as they are


_CARRIERS = [ipaddress.ip_network(text) for text in ("64:ff9b::/96", "::/96", "::ffff:0:0:0/96")]
"""Of IPv6 addresses that end in one of IPv4, to which a gateway may lead (RFC 6052, 4291, 2765)."""
_LOCAL_GATEWAY = ipaddress.ip_network("64:ff9b:1::/48")
"""The same within one network alone (RFC 8215)."""


class PrivateHostError(requests.exceptions.InvalidURL):
    """An address leads into a private network, and nobody said that it may."""


class TooMuchError(requests.RequestException):
    """An answer is larger, or takes longer, than it may."""


class _PrivatePeerError(Exception):
    """Passes through urllib3, which would try again after any error of its own kinds."""


@dataclass(frozen=True)
class Bounds:
    """Of one answer, which is then read whole.

    Attributes
    ----------
    most : bytes, once unpacked.
    seconds, rate : it may take so long, and longer if it brings so many bytes a second.
    """

    most: int
    seconds: float = 20.0
    rate: float = 20_000.0


def is_private(address: str) -> bool:
    """Whether an IP address is one of this machine or of a private network."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        if found.is_site_local or found in _LOCAL_GATEWAY:
            return True
        inner = ipaddress.IPv4Address(found.packed[-4:])
        carried = any(found in network for network in _CARRIERS)
        found = found.ipv4_mapped or found.sixtofour or (inner if carried else found)
    return not found.is_global or found.is_multicast


@lru_cache(maxsize=4096)
def private_at(host: str) -> str | None:
    """The private address that a host's name leads to; None where there is none to be found."""
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(host, None)}
    except (OSError, UnicodeError):
        return None  # who cannot be found is not reached either, or by a proxy alone
    return next((address for address in sorted(found) if is_private(address)), None)


def log_in(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Authorise a request by what its address says, else by ~/.netrc; for a session's ``auth``.

    By itself requests lets ~/.netrc go before the address that somebody wrote down.
    """
    address = str(request.url)
    found = get_auth_from_url(address)
    if not any(found):
        found = get_netrc_auth(address) or found
    return HTTPBasicAuth(*found)(request) if any(found) else request


def adapter(
    hosts: Collection[str], bounds: Bounds | None = None, retries: Retry | int = 0, **more: Any
) -> HTTPAdapter:
    """How a session reaches http and https.

    Parameters
    ----------
    hosts : names of hosts that may be private.
    bounds : None: bodies are read by the caller.
    retries, more : as of requests' own.

    Raises
    ------
    PrivateHostError, TooMuchError
        From the session's own methods; both are `requests.RequestException`.
    """
    return _Adapter(frozenset(hosts), bounds, max_retries=retries, **more)


class _Adapter(HTTPAdapter):
    def __init__(self, hosts: frozenset[str], bounds: Bounds | None, **more: Any) -> None:
        self._hosts, self._bounds = hosts, bounds
        super().__init__(**more)

    def init_poolmanager(self, *args: Any, **more: Any) -> None:
        super().init_poolmanager(*args, **more)
        self.poolmanager.pool_classes_by_scheme = _pools(self._hosts)

    def send(self, request: requests.PreparedRequest, *args: Any, **more: Any) -> requests.Response:
        url = request.url or ""
        host = host_of(url)
        proxied = select_proxy(url, more.get("proxies") or {}) and host not in self._hosts
        # the connection is the proxy's then; what the name means here is all that can be known
        if proxied and (found := private_at(host)):
            raise _refusal(host, found)
        began = time.monotonic()
        try:
            answer = super().send(request, *args, **more)
        except _PrivatePeerError as error:
            raise _refusal(host, str(error)) from None
        if self._bounds is not None:
            _read_whole(answer, self._bounds, began)
        return answer


def _refusal(host: str, address: str) -> PrivateHostError:
    return PrivateHostError(
        f"{host} is a private address ({address}), and none of the catalogue's own host: "
        f"`allow_hosts: [{host}]` in the recipe allows it"
    )


def _read_whole(answer: requests.Response, bounds: Bounds, began: float) -> None:
    """The body, unpacked piece by piece, so that a small one that bursts takes no memory."""
    pieces, had = [], 0
    try:
        # what has come, be it a byte: a whole piece may be long in coming
        while piece := answer.raw.read1(1 << 16, decode_content=True):
            had += len(piece)
            took = time.monotonic() - began
            if had > bounds.most:
                raise TooMuchError(f"more than {bounds.most >> 20} MiB came, unpacked")
            if took > bounds.seconds + had / bounds.rate:
                raise TooMuchError(f"{had} bytes came in {took:.0f} s")
            pieces.append(piece)
    except HTTPError as error:
        raise requests.exceptions.ChunkedEncodingError(error) from error
    finally:
        answer.close()
    answer._content = b"".join(pieces)


@lru_cache(maxsize=64)
def _pools(hosts: frozenset[str]) -> dict[str, Any]:
    """Pools of connections that look at whom they reach."""

    def look(connection: HTTPConnection, reached: socket.socket) -> socket.socket:
        peer = reached.getpeername()[0]
        if connection.host.lower().strip("[]") not in hosts and is_private(peer):
            reached.close()
            raise _PrivatePeerError(peer)
        return reached

    class Plain(HTTPConnection):
        def _new_conn(self) -> socket.socket:
            return look(self, super()._new_conn())

    class Secure(HTTPSConnection):
        def _new_conn(self) -> socket.socket:
            return look(self, super()._new_conn())

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(HTTPSConnectionPool):
        ConnectionCls = Secure

    return {"http": PlainPool, "https": SecurePool}
