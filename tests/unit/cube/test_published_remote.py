"""Zarr on a web server: read as from a folder, through the checked ranges, from nowhere private."""

from __future__ import annotations

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import zarr
from support.embeddings import attributes, per_pixel, place, store, window, zone

from engine.cube.published.opening import open_published
from engine.errors import ReadError, RecipeError

UTM = "EPSG:32633"
CORNER = (10.0, 0.0, 500_000.0, 0.0, -10.0, 5_800_000.0)


class Served:
    """A folder on a web server of this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[str] = []
        self.answers: dict[str, int] = {}
        served = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                served.asked.append(self.path)
                file = served.folder / self.path.lstrip("/")
                status = next(
                    (s for end, s in served.answers.items() if self.path.endswith(end)), 0
                )
                if status == 302:
                    self.send_response(302)
                    port = self.server.server_address[1]
                    self.send_header("Location", f"http://localhost:{port}/secret")
                    return self.end_headers()
                if status or not file.is_file():
                    return self.send_error(status or 404)
                body = file.read_bytes()
                first, last = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
                part = body[first : last + 1]
                self.send_response(206)
                self.send_header("Content-Length", str(len(part)))
                end = f"{first + len(part) - 1}/{len(body)}"
                self.send_header("Content-Range", f"bytes {first}-{end}")
                self.end_headers()
                return self.wfile.write(part)

            def log_message(self, *_: Any) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    found = Served(tmp_path)
    Thread(target=found.server.serve_forever, args=(0.02,), daemon=True).start()
    yield found
    found.server.shutdown()
    found.server.server_close()


def made(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    codes = rng.integers(-127, 128, (3, 20, 20)).astype(np.int8)
    scales = rng.uniform(0.01, 0.1, (20, 20)).astype(np.float32)
    scales[3, 4] = np.nan
    attrs = {**attributes(3), **place(UTM, CORNER, (20, 20))}
    attrs["geoemb:quantization"] = per_pixel()
    return store(folder / "e.zarr", codes, scales, attrs)


BOX = window(UTM, 499_970, 5_800_020, (12, 30))


def test_a_store_of_a_server_is_read_as_from_a_folder(tmp_path: Path, served: Served) -> None:
    path = made(tmp_path)
    there, here = open_published(f"{served.address}/e.zarr/"), open_published(path)
    assert there.channels == here.channels
    for one, other in zip(there.read(BOX, 2023), here.read(BOX, 2023), strict=True):
        np.testing.assert_array_equal(one, other)
    assert any("/embeddings/c/" in asked for asked in served.asked)


@pytest.mark.filterwarnings("ignore:Consolidated metadata")
def test_zones_are_told_by_consolidated_metadata_or_named(tmp_path: Path, served: Served) -> None:
    root = zarr.open_group(tmp_path / "t.zarr", mode="w", zarr_format=3)
    codes = np.arange(-64, 64, dtype=np.int8)[None, :, None, None] * np.ones((1, 1, 20, 20), "i1")
    scales = np.full((1, 20, 20), 0.1, np.float32)
    scales[0, 3, 4] = np.nan
    zone(root, "utm33", UTM, CORNER, codes, scales, (2021,))
    address = f"{served.address}/t.zarr"
    with pytest.raises(ReadError, match="which groups it has") as told:
        open_published(address)
    assert "utm33" in str(told.value.remedy)
    here = open_published(tmp_path / "t.zarr").read(BOX, 2021)
    assert set(np.unique(here[1])) == {0, 1, 2}
    named = open_published(f"{address}/utm33")
    assert named.years == (2021,)
    zarr.consolidate_metadata(tmp_path / "t.zarr")
    for found in (named, open_published(address)):
        for one, other in zip(found.read(BOX, 2021), here, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("status", [403, 302])
def test_what_a_server_refuses_or_sends_elsewhere_is_no_missing_chunk(
    tmp_path: Path, served: Served, status: int
) -> None:
    made(tmp_path)
    found = open_published(f"{served.address}/e.zarr")
    served.answers["/c/0/0/0"] = status
    with pytest.raises(ReadError, match="cannot be fetched"):
        found.read(BOX, 2023)
    assert "/secret" not in served.asked  # localhost is a private host that nobody named


def test_files_beyond_measure_are_not_fetched(
    tmp_path: Path, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = made(tmp_path)
    (path / "zarr.json").write_bytes(b" " * 2**16 + (path / "zarr.json").read_bytes())
    monkeypatch.setattr("engine.cube.published.arrays._DOCUMENT", 2**16)
    with pytest.raises(ReadError, match="too large"):
        open_published(f"{served.address}/e.zarr")
    assert len(served.asked) == 1  # the head, which says how long it is


@pytest.mark.parametrize(
    ("address", "kind", "error", "said"),
    [
        ("{0}/nothing.zarr", None, ReadError, "no zarr.json"),
        ("{0}/e.zarr?X-Amz-Signature=geheim", None, RecipeError, "signature"),
        ("http://somebody:geheim@127.0.0.1/e.zarr", None, RecipeError, "password"),
        ("{0}/e.icechunk", "icechunk", RecipeError, "not read from there"),
        ("s3://bucket/e.zarr?key=geheim", None, RecipeError, "an address of https"),
    ],
)
def test_addresses_that_cannot_be_read_are_refused(
    served: Served, address: str, kind: Any, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said) as told:
        open_published(address.format(served.address), kind)
    assert "geheim" not in str(told.value)
