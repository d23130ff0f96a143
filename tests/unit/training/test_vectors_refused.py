"""Trainings and embeddings that published vectors, or a cube, cannot serve: refused before work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import yaml
import zarr
from affine import Affine
from pyproj import Transformer
from support.embeddings import attributes, per_pixel, place, put, store
from support.refusals import refused

import engine
from engine.errors import CardError, LabelError, RecipeError
from engine.models.card import load_card

UTM = "EPSG:32633"
WEST, NORTH, SIDE = 500_480.0, 5_800_320.0, 64


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A source of four channels, labels of its ground, and a recipe of a map."""
    rng = np.random.default_rng(3)
    codes = rng.integers(-127, 128, (4, SIDE, SIDE)).astype(np.int8)
    scales = rng.uniform(0.01, 0.1, (SIDE, SIDE)).astype(np.float32)
    attrs = attributes(4, **{"geoemb:quantization": per_pixel()})
    attrs |= place(UTM, (10, 0, WEST, 0, -10, NORTH), (SIDE, SIDE))
    store(tmp_path / "e.zarr", codes, scales, attrs, ("band", "y", "x"))
    with rasterio.open(
        tmp_path / "lcz.tif", "w", driver="GTiff", height=6, width=6, count=1, dtype="uint8",
        crs=UTM, transform=Affine(100, 0, WEST, 0, -100, NORTH),
    ) as file:  # fmt: skip
        file.write(rng.choice([2, 6], (6, 6)).astype(np.uint8), 1)
    move = Transformer.from_crs(UTM, "EPSG:4326", always_xy=True).transform
    west, south = move(WEST + 100, NORTH - 600)
    east, north = move(WEST + 600, NORTH - 100)
    told = {
        "name": "map",
        "product": "lcz",
        "area": {"bbox": [west, south, east, north]},
        "grid": {"crs": UTM, "resolution": 10, "tile": 160, "chunk": 160},
        "embeddings": {"source": "e.zarr", "year": 2023},
        "store": "map-store",
    }
    (tmp_path / "map.yaml").write_text(yaml.safe_dump(told))
    return tmp_path


def training(base: Path, **more: Any) -> Callable[[], Any]:
    told = {
        "name": "x",
        "labels": [{"recipe": "map.yaml", "raster": "lcz.tif"}],
        "patches": "patches",
        "context": 0,
        "split": {"by": "pool"},
        "out": "x",
    }
    return lambda: engine.train(told | more, base=base)


def unwritten(base: Path) -> dict[str, Any]:
    return {"unwritten": tuple(base / name for name in ("x", "patches", "chips", "map-store"))}


@pytest.mark.parametrize("bands", [{}, {"bands": ["E000", "E001"]}])
def test_a_segmenter_of_zones_of_published_vectors(base: Path, bands: dict[str, Any]) -> None:
    refused(
        LabelError,
        training(base, model={"architecture": "unet", **bands}, training={"epochs": 1}),
        "a segmenter of zones learns from composites",
        "labels of published embeddings",
        "a network of patches, or a forest",
        "set model.architecture to mscnn or forest, or label composites",
        **unwritten(base),
    )


def test_a_graph_network_of_published_vectors(base: Path) -> None:
    refused(
        LabelError,
        training(base, model={"architecture": "gcn"}),
        "a graph network looks at instances of 1 m images",
        "labels of published embeddings",
        "labels of recipes with imagery and images",
        "take a network of patches or a forest, or name such recipes under labels",
        **unwritten(base),
    )


def test_chips_of_published_vectors(base: Path) -> None:
    cover = {
        "name": "x",
        "product": "cover",
        "classes": [
            {"code": 2, "name": "built", "colour": "FF0000"},
            {"code": 6, "name": "open", "colour": "00FF00"},
        ],
        "labels": [{"recipe": "map.yaml", "raster": "lcz.tif"}],
        "chips": "chips",
        "side": 32,
        "model": {"architecture": "unet", "bands": ["B02", "B03"]},
        "out": "x",
    }
    refused(
        LabelError,
        lambda: engine.train(cover, base=base),
        "a segmenter learns from composites, or from images of 1 m",
        "map.yaml: published embeddings",
        "a recipe of imagery, whose composite has been made",
        "give imagery in that recipe, in place of embeddings",
        **unwritten(base),
    )


@pytest.mark.parametrize("bands", [{}, {"bands": ["B02", "B03"]}])
@pytest.mark.parametrize("name", ["B02", "height.mean"])
def test_channels_called_as_bands_are(base: Path, bands: dict[str, Any], name: str) -> None:
    """A card with such a name would take reflectance, or a feature."""
    group = zarr.open_group(base / "e.zarr", mode="a")
    put(group, "band", np.arange(4), ("band",), attributes={"names": ["A00", name, "A02", "A03"]})
    refused(
        LabelError,
        training(base, model={"architecture": "forest", **bands}),
        "the published vectors of map are called as bands of imagery are",
        f"A00, {name}, A02, A03",
        "channels with names of their own, as A00",
        None,
        **unwritten(base),
    )


def test_channels_that_the_source_lacks(base: Path) -> None:
    refused(
        LabelError,
        training(base, model={"architecture": "forest", "bands": ["E000", "Z9"]}),
        "the published vectors of map lack channels of the model",
        "E000, E001, E002, E003",
        "E000, Z9",
        None,
        **unwritten(base),
    )


def test_labels_far_from_the_source(base: Path) -> None:
    told = yaml.safe_load((base / "map.yaml").read_text())
    told["area"] = {"bbox": [14.0, 48.0, 14.02, 48.02]}
    (base / "map.yaml").write_text(yaml.safe_dump(told))
    with pytest.raises(RecipeError, match="no vectors of this area in 2023"):
        training(base, model={"architecture": "forest"})()
    assert not (base / "patches").exists()


def test_an_encoder_whose_bands_the_cube_lacks(base: Path) -> None:
    told = yaml.safe_load((base / "map.yaml").read_text())
    del told["embeddings"]
    imagery = {
        "catalog": "earth-search",
        "period": "2023-01-01/2023-02-01",
        "bands": ["B02", "B03"],
    }
    more = {"product": "embedding", "imagery": imagery, "model": {"card": "lcz-made-up"}}
    refused(
        CardError,
        lambda: engine.plan(told | more, base=base),
        "model lcz-made-up needs bands that the cube lacks",
        "B02, B03",
        "B02, B03, B04, B05, B06, B07, B08, B8A, B11, B12",
        "leave imagery.bands out, or add B04, B05, B06, B07, B08, B8A, B11, B12",
        **unwritten(base),
    )


def test_an_encoder_beside_published_vectors(base: Path) -> None:
    told = yaml.safe_load((base / "map.yaml").read_text())
    more = {"product": "embedding", "model": {"card": "lcz-made-up"}}
    with pytest.raises(RecipeError, match="published embeddings are aggregated"):
        engine.plan(told | more, base=base)
    assert not (base / "map-store").exists()


@pytest.mark.filterwarnings("ignore:Using the fractional value max_samples")  # of 12 patches
def test_vectors_of_another_model_with_the_same_names(base: Path) -> None:
    """Channels that a source does not name go by their numbers, whoever made them."""
    training(base, model={"architecture": "forest"})()
    card = load_card(base / "x")
    assert card.encoder == "https://example.org/model"
    told = yaml.safe_load((base / "map.yaml").read_text())
    told |= {
        "model": {"card": str(base / "x")},
        "embeddings": {"source": str(base / "e.zarr"), "year": 2023},
        "store": str(base / "map-store"),
    }
    engine.plan(told)
    root = zarr.open_group(base / "e.zarr", mode="r+")
    root.attrs["geoemb:model"] = "https://example.org/another"
    refused(
        CardError,
        lambda: engine.plan(told),
        "model x has learnt from vectors of another model",
        "https://example.org/another",
        "https://example.org/model",
        "train on vectors of this source, or map those that the model learnt from",
        unwritten=(base / "map-store",),
    )
    del root.attrs["geoemb:model"]
    engine.plan(told)
