"""Settings under which GDAL reads: bounded, patient, and blind to what it need not list."""

from __future__ import annotations

import re
from typing import Any

from rasterio.errors import RasterioIOError

from engine.addresses import is_http, public, public_address
from engine.cube.ranges import REFUSED, RangeError
from engine.environment import number
from engine.errors import ReadError

__all__ = ["classify", "cores", "gdal_settings", "is_remote"]


def cores() -> int:
    """Cores of this worker process, as it was told at its start."""
    return int(number("NATMAP_CORES"))


def gdal_settings(href: str = "", *, again: bool = False) -> dict[str, Any]:
    """Options for `rasterio.Env`.

    Parameters
    ----------
    href : str
        What is about to be opened.
    again : bool
        After a failure: past GDAL's cache of what it has read of a bucket's file.
    """
    settings: dict[str, Any] = {
        # beside a local file its mask and nodata may lie; over a network looking for them is dear
        "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR" if is_remote(href) else "TRUE",
        "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
        "VSI_CACHE": is_remote(href),  # the system caches local files already
        # A window is read once; only neighbours share blocks at their edge. Rasterio takes bytes,
        # where GDAL's own option takes megabytes below 100,000; with a cache of 64 bytes a JPEG
        # 2000 file was decoded anew for every line of it.
        "GDAL_CACHEMAX": 64 * 2**20,
        "GDAL_NUM_THREADS": 1,  # bands are read side by side already
    }
    if is_http(href):
        # the gateway beside this process waits, tries again and knows the proxy
        return settings | {"GDAL_HTTP_MAX_RETRY": 0, "GDAL_HTTP_PROXY": ""}
    seconds = number("NATMAP_HTTP_SECONDS")
    if again and is_remote(href):
        settings["CPL_VSIL_CURL_NON_CACHED"] = href.replace("s3://", "/vsis3/")
    return settings | {
        "GDAL_HTTP_MAX_RETRY": 4,
        "GDAL_HTTP_RETRY_DELAY": 0.5,
        "GDAL_HTTP_TIMEOUT": seconds,
        "GDAL_HTTP_CONNECTTIMEOUT": max(seconds / 4, 1),
        "GDAL_HTTP_LOW_SPEED_TIME": max(round(seconds / 3), 1),
        "GDAL_HTTP_LOW_SPEED_LIMIT": 1000,
        "GDAL_HTTP_MULTIRANGE": "YES",
    }


_REFUSED = (
    "the link has expired, or the source asks for credentials, which links do not keep: look at "
    "its card's `signing`, or put name and password into ~/.netrc"
)
_GONE = re.compile(r"\b(404|410)\b|No such file|does not exist", re.IGNORECASE)
_REFUSAL = re.compile(r"\b(401|403)\b|expired|AccessDenied", re.IGNORECASE)
_PASSING = re.compile(
    r"\b(403|408|425|429|5\d\d)\b|timed? ?out|reset|refused|resolve|CURL|SSL|temporar",
    re.IGNORECASE,
)


def classify(error: Exception, href: str, what: str, reason: RangeError | None = None) -> ReadError:
    """A GDAL failure as natmap's error, told apart by whether a retry may help.

    A local file that is missing or damaged stays so. Over HTTP only a clear 404 or 410 is final:
    a cut body or a page of HTML may be a passing fault of something in between.

    Parameters
    ----------
    error : what was raised.
    href : where the asset lies, unsigned.
    what : names the asset.
    reason : what went wrong with the file on its server, if that is known: GDAL does not say.
    """
    place = public_address(href)
    ours = not isinstance(error, RasterioIOError | OSError | RuntimeError)
    reason = error if isinstance(error, RangeError) else None if ours else reason
    if reason is not None:
        text, transient = str(reason), reason.status not in (404, 410, REFUSED)
        refused = reason.status in (401, 403)
    else:
        text = public(str(error.__cause__ or error))
        text = re.sub(r"(/vsicurl/)?http://127\.0\.0\.1:\d+/[\w-]+/\d+/\w+/", "", text)
        transient = is_remote(href) and (bool(_PASSING.search(text)) or not _GONE.search(text))
        transient = transient and not ours
        refused = transient and bool(_REFUSAL.search(text))
    return ReadError(
        f"{what} cannot be read",
        got=f"{place}: {text}",
        remedy=_REFUSED if refused else None,
        transient=transient,
    )


def is_remote(href: str) -> bool:
    """Whether an address leads over a network."""
    return is_http(href) or href.startswith(("/vsicurl/", "/vsis3/", "s3://"))
