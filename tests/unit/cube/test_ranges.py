"""Ranges of remote files: only what was asked for counts, whatever a server sends."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
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
from engine.cube.gateway import forget, lend, why
from engine.cube.gdal import classify, gdal_settings
from engine.cube.ranges import HEAD, RangeError, RemoteFile, download

REAL_SLEEP = time.sleep
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
    forget("a")
    # a retry gets another address, so that no memory of the first is asked
    again = lend("a", server.url)
    assert again != address
    server.faults = 50 * ["404"]
    with pytest.raises(rasterio.RasterioIOError):
        read(again)
    found = why(again)
    assert found is not None
    assert found.status == 404


def test_the_gateway_is_for_this_process_only(server: Any, image: np.ndarray) -> None:
    address = lend("b", server.url)
    root, number, digest, name = address.rsplit("/", 3)
    assert requests.get(address, headers={"Range": "bytes=5-9"}).content == server.data[5:10]
    past = {"Range": f"bytes={len(server.data)}-{len(server.data) + 5}"}
    assert requests.get(address, headers=past).status_code == 416
    guessed = f"{root.rsplit('/', 1)[0]}/guessed/{number}/{digest}/{name}"
    assert requests.get(guessed).status_code == 404
    assert requests.request("LEND", guessed, data=server.url).status_code == 404
    assert requests.get(guessed).status_code == 404


def test_a_lost_gateway_is_started_again(server: Any, image: np.ndarray) -> None:
    address = lend("c", server.url)
    beside = gateway._gateway(os.getpid(), gateway._environment())
    beside.process.kill()
    beside.process.wait()
    found = why(address)  # of whoever was reading then
    assert found is not None
    assert classify(found, server.url, "B02 of x").transient
    assert (read(lend("c", server.url)) == image).all()


def test_the_gateway_ends_with_its_process() -> None:
    code = (
        "import os; from engine.cube import gateway as g;"
        "print(g._gateway(os.getpid(), ()).process.pid, flush=True); os.kill(os.getpid(), 9)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    until = time.monotonic() + 20
    while Path(f"/proc/{int(found.stdout)}/cmdline").exists() and time.monotonic() < until:
        if not Path(f"/proc/{int(found.stdout)}/cmdline").read_bytes():
            break  # gone, and nobody has asked how
        REAL_SLEEP(0.05)
    else:
        assert time.monotonic() < until


def test_overviews_and_masks_at_a_files_end_are_read(server: Any, tmp_path: Path) -> None:
    """GDAL asks for them while the interpreter is locked: a thread of it could not answer."""
    path = tmp_path / "late.tif"
    values = np.random.default_rng(2).integers(0, 2000, (1200, 1200)).astype("uint16")
    form = {"driver": "GTiff", "width": 1200, "height": 1200, "count": 1, "dtype": "uint16"}
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(path, "w", crs="EPSG:32633", tiled=True, **form) as file,
    ):
        file.write(values, 1)
        file.write_mask(np.arange(1200)[:, None] > np.zeros(1200))
    with rasterio.open(path, "r+") as file:
        file.build_overviews([2, 4])
    server.data = path.read_bytes()
    code = (
        "import sys, rasterio; from engine.cube.gateway import lend;"
        "from engine.cube.gdal import gdal_settings; a = lend('d', sys.argv[1]);"
        "e = rasterio.Env(**gdal_settings(a)); e.__enter__();"
        "f = rasterio.open(a); print(f.read(1).sum(), f.dataset_mask().sum() // 255)"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, server.url], capture_output=True, text=True, timeout=60
    )
    assert found.stdout.split() == [str(values.sum()), str(1199 * 1200)]


def test_what_gdal_passes_over_is_told(server: Any, image: np.ndarray) -> None:
    address = lend("e", server.url)
    assert why(address) is None
    server.faults = 99 * ["503"]
    requests.get(address, headers={"Range": "bytes=0-9"})
    found = why(address)
    assert found is not None
    assert found.status == 503


def test_a_name_beyond_ascii_is_no_trouble(server: Any, image: np.ndarray) -> None:
    assert (read(lend("f", server.url.replace("a.tif", "München 1.tif"))) == image).all()
