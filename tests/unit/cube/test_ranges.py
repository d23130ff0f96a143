"""Ranges of remote files: only what was asked for counts, whatever a server sends."""

from __future__ import annotations

import re
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import rasterio
import requests

from engine.cube import gateway, ranges
from engine.cube.gateway import lend, why
from engine.cube.gdal import classify, gdal_settings
from engine.cube.ranges import HEAD, RangeError, RemoteFile, download

DATA = np.random.default_rng(0).integers(0, 256, 300_000, np.uint8).tobytes()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A server of `data` whose next answers go wrong as `faults` says."""
    state = SimpleNamespace(data=DATA, tag='"1"', faults=[], asked=[])

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            fault = state.faults.pop(0) if state.faults else ""
            state.asked.append(self.headers.get("Range"))
            found = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            status, body, more = 200, state.data, {"ETag": state.tag}
            if found and fault != "whole":
                first, last = int(found[1]), int(found[2])
                if fault == "elsewhere":
                    first, last = first + 4096, last + 4096
                if fault == "fewer":
                    last -= 10
                status, body = 206, body[first : last + 1]
                end = first + len(body) - 1
                more["Content-Range"] = f"bytes {first}-{end}/{len(state.data)}"
            if fault == "html":
                status, body, more = 200, b"<html>sign in</html>", {"Content-Type": "text/html"}
            if fault.isdigit():
                status, body, more = int(fault), b"no", {}
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            for name, value in more.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if fault == "cut" else body)
            if fault == "cut":
                self.close_connection = True

        def log_message(self, *_: Any) -> None:
            return

    found = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=found.serve_forever, args=(0.02,), daemon=True).start()
    state.url = f"http://127.0.0.1:{found.server_address[1]}/a.tif"
    monkeypatch.setattr(ranges.time, "sleep", lambda _: None)
    yield state
    found.shutdown()
    found.server_close()


@pytest.mark.parametrize("fault", ["elsewhere", "fewer", "whole", "cut", "html", "429", "503"])
def test_a_wrong_answer_is_asked_for_again(server: Any, fault: str) -> None:
    server.faults = [fault, fault, "", fault, fault, ""]
    file = RemoteFile(server.url)
    assert file.size() == len(DATA)
    assert file.read(40_000, 99_999) == DATA[40_000:100_000]
    assert file.read(299_990, 400_000) == DATA[299_990:]
    assert file.read(100, 200) == DATA[100:201]  # of the head, which is not asked for again
    assert server.asked[:3] == 3 * [f"bytes=0-{HEAD - 1}"]
    assert len(server.asked) == 7


@pytest.mark.parametrize(
    ("fault", "text", "tries"),
    [
        ("elsewhere", "came for bytes 0-", 5),
        ("whole", "whole files, not ranges", 5),
        ("html", "HTML", 5),
        ("503", "HTTP 503", 5),
        ("404", "HTTP 404", 1),
        ("403", "HTTP 403", 1),
    ],
)
def test_a_server_that_goes_on_so_is_given_up(
    server: Any, fault: str, text: str, tries: int
) -> None:
    server.faults = 9 * [fault]
    file = RemoteFile(server.url)
    with pytest.raises(RangeError, match=text) as failure:
        file.size()
    assert len(server.asked) == tries
    assert file.error is failure.value
    found = classify(failure.value, f"{server.url}?sig=secret", "B02 of x")
    assert found.transient == (fault != "404")
    assert "secret" not in str(found)
    assert ("expired" in str(found)) == (fault == "403")


def test_a_file_replaced_while_it_is_read_is_not_mixed(server: Any) -> None:
    file = RemoteFile(server.url)
    file.size()
    server.tag = '"2"'
    with pytest.raises(RangeError, match="replaced"):
        file.read(40_000, 50_000)


def test_a_small_file_may_come_whole(server: Any) -> None:
    server.data, server.faults = DATA[:100], ["whole"]
    file = RemoteFile(server.url)
    assert file.size() == 100
    assert file.read(10, 500) == DATA[10:100]
    assert len(server.asked) == 1


def test_nobody_at_the_door_is_told_without_the_signature(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges.time, "sleep", lambda _: None)
    file = RemoteFile("http://127.0.0.1:9/a.tif?sig=secret")
    with pytest.raises(RangeError) as failure:
        file.size()
    assert "secret" not in str(failure.value)
    assert classify(failure.value, "http://127.0.0.1:9/a.tif", "x").transient


def test_a_download_is_whole(server: Any, tmp_path: Path) -> None:
    server.faults = ["cut", "503"]
    download(server.url, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == DATA


@pytest.fixture
def image(server: Any, tmp_path: Path) -> np.ndarray:
    values = np.random.default_rng(1).integers(0, 2000, (600, 600)).astype("uint16")
    form = {"driver": "COG", "width": 600, "height": 600, "count": 1, "dtype": "uint16"}
    with rasterio.open(tmp_path / "a.tif", "w", crs="EPSG:32633", **form) as file:
        file.write(values, 1)
    server.data = (tmp_path / "a.tif").read_bytes()
    return values


def read(address: str) -> np.ndarray:
    with rasterio.Env(**gdal_settings(address)), rasterio.open(address) as file:
        found: np.ndarray = file.read(1)
        return found


def test_gdal_reads_through_the_gateway(server: Any, image: np.ndarray) -> None:
    server.faults = ["elsewhere", "cut", "", "fewer", "elsewhere"]
    address = lend("a", server.url)
    assert (read(address) == image).all()
    assert lend("a", server.url) == address
    assert why(address) is None
    # a retry gets another address, so that no memory of the first is asked
    again = lend("a", server.url, again=True)
    assert again != address
    server.faults = 50 * ["404"]
    with pytest.raises(rasterio.RasterioIOError):
        read(again)
    found = why(again)
    assert found is not None
    assert found.status == 404


def test_the_gateway_is_for_this_process_only(server: Any, image: np.ndarray) -> None:
    address = lend("b", server.url)
    root, _, number, name = address.rsplit("/", 3)
    assert requests.get(address).content == server.data
    assert requests.get(address, headers={"Range": "bytes=9999999-"}).status_code == 200
    past = {"Range": f"bytes={len(server.data)}-{len(server.data) + 5}"}
    assert requests.get(address, headers=past).status_code == 416
    assert requests.get(f"{root}/guessed/{number}/{name}").status_code == 503


def test_the_gateway_forgets_what_was_not_read_for_long(
    server: Any, image: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway, "_KEPT", 3)
    first = lend("c0", server.url)
    for number in range(1, 4):
        lend(f"c{number}", server.url)
    assert requests.head(first).status_code == 503
    assert (read(lend("c0", server.url)) == image).all()
