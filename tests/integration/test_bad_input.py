"""What users get wrong: each a clear error before work starts, or a recorded reason."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import numpy as np
import pytest
import shapely
from affine import Affine
from support.scenes import NORTH, SIDE, WEST, catalogue, changed, scene, write_band
from support.shared import run

import engine
from engine.catalog.ingest import ingest
from engine.errors import (
    AreaError,
    CardError,
    CatalogError,
    IdentityError,
    LockedError,
    NatmapError,
    RecipeError,
    StoreError,
)
from engine.models.import_sen2lcz import import_sen2lcz
from engine.pipeline.status import read_status
from engine.pipeline.verbs import plan
from engine.products.registry import load_recipe
from engine.store.repository import Store
from engine.store.view import open_store


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("tiel", 5, "unknown key"),
        ("imagery.period", "2023-06-01/2023-05-01", "before it begins"),
        ("imagery.period", "May 2023", "FIRST/LAST"),
        ("imagery.period", "2023-13-01/2023-13-05", "period"),
        ("imagery.bands", ["B02", "ultraviolet"], "unknown band"),
        ("imagery.bands", ["B02", "blue"], "named twice"),
        ("imagery.max_cloud_cover", 140, "less than or equal to 100"),
        ("grid.crs", "EPSG:4326", "projected CRS in metres"),
        ("grid.crs", "EPSG:999999", "unknown CRS"),
        ("grid.chunk", 30, "does not divide"),
        ("grid.resolution", -10, "greater than 0"),
        ("area", {"bbox": [15, 46, 15.1, 46.1], "country": "SVN"}, "exactly one"),
        ("name", "../x", "name"),
        ("product", "weather", "lcz"),
        ("cube", {"composite": "mode"}, "median"),
    ],
)
def test_wrong_recipes(recipe: dict[str, Any], path: str, value: Any, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        load_recipe(changed(recipe, path, value))


@pytest.mark.parametrize(
    ("path", "value", "error", "words"),
    [
        ("area.bbox", [10.0, 50.0, 10.1, 50.1], CatalogError, "outside the catalogue"),
        ("area.bbox", [15.0, 47.0, 15.0, 47.1], AreaError, "no width"),
        ("area.bbox", [15.0, 48.0, 15.1, 47.1], AreaError, "bounding box"),
        ("imagery.period", "2021-05-01/2021-05-31", CatalogError, "found nothing"),
        ("imagery.bands", ["B02", "B12"], CatalogError, "has no B12"),
        ("imagery.catalog", "no-such-card", CardError, "earth-search"),
        ("area", {"country": "SVN"}, CardError, "NATMAP_BOUNDARIES"),
        ("area", {"file": "nowhere.geojson"}, AreaError, "no such polygon file"),
        ("mask", {"boundaries": "nowhere"}, CardError, "neither a card nor a polygon file"),
        ("mask", {"boundaries": "gub-2018"}, CardError, "data-starcloud"),
        ("grid.resolution", 0.001, NatmapError, "too many tiles"),
    ],
)
def test_refused_before_work(
    recipe: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    value: Any,
    error: type[NatmapError],
    words: str,
) -> None:
    monkeypatch.delenv("NATMAP_BOUNDARIES", raising=False)
    with pytest.raises(error, match=words):
        engine.run(changed(recipe, path, value))  # it would open workers of its own
    assert not Path(recipe["store"]).exists()


def test_a_cube_that_the_model_cannot_use(
    recipe: dict[str, Any], data: Path, tmp_path: Path
) -> None:
    import_sen2lcz(data / "weights" / "sen2lcz_so2sat.hdf5", tmp_path / "sen2lcz")
    recipe["model"] = {"card": str(tmp_path / "sen2lcz")}
    with pytest.raises(NatmapError, match="needs bands that the cube lacks"):
        plan(recipe)  # bands: B02 and B04
    recipe["imagery"].pop("bands")
    for tile in (80, 400, 250):
        with pytest.raises(RecipeError, match="multiple of 160 px"):
            plan(changed(recipe, "grid.tile", tile))
    with pytest.raises(NatmapError, match="made for another resolution"):
        plan(changed(changed(recipe, "grid.tile", 160), "grid.resolution", 20))
    assert not (tmp_path / "store").exists()


def test_an_area_across_the_antimeridian_is_legal(recipe: dict[str, Any]) -> None:
    across = changed(recipe, "area.bbox", [179.9, 46.0, -179.9, 46.1])
    with pytest.raises(CatalogError, match="found nothing"):
        plan(changed(across, "grid.crs", "EPSG:32660"))


def test_polygon_files(recipe: dict[str, Any], tmp_path: Path) -> None:
    import geopandas

    bow = shapely.Polygon([(15.001, 46.944), (15.009, 46.949), (15.009, 46.944), (15.001, 46.949)])
    path = tmp_path / "bow.geojson"
    path.write_text(shapely.to_geojson(bow))
    found = plan(changed(recipe, "area", {"file": str(path)}))
    assert any("repaired" in note for note in found.notes)
    bare = tmp_path / "bare.shp"
    geopandas.GeoDataFrame(geometry=[shapely.box(15, 46.9, 15.1, 47)], crs=4326).to_file(bare)
    bare.with_suffix(".prj").unlink()
    with pytest.raises(AreaError, match="which CRS"):
        plan(changed(recipe, "area", {"file": str(bare)}))
    lines = tmp_path / "lines.geojson"
    lines.write_text(shapely.to_geojson(shapely.LineString([(15, 46), (16, 47)])))
    with pytest.raises(AreaError, match="no polygons"):
        plan(changed(recipe, "area", {"file": str(lines)}))
    junk = tmp_path / "junk.geojson"
    junk.write_text("<html>")
    with pytest.raises(AreaError, match="cannot be read"):
        plan(changed(recipe, "area", {"file": str(junk)}))


def test_items_that_cannot_be_used_are_listed(recipe: dict[str, Any], tmp_path: Path) -> None:
    bare = {**scene(tmp_path, "2023-05-03"), "assets": {}}
    toa = {**scene(tmp_path, "2023-05-05"), "collection": "sentinel-2-l1c", "id": "X_L1C"}
    nowhere = {**scene(tmp_path, "2023-05-07"), "geometry": None}
    good = scene(tmp_path)
    where = catalogue(tmp_path, good, bare, toa, nowhere)
    found = plan(changed(recipe, "imagery.catalog", where))
    assert found.items == 1
    reasons = " ".join(reason for _, reason in found.left_out)
    assert "no asset" in reasons
    assert "L1C" in reasons
    assert "no footprint" in reasons
    with pytest.raises(CatalogError, match="L1C"):
        plan(changed(recipe, "imagery.catalog", catalogue(tmp_path, toa)))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("<html>log in</html>", "cannot be read"),
        ("[1]", "is not STAC"),
        ('{"type": "Pie"}', "not a STAC"),
    ],
)
def test_catalogues_that_are_none(
    recipe: dict[str, Any], tmp_path: Path, text: str, words: str
) -> None:
    (tmp_path / "catalog.json").write_text(text)
    with pytest.raises(CatalogError, match=words):
        plan(recipe)


def damage(kind: str, path: Path) -> None:
    raw = path.read_bytes()
    values = np.full((SIDE, SIDE), 900, np.uint16)
    match kind:
        case "truncated":
            path.write_bytes(raw[: len(raw) // 2])
        case "missing":
            path.unlink()
        case "html":
            path.write_text("<html>not found</html>")
        case "elsewhere":
            write_band(path, values, transform=Affine(10, 0, 800_000, 0, -10, 4_000_000))
        case "rotated":
            write_band(path, values, transform=Affine(10, 1, WEST, 1, -10, NORTH))
        case "cut jp2":
            jp2 = path.with_suffix(".jp2")
            write_band(jp2, values, driver="JP2OpenJPEG")
            path.write_bytes(jp2.read_bytes()[:200])


def test_a_damaged_asset_is_a_recorded_reason(recipe: dict[str, Any], tmp_path: Path) -> None:
    """The run goes on; the pixels say why, the ledger says which file. Each day has its damage."""
    kinds = ["truncated", "missing", "html", "elsewhere", "rotated", "cut jp2"]
    days = [scene(tmp_path, f"2023-05-0{day}") for day in range(1, 1 + len(kinds))]
    wanted = changed(recipe, "imagery.catalog", catalogue(tmp_path, *days))
    for kind, day in zip(kinds, days, strict=True):
        damage(kind, tmp_path / f"{day['id']}_red.tif")
    summary = run(wanted)
    assert summary.failed == ()
    composite = open_store(wanted["store"])["composite"]
    inside = composite["reason"].values != 1
    computed = composite["reason"].values != 255
    # had one day been read, it would show
    assert set(np.unique(composite["reason"].values[inside & computed]).tolist()) == {4}
    notes = read_status(wanted["store"])["notes"].values()
    for day in days:
        assert any(day["id"] in note for note in notes), day["id"]
    # structural: the next run does not try again
    assert run(wanted).done == 0


@pytest.mark.parametrize(("scl", "reason"), [(9, 3), (0, 2)])
def test_all_cloud_and_nodata_everywhere(
    recipe: dict[str, Any], tmp_path: Path, scl: int, reason: int
) -> None:
    catalogue(tmp_path, scene(tmp_path, scl=scl))
    assert run(recipe).failed == ()
    found = open_store(recipe["store"])["composite"]["reason"].values
    assert set(np.unique(found[(found != 1) & (found != 255)]).tolist()) == {reason}


def test_stores(recipe: dict[str, Any], tmp_path: Path) -> None:
    assert run(recipe).failed == ()
    with pytest.raises(IdentityError, match="band_names"):
        run(changed(recipe, "imagery.bands", ["B02"]))
    with pytest.raises(IdentityError, match="tile_size"):
        run(changed(recipe, "grid.tile", 160))
    with Store.open(recipe["store"]).lock(), pytest.raises(LockedError):
        run(recipe)
    with pytest.raises(StoreError, match="not empty"):
        run(changed(recipe, "store", str(tmp_path)))


def test_a_full_disk_loses_nothing(recipe: dict[str, Any], tmp_path: Path) -> None:
    """The run ends with an error or failed tiles; with room again the same command finishes."""
    mount = tmp_path / "tiny"
    mount.mkdir()
    tmpfs = ["mount", "-t", "tmpfs", "-o", "size=192k", "tmpfs", str(mount)]
    if subprocess.run(tmpfs, capture_output=True).returncode:
        pytest.skip("no right to mount a tmpfs")
    days = [scene(tmp_path, f"2023-05-0{n}") for n in range(1, 9)]
    wanted = changed(recipe, "imagery.catalog", catalogue(tmp_path, *days))
    wanted["store"] = str(mount / "store")
    try:
        try:
            failed = len(run(wanted).failed)
        except StoreError:
            failed = 1
        assert failed
        subprocess.run(["mount", "-o", "remount,size=20m", str(mount)], check=True)
        shutil.rmtree(mount / "store") if not Store.exists(mount / "store") else None
        assert run(wanted).failed == ()
        reasons = open_store(wanted["store"])["composite"]["reason"].values
        assert (reasons == 0).any()
    finally:
        subprocess.run(["umount", str(mount)], check=True)


def test_ingest_refuses_what_it_cannot_describe(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    with pytest.raises(RecipeError, match="no images"):
        ingest(folder)
    write_band(folder / "a_2023-05-01.tif", np.ones((8, 8), np.uint16))
    with pytest.raises(RecipeError, match="no names"):
        ingest(folder)
    with pytest.raises(RecipeError, match="do not fit"):
        ingest(folder, bands=["B02", "B03"])
    with pytest.raises(RecipeError, match="into the folder"):
        ingest(folder, folder / "stac", bands=["B02"])
    with pytest.raises(RecipeError, match="not a date"):
        ingest(folder, bands=["B02"], when="spring")
    assert ingest(folder, bands=["B02"]).files == 1
    write_band(folder / "b.tif", np.ones((8, 8), np.uint16))
    with pytest.raises(RecipeError, match="date cannot be told"):
        ingest(folder, bands=["B02"])
    assert ingest(folder, bands=["B02"], when="2023-05-01").files == 2
    write_band(folder / "b.tif", np.full((8, 8), 0.25, np.float32))
    with pytest.raises(RecipeError, match="whole digital numbers"):
        ingest(folder, bands=["B02"], when="2023-05-01")
    assert ingest(folder, bands=["B02"], when="2023-05-01", scale=1.0).files == 2
    (folder / "b.tif").unlink()
    bare = data / "sentinel2-maribor/sentinel-2-l2a/S2A_33TWM_20230815_0_L2A/B02.tif"
    shutil.copy(bare, folder / "c_2023-05-01.tif")
    with pytest.raises(RecipeError, match="no georeference"):
        ingest(folder, bands=["B02"])


class Api(BaseHTTPRequestHandler):
    """A STAC API that pages, is busy, goes round in circles or talks HTML."""

    mood: ClassVar[str] = "well"
    busy: ClassVar[int] = 0
    items: ClassVar[list[dict[str, Any]]] = []

    def log_message(self, *args: Any) -> None: ...

    def _send(self, value: Any, code: int = 200, **headers: str) -> None:
        raw = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        for name, text in headers.items():
            self.send_header(name.replace("_", "-"), text)
        self.end_headers()
        self.wfile.write(raw)

    def _root(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def do_GET(self) -> None:
        core = "https://api.stacspec.org/v1.0.0/"
        link = {"rel": "search", "href": f"{self._root()}/search", "type": "application/geo+json"}
        self._send(
            {
                "type": "Catalog",
                "stac_version": "1.0.0",
                "id": "api",
                "description": "x",
                "conformsTo": [core + "core", core + "item-search"],
                "links": [
                    {"rel": "root", "href": self._root()},
                    {"rel": "self", "href": self._root()},
                    {**link, "method": "GET"},
                    {**link, "method": "POST"},
                ],
            }
        )

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if type(self).busy:
            type(self).busy -= 1
            self._send({}, 429 if type(self).busy % 2 else 503, Retry_After="0")
            return
        if self.mood == "html":
            self._send(b"<html>please log in</html>")
            return
        page = int(asked.get("token", 0))
        found = self.items[page * 2 : page * 2 + 2]
        following = page + 1 if self.mood == "well" else 0
        links = []
        if (page + 1) * 2 < len(self.items) or self.mood == "circle":
            body = {**asked, "token": following}
            href = f"{self._root()}/search"
            links = [{"rel": "next", "href": href, "method": "POST", "body": body}]
        self._send({"type": "FeatureCollection", "features": found, "links": links})


@pytest.fixture
def api(tmp_path: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Api)
    Thread(target=server.serve_forever, daemon=True).start()
    Api.mood, Api.busy = "well", 0
    Api.items = []
    for day in range(1, 8):
        item = scene(tmp_path, f"2023-05-0{day}")
        for asset in item["assets"].values():
            asset["href"] = str(tmp_path / asset["href"])
        Api.items.append(item)
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_a_real_search_pages_and_outlasts_a_busy_server(recipe: dict[str, Any], api: str) -> None:
    Api.busy = 3
    found = plan(changed(recipe, "imagery.catalog", api))
    assert found.items == found.days == 7
    Api.items.append(Api.items[0])  # the same item again, on a later page
    assert plan(changed(recipe, "imagery.catalog", api)).items == 7


@pytest.mark.parametrize(
    ("mood", "words"), [("html", "STAC API should"), ("circle", "round in a circle")]
)
def test_servers_that_misbehave(recipe: dict[str, Any], api: str, mood: str, words: str) -> None:
    Api.mood = mood
    with pytest.raises(CatalogError, match=words):
        plan(changed(recipe, "imagery.catalog", api))
