"""Where GDAL asks for files of web servers: a server of this process, for this process alone.

GDAL cannot be told to check what it gets (`ranges` says why that is needed), and rasterio's own
way to lend it a Python file leaves a file system behind at every opening. So GDAL reads from here,
over the loopback, and only bytes that were checked are passed on. It also saves a request a file,
since the first range tells the size that GDAL wants to know beforehand, and a handshake for every
thread, since connections are shared.
"""

from __future__ import annotations

import re
import secrets
import threading
from collections import OrderedDict
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from os import getpid
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from engine.cube.ranges import RangeError, RemoteFile

__all__ = ["lend", "why"]

_KEPT = 512  # files whose heads are remembered; older ones are asked for again
_PIECE = 8 << 20


class _Gateway(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        # other users of the machine reach the port, but do not know the word
        self.root = f"/{secrets.token_urlsafe(16)}/"
        self.lock = threading.Lock()
        self.files: OrderedDict[str, tuple[str, RemoteFile]] = OrderedDict()  # by path
        self.paths: dict[str, str] = {}  # by key
        self.number = 0

    def lend(self, key: str, href: str, again: bool) -> str:
        with self.lock:
            path = self.paths.get(key)
            if path is None or again:
                # a new path: nobody's memory of earlier answers is asked
                self.number += 1
                name = PurePosixPath(urlsplit(href).path).name
                path = f"{self.root}{self.number}/{name}"
                self.files[path], self.paths[key] = (key, RemoteFile(href)), path
            self.files[path][1].href = href  # the freshest signature
            self.files.move_to_end(path)
            while len(self.files) > _KEPT:
                old, (key, _) = self.files.popitem(last=False)
                if self.paths.get(key) == old:
                    del self.paths[key]
        return f"http://127.0.0.1:{self.server_address[1]}{path}"

    def file(self, path: str) -> RemoteFile | None:
        with self.lock:
            if path not in self.files:
                return None
            self.files.move_to_end(path)
            return self.files[path][1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """GDAL may hang up when it has what it wants."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Gateway

    def do_HEAD(self) -> None:
        self._serve(body=False)

    def do_GET(self) -> None:
        self._serve(body=True)

    def _serve(self, body: bool) -> None:
        file = self.server.file(self.path)
        if file is None:
            return self._answer(503)
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        try:
            size = file.size()
            if not body:
                return self._answer(200, size)
            if asked is None:
                self._answer(200, size)
                for first in range(0, size, _PIECE):
                    self.wfile.write(file.read(first, min(first + _PIECE, size) - 1))
                return None
            first, last = int(asked[1]), min(int(asked[2]), size - 1)
            if first > last:
                return self._answer(416)
            found = file.read(first, last)
        except RangeError as error:
            return self._answer(error.status if error.status >= 400 else 502)
        self._answer(206, len(found), f"bytes {first}-{last}/{size}")
        self.wfile.write(found)
        return None

    def _answer(self, status: int, length: int = 0, place: str | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        self.send_header("Accept-Ranges", "bytes")
        if place:
            self.send_header("Content-Range", place)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Nothing: what fails is told by the reader."""


@lru_cache(maxsize=1)
def _gateway(process: int) -> _Gateway:
    """The one of this process; a forked child has its own."""
    found = _Gateway()
    threading.Thread(target=found.serve_forever, name="natmap-gateway", daemon=True).start()
    return found


_starting = threading.Lock()


def lend(key: str, href: str, *, again: bool = False) -> str:
    """The address at which GDAL reads a file of a web server.

    Parameters
    ----------
    key : str
        What the file is known by: its address without a signature.
    href : str
        Its address, signed where need be.
    again : bool
        The last try failed: what is remembered of the file, here and in GDAL, is not asked.
    """
    with _starting:
        gateway = _gateway(getpid())
    return gateway.lend(key, href, again)


def why(address: str) -> RangeError | None:
    """What last went wrong with a file that was lent."""
    file = _gateway(getpid()).file(urlsplit(address).path)
    return file.error if file else None
