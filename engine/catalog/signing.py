"""Addresses made ready for reading, just before each read. Secrets stay in here."""

from __future__ import annotations

import os
import re
import threading
import time
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import requests

from engine.addresses import host_of
from engine.catalog.cards import SourceCard
from engine.errors import CatalogError, ReadError
from engine.items import Sign, unsigned
from engine.web import Bounds, adapter

__all__ = ["make_signer"]

_BOUNDS = Bounds(1 << 20)
_MARGIN = 300.0  # seconds; a token is renewed this long before it ends
_SETTLED = 2.0  # seconds; a token younger than this was not what a reading failed of


class PlanetaryComputer:
    """SAS tokens of the Planetary Computer, one per container, renewed before they end.

    Parameters
    ----------
    token_url : str
        Of the token service; ``/ACCOUNT/CONTAINER`` is appended.
    """

    def __init__(self, token_url: str) -> None:
        self._token_url = token_url.rstrip("/")

    def __call__(self, href: str, *, again: bool = False) -> str:
        """The address with a valid token; other hosts' addresses as they are."""
        parts = urlsplit(href)
        match = re.match(r"^([^.]+)\.blob\.core\.windows\.net$", parts.hostname or "")
        if not match:
            return href
        container = parts.path.strip("/").partition("/")[0]
        token = _tokens.get(f"{self._token_url}/{match[1]}/{container}", again)
        return f"{href}{'&' if parts.query else '?'}{token}"

    def __repr__(self) -> str:
        return f"PlanetaryComputer({self._token_url!r})"


class _Tokens:
    """Tokens of this process, by the address they come from."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[str, float, float]] = {}  # with: had at, good until
        self._lock = threading.Lock()

    def get(self, address: str, again: bool = False) -> str:
        """A token, renewed in time; `again`: after a refusal, if it is not a new one."""
        with self._lock:
            token, had, until = self._known.get(address, ("", 0.0, 0.0))
            now = time.monotonic()
            if now > until or (again and now > had + _SETTLED):
                token, life = self._fetch(address)
                self._known[address] = token, now, now + life - min(_MARGIN, life / 4)
            return token

    def forget(self) -> None:
        """Fetch all anew."""
        self._known.clear()

    def _fetch(self, address: str) -> tuple[str, float]:
        """A new token and how many seconds it lives."""
        try:
            with requests.Session() as session:
                session.mount("https://", adapter({host_of(address)}, _BOUNDS))
                session.mount("http://", adapter({host_of(address)}, _BOUNDS))
                answer = session.get(address, timeout=30)
            answer.raise_for_status()
            found: dict[str, Any] = answer.json()
            ends = datetime.fromisoformat(found["msft:expiry"]).timestamp()
            # by the server's clock, which tells whole seconds: this machine's may be wrong
            told = answer.headers.get("Date")
            now = parsedate_to_datetime(told).timestamp() + 1 if told else time.time()
            return str(found["token"]), max(ends - now, 1.0)
        except (requests.RequestException, ValueError, KeyError, TypeError) as error:
            raise ReadError(
                "no token could be had", got=f"{address}: {type(error).__name__}", transient=True
            ) from error


_tokens = _Tokens()


class S3:
    """``s3://`` addresses with credentials from the environment; only variable names are kept."""

    def __init__(self, endpoint: str | None, key_variable: str, secret_variable: str) -> None:
        self._endpoint, self._key, self._secret = endpoint, key_variable, secret_variable

    def __call__(self, href: str, *, again: bool = False) -> str:
        """The address in GDAL's form; GDAL finds the credentials in its own configuration."""
        if not href.startswith("s3://"):
            return href
        key, secret = os.environ.get(self._key), os.environ.get(self._secret)
        if not key or not secret:
            raise CatalogError(
                "credentials are missing",
                got=f"{self._key} or {self._secret} is not set",
                remedy=f"set {self._key} and {self._secret} in the environment of all workers",
            )
        os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"] = key, secret
        if self._endpoint:
            os.environ["AWS_S3_ENDPOINT"] = self._endpoint
            os.environ["AWS_VIRTUAL_HOSTING"] = "FALSE"
        return "/vsis3/" + href.removeprefix("s3://")

    def __repr__(self) -> str:
        return f"S3({self._endpoint!r}, from {self._key})"


def make_signer(card: SourceCard) -> Sign:
    """The signer that a source card asks for."""
    match card.signing:
        case "planetary-computer":
            if card.token_url is None:
                raise CatalogError("the card names no token_url", got=card.name)
            return PlanetaryComputer(card.token_url)
        case "s3":
            return S3(card.s3_endpoint, card.s3_key_variable, card.s3_secret_variable)
        case _:
            return unsigned
