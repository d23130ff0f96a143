"""Cloud that a scene classification missed is no silent error: the product's figures show it."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import yaml
from support import shared

import engine
from engine.compare.cells import Evaluation, evaluate
from engine.cube.clouds import dilation_halo, find_usable
from engine.synthetic.clouds import cloudiness
from engine.synthetic.country import AUTUMN, Country
from engine.synthetic.districts import World
from engine.synthetic.make import synthesize

pytestmark = pytest.mark.slow
WORLD = World(6)  # of a few, one with much broken cloud on these days
BEYOND = 400  # metres of imagery about it: patches, the filter and clouds reach less far
INSET = 100  # metres from its bounds to what is mapped: the filter needs no further tiles


@dataclass(frozen=True)
class Made:
    """One country, mapped and judged."""

    country: Country
    folder: Path
    product: Path
    judged: Evaluation

    @property
    def figures(self) -> dict:
        return json.loads((self.product / "report.json").read_text())["observations"]


@pytest.fixture(
    scope="module",
    params=[pytest.param((0.0, 1600), marks=pytest.mark.soak), (0.4, 3200)],
    ids=["clear", "cloudy"],
)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    cover, side = request.param
    days = tuple(replace(day, cover=cover) for day in AUTUMN[:3])
    country = Country(WORLD, side, side, days, inset=INSET)
    folder = tmp_path_factory.mktemp("country")
    with pytest.MonkeyPatch.context() as patch:  # a world of its own is dear: no more than needed
        patch.setattr("engine.synthetic.country._BEYOND", BEYOND)
        path = synthesize(country, folder, model="lcz-made-up", tile=160)
    recipe = yaml.safe_load(path.read_text())
    del recipe["mask"]
    recipe["filter"] = {"method": "majority"}  # reaches less far; what is judged is not filtered
    assert not shared.run(recipe, base=folder).failed
    product = engine.publish(recipe, base=folder)
    truth = folder / "truth" / "truth-lcz.tif"
    return Made(country, folder, product, evaluate(product, truth, layer="classes"))


def missed(made: Made) -> tuple[np.ndarray, np.ndarray]:
    """Days on which a pixel was used although cloud stood over it, and days it was used on."""
    store = engine.open_store(made.folder / "store")
    scl = store["scenes"]["scl"]
    halo = dilation_halo(60.0, 10.0)
    x, y = np.meshgrid(scl["x"].values, scl["y"].values)
    count, used = np.zeros(x.shape, int), np.zeros(x.shape, int)
    for overpass in made.country.overpasses:
        classes = scl.sel(time=f"{overpass.when:%Y-%m-%d}").values
        usable = find_usable(np.pad(classes, halo, mode="edge"), 10.0, 60.0, snow=False)
        cloud, _ = cloudiness(WORLD.seed, overpass.day, overpass.cover, overpass.sun, x, y)
        count += usable & (cloud > 0.2)
        used += usable
    return count, used


def test_the_report_tells_a_clear_season_from_a_cloudy_one(made: Made) -> None:
    figures = made.figures["dissent"]
    count, used = missed(made)
    assert sum(made.figures["cells_by_clear_days"].values()) >= figures["cells"] > 100
    if not made.country.overpasses[0].cover:
        assert count.sum() == 0
        assert figures["mean_percent"] < 0.3
        assert figures["cells_over_10_percent"] < 0.01 * figures["cells"]
        return
    wrong = 100 * count.sum() / used[used > 1].sum()
    assert wrong > 1  # the made-up classification does miss some
    assert figures["mean_percent"] > 0.5 * wrong
    assert figures["cells_over_10_percent"] > 0.02 * figures["cells"]


def test_missed_cloud_is_where_days_disagree(made: Made) -> None:
    count, used = missed(made)
    dissent = engine.open_store(made.folder / "store")["composite"]["dissent"].values
    can_tell = (used > 1) & (count < used)
    if made.country.overpasses[0].cover:
        assert (dissent[can_tell & (count > 0)] > 0).mean() > 0.9
    # away from missed cloud and from its shadow, days agree
    assert (dissent[can_tell & (count == 0)] > 0).mean() < 0.05
    with rasterio.open(made.product / "made-up-country-dissent.tif") as file:
        assert file.nodata == 255
        percent = file.read(1)
    assert percent[percent < 255].mean() == pytest.approx(
        made.figures["dissent"]["mean_percent"], abs=0.2
    )


def test_where_days_disagree_the_map_is_worse(made: Made) -> None:
    parts = made.judged.by_dissent
    assert sum(cells for cells, _ in parts.values()) <= made.judged.accuracy.cells
    if not made.country.overpasses[0].cover:
        assert parts[0][0] > 0.9 * made.judged.accuracy.cells
        return
    doubtful = [part for bound, part in parts.items() if bound >= 10]
    cells = sum(n for n, _ in doubtful)
    accuracy = sum(n * oa for n, oa in doubtful) / cells
    assert cells > 20
    assert accuracy < parts[0][1] - 0.03
