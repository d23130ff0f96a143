"""Connections lead only where they may, and bring no more than they may."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest
import requests

from engine.cube.ranges import REFUSED, RangeError, RemoteFile
from engine.web import Bounds, PrivateHostError, TooMuchError, adapter, is_private


class Handler(BaseHTTPRequestHandler):
    """A body; the same byte by byte; the same elsewhere."""

    asked: list[str]
    server: ThreadingHTTPServer

    def log_message(self, *_: Any) -> None: ...

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.path == "/elsewhere":
            self.send_response(302)
            self.send_header("Location", f"http://localhost:{self.server.server_port}/body")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        if self.path != "/slow":
            self.wfile.write(b"x" * 1000)
            return
        for _ in range(1000):
            self.wfile.write(b"x")
            time.sleep(0.02)


@pytest.fixture
def url() -> Iterator[str]:
    Handler.asked = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads, server.handle_error = True, lambda *_: None  # type: ignore[method-assign]
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def session(*hosts: str, bounds: Bounds | None = None) -> requests.Session:
    made = requests.Session()
    made.trust_env = False
    made.mount("http://", adapter(hosts, bounds))
    return made


def test_nothing_is_sent_to_a_private_host(url: str) -> None:
    with pytest.raises(PrivateHostError, match=r"allow_hosts: \[127\.0\.0\.1\]"):
        session().get(f"{url}/body")
    assert Handler.asked == []
    assert session("127.0.0.1").get(f"{url}/body").content == b"x" * 1000


def test_a_redirect_is_looked_at_as_well(url: str) -> None:
    with pytest.raises(PrivateHostError, match="localhost"):
        session("127.0.0.1").get(f"{url}/elsewhere")
    assert session("127.0.0.1", "localhost").get(f"{url}/elsewhere").status_code == 200


def test_a_name_that_leads_here_through_a_proxy_is_refused(url: str) -> None:
    with pytest.raises(PrivateHostError):
        session().get("http://localhost:1/x", proxies={"http": url})
    assert Handler.asked == []
    found = session().get("http://no-such-host.invalid/x", proxies={"http": url})
    assert found.content == b"x" * 1000


def test_an_answer_has_bounds(url: str) -> None:
    with pytest.raises(TooMuchError, match="more than"):
        session("127.0.0.1", bounds=Bounds(999)).get(f"{url}/body")
    began = time.monotonic()
    with pytest.raises(TooMuchError, match="bytes came in"):
        session("127.0.0.1", bounds=Bounds(10**6, 0.3, 10**6)).get(f"{url}/slow")
    assert time.monotonic() - began < 5
    assert session("127.0.0.1", bounds=Bounds(1000)).get(f"{url}/body").content == b"x" * 1000


def test_files_are_read_from_where_they_may_be(url: str) -> None:
    with pytest.raises(RangeError, match="private address") as caught:
        RemoteFile(f"{url}/body", frozenset({"images.example.org"})).read(0, 9)
    assert caught.value.status == REFUSED
    assert Handler.asked == []
    with pytest.raises(RangeError, match="private address"):
        RemoteFile(f"{url}/elsewhere").read(0, 9)  # its own host alone
    assert RemoteFile(f"{url}/body").read(0, 1999) == b"x" * 1000


def test_logs_of_libraries_hold_no_secret(url: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "urllib3"):
        session("127.0.0.1").get(f"{url}/body?whatever=SECRET&band=B02")
    assert "band=B02" in caplog.text
    assert "SECRET" not in caplog.text


@pytest.mark.parametrize(
    ("address", "private"),
    [
        ("10.0.0.1", True),
        ("8.8.8.8", False),
        ("2606:4700::1111", False),
        ("::1", True),
        ("fe80::1%eth0", True),
        # addresses of IPv4 in those of IPv6, to which a gateway or the system itself leads
        ("::ffff:169.254.169.254", True),
        ("64:ff9b::169.254.169.254", True),
        ("64:ff9b::8.8.8.8", False),
        ("64:ff9b:1::8.8.8.8", True),
        ("::10.0.0.1", True),
        ("::ffff:0:10.0.0.1", True),
        ("2002:0a00:0001::", True),
        ("fec0::1", True),
    ],
)
def test_private_addresses_in_whatever_form(address: str, private: bool) -> None:
    assert is_private(address) is private
