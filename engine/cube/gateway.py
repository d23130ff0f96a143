"""Where GDAL asks for files of web servers: a process beside this one, for this one alone.

GDAL cannot be told to check what it gets (`ranges` says why that is needed), and rasterio's own
way to lend it a Python file leaves a file system behind at every opening. So GDAL reads from here,
over the loopback, and only bytes that were checked are passed on. It is a process of its own
because GDAL asks for bytes while this one's interpreter is locked, too.
"""

from __future__ import annotations

import atexit
import json
import os
import re
import secrets
import subprocess
import sys
import threading
from collections import OrderedDict, deque
from hashlib import sha256
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from engine.accounting import add
from engine.cube.ranges import RangeError, RemoteFile

__all__ = ["forget", "lend", "why"]

_KEPT = 512  # files whose heads are remembered; older ones are asked for again
_NUMBERS = 10_000  # addresses whose failures are remembered
_RANGE = 1 << 30  # bytes that are asked for at once, whatever a file says of itself
_BODY = 1 << 20  # bytes of what is said of a file: an address and names of hosts
_STRANGER = 10.0  # seconds in which whoever connects must say the word
_TOLD = ("NATMAP_HTTP_SECONDS", "CURL_CA_BUNDLE", "SSL_CERT_FILE")  # beside proxies


# -- in the process that reads ----------------------------------------------------------------


def lend(key: str, href: str, hosts: frozenset[str] | None = None) -> str:
    """The address at which GDAL reads a file of a web server.

    Parameters
    ----------
    key : str
        What the file is known by: its address without a signature.
    href : str
        Its address, signed where need be.
    hosts : set of str or None
        Hosts that may be private; None: that of the address.
    """
    return _gateway(os.getpid(), _environment()).lend(key, href, hosts)


def forget(key: str) -> None:
    """Reading it failed: what is remembered of it, here and in GDAL, is not asked again."""
    _gateway(os.getpid(), _environment()).forget(key)


def why(address: str) -> RangeError | None:
    """What went wrong with a file that was lent, be it that GDAL did not mind.

    What its reading has taken of the network since it was last asked is accounted for.
    """
    return _gateway(os.getpid(), _environment()).why(address)


def _environment() -> tuple[tuple[str, str], ...]:
    names = (n for n in os.environ if n in _TOLD or n.lower().endswith("_proxy"))
    return tuple((name, os.environ[name]) for name in sorted(names))


class _Gateway:
    """The process, and what it is asked."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.numbers: OrderedDict[str, int] = OrderedDict()
        self.lines: deque[HTTPConnection] = deque()  # of threads that come and go
        self.start()
        atexit.register(self.stop)

    def start(self) -> None:
        # other users of the machine reach the port, but do not know the word
        self.word = secrets.token_urlsafe(16)
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", "from engine.cube.gateway import serve; serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # what is sent to the driver's group passes it by
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{self.word}\n")
        self.process.stdin.flush()
        self.port = int(self.process.stdout.readline())

    def stop(self) -> None:
        """It ends when nobody holds the other end of its pipe, however this process ended."""
        while self.lines:
            self.lines.pop().close()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
        self.process.wait()

    def lend(self, key: str, href: str, hosts: frozenset[str] | None) -> str:
        with self.lock:
            if self.process.poll() is not None:  # killed, for its memory say
                self.stop()
                self.start()
            number = self.numbers.get(key, 0)
        name = re.sub(r"[^A-Za-z0-9._-]", "_", PurePosixPath(urlsplit(href).path).name)
        path = f"/{self.word}/{number}/{sha256(key.encode()).hexdigest()[:32]}/{name}"
        self.ask("LEND", path, json.dumps([href, None if hosts is None else sorted(hosts)]))
        return f"http://127.0.0.1:{self.port}{path}"

    def forget(self, key: str) -> None:
        with self.lock:
            self.numbers[key] = self.numbers.pop(key, 0) + 1
            while len(self.numbers) > _NUMBERS:
                self.numbers.popitem(last=False)

    def why(self, address: str) -> RangeError | None:
        try:
            answer = self.ask("WHY", urlsplit(address).path)
        except RangeError as error:  # nobody is left to ask: that went wrong
            return error
        status, seconds, size, text = answer.split(" ", 3)
        add("network", float(seconds), int(size))
        return RangeError(text, int(status)) if text else None

    def ask(self, method: str, path: str, text: str = "") -> str:
        """Say or ask something of a file."""
        failure: Exception | None = None
        for _ in range(2):  # a line of earlier may have been closed
            try:
                line = self.lines.pop()
            except IndexError:
                line = HTTPConnection("127.0.0.1", self.port, timeout=30)
            try:
                line.request(method, path, text.encode())
                found = line.getresponse().read().decode()
            except (OSError, HTTPException) as error:
                failure = error
                line.close()
            else:
                self.lines.append(line)
                return found
        raise RangeError("the gateway to web servers was lost") from failure


_starting = threading.Lock()
_running: dict[int, tuple[tuple[tuple[str, str], ...], _Gateway]] = {}  # by process


def _gateway(process: int, environment: tuple[tuple[str, str], ...]) -> _Gateway:
    """The one of this process; a forked child, or another environment, has its own."""
    with _starting:
        told, found = _running.get(process, (None, None))
        if found is None or told != environment:
            if found is not None:
                found.stop()
            found = _Gateway()
            _running[process] = environment, found
        return found


# -- in the process beside it -----------------------------------------------------------------


def serve() -> None:
    """Serve until the process that asked for it closes its end of the pipe."""
    server = _Server(sys.stdin.readline().strip())
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdout.write(f"{server.server_address[1]}\n")
    sys.stdout.flush()
    sys.stdin.read()
    os._exit(0)  # whatever is still being fetched is for nobody


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, word: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.word = word
        self.lock = threading.Lock()
        self.files: OrderedDict[str, RemoteFile] = OrderedDict()

    def file(self, path: str) -> RemoteFile | None:
        """What a path stands for, None where nothing was lent by it."""
        with self.lock:
            if path in self.files:
                self.files.move_to_end(path)
            return self.files.get(path)

    def lend(self, path: str, href: str, hosts: frozenset[str] | None) -> None:
        with self.lock:
            file = self.files.setdefault(path, RemoteFile(href, hosts))
            file.href, file.hosts = href, hosts  # the freshest signature
            self.files.move_to_end(path)
            while len(self.files) > _KEPT:
                self.files.popitem(last=False)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """GDAL may hang up when it has what it wants."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = _STRANGER
    server: _Server

    def parse_request(self) -> bool:
        """Listen to those who know the word; of a stranger's request only the head is read."""
        if not super().parse_request():
            return False
        said = self.path.encode().split(b"/")[1:2]
        if said and secrets.compare_digest(said[0], self.server.word.encode()):
            self.connection.settimeout(None)
            return True
        self.close_connection = True
        self._answer(404)
        return False

    def do_HEAD(self) -> None:
        self._serve()

    def do_GET(self) -> None:
        self._serve()

    # Methods that no reader of files uses.

    def do_LEND(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not re.fullmatch(r"[0-9]{1,9}", length) or int(length) > _BODY:
            self.close_connection = True
            return self._answer(413)
        href, hosts = json.loads(self.rfile.read(int(length)))
        self.server.lend(self.path, href, None if hosts is None else frozenset(hosts))
        return self._answer(200)

    def do_WHY(self) -> None:
        file = self.server.file(self.path)
        error = file.error if file else None
        seconds, size = file.moved() if file else (0.0, 0)
        text = f"{error.status if error else 0} {seconds:.6f} {size} {error or ''}"
        self._answer(200, text.encode())

    def _serve(self) -> None:
        file = self.server.file(self.path)
        if file is None:
            return self._answer(503)
        try:
            size = file.size()
            if self.command == "HEAD":
                return self._answer(200, length=size)
            asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            first, last = (int(asked[1]), min(int(asked[2]), size - 1)) if asked else (1, 0)
            if first > last or last - first >= _RANGE:
                return self._answer(416)
            found = file.read(first, last)
        except RangeError as error:
            return self._answer(error.status if error.status >= 400 else 502)
        except Exception as error:
            file.error = RangeError(f"{type(error).__name__}: {error}")
            return self._answer(502)
        return self._answer(206, found, place=f"bytes {first}-{last}/{size}")

    def _answer(
        self, status: int, body: bytes = b"", length: int | None = None, place: str | None = None
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.send_header("Accept-Ranges", "bytes")
        if place:
            self.send_header("Content-Range", place)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing: what fails is told by the reader."""
