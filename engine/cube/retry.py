"""An asset opened and used, again where that may help; what goes wrong, told apart."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import rasterio

from engine.accounting import spent
from engine.addresses import is_http
from engine.cube.access import Access
from engine.cube.gateway import forget, why
from engine.cube.gdal import classify, gdal_settings, is_remote
from engine.cube.source import Source, open_source
from engine.errors import ReadError, RunError
from engine.items import Item

__all__ = ["attempt"]

Found = TypeVar("Found")


def attempt(
    item: Item, name: str, access: Access, use: Callable[[Source], Found], *, again: bool = False
) -> Found:
    """Open an asset and use it; again after a pause where that may help.

    With `again` the first time too is past every cache.

    Raises
    ------
    ReadError
        After the retries, or at once where a retry cannot help.
    """
    for tried in range(access.retries + 1):
        try:
            with (
                spent("read") as reading,
                _opened(item, name, access, again=again or tried > 0) as source,
            ):
                found = use(source)
                fetched = getattr(found, "fetched", 0)
                # of a file of several bands, what each of them took
                reading.size = fetched if isinstance(fetched, int) else sum(fetched)
                return found
        except ReadError as error:
            if not error.transient or tried == access.retries:
                raise
        time.sleep((0.5 * 2**tried) * (0.5 + random.random()))
    raise AssertionError("unreachable")


@contextmanager
def _opened(item: Item, name: str, access: Access, *, again: bool) -> Iterator[Source]:
    """An asset, opened; what goes wrong with it, there or in the body, is a `ReadError`."""
    asset = item.assets[name]
    what = f"{name} of {item.id}"
    place = ""
    try:
        place = access.place(asset, what, again=again)
        settings = gdal_settings(place, again=again)
        with rasterio.Env(**settings), open_source(place, name, item) as source:
            yield source
        # GDAL passes over what it could not read of masks and overviews, and makes do
        reason = why(place) if is_http(place) else None
        if reason is not None:
            raise reason
    except (ReadError, RunError):
        raise  # the latter is this machine's fault, not the file's
    except Exception as error:
        if is_remote(asset.href) and place and not is_remote(place) and not Path(place).exists():
            # to make room for others; the next try fetches it again
            raise ReadError(
                f"{what} cannot be read", got="its checked copy was removed", transient=True
            ) from error
        if is_http(place):
            forget(asset.href)
        reason = why(place) if is_http(place) else None
        raise classify(error, asset.href, what, reason) from error
