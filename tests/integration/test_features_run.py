"""Features of the ground in a run: kept, learnt from, mapped with, and beside an embedding."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import xarray as xr
import yaml
from affine import Affine
from safetensors.torch import load_file
from support import shared
from support.ground import write_raster
from support.worlds import SMALL, synthesize

import engine
from engine.datasets.patches import open_patches
from engine.errors import CardError, LabelError, RecipeError
from engine.models.card import load_card
from engine.models.coding import decode_ground

pytestmark = pytest.mark.slow
TEN = ["B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12"]
HEIGHT = ["height.mean", "height.std", "height.max", "height.share", "height.known"]
NONE = ["none.mean", "none.std", "none.max", "none.share", "none.known"]


@pytest.fixture(scope="module")
def country(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A country with heights of 5 m that follow its zones, without its western fifth."""
    folder = tmp_path_factory.mktemp("country")
    synthesize(SMALL, folder, tile=160)
    with rasterio.open(folder / "truth" / "truth-lcz.tif") as file:
        zones, at, crs = file.read(1), file.transform, file.crs.to_wkt()
    rng = np.random.default_rng(1)
    tall = np.kron(np.where(zones <= 10, 31.0 - 3 * zones, 0.0), np.ones((20, 20)))
    heights = (tall * (rng.random(tall.shape) < 0.4) + rng.normal(0, 1, tall.shape)).clip(0)
    heights[:, : heights.shape[1] // 5] = -1
    fine = at * Affine.scale(1 / 20)
    write_raster(folder / "h.tif", heights.astype(np.float32), fine, crs, nodata=-1)
    write_raster(
        folder / "far.tif", np.ones((4, 4), np.float32), Affine(5, 0, 9e5, 0, -5, 9e5), crs
    )
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    recipe.pop("model", None)
    recipe["features"] = [
        {"name": "height", "kind": "heights", "path": "h.tif", "year": 2022, "above": 2,
         "licence": "CC-BY-4.0", "attribution": "Those who measured"},
        {"name": "none", "kind": "heights", "path": "far.tif", "year": 2022},
    ]  # fmt: skip
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert not shared.run(folder / "recipe.yaml", until="composite").failed
    return folder


def recipe_of(country: Path, **changes: Any) -> dict[str, Any]:
    found = yaml.safe_load((country / "recipe.yaml").read_text()) | changes
    return {key: value for key, value in found.items() if value is not None}


def train(country: Path, name: str, bands: list[str], **model: Any) -> Any:
    told = {
        "name": name,
        "labels": [{"recipe": "recipe.yaml", "raster": "truth/truth-lcz.tif"}],
        "patches": f"{name}-patches",
        "context": 0,
        "split": {"by": "block", "side": 800, "shares": [0.6, 0.2, 0.2]},
        "model": {"bands": bands, **model},
        "training": {"epochs": 1, "batch": 32, "draws": 64},
        "out": name,
    }
    return engine.train(told, base=country)


def scores_of(country: Path, card: str, tile: int) -> xr.DataArray:
    grid = recipe_of(country)["grid"] | {"tile": tile}
    store = f"{card}-{tile}"
    told = recipe_of(country, model={"card": card}, grid=grid, store=store)
    assert not shared.run(told, base=country).failed
    return engine.open_store(country / store, decode=False)["scores"]["probability"].load()


def test_features_are_kept_learnt_from_and_mapped_with(country: Path) -> None:
    recipe = recipe_of(country)
    group = engine.open_store(country / recipe["store"], decode=False)["features"].load()
    stored = group["bands"]
    assert list(stored["band"].values) == HEIGHT + NONE
    with rasterio.open(country / "h.tif") as file:
        heights, at = file.read(1), file.transform
    left = round((float(group["x"][0]) - 5 - at.c) / 5)
    top = round((at.f - float(group["y"][0]) - 5) / 5)
    rows, cols = np.indices(stored.shape[1:])
    seen = 0
    rng = np.random.default_rng(0)
    written = np.argwhere(stored.sel(band="height.known").values > 0)
    for row, col in written[rng.permutation(len(written))[:400]]:
        i, j = top + 2 * row, left + 2 * col
        inside = 0 <= i < heights.shape[0] - 1 and 0 <= j < heights.shape[1] - 1
        part = heights[i : i + 2, j : j + 2] if inside else np.full((2, 2), -1.0)
        known = decode_ground(stored.sel(band="height.known").values[row, col], 0.0, 1.0)
        assert known == pytest.approx((part >= 0).mean(), abs=1e-4)
        for name, value in (("mean", part.mean()), ("max", part.max())):
            found = decode_ground(stored.sel(band=f"height.{name}").values[row, col], 0.0, 655.34)
            assert np.isnan(found) if (part < 0).all() else found == pytest.approx(value, abs=6e-3)
        seen += (part >= 0).all()
    assert seen > 100
    assert rows.size == cols.size

    train(country, "plain", TEN + HEIGHT, architecture="forest", parameters={"trees": 8})
    train(country, "masked", TEN + HEIGHT + NONE, architecture="forest", parameters={"trees": 8})
    asked = load_file(country / "plain" / "plain.safetensors")["feature"]
    assert (asked >= 28).any()  # the heights are looked at
    card = load_card(country / "masked")
    assert card.ranges["height.std"] == (0.0, 655.34 / 2)
    assert open_patches(country / "masked-patches").ranges == card.ranges
    # an unknown feature is a dropped one, and tiles leave no trace
    one, other = scores_of(country, "plain", 160), scores_of(country, "masked", 320)
    other = other.reindex_like(one)
    inside = np.isfinite(one.values)
    assert inside.sum() > 1000
    np.testing.assert_array_equal(np.isfinite(other.values), inside)
    np.testing.assert_array_equal(other.values[inside], one.values[inside])


def test_a_network_learns_from_a_height(country: Path) -> None:
    small = {"branch": 4, "blocks": [8, 8, 8, 16, 16], "dense": 16}
    train(country, "net", TEN + HEIGHT[:1] + HEIGHT[-1:], architecture="mscnn", parameters=small)
    card = load_card(country / "net")
    assert card.imagery == tuple(TEN)
    assert card.std is not None
    assert card.std[10] > 1  # metres
    card.check_cube(tuple(TEN), 10.0, {b: card.ranges[b] for b in (HEIGHT[0], HEIGHT[-1])})


def test_a_segmenter_learns_from_a_height(country: Path) -> None:
    with rasterio.open(country / "truth" / "truth-lcz.tif") as file:
        codes = np.where(file.read(1) <= 10, 1, 2).astype(np.uint8)
        write_raster(country / "labels.tif", codes, file.transform, file.crs.to_wkt())
    bands = ["B02", "B08", "height.max", "height.known"]
    told = {
        "name": "pixels",
        "product": "cover",
        "classes": [
            {"code": 1, "name": "built", "colour": "FF0000"},
            {"code": 2, "name": "open", "colour": "00FF00"},
        ],
        "labels": [{"recipe": "recipe.yaml", "raster": "labels.tif"}],
        "chips": "chips",
        "side": 32,
        "split": {"by": "block", "side": 640, "shares": [0.6, 0.2, 0.2]},
        "model": {"architecture": "unet", "parameters": {"width": 4}, "bands": bands, "overlap": 8},
        "training": {"epochs": 1, "batch": 8},
        "out": "pixels",
    }
    card = engine.train(told, base=country).card
    assert set(card.ranges) == set(bands[2:])
    assert card.std is not None
    assert card.std[2] > 1  # metres
    with pytest.raises(RecipeError, match=r"add height\.known"):
        engine.train({**told, "model": {"bands": bands[:3]}}, base=country)
    wanted = recipe_of(
        country, product="cover", model={"card": "pixels"}, store="cover", filter=None, mask=None
    )
    assert not shared.run(wanted, base=country).failed
    classes = engine.open_store(country / "cover", decode=False)["map"]["classes"]
    assert (classes.values > 0).sum() > 10_000


def test_features_beside_an_embedding(country: Path) -> None:
    told = recipe_of(
        country,
        name="vectors",
        product="embedding",
        store="vectors",
        publish="vectors-product",
        filter=None,
        mask=None,
        vectors="float32",
    )
    told["grid"] |= {"tile": 160}
    assert not shared.run(told, base=country).failed
    group = engine.open_store(country / "vectors", decode=False)["embedding"].load()
    vectors = group["vectors"]
    assert list(vectors["feature"].values[-10:]) == HEIGHT + NONE
    with rasterio.open(country / "h.tif") as file:
        heights, at = file.read(1), file.transform
    whole = np.isfinite(vectors.values).all(0)
    assert whole.any()
    seen = 0
    for row, col in np.argwhere(whole):
        top = round((at.f - float(group["y"][row]) - 160) / 5)
        left = round((float(group["x"][col]) - 160 - at.c) / 5)
        if min(top, left) < 0 or top + 64 > heights.shape[0] or left + 64 > heights.shape[1]:
            continue
        part = heights[top : top + 64, left : left + 64].astype(np.float64)
        some = part >= 0
        found = vectors.values[-10:, row, col]
        wanted = [0.0] * 10
        if some.any():
            inner = part[some]
            wanted[:4] = [inner.mean(), inner.std(), inner.max(), (inner > 2).mean()]
        wanted[4] = some.mean()
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)
        seen += 1
    assert seen > 10
    folder = Path(str(engine.publish(told, base=country)))
    dataset = xr.open_zarr(folder / "vectors-embeddings.zarr", consolidated=False)
    assert dataset["embeddings"].shape[0] == 40
    report = json.loads((folder / "report.json").read_text())
    text = json.dumps(report)
    assert "Those who measured" in text
    assert f"height: h.tif, {(country / 'h.tif').stat().st_size} bytes" in text
    assert str(country) not in text
    assert "covers no part" in text or "cover no part" in text
    assert "height.known" in (folder / "collection.json").read_text() + json.dumps(
        json.loads(next(folder.glob("*-embeddings.zarr/zarr.json")).read_text())
    ) + "".join(p.read_text() for p in folder.glob("*.json"))
    assert shared.run(told, base=country).done == 0


def test_what_does_not_go_together_is_refused_before_work(country: Path, tmp_path: Path) -> None:
    if not (country / "plain").exists():
        train(country, "plain", TEN + HEIGHT, architecture="forest")
    bare = recipe_of(country, features=None, model={"card": "plain"}, store="refused")
    with pytest.raises(CardError, match="features that the recipe lacks"):
        engine.plan(bare, base=country)
    other = recipe_of(country, model={"card": "plain"}, store="refused")
    other["features"][0]["range"] = [0, 100]
    with pytest.raises(CardError, match="another range"):
        engine.plan(other, base=country)
    gone = recipe_of(country, store="refused")
    gone["features"][0]["path"] = "nowhere.tif"
    with pytest.raises(RecipeError, match="no such file"):
        engine.plan(gone, base=country)
    with pytest.raises(RecipeError, match=r"add height\.known"):
        train(country, "unmasked", [*TEN, "height.mean"], architecture="forest")
    with pytest.raises(LabelError, match="lacks features"):
        train(country, "strange", [*TEN, "canopy.mean", "canopy.known"], architecture="forest")
    small = recipe_of(country, product="embedding", filter=None, mask=None, vectors="int8")
    with pytest.raises(RecipeError, match="one scale for a vector"):
        engine.plan(small, base=country)
    assert not (country / "refused").exists()
