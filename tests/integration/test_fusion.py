"""1 m images beside Sentinel-2: instances, graphs, both streams fused, trained and mapped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import shapely
import xarray
import yaml
from affine import Affine
from support.shared import run
from support.worlds import PLAIN, photograph, synthesize

import engine
from engine.errors import CardError, LabelError, RecipeError
from engine.models.card import load_card
from engine.models.graphs import nodes_of
from engine.models.mlm import write_card
from engine.models.superpixels import clip, segment
from engine.pipeline.status import read_status
from engine.synthetic.country import AUTUMN, Country, to_degrees
from engine.training.train import train

pytestmark = pytest.mark.slow

COUNTRY = Country(PLAIN.world, 4800, 3200, AUTUMN[:2])
MAPPED = 4_465_800, 2_933_000, 4_467_800, 2_933_600
"""Left, bottom, right, top of what is mapped: two columns of cells in one of the blocks that are
segmented, each for itself, and 18 in a second one, which the border of two tiles cuts."""
AREA = 4_465_300, 2_932_500, 4_468_300, 2_934_100
"""Of what has instances: all that such a map reads, so that it makes none anew."""
BLOCK, BORDER = (4_466_000, 2_934_000), 4_467_200
"""Left and top of the second block; where the second tile begins."""
PHOTOS = 4_465_600, 2_932_700, 4_467_600, 2_933_700
"""Two frames: the windows of what is mapped, but of its last column or two."""
FRAME = 4_465_900, 2_933_100, 4_466_300, 2_933_400
"""Cells whose windows see the first frame alone."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Part of a country with orthophotos, its composite and its instances, in two tiles."""
    folder = tmp_path_factory.mktemp("fused")
    synthesize(COUNTRY, folder, tile=320)
    photograph(COUNTRY.world, PHOTOS, folder / "photos")
    for name, bounds in (("part", AREA), ("mapped", MAPPED), ("frame", FRAME)):
        area = to_degrees(shapely.box(*bounds).buffer(-1, join_style="mitre"))
        (folder / f"{name}.geojson").write_text(shapely.to_geojson(area))
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe(folder)))
    assert not run(folder / "recipe.yaml").failed
    return folder


def recipe(folder: Path, **more: Any) -> dict[str, Any]:
    """The recipe of that part with its photos, segmented the quick way."""
    found: dict[str, Any] = yaml.safe_load((folder / "recipe.yaml").read_text())
    return {
        **found,
        "area": {"file": "part.geojson"},
        "images": {"catalog": "photos/catalog.json"},
        "instances": {"segmenter": "slic"},
        **more,
    }


def mosaic(folder: Path, left: int, top: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Photos of a window and where there are any, with rasterio and numpy: the first wins."""
    found = np.zeros((side, side, 3), np.uint8)
    empty = np.ones((side, side), bool)
    for path in sorted((folder / "photos").glob("photo_*.tif")):
        with rasterio.open(path) as file:
            window = file.window(left, top - side, left + side, top)
            row, col = round(window.row_off), round(window.col_off)
            values = file.read([1, 2, 3], window=window, boundless=True, fill_value=0)
            rows, cols = np.arange(side) + row, np.arange(side) + col
            down, across = (rows >= 0) & (rows < file.height), (cols >= 0) & (cols < file.width)
        takes = empty & down[:, None] & across[None]
        found[takes] = np.moveaxis(values, 0, -1)[takes]
        empty &= ~takes
    return found, ~empty


def arrays(folder: Path, store: str = "store") -> tuple[Any, float, float]:
    """A store's tree and its upper left corner."""
    tree = engine.open_store(folder / store, decode=False)
    return tree, float(tree["instances"].x[0]) - 50, float(tree["instances"].y[0]) + 50


def test_instances_are_those_of_their_block_alone(place: Path) -> None:
    """In two tiles, of which one begins in another block."""
    tree, left, top = arrays(place)
    nodes, count = tree["instances"]["nodes"].values, tree["instances"]["count"].values
    assert nodes.shape[:2] == (50, 5)
    known = np.argwhere(count > 0)
    assert (count == 0).any()  # beyond what was photographed
    assert (left + 100 * known[:, 1] < BLOCK[0]).any()
    # one block is witness enough, and takes long
    mine = known[left + 100 * known[:, 1] >= BLOCK[0]]
    assert len(mine) > 80
    assert 10 < (left + 100 * mine[:, 1] >= BORDER).sum() < len(mine) - 10
    corner = BLOCK[0] - 110, BLOCK[1] + 110
    rgb, valid = mosaic(place, *corner, 2220)
    instances = segment(rgb, "slic", valid)
    for row, col in mine.tolist():
        x, y = left + 100 * col, top - 100 * row
        i, j = round(corner[1] - (y + 110)), round(x - 110 - corner[0])
        expected = nodes_of(rgb[i : i + 320, j : j + 320], clip(instances, i, j, 320))
        assert count[row, col] == len(expected)
        np.testing.assert_array_equal(nodes[: len(expected), :, row, col], expected.astype("f2"))
        assert not nodes[len(expected) :, :, row, col].any()


@pytest.mark.soak  # each block anew, 13 seconds of a core; in CI the test above is the witness
def test_another_layout_gives_the_same(place: Path) -> None:
    """One tile of two blocks by one worker, beside two tiles."""
    other_recipe = recipe(place, store="other", grid={"crs": "EPSG:3035", "tile": 800})
    assert engine.plan(other_recipe, base=place).tiles == 1
    assert not engine.run(other_recipe, base=place, workers=1).failed
    (one, *_), (other, *_) = arrays(place), arrays(place, "other")

    def both(name: str) -> tuple[np.ndarray, np.ndarray]:
        """What both stores have of the same ground."""
        parts = xarray.align(*(tree["instances"][name] for tree in (one, other)))
        return parts[0].values, parts[1].values

    counts = both("count")
    np.testing.assert_array_equal(*counts)
    known = counts[0] > 0
    assert known.sum() > 100
    nodes = both("nodes")
    np.testing.assert_array_equal(nodes[0][..., known], nodes[1][..., known])


def test_both_streams_are_trained_fused_and_mapped(place: Path) -> None:
    (left, bottom, right, top), step = PHOTOS, 100
    shape = (top - bottom) // step, (right - left) // step
    form = {"driver": "GTiff", "count": 1, "dtype": "uint8", "crs": "EPSG:3035"}
    form |= {"height": shape[0], "width": shape[1]}
    at = Affine(step, 0, left, 0, -step, top)
    with rasterio.open(place / "seen.tif", "w", transform=at, **form) as file:
        file.write(np.ones((1, *shape), np.uint8))
    raster = {"raster": "truth/truth-lcz.tif", "within": "seen.tif"}
    labels = [{"recipe": "recipe.yaml", **raster}]
    base = {
        "labels": labels,
        "patches": "patches",
        "context": 0,
        "split": {"by": "pool", "shares": [0.6, 0.2, 0.2]},
        "training": {"epochs": 2, "batch": 64},
    }
    first = {"architecture": "mscnn", "size": "small"}
    train({**base, "name": "lcz-s2", "model": first, "out": "s2"}, base=place)
    second = {"architecture": "gcn", "beside": "./s2"}
    heard: list[str] = []
    graph = {**base, "name": "lcz-graph", "model": second, "out": "graph"}
    graph["training"] = {"preset": "df4lcz-graph", "epochs": 8, "batch": 16}
    found = train(graph, base=place, tell=heard.append)
    assert any("fused with lcz-s2" in text for text in heard)
    fusion = found.more["fusion"]
    by_weight = fusion["validation_accuracy_by_weight"]
    assert len(by_weight) == 21
    assert max(by_weight.values()) == by_weight[f"{fusion['sentinel_weight']:g}"]
    assert {"sentinel", "graphs", "fused"} <= set(fusion)
    assert fusion["graphs"]["oa"] > 0.15  # chance is a seventeenth
    card = load_card(place / "graph")
    assert card.parameters["segmenter"] == "slic"
    assert (card.patch, card.halo, card.bands) == (320, 110, ("B04", "B03", "B02"))

    assert card.fusion is not None
    assert (card.fusion.beside, card.fusion.key) == ("lcz-s2", load_card(place / "s2").key)
    weight = card.fusion.sentinel_weight
    assert weight == fusion["sentinel_weight"]
    if not weight:  # nothing would be seen of the other stream
        weight = 0.5
        kept = card.fusion.model_copy(update={"sentinel_weight": weight})
        write_card(card.model_copy(update={"fusion": kept}), place / "graph")
    model = {"card": "./s2", "instances": "./graph"}
    fused = recipe(place, area={"file": "mapped.geojson"}, model=model, publish="product")
    plan = engine.plan(fused, base=place)
    assert next(s for s in plan.stages if s.name == "instances").fresh == 2
    assert not run(fused, base=place).failed
    tree, _, _ = arrays(place)
    s, g, p = (tree[name]["probability"].values for name in ("scores", "graphs", "fused"))
    both = np.isfinite(s).all(0) & np.isfinite(g).all(0)
    assert both.sum() > 80
    np.testing.assert_allclose(p[:, both], (weight * s + (1 - weight) * g)[:, both], atol=1e-6)
    np.testing.assert_allclose(g[:, both].sum(0), 1, atol=1e-5)
    alone = np.isfinite(s).all(0) & ~np.isfinite(g).all(0)
    np.testing.assert_array_equal(p[:, alone], s[:, alone])
    classes = tree["map"]["unfiltered"].values
    known = np.isfinite(p).all(0)
    mapped = known & (classes > 0)
    assert mapped.sum() > 60
    np.testing.assert_array_equal(classes[mapped], 1 + p[:, mapped].argmax(0))
    engine.publish(fused, base=place)
    report = (place / "product" / "report.json").read_text()
    assert "photo_4465_2933" in report  # what a map is made of, frames included
    assert f"scores fused with lcz-graph, which counts {1 - weight:.0%}, as found" in report

    # another weight makes no instance and no score anew
    changed = {**fused, "model": {**model, "sentinel_weight": 1.0}}
    plan = engine.plan(changed, base=place)
    stale = {stage.name for stage in plan.stages if stage.stale}
    assert stale == {"fused"}
    assert not run(changed, base=place).failed
    tree, _, _ = arrays(place)
    np.testing.assert_array_equal(tree["fused"]["probability"].values, s)

    # another segmenter is not what the graphs were learnt on
    with pytest.raises(CardError, match="trained on other instances") as caught:
        engine.plan({**fused, "instances": {"segmenter": "felzenszwalb"}}, base=place)
    assert "set instances.segmenter to slic" in str(caught.value)
    with pytest.raises(CardError, match="not a graph network"):
        engine.plan({**fused, "model": {**model, "instances": "./s2"}}, base=place)
    with pytest.raises(RecipeError, match="needs 1 m images"):
        engine.plan({**fused, "images": None}, base=place)


def test_a_frame_that_cannot_be_read_is_a_gap_that_is_said(place: Path) -> None:
    path = place / "photos" / "photo_4465_2933.tif"
    whole = path.read_bytes()
    try:
        path.write_bytes(whole[:3000])
        broken = recipe(place, store="broken", area={"file": "frame.geojson"}, mask=None)
        assert not run(broken, base=place).failed
        status = read_status(place / "broken")
        assert status["stages"]["instances"]["with gaps"] > 0
        assert path.stem in str(status["notes"])
    finally:
        path.write_bytes(whole)


def test_graphs_need_instances_first(place: Path) -> None:
    labels = [{"recipe": "bare.yaml", "raster": "truth/truth-lcz.tif"}]
    (place / "bare.yaml").write_text(yaml.safe_dump(recipe(place, store="bare")))
    run(place / "bare.yaml", until="composite")
    wanted = {
        "name": "x",
        "labels": labels,
        "patches": "none",
        "model": {"architecture": "gcn"},
        "out": "x",
    }
    with pytest.raises(LabelError, match="no labelled cell has instances"):
        train(wanted, base=place)
