"""Several composites in one cube: made apart, stale apart, mapped, published and learnt from."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
import torch
import yaml
from safetensors.torch import save_file
from support import shared
from support.worlds import PLAIN, list_items, synthesize

import engine
from engine.datasets.chips import open_chips
from engine.datasets.patch_cutting import cut_patches
from engine.errors import CardError, CatalogError
from engine.infer.predict import Predictor
from engine.legend import Reason
from engine.models.card import ModelCard
from engine.models.inputs import prepare_input
from engine.models.mlm import write_card
from engine.models.mscnn import MSCNN
from engine.products.registry import load_training
from engine.recipes.classifying import ClassifierRecipe
from engine.runs import events
from engine.synthetic.country import to_degrees

pytestmark = pytest.mark.slow

EARLY = {"name": "early", "start": "2021-09-20", "end": "2021-09-30"}
LATE = {"start": "2021-10-01", "end": "2021-10-10"}  # goes by its number, 2
BANDS = ("B04@2", "B02@early", "B08@2")
CUBE = ["B02@early", "B04@early", "B08@early", "B02@2", "B04@2", "B08@2"]
SIZES = {"branch": 4, "blocks": [4, 4, 4, 8, 8], "dense": 8}
CORNER, HALF = (4_465_600, 2_934_400), 500  # where four tiles meet


@dataclass(frozen=True)
class Place:
    """A square of a country, and what was done there."""

    folder: Path
    card: ModelCard
    first: dict[str, int] = field(default_factory=dict)
    planned: dict[str, dict[str, int]] = field(default_factory=dict)
    second: dict[str, int] = field(default_factory=dict)

    def recipe(self, name: str, *, tile: int = 160, **changes: Any) -> dict[str, Any]:
        made = yaml.safe_load((self.folder / "recipe.yaml").read_text())
        wanted = {
            "name": name,
            "product": "lcz",
            "area": {"file": str(self.folder / "square.geojson")},
            "grid": {**made["grid"], "tile": tile, "chunk": 160},
            "imagery": {
                "catalog": str(self.folder / "scenes" / "catalog.json"),
                "bands": ["B02", "B04", "B08"],
            },
            "cube": {"periods": [EARLY, LATE]},
            "model": {"card": str(self.folder / "card"), "device": "cpu"},
            "store": str(self.folder / f"{name}-store"),
            "publish": str(self.folder / f"{name}-product"),
        } | changes
        return {key: value for key, value in wanted.items() if value is not None}

    def run(self, name: str, **changes: Any) -> dict[str, int]:
        """Tiles (and days) that ran, by stage."""
        ran: dict[str, int] = {}

        def listen(event: events.Event) -> None:
            if isinstance(event, events.TileDone):
                ran[event.stage] = ran.get(event.stage, 0) + 1

        recipe = self.recipe(name, **changes)
        assert not shared.run(recipe, listeners=[listen]).failed
        return ran

    def arrays(self, name: str, group: str) -> dict[str, np.ndarray]:
        """What a store holds of the square."""
        tree = engine.open_store(self.folder / f"{name}-store", decode=False)
        (x, y), half = CORNER, HALF - 50
        square = {"x": slice(x - half, x + half), "y": slice(y + half, y - half)}
        part = tree[group].to_dataset().sel(square)
        return {str(key): part[key].values for key in part.data_vars if key != "spatial_ref"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """The cube of two dates, then of a third that is of the second period."""
    folder = tmp_path_factory.mktemp("periods")
    synthesize(PLAIN, folder, tile=160)
    square = shapely.Point(CORNER).buffer(HALF, cap_style="square")
    (folder / "square.geojson").write_text(shapely.to_geojson(to_degrees(square)))
    (folder / "card").mkdir()
    torch.manual_seed(3)
    network = MSCNN(bands=3, **SIZES)
    weights = {k: v for k, v in network.state_dict().items() if "num_batches" not in k}
    save_file(weights, folder / "card" / "w.safetensors")
    card = ModelCard(
        name="dates",
        architecture="mscnn",
        parameters=SIZES,
        bands=BANDS,
        mean=(0.1, 0.05, 0.2),
        std=(0.1, 0.1, 0.1),
        features=8,
        output="logit",
        weights="w.safetensors",
        sha256=hashlib.sha256((folder / "card" / "w.safetensors").read_bytes()).hexdigest(),
        folder=folder / "card",
    )
    write_card(card, folder / "card")
    found = Place(folder, card)
    items = sorted(path.stem for path in (folder / "scenes").glob("S2*.json"))
    list_items(folder, [name for name in items if "20211006" not in name])
    first = found.run("cube")
    list_items(folder, items)
    plan = engine.plan(found.recipe("cube"))
    planned = {stage.name: stage.stale for stage in plan.stages}
    return Place(folder, card, first, planned, found.run("cube"))


def test_each_period_is_the_composite_of_its_own_days(place: Place) -> None:
    """Witness: the stored scenes. Of one day the median is it, of two the mean of both."""
    tree = engine.open_store(place.folder / "cube-store", decode=False)
    days = tree["scenes"]["bands"].values.astype(np.float64)
    assert len(days) == 3
    for label, mine in (("early", days[:1]), ("2", days[1:])):
        found = tree[f"composite-{label}"]["bands"].values
        seen = tree[f"composite-{label}"]["observations"].values
        assert (seen <= len(mine)).all()
        whole = (seen == len(mine)) & (mine > 0).all(axis=(0, 1))
        assert whole.any()
        np.testing.assert_array_equal(found[:, whole], np.rint(mine.mean(axis=0))[:, whole])
        assert (found[:, seen == 0] == 0).all()
        one = (seen == 1)[None]
        assert (found == mine).any(axis=0)[np.broadcast_to(one, found.shape)].all()
        there = [CUBE.index(f"{band}@{label}") for band in ("B02", "B04", "B08")]
        np.testing.assert_array_equal(tree["composite"]["bands"].values[there], found)


def test_the_cube_has_data_where_all_periods_have_some(place: Place) -> None:
    mine = place.arrays("cube", "composite")
    early, late = (place.arrays("cube", f"composite-{label}") for label in ("early", "2"))
    both = (early["observations"] > 0) & (late["observations"] > 0)
    assert 0 < both.mean() < 1
    total = early["observations"] + late["observations"]
    np.testing.assert_array_equal(mine["observations"], np.where(both, total, 0))
    np.testing.assert_array_equal(mine["reason"] == Reason.DATA, both)
    lacking = ~both & (early["observations"] > 0)
    np.testing.assert_array_equal(mine["reason"][lacking], late["reason"][lacking])


def test_a_new_date_touches_its_period_alone(place: Place) -> None:
    assert place.first["composite-early"] == place.first["composite-2"] > 0
    assert not place.planned["composite-early"]
    assert sum(place.planned["scenes"].values()) > 0
    assert "composite-early" not in place.second
    assert place.second["composite-2"] > 0


def test_another_layout_without_scenes_holds_the_same(place: Place) -> None:
    cube = {"periods": [EARLY, LATE], "keep_scenes": False}
    place.run("other", tile=320, cube=cube)
    for group in ("composite", "composite-early", "scores", "map"):
        mine, other = place.arrays("cube", group), place.arrays("other", group)
        for name, values in mine.items():
            np.testing.assert_array_equal(values, other[name], err_msg=f"{group}/{name}")


def test_scores_are_the_network_s_of_the_periods_in_its_order(place: Place) -> None:
    tree = engine.open_store(place.folder / "cube-store", decode=False)
    assert [str(b) for b in tree["composite"]["band"].values] == CUBE
    scores = tree["scores"]["probability"].values
    row, col = np.argwhere(~np.isnan(scores).any(axis=0))[7].tolist()
    here = np.s_[row * 10 - 11 : row * 10 + 21, col * 10 - 11 : col * 10 + 21]
    patch = tree["composite"]["bands"].values[[CUBE.index(b) for b in BANDS]][:, *here]
    seen = tree["composite"]["observations"].values[here] > 0
    batch = prepare_input(patch, seen, place.card)[None]
    np.testing.assert_allclose(
        scores[:, row, col], Predictor(place.card, "cpu")(batch)[0][0], atol=1e-6
    )


def test_the_product_tells_its_periods(place: Place) -> None:
    product = Path(engine.publish(place.recipe("cube")))
    report = json.loads((product / "report.json").read_text())
    item = json.loads(next((product / "items").glob("*.json")).read_text())
    told = [EARLY, {"name": "2", **LATE}]
    assert report["natmap:periods"] == item["properties"]["natmap:periods"] == told
    assert report["period"] == ["2021-09-20", "2021-10-10"]
    assert item["properties"]["start_datetime"].startswith("2021-09-20")
    assert item["properties"]["end_datetime"].startswith("2021-10-10")


def test_patches_are_cut_of_the_periods(place: Place) -> None:
    recipe = place.recipe("cube", model=None)
    (place.folder / "map.yaml").write_text(yaml.safe_dump(recipe))
    training = load_training(
        {
            "name": "learnt",
            "product": "lcz",
            "labels": [{"recipe": "map.yaml", "raster": "truth/truth-lcz.tif"}],
            "patches": "patches",
            "context": 0,
            "split": {"by": "pool"},
            "model": {"architecture": "mscnn", "bands": list(BANDS)},
            "out": "learnt",
        }
    )
    assert isinstance(training, ClassifierRecipe)
    found = cut_patches(training, place.folder)
    assert found.bands == BANDS
    assert found.places[0].period == "early 2021-09-20/2021-09-30, 2 2021-10-01/2021-10-10"
    tree = engine.open_store(place.folder / "cube-store", decode=False)
    composite = tree["composite"].to_dataset()
    x, y = found.xy[3]
    col = round((x - float(composite.x[0]) + 5) / 10) - 16
    row = round((float(composite.y[0]) + 5 - y) / 10) - 16
    bands = composite["bands"].values[
        [CUBE.index(b) for b in BANDS], row : row + 32, col : col + 32
    ]
    seen = composite["observations"].values[row : row + 32, col : col + 32] > 0
    np.testing.assert_array_equal(found.x[3], np.where(seen, bands, 0))


def test_patches_about_sites_are_cut_of_a_period(place: Place) -> None:
    (place.folder / "map.yaml").write_text(yaml.safe_dump(place.recipe("cube", model=None)))
    sites = place.folder / "sites.geojson"
    middle = to_degrees(shapely.Point(CORNER).buffer(1))
    sites.write_text(json.dumps(shapely.geometry.mapping(middle)))
    tree = engine.open_store(place.folder / "cube-store", decode=False)
    composite = tree["composite"].to_dataset()
    col = round((CORNER[0] - float(composite.x[0]) + 5) / 10) - 8
    row = round((float(composite.y[0]) + 5 - CORNER[1]) / 10) - 8
    out = place.folder / "frames"
    found = engine.frames(
        sites, place.folder / "map.yaml", out, cut=16, bands=["B08@2", "red@early"]
    )
    days = {frame.date[:10] for frame in found.frames[0]}
    assert days
    assert all("2021-09-20" <= day <= "2021-10-10" for day in days)
    expected = composite["bands"].values[[5, 1], row : row + 16, col : col + 16]
    np.testing.assert_array_equal(open_chips(out / "chips").x[0], expected)


def test_what_cannot_be_mapped_is_refused_before_work_begins(place: Place) -> None:
    with pytest.raises(CardError, match=r"give cube\.periods those of the model: 2, early"):
        engine.plan(place.recipe("no", cube={"periods": [EARLY]}))
    imagery = {**place.recipe("no")["imagery"], "period": "2021-09-20/2021-10-10"}
    with pytest.raises(CardError, match=r"give cube\.periods"):
        engine.plan(place.recipe("no", imagery=imagery, cube=None))
    gap = {"name": "gap", "start": "2021-10-07", "end": "2021-10-09"}
    with pytest.raises(CatalogError, match="2021-10-07/2021-10-09"):
        engine.plan(place.recipe("no", model=None, cube={"periods": [EARLY, gap]}))
    assert not (place.folder / "no-store").exists()
