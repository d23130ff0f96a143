"""Signed reading against a token service and a blob store that behave like the real ones.

The store's host names go through a local proxy, so that the addresses are the real ones' too.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
import rasterio
import yaml
from affine import Affine
from odc.geo.geobox import GeoBox
from support.scenes import NORTH, WEST, changed, scene

from engine.catalog import signing
from engine.catalog.signing import PlanetaryComputer, _tokens
from engine.cube.access import Access
from engine.cube.read import read_asset
from engine.errors import ReadError
from engine.items import Asset, Item
from engine.pipeline.verbs import run
from engine.store.view import open_store

HOST = "sentinel2l2a01.blob.core.windows.net"


@dataclass
class Azure:
    """State of the stand-in."""

    folder: Path
    life: float = 3600.0  # seconds of a token
    busy: int = 0  # answers 429 so many times
    skew: float = 0.0  # this server's clock runs ahead by so much
    granted: list[float] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    served: int = 0
    key: str = "one"
    url: str = ""
    lock: Any = field(default_factory=Lock)

    def now(self) -> float:
        return time.time() + self.skew

    def sign(self, container: str, ends: str) -> str:
        return hashlib.sha256(f"{self.key}/{container}/{ends}".encode()).hexdigest()[:20]


def handler(azure: Azure) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: Any) -> None: ...

        def date_time_string(self, timestamp: float | None = None) -> str:
            return super().date_time_string(azure.now() if timestamp is None else timestamp)

        def answer(self, code: int, body: bytes = b"", **headers: str) -> None:
            self.send_response(code)
            for name, text in headers.items():
                self.send_header(name.replace("_", "-"), text)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            at = urlsplit(self.path)
            if at.path.startswith("/api/sas/v1/token/"):
                self.token(at.path.split("/")[-1])
            elif at.hostname == HOST:
                self.blob(at.path, parse_qs(at.query))
            else:
                self.answer(404)

        def token(self, container: str) -> None:
            with azure.lock:
                if azure.busy:
                    azure.busy -= 1
                    self.answer(429, b'{"statusCode": 429, "message": "Rate limit is exceeded."}')
                    return
                azure.granted.append(time.time())
                ends = datetime.fromtimestamp(azure.now() + azure.life, UTC).isoformat()
                ends = ends.replace("+00:00", "Z")
            token = f"se={ends}&sp=rl&sig={azure.sign(container, ends)}"
            self.answer(200, json.dumps({"msft:expiry": ends, "token": token}).encode())

        def blob(self, path: str, query: dict[str, list[str]]) -> None:
            _, container, name = path.split("/", 2)
            ends, signature = query.get("se", [""])[0], query.get("sig", [""])[0]
            valid = signature == azure.sign(container, ends)
            if not valid or datetime.fromisoformat(ends).timestamp() < azure.now():
                with azure.lock:
                    azure.refused.append(path)
                self.answer(403, b"<Error><Code>AuthenticationFailed</Code></Error>")
                return
            file = azure.folder / name
            if not file.is_file():
                self.answer(404)
                return
            with azure.lock:
                azure.served += 1
            body = file.read_bytes()
            asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            if asked:
                first, last = int(asked[1]), min(int(asked[2]), len(body) - 1)
                place = f"bytes {first}-{last}/{len(body)}"
                self.answer(206, body[first : last + 1], Content_Range=place)
            else:
                self.answer(200, body, Accept_Ranges="bytes")

    return Handler


@pytest.fixture
def azure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Azure]:
    state = Azure(tmp_path)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(state))
    Thread(target=server.serve_forever, daemon=True).start()
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setenv("HTTP_PROXY", state.url)  # imagery's host is nowhere but behind it
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    _tokens.forget()
    yield state
    server.shutdown()
    server.server_close()


def stripes(folder: Path, name: str) -> tuple[Item, GeoBox, np.ndarray]:
    values = np.random.default_rng(1).integers(1, 5000, (64, 64)).astype("uint16")
    at = Affine(10, 0, WEST, 0, -10, NORTH)
    form = {"driver": "GTiff", "width": 64, "height": 64, "count": 1, "dtype": "uint16"}
    with rasterio.open(folder / name, "w", crs="EPSG:32633", transform=at, **form) as file:
        file.write(values, 1)
    item = Item(
        id="S2A",
        collection="sentinel-2-l2a",
        source="planetary-computer",
        datetime=datetime(2023, 5, 1, 10, tzinfo=UTC),
        bbox=(14.9, 46.8, 15.1, 47.0),
        geometry={},
        centroid_lon=15.0,
        stamp="x",
        assets={"B02": Asset(href=f"http://{HOST}/sentinel2-l2/{name}")},
    )
    return item, GeoBox((64, 64), at, "EPSG:32633"), values


@pytest.mark.alone
def test_a_token_is_shared_and_renewed_before_it_ends(azure: Azure) -> None:
    azure.life = 2.0
    sign = PlanetaryComputer(f"{azure.url}/api/sas/v1/token")
    began = time.time()
    reads = 0
    while len(azure.granted) < 4 and time.time() < began + 20:
        # another file each time, or GDAL answers from its memory
        item, box, values = stripes(azure.folder, f"{reads}.tif")
        found, _ = read_asset(item, "B02", box, (WEST, NORTH), access=Access(sign))
        assert (found == values).all()
        reads += 1
        time.sleep(0.05)
    assert reads > 10
    assert azure.refused == []  # never read with one that had ended
    gaps = np.diff(azure.granted)
    assert len(gaps) == 3
    assert (gaps > 0.7).all()  # each lives 2 s and serves for 0.75 to 1.5
    assert (gaps < 2.0).all()


@pytest.mark.alone
def test_a_wrong_clock_does_not_matter(azure: Azure) -> None:
    """The server is ten minutes ahead: its tokens live two seconds all the same."""
    azure.life, azure.skew = 2.0, 600.0
    sign = PlanetaryComputer(f"{azure.url}/api/sas/v1/token")
    n, began = 0, time.time()
    while len(azure.granted) < 2 and time.time() < began + 20:
        item, box, values = stripes(azure.folder, f"{n}.tif")
        assert (read_asset(item, "B02", box, (WEST, NORTH), access=Access(sign))[0] == values).all()
        n += 1
        time.sleep(0.05)
    assert azure.refused == []
    assert 0.7 < azure.granted[1] - azure.granted[0] < 2.0


def test_a_refused_token_is_replaced(azure: Azure, monkeypatch: pytest.MonkeyPatch) -> None:
    sign = PlanetaryComputer(f"{azure.url}/api/sas/v1/token")
    item, box, values = stripes(azure.folder, "a.tif")
    read_asset(item, "B02", box, (WEST, NORTH), access=Access(sign))
    azure.key = "two"  # keys were rotated: no token of before is good
    monkeypatch.setattr(signing, "_SETTLED", 0.0)
    item, box, values = stripes(azure.folder, "b.tif")
    found, _ = read_asset(item, "B02", box, (WEST, NORTH), access=Access(sign))
    assert (found == values).all()
    assert azure.refused
    assert len(azure.granted) == 2


def test_a_busy_token_service_is_asked_again(azure: Azure) -> None:
    sign = PlanetaryComputer(f"{azure.url}/api/sas/v1/token")
    item, box, values = stripes(azure.folder, "a.tif")
    azure.busy = 2
    assert (read_asset(item, "B02", box, (WEST, NORTH), access=Access(sign))[0] == values).all()
    _tokens.forget()
    azure.busy = 99
    with pytest.raises(ReadError, match="no token could be had") as caught:
        read_asset(item, "B02", box, (WEST, NORTH), access=Access(sign, retries=1))
    assert caught.value.transient


def test_a_run_reads_signed_and_keeps_no_signature(
    recipe: dict[str, Any], azure: Azure, tmp_path: Path
) -> None:
    """A whole run in workers; no token in the snapshot, the store or the plan's folder."""
    item = scene(tmp_path, "2023-05-02")
    names = {"blue": "B02", "red": "B04", "scl": "SCL"}
    item["assets"] = {
        names[key]: {"href": f"http://{HOST}/sentinel2-l2/{Path(asset['href']).name}"}
        for key, asset in item["assets"].items()
    }
    (tmp_path / "signed").mkdir()
    (tmp_path / "signed" / "item.json").write_text(json.dumps(item))
    links = [{"rel": "item", "href": "./item.json"}]
    (tmp_path / "signed" / "catalog.json").write_text(
        json.dumps({"type": "Catalog", "id": "x", "links": links})
    )
    card = {
        "name": "mine",
        "title": "signed",
        "licence": "none",
        "api": str(tmp_path / "signed" / "catalog.json"),
        "offset": "flag-then-asset",
        "signing": "planetary-computer",
        "token_url": f"{azure.url}/api/sas/v1/token",
        "assets": {"B02": "B02", "B04": "B04", "SCL": "SCL"},
    }
    (tmp_path / "card.yaml").write_text(yaml.safe_dump(card))
    summary = run(
        changed(recipe, "imagery.catalog", str(tmp_path / "card.yaml")),
        until="composite",
        workers=1,
    )
    assert not summary.failed
    blue = open_store(recipe["store"])["composite"]["bands"].values
    assert (blue > 0).any()
    assert azure.granted
    assert azure.served
    for path in Path(tmp_path).rglob("*"):
        if path.is_file() and path.suffix != ".tif":
            assert b"sig=" not in path.read_bytes(), path
