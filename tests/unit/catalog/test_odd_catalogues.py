"""Catalogues and items of anybody's: one answer in every form, and nothing that ends a search."""

from __future__ import annotations

import copy
import gzip
import json
import math
import resource
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
import stac_geoparquet.arrow
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.catalog import documents, geoparquet, static
from engine.catalog.search import SearchResult, find_source, search
from engine.errors import CatalogError
from engine.grid.area import Area
from engine.recipes.sections import Imagery
from engine.web import is_private, private_at

AREA = Area.from_bbox((15.001, 46.94, 15.009, 46.95), "EPSG:32633")
SQUARE = json.loads(shapely.to_geojson(shapely.box(14.9, 46.9, 15.1, 47.0)))
LATER = "2023-05-04T10:00:00Z"


def item(name: str = "good", **properties: Any) -> dict[str, Any]:
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": name,
        "collection": "one",
        "bbox": [14.9, 46.9, 15.1, 47.0],
        "geometry": SQUARE,
        "links": [],
        "properties": {"datetime": "2023-05-02T10:00:00Z", "eo:cloud_cover": 5, **properties},
        "assets": {
            key: {"href": f"./{name}_{key}.tif", "raster:bands": [{"nodata": 0}]}
            for key in ("blue", "red")
        },
    }


def find(where: str, **asked: Any) -> SearchResult:
    wanted = Imagery.model_validate({"catalog": where, "period": "2023-05-01/2023-05-31", **asked})
    card, place = find_source(wanted)
    return search(card, place, AREA, wanted, ["B02", "B04"])


def catalogue(folder: Path, *items: Any, **more: Any) -> str:
    path = folder / "catalog.json"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": list(items), **more}))
    return str(path)


def parquet(folder: Path, *items: Any) -> str:
    path = folder / "items.parquet"
    table = stac_geoparquet.arrow.parse_stac_items_to_arrow(copy.deepcopy(list(items))).read_all()
    stac_geoparquet.arrow.to_parquet(table, path)
    return str(path)


# -- a server -----------------------------------------------------------------------------------


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    pages: dict[str, Callable[[str], bytes]]

    def log_message(self, *_: Any) -> None: ...

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        made = self.pages.get(path) or self.pages.get("*")
        body = made(path) if made else b""
        if body.startswith(b"to "):
            self.send_response(302)
            self.send_header("Location", body[3:].decode())
            body = b""
        else:
            self.send_response(200 if made else 404)
        if body[:2] == b"\x1f\x8b":
            self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


Serve = Callable[..., str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Pages by path, each JSON or a function of the path; hands back the server's address."""
    running = []

    def start(**pages: Any) -> str:
        made = {
            name if name == "*" else f"/{name}": page
            if callable(page)
            else (lambda path, page=page: json.dumps(page).encode())
            for name, page in pages.items()
        }
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("Pages", (Handler,), {"pages": made}))
        Thread(target=server.serve_forever, daemon=True).start()
        running.append(server)
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


def api(features: list[Any]) -> dict[str, Any]:
    """Pages of an API that answers everything with the same features."""
    core, form = "https://api.stacspec.org/v1.0.0/", "application/geo+json"
    search = {"rel": "search", "href": "./search", "method": "POST", "type": form}
    root = {
        "type": "Catalog",
        "stac_version": "1.0.0",
        "id": "api",
        "description": "x",
        "conformsTo": [f"{core}core", f"{core}item-search"],
        "links": [search],
    }
    return {"api": root, "search": {"type": "FeatureCollection", "features": features}}


# -- one answer in every form -------------------------------------------------------------------


def test_collection_period_and_place_mean_the_same_in_every_form(
    tmp_path: Path, serve: Serve
) -> None:
    """A static catalogue, stac-geoparquet, and an API that does not filter."""
    span = {"datetime": None, "start_datetime": "2023-04-20T00:00:00Z"}
    beyond = json.loads(shapely.to_geojson(shapely.box(14.9 + 360, 46.9, 15.1 + 360, 47.0)))
    items = [
        item(),
        {**item("beyond"), "geometry": beyond},
        {**item("other"), "collection": "two"},
        {**item("south"), "geometry": json.loads(shapely.to_geojson(shapely.box(14, 1, 16, 2)))},
        item("early", datetime="2023-04-01T10:00:00Z"),
        item("span", **span, end_datetime="2023-05-03T00:00:00Z"),
        item("past", **span, end_datetime="2023-04-25T00:00:00Z"),
        item("cloudy", **{"eo:cloud_cover": 50}),
    ]
    asked = {"collection": "one", "max_cloud_cover": 20}
    wanted = ["beyond", "good", "span"]
    for where in (catalogue(tmp_path, *items), parquet(tmp_path, *items)):
        assert [i.id for i in find(where, **asked).items] == wanted
    rows = (tmp_path / "items.parquet").read_bytes()
    remote = serve(**{"items.parquet": lambda path: rows}) + "/items.parquet"
    assert [i.id for i in find(remote, **asked).items] == wanted
    root = serve(**api(items)) + "/api"
    assert [i.id for i in find(root, **asked).items] == wanted


def test_an_item_is_of_the_collection_that_leads_to_it(tmp_path: Path) -> None:
    for name in ("one", "two"):
        bare = item(name)
        del bare["collection"]
        (tmp_path / f"{name}.json").write_text(json.dumps(bare))
        links = [{"rel": "item", "href": f"./{name}.json"}]
        document = {"type": "Collection", "id": name, "links": links}
        (tmp_path / f"c-{name}.json").write_text(json.dumps(document))
    links = [{"rel": "child", "href": f"./c-{name}.json"} for name in ("one", "two")]
    (tmp_path / "catalog.json").write_text(json.dumps({"type": "Catalog", "links": links}))
    found = find(str(tmp_path / "catalog.json"), collection="two")
    assert [(i.id, i.collection) for i in found.items] == [("two", "two")]


def test_ids_count_within_their_collection(tmp_path: Path) -> None:
    twins = [item(), {**item(datetime=LATER), "collection": "two"}, item("third")]
    found = find(catalogue(tmp_path, *twins))
    assert [i.id for i in found.items] == ["one/good", "third", "two/good"]


def test_a_card_of_another_collection_is_refused() -> None:
    with pytest.raises(CatalogError, match="another collection"):
        find("earth-search", collection="sentinel-2-l1c")


@pytest.mark.parametrize("name", ["scenes/none.json", "none.parquet", "./none", "none.geojson"])
def test_a_catalogue_that_is_not_there_is_said(name: str) -> None:
    with pytest.raises(CatalogError, match=r"no such file: /.*none"):
        find(name)


# -- odd items ----------------------------------------------------------------------------------

ODD = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**12), 10**12)
    | st.sampled_from([math.inf, -math.inf, math.nan, 1e308, 10**400, "", "abc", "NaN", "\u202e\n"])
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from places(value[key], (*path, key))


FULL = item("odd", **{"proj:epsg": 32633, "s2:datatake_id": "GS2A_1_N05.09", "view:off_nadir": 1})
FULL["assets"]["blue"] |= {
    "proj:transform": [10, 0, 500000, 0, -10, 5200000],
    "proj:shape": [96, 96],
    "file:checksum": "1220",
    "type": "image/tiff",
    "natmap:band": 1,
}
PLACES = [path for path in places(FULL) if path]


@settings(max_examples=100, deadline=None)
@given(where=st.sampled_from(PLACES), value=ODD)
def test_whatever_an_item_holds_it_alone_is_left_out(
    tmp_path_factory: pytest.TempPathFactory, where: tuple[Any, ...], value: Any
) -> None:
    """Any value in any field: used as an item that is whole, or left out with a reason."""
    odd = copy.deepcopy(FULL)
    holder = odd
    for key in where[:-1]:
        holder = holder[key]
    holder[where[-1]] = value
    folder = tmp_path_factory.getbasetemp() / "odd"
    folder.mkdir(exist_ok=True)
    [known] = find(catalogue(folder, item())).items
    found = find(catalogue(folder, odd, item()))
    [good] = [i for i in found.items if i.id == "good"]
    assert good == known
    for name, reason in found.left_out:
        assert name.isprintable()
        assert reason.isprintable()
    for other in found.items:
        assert math.isfinite(other.centroid_lon)
        assert all(
            math.isfinite(a.scale) and math.isfinite(a.offset) for a in other.assets.values()
        )


@pytest.mark.parametrize(
    "change",
    [
        {"properties": {"natmap:item": "{}"}},
        {"properties": {"natmap:item": "nonsense"}},
        {"properties": {"datetime": "0001-01-01T00:00:00+14:00"}},
        {"properties": {"datetime": "2023-13-01"}},
        {"geometry": {"type": "Point", "coordinates": [15, 47]}},
        {"geometry": json.loads(shapely.to_geojson(shapely.box(500000, 5e6, 500960, 5.1e6)))},
        {"assets": {k: {"href": "./a.tif?frame=7"} for k in ("blue", "red")}},
        {"assets": {k: {"href": f"http://a.org/a.tif?key={k}"} for k in ("blue", "red")}},
        {"assets": {k: {"href": f"./p.zarr/{k}"} for k in ("blue", "red")}},
    ],
)
def test_odd_items_are_named_with_a_reason(tmp_path: Path, change: dict[str, Any]) -> None:
    if "frame" in str(change):
        change = json.loads(json.dumps(change).replace("./a", "http://a.org/a"))
    found = find(catalogue(tmp_path, {**item("odd"), **change}, item()))
    assert [i.id for i in found.items] == ["good"]
    [(name, reason)] = found.left_out
    assert name == "odd"
    assert reason


def test_an_item_cannot_pass_for_another(tmp_path: Path) -> None:
    """Its normal form is believed only under its own name."""
    [good] = find(catalogue(tmp_path, item())).items
    form = json.dumps({**good.to_dict(), "suspect": True})
    found = find(catalogue(tmp_path, item("odd", **{"natmap:item": form}), item()))
    assert [(i.id, i.suspect) for i in found.items] == [("good", None)]
    assert "normal form of another" in found.left_out[0][1]
    assert find(catalogue(tmp_path, item("good", **{"natmap:item": form}))).items[0].suspect


@pytest.mark.parametrize(
    "text",
    [
        '{"type": "FeatureCollection", "features": "abc"}',
        '{"type": "FeatureCollection", "features": ["a", 1, null]}',
        '{"type": "Catalog", "links": ["a"]}',
        '{"type": "Catalog", "links": {"rel": "item"}}',
        '{"type": "Catalog", "links": [{"rel": "item", "href": 1}]}',
        '{"type": "Catalog", "links": [{"rel": "item", "href": "http://[x"}]}',
        '{"type": "Catalog", "links": [{"rel": "item", "href": "./none.json"}]}',
        "[" * 200_000,
        '{"a":' * 200_000,
        "\ufeff\x00",
        "1",
    ],
)
def test_documents_that_are_wrong_are_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "catalog.json").write_text(text)
    with pytest.raises(CatalogError, match=r"(catalog|none)\.json"):
        find(str(tmp_path / "catalog.json"))


# -- bounds -------------------------------------------------------------------------------------


def test_a_catalogue_without_end_is_refused(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    def deeper(path: str) -> bytes:
        number = int(path.strip("/").removesuffix(".json"))
        links = [{"rel": "child", "href": f"./{number * 2 + k}.json"} for k in range(2)]
        return json.dumps({"type": "Catalog", "links": links}).encode()

    with pytest.raises(CatalogError, match="ever deeper"):
        find(serve(**{"*": deeper}) + "/1.json")
    monkeypatch.setattr(static, "_DEEPEST", 10**6)
    monkeypatch.setattr(documents, "_MOST", 200)
    with pytest.raises(CatalogError, match="does not end"):
        find(serve(**{"*": deeper}) + "/1.json")
    monkeypatch.setenv("NATMAP_SEARCH_SECONDS", "0.2")
    monkeypatch.setattr(documents, "_MOST", 10**6)
    began = time.monotonic()
    with pytest.raises(CatalogError, match="time is over"):
        find(serve(**{"*": deeper}) + "/1.json")
    assert time.monotonic() - began < 10


@pytest.mark.alone
def test_what_bursts_takes_no_memory(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """300 MB in 0.3 MB, from a server."""
    packed = gzip.compress(b" " * (10 << 20), 9) * 30
    where = serve(**{"*": lambda path: packed}) + "/x.json"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CatalogError, match="MiB came"):
        find(where)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10


def test_a_parquet_file_that_bursts_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [item(f"i{n}") for n in range(50)]
    for row in rows:
        row["properties"]["story"] = "x" * 10_000
    where = parquet(tmp_path, *rows)
    assert len(find(where).items) == 50
    monkeypatch.setattr(geoparquet, "_BATCH", 100_000)
    with pytest.raises(CatalogError, match="larger than they may be"):
        find(where)
    monkeypatch.setattr(geoparquet, "_COLUMN", 1000)
    with pytest.raises(CatalogError, match="larger than it may be"):
        find(where)


def test_a_parquet_file_that_is_none_is_named(tmp_path: Path) -> None:
    path = tmp_path / "items.parquet"
    path.write_bytes(b"PAR1")
    with pytest.raises(CatalogError, match=r"items\.parquet"):
        find(str(path))
    pq.write_table(pa.table({"a": [1, 2]}), path)
    with pytest.raises(CatalogError, match=r"0 items|2 unusable|cannot be searched"):
        find(str(path))


# -- where a remote catalogue may lead ------------------------------------------------------------


def led(href: str, name: str = "good") -> dict[str, Any]:
    assets = {key: {"href": href, "natmap:band": k} for k, key in enumerate(("blue", "red"), 1)}
    return {**item(name), "assets": assets}


@pytest.mark.parametrize(
    "href",
    [
        "file:///etc/hostname",
        "s3://bucket/a.tif",
        "gopher://a.org/x",
        "vrt://x",
        "http://10.0.0.7/a.tif",
        "http://[::1]/a.tif",
        "http://[::ffff:127.0.0.1]/a.tif",
        "http://2130706433/a.tif",
        "http://localhost/a.tif",
        "HTTP://169.254.169.254/latest/meta-data",
    ],
)
def test_a_remote_item_names_nothing_of_this_machine(serve: Serve, href: str) -> None:
    where = serve(**{"c.json": led(href)}) + "/c.json"
    with pytest.raises(CatalogError, match=r"remote catalogue may name|private address"):
        find(where)


def test_its_own_host_and_what_the_recipe_lists_may_be_private(serve: Serve) -> None:
    other = led("http://localhost/a.tif", "other")
    features = {"type": "FeatureCollection", "features": [led("./a.tif"), other]}
    where = serve(**{"c.json": features}) + "/c.json"
    assert [i.id for i in find(where).items] == ["good"]
    found = find(where, allow_hosts=["LOCALHOST"])
    assert [i.id for i in found.items] == ["good", "other"]
    assert found.items[0].assets["B02"].href == where.replace("c.json", "a.tif")


def test_a_redirect_leads_to_no_private_host(serve: Serve) -> None:
    inner = serve(**{"c.json": item()})
    port = inner.rpartition(":")[2]
    target = f"to http://localhost:{port}/c.json".encode()
    where = serve(**{"*": lambda path: target}) + "/r.json"
    with pytest.raises(CatalogError, match="private address"):
        find(where)
    assert find(where, allow_hosts=["localhost"]).items


def test_a_remote_document_links_to_no_local_one(tmp_path: Path, serve: Serve) -> None:
    path = tmp_path / "c.json"
    path.write_text(json.dumps(item()))
    links = [{"rel": "item", "href": path.as_uri()}]
    with pytest.raises(CatalogError, match="not on a web server"):
        find(serve(**{"r.json": {"type": "Catalog", "links": links}}) + "/r.json")


def test_a_local_catalogue_may_name_a_private_host(tmp_path: Path, serve: Serve) -> None:
    links = [{"rel": "item", "href": serve(**{"i.json": item()}) + "/i.json"}]
    (tmp_path / "catalog.json").write_text(json.dumps({"type": "Catalog", "links": links}))
    assert find(str(tmp_path / "catalog.json")).items


def test_addresses_that_are_private() -> None:
    private = "127.0.0.1 10.1.2.3 192.168.0.1 169.254.169.254 100.64.0.1 0.0.0.0 ::1 fe80::1%eth0"
    assert all(map(is_private, f"{private} fd00::1 ::ffff:10.0.0.1 224.0.0.1".split()))
    assert not any(map(is_private, ["8.8.8.8", "2600::1", "::ffff:8.8.8.8"]))
    assert private_at("no-such-host.invalid") is None


def test_no_secret_of_an_address_is_said(serve: Serve) -> None:
    address = serve(**{"c.json": item()}).replace("//", "//me:SECRET@")
    with pytest.raises(CatalogError) as caught:
        find(f"{address}/none.json?whatever=SECRET")
    assert "SECRET" not in str(caught.value)
    found = find(f"{address}/c.json?whatever=SECRET")
    assert "SECRET" not in json.dumps([i.to_dict() for i in found.items])
