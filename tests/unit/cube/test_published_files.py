"""TESSERA's tiles, AlphaEarth's files and Icechunk: read exactly; what is wrong is said."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import icechunk
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr
from affine import Affine
from pyproj import Transformer
from support.embeddings import (
    attributes,
    nearest,
    per_pixel,
    place,
    put,
    south_up,
    square_root,
    tile,
    window,
    write,
)

from engine.cube.published.opening import open_published
from engine.errors import CatalogError, ReadError, RecipeError

UTM = "EPSG:32633"


def corner(lon: float, lat: float, crs: str = UTM) -> tuple[float, float]:
    """West and north of a raster of 30 pixels about a place."""
    x, y = Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform(lon, lat)
    return round(x / 10) * 10 - 150, round(y / 10) * 10 + 150


def tiles(folder: Path, elementwise: bool = False) -> Path:
    """Two tiles that overlap at 15.1 degrees east, the second with a seam on its west."""
    rng = np.random.default_rng(7)
    west, north = corner(15.1, 52.05)
    for k, (lon, left) in enumerate(((15.05, west - 40), (15.15, west + 40))):
        codes = rng.integers(-127, 128, (30, 30, 128)).astype(np.int8)
        scales = rng.uniform(0.01, 0.1, (30, 30)).astype(np.float32)
        if k:
            scales[:, :12] = np.inf
        scales[20, 25] = 2.8e32
        scales[21, 25] = np.nan
        land = np.ones((30, 30))
        land[25:, :] = 0
        each = np.repeat(scales[..., None], 128, axis=2) if elementwise else scales
        tile(folder, 2023, lon, 52.05, codes, each, land, UTM, Affine(10, 0, left, 0, -10, north))
    return folder


@pytest.mark.parametrize("elementwise", [False, True])
def test_tiles_of_tessera_and_their_seam(tmp_path: Path, elementwise: bool) -> None:
    found = open_published(tiles(tmp_path, elementwise))
    assert found.years == (2023,)
    assert found.channels[127] == "T127"
    west, north = corner(15.1, 52.05)
    box = window(UTM, west - 60, north + 20, (34, 46))
    vectors, state = found.read(box, 2023)
    parts = []
    for lon, left in ((15.05, west - 40), (15.15, west + 40)):
        name = f"grid_{lon:.2f}_52.05"
        here = tmp_path / "global_0.1_degree_representation" / "2023" / name
        scales = np.load(here / f"{name}_scales.npy")
        scales = scales[..., 0] if elementwise else scales
        places = nearest(box, UTM, (10, 0, left, 0, -10, north), (30, 30))
        parts.append((places, np.load(here / f"{name}.npy"), scales))
    degrees = Transformer.from_crs(UTM, "EPSG:4326", always_xy=True)
    filled = 0
    for i in range(34):
        for j in range(46):
            lon, _ = degrees.transform(*(box.transform * (j + 0.5, i + 0.5)))
            answers = []
            for places, codes, scales in parts if lon < 15.1 else parts[::-1]:
                at = places[i][j]
                if at is None:
                    answers.append((2, None))
                elif at[0] >= 25 or np.isnan(scales[at]):
                    answers.append((1, None))
                elif scales[at] > 1:
                    answers.append((2, None))
                else:
                    answers.append((0, codes[at].astype(np.float32) * scales[at]))
            kind, vector = answers[0] if answers[0][0] != 2 else answers[1]
            filled += answers[0][0] == 2 and kind == 0
            assert state[i, j] == kind
            if vector is not None:
                np.testing.assert_array_equal(vectors[:, i, j], vector)
    assert filled > 20
    assert set(np.unique(state)) == {0, 1, 2}


def _remove(path: Path) -> None:
    path.unlink()


def _objects(path: Path) -> None:
    np.save(path, np.array([[{}]], object), allow_pickle=True)


def _pickled(path: Path) -> None:
    path.write_bytes(pickle.dumps([1, 2, 3]))


def _several(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, a=np.zeros(3))


def _promise(path: Path) -> None:
    header = "{'descr': '|i1', 'fortran_order': False, 'shape': (900000, 900000, 128), }"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode())


def _narrow(path: Path) -> None:
    np.save(path, np.zeros((30, 30, 64), np.int8))


def _doubles(path: Path) -> None:
    np.save(path, np.zeros((30, 30)))


def _other_mask(path: Path) -> None:
    write(path, np.ones((1, 31, 30), np.uint8), UTM, Affine(10, 0, 500_000, 0, -10, 5_800_000))


def _no_crs(path: Path) -> None:
    write(path, np.ones((1, 30, 30), np.uint8), "", Affine(10, 0, 500_000, 0, -10, 5_800_000))


@pytest.mark.parametrize(
    ("file", "damage", "words"),
    [
        (".npy", _objects, "cannot be read"),
        (".npy", _pickled, "cannot be read"),
        (".npy", _several, "more than an array"),
        (".npy", _promise, "cannot be read"),
        (".npy", _narrow, "no tile of TESSERA"),
        ("_scales.npy", _doubles, "not the scales"),
        ("_scales.npy", _remove, "cannot be read"),
        (".tiff", _other_mask, "another tile"),
        (".tiff", _no_crs, "no CRS"),
    ],
)
def test_damaged_tiles_are_refused(tmp_path: Path, file: str, damage: Any, words: str) -> None:
    tiles(tmp_path)
    (path,) = tmp_path.rglob(f"grid_15.05_52.05{file}")
    damage(path)
    west, north = corner(15.1, 52.05)
    with pytest.raises(ReadError, match=words):
        open_published(tmp_path).read(window(UTM, west, north, (4, 4)), 2023)


def test_tiles_without_mask_or_year_are_refused(tmp_path: Path) -> None:
    tiles(tmp_path)
    next(tmp_path.rglob("grid_15.05_52.05.tiff")).unlink()
    with pytest.raises(CatalogError, match="no land mask"):
        open_published(tmp_path)
    (tmp_path / "global_0.1_degree_representation" / "2023").rename(tmp_path / "some")
    with pytest.raises(CatalogError, match="folder of a year"):
        open_published(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CatalogError, match="no tiles"):
        open_published(tmp_path / "empty", "tessera-tiles")
    with pytest.raises(CatalogError, match="not known"):
        open_published(tmp_path / "empty")


# -- AlphaEarth -----------------------------------------------------------------------------------


def unit(seed: int, side: int = 30) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(64, side, side))
    return square_root(vectors / np.linalg.norm(vectors, axis=0))


def files(folder: Path) -> tuple[Path, dict[str, np.ndarray]]:
    """Zones 32 and 33 about 12 degrees east, and another year of the second."""
    made = {"32N": unit(1), "33N": unit(2)}
    made["33N"][:, :, :18] = -128
    for zone, codes in made.items():
        west, north = corner(12.0, 52.0, f"EPSG:326{zone[:2]}")
        crs = f"EPSG:326{zone[:2]}"
        south_up(folder / "annual" / "2023" / zone / "x-0-0.tiff", codes, crs, west, north)
    south_up(folder / "annual" / "2022" / "33N" / "x-0-0.tiff", made["33N"], crs, west, north)
    return folder / "annual", made


def test_files_of_alphaearth_are_read_north_up(tmp_path: Path) -> None:
    folder, made = files(tmp_path)
    found = open_published(folder)
    assert found.years == (2022, 2023)
    assert found.channels == tuple(f"A{k:02d}" for k in range(64))
    west, north = corner(12.0, 52.0, UTM)
    box = window(UTM, west, north, (30, 30))
    degrees = Transformer.from_crs(UTM, "EPSG:4326", always_xy=True)
    source, top = corner(12.0, 52.0, "EPSG:32632")
    places = nearest(box, "EPSG:32632", (10, 0, source, 0, -10, top), (30, 30))
    vectors, state = found.read(box, 2023)
    filled = 0
    for i in range(30):
        for j in range(30):
            lon, _ = degrees.transform(*(box.transform * (j + 0.5, i + 0.5)))
            mine, at = made["33N"][:, i, j], places[i][j]
            other = None if at is None else made["32N"][:, at[0], at[1]]
            first, second = (mine, other) if lon >= 12 else (other, mine)
            codes = second if first is None or first[0] == -128 else first
            filled += codes is not first
            if codes is None or codes[0] == -128:
                assert state[i, j] == 2
                continue
            assert state[i, j] == 0
            exact = np.sign(codes) * (codes.astype(np.float64) / 127.5) ** 2
            np.testing.assert_allclose(vectors[:, i, j], exact, rtol=3e-7)
    assert filled > 20
    with pytest.raises(RecipeError, match="2022, 2023"):
        found.read(box, 2018)
    listed = open_published(sorted(folder.rglob("*.tiff")))
    np.testing.assert_array_equal(listed.read(box, 2023)[0], vectors)
    one = open_published(folder / "2023" / "33N" / "x-0-0.tiff")
    np.testing.assert_array_equal(one.read(box, 2023)[1], np.where(made["33N"][0] == -128, 2, 0))


def index(path: Path, rows: list[tuple[Any, ...]], **more: Any) -> Path:
    names = ("path", "year", "wgs84_west", "wgs84_south", "wgs84_east", "wgs84_north", "crs")
    columns = {name: [row[k] for row in rows] for k, name in enumerate(names)}
    for name in more.get("without", ()):
        del columns[name]
    pq.write_table(pa.table(columns), path)
    return path


BUCKET = "s3://us-west-2.opendata.source.coop/tge-labs/aef/v1/annual"


def test_the_index_of_alphaearth_leads_to_files_beside_it(tmp_path: Path) -> None:
    folder, _ = files(tmp_path)
    west, north = corner(12.0, 52.0, UTM)
    box = window(UTM, west, north, (30, 30))
    plain = open_published(folder).read(box, 2023)
    bounds = (11.9, 51.9, 12.1, 52.1)
    rows = [
        (f"{BUCKET}/2023/32N/x-0-0.tiff", 2023, *bounds, "EPSG:32632"),
        ("2023/33N/x-0-0.tiff", 2023, *bounds, "EPSG:32633"),
        # far away, and therefore never opened
        (f"{BUCKET}/2023/10N/x-0-0.tiff", 2023, -123.0, 37.0, -122.0, 38.0, "EPSG:32610"),
    ]
    index(folder / "aef_index.parquet", rows)
    for found in (open_published(folder), open_published(folder / "aef_index.parquet")):
        vectors, state = found.read(box, 2023)
        np.testing.assert_array_equal(state, plain[1])
        np.testing.assert_array_equal(vectors, plain[0])


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "../../x.tiff", "gs://bucket/annual/2023/33N/y.tiff", "file:///x.tiff", 3],
)
def test_an_index_leads_nowhere_else(tmp_path: Path, path: Any) -> None:
    rows = [(str(path), 2023, 0.0, 0.0, 1.0, 1.0, UTM)]
    with pytest.raises(CatalogError, match="not to be read"):
        open_published(index(tmp_path / "i.parquet", rows))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, list[str]]]:
    """A web server of a folder, on this machine; its address and what it was asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            body = (tmp_path / self.path.lstrip("/")).read_bytes()
            first, last = (int(n) for n in self.headers["Range"].removeprefix("bytes=").split("-"))
            part = body[first : last + 1]
            self.send_response(206)
            self.send_header("Content-Length", str(len(part)))
            place_ = f"bytes {first}-{first + len(part) - 1}/{len(body)}"
            self.send_header("Content-Range", place_)
            self.end_headers()
            self.wfile.write(part)

        def log_message(self, *_: Any) -> None:
            return

    found = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=found.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{found.server_address[1]}", asked
    found.shutdown()
    found.server_close()


def test_files_of_a_web_server_are_read_through_the_gateway(
    tmp_path: Path, server: tuple[str, list[str]]
) -> None:
    folder, _ = files(tmp_path)
    address = f"{server[0]}/annual/2023/33N/x-0-0.tiff"
    west, north = corner(12.0, 52.0, UTM)
    box = window(UTM, west, north, (30, 30))
    vectors, state = open_published(address).read(box, 2023)
    plain = open_published(folder / "2023" / "33N" / "x-0-0.tiff").read(box, 2023)
    np.testing.assert_array_equal(vectors, plain[0])
    np.testing.assert_array_equal(state, plain[1])
    # an index is somebody else's: it names public hosts alone
    del server[1][:]
    address = address.replace("2023", "2022")  # not seen before: nothing of it is remembered
    index(tmp_path / "i.parquet", [(address, 2023, -180.0, -90.0, 180.0, 90.0, UTM)])
    with pytest.raises(ReadError, match="private address"):
        open_published(tmp_path / "i.parquet").read(box, 2023)
    assert not server[1]


def test_an_index_that_is_none_is_refused(tmp_path: Path) -> None:
    rows = [("2023/33N/x.tiff", 2023, 0.0, 0.0, 1.0, 1.0, UTM)]
    with pytest.raises(CatalogError, match="lacks columns"):
        open_published(index(tmp_path / "i.parquet", rows, without=("year",)))
    broken = [("2023/33N/x.tiff", None, 0.0, 0.0, 1.0, 1.0, UTM)]
    (tmp_path / "2023" / "33N").mkdir(parents=True)
    (tmp_path / "2023" / "33N" / "x.tiff").touch()
    with pytest.raises(CatalogError, match="no year or bounds"):
        open_published(index(tmp_path / "j.parquet", broken))
    (tmp_path / "k.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(CatalogError, match="cannot be read"):
        open_published(tmp_path / "k.parquet")


def test_other_files_are_refused(tmp_path: Path) -> None:
    at = Affine(10, 0, 500_000, 0, 10, 5_799_700)
    box = window(UTM, 500_000, 5_800_000, (2, 2))
    whole = np.zeros((64, 30, 30), np.int8)
    for name, values, more, words in (
        ("bands", whole[:63], {}, "63 bands"),
        ("kind", whole.astype(np.int16), {}, "int16"),
        ("nodata", whole, {"nodata": 0}, "nodata 0"),
    ):
        path = tmp_path / name / "2023" / "33N" / "x.tiff"
        write(path, values, UTM, at, **more)
        with pytest.raises(ReadError, match=words):
            open_published(path).read(box, 2023)
    path = tmp_path / "place" / "2023" / "x.tiff"
    write(path, whole, UTM, Affine(10, 1, 500_000, 0, 10, 5_799_700))
    with pytest.raises(ReadError, match="rotated"):
        open_published(path).read(box, 2023)
    write(path, whole, "", at)
    with pytest.raises(ReadError, match="no CRS"):
        open_published(path).read(box, 2023)
    path.write_bytes(b"II*\x00nothing")
    with pytest.raises(ReadError, match="cannot be read"):
        open_published(path).read(box, 2023)
    path.unlink()
    with pytest.raises(CatalogError, match="no files"):
        open_published(tmp_path / "place" / "2023", "alphaearth")
    write(tmp_path / "x.tiff", whole, UTM, at)
    with pytest.raises(CatalogError, match="folder of a year"):
        open_published(tmp_path / "x.tiff")


# -- Icechunk -------------------------------------------------------------------------------------


def repository(folder: Path) -> Path:
    repo = icechunk.Repository.create(icechunk.local_filesystem_storage(str(folder)))
    session = repo.writable_session("main")
    root = zarr.open_group(session.store, mode="a", zarr_format=3)
    root.attrs.update(attributes(3, **{"geoemb:quantization": per_pixel()}))
    group = root.create_group("33N")
    group.attrs.update(place(UTM, (10, 0, 500_000, 0, -10, 5_800_000), (8, 8)))
    group.attrs["years_complete"] = [2024]
    codes = np.arange(8 * 8 * 3, dtype=np.int8).reshape(1, 8, 8, 3).repeat(2, axis=0)
    put(group, "embeddings", codes, ("time", "northing", "easting", "band"))
    put(group, "scales", np.full((2, 8, 8), 0.5, "f4"), ("time", "northing", "easting"))
    days = np.array([f"{year}-01-01" for year in (2024, 2025)], "datetime64[ns]").astype("int64")
    more = {"units": "nanoseconds since 1970-01-01"}
    put(group, "time", days, ("time",), attributes=more)
    session.commit("made")
    return folder


def test_a_repository_is_read_at_its_tip(tmp_path: Path) -> None:
    found = open_published(repository(tmp_path / "e.icechunk"))
    assert found.years == (2024,)
    vectors, state = found.read(window(UTM, 500_000, 5_800_000, (8, 8)), 2024)
    wanted = np.arange(8 * 8 * 3, dtype=np.int8).reshape(8, 8, 3).transpose(2, 0, 1) * np.float32(
        0.5
    )
    np.testing.assert_array_equal(vectors, wanted)
    assert not state.any()
    with pytest.raises(RecipeError, match="no such year"):
        found.read(window(UTM, 500_000, 5_800_000, (8, 8)), 2025)


def test_a_repository_of_icechunk_2_is_refused_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "e.icechunk"
    folder.mkdir()
    (folder / "repo").write_bytes(b"ICE\xf0\x9f\xa7\x8aCHUNK")
    monkeypatch.setattr(icechunk, "__version__", "1.1.21")
    with pytest.raises(RecipeError, match="installed Icechunk") as told:
        open_published(folder)
    assert "icechunk>=2" in str(told.value.remedy)
