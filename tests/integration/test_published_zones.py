"""Networks and forests of published vectors: trained and mapped, alike in two tilings."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
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
from support.refusals import refused

import engine
from engine.errors import CardError, LabelError, ReadError, RecipeError
from engine.models.card import load_card
from engine.models.registry import load_model

pytestmark = pytest.mark.slow

UTM = "EPSG:32633"
WEST, NORTH, SIDE = 499_200.0, 5_801_600.0, 160  # a corner of tiles
BLOCK = 8  # cells along an inference block: tiles are of 80 px and more
TESSERA = [f"T{k:03d}" for k in range(128)]
ALPHAEARTH = [f"A{k:02d}" for k in range(64)]

Sources = Callable[[str], Path]


def kinds() -> np.ndarray:
    """Classes of the ground in blocks of 400 m (y, x)."""
    blocks = np.random.default_rng(0).choice([2, 6, 11, 14], (4, 4))
    return np.kron(blocks, np.ones((40, 40), int)).astype(np.uint8)


def ground(channels: int) -> np.ndarray:
    """Vectors by which the classes can be told apart (channel, y, x), within 1."""
    rng = np.random.default_rng(5)
    middle = rng.uniform(-0.6, 0.6, (18, channels)).astype(np.float32)
    found = np.moveaxis(middle[kinds()], -1, 0)
    return found + rng.normal(0, 0.1, found.shape).astype(np.float32)


def tessera(folder: Path, channels: int = 128) -> Path:
    """Zarr of TESSERA's form: codes of int8, a scale for each pixel; a lake, a seam and a hole."""
    vectors = ground(channels)
    scales = np.abs(vectors).max(0) / 127
    codes = np.rint(vectors / scales).astype(np.int8)
    scales[20:60, 60:100] = np.nan
    scales[140] = np.inf
    scales[100:110, 15:25] = 2.8e32
    attrs = attributes(channels, **{"geoemb:quantization": per_pixel("+inf")})
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
    codes[:, 100:115, 105:130] = -128
    path = folder / "aef" / "v1" / "annual" / "2023" / "33N" / "x-0000000000-0000000000.tiff"
    south_up(path, codes, UTM, WEST, NORTH)
    return folder / "aef"


SOURCES: dict[str, Callable[[Path], Path]] = {"tessera": tessera, "alphaearth": alphaearth}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    """Folders with a source, labels of its ground, and a recipe of a map, made when asked for."""

    @cache
    def made(kind: str) -> Path:
        folder = tmp_path_factory.mktemp(kind)
        codes = kinds()[5::10, 5::10]
        codes[np.random.default_rng(1).random(codes.shape) > 0.5] = 0
        labelled(folder, codes)
        told = recipe(folder, "map", SOURCES[kind](folder))
        (folder / "map.yaml").write_text(yaml.safe_dump(told))
        return folder

    return made


def labelled(folder: Path, codes: np.ndarray) -> None:
    form = {"height": 16, "width": 16, "count": 1, "dtype": "uint8"}
    with rasterio.open(
        folder / "lcz.tif", "w", driver="GTiff", crs=UTM,
        transform=Affine(100, 0, WEST, 0, -100, NORTH), **form,
    ) as file:  # fmt: skip
        file.write(codes.astype(np.uint8), 1)


def place_of(folder: Path) -> Path:
    return folder / ("t.zarr" if (folder / "t.zarr").exists() else "aef")


def recipe(folder: Path, name: str, source: Path, tile: int = 80, **more: Any) -> dict[str, Any]:
    move = Transformer.from_crs(UTM, "EPSG:4326", always_xy=True).transform
    west, south = move(WEST + 50, NORTH - 1550)
    east, north = move(WEST + 1550, NORTH - 50)
    return {
        "name": name,
        "product": "lcz",
        "area": {"bbox": [west, south, east, north]},
        "grid": {"crs": UTM, "resolution": 10, "tile": tile, "chunk": 80},
        "embeddings": {"source": str(source), "year": 2023},
        "filter": {"method": "none"},
        "store": str(folder / f"{name}-store"),
        "publish": str(folder / name),
        **more,
    }


PARAMETERS: dict[str, dict[str, Any]] = {
    "mscnn": {"branch": 2, "blocks": [8, 8, 8, 16, 16], "dense": 16},
    "forest": {"trees": 10},
}


def trained(folder: Path, kind: str, **more: Any) -> Path:
    told = {
        "name": kind,
        "labels": [{"recipe": str(folder / "map.yaml"), "raster": str(folder / "lcz.tif")}],
        "patches": str(folder / "patches"),
        "context": 0,
        "split": {"by": "pool", "shares": [0.7, 0.15, 0.15]},
        "model": {
            "architecture": kind, "parameters": PARAMETERS[kind], "inference_block": BLOCK
        },
        "training": {"epochs": 1, "batch": 16} if kind == "mscnn" else {},
        "out": str(folder / kind),
    }  # fmt: skip
    engine.train(told | more)
    return folder / kind


@pytest.mark.parametrize(
    ("kind", "network"),
    [
        ("tessera", "mscnn"),
        ("alphaearth", "forest"),
        pytest.param("tessera", "forest", marks=pytest.mark.soak),
        pytest.param("alphaearth", "mscnn", marks=pytest.mark.soak),
    ],
)
def test_trained_and_mapped_alike_in_two_tilings(sources: Sources, kind: str, network: str) -> None:
    source = sources(kind)
    folder = trained(source, network)
    card = load_card(folder)
    channels = TESSERA if kind == "tessera" else ALPHAEARTH
    assert list(card.bands) == channels
    at = place_of(source)
    one = recipe(source, f"{network}-1", at, model={"card": str(folder)})
    other = recipe(source, f"{network}-2", at, tile=160, model={"card": str(folder)})
    for told in (one, other):
        assert shared.run(told).failed == ()
    assert shared.run(one).done == 0
    mine, theirs = (engine.open_store(told["store"], decode=False).load() for told in (one, other))
    for path in ("scores/probability", "map/classes", "map/confidence", "map/reason"):
        there = theirs[path].reindex_like(mine[path], fill_value=mine[path].attrs.get("_FillValue"))
        inside = ~np.isin(mine["map/reason"].values, (1, 255))
        np.testing.assert_array_equal(
            mine[path].values[..., inside], there.values[..., inside], err_msg=path
        )
    _right(mine, source, card, network)
    published = Path(str(engine.publish(one)))
    assert not list(published.glob("*observations*"))
    report = json.loads((published / "report.json").read_text())
    assert ("Google" in json.dumps(report["rights"])) == (kind == "alphaearth")


def _right(tree: Any, source: Path, card: Any, network: str) -> None:
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
    scores, model = tree["scores"]["probability"], load_model(card)
    seen = {"scored": 0, "compared": 0, "water": 0, "none": 0}
    right = 0
    for i, y in enumerate(scores.y.values):
        for j, x in enumerate(scores.x.values):
            row, col = round((NORTH - y - 50) / 10), round((x - 50 - WEST) / 10)
            patch = np.s_[row - 11 : row + 21, col - 11 : col + 21]
            reason = tree["map"]["reason"].values[i, j]
            if reason in (1, 255) or min(row, col) < 11 or max(row, col) + 21 > SIDE:
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
            if (i + j) % 3 == 0:
                with torch.inference_mode():
                    out = model(torch.from_numpy(np.ascontiguousarray(ready[:, *patch])[None]))[0]
                wanted = out.softmax(1) if card.output == "logit" else out
                np.testing.assert_allclose(found, wanted[0].numpy(), atol=2e-4)
                seen["compared"] += 1
            seen["scored"] += 1
            right += int(found.argmax() + 1 == kinds()[row + 5, col + 5])
    assert seen["scored"] > 90
    assert seen["compared"] > 30
    assert seen["none"] > 5
    assert (seen["water"] > 10) == (source / "t.zarr").exists()
    assert network == "mscnn" or right / seen["scored"] > 0.6


# -- what is refused before work ----------------------------------------------------------------


def planned(told: dict[str, Any]) -> Callable[[], Any]:
    return lambda: engine.plan(told)


@pytest.fixture(scope="module")
def forest(sources: Sources) -> Path:
    """A card of AlphaEarth's vectors."""
    folder = sources("alphaearth") / "forest"
    return folder if folder.exists() else trained(sources("alphaearth"), "forest")


def test_what_does_not_go_together_is_refused(sources: Sources, forest: Path) -> None:
    source = sources("alphaearth")
    at, unwritten = place_of(source), (source / "r-store",)
    scenes = {"catalog": "x", "period": "2023-01-01/2023-02-01"}
    plain = recipe(source, "r", at, model={"card": str(forest)})
    periods = [{"start": "2023-01-01", "end": "2023-02-01"}]
    features = [{"name": "h", "kind": "heights", "path": "h.tif", "year": 2020}]
    for more, said in (
        ({"imagery": scenes}, "give exactly one of imagery, embeddings"),
        ({"images": {"catalog": "x"}}, "images: what is fused with them is made of imagery"),
        (
            {"cube": {"periods": periods}},
            "cube.periods goes with imagery: published embeddings are of one year; leave it out",
        ),
        (
            {"features": features},
            "features: they are bands beside imagery's, not beside published vectors; leave them "
            "out, or give imagery",
        ),
    ):
        text = f"the recipe is wrong\n  recipe: {said}"
        refused(RecipeError, planned(plain | more), text, None, None, None, unwritten=unwritten)
    refused(
        RecipeError,
        planned({k: v for k, v in plain.items() if k != "model"}),
        "published embeddings are mapped by a model",
        "no model",
        "model: {card: ...}, trained on these embeddings",
        "train one first; it cuts its patches from the source itself",
        unwritten=unwritten,
    )
    refused(
        CardError,
        planned(plain | {"model": {"card": "lcz-made-up"}}),
        "model lcz-made-up takes reflectance of scenes, or images",
        "a recipe of published vectors",
        "B02, B03, B04, B05, B06",
        "give imagery in the recipe",
        unwritten=unwritten,
    )
    refused(
        CardError,
        planned({k: v for k, v in plain.items() if k != "embeddings"} | {"imagery": scenes}),
        "model forest takes published vectors",
        "a recipe of reflectance of scenes, or images",
        "A00, A01, A02, A03, A04",
        "give embeddings in the recipe",
        unwritten=unwritten,
    )
    refused(
        CardError,
        planned(plain | {"grid": {**plain["grid"], "resolution": 20}}),
        "model forest was made for another resolution",
        "20 m",
        "10 m",
        "set grid.resolution to 10",
        unwritten=unwritten,
    )


@pytest.mark.parametrize("year", [2019, 2024])
def test_a_year_that_the_source_lacks_is_refused(sources: Sources, forest: Path, year: int) -> None:
    at = place_of(sources("alphaearth"))
    told = recipe(sources("alphaearth"), "r", at, model={"card": str(forest)})
    refused(
        RecipeError,
        planned(told | {"embeddings": {"source": str(at), "year": year}}),
        f"{at} has no such year",
        year,
        "2023",
        "set embeddings.year to one of these",
        unwritten=(sources("alphaearth") / "r-store",),
    )


def test_an_area_elsewhere_is_refused(sources: Sources, forest: Path) -> None:
    at = place_of(sources("alphaearth"))
    told = recipe(sources("alphaearth"), "r", at, model={"card": str(forest)})
    refused(
        RecipeError,
        planned(told | {"area": {"bbox": [14.0, 48.0, 14.02, 48.02]}}),
        f"{at} has no vectors of this area in 2023",
        "an area about 14.010, 48.010 degrees",
        "ground that the source covers",
        "name the source of this area in embeddings.source, or look at area",
    )


def test_vectors_of_another_length_or_name_than_the_card_s_are_refused(
    sources: Sources, forest: Path, tmp_path: Path
) -> None:
    other = place_of(sources("tessera"))
    refused(
        CardError,
        planned(recipe(tmp_path, "r", other, model={"card": str(forest)})),
        "model forest needs bands that the source lacks",
        ", ".join(TESSERA),
        ", ".join(ALPHAEARTH),
        "name another source in embeddings",
        unwritten=(tmp_path / "r-store",),
    )
    # of the same names, half of them
    card = json.loads((forest / "card.json").read_text())
    text = json.dumps(card)
    for k, name in enumerate(ALPHAEARTH):
        text = text.replace(f'"{name}"', f'"T{k + 16:03d}"')
    (tmp_path / "card").mkdir()
    (tmp_path / "card" / "card.json").write_text(text)
    weights = next(forest.glob("*.safetensors"))
    (tmp_path / "card" / weights.name).write_bytes(weights.read_bytes())
    short = tessera(tmp_path, channels=64)
    refused(
        CardError,
        planned(recipe(tmp_path, "r", short, model={"card": str(tmp_path / "card")})),
        "model forest needs bands that the source lacks",
        ", ".join(TESSERA[:64]),
        ", ".join(TESSERA[16:80]),
        "name another source in embeddings",
        unwritten=(tmp_path / "r-store",),
    )
    engine.plan(recipe(tmp_path, "r", other, model={"card": str(tmp_path / "card")}))


ZONE = "utm33 of t.zarr"


@pytest.mark.parametrize(
    ("change", "what", "got", "expected"),
    [
        ({"geoemb:dimensions": 64}, f"{ZONE} is of another dimensions than it says", 128, 64),
        ({"geoemb:dimensions": "128"}, f"{ZONE} is of another dimensions than it says", 128, "128"),
        (
            {"spatial:shape": [160, 161]},
            f"{ZONE} is of another shape than it says",
            [160, 160],
            [160, 161],
        ),
        (
            {"proj:code": "EPSG:0"},
            f"the CRS of {ZONE} is not known",
            "EPSG:0",
            "a code (EPSG:32633), WKT2 or PROJJSON",
        ),
        (
            {"proj:code": "EPSG:32632"},
            f"{ZONE} has the CRS of another place",
            "EPSG:32632",
            "EPSG:32633",
        ),
        (
            {"proj:code": "EPSG:32733"},
            f"{ZONE} has the CRS of another place",
            "EPSG:32733",
            "EPSG:32633",
        ),
        (
            {"proj:code": "EPSG:4326"},
            f"{ZONE} has the CRS of another place",
            "EPSG:4326",
            "EPSG:32633",
        ),
        (
            {"proj:code": ""},
            f"{ZONE} has no CRS",
            None,
            "a code (EPSG:32633), WKT2 or PROJJSON",
        ),
    ],
)
def test_a_zone_of_another_dimension_or_crs_is_refused(
    tmp_path: Path, change: dict[str, Any], what: str, got: Any, expected: Any
) -> None:
    at = tessera(tmp_path, channels=128)
    zone = zarr.open_group(at / "utm33", mode="a")
    zone.attrs.update(dict(zone.attrs) | change)
    told = recipe(tmp_path, "r", at, model={"card": "lcz-made-up"})
    refused(ReadError, planned(told), what, got, expected, None, unwritten=(tmp_path / "r-store",))


def test_scales_that_are_all_infinite_leave_nothing_to_learn_from(tmp_path: Path) -> None:
    at = tessera(tmp_path)
    zarr.open_group(at / "utm33", mode="a")["scales"][:] = np.inf
    labelled(tmp_path, np.full((16, 16), 2))
    (tmp_path / "map.yaml").write_text(yaml.safe_dump(recipe(tmp_path, "map", at)))
    refused(
        LabelError,
        lambda: trained(tmp_path, "forest"),
        "no patch of map can be cut",
        "256 labelled cells, none with enough valid pixels",
        None,
        "label ground where the source has vectors, of the year of embeddings",
        unwritten=(tmp_path / "forest", tmp_path / "patches"),
    )
