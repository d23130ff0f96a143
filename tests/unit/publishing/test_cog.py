"""COGs against rasterio and rio-cogeo, and what a full disk leaves of them."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
from odc.geo.geobox import GeoBox
from rio_cogeo.cogeo import cog_validate

from engine.errors import PublishError
from engine.legend import LCZ
from engine.products.registry import PRODUCTS
from engine.publishing.cog import write_cog
from engine.publishing.forms import Layer

LCZ_FORM = PRODUCTS["lcz"].form
MAP, CONFIDENCE = LCZ_FORM.layers[0], LCZ_FORM.layers[2]


def box(height: int, width: int) -> GeoBox:
    bounds = (950_000, 1_950_000 - 100 * height, 950_000 + 100 * width, 1_950_000)
    return GeoBox.from_bbox(bounds, "EPSG:5179", resolution=100, tight=True)


@pytest.mark.parametrize("layer", LCZ_FORM.layers, ids=lambda layer: layer.key)
@pytest.mark.parametrize("shape", [(3, 5), (1500, 1100)])
def test_a_layer_reads_back(tmp_path: Path, layer: Layer, shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(0, 18, shape).astype(layer.dtype)
    asked: list[slice] = []

    def read(rows: slice) -> np.ndarray:
        asked.append(rows)
        return values[rows]

    path = tmp_path / "a.tif"
    write_cog(path, layer, box(*shape), read, {"licence": "CC BY"})
    assert [p.name for p in tmp_path.iterdir()] == ["a.tif"]
    assert max(rows.stop - rows.start for rows in asked) <= 1024
    valid, errors, warnings = cog_validate(path, strict=True)
    assert (valid, errors, warnings) == (True, [], [])
    with rasterio.open(path) as file:
        assert (file.read(1) == values).all()
        assert file.crs.to_epsg() == 5179
        assert file.transform[:6] == (100, 0, 950_000, 0, -100, 1_950_000)
        assert file.nodata == layer.nodata
        assert file.tags()["licence"] == "CC BY"
        assert file.descriptions == (layer.title,)
        assert bool(file.overviews(1)) == (max(shape) > 512)
        if layer.key == "map":
            table = file.colormap(1)
            for c in LCZ:
                assert "".join(f"{v:02X}" for v in table[c.code][:3]) == c.colour


def test_overviews_vote_on_classes_and_average_confidence(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    values = rng.choice([0, 6, 11], (1024, 1024), p=[0.2, 0.6, 0.2]).astype(np.uint8)
    write_cog(tmp_path / "m.tif", MAP, box(1024, 1024), lambda rows: values[rows], {})
    share = np.where(values == 0, 255, values * 5).astype(np.uint8)
    write_cog(tmp_path / "c.tif", CONFIDENCE, box(1024, 1024), lambda rows: share[rows], {})
    with rasterio.open(tmp_path / "m.tif", overview_level=0) as file:
        small = file.read(1)
    assert set(np.unique(small)) <= {0, 6, 11}
    four = values.reshape(512, 2, 512, 2).transpose(0, 2, 1, 3).reshape(512, 512, 4)
    clear = (four == 6).sum(axis=2) > 2
    assert (small[clear] == 6).all()
    with rasterio.open(tmp_path / "c.tif", overview_level=0) as file:
        small = file.read(1)
    four = share.reshape(512, 2, 512, 2).transpose(0, 2, 1, 3).reshape(512, 512, 4)
    valid = four < 255
    exact = np.where(valid, four, 0).sum(axis=2) / np.maximum(valid.sum(axis=2), 1)
    some = valid.any(axis=2)
    assert (np.abs(small[some] - exact[some]) <= 0.5).all()
    assert (small[~some] == 255).all()


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """No file may grow beyond `size` bytes: GDAL meets it as it meets a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_said_wherever_it_strikes(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 18, (400, 600)).astype(np.uint8)
    write_cog(tmp_path / "whole.tif", MAP, box(400, 600), lambda rows: values[rows], {})
    size = (tmp_path / "whole.tif").stat().st_size
    for room in [*range(100, size, size // 12), size - 1]:
        path = tmp_path / "cut.tif"
        with room_for(room), pytest.raises(PublishError, match="cannot be written"):
            write_cog(path, MAP, box(400, 600), lambda rows: values[rows], {})
        assert [p.name for p in tmp_path.iterdir()] == ["whole.tif"]


def test_a_missing_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(PublishError, match="make room or name another folder"):
        write_cog(
            tmp_path / "no" / "a.tif",
            replace(MAP, colours=None),
            box(3, 3),
            lambda rows: np.zeros((3, 3), np.uint8),
            {},
        )
