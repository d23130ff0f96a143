"""Networks and forests of published vectors: trained and mapped, alike in two tilings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
import yaml
import zarr
from affine import Affine
from pyproj import Transformer
from support import shared
from support.embeddings import attributes, per_pixel, place, south_up, square_root, store

import engine
from engine.errors import CardError, LabelError, ReadError, RecipeError
from engine.models.card import load_card
from engine.models.registry import load_model

pytestmark = pytest.mark.slow

UTM = "EPSG:32633"
WEST, NORTH, SIDE = 499_200.0, 5_801_600.0, 320  # a corner of tiles
TESSERA = [f"T{k:03d}" for k in range(128)]


def kinds() -> np.ndarray:
    """Classes of the ground in blocks of 400 m (y, x)."""
    blocks = np.random.default_rng(0).choice([2, 6, 11, 14], (8, 8))
    return np.kron(blocks, np.ones((40, 40), int)).astype(np.uint8)


def ground(channels: int) -> np.ndarray:
    """Vectors by which the classes can be told apart (channel, y, x), within 1."""
    rng = np.random.default_rng(5)
    middle = rng.uniform(-0.6, 0.6, (18, channels)).astype(np.float32)
    found = np.moveaxis(middle[kinds()], -1, 0)
    return found + rng.normal(0, 0.1, found.shape).astype(np.float32)


def tessera(folder: Path) -> Path:
    """Zarr of TESSERA's form: codes of int8, a scale for each pixel; a lake, a seam and a hole."""
    vectors = ground(128)
    scales = np.abs(vectors).max(0) / 127
    codes = np.rint(vectors / scales).astype(np.int8)
    scales[40:90, 100:170] = np.nan
    scales[300] = np.inf
    scales[200:220, 30:50] = 2.8e32
    attrs = attributes(128, **{"geoemb:quantization": per_pixel("+inf")})
    attrs["geoemb:model"] = "https://example.org/tessera"
    attrs |= place(UTM, (10, 0, WEST, 0, -10, NORTH), (SIDE, SIDE))
    root = zarr.open_group(folder / "t.zarr", mode="w", zarr_format=3)
    root.attrs.update(attrs | {"geoemb:spatial_layout": "utm_zones"})
    dims = ("time", "band", "y", "x")
    store(folder / "t.zarr" / "utm33", codes[None], scales[None].astype(np.float32), attrs, dims)
    years = zarr.open_group(folder / "t.zarr" / "utm33", mode="a")
    array = years.create_array("time", shape=(1,), dtype="int32", dimension_names=("time",))
    array[:] = 2023
    return folder / "t.zarr"


def alphaearth(folder: Path) -> Path:
    """A file of AlphaEarth's form: vectors of length 1 by signed squares, south up; a gap."""
    vectors = ground(64)
    vectors /= np.linalg.norm(vectors, axis=0)
    codes = square_root(vectors)
    codes[:, 200:230, 210:260] = -128
    path = folder / "aef" / "v1" / "annual" / "2023" / "33N" / "x-0000000000-0000000000.tiff"
    south_up(path, codes, UTM, WEST, NORTH)
    return folder / "aef"


SOURCES = {"tessera": tessera, "alphaearth": alphaearth}


@pytest.fixture(scope="module", params=list(SOURCES))
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a source, labels of its ground, and a recipe of a map."""
    folder = tmp_path_factory.mktemp(str(request.param))
    place_ = SOURCES[request.param](folder)
    form = {"height": 32, "width": 32, "count": 1, "dtype": "uint8"}
    with rasterio.open(
        folder / "lcz.tif", "w", driver="GTiff", crs=UTM,
        transform=Affine(100, 0, WEST, 0, -100, NORTH), **form,
    ) as file:  # fmt: skip
        codes = kinds()[5::10, 5::10]
        codes[np.random.default_rng(1).random(codes.shape) > 0.25] = 0
        file.write(codes, 1)
    (folder / "map.yaml").write_text(yaml.safe_dump(recipe(folder, "map", place_)))
    return folder


def recipe(folder: Path, name: str, source: Path, tile: int = 160, **more: Any) -> dict[str, Any]:
    move = Transformer.from_crs(UTM, "EPSG:4326", always_xy=True).transform
    west, south = move(WEST + 100, NORTH - 3000)
    east, north = move(WEST + 3000, NORTH - 100)
    return {
        "name": name,
        "product": "lcz",
        "area": {"bbox": [west, south, east, north]},
        "grid": {"crs": UTM, "resolution": 10, "tile": tile, "chunk": 160},
        "embeddings": {"source": str(source), "year": 2023},
        "filter": {"method": "none"},
        "store": str(folder / f"{name}-store"),
        "publish": str(folder / name),
        **more,
    }


def trained(folder: Path, kind: str, **more: Any) -> Path:
    parameters = {"branch": 2, "blocks": [8, 8, 8, 16, 16], "dense": 16}
    told = {
        "name": kind,
        "labels": [{"recipe": str(folder / "map.yaml"), "raster": str(folder / "lcz.tif")}],
        "patches": str(folder / "patches"),
        "context": 0,
        "split": {"by": "pool", "shares": [0.7, 0.15, 0.15]},
        "model": {"architecture": kind, "parameters": parameters if kind == "mscnn" else {}},
        "training": {"epochs": 2, "batch": 16} if kind == "mscnn" else {},
        "out": str(folder / kind),
    }
    engine.train(told | more)
    return folder / kind


@pytest.mark.parametrize("kind", ["mscnn", "forest"])
def test_trained_and_mapped_alike_in_two_tilings(source: Path, kind: str) -> None:
    folder = trained(source, kind)
    card = load_card(folder)
    channels = TESSERA if (source / "t.zarr").exists() else [f"A{k:02d}" for k in range(64)]
    assert list(card.bands) == channels
    at = source / ("t.zarr" if (source / "t.zarr").exists() else "aef")
    one = recipe(source, f"{kind}-1", at, model={"card": str(folder)})
    other = recipe(source, f"{kind}-2", at, tile=320, model={"card": str(folder)})
    for told in (one, other):
        assert shared.run(told).failed == ()
        assert shared.run(told).done == 0
    mine, theirs = (engine.open_store(told["store"], decode=False).load() for told in (one, other))
    for path in ("scores/probability", "map/classes", "map/confidence", "map/reason"):
        there = theirs[path].reindex_like(mine[path], fill_value=mine[path].attrs.get("_FillValue"))
        inside = ~np.isin(mine["map/reason"].values, (1, 255))
        np.testing.assert_array_equal(
            mine[path].values[..., inside], there.values[..., inside], err_msg=path
        )
    _right(mine, source, card, kind)
    published = Path(str(engine.publish(one)))
    assert not list(published.glob("*observations*"))
    report = json.loads((published / "report.json").read_text())
    assert ("Google" in json.dumps(report["rights"])) == (channels[0] == "A00")


def _right(tree: Any, source: Path, card: Any, kind: str) -> None:
    """Scores are the network's own of patches by numpy; the classes mostly those of the ground."""
    if (source / "t.zarr").exists():
        zone = zarr.open_group(source / "t.zarr" / "utm33", mode="r")
        scales = zone["scales"][0]
        state = np.where(np.isnan(scales), 1, np.where(scales <= 1, 0, 2))
        vectors = zone["embeddings"][0].astype(np.float32) * np.where(state == 0, scales, 0)
    else:
        with rasterio.open(next(source.rglob("*.tiff"))) as file:
            codes = file.read()[:, ::-1].astype(np.float32)
        state = np.where((codes == -128).any(0), 2, 0)
        vectors = np.sign(codes) * (codes / np.float32(127.5)) ** 2
    mean, std = (np.zeros(1), np.ones(1)) if card.mean is None else (card.mean, card.std)
    ready = (vectors - np.float32(mean)[:, None, None]) / np.float32(std)[:, None, None]
    ready = np.where(state == 0, ready, np.float32(card.fill)).astype(np.float32)
    scores, network = tree["scores"]["probability"], load_model(card)
    seen = {"scored": 0, "water": 0, "none": 0}
    right = 0
    for i, y in enumerate(scores.y.values):
        for j, x in enumerate(scores.x.values):
            row, col = round((NORTH - y - 50) / 10), round((x - 50 - WEST) / 10)
            patch = np.s_[row - 11 : row + 21, col - 11 : col + 21]
            reason = tree["map"]["reason"].values[i, j]
            if reason in (1, 255) or row < 11 or col < 11:
                continue
            found, own = scores.values[:, i, j], state[row : row + 10, col : col + 10]
            if (own == 1).mean() >= 0.8:
                assert found[16] == 1 == found.sum()
                seen["water"] += 1
                continue
            if (state[patch] == 0).mean() < 0.8:
                assert np.isnan(found).all()
                assert reason == (2 if (own == 2).any() else 6)
                seen["none"] += 1
                continue
            if (i + j) % 7 == 0:
                with torch.inference_mode():
                    out = network(torch.from_numpy(np.ascontiguousarray(ready[:, *patch])[None]))[0]
                wanted = out.softmax(1) if card.output == "logit" else out
                np.testing.assert_allclose(found, wanted[0].numpy(), atol=2e-4)
            seen["scored"] += 1
            right += int(found.argmax() + 1 == kinds()[row + 5, col + 5])
    assert seen["scored"] > 500
    assert seen["none"] > 5
    assert (seen["water"] > 10) == (source / "t.zarr").exists()
    assert kind == "mscnn" or right / seen["scored"] > 0.6


def test_what_cannot_be_is_said_before_work_starts(source: Path) -> None:
    folder = source / "forest"
    if not folder.exists():
        trained(source, "forest")
    card = {"card": str(folder)}
    at = source / ("t.zarr" if (source / "t.zarr").exists() else "aef")
    scenes = {"catalog": "x", "period": "2023-01-01/2023-02-01"}
    plain = recipe(source, "r", at, model=card)
    with pytest.raises(RecipeError, match="exactly one"):
        engine.plan(plain | {"imagery": scenes})
    with pytest.raises(RecipeError, match="by a model"):
        engine.plan({k: v for k, v in plain.items() if k != "model"})
    with pytest.raises(RecipeError, match="2019"):
        engine.plan(plain | {"embeddings": {"source": str(at), "year": 2019}})
    with pytest.raises(CardError, match="takes reflectance"):
        engine.plan(plain | {"model": {"card": "lcz-made-up"}})
    imagery = {k: v for k, v in plain.items() if k != "embeddings"} | {"imagery": scenes}
    with pytest.raises(CardError, match="takes published vectors"):
        engine.plan(imagery)
    with pytest.raises(RecipeError, match="images"):
        engine.plan(plain | {"images": {"catalog": "x"}})
    with pytest.raises(CardError, match="another resolution"):
        engine.plan(plain | {"grid": {**plain["grid"], "resolution": 20}})
    other = {"model": {"architecture": "forest", "bands": ["B02", "Z01"]}}
    with pytest.raises(LabelError, match="lack channels"):
        trained(source, "forest", **other, out=str(source / "other"), patches=str(source / "p"))


def test_a_source_that_is_not_what_it_says_is_refused(tmp_path: Path) -> None:
    """Another dimension, another CRS, scales that are all infinite."""
    at = tessera(tmp_path)
    zone = zarr.open_group(at / "utm33", mode="a")
    attrs = dict(zone.attrs)
    wrong = recipe(tmp_path, "r", at, model={"card": "lcz-made-up"})
    for key, value in (("geoemb:dimensions", 64), ("proj:code", "EPSG:0")):
        zone.attrs.update(attrs | {key: value})
        with pytest.raises((ReadError, RecipeError)):
            engine.plan(wrong)
    zone.attrs.update(attrs)
    zone["scales"][:] = np.inf
    form = {"height": 32, "width": 32, "count": 1, "dtype": "uint8"}
    with rasterio.open(
        tmp_path / "lcz.tif", "w", driver="GTiff", crs=UTM,
        transform=Affine(100, 0, WEST, 0, -100, NORTH), **form,
    ) as file:  # fmt: skip
        file.write(np.full((32, 32), 2, np.uint8), 1)
    (tmp_path / "map.yaml").write_text(yaml.safe_dump(recipe(tmp_path, "map", at)))
    with pytest.raises(LabelError, match="no patch of map can be cut"):
        trained(tmp_path, "forest")
