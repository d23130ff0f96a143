"""Sites on maps: on their class, apart, with the probabilities that repeating the draw has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pandas
import pytest
import rasterio
import shapely
from affine import Affine
from pyproj import Geod
from typer.testing import CliRunner

import engine
from engine.cli.app import app
from engine.errors import AreaError, LabelError, RecipeError
from engine.sites.drawing import Drawing, hits_of
from engine.sites.placing import place_sites
from engine.sites.selection import choose, plan_units

AT = Affine(100, 0, 4_400_000, 0, -100, 3_000_000)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A map of 40 x 60 pixels of 100 m in patches of three classes, and its two halves."""
    made = tmp_path_factory.mktemp("land")
    rng = np.random.default_rng(3)
    codes = np.kron(rng.integers(1, 4, (10, 15)), np.ones((4, 4), int)).astype(np.uint8)
    codes[rng.random(codes.shape) < 0.08] = 2
    codes[0, :5] = 0
    form = {"height": 40, "width": 60, "count": 1, "dtype": "uint8", "nodata": 0}
    with rasterio.open(
        made / "map.tif", "w", driver="GTiff", crs="EPSG:3035", transform=AT, **form
    ) as file:
        file.write(codes, 1)
    halves = [
        shapely.box(4_400_000, 2_996_000, 4_403_000, 3_000_000),
        shapely.box(4_403_000, 2_996_000, 4_406_000, 3_000_000),
    ]
    frame = geopandas.GeoDataFrame({"name": ["west", "east"]}, geometry=halves, crs="EPSG:3035")
    frame.to_file(made / "halves.gpkg")
    return made


@pytest.fixture(scope="module")
def words(folder: Path) -> dict[str, Any]:
    """Map, regions and units."""
    return {
        "place": folder / "map.tif",
        "regions": folder / "halves.gpkg",
        "field": "name",
        "unit": 1000,
    }


def test_the_files_of_a_sample(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "sites"
    words = ["sample", str(folder / "map.tif"), "--for", "training", "--out", str(out)]
    more = ["--regions", str(folder / "halves.gpkg"), "--field", "name", "--unit", "1000"]
    found = CliRunner().invoke(app, [*words, *more, "--n", "40", "--seed", "7"])
    assert found.exit_code == 0, found.output
    assert sorted(p.name for p in out.iterdir()) == [
        "report.json",
        "sites.geojson",
        "sites.gpkg",
        "sites.png",
        "strata.csv",
    ]
    sites = geopandas.read_file(out / "sites.gpkg")
    assert len(sites) == 40
    with rasterio.open(folder / "map.tif") as file:
        codes = file.read(1)
    assert (codes[sites["map_row"], sites["map_col"]] == sites["code"]).all()
    where = geopandas.read_file(folder / "halves.gpkg").set_index("name").geometry
    assert all(
        where[name].contains(p) for name, p in zip(sites["region"], sites.geometry, strict=True)
    )
    assert not sites.duplicated(["map_row", "map_col"]).any()
    # by hand: the probability of a unit, of its pixels, and what a site stands for
    strata = pandas.read_csv(out / "strata.csv")
    assert strata["sites"].sum() == strata["equations"].sum() == 40
    assert (strata["sites"] >= 2).all()
    for site in sites.itertuples():
        row, col = int(site.map_row) // 10, int(site.map_col) // 10
        pixels = int((codes[row * 10 : row * 10 + 10, col * 10 : col * 10 + 10] == site.code).sum())
        assert site.probability == pytest.approx(site.unit_probability / pixels)
        assert site.weight == pytest.approx(1 / site.probability)
        assert site.weight_m2 == pytest.approx(site.weight * 1e4, rel=0.01)
    assert set(sites["known"]) == {"exact"}
    assert set(sites["seed"]) == {7}
    degrees = geopandas.read_file(out / "sites.geojson")
    assert degrees.crs == "EPSG:4326"
    assert np.allclose(
        degrees.to_crs("EPSG:3035").get_coordinates(), sites.get_coordinates(), atol=1
    )
    report = json.loads((out / "report.json").read_text())
    assert sum(row["sites"] for row in report["classes"]) == 40
    assert report["rounds"][0]["seed"] == 7
    again = CliRunner().invoke(app, [*words, *more, "--n", "40"])
    assert isinstance(again.exception, LabelError)
    assert "holds a sample already" in str(again.exception)


def test_a_seed_draws_the_same_and_another_another(words: dict[str, Any]) -> None:
    one, same, other = (place_sites(**words, n=40, seed=s).sites for s in (1, 1, 2))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_each_pixel_of_a_unit_is_as_likely(words: dict[str, Any]) -> None:
    placed = place_sites(**words, n=40)
    frame = placed.ground.frame
    plan = plan_units(frame, placed.strata.sites)
    draws = 1500
    rngs = [np.random.default_rng(k) for k in range(draws)]
    hits = [hits_of(k, choose(plan, rng)) for k, rng in enumerate(rngs)]
    sites = Drawing(placed.ground, rngs).draw(np.concatenate(hits))
    assert len(sites) == draws * 40
    seen = np.zeros((40, 60))
    np.add.at(seen, (sites["row"], sites["col"]), 1)
    chance = np.zeros((40, 60))
    with rasterio.open(words["place"]) as file:
        codes = file.read(1)
    for k in range(len(frame.stratum)):
        row, col, code = (int(getattr(frame.units, name)[k]) for name in ("row", "col", "code"))
        part = chance[row * 10 : row * 10 + 10, col * 10 : col * 10 + 10]
        mine = codes[row * 10 : row * 10 + 10, col * 10 : col * 10 + 10] == code
        part[mine] = plan.expected[k] / frame.units.pixels[k]
    assert chance.sum() == pytest.approx(40)
    assert (seen[chance == 0] == 0).all()
    there = chance > 0
    wanted = draws * chance[there]
    # each count is binomial or, as systematic draws are, less spread: the sum has no more than
    # chi-square's mean, and six of its standard deviations beyond it are never seen
    sum_ = ((seen[there] - wanted) ** 2 / wanted).sum()
    assert sum_ < there.sum() + 6 * np.sqrt(2 * there.sum())


def test_sites_keep_their_distance_and_say_that_it_is_an_estimate(words: dict[str, Any]) -> None:
    placed = place_sites(**words, n=40, spacing=450, repeats=50, per_unit=3)
    at = geopandas.GeoSeries(
        shapely.points(
            AT.a * (placed.sites["col"] + 0.5) + AT.c, AT.e * (placed.sites["row"] + 0.5) + AT.f
        ),
        crs="EPSG:3035",
    ).to_crs("EPSG:4326")
    lon, lat = at.x.to_numpy(), at.y.to_numpy()
    i, j = np.triu_indices(len(lon), 1)
    _, _, metres = Geod(ellps="WGS84").inv(lon[i], lat[i], lon[j], lat[j])
    assert metres.min() >= 449
    assert placed.chances.repeats == 50
    dropped = 40 - len(placed.sites)
    told = [note for note in placed.notes if "found no pixel" in note]
    assert bool(dropped) == bool(told)
    if dropped:
        assert told[0].startswith(f"{dropped} of 40 sites")


def test_estimated_probabilities_are_those_of_other_repeats(words: dict[str, Any]) -> None:
    """Of a crowded design: what 200 other draws of the whole sample keep in each unit."""
    placed = place_sites(**words, n=45, spacing=900, repeats=80, per_unit=3)
    ground = placed.ground
    plan = plan_units(ground.frame, placed.strata.sites)
    draws = 200
    rngs = [np.random.default_rng([9, k]) for k in range(draws)]
    hits = [hits_of(k, choose(plan, rng)) for k, rng in enumerate(rngs)]
    sites = Drawing(ground, rngs).draw(np.concatenate(hits), 900)
    assert len(sites) < 0.9 * draws * 45
    seen = np.bincount(sites["unit"], minlength=len(ground.frame.stratum)) / draws
    expected = placed.chances.expected
    assert expected.sum() == pytest.approx(seen.sum(), rel=0.03)
    often = plan.expected > 0.1
    assert np.corrcoef(expected[often], seen[often])[0, 1] > 0.9
    # what the plan has is far off
    assert np.abs(plan.expected - seen)[often].sum() > 3 * np.abs(expected - seen)[often].sum()


def test_a_sample_is_topped_up(words: dict[str, Any], tmp_path: Path) -> None:
    first = place_sites(**words, out=tmp_path / "a", n=30, seed=4)
    both = place_sites(
        **words, out=tmp_path / "b", n=50, seed=4, earlier=tmp_path / "a", repeats=20
    )
    sites = geopandas.read_file(tmp_path / "b" / "sites.gpkg")
    assert len(sites) == 50
    assert not sites.duplicated(["map_row", "map_col"]).any()
    assert sites["round"].tolist() == [1] * 30 + [2] * 20
    assert np.array_equal(both.sites[["row", "col"]][:30], first.sites[["row", "col"]])
    assert set(sites["known"]) == {"estimated"}
    # no unit lacks pixels for both rounds, so the expectation is the sum of both plans'
    frame = both.ground.frame
    plans = [plan_units(frame, each.sites).expected for each in both.rounds]
    roomy = frame.units.pixels >= 6
    assert both.chances.expected[roomy] == pytest.approx(sum(plans)[roomy], abs=1e-9)
    third = place_sites(**words, n=55, earlier=tmp_path / "b", repeats=5)
    assert third.number.tolist() == [1] * 30 + [2] * 20 + [3] * 5
    other = {**words, "unit": 500}
    with pytest.raises(LabelError, match="drawn from another frame"):
        place_sites(**other, n=60, earlier=tmp_path / "a")
    with pytest.raises(LabelError, match="too few sites"):
        place_sites(**words, n=20, earlier=tmp_path / "a")
    kept = geopandas.read_file(tmp_path / "a" / "sites.gpkg").iloc[1:]
    kept.to_file(tmp_path / "a" / "sites.gpkg")
    with pytest.raises(LabelError, match="gone, or there twice"):
        place_sites(**words, n=60, earlier=tmp_path / "a")
    with pytest.raises(LabelError, match="cannot be read"):
        place_sites(**words, n=60, earlier=tmp_path / "none")


def test_a_top_up_keeps_its_distance_from_what_was_there(
    words: dict[str, Any], tmp_path: Path
) -> None:
    place_sites(**words, out=tmp_path / "a", n=30, seed=4)
    more: dict[str, Any] = {"n": 45, "spacing": 800, "earlier": tmp_path / "a", "per_unit": 3}
    found = [place_sites(**words, **more, seed=k, repeats=1) for k in range(12)]
    for placed in found:
        at = np.stack([placed.sites["row"], placed.sites["col"]], axis=1) * 100.0
        new = at[placed.number == 2]
        apart = np.linalg.norm(new[:, None] - at[None], axis=2)
        apart[np.arange(len(new)), np.flatnonzero(placed.number == 2)] = np.inf
        assert apart.min() > 790  # metres of the projection
    kept = np.mean([len(placed.sites) for placed in found])
    assert kept < 40
    many = place_sites(**words, **more, repeats=60)
    assert many.chances.expected.sum() == pytest.approx(kept, rel=0.04)


def test_hot_spots_have_no_weights(words: dict[str, Any], tmp_path: Path) -> None:
    one, same = (place_sites(**words, n=40, mode="top", seed=s) for s in (1, 2))
    assert np.array_equal(np.sort(one.sites["unit"]), np.sort(same.sites["unit"]))
    place_sites(**words, out=tmp_path / "top", n=40, mode="top")
    sites = geopandas.read_file(tmp_path / "top" / "sites.gpkg")
    assert sites["weight"].isna().all()
    assert any("not drawn at random" in note for note in one.notes)


@pytest.mark.parametrize(
    ("settings", "error", "match"),
    [
        ({"n": 5}, LabelError, "too few sites for the least"),
        ({"n": 5000}, LabelError, "more sites than there is room for"),
        ({"n": 40, "unit": 250}, LabelError, "not a multiple of the pixel size"),
        ({"n": 40, "unit": 10_000}, AreaError, "units are larger than regions"),
        ({"n": 40, "mode": "best"}, LabelError, "no such selection"),
        ({"n": 40, "spacing": float("nan")}, LabelError, "distance between sites"),
        ({"n": 40, "spacing": -1}, LabelError, "distance between sites"),
        ({"n": 40, "repeats": 0}, LabelError, "repeats must be 1"),
        ({"n": 40, "seed": -1}, LabelError, "a seed must be"),
        ({"n": 40, "unknown": [1, 2, 3]}, LabelError, "no pixel of the map has a class"),
    ],
)
def test_what_makes_no_sense_is_refused(
    settings: dict[str, Any],
    error: type[Exception],
    match: str,
    words: dict[str, Any],
    tmp_path: Path,
) -> None:
    with pytest.raises(error, match=match):
        place_sites(**{**words, **settings}, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_regions_that_overlap_or_miss_the_map_are_refused(
    words: dict[str, Any], tmp_path: Path
) -> None:
    box = shapely.box(4_400_000, 2_996_000, 4_403_000, 3_000_000)
    for name, shapes, match in (
        ("overlap", [box, shapely.transform(box, lambda xy: xy + 500)], "regions overlap"),
        ("miss", [shapely.transform(box, lambda xy: xy + 100_000)], "no region meets the map"),
    ):
        path = tmp_path / f"{name}.gpkg"
        geopandas.GeoDataFrame(geometry=shapes, crs="EPSG:3035").to_file(path)
        with pytest.raises(AreaError, match=match):
            place_sites(words["place"], n=40, regions=path, unit=1000)


def test_settings_of_another_sample_are_refused(folder: Path, tmp_path: Path) -> None:
    for settings, match in (
        ({"purpose": "training", "standard_error": 0.1, "n": 9}, "not a setting of a sample for t"),
        ({"purpose": "accuracy", "spacing": 10.0}, "not a setting of a sample for accuracy"),
        ({"purpose": "training"}, "needs its number of sites"),
        ({"purpose": "fun"}, "no such purpose"),
    ):
        with pytest.raises(RecipeError, match=match):
            engine.sample(folder / "map.tif", tmp_path / "out", **settings)  # type: ignore[arg-type]
    told = CliRunner().invoke(app, ["sample", str(folder / "map.tif")])
    assert isinstance(told.exception, RecipeError)
    assert "needs a purpose and a folder" in str(told.exception)


def test_real_land_cover_of_a_country(data: Path, tmp_path: Path) -> None:
    """1,602 sites of China: what the equations leave out, and where sites are dense."""
    countries = geopandas.read_file(data / "boundaries" / "ne_110m_admin_0_countries.json")
    china = countries[countries["ADM0_A3"] == "CHN"][["ADM0_A3", "geometry"]]
    china.to_file(tmp_path / "china.gpkg")
    words: dict[str, Any] = {
        "place": data / "land-cover" / "mcd12c1-2019-igbp.tif",
        "n": 1602,
        "regions": tmp_path / "china.gpkg",
        "grid": 5.0,
        "unit": 0.5,
    }
    written = place_sites(**words, least=0, least_of_class=0, per_unit=100)
    assert np.array_equal(written.strata.sites, written.strata.equations)
    assert (written.strata.sites == 0).mean() > 0.4
    placed = place_sites(**words)
    assert placed.strata.sites.sum() == len(placed.sites) == 1602
    assert (placed.strata.sites > 0).all()
    where = shapely.union_all(china.geometry)
    # sites on China's border have their centres in it
    at = placed.found.source.transform
    x = at.a * (placed.sites["col"] + 0.5) + at.c
    y = at.e * (placed.sites["row"] + 0.5) + at.f
    assert shapely.contains_xy(where, x, y).all()
    # the paper's figure has more sites in the east; its density by area
    units = placed.found.by_unit
    east = units.col * 0.5 - 180 >= 105
    dense = (x >= 105).sum() / units.area[east].sum()
    assert dense > 1.2 * (x < 105).sum() / units.area[~east].sum()
