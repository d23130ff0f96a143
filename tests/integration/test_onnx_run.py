"""A country mapped by an ONNX card: the same as by the network itself, in every layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import yaml
from support import shared
from support.onnx_files import exported, small
from support.worlds import SMALL, square_of, synthesize

import engine
from engine.errors import CardError
from engine.infer.predict import Predictor
from engine.models.convert import convert
from engine.models.inputs import prepare_input

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    synthesize(SMALL, folder, tile=160, model="lcz-made-up")
    return folder


def mapped(world: Path, name: str, card: str, tile: int = 160) -> xr.DataTree:
    made = yaml.safe_load(next(world.glob("*.yaml")).read_text())
    recipe: dict[str, Any] = {
        "name": name,
        "product": "lcz",
        "area": {"file": str(square_of(world, 550))},
        "grid": {**made["grid"], "tile": tile, "chunk": 160},
        "imagery": {**made["imagery"], "catalog": str(world / "scenes" / "catalog.json")},
        "cube": {"keep_scenes": False},
        "model": {"card": card, "device": "cpu", "embedding": "float32"},
        "store": str(world / f"{name}-store"),
    }
    assert shared.run(recipe).failed == ()
    return engine.open_store(recipe["store"], decode=False).load()


def test_an_onnx_card_maps_what_its_network_maps_in_every_layout(world: Path) -> None:
    card, path = exported(world)
    told = card.model_dump(include={"bands", "clip", "mean", "std", "fill", "licence"})
    convert(path, world / "onnx", patch=card.patch + 2 * card.context, **told)
    own = mapped(world, "own", "lcz-made-up")
    one = mapped(world, "one", str(world / "onnx"))
    other = mapped(world, "other", str(world / "onnx"), tile=320)
    there = one["map"]["reason"].values == 0
    assert there.sum() > 100
    same = own["map"]["unfiltered"].values[there] == one["map"]["unfiltered"].values[there]
    assert same.mean() >= 0.999
    np.testing.assert_allclose(
        own["scores"]["probability"].values[:, there],
        one["scores"]["probability"].values[:, there],
        atol=1e-4,
    )
    for name in ("map/classes", "map/unfiltered", "scores/probability", "scores/embedding"):
        mine, theirs = one[name], other[name]
        theirs = theirs.reindex_like(mine, fill_value=mine.attrs.get("_FillValue", np.nan))
        np.testing.assert_array_equal(mine.values[..., there], theirs.values[..., there])


def test_an_encoder_cannot_make_a_map_of_classes(world: Path, tmp_path: Path) -> None:
    bands = ("B04", "B03", "B02")
    (tmp_path / "net.onnx").write_bytes(small(classes=0).SerializeToString())
    convert(tmp_path / "net.onnx", tmp_path / "card", bands=bands, classes=(), cell=40.0)
    with pytest.raises(CardError, match="product: embedding"):
        mapped(world, "none", str(tmp_path / "card"))


def test_an_encoder_embeds_the_cells(world: Path, tmp_path: Path) -> None:
    bands = ("B04", "B03", "B02")
    (tmp_path / "net.onnx").write_bytes(small(classes=0).SerializeToString())
    card = convert(tmp_path / "net.onnx", tmp_path / "card", bands=bands, classes=(), cell=40.0)
    made = yaml.safe_load(next(world.glob("*.yaml")).read_text())
    recipe: dict[str, Any] = {
        "name": "encoded",
        "product": "embedding",
        "area": {"file": str(square_of(world, 550))},
        "grid": {**made["grid"], "tile": 160, "chunk": 160},
        "imagery": {**made["imagery"], "catalog": str(world / "scenes" / "catalog.json")},
        "cube": {"keep_scenes": False},
        "model": {"card": str(tmp_path / "card"), "device": "cpu"},
        "vectors": "float32",
        "cell": 80,
        "store": str(world / "encoded-store"),
    }
    assert shared.run(recipe).failed == ()
    tree = engine.open_store(recipe["store"], decode=False).load()
    found = tree["embedding"]["vectors"].values
    row, col = np.argwhere(~np.isnan(found).any(axis=0))[5].tolist()
    names = [str(band) for band in tree["composite"]["band"].values]
    here = np.s_[row * 8 : row * 8 + 8, col * 8 : col * 8 + 8]
    patch = tree["composite"]["bands"].values[[names.index(band) for band in bands]][:, *here]
    seen = tree["composite"]["observations"].values[here] > 0
    batch = prepare_input(patch, seen, card)[None]
    np.testing.assert_allclose(found[:, row, col], Predictor(card, "cpu")(batch)[1][0], atol=1e-5)
