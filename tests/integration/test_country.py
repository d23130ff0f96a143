"""A small made-up country through the whole of it: written, composed, trained on, judged."""

from __future__ import annotations

import json
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
import yaml
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from support import shared
from support.worlds import PLAIN

import engine
from engine.compare.cells import evaluate
from engine.cube.read import read_day
from engine.datasets.patches import open_patches
from engine.datasets.splits import find_leaks
from engine.errors import LabelError, MetricError
from engine.infer.predict import Predictor
from engine.labels.sampling import cells_of_areas, cells_of_raster, thin
from engine.labels.training_areas import read_training_areas
from engine.metrics import confusion
from engine.models.card import load_card
from engine.models.inputs import prepare_batch
from engine.pipeline.prepare import prepare
from engine.products.registry import load_recipe
from engine.synthetic.country import to_degrees
from engine.synthetic.photo import write_photos
from engine.synthetic.scene import CRS
from engine.synthetic.surface import paint
from engine.training.train import train

SIDE = 4800


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The country on disk, mapped by the shipped network."""
    return shared.mapped(tmp_path_factory.mktemp("country") / "mapped")


def test_scenes_lie_in_two_zones_and_have_two_baselines(folder: Path) -> None:
    imagery = yaml.safe_load((folder / "recipe.yaml").read_text())["imagery"]
    scenes = Path(imagery["catalog"]).parent
    items = [json.loads(p.read_text()) for p in sorted(scenes.glob("S2*.json"))]
    assert {item["properties"]["proj:epsg"] for item in items} == {32632, 32633}
    assert {item["properties"]["s2:processing_baseline"] for item in items} == {"03.01", "05.00"}
    plan = engine.plan(folder / "recipe.yaml")
    assert plan.items == len(items) == 6
    assert plan.days == 3
    assert not plan.left_out
    for item in items:
        for key, asset in item["assets"].items():
            with rasterio.open(scenes / asset["href"]) as file:
                assert file.profile["tiled"]
                assert file.crs.to_epsg() == item["properties"]["proj:epsg"]
                assert list(file.transform)[:6] == asset["proj:transform"]
                values = file.read(1)
            if key == "blue":
                # one ground: what a new baseline adds is 1000; cloud covers a part of it
                offset = 1000 if asset["raster:bands"][0]["offset"] else 0
                assert 150 < np.percentile(values[values > 0], 20) - offset < 2500


def test_the_area_has_no_gap(folder: Path) -> None:
    seen = engine.open_store(folder / "store")["composite"]["observations"]
    (west, south, east, north), inset = PLAIN.bounds, PLAIN.inset
    inside = seen.sel(
        x=slice(west + inset, east - inset), y=slice(north - inset, south + inset)
    ).values
    assert inside.shape == (SIDE // 10 - 160, SIDE // 10 - 160)
    assert (inside > 0).mean() > 0.95  # the rest was cloudy on all three days


def test_one_ground_looks_the_same_in_both_zones(folder: Path) -> None:
    """The zones' border must not show: other pixels, another projection, the same reflectance."""
    prepared = prepare(load_recipe(folder / "recipe.yaml"), folder)
    day = [item for item in prepared.resolved.items if "20211001" in item.id]
    x, y = Transformer.from_crs("EPSG:4326", "EPSG:3035", always_xy=True).transform(12.0, 49.5)
    west, south = round(x / 100 - 5) * 100, round(y / 100 - 8) * 100
    box = GeoBox.from_bbox(
        (west, south, west + 1000, south + 1600), "EPSG:3035", resolution=10, tight=True
    )
    seen = []
    for zone in ("32U", "33U"):
        items = [item for item in day if zone in item.id]
        assert items
        found = read_day(items, ["B02", "B08", "B11"], box, prepared.grid.anchor)
        assert (found.bands > 0).all()
        seen.append(found.bands.astype(float) / 1e4)
    difference = seen[0] - seen[1]
    assert np.abs(difference.mean(axis=(1, 2))).max() < 0.001
    assert np.abs(difference).mean() < 0.006


def test_the_truth_is_written_as_it_is(folder: Path) -> None:
    with rasterio.open(folder / "truth" / "truth-lcz.tif") as file:
        codes = file.read(1)
        assert file.crs.to_epsg() == 3035
        assert (file.bounds.left, file.bounds.top) == (PLAIN.bounds[0], PLAIN.bounds[3])
        assert file.colormap(1)[17] == (0x6A, 0x6A, 0xFF, 255)
    assert codes.shape == (SIDE // 100, SIDE // 100)
    assert codes.min() >= 1
    shares = json.loads((folder / "country.json").read_text())["shares"]
    for code, share in shares.items():
        assert share == pytest.approx((codes == int(code)).mean(), abs=1e-4)
    towns = geopandas.read_file(folder / "truth" / "urban.geojson")
    assert towns.is_valid.all()


def test_training_areas_are_read_back_from_either_format(folder: Path) -> None:
    plain = read_training_areas(folder / "truth" / "training-areas.geojson")
    marks = read_training_areas(folder / "truth" / "training-areas.kml")
    assert plain.counts() == marks.counts()
    with rasterio.open(folder / "truth" / "truth-lcz.tif") as file:
        cells = GeoBox(file.shape, file.transform, "EPSG:3035")
        codes = file.read(1)
    samples = cells_of_areas(plain.areas, cells)
    assert len(samples) > 30
    assert (codes[samples["row"], samples["col"]] == samples["lcz"]).mean() > 0.9
    assert confusion(samples["lcz"], codes[samples["row"], samples["col"]]).sum() == len(samples)


def test_samples_of_a_raster_are_its_cells(folder: Path) -> None:
    truth = folder / "truth" / "truth-lcz.tif"
    with rasterio.open(truth) as file:
        cells, codes = GeoBox(file.shape, file.transform, "EPSG:3035"), file.read(1)
    with rasterio.open(folder / "truth" / "truth-defined.tif") as file:
        well = file.read(1)
    every = cells_of_raster(truth, cells)
    assert len(every) == codes.size
    some = cells_of_raster(truth, cells, within=folder / "truth" / "truth-defined.tif")
    assert len(some) == (well > 0).sum()
    np.testing.assert_array_equal(codes[some["row"], some["col"]], some["lcz"])
    few = thin(every, 200)
    assert abs(len(few) - 200) < 12
    before = np.bincount(every["lcz"], minlength=18) / len(every)
    after = np.bincount(few["lcz"], minlength=18) / len(few)
    rare = (before > 0) & (before < 0.03)
    assert (after[rare] >= before[rare]).all()
    with rasterio.open(truth) as file:
        form = {**file.profile, "nodata": None}
    with rasterio.open(folder / "strange.tif", "w", **form) as file:
        file.write(codes + 40, 1)
    with pytest.raises(LabelError, match="not an LCZ"):
        cells_of_raster(folder / "strange.tif", cells)
    far = GeoBox.from_bbox((0, 0, 1000, 1000), "EPSG:3035", resolution=100, tight=True)
    with pytest.raises(LabelError, match="labels no cell"):
        cells_of_raster(truth, far)


@pytest.mark.slow
def test_orthophotos_overlap_and_say_what_is_green(folder: Path, tmp_path: Path) -> None:
    towns = geopandas.read_file(folder / "truth" / "urban.geojson").to_crs(CRS).geometry
    edge = towns.iloc[0].exterior.representative_point()
    west, north = round(edge.x) - 600, round(edge.y) + 600
    bounds = (west, north - 1200, west + 1200, north)
    assert write_photos(PLAIN.world, bounds, tmp_path, list(towns)) == 4
    frames = sorted(tmp_path.glob("photo_*.tif"))
    with rasterio.open(frames[0]) as file:
        assert file.count == 4
        assert file.res == (1.0, 1.0)
        left, top = round(file.bounds.left), round(file.bounds.top)
        photo, first = file.read(), shapely.box(*file.bounds)
    for path in frames[1:]:
        with rasterio.open(path) as file:
            assert first.intersects(shapely.box(*file.bounds))
    with rasterio.open(tmp_path / "green.tif") as file:
        assert tuple(file.bounds) == bounds
        green = file.read(1)
    assert set(np.unique(green)) == {0, 1, 255}
    whole = paint(PLAIN.world, west, north, *green.shape)
    plants = np.isin(whole.material, [7, 8, 13, 14, 15])
    np.testing.assert_array_equal(green[green != 255] == 1, plants[green != 255])
    ground = paint(PLAIN.world, left, top, *photo.shape[1:])
    plants = np.isin(ground.material, [7, 8, 13, 14, 15])
    lively = (photo[3].astype(float) - photo[0]) / (photo[3].astype(float) + photo[0] + 1)
    assert lively[plants].mean() > lively[~plants].mean() + 0.1


def _recipe(folder: Path, out: Path, **changes: object) -> dict[str, object]:
    return {
        "name": "small",
        "labels": [
            {
                "recipe": str(folder / "recipe.yaml"),
                "raster": str(folder / "truth" / "truth-lcz.tif"),
                "place": "here",
            }
        ],
        "patches": str(out / "patches"),
        "context": 0,
        "split": {"by": "block", "side": 800, "shares": [0.6, 0.2, 0.2]},
        "model": {
            "architecture": "mscnn",
            "parameters": {"branch": 8, "blocks": [16, 16, 32, 32, 32], "dense": 32},
        },
        "training": {"epochs": 4, "batch": 32, "draws": 512},
        "out": str(out / "model"),
        **changes,
    }


@pytest.mark.slow
def test_train_then_map_then_evaluate(folder: Path, tmp_path: Path) -> None:
    told: list[str] = []
    recipe = tmp_path / "train.yaml"
    recipe.write_text(yaml.safe_dump(_recipe(folder, tmp_path)))
    found = train(recipe, tell=told.append)
    assert found.epochs == 4
    assert found.figures is not None
    for name in ("card.json", "report.json", "curves.png", "confusion.png", "small.safetensors"):
        assert (tmp_path / "model" / name).stat().st_size > 500
    patches = open_patches(tmp_path / "patches")
    assert find_leaks(patches.xy, patches.split, 320.0) == 0
    assert {0, 1, 2} <= set(np.unique(patches.split).tolist())
    report = json.loads((tmp_path / "model" / "report.json").read_text())
    assert report["patches"]["train"]["count"] == int((patches.split == 0).sum())
    assert [place["name"] for place in report["places"]] == ["here"]

    # the patches are those that the engine would score: one batch of the map, by hand
    told.clear()
    train(recipe, tell=told.append)
    assert not any("cutting" in line for line in told)  # nothing has changed

    wanted = yaml.safe_load((folder / "recipe.yaml").read_text())
    wanted["model"] = {"card": str(tmp_path / "model")}
    square = shapely.Point(4_467_200, 2_934_400).buffer(800, cap_style="square")  # in a town
    (folder / "square.geojson").write_text(shapely.to_geojson(to_degrees(square)))
    wanted |= {"area": {"file": "square.geojson"}, "store": "small", "publish": "judged"}
    mapping = folder / "map.yaml"
    mapping.write_text(yaml.safe_dump(wanted))
    summary = shared.run(mapping)
    assert not summary.failed
    product = engine.publish(mapping)
    result = evaluate(
        product, folder / "truth" / "truth-lcz.tif", layer="classes", out=tmp_path / "judged"
    )
    with rasterio.open(product / "made-up-country-classes.tif") as file:
        codes = file.read(1)
        box = GeoBox(file.shape, file.transform, "EPSG:3035")
    truth = cells_of_raster(folder / "truth" / "truth-lcz.tif", box)
    expected = confusion(truth["lcz"], codes[truth["row"], truth["col"]])
    np.testing.assert_array_equal(result.counts, expected)
    assert result.accuracy.oa > 0.25  # four small epochs; a guess has 0.06
    for name in ("accuracy.json", "classes.csv", "confusion.png"):
        assert (tmp_path / "judged" / name).exists()
    assert sum(cells for cells, _ in result.by_observations.values()) == result.accuracy.cells
    assert set(result.by_observations) <= {0, 1, 2, 3}  # 0: most of its own pixels were cloudy
    areas = evaluate(product, folder / "truth" / "training-areas.kml", layer="classes")
    assert 0 < areas.accuracy.cells < result.accuracy.cells
    assert areas.groups > 1
    card = load_card(tmp_path / "model")
    assert card.output == "logit"
    with pytest.raises(MetricError, match="not a product"):
        evaluate(folder, folder / "truth" / "truth-lcz.tif")
    with pytest.raises(MetricError, match="layer"):
        evaluate(product, folder / "truth" / "truth-lcz.tif", layer="scores")


@pytest.mark.slow
def test_patches_of_48_px_are_trained_and_mapped(folder: Path, tmp_path: Path) -> None:
    recipe = _recipe(folder, tmp_path, patch=48)
    recipe["training"] = {"epochs": 1, "batch": 32, "draws": 64}
    found = train(recipe)
    assert found.card.patch == 48
    patches = open_patches(tmp_path / "patches")
    assert patches.x.shape[2:] == (48, 48)
    wanted = yaml.safe_load((folder / "recipe.yaml").read_text())
    square = shapely.Point(4_467_200, 2_934_400).buffer(300, cap_style="square")
    (folder / "small.geojson").write_text(shapely.to_geojson(to_degrees(square)))
    wanted |= {"model": {"card": str(tmp_path / "model"), "device": "cpu"}, "store": "wide"}
    (folder / "wide.yaml").write_text(yaml.safe_dump(wanted | {"area": {"file": "small.geojson"}}))
    assert not shared.run(folder / "wide.yaml", until="scores").failed
    scores = engine.open_store(str(folder / "wide"), decode=False)["scores"]["probability"].load()
    predict, looked_at = Predictor(found.card, "cpu"), 0
    for x, (east, north) in zip(patches.x[:], patches.xy, strict=True):
        if not square.contains(shapely.Point(east, north)):
            continue
        cell = scores.sel(x=east, y=north, method="nearest").values
        own = predict(prepare_batch(x[None], found.card))[0][0]
        np.testing.assert_allclose(cell, own, atol=1e-5)  # the patches are those that are scored
        looked_at += 1
    assert looked_at > 5


@pytest.fixture(scope="module")
def forests(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where forests are trained: all from the same patches."""
    return tmp_path_factory.mktemp("forests")


@pytest.mark.slow
@pytest.mark.parametrize(("statistics", "side"), [("mean", 10), ("mean-std", 32)])
def test_a_forest_trains_from_polygons(
    folder: Path, forests: Path, statistics: str, side: int
) -> None:
    labels = [
        {
            "recipe": str(folder / "recipe.yaml"),
            "areas": str(folder / "truth" / "training-areas.kml"),
        }
    ]
    found = train(
        _recipe(
            folder,
            forests,
            labels=labels,
            split={"by": "group", "shares": [0.7, 0.0, 0.3]},
            model={
                "architecture": "forest",
                "parameters": {"statistics": statistics, "side": side, "trees": 10},
            },
        )
    )
    assert found.card.architecture == "forest"
    assert found.epochs == 0
    load_card(forests / "model")


def test_what_cannot_be_trained_is_said_before_work_starts(folder: Path, tmp_path: Path) -> None:
    good = _recipe(folder, tmp_path)
    label = good["labels"][0]  # type: ignore[index]
    for changes, words in (
        ({"labels": [{**label, "areas": "x.kml"}]}, "areas or raster"),
        ({"labels": []}, "labels"),
        ({"labels": [{**label, "raster": "nowhere.tif"}]}, "no such file of labels"),
        ({"split": {"by": "place", "test": ["there"]}}, "no such place"),
        ({"split": {"by": "block", "shares": [0.5, 0.5, 0.5]}}, "sum to 1"),
        ({"model": {"architecture": "mscnn", "bands": ["B01"]}}, "lacks bands"),
        ({"training": {"epochs": 0}}, "epochs"),
        ({"colour": "red"}, "unknown key"),
    ):
        with pytest.raises(Exception, match=words) as caught:
            train({**good, **changes}, base=tmp_path)
        assert type(caught.value).__module__ == "engine.errors", caught.value
    (tmp_path / "empty").mkdir()
    bare = tmp_path / "empty" / "recipe.yaml"
    bare.write_text((folder / "recipe.yaml").read_text())
    with pytest.raises(LabelError, match="until composite"):
        train({**good, "labels": [{**label, "recipe": str(bare)}]}, base=tmp_path)
