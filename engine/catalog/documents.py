"""Documents of a catalogue: fetched within bounds, since nobody knows who wrote them."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import requests
from urllib3 import Retry
from urllib3.exceptions import HTTPError

from engine.addresses import host_of, is_http
from engine.errors import CatalogError
from engine.web import Bounds, adapter, log_in

__all__ = ["TIMEOUT", "Documents", "parse"]

TIMEOUT = (15, 60)  # seconds to connect, to answer
_LARGEST = 64 << 20  # bytes of a remote document, unpacked
_LARGEST_HERE = 512 << 20  # of one on this machine
_MOST = 2_000_000  # documents and items; a catalogue that never ends is a loop
_SECONDS = 3600.0  # for a whole search
_PATIENCE = 120  # seconds that a server may ask to wait


class Documents:
    """What one search reads.

    Parameters
    ----------
    hosts : hosts that may be private.
    """

    def __init__(self, hosts: frozenset[str]) -> None:
        self.hosts = hosts
        self._until = time.monotonic() + float(os.environ.get("NATMAP_SEARCH_SECONDS", _SECONDS))
        self._count = 0
        self._sessions: dict[frozenset[str], requests.Session] = {}

    def session(self) -> requests.Session:
        """Patient, bounded connections."""
        if self.hosts not in self._sessions:
            session = requests.Session()
            session.auth = log_in
            for scheme in ("http://", "https://"):
                session.mount(scheme, adapter(self.hosts, Bounds(_LARGEST), _retry()))
            self._sessions[self.hosts] = session
        return self._sessions[self.hosts]

    def trust(self, place: str) -> None:
        """A document of this machine names a host: that may be private."""
        if host := host_of(place):
            self.hosts |= {host}

    def count(self, number: int = 1) -> None:
        """So many documents or items more.

        Raises
        ------
        CatalogError
            Where it is too many, or the search takes too long.
        """
        self._count += number
        late = time.monotonic() > self._until
        if late or self._count > _MOST:
            raise CatalogError(
                "the search does not end",
                got=f"{self._count} documents and items"
                + (", and its time is over" if late else ""),
                remedy="a smaller area or period, or the address of a part of the catalogue; "
                "NATMAP_SEARCH_SECONDS allows it more time",
            )

    def read(self, place: str) -> dict[str, Any]:
        """A document, by its address or path.

        Raises
        ------
        CatalogError
            Where it is none, or larger or slower than it may be.
        """
        self.count()
        if is_http(place):
            return parse(lambda: self._fetch(place), place)
        return parse(lambda: _load(Path(place)), place)

    def download(self, place: str, target: Path, most: int) -> None:
        """A whole file of a web server.

        Raises
        ------
        CatalogError
            Where it cannot be had, or has more than `most` bytes.
        """
        self.count()
        session, had = requests.Session(), 0
        session.auth = log_in
        for scheme in ("http://", "https://"):
            session.mount(scheme, adapter(self.hosts, retries=_retry()))
        try:
            with (
                session.get(place, timeout=TIMEOUT, stream=True) as answer,
                target.open("wb") as to,
            ):
                answer.raise_for_status()
                while piece := answer.raw.read1(1 << 20, decode_content=True):
                    had += len(piece)
                    self.count(0)
                    if had > most:
                        raise ValueError(f"more than {most >> 20} MiB")
                    to.write(piece)
        except (OSError, ValueError, HTTPError) as error:  # requests' own are of the first
            raise CatalogError(
                "a document of the catalogue cannot be read",
                got=f"{place}: {type(error).__name__}: {str(error)[:300]}",
            ) from error

    def _fetch(self, place: str) -> bytes:
        answer = self.session().get(place, timeout=TIMEOUT)
        answer.raise_for_status()
        return answer.content


def parse(load: Callable[[], bytes], place: str) -> dict[str, Any]:
    """A document as a JSON object.

    Raises
    ------
    CatalogError
    """
    try:
        value = json.loads(load())
    except FileNotFoundError as error:
        raise CatalogError("a document of the catalogue does not exist", got=place) from error
    except RecursionError as error:
        raise CatalogError("a document of the catalogue is nested too deep", got=place) from error
    except (OSError, ValueError, requests.RequestException) as error:
        raise CatalogError(
            "a document of the catalogue cannot be read",
            got=f"{place}: {type(error).__name__}: {str(error)[:300]}",
            expected="JSON",
        ) from error
    if not isinstance(value, dict):
        raise CatalogError("a document of the catalogue is not STAC", got=place)
    return value


def _load(path: Path) -> bytes:
    if path.exists() and not path.is_file():
        raise ValueError("not a file")
    size = path.stat().st_size
    if size > _LARGEST_HERE:
        raise ValueError(f"{size >> 20} MiB, of at most {_LARGEST_HERE >> 20}")
    return path.read_bytes()


def _retry() -> Retry:
    return Retry(
        total=6,
        connect=3,
        read=1,
        backoff_factor=0.3,
        backoff_jitter=0.3,
        status_forcelist=[429, 500, 502, 503, 504],
        allowed_methods=None,
        respect_retry_after_header=True,
        retry_after_max=_PATIENCE,
    )
