"""Files over HTTP: nginx, and before it a proxy that fails in the ways that networks do."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import re
import shutil
import socket
import struct
import subprocess
import threading
import time
from collections import Counter
from pathlib import Path

from services.processes import free_port

PROGRAMS = ("nginx",)
KINDS = ("429", "503", "stall", "truncate", "reset", "expired", "range", "whole", "html")
"""Failures that show; "flip" does not: one bit of a body is another one."""


class Files:
    """A folder served by nginx.

    Attributes
    ----------
    port : int
    log : Path
        A line for each request: bytes of its answer's body, and what was asked for.
    """

    def __init__(self, root: Path, folder: Path) -> None:
        self.port = free_port()
        folder.mkdir(parents=True, exist_ok=True)
        conf, self.log = folder / "nginx.conf", folder / "access.log"
        conf.write_text(
            f"""daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;
user root;
events {{ worker_connections 512; }}
http {{
  log_format bytes '$body_bytes_sent $request_uri'; access_log {self.log} bytes;
  default_type application/octet-stream;
  client_body_temp_path {folder}/a; proxy_temp_path {folder}/b; fastcgi_temp_path {folder}/c;
  uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;
  server {{ listen 127.0.0.1:{self.port}; root {root}; }}
}}
"""
        )
        self.process = subprocess.Popen([shutil.which("nginx") or "nginx", "-c", str(conf)])
        until = time.monotonic() + 20
        while time.monotonic() < until:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                time.sleep(0.1)
        self.stop()
        raise RuntimeError((folder / "error.log").read_text())

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(10)


def far_catalogue(scenes: Path, folder: Path, port: int, until: str = "9999") -> str:
    """A catalogue of made-up scenes whose files a server has, with their checksums.

    Parameters
    ----------
    scenes : folder that is served.
    folder : where the catalogue is written.
    port : of the server.
    until : the last day.
    """
    links = []
    for path in sorted(scenes.glob("S2*.json")):
        item = json.loads(path.read_text())
        if item["properties"]["datetime"][:10] > until:
            continue
        for asset in item["assets"].values():
            local = path.with_name(Path(asset["href"]).name)
            asset["href"] = f"http://127.0.0.1:{port}/{local.name}"
            asset["file:checksum"] = "1220" + hashlib.sha256(local.read_bytes()).hexdigest()
        (folder / path.name).write_text(json.dumps(item))
        links.append({"rel": "item", "href": f"./{path.name}"})
    catalog = {"type": "Catalog", "id": "far", "links": links}
    (folder / "catalog.json").write_text(json.dumps(catalog))
    return str(folder / "catalog.json")


class Proxy:
    """Passes requests on, and fails a share of them.

    Parameters
    ----------
    port : of the server behind it.
    rate : share of requests for images that fail.
    kinds : of failures, drawn evenly.
    stall : seconds that a stalled answer hangs.

    Attributes
    ----------
    done : Counter of what happened to requests.
    sent : bytes of bodies.
    """

    def __init__(
        self,
        port: int,
        rate: float = 0.0,
        kinds: tuple[str, ...] = KINDS,
        seed: int = 0,
        stall: float = 4.0,
    ) -> None:
        self.behind, self.rate, self.kinds, self.stall = port, rate, kinds, stall
        self.random = random.Random(seed)
        self.done: Counter[str] = Counter()
        self.sent = 0
        self.burst: tuple[float, str] = (0.0, "")
        self.port = free_port()
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._ready.wait(10)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(
            asyncio.start_server(self._serve, "127.0.0.1", self.port)
        )
        self._ready.set()
        self._loop.run_forever()
        server.close()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _fault(self, request: bytes) -> str:
        if b".tif" not in request.split(b"\r\n")[0]:
            return ""
        if time.monotonic() < self.burst[0]:
            return self.burst[1]
        if self.random.random() >= self.rate:
            return ""
        kind = self.random.choice(self.kinds)
        if kind in ("429", "503"):  # these come in bursts
            self.burst = (time.monotonic() + 0.3 * self.random.random(), kind)
        return kind

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                request = await reader.readuntil(b"\r\n\r\n")
                fault = self._fault(request)
                self.done[fault or "well"] += 1
                if fault == "stall":
                    await asyncio.sleep(self.stall)
                    return
                if fault == "reset":
                    sock = writer.get_extra_info("socket")
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    writer.transport.abort()
                    return
                if fault in ("429", "503", "expired", "html"):
                    writer.write(_answer(fault))
                    await writer.drain()
                    continue
                if fault == "range":
                    request = _shifted(request)
                if fault == "whole":
                    request = re.sub(rb"(?i)\r\nrange:[^\r]*", b"", request)
                head, body = await self._fetch(request)
                if fault == "truncate":
                    writer.write(head + body[: len(body) // 2])
                    await writer.drain()
                    return
                if fault == "flip" and body:
                    at = self.random.randrange(len(body))
                    body = (
                        body[:at]
                        + bytes([body[at] ^ 1 << self.random.randrange(8)])
                        + body[at + 1 :]
                    )
                self.sent += len(body)
                writer.write(head + body)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, OSError):
            pass
        finally:
            writer.close()

    async def _fetch(self, request: bytes) -> tuple[bytes, bytes]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.behind)
        try:
            writer.write(re.sub(rb"(?i)\r\nconnection:[^\r]*", b"", request))
            await writer.drain()
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
            bodiless = request.startswith(b"HEAD") or b" 304 " in head.split(b"\r\n")[0]
            size = 0 if bodiless or length is None else int(length[1])
            return head, await reader.readexactly(size)
        finally:
            writer.close()


def _answer(fault: str) -> bytes:
    status, kind, body = {
        "429": ("429 Too Many Requests", "text/plain", b"slow down"),
        "503": ("503 Service Unavailable", "text/plain", b"busy"),
        "expired": (
            "403 Server failed to authenticate the request",
            "application/xml",
            b"<Error><Code>AuthenticationFailed</Code></Error>",
        ),
        "html": ("200 OK", "text/html", b"<html><body>Please sign in.</body></html>" * 40),
    }[fault]
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _shifted(request: bytes) -> bytes:
    """The same request for other bytes: a cache that mixes its entries up."""

    def move(found: re.Match[bytes]) -> bytes:
        first, last = int(found[1]), int(found[2])
        return b"bytes=%d-%d" % (first + 4096, last + 4096)

    return re.sub(rb"bytes=(\d+)-(\d+)", move, request)
