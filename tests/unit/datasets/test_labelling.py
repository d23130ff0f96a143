"""The labelling page: figures against numpy, its data, its script, and the way of the answers."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import geopandas
import matplotlib.image
import numpy as np
import pytest
import rasterio
import shapely
import yaml
import zarr
from typer.testing import CliRunner

import engine
from engine.catalog.ingest import ingest
from engine.cli.app import app
from engine.datasets.label_ground import find_roles, spacing_of
from engine.datasets.labelling import label
from engine.errors import LabelError, NatmapError
from engine.grid import Grid
from engine.labels.answer_reading import read_answers, read_page
from engine.labels.settling import settle_labels
from engine.labels.training_areas import read_training_areas
from engine.models.coding import encode_ground
from engine.publishing.label_script import SCRIPT
from engine.store.arrays import ArraySpec
from engine.store.digests import commit
from engine.store.repository import Store

CRS, WEST, SOUTH, SIDE = "EPSG:32633", 320_000.0, 5_120_000.0, 3200.0
N = round(SIDE / 10)
BANDS = ("B02", "B03", "B04", "B08")
SPANS = {
    "height.mean": (0.0, 100.0), "height.std": (0.0, 100.0), "height.max": (0.0, 100.0),
    "height.share": (0.0, 1.0), "height.known": (0.0, 1.0), "cover.pervious": (0.0, 1.0),
    "cover.water": (0.0, 1.0), "cover.known": (0.0, 1.0),
}  # fmt: skip


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store as a run leaves it: blocks of 16 m high buildings in the west, meadows in the east,
    water in the south; sites in each; nothing is known of the north-eastern corner."""
    folder = tmp_path_factory.mktemp("town")
    rng = np.random.default_rng(2)
    points = np.zeros((N * 10, N * 10), np.float32)  # heights of 1 m
    built = np.zeros_like(points, bool)
    for i in range(5, N * 10, 24):
        for j in range(3, N * 5, 24):
            built[i : i + 17, j : j + 17] = True
            points[i : i + 17, j : j + 17] = 16 + 3 * rng.standard_normal()
    built[N * 7 :], points[N * 7 :] = False, 0
    cells = points.reshape(N, 10, N, 10).swapaxes(1, 2).reshape(N, N, 100).astype(np.float64)
    share = built.reshape(N, 10, N, 10).mean((1, 3))
    wet = np.zeros((N, N))
    wet[round(N * 0.7) :] = 1
    pervious = np.where(wet > 0, 0, np.where(np.arange(N) < N // 2, 0.05, 0.97))
    values = dict(
        zip(
            SPANS,
            (cells.mean(2), cells.std(2), cells.max(2), share, np.ones((N, N)), pervious, wet,
             np.ones((N, N))),
            strict=True,
        )
    )  # fmt: skip
    red, nir = np.where(pervious > 0.5, 0.04, 0.15), np.where(pervious > 0.5, 0.4, 0.2)
    red, nir = np.where(wet > 0, 0.03, red), np.where(wet > 0, 0.01, nir)
    image = np.stack([red, np.where(wet > 0, 0.05, red), red, nir]) + rng.normal(0, 1e-3, (4, N, N))
    stored = np.rint(image * 10_000 + 1000).astype(np.uint16)
    stored[:, :60, -60:] = 0
    np.savez(folder / "truth.npz", points=points, built=built, stored=stored)
    grid = Grid.fit((WEST, SOUTH, WEST + SIDE, SOUTH + SIDE), crs=CRS, tile_size=SIDE)
    specs = [
        ArraySpec("composite/bands", "uint16", 10.0, N, 0, leading=(("band", BANDS),)),
        ArraySpec(
            "features/bands", "uint16", 10.0, N, 0, leading=(("band", tuple(SPANS)),),
            attrs={"ranges": {name: list(span) for name, span in SPANS.items()}},
        ),
    ]  # fmt: skip
    store = Store.create(folder / "store", grid, specs, band_names=list(BANDS))
    session = store.writer()
    root: Any = zarr.open_group(session.store, mode="r+")
    root["composite/bands"][:] = stored
    root["features/bands"][:] = np.stack(
        [encode_ground(values[name], *span) for name, span in SPANS.items()]
    )
    commit(session, "by hand")
    recipe = {
        "name": "town", "product": "lcz", "area": {"bbox": [12.6, 46.1, 12.8, 46.3]},
        "grid": {"crs": CRS, "resolution": 10, "tile": N}, "store": "./store",
        "imagery": {"catalog": "nowhere.json", "period": "2023-01-01/2023-12-31"},
        "features": [
            {"name": "height", "kind": "heights", "path": "h.tif", "year": 2020, "absent": 0},
            {"name": "cover", "kind": "classes", "path": "c.tif", "year": 2020,
             "classes": {"pervious": 1, "water": 2}},
        ],
    }  # fmt: skip
    (folder / "town.yaml").write_text(yaml.safe_dump(recipe))
    places = {"blocks": (600, 2400), "meadow": (2500, 1800), "lake": (1600, 400),
              "dark": (2950, 2950)}  # fmt: skip
    write_sites(folder / "sites.geojson", places)
    return folder


def write_sites(path: Path, places: dict[str, tuple[float, float]]) -> None:
    ground = [shapely.Point(WEST + x, SOUTH + y) for x, y in places.values()]
    frame = geopandas.GeoDataFrame({"id": list(places)}, geometry=ground, crs=CRS)
    frame.to_crs("EPSG:4326").to_file(path)


@pytest.fixture(scope="module")
def made(town: Path) -> Any:
    return label(town / "sites.geojson", town / "town.yaml", town / "page.html")


def test_figures_are_numpys_on_the_ground_of_1_m(town: Path, made: Any) -> None:
    truth = np.load(town / "truth.npz")
    found = made.figures["blocks"]
    top, left = N * 10 - 2400 - 160, 600 - 160
    here = np.s_[top : top + 320, left : left + 320]
    built, heights = truth["built"][here], truth["points"][here]
    assert found.building == pytest.approx(built.mean(), abs=2e-3)
    assert found.height == pytest.approx(heights[built].mean(), abs=0.05)
    assert found.spread == pytest.approx(heights[built].std(), abs=0.1)
    assert found.tallest == pytest.approx(heights.max(), abs=0.01)
    ten = truth["stored"][:, top // 10 : top // 10 + 32, left // 10 : left // 10 + 32]
    red, nir = ((ten[k].astype(float) - 1000) / 1e4 for k in (2, 3))
    assert found.ndvi == pytest.approx(((nir - red) / (nir + red)).mean(), abs=1e-3)
    assert made.proposals["blocks"].lcz == 2
    assert made.proposals["lake"].lcz == 17
    assert made.proposals["meadow"].lcz is None  # nothing tells trees
    assert set(made.proposals["meadow"].candidates) <= {11, 12, 13, 14}
    assert made.figures["meadow"].height is None
    assert "there is no imagery of the site" in made.conflicts["dark"]
    assert "heights of buildings: height" in made.notes


def test_spacing_is_near_that_of_a_regular_town(town: Path) -> None:
    """Squares of 16 m at a pitch of 32 m: walls of 64 m on 1,024 m2, so pi x 768 / 64."""
    built = np.zeros((960, 960))
    for i in range(3, 960, 32):
        for j in range(5, 960, 32):
            built[i : i + 16, j : j + 16] = 1
    share = built.reshape(96, 10, 96, 10).mean((1, 3)).astype(np.float32)
    assert spacing_of(share, np.ones(share.shape, bool), 10.0) == pytest.approx(37.7, rel=0.35)
    assert spacing_of(share * 0, np.ones(share.shape, bool), 10.0) is None


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_the_page_is_whole_offline_and_conflicts_come_first(town: Path, made: Any) -> None:
    text = made.page.read_text()
    tags = Tags(text).tags
    cards = [v["aria-label"] for t, v in tags if t == "section"]
    conflict = [bool(made.conflicts[str(name).removeprefix("site ")]) for name in cards]
    assert len(cards) == 4
    assert conflict == sorted(conflict, reverse=True)
    assert [v.get("type") for t, v in tags if t == "script"] == ["application/json", None]
    for tag, values in tags:  # nothing is loaded: only links lead elsewhere
        for name in ("src", "href", "action", "srcset", "data"):
            value = values.get(name) or ""
            assert tag == "a" or value == "" or value.startswith("data:image/jpeg;base64,")
    assert not re.search(r"fetch\(|XMLHttp|import |WebSocket|url\(", SCRIPT)
    assert "default-src 'none'" in text
    pictures = sum(tag == "image" for tag, _ in tags)
    assert pictures >= 2 * 3
    data = read_page(made.page)
    lon, lat = shapely.geometry.shape(data["sites"][0]["geometry"]).centroid.coords[0]
    first = next(v["href"] for t, v in tags if t == "a" and "openstreetmap" in str(v["href"]))
    numbers = [float(x) for x in re.findall(r"m(?:lat|lon)=([-\d.]+)", str(first))]
    np.testing.assert_allclose(numbers, [lat, lon], atol=2e-5)
    squares = geopandas.GeoSeries(
        [shapely.geometry.shape(site["geometry"]) for site in data["sites"]], crs="EPSG:4326"
    ).to_crs(CRS)
    np.testing.assert_allclose(squares.area, 320**2, rtol=1e-4)


def test_the_image_of_1_m_is_the_frames_own_pixels(town: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    grey = np.kron(rng.integers(40, 220, (1, 20, 20)), np.ones((3, 32, 32))).astype(np.uint8)
    west, north = WEST + 300, SOUTH + 2700  # 640 m about the blocks' site
    (tmp_path / "photos").mkdir()
    form = {"driver": "GTiff", "dtype": "uint8", "count": 3, "height": 640, "width": 640}
    with rasterio.open(
        tmp_path / "photos" / "a_2022-06-01.tif", "w", crs=CRS, photometric="rgb",
        transform=rasterio.Affine(1, 0, west, 0, -1, north), **form,
    ) as file:  # fmt: skip
        file.write(grey)
    catalog = ingest(tmp_path / "photos", when="*_{year}-{month}-{day}", nodata=0).catalog
    area = shapely.box(west, north - 640, west + 640, north)
    geopandas.GeoSeries([area], crs=CRS).to_file(tmp_path / "area.geojson")
    recipe = {
        "name": "photos", "product": "ugs", "area": {"file": "area.geojson"},
        "grid": {"crs": CRS}, "model": {"card": "model"}, "store": "none",
        "images": {"catalog": str(catalog)},
    }  # fmt: skip
    (tmp_path / "photos.yaml").write_text(yaml.safe_dump(recipe))
    found = label(
        town / "sites.geojson", town / "town.yaml", tmp_path / "p.html",
        images=tmp_path / "photos.yaml",
    )  # fmt: skip
    text = found.page.read_text()
    card = text[text.index("aria-label='site blocks'") :].partition("</section>")[0]
    data = re.findall(r"base64,([^']+)'", card)[2]
    shown = matplotlib.image.imread(io.BytesIO(base64.b64decode(data)), "jpg")
    side = 440  # 320 m and 60 m about it; thinned to every second pixel
    left, top = 600 - side // 2 - 300, 2700 - 2400 - side // 2
    expected = np.moveaxis(grey[:, top : top + side : 2, left : left + side : 2], 0, -1)
    assert shown.shape == expected.shape
    off = np.abs(shown.astype(int) - expected).mean()
    assert off < 2  # JPEG
    assert np.abs(np.roll(shown, 1, axis=0).astype(int) - expected).mean() > 1.5 * off
    far = text[text.index("aria-label='site lake'") :].partition("</section>")[0]
    assert "1 m image: none here" in far


def test_a_site_may_be_called_anything(town: Path, tmp_path: Path) -> None:
    name = "</script><b x='\">&"
    write_sites(tmp_path / "odd.geojson", {name: (600, 2400)})
    found = label(tmp_path / "odd.geojson", town / "town.yaml", tmp_path / "odd.html", blind=True)
    data = read_page(found.page)
    assert [site["id"] for site in data["sites"]] == [name]
    assert data["sites"][0]["lcz"] is None  # blind
    tags = Tags(found.page.read_text()).tags
    assert not [t for t, _ in tags if t == "b"]
    assert f"site {name}" in [v.get("aria-label") for _, v in tags]


def press(page: Path, who: str, keys: list[str], tmp_path: Path) -> Path:
    """What the page's own script saves after keys, run without a browser."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("node runs the page's script")
    code = (
        SCRIPT
        + """
    const [data, who, keys] = JSON.parse(require("fs").readFileSync(0, "utf8"));
    let state = {at: 0, answers: {}};
    for (const key of keys) state = pressed(state, key, data.sites) ?? state;
    const again = kept(JSON.stringify(state.answers), data.sites);
    process.stdout.write(JSON.stringify(collection(data, again, who, "2026-01-01T00:00:00Z")));
    """
    )
    text = subprocess.run(
        [node, "-e", code], input=json.dumps([read_page(page), who, keys]), text=True,
        capture_output=True, check=True,
    ).stdout  # fmt: skip
    path = tmp_path / f"{who}.geojson"
    path.write_text(text)
    return path


def test_answers_by_keys_come_back_as_training_areas(town: Path, made: Any, tmp_path: Path) -> None:
    order = [site["id"] for site in read_page(made.page)["sites"]]
    said = {"blocks": "2", "meadow": "D", "lake": "g", "dark": "0"}
    ada = press(made.page, "Ada", [said[name] for name in order], tmp_path)
    codes = {"blocks": 2, "meadow": 14, "lake": 17, "dark": 10}
    found = read_answers([ada])
    assert {a.site.id: a.lcz for a in found.answers} == codes
    for form in ("kml", "gpkg", "geojson"):
        out = tmp_path / f"labels.{form}"
        settle_labels([ada], out, pages=[made.page])
        areas = read_training_areas(out).areas
        assert sorted(area.lcz for area in areas) == sorted(codes.values()), form
        for area in areas:
            name = next(n for n, code in codes.items() if code == area.lcz)
            ground = next(a.geometry for a in found.answers if a.site.id == name)
            assert area.geometry.symmetric_difference(ground).area < 1e-9 * 320, form
    # one corrected, one in doubt, one taken back, one as proposed
    keys = ["3", "k", "4", "5", "k", "u", "j", "6", "k", "x", "?", "ArrowDown", "Enter"]
    bo = json.loads(press(made.page, "Bo", keys, tmp_path).read_text())
    told = {f["properties"]["id"]: f["properties"] for f in bo["features"]}
    assert {name: (t["lcz"], t["sure"]) for name, t in told.items()} == {
        order[0]: (4, True), order[1]: (5, False), order[3]: (made.proposals[order[3]].lcz, True),
    }  # fmt: skip
    assert made.proposals[order[3]].lcz is not None
    assert bo["natmap"]["ids"] == order


_DOM = """
const fs = require("fs");
const [data, keys, stored] = JSON.parse(fs.readFileSync(0, "utf8"));
const heard = {}, shelf = new Map(stored), saved = [];
const element = () => ({
  textContent: "", value: "", classes: new Set(), heard: {}, focused: 0,
  classList: {toggle() {}}, addEventListener(name, f) { this.heard[name] = f; },
  querySelector(q) { return this.said ??= element(); }, querySelectorAll() { return []; },
  setAttribute() {}, scrollIntoView() {}, focus() { this.focused += 1; }, click() {
    saved.push([this.download, this.href]); }, remove() {}, append() {}, closest() { return null; },
});
const cards = data.sites.map(element), by = {who: element(), told: element(), save: element(),
  done: element()};
by.sites = {textContent: JSON.stringify(data)};
const document = {
  getElementById: id => by[id], querySelectorAll: () => cards, createElement: element,
  addEventListener(name, f) { heard[name] = f; }, body: element(),
};
const window = {
  localStorage: {getItem: k => shelf.get(k) ?? null, setItem: (k, v) => shelf.set(k, v)},
  Blob: class { constructor(parts) { this.text = parts.join(""); } },
  URL: {createObjectURL: blob => blob.text, revokeObjectURL() {}},
  setTimeout() {}, addEventListener() {},
};
"""

_PRESS = """
for (const key of keys) {
  if (key.startsWith("name:")) { by.who.value = key.slice(5); by.who.heard.change(); continue; }
  heard.keydown({key, target: cards[0], preventDefault() {}});
}
process.stdout.write(JSON.stringify({saved, told: by.told.textContent, shelf: [...shelf],
  said: cards.map(card => card.said.textContent)}));
"""


def in_a_browser(page: Path, keys: list[str], stored: Any = ()) -> Any:
    """What the whole script does with keys, on the least of a document that it needs."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("node runs the page's script")
    text = json.dumps([read_page(page), keys, list(stored)])
    done = subprocess.run(
        [node, "-e", _DOM + SCRIPT + _PRESS], input=text, text=True, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_page_works_by_keyboard_alone_and_keeps_what_was_said(
    made: Any, tmp_path: Path
) -> None:
    first = in_a_browser(made.page, ["2", "s", "d", "u", "name:Ada", "0", "g", "s"])
    assert len(first["saved"]) == 1  # nobody had said who they are at first
    name, text = first["saved"][0]
    assert name == "town-Ada.geojson"
    (tmp_path / name).write_text(text)
    found = read_answers([tmp_path / name], [made.page])
    order = [site["id"] for site in read_page(made.page)["sites"]]
    codes = {a.site.id: a.lcz for a in found.answers}
    assert [codes[one] for one in order] == [2, 14, 10, 17]
    assert first["told"] == "4 of 4 answered, saved to town-Ada.geojson"
    assert first["said"][0] == "1 2 Compact mid-rise"[2:]
    # the page is closed and opened again: Ada's answers are hers, Bo has none
    again = in_a_browser(made.page, ["name:Ada"], first["shelf"])
    assert again["told"].startswith("4 of 4")
    other = in_a_browser(made.page, ["name:Ada", "name:Bo"], first["shelf"])
    assert other["told"].startswith("0 of 4")


def test_interpreters_agree_a_tie_goes_back_to_a_page_and_an_arbiter_decides(
    town: Path, made: Any, tmp_path: Path
) -> None:
    ada = press(made.page, "Ada", ["2", "5", "6", "9"], tmp_path)
    bo = press(made.page, "Bo", ["2", "5", "6", "8"], tmp_path)
    found = settle_labels([ada, bo])
    assert (found.agreement.sites, found.agreement.whole) == (4, 3)
    assert found.agreement.pairs["Ada", "Bo"][1] == 0.75
    assert len(found.labels) == 3
    (site,) = found.disputed
    again = label(
        town / "sites.geojson", town / "town.yaml", tmp_path / "again.html", answers=[ada, bo]
    )
    assert list(again.proposals) == [site.id]
    assert "9 by Ada" in again.page.read_text()
    # another file's sites of the same names are not meant
    ids = [answer.site.id for answer in read_answers([ada]).answers]
    write_sites(tmp_path / "other.geojson", dict.fromkeys(ids, (700, 700)))
    with pytest.raises(LabelError, match="other sites"):
        label(
            tmp_path / "other.geojson", town / "town.yaml", tmp_path / "x.html", answers=[ada, bo]
        )
    result = CliRunner().invoke(
        app,
        ["label", str(ada), str(bo), "--arbiter", "Bo", "--to", str(tmp_path / "all.gpkg"),
         "--figure", str(tmp_path / "f.png"), "--json"],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    frame = geopandas.read_file(tmp_path / "all.gpkg")
    assert sorted(frame["lcz"]) == [2, 5, 6, 8]
    assert (tmp_path / "f.png").read_bytes()[:4] == b"\x89PNG"


def test_sites_go_to_collect_earth_online(town: Path, tmp_path: Path) -> None:
    args = ["label", str(town / "sites.geojson"), str(town / "town.yaml"), "--out",
            str(tmp_path / "p.html"), "--ceo", str(tmp_path / "plots.csv")]  # fmt: skip
    result = CliRunner().invoke(app, args)
    assert result.exit_code == 0, result.output
    with (tmp_path / "plots.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["LON", "LAT", "PLOTID", "SITE"]
    assert sorted(row["PLOTID"] for row in rows) == ["1", "2", "3", "4"]
    sites = geopandas.read_file(town / "sites.geojson").set_index("id").geometry
    for row in rows:
        np.testing.assert_allclose(
            [float(row["LON"]), float(row["LAT"])], sites[row["SITE"]].coords[0], atol=1e-6
        )


def test_disputes_of_collect_earth_online_go_back_to_a_page(
    town: Path, made: Any, tmp_path: Path
) -> None:
    sites = geopandas.read_file(town / "sites.geojson").set_index("id").geometry
    rows = [
        f"1,1,{sites[name].x!r},{sites[name].y!r},{who},false,{name},{zone}"
        for name, ada, bo in (("blocks", "2", "Compact high-rise"), ("lake", "G", "Water"))
        for who, zone in (("ada", ada), ("bo", bo))
    ]
    head = "plotid,sampleid,lon,lat,email,flagged,pl_site,Zone"
    (tmp_path / "ceo.csv").write_text("\n".join([head, *rows]))
    args = ["label", str(town / "sites.geojson"), str(town / "town.yaml"), "--out",
            str(tmp_path / "again.html"), "--disputes", str(tmp_path / "ceo.csv")]  # fmt: skip
    assert CliRunner().invoke(app, args).exit_code != 0  # the outlines are the page's
    result = CliRunner().invoke(app, [*args, "--page", str(made.page)])
    assert result.exit_code == 0, result.output
    assert [site["id"] for site in read_page(tmp_path / "again.html")["sites"]] == ["blocks"]
    assert "1 by bo" in (tmp_path / "again.html").read_text()


def spoil(path: Path, tmp_path: Path, change: Any) -> Path:
    text = json.loads(path.read_text())
    change(text)
    out = tmp_path / "spoilt.geojson"
    out.write_text(json.dumps(text))
    return out


def _set(name: str, value: Any) -> Any:
    return lambda t: t["features"][0]["properties"].update({name: value})


BAD = {
    "unknown class": (_set("lcz", 18), "unknown class"),
    "a class that is true": (_set("lcz", True), "unknown class"),
    "an id of no page": (_set("id", "nobody"), "not about a site"),
    "another page": (_set("page", "f00"), "another page"),
    "nobody": (_set("interpreter", " "), "who answered"),
    "maybe sure": (_set("sure", "maybe"), "whether it is sure"),
    "twice": (lambda t: t["features"].append(t["features"][0]), "twice"),
    "no answer": (lambda t: t["features"].clear(), "has no answer"),
    "no list of sites": (lambda t: t.pop("natmap"), "does not tell the sites"),
    "in metres": (
        lambda t: t["features"][0].update(
            geometry=shapely.geometry.mapping(shapely.box(4e5, 5e6, 4.1e5, 5.1e6))
        ),
        "not in degrees",
    ),
    "a point": (
        lambda t: t["features"][0].update(geometry={"type": "Point", "coordinates": [12, 46]}),
        "not a valid polygon",
    ),
    "of another CRS": (
        lambda t: t.update(crs={"type": "name", "properties": {"name": "EPSG:32633"}}),
        "not in degrees",
    ),
    "no GeoJSON": (lambda t: t.pop("features"), "cannot be read"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_answers_are_refused_and_nothing_is_written(
    made: Any, tmp_path: Path, what: str
) -> None:
    change, words = BAD[what]
    good = press(made.page, "Ada", ["2", "5", "6", "9"], tmp_path)
    with pytest.raises(LabelError, match=words):
        settle_labels([spoil(good, tmp_path, change)], tmp_path / "out.kml")
    assert not (tmp_path / "out.kml").exists()


def test_an_outline_that_was_moved_is_refused_where_the_page_is_given(
    made: Any, tmp_path: Path
) -> None:
    good = press(made.page, "Ada", ["2", "5", "6", "9"], tmp_path)

    def move(text: Any) -> None:
        first = text["features"][0]
        moved = shapely.affinity.translate(shapely.geometry.shape(first["geometry"]), 0.01, 0)
        first["geometry"] = shapely.geometry.mapping(moved)

    spoilt = spoil(good, tmp_path, move)
    with pytest.raises(LabelError, match="lies elsewhere"):
        read_answers([spoilt], [made.page])
    with pytest.raises(LabelError, match="twice"):
        read_answers([good, good])
    # other software drops what it does not know: then the page is needed, and is enough
    bare = spoil(good, tmp_path, lambda t: t.pop("natmap"))
    assert len(read_answers([bare], [made.page]).answers) == 4
    with pytest.raises(LabelError, match="answered nothing"):
        settle_labels([good], arbiter="Zoe")
    with pytest.raises(LabelError, match="cannot be written in that form"):
        settle_labels([good], tmp_path / "x.shp")
    with pytest.raises(LabelError, match="not a labelling page"):
        read_answers([good], [good])


def test_sites_without_a_map_and_empty_files_are_refused(town: Path, tmp_path: Path) -> None:
    def refuse(words: str, sites: Path, recipe: Path | None = None, **more: Any) -> None:
        with pytest.raises(NatmapError, match=words):
            label(sites, recipe or town / "town.yaml", tmp_path / "p.html", **more)
        assert not (tmp_path / "p.html").exists()

    write_sites(tmp_path / "far.geojson", {"in": (600, 600), "out": (9000, 600)})
    refuse("beyond the map", tmp_path / "far.geojson")
    (tmp_path / "empty.geojson").write_text('{"type": "FeatureCollection", "features": []}')
    refuse("no site|cannot be read", tmp_path / "empty.geojson")
    refuse("no such file", tmp_path / "none.geojson")
    bare = yaml.safe_load((town / "town.yaml").read_text()) | {"store": str(tmp_path / "none")}
    (tmp_path / "bare.yaml").write_text(yaml.safe_dump(bare))
    refuse("no composite", town / "sites.geojson", tmp_path / "bare.yaml")
    refuse("no such feature of heights", town / "sites.geojson", heights="roofs")
    refuse("does not look at that", town / "sites.geojson", use={"roofs": ["cover.water"]})
    refuse("no such band", town / "sites.geojson", use={"pervious": ["cover.grass"]})
    refuse("not a share", town / "sites.geojson", use={"pervious": ["height.mean"]})
    for args in (["a", "--out", "p.html"], ["a", "b", "--out", "p.html", "--to", "x.kml"],
                 ["a", "--blind"]):  # fmt: skip
        assert CliRunner().invoke(app, ["label", *args]).exit_code != 0


def test_two_features_that_say_the_same_are_refused() -> None:
    class Kind:
        def __init__(self, name: str, kind: str) -> None:
            self.name, self.kind = name, kind

    features = [Kind("a", "classes"), Kind("b", "polygons"), Kind("osm", "osm")]
    names = ["a.water", "b.water", "osm.bare", "a.known"]
    with pytest.raises(LabelError, match="several features give the share of water"):
        find_roles(features, names, None, {})
    found = find_roles(features, names, None, {"water": ["b.water"]})
    assert dict(found.shares) == {"water": ("b.water",)}  # what OSM lacks of bare says nothing
    tall = [Kind("height", "heights"), Kind("buildings", "heights")]
    with pytest.raises(LabelError, match="several features are heights"):
        find_roles(tall, ["height.mean", "buildings.mean"], None, {})
    canopy = find_roles([Kind("canopy", "heights")], ["canopy.mean"], None, {})
    assert canopy.heights is None
    assert "canopy: not taken" in canopy.notes[0]


def test_the_package_has_the_verb() -> None:
    assert engine.label is label
    assert engine.settle_labels is settle_labels
