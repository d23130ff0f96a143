"""The product folder: what is in it, and that it is whole or not there."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import socket
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

from engine.errors import PublishError
from engine.legend import LCZ, Reason
from engine.publishing import preview
from engine.publishing.product import LAYERS, Facts, write_lcz_product
from engine.publishing.report import Tally, redact

SHAPE = (1300, 900)
BOX = GeoBox.from_bbox(
    (950_000, 1_820_000, 1_040_000, 1_950_000), "EPSG:5179", resolution=100, tight=True
)
FACTS = Facts(
    name="toy",
    period=(date(2023, 3, 1), date(2023, 6, 30)),
    sources=[
        ("S2A_1", "https://user:pass@example.org/S2A_1.json?sig=SECRET&se=2023"),
        ("S2B_2", "s3://eodata/S2B_2.json"),
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
    licence="Contains modified Copernicus Sentinel data [2023]",
    recipe={"imagery": {"catalog": "https://me:word@stac.example.org/v1?token=SECRET"}},
    seconds={"scores": 12.3456},
    notes=("left out https://x.org/a.tif?sig=SECRET, suspect",),
    weights={
        "href": "https://example.org/sen2lcz.safetensors",
        "roles": ["mlm:model"],
        "mlm:artifact_type": "safetensors",
    },
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


def reader(layers: dict[str, np.ndarray]) -> Callable[[str, slice], np.ndarray]:
    return lambda key, rows: layers[key][rows]


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory, layers: dict[str, np.ndarray]) -> Path:
    return write_lcz_product(tmp_path_factory.mktemp("publish") / "toy", BOX, reader(layers), FACTS)


def test_the_folder_holds_what_the_design_lists(
    product: Path, layers: dict[str, np.ndarray]
) -> None:
    rasters = {f"toy{layer.suffix}.tif" for layer in LAYERS}
    assert rasters == {
        "toy.tif",
        "toy-classes.tif",
        "toy-confidence.tif",
        "toy-observations.tif",
        "toy-dissent.tif",
        "toy-reason.tif",
    }
    assert {p.name for p in product.iterdir()} == rasters | {
        "collection.json",
        "items",
        "preview.png",
        "report.json",
    }
    assert [p.name for p in product.parent.iterdir()] == ["toy"]
    for layer in LAYERS:
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
    assert redact("s3://bucket/a/b") == "s3://bucket/a/b"
    assert redact(["/vsicurl/https://u:p@x.org/a?b=c", 3]) == ["/vsicurl/https://x.org/a", 3]


def test_tallies_do_not_depend_on_the_blocks(layers: dict[str, np.ndarray]) -> None:
    tally = Tally()
    for top in range(0, SHAPE[0], 37):
        tally.add(layers["map"][top : top + 37])
    codes, counts = np.unique(layers["map"], return_counts=True)
    assert {c: n for c, n in enumerate(tally.counts) if n} == dict(zip(codes, counts, strict=True))


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
    assert set(item.assets) == {layer.key for layer in LAYERS} | {"preview", "model"}
    for layer in LAYERS:
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
    tmp_path: Path, product: Path, layers: dict[str, np.ndarray]
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
    write_lcz_product(tmp_path / "bare", BOX, reader(layers), replace(FACTS, weights=None))
    item = json.loads((tmp_path / "bare" / "items" / "toy.json").read_text())
    assert mlm not in item["stac_extensions"]


def test_a_crs_without_a_code_is_written_out(tmp_path: Path, layers: dict[str, np.ndarray]) -> None:
    own = GeoBox(
        (1300, 900), BOX.transform, "+proj=laea +lat_0=36 +lon_0=127.5 +x_0=0 +y_0=0 +units=m"
    )
    write_lcz_product(tmp_path / "p", own, reader(layers), FACTS)
    properties = json.loads((tmp_path / "p" / "items" / "toy.json").read_text())["properties"]
    assert properties["proj:code"] is None
    assert "Lambert Azimuthal Equal Area" in properties["proj:wkt2"]


def test_publishing_again_replaces_the_whole(
    tmp_path: Path, product: Path, layers: dict[str, np.ndarray]
) -> None:
    folder = tmp_path / "again"
    shutil.copytree(product, folder)
    (folder / "left-over.txt").write_text("of an older release")
    write_lcz_product(folder, BOX, reader(layers), replace(FACTS, version="v2"))
    assert not (folder / "left-over.txt").exists()
    assert json.loads((folder / "report.json").read_text())["release"] == "v2"
    assert [p.name for p in tmp_path.iterdir()] == ["again"]


def test_a_failure_leaves_the_old_product(
    tmp_path: Path, product: Path, layers: dict[str, np.ndarray]
) -> None:
    folder = tmp_path / "kept"
    shutil.copytree(product, folder)
    before = (folder / "report.json").read_bytes()

    def read(key: str, rows: slice) -> np.ndarray:
        if key == "reason":
            raise OSError(28, "No space left on device")
        return layers[key][rows]

    with pytest.raises(PublishError, match="No space left"):
        write_lcz_product(folder, BOX, read, FACTS)
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
        write_lcz_product(place, BOX, reader(layers), FACTS)
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
    write_lcz_product(
        tmp_path / "p",
        box,
        lambda key, rows: (whole if key == "map" else zeros.astype(np.uint8))[rows],
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
