"""Embeddings: one vector for each cell, whatever the layout; published by two conventions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pystac
import pytest
import rasterio
import torch
import xarray as xr
import yaml
from pystac.validation.stac_validator import JsonSchemaSTACValidator
from referencing import Registry
from referencing.jsonschema import DRAFT7
from rio_cogeo.cogeo import cog_validate
from support import shared
from support.worlds import SMALL, square_of, synthesize
from typer.testing import CliRunner

import engine
from engine.cli.app import app
from engine.errors import CardError, RecipeError
from engine.infer.vectors import decode_vectors
from engine.models.card import find_card, load_card
from engine.models.inputs import prepare_input
from engine.models.registry import load_model
from engine.products.embedding import embedding_of

pytestmark = pytest.mark.slow

SCHEMAS = Path(__file__).parents[1] / "schemas"
BANDS = ["B02", "B03", "B04", "B08"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    synthesize(SMALL, folder, tile=160, model="lcz-made-up")
    return folder


def recipe(world: Path, name: str, tile: int = 160, **more: Any) -> dict[str, Any]:
    made = yaml.safe_load(next(world.glob("*.yaml")).read_text())
    imagery = {**made["imagery"], "catalog": str(world / "scenes" / "catalog.json")}
    if "model" not in more:
        imagery["bands"] = BANDS
    return {
        "name": name,
        "product": "embedding",
        "area": {"file": str(square_of(world, 640))},
        "grid": {**made["grid"], "tile": tile, "chunk": 160},
        "imagery": imagery,
        "cube": {"keep_scenes": False},
        "store": str(world / f"{name}-store"),
        "publish": str(world / name),
        **more,
    }


def stored(recipe: dict[str, Any]) -> xr.DataTree:
    return engine.open_store(recipe["store"], decode=False).load()


def vectors_of(tree: xr.DataTree) -> np.ndarray:
    group = tree["embedding"]
    scale = group["vectors_scale"].values if "vectors_scale" in group else None
    return decode_vectors(group["vectors"].values, scale)


@pytest.fixture(scope="module")
def net(world: Path) -> dict[str, Any]:
    """Vectors of the shipped network, in int8; published."""
    found = recipe(world, "net", model={"card": "lcz-made-up"}, vectors="int8")
    assert shared.run(found).failed == ()
    engine.publish(found)
    return found


def test_a_patch_network_is_evaluated_at_the_centres_of_the_cells(net: dict[str, Any]) -> None:
    tree = stored(net)
    card = load_card(find_card("lcz-made-up", Path()))
    names = [str(band) for band in tree["composite"]["band"].values]
    bands = tree["composite"]["bands"].values[[names.index(band) for band in card.bands]]
    seen = tree["composite"]["observations"].values > 0
    found = vectors_of(tree)
    known = ~np.isnan(found).any(axis=0)
    assert 10 < known.sum() < known.size
    network, margin = load_model(card), card.context
    for row, col in np.argwhere(known)[::3].tolist():
        side = 32 + 2 * margin
        top, left = row * 32 - margin, col * 32 - margin
        patch = np.zeros((len(card.bands), side, side), np.uint16)
        valid = np.zeros((side, side), bool)
        rows, cols = (slice(max(at, 0), min(at + side, bands.shape[-1])) for at in (top, left))
        here = np.s_[rows.start - top : rows.stop - top, cols.start - left : cols.stop - left]
        patch[:, *here], valid[here] = bands[:, rows, cols], seen[rows, cols]
        with torch.inference_mode():
            _, wanted = network(torch.from_numpy(prepare_input(patch, valid, card)[None]))
        step = np.abs(wanted.numpy()).max() / 127
        np.testing.assert_allclose(found[:, row, col], wanted.numpy()[0], atol=0.51 * step)


def test_statistics_are_numpys_for_any_tiling_and_after_a_stop(world: Path) -> None:
    one, other = recipe(world, "one"), recipe(world, "other", tile=320)
    some = [str(tile) for tile in ("r0000c0000", "r0001c0001")]
    known = list(engine.plan(one).stages[0].tiles)
    assert set(some) < set(known)
    assert shared.run(one, tiles=some, until="embedding").done
    assert shared.run(one).failed == ()
    assert shared.run(other).failed == ()
    assert shared.run(one).done == 0
    trees = [stored(found) for found in (one, other)]
    for path in ("embedding/vectors", "embedding/reason", "map/departure", "map/reason"):
        mine, theirs = (tree[path] for tree in trees)
        theirs = theirs.reindex_like(mine, fill_value=mine.attrs.get("_FillValue", np.nan))
        inside = trees[0]["map/reason"].values != 1
        np.testing.assert_array_equal(mine.values[..., inside], theirs.values[..., inside])
    for name in ("count", "mean", "spread"):
        np.testing.assert_array_equal(*(tree["pool"][name].values for tree in trees))
    bands = (trees[0]["composite"]["bands"].values.astype(np.float64) - 1000) / 1e4
    seen = trees[0]["composite"]["observations"].values > 0
    found = vectors_of(trees[0])
    known_cells = ~np.isnan(found).any(axis=0)
    assert 10 < known_cells.sum() < known_cells.size
    for row, col in np.argwhere(known_cells).tolist():
        here = np.s_[row * 32 : row * 32 + 32, col * 32 : col * 32 + 32]
        inside = bands[:, *here][:, seen[here]]
        wanted = np.concatenate([inside.mean(1), inside.std(1), inside.max(1)])
        np.testing.assert_array_equal(
            trees[0]["embedding"]["vectors"].values[:, row, col],
            wanted.astype(np.float32).astype(np.float16),
        )
    names = list(trees[0]["embedding"]["feature"].values)
    assert names[:5] == ["B02_mean", "B03_mean", "B04_mean", "B08_mean", "B02_std"]


def test_the_pool_and_the_departure_are_numpys(net: dict[str, Any]) -> None:
    tree = stored(net)
    found = vectors_of(tree).astype(np.float64)
    area = tree["embedding"]["reason"].values == 0
    pool = found[:, area]
    assert tree["pool"]["count"].values == area.sum()
    np.testing.assert_allclose(tree["pool"]["mean"].values, pool.mean(axis=1), rtol=1e-12)
    np.testing.assert_allclose(tree["pool"]["spread"].values, pool.std(axis=1), rtol=1e-9)
    z = (found - pool.mean(1)[:, None, None]) / np.maximum(pool.std(1), 1e-6)[:, None, None]
    wanted = np.sqrt((z**2).mean(axis=0))
    np.testing.assert_allclose(tree["map"]["departure"].values[area], wanted[area], rtol=1e-5)


def test_the_zarr_opens_by_name_and_holds_what_the_cog_holds(net: dict[str, Any]) -> None:
    folder = Path(net["publish"])
    data = xr.open_zarr(folder / "net-embeddings.zarr", consolidated=False, chunks=None)
    vectors = decode_vectors(data["embeddings"].values, data["scales"].values)
    valid, errors, _ = cog_validate(folder / "net-embeddings.tif")
    assert valid, errors
    with rasterio.open(folder / "net-embeddings.tif") as file:
        np.testing.assert_allclose(file.read(), vectors, rtol=1e-6)
        assert file.count == data.attrs["geoemb:dimensions"] == len(data["feature"])
        assert list(file.transform)[:6] == data.attrs["spatial:transform"]
        assert data.attrs["proj:code"] == f"EPSG:{file.crs.to_epsg()}"
        x, y = file.xy(2, 3)
        assert (data.x.values[3], data.y.values[2]) == (x, y)
    tree = stored(net)
    mine = xr.DataArray(
        vectors_of(tree), dims=("feature", "y", "x"), coords=tree["embedding"]["vectors"].coords
    )
    there = mine.sel(y=data.y, x=data.x).values
    outside = tree["map"]["reason"].sel(y=data.y, x=data.x).values != 0
    np.testing.assert_allclose(vectors[:, ~outside], there[:, ~outside], rtol=1e-6)
    assert np.isnan(vectors[:, outside]).all()


def test_the_metadata_keep_both_conventions(net: dict[str, Any]) -> None:
    folder = Path(net["publish"])
    group = json.loads((folder / "net-embeddings.zarr" / "zarr.json").read_text())
    schema = json.loads((SCHEMAS / "geoemb.json").read_text())
    formats = jsonschema.Draft202012Validator.FORMAT_CHECKER
    jsonschema.Draft202012Validator(schema, format_checker=formats).validate(group)
    core = {"definitions": {"link": {"required": ["rel", "href"]}}}
    stubs = [
        (url, DRAFT7.create_resource(core))
        for url in (
            "https://schemas.stacspec.org/v1.0.0/item-spec/json-schema/item.json",
            "https://schemas.stacspec.org/v1.0.0/collection-spec/json-schema/collection.json",
        )
    ]
    registry = Registry().with_resources(stubs)
    emb = jsonschema.Draft7Validator(
        json.loads((SCHEMAS / "emb.json").read_text()), registry=registry
    )
    core_of = JsonSchemaSTACValidator()
    for path, kind in (
        (folder / "collection.json", pystac.STACObjectType.COLLECTION),
        (folder / "items" / "net.json", pystac.STACObjectType.ITEM),
    ):
        document = json.loads(path.read_text())
        emb.validate(document)
        core_of.validate_core(document, kind, "1.1.0")
        for link in document["links"]:
            if link["rel"] == "emb:source-data" and link["href"].startswith("."):
                assert (path.parent / link["href"]).is_file()
    item = json.loads((folder / "items" / "net.json").read_text())
    assert (folder / "items" / item["assets"]["embeddings"]["href"]).is_dir()


def test_scores_and_their_embedding_come_from_one_pass(world: Path) -> None:
    """The same scores as without, and vectors that are the network's own."""
    made = yaml.safe_load(next(world.glob("*.yaml")).read_text())
    made = {
        **made,
        "cube": {"keep_scenes": False},
        "area": {"file": str(square_of(world, 300))},
        "imagery": {**made["imagery"], "catalog": str(world / "scenes" / "catalog.json")},
        "mask": None,
        "publish": None,
    }
    plain, more = (
        {**made, "store": str(world / name), "model": {**made["model"], **model}}
        for name, model in (("plain", {}), ("more", {"embedding": True}))
    )
    for found in (plain, more):
        assert shared.run(found, until="scores").failed == ()
    one, other = stored(plain), stored(more)
    xr.testing.assert_identical(one["scores"]["probability"], other["scores"]["probability"])
    vectors = other["scores"]["embedding"].values
    assert vectors.dtype == np.float16
    known = np.isfinite(vectors).all(axis=0)
    np.testing.assert_array_equal(known, np.isfinite(one["scores"]["probability"]).all("class"))
    assert vectors.shape[0] == load_card(find_card("lcz-made-up", Path())).features


@pytest.mark.parametrize(
    ("more", "kind", "said"),
    [
        ({"cell": 325}, RecipeError, "not a multiple of grid.resolution"),
        ({"cell": 300}, RecipeError, "grid.tile does not fit"),
        ({"mask": {"boundaries": "x.geojson"}}, RecipeError, "not masked"),
        ({"model": {"card": "ugs-made-up"}}, CardError, "network of patches"),
        ({"vectors": "int4"}, RecipeError, "vectors"),
    ],
)
def test_what_cannot_be_embedded_is_refused(
    world: Path, more: dict[str, Any], kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind, match=said):
        engine.plan(recipe(world, "refused", **more))


def test_a_recipe_of_local_climate_zones_is_embedded_by_its_model(
    world: Path, tmp_path: Path
) -> None:
    path = next(world.glob("*.yaml"))
    given = engine.load_recipe(path)
    wanted = embedding_of(given)
    assert (wanted.product, wanted.cell, wanted.vectors) == ("embedding", 320.0, "float16")
    assert (wanted.area, wanted.imagery, wanted.cube) == (given.area, given.imagery, given.cube)
    assert wanted.store == f"{given.store}-embedding"
    with pytest.raises(RecipeError, match="nothing to embed"):
        embedding_of(given.model_copy(update={"model": None}))
    done = CliRunner().invoke(
        app,
        [
            *("embed", str(path), "--cluster", str(shared.settings_of(shared.workers(), tmp_path))),
            *("--set", "model.embedding=int8", "--set", f"area.file={square_of(world, 300)}"),
        ],
    )
    assert done.exit_code == 0, done.output
    folder = Path(done.stdout.strip().splitlines()[-1])
    assert folder.name == f"{Path(given.publish or '').name}-embedding"
    data = xr.open_zarr(
        folder / f"{given.name}-embedding-embeddings.zarr", consolidated=False, chunks=None
    )
    assert data["embeddings"].dtype == np.int8
