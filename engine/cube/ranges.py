"""Ranges of files on a web server, each checked to be the one that was asked for.

GDAL's own reader takes what a server sends for a range: bytes from elsewhere in the file, or fewer
of them, are decoded without an error where the format has no checksum that is looked at (inflate
has one, libtiff does not look), and a wrong map is made in silence. Here an answer counts only
where its status, place, length, and the file's size and version are right; any other is asked for
again after a pause.
"""

from __future__ import annotations

import math
import os
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from http.cookiejar import DefaultCookiePolicy
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar
from urllib.parse import urlsplit

import requests
from requests.utils import get_environ_proxies, get_netrc_auth
from urllib3.exceptions import HTTPError

from engine.addresses import host_of
from engine.environment import number
from engine.web import PrivateHostError, adapter

__all__ = ["REFUSED", "RangeError", "RemoteFile", "download"]

HEAD = 32_768  # bytes fetched first: size and, of a cloud-optimised file, its whole header
_TRIES = 5
_PIECE = 1 << 20
_SLOW = 1000  # bytes a second
_NUMBER = re.compile(r"[0-9]{1,18}")
_PLACE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})")
Found = TypeVar("Found")
REFUSED = 451
"""Status of an address that nobody asked: it leads where it may not."""
_FINAL = (
    400,
    401,
    403,
    404,
    405,
    410,
    413,
    414,
    REFUSED,
)  # asking again, unchanged, gets the same answer


class RangeError(OSError):
    """A range could not be had.

    Attributes
    ----------
    status : int
        Of the last answer; 0 where there was none, or it was not what was asked for.
    """

    def __init__(self, text: str, status: int = 0) -> None:
        super().__init__(text)
        self.status = status


class RemoteFile:
    """A file on a web server, read by ranges; safe to share between threads.

    Parameters
    ----------
    href : str
        Its address, signed where need be; may be replaced by a fresher one at any time.
    hosts : set of str or None
        Hosts that may be private; None: that of the address.
    """

    def __init__(self, href: str, hosts: frozenset[str] | None = None) -> None:
        self.href, self.hosts = href, hosts
        self.error: RangeError | None = None  # the last one, for whoever explains a failure
        self._head = b""
        self._size: int | None = None
        self._version: dict[str, str] = {}
        self._first = Lock()
        self._counting = Lock()
        self._seconds, self._bytes = 0.0, 0

    def size(self) -> int:
        """Bytes of the file; asks for its head where that is not known yet."""
        with self._first:  # of several that ask at once, one asks the server
            if self._size is None:
                self.read(0, HEAD - 1)
            assert self._size is not None
            return self._size

    def read(self, first: int, last: int) -> bytes:
        """Bytes `first` to `last`, both included; fewer where the file ends before.

        Raises
        ------
        RangeError
            After a few tries, or at once where another try cannot help.
        """
        head = self._head
        if head and (last < len(head) or len(head) == self._size):
            return head[first : last + 1]
        began, size = time.perf_counter(), 0
        try:
            found = _patiently(lambda: self._fetch(first, last))
            size = len(found)
        except RangeError as error:
            self.error = error
            raise
        finally:
            with self._counting:
                self._seconds += time.perf_counter() - began
                self._bytes += size
        if first == 0 and len(found) <= HEAD:
            self._head = found
        return found

    def moved(self) -> tuple[float, int]:
        """Seconds that its server was waited for, and bytes that came, since the last call."""
        with self._counting:
            found = self._seconds, self._bytes
            self._seconds, self._bytes = 0.0, 0
        return found

    def _fetch(self, first: int, last: int) -> bytes:
        if self._size is not None:
            last = min(last, self._size - 1)
        with _ask(self.href, self.hosts, {"Range": f"bytes={first}-{last}"}) as answer:
            length = answer.headers.get("Content-Length", "")
            if answer.status_code == 200 and first == 0 and _NUMBER.fullmatch(length):
                # a server may answer with all of a file that is no longer than the range
                if int(length) > last + 1:
                    raise RangeError("the server sends whole files, not ranges")
                end, size = int(length) - 1, int(length)
            else:
                place = answer.headers.get("Content-Range", "")
                found = _PLACE.fullmatch(place)
                if answer.status_code != 206 or found is None:
                    raise RangeError(f"no range but HTTP {answer.status_code} {place}".strip())
                start, end, size = map(int, found.groups())
                if start != first or end != min(last, size - 1):
                    raise RangeError(f"bytes {start}-{end} came for bytes {first}-{last}")
            body = b"".join(_pieces(answer, end - first + 1, _seconds()))
            headers = answer.headers
            version = {n: headers[n] for n in ("ETag", "Last-Modified") if n in headers}
        if self._size is None:
            self._size, self._version = size, version
        elif size != self._size or _differ(version, self._version):
            raise RangeError("the file was replaced while it was read")
        return body


def _differ(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    """Whether two answers name versions of a file that cannot be the same."""
    for name in ("ETag", "Last-Modified"):
        if name in one and name in other:
            return one[name].removeprefix("W/") != other[name].removeprefix("W/")
    return False


def download(
    href: str, target: Path, hosts: frozenset[str] | None = None, most: float = math.inf
) -> None:
    """Fetch a whole file of at most so many bytes; `hosts` as of a `RemoteFile`.

    Raises
    ------
    RangeError
        After a few tries, or at once where another try cannot help.
    """

    def fetch() -> None:
        with _ask(href, hosts, {}) as answer, target.open("wb") as file:
            length = answer.headers.get("Content-Length", "")
            whole = int(length) if _NUMBER.fullmatch(length) else None
            # as long as it takes: a file is no range, and bytes come or the answer ends
            had = 0
            for piece in _pieces(answer, whole, math.inf):
                had += len(piece)
                if max(had, whole or 0) > most:
                    raise RangeError(f"the file has more than {most / 1e9:g} GB", 413)
                file.write(piece)

    _patiently(fetch)


def _patiently(ask: Callable[[], Found]) -> Found:
    """Ask, and again after growing pauses."""
    for tried in range(_TRIES):
        try:
            return ask()
        except RangeError as error:
            failure = error
        except (OSError, HTTPError) as error:  # of requests, and of what lies beneath it
            failure = RangeError(f"{type(error).__name__}: {_without_address(error)}")
        if failure.status in _FINAL or tried == _TRIES - 1:
            break
        time.sleep(0.3 * 2**tried * (0.5 + random.random()))
    raise failure


def _without_address(error: Exception) -> str:
    """The inmost reason: the outer ones repeat the address, with its signature."""
    reason: Any = error
    while True:
        inner = getattr(reason, "reason", None) or next(
            (a for a in getattr(reason, "args", ()) if isinstance(a, BaseException)), None
        )
        if not isinstance(inner, BaseException):
            return re.sub(r"^<[^>]*>: ", "", str(reason)).split("?")[0]
        reason = inner


def _ask(href: str, hosts: frozenset[str] | None, headers: dict[str, str]) -> requests.Response:
    seconds = _seconds()
    if hosts is None:
        hosts = frozenset({host_of(href)})
    proxies, auth = _way(*urlsplit(href)[:2])
    try:
        answer = _session(os.getpid(), hosts).get(
            href,
            headers={"Accept-Encoding": "identity", **headers},
            stream=True,
            proxies=proxies,
            auth=auth,
            timeout=(max(seconds / 4, 1), max(seconds / 3, 1)),  # to connect, without progress
        )
    except PrivateHostError as error:
        raise RangeError(str(error), REFUSED) from None
    if answer.status_code >= 400:
        answer.close()
        raise RangeError(f"HTTP {answer.status_code} {answer.reason}", answer.status_code)
    if answer.headers.get("Content-Type", "").startswith("text/html"):
        answer.close()
        raise RangeError("a page of HTML came instead of an image")
    return answer


def _pieces(answer: requests.Response, length: int | None, most: float) -> Iterator[bytes]:
    """The body of an answer, of a known length, piece by piece as it comes.

    It may take `most` seconds, and must bring a kilobyte a second once a request's time is over.
    """
    began, had = time.monotonic(), 0
    while piece := answer.raw.read1(_PIECE):
        had += len(piece)
        if length is not None and had > length:
            raise RangeError(f"more than {length} bytes came")
        yield piece
        took = time.monotonic() - began
        if had != length and (took > most or (took > _seconds() and had < _SLOW * took)):
            raise RangeError(f"timed out after {had} bytes")
    if length is not None and had != length:
        raise RangeError(f"{had} bytes came instead of {length}")


def _seconds() -> float:
    """Longest time for one request."""
    return number("NATMAP_HTTP_SECONDS")


@lru_cache(maxsize=16)
def _session(process: int, hosts: frozenset[str]) -> requests.Session:
    """Connections of this process, kept open and shared by its threads; by what they may reach."""
    session = requests.Session()
    session.trust_env = False  # it would look at the environment for each request
    session.verify = os.environ.get("CURL_CA_BUNDLE") or os.environ.get("SSL_CERT_FILE") or True
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    for scheme in ("http://", "https://"):
        session.mount(scheme, adapter(hosts, pool_connections=64, pool_maxsize=64))
    return session


@lru_cache(maxsize=1000)
def _way(scheme: str, host: str) -> tuple[dict[str, str], tuple[str, str] | None]:
    """What the environment says of a host: the proxies, and what ~/.netrc has for it."""
    place = f"{scheme}://{host}"
    return dict(get_environ_proxies(place)), get_netrc_auth(place)
