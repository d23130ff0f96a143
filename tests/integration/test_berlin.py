"""The main job on real input: Berlin, from a folder of images to a published map.

CI maps a corner of the image, `make soak` all of it.
"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pystac
import pytest
import rasterio
import shapely
import torch
import xarray as xr
import yaml
from pyproj import Transformer
from rio_cogeo import cog_validate
from support import shared
from support.straight import Straight, berlin, patches
from typer.testing import CliRunner

from engine.cli.app import app
from engine.errors import NatmapError, WeightsError
from engine.grid import Tile
from engine.models.card import load_card
from engine.models.import_sen2lcz import import_sen2lcz
from engine.models.registry import load_model
from engine.pipeline.embed import embed
from engine.pipeline.prepare import prepare
from engine.pipeline.publish import publish
from engine.pipeline.status import read_status
from engine.pipeline.verbs import run
from engine.products.embedding import embedding_of
from engine.products.registry import load_recipe
from engine.store.view import open_store

pytestmark = pytest.mark.slow
NATMAP = str(Path(sys.executable).with_name("natmap"))
TO_METRES = Transformer.from_crs("EPSG:4326", "EPSG:32633", always_xy=True)


@dataclass(frozen=True)
class Size:
    """A part of the image, and how much of it is mapped."""

    bbox: tuple[float, float, float, float]
    scored: int  # cells whose window lies in the image
    mapped: int  # cells at least
    disc: float  # metres, inside the map


CORNER = Size((13.2945, 52.509, 13.3165, 52.517), 356, 100, 300)
WHOLE = Size((13.295, 52.490, 13.350, 52.524), 32 * 32, 1024, 1200)
Made = tuple[Path, dict[str, Any], Size]


def natmap(*words: str) -> str:
    """What the command prints, in this process: another one imports for three seconds."""
    said = CliRunner().invoke(app, words)
    assert said.exit_code == 0, said.output
    return said.stdout


@pytest.fixture(
    scope="module",
    params=[CORNER, pytest.param(WHOLE, marks=pytest.mark.soak)],
    ids=["corner", "whole"],
)
def made(
    request: pytest.FixtureRequest, data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Made:
    """ingest, plan, run, publish; with the Natural Earth urban areas as mask.

    One tile is run and published first, then all.
    """
    size: Size = request.param
    folder = tmp_path_factory.mktemp("berlin")
    catalog = natmap("ingest", str(data / "sentinel2-berlin"), "--out", str(folder / "stac"))
    import_sen2lcz(data / "weights" / "sen2lcz_so2sat.hdf5", folder / "sen2lcz")
    recipe: dict[str, Any] = {
        "name": "berlin",
        "product": "lcz",
        "area": {"bbox": list(size.bbox)},
        "grid": {"crs": "EPSG:32633", "resolution": 10, "tile": 160, "chunk": 160},
        "imagery": {"catalog": catalog.strip(), "period": "2024-10-01/2024-10-31"},
        "model": {"card": "sen2lcz", "embedding": True},
        "mask": {"boundaries": str(data / "boundaries" / "ne_50m_urban_areas.json")},
        "store": "store",
        "publish": "product",
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    plan = json.loads(natmap("plan", str(folder / "recipe.yaml"), "--json"))
    assert plan["items"] == 1
    west, south, east, north = size.bbox
    grid = prepare(load_recipe(folder / "recipe.yaml"), folder).grid
    x, y = TO_METRES.transform((west + east) / 2, (south + north) / 2)
    left, _, _, top = grid.bounds
    middle = Tile(int((top - y) // 1600), int((x - left) // 1600))
    assert not shared.run(recipe, base=folder, tiles=[str(middle)]).failed
    publish({**recipe, "publish": "part"}, base=folder)
    assert not shared.run(recipe, base=folder).failed
    natmap("publish", str(folder / "recipe.yaml"), "--tag", "v1")
    return folder, recipe, size


def test_scores_equal_a_straight_evaluation(data: Path, made: Made) -> None:
    """On the cells whose window lies in the image, and on the edge, where it is filled with 0."""
    image = berlin(data)
    with rasterio.open(next((data / "sentinel2-berlin").glob("*.tif"))) as file:
        west, north = file.transform.c, file.transform.f
    assert (west % 100, north % 100) != (0, 0)
    scores = open_store(made[0] / "store")["scores"]["probability"].load()
    rows = np.round((north - scores.y.values - 50) / 10).astype(int) - 11
    cols = np.round((scores.x.values - 50 - west) / 10).astype(int) - 11
    net = Straight(data / "weights" / "sen2lcz_so2sat.hdf5")
    pad = 100
    padded = np.pad(image, ((0, 0), (pad, pad), (pad, pad)))
    invalid = np.pad(np.zeros(image.shape[1:]), pad, constant_values=1)
    compared = whole = 0
    for i, r in enumerate(rows):
        inside = [j for j, c in enumerate(cols) if -60 < c < 388 and -60 < r < 388]
        windows = {
            j: np.s_[pad + r : pad + r + 32, pad + cols[j] : pad + cols[j] + 32] for j in inside
        }
        some = [j for j in inside if np.isfinite(scores.values[:, i, j]).all()]
        for j in inside:
            share = invalid[windows[j]].mean()
            if share > 0.2:
                assert j not in some
        if not some:
            continue
        expected = net(patches(padded, [pad + r], [pad + cols[j] for j in some]))
        found = scores.values[:, i, some].T
        assert np.abs(found - expected).max() < 1e-4
        compared += len(some)
        whole += sum(invalid[windows[j]].mean() == 0 for j in some)
    assert whole == made[2].scored
    assert compared > whole


@pytest.mark.soak  # CI: cell by cell as above, and unit/models/test_networks.py has the mean
@pytest.mark.parametrize("made", [WHOLE], indirect=True, ids=["whole"])
def test_mean_confidence_is_the_published_one(made: Made) -> None:
    scores = open_store(made[0] / "store")["scores"]["probability"].max("class").values
    assert np.nanmean(scores) == pytest.approx(0.608, abs=0.01)


def test_the_map_is_filtered_and_all_of_it_is_urban(made: Made) -> None:
    tree = open_store(made[0] / "store")["map"]
    classes, filtered = tree["unfiltered"].values, tree["classes"].values
    inside = tree["reason"].values == 0
    assert inside.sum() > made[2].mapped
    assert (
        (filtered > 0) == inside
    ).all()  # wholly inside one urban polygon: the mask cuts nothing
    assert (classes != filtered)[inside].any()
    assert set(np.unique(tree["reason"].values).tolist()) <= {0, 1, 2, 6, 255}


def test_a_mask_that_cuts_the_city(made: Made) -> None:
    folder, recipe, size = made
    before = open_store(folder / "store", decode=False)["map"].to_dataset().load()
    west, south, east, north = size.bbox
    cx, cy = TO_METRES.transform((west + east) / 2, (south + north) / 2)
    disc = shapely.Point(cx, cy).buffer(size.disc)
    move = Transformer.from_crs("EPSG:32633", "EPSG:4326", always_xy=True)
    ring = shapely.transform(disc, lambda xy: np.column_stack(move.transform(*xy.T)))
    (folder / "disc.geojson").write_text(shapely.to_geojson(ring))
    summary = shared.run({**recipe, "mask": {"boundaries": "disc.geojson"}}, base=folder)
    assert summary.failed == ()
    assert summary.done < 20  # only maps: what they are made from is untouched
    after = open_store(folder / "store", decode=False)["map"].to_dataset().load()
    xx, yy = np.meshgrid(after.x.values, after.y.values)
    inside = np.hypot(xx - cx, yy - cy) < size.disc - 10
    outside = np.hypot(xx - cx, yy - cy) > size.disc + 10
    had = before.classes.values > 0
    assert (had & inside).any()
    assert (had & outside).any()
    assert (after.classes.values[inside] == before.classes.values[inside]).all()
    assert (after.classes.values[outside] == 0).all()
    assert (after.reason.values[outside & had] == 5).all()
    assert (after.unfiltered.values == before.unfiltered.values).all()
    assert (after.confidence.values == before.confidence.values).all()
    shared.run(recipe, base=folder)  # put the first mask back for the tests that follow


def test_the_embedding_is_stored(made: Made) -> None:
    tree = open_store(made[0] / "store")
    features = tree["scores"]["embedding"].values
    assert features.shape[0] == 128
    assert features.dtype == np.float16
    scored = np.isfinite(tree["scores"]["probability"].values).all(axis=0)
    np.testing.assert_array_equal(np.isfinite(features).all(axis=0), scored)
    assert scored.any()


def test_the_city_is_embedded_at_320_m(data: Path, made: Made) -> None:
    """The real image by the published weights, published as Zarr; against a straight evaluation."""
    folder, _, _ = made
    recipe = embedding_of(load_recipe(folder / "recipe.yaml"))
    product = Path(str(embed(recipe, base=folder, cluster=shared.workers())))
    found = xr.open_zarr(
        product / "berlin-embedding-embeddings.zarr", consolidated=False, chunks=None
    )
    vectors = found["embeddings"].values.astype(np.float32)
    assert vectors.shape[0] == found.attrs["geoemb:dimensions"] == 128
    image = berlin(data)
    with rasterio.open(next((data / "sentinel2-berlin").glob("*.tif"))) as file:
        west, north = file.transform.c, file.transform.f
    rows = np.round((north - found.y.values - 160) / 10).astype(int)
    cols = np.round((found.x.values - 160 - west) / 10).astype(int)
    card = load_card(folder / "sen2lcz")
    network, compared = load_model(card), 0
    for i, j in np.argwhere(np.isfinite(vectors).all(axis=0)).tolist():
        r, c = rows[i], cols[j]
        if min(r, c) < 0 or r + 32 > image.shape[1] or c + 32 > image.shape[2]:
            continue
        with torch.inference_mode():
            _, wanted = network(torch.from_numpy(image[None, :, r : r + 32, c : c + 32]).float())
        np.testing.assert_allclose(vectors[:, i, j], wanted.numpy()[0], rtol=2e-3, atol=2e-3)
        compared += 1
    assert compared >= 4


def test_a_second_run_does_nothing(made: Made) -> None:
    plan = json.loads(natmap("plan", str(made[0] / "recipe.yaml"), "--json"))
    assert all(not stage["stale"] and not stage["waiting"] for stage in plan["stages"])
    counts = json.loads(natmap("status", str(made[0] / "store"), "--json"))
    assert all(c["failed"] == c["blocked"] == 0 for c in counts["stages"].values())
    assert counts["releases"] == ["v1"]


def test_the_product_folder(made: Made) -> None:
    folder = made[0] / "product"
    for suffix in ("", "-classes", "-confidence", "-observations", "-dissent", "-reason"):
        valid, errors, warnings = cog_validate(folder / f"berlin{suffix}.tif")
        assert valid, (suffix, errors, warnings)
    with rasterio.open(folder / "berlin.tif") as file:
        values, box = file.read(1), file.bounds
        assert file.nodata == 0
        assert file.colormap(1)[2][:3] == (0xD1, 0, 0)
        assert file.res == (100, 100)
        assert box.left % 100 == box.top % 100 == 0
    tree = open_store(made[0] / "store")["map"].to_dataset()
    cut = tree.classes.sel(x=slice(box.left, box.right), y=slice(box.top, box.bottom)).values
    with rasterio.open(folder / "berlin-reason.tif") as file:
        reason = file.read(1)
    assert (values == np.where(reason == 0, cut, 0)).all()
    assert ((values > 0) == (reason == 0)).all()
    report = json.loads((folder / "report.json").read_text())
    assert report["schema"] == "natmap-report/1"
    assert sum(report["area_km2"].values()) == pytest.approx((values > 0).sum() / 100, abs=1e-3)
    collection = pystac.Collection.from_file(str(folder / "collection.json"))
    [item] = list(collection.get_items())
    rasters = {"map", "classes", "confidence", "observations", "dissent", "reason"}
    sides = {f"{n}-{side}" for n in rasters - {"observations"} for side in ("metadata", "style")}
    assert set(item.assets) == rasters | sides | {"preview", "model"}
    assert any("mlm" in extension for extension in item.stac_extensions)
    assert [link for link in item.links if link.rel == "derived_from"]
    assert item.properties["proj:code"] == "EPSG:32633"
    assert (folder / "preview.png").stat().st_size > 10_000


@pytest.mark.soak
@pytest.mark.parametrize("made", [WHOLE], indirect=True, ids=["whole"])
@pytest.mark.parametrize("tile", [320, 480])
def test_the_map_does_not_depend_on_the_tile(made: Made, tmp_path: Path, tile: int) -> None:
    folder, recipe, _ = made
    wanted = {
        **recipe,
        "grid": {**recipe["grid"], "tile": tile},
        "store": str(tmp_path / "store"),
        "model": {"card": "sen2lcz"},
    }
    assert shared.run(wanted, base=folder).failed == ()
    ours, theirs = (
        open_store(path / "store", decode=False)["map"].to_dataset().load()
        for path in (tmp_path, folder)
    )
    x = np.intersect1d(ours.x, theirs.x)
    y = np.intersect1d(ours.y, theirs.y)[::-1]
    ours, theirs = ours.sel(x=x, y=y), theirs.sel(x=x, y=y)
    assert ours.sizes["x"] >= 32
    computed = (ours.reason.values != 255) & (theirs.reason.values != 255)
    for name in ("classes", "unfiltered", "confidence", "reason"):
        inside = computed & (ours.reason.values != 1)
        assert (ours[name].values == theirs[name].values)[inside].all()
    scores = [
        open_store(path / "store")["scores"]["probability"].sel(x=x, y=y).values
        for path in (tmp_path, folder)
    ]
    inside = computed & (ours.reason.values != 1)
    assert np.array_equal(scores[0][:, inside], scores[1][:, inside], equal_nan=True)


def test_a_map_that_is_not_finished_is_published_as_such(made: Made) -> None:
    """Cells of tiles that were not made say so; what lies outside the area is that first."""
    with rasterio.open(made[0] / "product" / "berlin-reason.tif") as file:
        whole = file.read(1)
    with rasterio.open(made[0] / "part" / "berlin-reason.tif") as file:
        part = file.read(1)
    assert ((part == 1) == (whole == 1)).all()
    assert (part == 255).any()
    assert (part == 0).any()
    assert (whole[part == 0] == 0).all()


def counts(store: Path) -> int:
    """Committed tiles of all stages; 0 while there is no store."""
    try:
        return sum(stage["done"] for stage in read_status(store)["stages"].values())
    except NatmapError:
        return 0


@pytest.mark.parametrize("victim", ["driver", pytest.param("worker", marks=pytest.mark.soak)])
def test_killed_in_the_middle_of_natmap_run(made: Made, tmp_path: Path, victim: str) -> None:
    """kill -9 after the first commits; the same command again gives the very same product."""
    folder, recipe, _ = made
    wanted = {
        **recipe,
        "store": str(tmp_path / "store"),
    }
    path = folder / f"{victim}.yaml"
    path.write_text(yaml.safe_dump(wanted))
    whole = counts(folder / "store")
    moment = random.Random(victim).randrange(5, whole // 2)
    with (tmp_path / "log").open("w") as log:
        first = subprocess.Popen([NATMAP, "run", str(path), "--workers", "2"], stdout=log)
        until = time.monotonic() + 300
        while first.poll() is None and time.monotonic() < until:
            if counts(tmp_path / "store") >= moment:
                break
            time.sleep(0.2)
        family = psutil.Process(first.pid).children(recursive=True)
        if victim == "driver":
            first.kill()
            for process in family:  # orphans would die by themselves, in some seconds
                if process.is_running():
                    process.kill()
            assert first.wait() == -9
        else:
            workers = [p for p in family if "spawn_main" in " ".join(p.cmdline())]
            workers[0].kill()
            assert first.wait() == 0
    before = counts(tmp_path / "store")
    assert (0 < before < whole) if victim == "driver" else before == whole
    plan = json.loads(natmap("plan", str(path), "--json"))
    missing = [sum(stage["stale"].values()) + stage["waiting"] for stage in plan["stages"]]
    assert sum(missing) == whole - before
    assert not shared.run(wanted, base=folder).failed
    ours, theirs = (open_store(place / "store") for place in (tmp_path, folder))
    for name in ("scores", "map", "composite"):
        assert ours[name].to_dataset().equals(theirs[name].to_dataset()), name


def test_weights_that_are_not_the_card_s_are_refused_before_work(
    made: Made, tmp_path: Path
) -> None:
    folder, recipe, _ = made
    shutil.copytree(folder / "sen2lcz", tmp_path / "bent")
    path = tmp_path / "bent" / "sen2lcz.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    wanted = {
        **recipe,
        "model": {"card": str(tmp_path / "bent")},
        "store": str(tmp_path / "store"),
    }
    with pytest.raises(WeightsError, match="not those of the card"):
        run(wanted, base=folder)
    assert not (tmp_path / "store").exists()
