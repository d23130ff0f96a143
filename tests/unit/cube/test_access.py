"""Checksums of files: multihashes of all kinds, local files, copies and their room."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import rasterio
from rasterio.env import get_gdal_config
from rasterio.transform import from_origin
from shapely.geometry import box, mapping

from engine.cube.access import Access, count_unverifiable, require_folder
from engine.cube.attempts import attempt
from engine.cube.gdal import gdal_settings
from engine.errors import ReadError, RunError
from engine.items import Asset, Item

CHECK = Access(verify=True, retries=0)


def tif(path: Path, seed: int = 0) -> bytes:
    values = np.random.default_rng(seed).integers(1, 9000, (64, 64), np.uint16)
    profile = {"driver": "GTiff", "dtype": "uint16", "count": 1, "height": 64, "width": 64}
    with rasterio.open(
        path, "w", crs="EPSG:32633", transform=from_origin(0, 640, 10, 10), **profile
    ) as file:
        file.write(values, 1)
    return path.read_bytes()


def multihash(code: bytes, name: str, data: bytes) -> str:
    digest = hashlib.new(name, data).digest()
    return (code + bytes([len(digest)]) + digest).hex()


@pytest.mark.parametrize(
    ("code", "name"),
    [(b"\x11", "sha1"), (b"\x12", "sha256"), (b"\x13", "sha512"), (b"\xd5\x01", "md5")],
)
def test_each_hash_finds_a_flipped_bit(tmp_path: Path, code: bytes, name: str) -> None:
    path = tmp_path / "a.tif"
    data = tif(path)
    asset = Asset(str(path), checksum=multihash(code, name, data))
    assert CHECK.place(asset, "B02") == str(path)
    path.write_bytes(data[:300] + bytes([data[300] ^ 4]) + data[301:])
    os.utime(path, ns=(1, 1))
    with pytest.raises(ReadError, match="not the file that the catalogue describes") as caught:
        CHECK.place(asset, "B02")
    assert caught.value.transient
    assert Access().place(asset, "B02") == str(path)


@pytest.mark.parametrize(
    "text", [None, "", "zz", "12", "1220", "1220ab", "1320" + 32 * "00", "7720" + 32 * "00", "ff"]
)
def test_what_is_no_checksum_is_counted_and_not_checked(text: str | None) -> None:
    asset = Asset("/nowhere.tif", checksum=text)
    assert CHECK.place(asset, "B02") == "/nowhere.tif"

    class Scene:
        assets = {"B02": asset}  # noqa: RUF012

    assert count_unverifiable([Scene()], ["B02", "B03"]) == (1, 1)  # type: ignore[list-item]


@pytest.fixture
def served(tmp_path: Path) -> tuple[Path, str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            return

    folder = tmp_path / "served"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    Thread(target=server.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_a_remote_file_is_read_from_a_checked_copy(
    served: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NATMAP_VERIFIED", str(tmp_path / "verified"))
    folder, address = served
    data = tif(folder / "a.tif")
    asset = Asset(f"{address}/a.tif", checksum=multihash(b"\x12", "sha256", data))
    place = Path(CHECK.place(asset, "B02"))
    assert place.parent == tmp_path / "verified"
    assert place.read_bytes() == data
    (folder / "a.tif").unlink()  # once per machine
    assert Path(CHECK.place(asset, "B02")) == place
    tif(folder / "b.tif", seed=1)
    other = Asset(f"{address}/b.tif", checksum=multihash(b"\x12", "sha256", data[:-1]))
    with pytest.raises(ReadError, match="not the file"):
        CHECK.place(other, "B02")
    assert [p.name for p in (tmp_path / "verified").glob("*.tif")] == [place.name]


def test_copies_used_longest_ago_make_room(
    served: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NATMAP_VERIFIED", str(tmp_path / "verified"))
    folder, address = served
    assets = []
    for number in range(4):
        data = tif(folder / f"{number}.tif", number)
        assets.append(Asset(f"{address}/{number}.tif", checksum=multihash(b"\x12", "sha256", data)))
    monkeypatch.setenv("NATMAP_VERIFIED_GB", str(3.5 * len(data) / 1e9))
    places = [Path(CHECK.place(asset, "B02")) for asset in assets[:3]]
    for age, place in enumerate(places):
        os.utime(place, (1000 + age, 1000 + age))
    CHECK.place(assets[0], "B02")  # used again
    (tmp_path / "verified" / ".part-dead").touch()
    os.utime(tmp_path / "verified" / ".part-dead", (1, 1))
    places.append(Path(CHECK.place(assets[3], "B02")))
    assert [place.exists() for place in places] == [True, False, True, True]
    assert not list((tmp_path / "verified").glob(".part-*"))


def test_a_copy_that_made_room_is_fetched_again(
    served: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another reader's copy may push one out between its check and its opening."""
    monkeypatch.setenv("NATMAP_VERIFIED", str(tmp_path / "verified"))
    folder, address = served
    data = tif(folder / "a.tif")
    item = Item(
        id="a",
        collection="c",
        source="made up",
        centroid_lon=10.5,
        stamp="1",
        datetime=datetime(2021, 9, 1, tzinfo=UTC),
        geometry=mapping(box(10, 0, 11, 1)),
        bbox=(10, 0, 11, 1),
        assets={"B02": Asset(f"{address}/a.tif", checksum=multihash(b"\x12", "sha256", data))},
    )
    real, tried = Access.place, []

    def place(self: Access, asset: Asset, what: str, *, again: bool = False) -> str:
        found = real(self, asset, what, again=again)
        tried.append(found)
        if len(tried) == 1:
            Path(found).unlink()
        return found

    monkeypatch.setattr(Access, "place", place)
    values = attempt(item, "B02", replace(CHECK, retries=1), lambda source: source.decimate((8, 8)))
    assert values.shape[-2:] == (8, 8)
    assert len(tried) == 2


def test_past_the_cache_of_a_bucket() -> None:
    """What failed is not read from GDAL's memory of the file; HTTP has the gateway for that."""
    assert gdal_settings("s3://b/a.tif", again=True)["CPL_VSIL_CURL_NON_CACHED"] == "/vsis3/b/a.tif"
    assert "CPL_VSIL_CURL_NON_CACHED" not in gdal_settings("s3://b/a.tif")


def test_a_folder_that_others_can_write_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "verified"
    folder.mkdir()
    folder.chmod(0o777)
    monkeypatch.setenv("NATMAP_VERIFIED", str(folder))
    with pytest.raises(RunError, match="open to others"):
        require_folder()


def test_a_block_of_a_file_is_decoded_once(data: Path) -> None:
    """A JPEG 2000 file, decimated: with a cache of no block each line decodes its blocks anew."""
    path = next((data / "sentinel2-maribor").glob("*/*/B02.tif"))
    with rasterio.Env(**gdal_settings(str(path))), rasterio.open(path) as file:
        assert get_gdal_config("GDAL_CACHEMAX") == 64 * 2**20
        block = file.block_shapes[0]
        assert block[0] * block[1] * 2 < 64 * 2**20
