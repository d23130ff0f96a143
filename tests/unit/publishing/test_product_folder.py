"""The product folder: what is in it, and that it is whole or not there."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pytest
import rasterio
from odc.geo.geobox import GeoBox
from PIL import Image
from pystac.validation.stac_validator import JsonSchemaSTACValidator

from engine.addresses import public
from engine.errors import PublishError
from engine.legend import LCZ, Reason
from engine.models.card import find_card, load_card
from engine.products.registry import PRODUCTS
from engine.publishing import preview
from engine.publishing import replace as replacing_module
from engine.publishing.forms import Form, Layer, Scale, reason_layer
from engine.publishing.product import Facts, write_product
from engine.publishing.rights import Rights, Terms
from engine.publishing.sheets import cut_sheets
from engine.publishing.sources import Source
from engine.publishing.tally import count

LCZ_FORM, UGS_FORM = PRODUCTS["lcz"].form, PRODUCTS["ugs"].form
SHAPE = (1300, 900)
BOX = GeoBox.from_bbox(
    (950_000, 1_820_000, 1_040_000, 1_950_000), "EPSG:5179", resolution=100, tight=True
)
FACTS = Facts(
    name="toy",
    period=(date(2023, 3, 1), date(2023, 6, 30)),
    sources=[
        Source("S2A_1", "https://user:pass@example.org/S2A_1.json?sig=SECRET&se=2023"),
        Source("S2B_2", "s3://eodata/S2B_2.json"),
    ],
    software={"natmap": "0.1.0"},
    model={
        "mlm:name": "sen2lcz",
        "mlm:architecture": "sen2lcz",
        "mlm:tasks": ["scene-classification"],
        "mlm:hyperparameters": {},
        "mlm:input": [
            {
                "name": "reflectance",
                "bands": ["B02", "B03"],
                "input": {
                    "shape": [-1, 2, 32, 32],
                    "dim_order": ["batch", "bands", "height", "width"],
                    "data_type": "float32",
                },
            }
        ],
        "mlm:output": [
            {
                "name": "probability",
                "tasks": ["scene-classification"],
                "result": {
                    "shape": [-1, 17],
                    "dim_order": ["batch", "class"],
                    "data_type": "float32",
                },
            }
        ],
    },
    version="v1",
    rights=Rights(
        "A toy",
        Terms("CC-BY-4.0", "Toy Town", "Toy Town (2023): A toy."),
        [(Terms("contains modified Copernicus Sentinel data"), 2)],
        ("Contains modified Copernicus Sentinel data 2023, processed by Toy Town",),
    ),
    recipe={"imagery": {"catalog": "https://me:word@stac.example.org/v1?token=SECRET"}},
    seconds={"scores": 12.3456},
    notes=("left out https://x.org/a.tif?sig=SECRET, suspect",),
)


@pytest.fixture(scope="module")
def layers() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    classes = np.kron(rng.integers(1, 18, (13, 9)), np.ones((100, 100), int)).astype(np.uint8)
    reason = np.zeros(SHAPE, np.uint8)
    reason[:50] = Reason.OUTSIDE_AREA
    reason[50:150, :450] = Reason.OUTSIDE_MASK
    reason[200:210] = Reason.ALL_CLOUD
    masked = np.where(reason == 0, classes, 0).astype(np.uint8)
    return {
        "map": masked,
        "classes": classes,
        "confidence": rng.integers(0, 101, SHAPE).astype(np.uint8),
        "observations": rng.integers(0, 500, SHAPE).astype(np.uint16),
        "dissent": np.where(masked > 0, rng.integers(0, 30, SHAPE), 255).astype(np.uint8),
        "reason": reason,
    }


def reader(layers: dict[str, np.ndarray]) -> Callable[[str, slice, slice], np.ndarray]:
    return lambda key, rows, cols: layers[key][rows, cols]


CARD = load_card(find_card("lcz-made-up", Path()))
TENTH = GeoBox((130, 90), BOX.transform, BOX.crs)


@pytest.fixture(scope="module")
def few(layers: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A hundredth of the cells, where a folder is written and not what is in it matters."""
    return {key: np.ascontiguousarray(values[::10, ::10]) for key, values in layers.items()}


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory, layers: dict[str, np.ndarray]) -> Path:
    folder = tmp_path_factory.mktemp("publish") / "toy"
    facts = replace(FACTS, card=CARD)
    return write_product(folder, LCZ_FORM, BOX, reader(layers), facts)


def test_the_folder_holds_what_the_design_lists(
    product: Path, layers: dict[str, np.ndarray]
) -> None:
    rasters = {f"toy{layer.suffix}.tif" for layer in LCZ_FORM.layers}
    assert rasters == {
        "toy.tif",
        "toy-classes.tif",
        "toy-confidence.tif",
        "toy-observations.tif",
        "toy-dissent.tif",
        "toy-reason.tif",
    }
    beside = {f"{name}.aux.xml" for name in rasters} | {f"{name[:-4]}.qml" for name in rasters}
    beside -= {"toy-observations.tif.aux.xml", "toy-observations.qml"}  # numbers without a bound
    assert {p.name for p in product.iterdir()} == rasters | beside | {
        "model",
        "collection.json",
        "items",
        "preview.png",
        "report.json",
    }
    assert [p.name for p in product.parent.iterdir()] == ["toy"]
    for layer in LCZ_FORM.layers:
        with rasterio.open(product / f"toy{layer.suffix}.tif") as file:
            assert (file.read(1) == layers[layer.key]).all()


def test_the_report_adds_up(product: Path, layers: dict[str, np.ndarray]) -> None:
    report = json.loads((product / "report.json").read_text())
    assert report["schema"] == "natmap-report/1"
    for c in LCZ:
        assert report["area_km2"][c.name] == pytest.approx(0.01 * (layers["map"] == c.code).sum())
    assert sum(report["cells_by_reason"].values()) == layers["reason"].size
    assert report["cells_by_reason"]["all_cloud"] == 9000
    wanted = ~np.isin(layers["reason"], (Reason.OUTSIDE_AREA, Reason.OUTSIDE_MASK))
    covered = (layers["map"][wanted] > 0).mean()
    assert report["coverage"] == pytest.approx(covered, abs=1e-6)
    assert report["items"] == ["S2A_1", "S2B_2"]
    assert report["seconds_by_stage"] == {"scores": 12.35}
    assert report["recipe"]["imagery"]["catalog"] == "https://stac.example.org/v1"


def test_no_secret_leaves(product: Path) -> None:
    for path in [*product.glob("*.json"), *product.glob("items/*.json")]:
        text = path.read_text()
        for secret in ("SECRET", "pass@", "me:word"):
            assert secret not in text
    assert public("s3://bucket/a/b") == "s3://bucket/a/b"
    assert public(["/vsicurl/https://u:p@x.org/a?b=c", 3]) == ["/vsicurl/https://x.org/a", 3]


def test_a_tally_is_that_of_numpy(layers: dict[str, np.ndarray]) -> None:
    found = count(LCZ_FORM, BOX, reader(layers))
    wanted = ~np.isin(layers["reason"], (Reason.OUTSIDE_AREA, Reason.OUTSIDE_MASK))
    for name, values in (
        ("map", layers["map"]),
        ("reason", layers["reason"]),
        ("dissent", layers["dissent"][wanted]),
        ("days", layers["observations"][wanted]),
    ):
        codes, counts = np.unique(values, return_counts=True)
        expected = dict(zip(codes.tolist(), counts.tolist(), strict=True))
        assert {c: n for c, n in enumerate(found[name].tolist()) if n} == expected


def test_tallies_do_not_depend_on_the_blocks() -> None:
    """A map of three blocks of 2048 cells, of classes and of continuous values."""
    rng, shape = np.random.default_rng(1), (4100, 3)
    box = GeoBox(shape, BOX.transform, BOX.crs)
    tall = {layer.key: rng.integers(1, 18, shape).astype(layer.dtype) for layer in LCZ_FORM.layers}
    tall["reason"] = np.zeros(shape, np.uint8)
    found = count(LCZ_FORM, box, reader(tall))
    for name, key in (("map", "map"), ("days", "observations"), ("dissent", "dissent")):
        expected = np.bincount(tall[key].ravel(), minlength=len(found[name]))
        np.testing.assert_array_equal(found[name], expected)
    assert found["reason"][Reason.DATA] == tall["reason"].size
    kinds = Layer("map", "", "Heights", "float32", -1.0, "average"), reason_layer("map/reason")
    heights = Form(
        "Heights", "heights", (), kinds, scale=Scale(0.0, 1.0, "m", ("000000", "FFFFFF"))
    )
    tall["map"] = rng.random(shape).astype(np.float32)
    tall["map"][4000:] += 1
    tall["map"][::2] = -1.0
    known = tall["map"][1::2].astype(float)
    found = count(heights, box, reader(tall))
    assert found["known"] == known.size
    assert found["total"] == pytest.approx(known.sum(), rel=1e-12)
    assert (found["low"], found["high"]) == (known.min(), known.max())


def test_the_stac_is_valid_and_says_what_it_came_from(
    product: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a unit test reached for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    collection = pystac.Collection.from_file(str(product / "collection.json"))
    (item,) = collection.get_items()
    raw = json.loads((product / "items" / "toy.json").read_text())
    validator = JsonSchemaSTACValidator()
    for values, kind in (
        (raw, pystac.STACObjectType.ITEM),
        (json.loads((product / "collection.json").read_text()), pystac.STACObjectType.COLLECTION),
    ):
        assert values["stac_version"] == "1.1.0"
        validator.validate_core(values, kind, "1.1.0")
    assert item.get_collection().id == "toy"
    sources = {link.title: link.target for link in item.get_links("derived_from")}
    assert sources == {"S2A_1": "https://example.org/S2A_1.json", "S2B_2": "s3://eodata/S2B_2.json"}
    assert raw["properties"]["proj:code"] == "EPSG:5179"
    assert raw["properties"]["proj:shape"] == list(SHAPE)
    west, south, east, north = raw["bbox"]
    assert 126 < west < 128 < 129 > east
    assert 36 < south < 37 < north < 38
    keys = {layer.key for layer in LCZ_FORM.layers}
    named = {f"{key}-{kind}" for key in keys - {"observations"} for kind in ("metadata", "style")}
    assert set(item.assets) == keys | named | {"preview", "model"}
    hrefs = [a["href"] for a in raw["assets"].values()]
    assert all((product / "items" / href).is_file() for href in hrefs)
    assert not any(href.startswith(("/", "file:")) for href in hrefs)
    assert raw["properties"]["license"] == "CC-BY-4.0"
    assert raw["properties"]["sci:citation"] == "Toy Town (2023): A toy."
    assert "Contains modified Copernicus Sentinel data 2023" in raw["properties"]["attribution"]
    assert collection.license == "CC-BY-4.0"
    assert [p.name for p in collection.providers] == ["Toy Town"]
    for layer in LCZ_FORM.layers:
        asset = item.assets[layer.key]
        path = Path(asset.get_absolute_href())
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        assert asset.extra_fields["file:checksum"] == "1220" + digest
        (band,) = raw["assets"][layer.key]["bands"]
        assert band["data_type"] == layer.dtype
        classes = raw["assets"][layer.key].get("classification:classes", [])
        assert all(re.fullmatch(r"[A-Za-z0-9_-]+", c["name"]) for c in classes)
        assert all(re.fullmatch(r"[0-9A-F]{6}", c.get("color_hint", "000000")) for c in classes)
        if layer.key in ("map", "classes"):
            assert [c["value"] for c in classes if not c.get("nodata")] == list(range(1, 18))


def test_the_model_is_described_as_its_extension_asks(
    tmp_path: Path, product: Path, few: dict[str, np.ndarray]
) -> None:
    mlm = "https://stac-extensions.github.io/mlm/v1.5.2/schema.json"
    item = json.loads((product / "items" / "toy.json").read_text())
    assert mlm in item["stac_extensions"]
    (entry,) = item["properties"]["mlm:input"]
    # Named bands would have to be the item's own, which are its rasters'.
    assert "bands" not in entry
    assert "bands" not in entry["input"]["dim_order"]
    assert entry["description"] == "bands B02, B03"
    assert "mlm:hyperparameters" not in item["properties"]
    models = [a for a in item["assets"].values() if "mlm:model" in a["roles"]]
    assert [m["mlm:artifact_type"] for m in models] == ["safetensors"]
    write_product(tmp_path / "bare", LCZ_FORM, TENTH, reader(few), FACTS)
    item = json.loads((tmp_path / "bare" / "items" / "toy.json").read_text())
    assert mlm not in item["stac_extensions"]


def test_a_crs_without_a_code_is_written_out(tmp_path: Path, few: dict[str, np.ndarray]) -> None:
    own = GeoBox(
        (130, 90), BOX.transform, "+proj=laea +lat_0=36 +lon_0=127.5 +x_0=0 +y_0=0 +units=m"
    )
    write_product(tmp_path / "p", LCZ_FORM, own, reader(few), FACTS)
    properties = json.loads((tmp_path / "p" / "items" / "toy.json").read_text())["properties"]
    assert properties["proj:code"] is None
    assert "Lambert Azimuthal Equal Area" in properties["proj:wkt2"]


def test_rasters_of_which_nothing_changed_are_taken_over(
    tmp_path: Path, few: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "engine.publishing.product.cut_sheets",
        lambda name, box, unit: cut_sheets(name, box, unit, side=10_000.0, most=1000),
    )
    layers = {key: values.copy() for key, values in few.items()}

    def stamp(key: str, rows: slice, cols: slice) -> bytes:
        return layers[key][rows, cols].tobytes()

    def publish(folder: Path, form: Form = LCZ_FORM, **facts: Any) -> dict[str, int]:
        """Writes; gives each raster's place on the disk."""
        found = replace(FACTS, **facts)
        write_product(folder, form, TENTH, reader(layers), found, stamp=stamp)
        return {path.name: path.stat().st_ino for path in folder.glob("*.tif")}

    folder = tmp_path / "p"
    first = publish(folder)
    assert len(first) == 2 * len(LCZ_FORM.layers)
    assert publish(folder) == first
    layers["confidence"][0, 0] ^= 1
    second = publish(folder)
    changed = {name for name in first if second[name] != first[name]}
    assert changed == {"toy_x950y1940-confidence.tif"}
    fresh = tmp_path / "fresh"
    publish(fresh)
    for name in first:
        with rasterio.open(folder / name) as one, rasterio.open(fresh / name) as other:
            np.testing.assert_array_equal(one.read(), other.read())
            assert one.profile == other.profile
    items = [json.loads(path.read_text()) for path in sorted((folder / "items").iterdir())]
    for asset in (asset for item in items for asset in item["assets"].values()):
        if asset["href"].endswith(".tif"):
            digest = hashlib.sha256((folder / "items" / asset["href"]).read_bytes()).hexdigest()
            assert asset["file:checksum"] == "1220" + digest
    # what somebody changed, and what has another licence or form, is written anew
    harmed = folder / min(first)
    harmed.write_bytes(harmed.read_bytes() + b"x")
    third = publish(folder)
    assert {name for name in first if third[name] != second[name]} == {harmed.name}
    another = replace(FACTS.rights, own=Terms("another"))
    assert not set(publish(folder, rights=another).values()) & set(third.values())
    titles = tuple(replace(layer, title=layer.title + "!") for layer in LCZ_FORM.layers)
    fourth = publish(folder)
    assert not set(publish(folder, replace(LCZ_FORM, layers=titles)).values()) & set(
        fourth.values()
    )


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize("exchange", [True, False])
def test_publishing_again_replaces_what_natmap_wrote_and_nothing_else(
    tmp_path: Path,
    few: dict[str, np.ndarray],
    listed: bool,
    exchange: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also a folder of before folders listed their files, and where none can be exchanged."""
    if not exchange:
        monkeypatch.setattr(replacing_module, "exchange", lambda one, other: False)
    folder = tmp_path / "again"
    write_product(folder, LCZ_FORM, TENTH, reader(few), replace(FACTS, name="other"))
    report = json.loads((folder / "report.json").read_text())
    assert "other.tif" in report["contents"]
    if not listed:
        del report["contents"]
        (folder / "report.json").write_text(json.dumps(report))
    (folder / "notes").mkdir()
    (folder / "notes" / "mine.txt").write_text("of a person")
    write_product(folder, LCZ_FORM, TENTH, reader(few), replace(FACTS, version="v2"))
    assert (folder / "notes" / "mine.txt").read_text() == "of a person"
    assert not (folder / "other.tif").exists()
    assert (folder / "toy.tif").exists()
    report = json.loads((folder / "report.json").read_text())
    assert report["release"] == "v2"
    assert not any("mine" in name for name in report["contents"])
    assert [p.name for p in tmp_path.iterdir()] == ["again"]


@pytest.mark.parametrize("when", ["filling", "between"])
def test_a_process_that_died_is_made_up_for(
    tmp_path: Path, few: dict[str, np.ndarray], when: str
) -> None:
    folder = write_product(tmp_path / "p", LCZ_FORM, TENTH, reader(few), FACTS)
    (folder / "mine.txt").write_text("of a person")
    dead = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True
    )
    place = tmp_path / f".p~{socket.gethostname()}~{int(dead.stdout)}~abc"
    shutil.copytree(folder, place)
    if when == "between":
        folder.rename(place.with_name(place.name + "-old"))
    write_product(folder, LCZ_FORM, TENTH, reader(few), replace(FACTS, version="v2"))
    assert (folder / "mine.txt").exists()
    assert json.loads((folder / "report.json").read_text())["release"] == "v2"
    assert [p.name for p in tmp_path.iterdir()] == ["p"]


@pytest.mark.parametrize(
    "report",
    [
        {"schema": 1, "name": "model"},
        {"schema": "natmap-report/1", "name": "model"},
        ["natmap-report/1"],
    ],
)
def test_a_report_alone_is_no_product(
    tmp_path: Path, few: dict[str, np.ndarray], report: object
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "report.json").write_text(json.dumps(report))
    (folder / "card.json").write_text("{}")
    with pytest.raises(PublishError, match="holds something else"):
        write_product(folder, LCZ_FORM, TENTH, reader(few), FACTS)
    assert {p.name for p in folder.iterdir()} == {"report.json", "card.json"}
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_a_failure_leaves_the_old_product(
    tmp_path: Path, product: Path, few: dict[str, np.ndarray]
) -> None:
    folder = tmp_path / "kept"
    shutil.copytree(product, folder)
    before = (folder / "report.json").read_bytes()

    def read(key: str, rows: slice, cols: slice) -> np.ndarray:
        if key == "reason":
            raise OSError(28, "No space left on device")
        return few[key][rows, cols]

    with pytest.raises(PublishError, match="No space left"):
        write_product(folder, LCZ_FORM, TENTH, read, FACTS)
    assert (folder / "report.json").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["kept"]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_another_s_folder_is_left_alone(
    tmp_path: Path, kind: str, layers: dict[str, np.ndarray]
) -> None:
    place = tmp_path / "mine"
    if kind == "file":
        place.write_text("a letter")
    else:
        place.mkdir()
        (place / "letter.txt").write_text("a letter")
    with pytest.raises(PublishError, match="holds something else"):
        write_product(place, LCZ_FORM, BOX, reader(layers), FACTS)
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]


def test_the_preview_shows_the_map(product: Path, layers: dict[str, np.ndarray]) -> None:
    picture = np.array(Image.open(product / "preview.png").convert("RGB"))
    assert 1300 < picture.shape[1] < 1500
    present = set(np.unique(layers["map"])) - {0}
    for c in LCZ:
        colour = [int(c.colour[i : i + 2], 16) for i in (0, 2, 4)]
        drawn = (picture[:, :1040] == colour).all(axis=2).sum()
        # the map is drawn at 1000/1300 of its size
        cells = int((layers["map"] == c.code).sum()) * (1000 / 1300) ** 2
        if c.code in present:
            assert drawn == pytest.approx(cells, rel=0.05)


def test_a_large_map_is_thinned_evenly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[np.ndarray] = []
    monkeypatch.setattr(
        "engine.publishing.product.draw_preview",
        lambda path, classes, metres, legend, **_: seen.extend([classes, np.array(metres)]),
    )
    shape = (4100, 40)
    whole = np.random.default_rng(0).integers(1, 18, shape).astype(np.uint8)
    box = GeoBox.from_bbox((0, -410_000, 4000, 0), "EPSG:5179", resolution=100, tight=True)
    zeros = np.zeros(shape, np.uint16)
    write_product(
        tmp_path / "p",
        LCZ_FORM,
        box,
        lambda key, rows, cols: (whole if key == "map" else zeros.astype(np.uint8))[rows, cols],
        FACTS,
    )
    assert (seen[0] == whole[::3, ::3]).all()
    assert seen[1] == 300


@pytest.mark.parametrize("shape", [(1, 1), (900, 20), (20, 900)])
def test_a_map_of_any_shape_leaves_room_for_the_words(
    tmp_path: Path, shape: tuple[int, int]
) -> None:
    legend = [(c.code, c.label, c.title, c.colour) for c in LCZ]
    path = tmp_path / "p.png"
    preview.draw_preview(
        path,
        np.full(shape, 17, np.uint8),
        100.0,
        legend,
        title="n" * 100,
        subtitle="Local climate zones",
        licence="a licence of many words " * 20,
    )
    picture = np.array(Image.open(path).convert("L"))
    assert picture.shape[1] > 1300
    margin = 30
    assert (picture[:, :margin] == 255).all()
    assert (picture[:, -margin + 5 :] == 255).all()
    assert (picture[-10:] == 255).all()


@pytest.fixture(scope="module")
def green() -> dict[str, np.ndarray]:
    """Green space of 2.6 x 2.1 km: the map, and what follows from it."""
    rng = np.random.default_rng(1)
    percent = np.kron(rng.integers(0, 101, (21, 26)), np.ones((100, 100), int)).astype(np.uint8)
    percent[:300] = 255
    classes = np.where(percent == 255, 255, percent >= 50).astype(np.uint8)
    return {
        "map": classes,
        "probability": percent,
        "reason": np.where(percent == 255, Reason.OUTSIDE_MASK, 0).astype(np.uint8),
        "green": np.where(classes == 255, 255, 100 * classes)[::100, ::100].astype(np.uint8),
    }


def test_green_space_is_a_product_of_its_own(
    tmp_path: Path, green: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.publishing.product._SHARES", 2000)
    corner = (500_000, 4_000_100, 502_600, 4_002_200)
    box = GeoBox.from_bbox(corner, "EPSG:32633", resolution=1, tight=True)
    folder = write_product(tmp_path / "green", UGS_FORM, box, reader(green), FACTS)
    with rasterio.open(folder / "toy.tif") as file:
        assert file.nodata == 255
        assert file.colormap(1)[1][:3] == (0x33, 0xA0, 0x2C)
        np.testing.assert_array_equal(file.read(1), green["map"])
    with rasterio.open(folder / "toy-green-fraction-100m.tif") as file:
        assert file.res == (100.0, 100.0)
        assert tuple(file.bounds) == corner
        np.testing.assert_array_equal(file.read(1), green["green"])
    report = json.loads((folder / "report.json").read_text())
    area = report["area_km2"]
    assert area["green"] == round(float((green["map"] == 1).sum()) / 1e6, 4)
    assert area["not_green"] == round(float((green["map"] == 0).sum()) / 1e6, 4)
    assert report["coverage"] == 1.0
    assert "observations" not in report
    item = json.loads((folder / "items" / "toy.json").read_text())
    assert item["assets"]["green"]["proj:shape"] == [21, 26]
    values = [c["value"] for c in item["assets"]["map"]["classification:classes"]]
    assert values == [0, 1, 255]
    picture = np.array(Image.open(folder / "preview.png").convert("RGB"))
    assert (picture == (0x1F, 0x7A, 0x33)).all(axis=2).sum() > 10_000  # cells of over four fifths


def test_what_one_file_cannot_bear_is_cut_into_sheets(
    tmp_path: Path, green: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    box = GeoBox.from_bbox(
        (500_000, 4_000_100, 502_600, 4_002_200), "EPSG:32633", resolution=1, tight=True
    )
    monkeypatch.setattr(
        "engine.publishing.product.cut_sheets",
        lambda name, box, unit: cut_sheets(name, box, unit, side=1000.0, most=10**6),
    )
    folder = write_product(tmp_path / "green", UGS_FORM, box, reader(green), FACTS)
    sheets = sorted(path.name for path in (folder / "items").iterdir())
    assert len(sheets) == 9  # of 3 x 3 squares of a kilometre, those at the edge cut
    assert {"toy_x500y4002.json", "toy_x502y4000.json"} <= set(sheets)
    for layer in UGS_FORM.layers:  # together they are the whole
        with rasterio.open(folder / f"toy{layer.suffix}.vrt") as file:
            assert tuple(file.bounds) == tuple(box.boundingbox.bbox)
            assert file.nodata == layer.nodata
            np.testing.assert_array_equal(file.read(1), green[layer.key])
    with rasterio.open(folder / "toy_x501y4001.tif") as file:
        assert tuple(file.bounds) == (501_000, 4_001_000, 502_000, 4_002_000)
    collection = pystac.Collection.from_file(str(folder / "collection.json"))
    assert len(list(collection.get_items())) == 9
    assert len(collection.get_links("derived_from")) == 2
    for item in collection.get_items():
        assert not item.get_links("derived_from")
        for name, asset in item.assets.items():
            if name != "preview":
                assert (folder / "items" / asset.href).exists()
