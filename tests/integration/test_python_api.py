"""The package in a notebook: a country mapped, opened, averaged, drawn, composed, scored again."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import xarray as xr
import zarr
from support import shared
from support.worlds import PLAIN, scenes_of

import natmap
from engine.cube.clouds import dilation_halo
from engine.models.card import find_card, load_card
from engine.store.repository import Store

pytestmark = pytest.mark.slow

LAYERS = ("bands", "observations", "dissent", "reason")


@pytest.fixture(scope="module")
def country(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the mapped country, with its scenes beside it for a cube of them."""
    folder = shared.mapped(tmp_path_factory.mktemp("python") / "country")
    shutil.copytree(scenes_of(PLAIN) / "scenes", folder / "scenes")
    return folder


@pytest.fixture(scope="module")
def stored(country: Path) -> xr.DataTree:
    """All that the run stored, as it is stored."""
    return natmap.open_store(country / "store", decode=False).load()


SCRIPT = """
import json, sys
import matplotlib
matplotlib.use("Agg")
import matplotlib.pyplot as plt
import natmap

store = natmap.open_store(sys.argv[1], chunks={})
zones = store["map"]["classes"]
known = zones != zones.rio.nodata
km2 = abs(zones.rio.resolution()[0] * zones.rio.resolution()[1]) / 1e6
names = zones.attrs["flag_meanings"].split()
confidence = store["map"]["confidence"].where(known)
dissent = store["map"]["dissent"].where(~store["map"]["reason"].isin([1, 5]))  # wanted cells
cells = confidence.groupby(zones.compute()).count()
means = confidence.groupby(zones.compute()).mean()
zones.plot()
plt.savefig(sys.argv[2] + "/zones.png")
plt.clf()
store["composite"]["bands"].sel(band=["B04", "B03", "B02"]).plot.imshow(robust=True)
plt.savefig(sys.argv[2] + "/composite.png")
zones.rio.to_raster(sys.argv[2] + "/zones.tif")
confidence.rio.reproject("EPSG:4326").rio.to_raster(sys.argv[2] + "/confidence.tif")
print(json.dumps({
    "crs": zones.rio.crs.to_epsg(),
    "area_km2": {names[int(k) - 1]: float(cells.sel(classes=k)) * km2
                 for k in cells["classes"].values if k},
    "confidence": {int(k): float(means.sel(classes=k)) for k in means["classes"].values if k},
    "dissent": [int(dissent.count()), float(dissent.mean())],
    "plain": float(store["map"]["confidence"].mean()),
}))
"""


def test_a_notebook_gives_the_report_s_own_figures(country: Path, tmp_path: Path) -> None:
    (tmp_path / "notebook.py").write_text("import rioxarray\n" + SCRIPT)
    ran = subprocess.run(
        [sys.executable, tmp_path / "notebook.py", country / "store", tmp_path],
        check=True,
        capture_output=True,
        text=True,
    )
    found = json.loads(ran.stdout)
    report = json.loads((country / "product" / "report.json").read_text())
    areas = {name: km2 for name, km2 in report["area_km2"].items() if km2}
    assert len(areas) > 5
    assert found["area_km2"] == pytest.approx(areas)
    wanted = report["observations"]["dissent"]
    assert found["dissent"][0] == wanted["cells"] > 100
    assert found["dissent"][1] == pytest.approx(wanted["mean_percent"], abs=1e-3)
    # and what rasterio reads of the product
    name = report["name"]
    with (
        rasterio.open(country / "product" / f"{name}.tif") as zones,
        rasterio.open(country / "product" / f"{name}-confidence.tif") as confidence,
    ):
        codes, percent = zones.read(1), confidence.read(1, masked=True)
        assert found["crs"] == zones.crs.to_epsg()
        assert found["plain"] == pytest.approx(float(percent.mean()))
        assert found["confidence"] == {
            str(code): pytest.approx(float(percent[codes == code].mean()))
            for code in np.unique(codes[codes > 0])
        }
        with rasterio.open(tmp_path / "zones.tif") as written:
            assert written.nodata == 0
            window = rasterio.windows.from_bounds(*zones.bounds, written.transform)
            np.testing.assert_array_equal(written.read(1, window=window), codes)
    for picture in ("zones.png", "composite.png"):
        assert (tmp_path / picture).stat().st_size > 5000


# -- kernels ---------------------------------------------------------------------------------------


CROP = {"x": slice(173, 503), "y": slice(156, 487)}  # inside of the area, on no lattice of cells


def framed(shape: tuple[int, ...], width: int) -> np.ndarray:
    inner = np.zeros(shape[-2:], bool)
    inner[width:-width, width:-width] = True
    return inner


def computed(stored: xr.DataTree) -> np.ndarray:
    """Pixels of the composite that the run needed."""
    found: np.ndarray = ~np.isin(stored["composite"]["reason"].values, (1, 255))
    assert 0.2 < found.mean() < 0.9
    return found


def same(found: xr.Dataset, wanted: xr.Dataset, where: np.ndarray) -> bool:
    """Whether all layers are equal, types and bits, in some pixels."""
    assert all(found[name].dtype == wanted[name].dtype for name in LAYERS)
    return all(
        np.array_equal(found[name].values[..., where], wanted[name].values[..., where])
        for name in LAYERS
    )


@pytest.mark.parametrize(
    "how",
    [
        pytest.param({"decode": False}, marks=pytest.mark.soak),
        pytest.param({}, marks=pytest.mark.soak),
        {"chunks": {"x": 100, "y": 77}},
    ],
)
def test_a_composite_of_the_run_s_scenes_is_the_store_s(
    country: Path, stored: xr.DataTree, how: dict[str, Any]
) -> None:
    found = natmap.composite(natmap.open_store(country / "store", **how)["scenes"])
    assert found["bands"].chunks is not None  # nothing is read yet
    wanted = stored["composite"].to_dataset()
    assert same(found.load(), wanted, computed(stored))
    assert found.bands.rio.crs == wanted.bands.rio.crs
    assert found.bands.rio.transform() == wanted.bands.rio.transform()
    xr.testing.assert_equal(found.x, wanted.x)
    # the settings reach the kernel
    crop = natmap.open_store(country / "store")["scenes"].isel(**CROP)
    other = natmap.composite(crop, cloud_dilation=0)
    assert not same(other.load(), wanted.isel(**CROP), computed(stored)[CROP["y"], CROP["x"]])


def test_a_composite_of_the_catalogue_s_scenes_is_the_store_s(
    country: Path, stored: xr.DataTree
) -> None:
    wanted = stored["composite"].to_dataset().isel(**CROP)
    there = computed(stored)[CROP["y"], CROP["x"]]
    there &= framed(there.shape, dilation_halo(60.0, 10.0))  # beyond lies what the run saw
    cube = natmap.open_cube(
        country / "scenes" / "catalog.json",
        period="2021-09-01/2021-10-31",
        bands=list(wanted.band.values),
        like=wanted.reason,
        chunk=256,
    )
    days = cube["solar_day"].values
    assert len(days) == 6  # two zones each day: merged as a run merges them
    assert len(np.unique(days)) == 3
    xr.testing.assert_equal(cube.y, wanted.y)
    assert same(natmap.composite(cube).load(), wanted, there)
    # the order of items is not that of the cube
    turned = natmap.composite(cube.isel(time=[5, 2, 0, 1, 4, 3]))
    assert same(turned.load(), wanted, there)


def test_along_a_crop_s_edge_a_frame_differs_as_wide_as_is_said(
    country: Path, stored: xr.DataTree
) -> None:
    crop = {"x": slice(37, 590), "y": slice(53, 611)}  # a cloud stands across its edge
    wanted = stored["composite"].to_dataset().isel(**crop)
    found = natmap.composite(natmap.open_store(country / "store")["scenes"].isel(**crop)).load()
    there = ~np.isin(wanted["reason"].values, (1, 255))
    frame = dilation_halo(60.0, 10.0)
    assert same(found, wanted, there & framed(there.shape, frame))
    assert not same(found, wanted, there)


@pytest.mark.parametrize(
    "kind",
    [
        "decoded",
        "scenes",
        *(pytest.param(kind, marks=pytest.mark.soak) for kind in ("stored", "bands")),
    ],
)
def test_scores_of_the_run_s_composite_are_the_store_s(
    country: Path, stored: xr.DataTree, kind: str
) -> None:
    cube: Any = {
        "stored": stored["composite"],
        "decoded": natmap.open_store(country / "store")["composite"],
        "bands": stored["composite"]["bands"],
        "scenes": natmap.open_store(country / "store", chunks={})["scenes"],
    }[kind]
    found = natmap.score(cube, "lcz-made-up")
    assert found["scores"].chunks is not None
    found = found.load()
    wanted, zones = stored["scores"]["probability"], stored["map"]
    there = np.isfinite(wanted.values).all(axis=0)
    assert there.sum() > 1000
    np.testing.assert_array_equal(found.scores.values[:, there], wanted.values[:, there])
    area = zones["reason"].values != 1
    for name in ("classes", "confidence"):
        stored_as = {"classes": "unfiltered"}.get(name, name)
        np.testing.assert_array_equal(found[name].values[area], zones[stored_as].values[area])
    xr.testing.assert_equal(found.y, wanted.y)
    assert found.classes.rio.transform() == wanted.rio.transform()
    assert found.classes.rio.nodata == 0


def test_scores_of_a_crop_lie_on_the_run_s_cells(stored: xr.DataTree) -> None:
    card = load_card(find_card("lcz-made-up", Path()))
    found = natmap.score(stored["composite"].to_dataset().isel(**CROP), card).load()
    wanted = stored["scores"]["probability"].sel(x=found.x, y=found.y).values
    there = np.isfinite(wanted).all(axis=0)
    inner = framed(wanted.shape, -(-card.halo // card.step)) & there
    assert inner.sum() > 500
    np.testing.assert_array_equal(found.scores.values[:, inner], wanted[:, inner])
    assert not np.array_equal(found.scores.values[:, there], wanted[:, there])


# -- stores of before ------------------------------------------------------------------------------


def test_a_store_that_declares_nothing_is_opened_as_well_and_run_on(
    country: Path, tmp_path: Path
) -> None:
    shutil.copytree(country / "store", tmp_path / "store")
    for path in country.glob("store.*"):
        shutil.copy(path, tmp_path)
    old = Store.open(tmp_path / "store")
    with old.lock():
        session = old.writer()
        root: Any = zarr.open_group(session.store, mode="r+")
        for path in old.identity["arrays"]:
            if path not in ("composite/bands", "scenes/bands"):  # theirs was always declared
                root[path].attrs.pop("_FillValue", None)
        session.commit("as it was")
    for how in ({}, {"decode": False}):
        one, other = (natmap.open_store(p / "store", **how) for p in (country, tmp_path))
        for group in ("scenes", "composite", "scores", "map"):
            xr.testing.assert_identical(one[group].to_dataset(), other[group].to_dataset())
            for name, values in one[group].data_vars.items():
                assert values.rio.encoded_nodata == other[group][name].rio.encoded_nodata
    recipe = {**natmap.load_recipe(country / "recipe.yaml").model_dump(mode="json")}
    recipe["store"] = str(tmp_path / "store")
    plan = natmap.plan(recipe, base=country)
    assert not any(stage.stale for stage in plan.stages)
    assert shared.run(recipe, base=country).done == 0
    # what is published again takes over the rasters that did not change
    product = tmp_path / "product"
    recipe["publish"] = str(product)
    first = published(recipe, country, product)
    assert published(recipe, country, product) == first
    changed = recipe | {"filter": {"method": "none"}}
    assert shared.run(changed, base=country).done > 5
    assert not set(published(changed, country, product).values()) & set(first.values())


def published(recipe: dict[str, Any], base: Path, product: Path) -> dict[str, int]:
    """Publish; gives each raster's place on the disk."""
    natmap.publish(recipe, base=base)
    return {path.name: path.stat().st_ino for path in product.glob("*.tif")}


# -- verbs -----------------------------------------------------------------------------------------


def test_the_package_does_what_the_command_does(country: Path, tmp_path: Path) -> None:
    truth = country / "truth" / "truth-lcz.tif"
    natmap.sample(country / "product", tmp_path / "look", least=3, standard_error=0.05)
    path = tmp_path / "look" / "sample.geojson"
    cells = json.loads(path.read_text())
    for feature in cells["features"]:
        feature["properties"]["lcz"] = "8"
    path.write_text(json.dumps(cells))
    for reference in (truth, tmp_path / "look"):
        found = natmap.evaluate(country / "product", reference).figures
        ran = subprocess.run(
            [Path(sys.executable).with_name("natmap"), "evaluate", country / "product", reference,
             "--json"], check=True, capture_output=True, text=True,
        )  # fmt: skip
        said = json.loads(ran.stdout)
        assert {"cells", "oa"} <= found.keys()
        for name, value in found.items():
            if said[name] is None:
                assert np.isnan(value), name
            else:
                assert value == pytest.approx(said[name], abs=1e-4), name
    assert natmap.status(country / "store")["stages"]["map"]["done"] > 5
    assert natmap.areas(country / "truth" / "training-areas.geojson", tmp_path / "a.html")[0] > 3
    assert all(finding.name for finding in natmap.doctor(str(country / "store")))


def test_results_show_themselves(country: Path) -> None:
    plan = natmap.plan(country / "recipe.yaml", rates=country / "store")
    assert len(repr(plan)) < 300
    assert f"{plan.tiles} tiles, 6 scenes of 3 days" in repr(plan)
    shown = plan._repr_html_()
    assert all(f'<td style="text-align: left">{s.name}</td>' in shown for s in plan.stages)


def test_a_store_is_opened_where_a_loop_runs_as_in_a_notebook(country: Path) -> None:
    async def cell() -> tuple[xr.DataTree, Any]:
        return natmap.open_store(country / "store"), natmap.plan(country / "recipe.yaml")

    tree, plan = asyncio.run(cell())
    assert tree["scenes"].sizes["time"] == 3
    assert not any(stage.stale for stage in plan.stages)


def test_days_are_those_that_were_read(country: Path) -> None:
    days = [f"{overpass.when:%Y-%m-%d}" for overpass in PLAIN.overpasses]
    some = natmap.open_store(country / "store")["scenes"]
    assert [str(day)[:10] for day in some["time"].values] == sorted(days)
    whole = natmap.open_store(country / "store", days="all")["scenes"]
    assert whole.sizes["time"] == 10_958
    xr.testing.assert_identical(whole["scl"].sel(time=some["time"]).load(), some["scl"].load())
