"""Samples in strata that are not the map's classes: their sizes, and what they estimate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from typer.testing import CliRunner

from engine.cli.app import app
from engine.compare.estimates import by_strata, poststrata, stratified
from engine.compare.sample import judge
from engine.compare.sample_files import read_sample, weights_of
from engine.errors import LabelError, MetricError
from engine.sites.strata import sample_strata, sizes_of

AT = Affine(100, 0, 4_400_000, 0, -100, 3_000_000)


def write(path: Path, codes: np.ndarray, nodata: int = 0) -> Path:
    height, width = codes.shape
    form = {"height": height, "width": width, "count": 1, "dtype": "uint8", "nodata": nodata}
    with rasterio.open(path, "w", driver="GTiff", crs="EPSG:3035", transform=AT, **form) as file:
        file.write(codes.astype(np.uint8), 1)
    return path


@pytest.fixture(scope="module")
def codes() -> np.ndarray:
    """Zones 2, 6 and 14 in patches, a few cells of 17, and a corner of none."""
    rng = np.random.default_rng(11)
    found = np.kron(rng.choice([2, 6, 14], (10, 15)), np.ones((6, 6), int))
    found[5:7, 5:7] = 17
    found[:3, :3] = 0
    return found


@pytest.fixture(scope="module")
def truth(codes: np.ndarray) -> np.ndarray:
    """What is there: a tenth of the cells is of another class, more of them in the east."""
    rng = np.random.default_rng(12)
    found = codes.copy()
    wrong = rng.random(codes.shape) < np.linspace(0, 0.2, codes.shape[1])
    found[wrong] = rng.choice([2, 6, 11], int(wrong.sum()))
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, codes: np.ndarray) -> Path:
    made = tmp_path_factory.mktemp("zones")
    write(made / "map.tif", codes)
    halves = [
        shapely.box(4_400_000, 2_994_000, 4_404_000, 3_000_000),
        shapely.box(4_404_000, 2_994_000, 4_409_000, 3_000_000),
    ]
    frame = geopandas.GeoDataFrame({"name": ["west", "east"]}, geometry=halves, crs="EPSG:3035")
    frame.to_file(made / "halves.gpkg")
    rows = np.repeat(np.arange(60)[:, None] // 20, 90, axis=1)
    write(made / "strata.tif", rows, 255)
    return made


def fill_in(folder: Path, truth: np.ndarray) -> None:
    path = folder / "sample.geojson"
    at = json.loads((folder / "design.json").read_text())["at"]
    text = json.loads(path.read_text())
    for feature in text["features"]:
        row, col = at[feature["properties"]["id"] - 1]
        feature["properties"]["lcz"] = int(truth[row, col])
    path.write_text(json.dumps(text))


def test_the_published_example() -> None:
    """Stehman 2014, the numerical example of 40 cells in four strata."""
    strata, mapped = (
        "A" * 10 + "B" * 10 + "C" * 10 + "D" * 10,
        ("A" * 7 + "B" * 3 + "A" + "B" * 11 + "C" * 6 + "B" * 2 + "D" * 10),
    )
    reference = "AAAAACBABCABBBBBAABBCCCCCDDBBADDDDDDDCCB"
    counts = np.zeros((4, 4, 4), np.int64)
    for h, m, r in zip(strata, mapped, reference, strict=True):
        counts["ABCD".index(h), "ABCD".index(m), "ABCD".index(r)] += 1
    found = by_strata(counts, [40_000, 30_000, 20_000, 10_000], 1e-5)
    assert found.areas[[0, 2]] == pytest.approx([0.35, 0.20])
    assert found.oa == pytest.approx(0.63)
    assert found.users[1] == pytest.approx(0.574, abs=5e-4)
    assert found.producers[1] == pytest.approx(0.794, abs=5e-4)
    assert found.areas_ci[[0, 2]] / 1.96 == pytest.approx([0.082, 0.064], abs=5e-4)
    assert found.oa_ci / 1.96 == pytest.approx(0.085, abs=5e-4)
    assert found.users_ci[1] / 1.96 == pytest.approx(0.125, abs=5e-4)
    # the variance of a ratio as the paper has it, of cells one by one
    y = np.array([m == r == "B" for m, r in zip(mapped, reference, strict=True)], float)
    x = np.array([r == "B" for r in reference], float)
    ratio, total, variance = found.producers[1], 0.0, 0.0
    for k, cells in enumerate((40_000, 30_000, 20_000, 10_000)):
        here = slice(10 * k, 10 * k + 10)
        (yy, yx), (_, xx) = np.cov(y[here], x[here])
        total += cells * x[here].mean()
        variance += cells**2 * (1 - 10 / cells) / 10 * (yy + ratio**2 * xx - 2 * ratio * yx)
    assert found.producers_ci[1] / 1.96 == pytest.approx(np.sqrt(variance) / total)


def test_where_strata_are_the_map_s_classes_both_estimators_agree() -> None:
    counts = np.array([[30, 3, 1], [2, 40, 4], [0, 1, 20]])
    cells = np.array([4_000_000, 2_000_000, 600_000])
    apart = np.zeros((3, 3, 3), np.int64)
    for k in range(3):
        apart[k, k] = counts[k]
    one, other = by_strata(apart, cells), stratified(counts, cells)
    for name in ("oa", "oa_ci", "users", "users_ci", "producers", "producers_ci", "areas"):
        assert getattr(one, name) == pytest.approx(getattr(other, name), rel=1e-4), name
    assert one.areas_ci == pytest.approx(other.areas_ci, rel=1e-4)


def test_a_stratum_of_one_cell_of_many_has_no_spread() -> None:
    counts = np.zeros((2, 2, 2))
    counts[0, 0, 0], counts[1, 1, 1] = 5, 1
    with pytest.raises(MetricError, match="too few or too many samples in a stratum"):
        by_strata(counts, [10, 10])
    assert by_strata(counts, [5, 1]).oa_ci == 0  # both whole


def test_intervals_cover_the_truth_and_estimates_are_unbiased(
    codes: np.ndarray, truth: np.ndarray
) -> None:
    """Of 1,000 samples in strata of columns and rows that know nothing of the classes."""
    rng = np.random.default_rng(0)
    stratum = (np.arange(90)[None] // 30 * 3 + np.arange(60)[:, None] // 20).ravel()
    names, both = np.unique(np.stack([codes, truth]), return_inverse=True)
    mapped, reference = both.reshape(2, -1)
    k = len(names)
    cells = np.bincount(stratum)
    sizes = sizes_of(cells, 180, "mixed")
    right = np.bincount(reference, minlength=k)
    covered, areas, oa = [], [], []
    for _ in range(1000):
        counts = np.zeros((len(cells), k, k), np.int64)
        for h, size in enumerate(sizes):
            drawn = rng.choice(np.flatnonzero(stratum == h), size, replace=False)
            np.add.at(counts[h], (mapped[drawn], reference[drawn]), 1)
        found = by_strata(counts, cells)
        covered.append(abs(found.oa - (mapped == reference).mean()) <= found.oa_ci)
        areas.append(found.areas)
        oa.append(found.oa)
    assert 0.9 < np.mean(covered) < 0.98
    standard_error = np.std(areas, axis=0) / np.sqrt(1000)
    away = (np.mean(areas, axis=0) - right) / np.maximum(standard_error, 1e-9)
    assert (away**2).sum() < 40  # chi-square of k - 1 = 5 degrees of freedom, 1e-6 is 36
    assert abs(np.mean(oa) - (mapped == reference).mean()) < 5 * np.std(oa) / np.sqrt(1000)


@pytest.mark.parametrize(
    "settings",
    [
        {"regions": True, "allocation": "proportional", "n": 60},
        {"regions": True, "allocation": "lsi", "n": 60},
        {"grid": 3000.0, "allocation": "mixed", "n": 80},
        {"strata": True, "n": 60},
        {"regions": True, "strata": True, "n": 60},
        {"allocation": "random", "n": 60},
    ],
)
def test_a_sample_is_drawn_and_judged(
    settings: dict[str, Any], folder: Path, codes: np.ndarray, truth: np.ndarray, tmp_path: Path
) -> None:
    settings = dict(settings)
    if settings.get("regions"):
        settings |= {"regions": folder / "halves.gpkg", "field": "name"}
    if settings.get("strata"):
        settings["strata"] = folder / "strata.tif"
    out = tmp_path / "sample"
    design = sample_strata(folder / "map.tif", out, **settings)
    assert design.sizes.sum() == settings["n"]
    assert (design.sizes >= np.minimum(2, design.cells)).all()
    assert design.cells.sum() == (codes > 0).sum()
    assert "mapped" not in (out / "sample.geojson").read_text()
    told = json.loads((out / "design.json").read_text())
    at, stratum = np.array(told["at"]), np.array(told["stratum"])
    assert len(np.unique(at, axis=0)) == settings["n"]
    # each cell lies in the stratum that it is said to be of
    for (row, col), h in zip(at, stratum, strict=True):
        known = told["strata"][h]
        if settings.get("strata"):
            assert known["code"] == row // 20
        elif settings.get("allocation") != "random":
            assert known["code"] == codes[row, col]
        if settings.get("regions"):
            assert known["region"] == ("west" if col < 40 else "east")
    fill_in(out, truth)
    found = judge(folder / "map.tif", out)
    assert found.estimates.areas.sum() == pytest.approx((codes > 0).sum() * 0.01)
    inside = codes > 0
    right = (truth == codes)[inside].mean()
    # a single draw: five standard errors, with room for strata that weigh more than others
    assert abs(found.estimates.oa - right) < 7 * np.sqrt(right * (1 - right) / settings["n"])
    _, weight = weights_of(read_sample(out).design)
    assert weight.sum() == pytest.approx(inside.sum())


def test_all_cells_looked_at_leave_nothing_uncertain(
    codes: np.ndarray, truth: np.ndarray, tmp_path: Path
) -> None:
    codes, truth = codes[:24, :30], truth[:24, :30]
    inside = codes > 0
    path = write(tmp_path / "small.tif", codes)
    sample_strata(path, tmp_path / "all", n=int(inside.sum()), grid=1000.0)
    fill_in(tmp_path / "all", truth)
    found = judge(path, tmp_path / "all")
    assert found.estimates.oa == pytest.approx((truth == codes)[inside].mean())
    assert found.estimates.oa_ci == pytest.approx(0, abs=1e-9)
    true = [float((truth[inside] == c).sum() * 0.01) for c in found.classes]
    assert found.estimates.areas == pytest.approx(true)
    assert found.estimates.areas_ci == pytest.approx(0, abs=1e-9)


def test_classes_of_a_random_sample_are_strata_after_the_fact() -> None:
    # 2 and 3 have too few cells of the sample, and are one stratum; 4 is not on the map
    found = poststrata([30, 20, 1, 1, 0], [3000, 2000, 90, 50, 0])
    assert found.tolist() == [0, 1, 2, 2, -1]
    # alone too few: the class with the fewest others joins it
    assert poststrata([30, 20, 0], [3000, 2000, 9]).tolist() == [0, 1, 1]
    assert poststrata([30, 20, 1], [3000, 2000, 1]).tolist() == [0, 1, 2]


def test_regions_that_do_not_cover_the_map_are_told(
    folder: Path, codes: np.ndarray, tmp_path: Path
) -> None:
    west = geopandas.read_file(folder / "halves.gpkg").iloc[:1]
    west.to_file(tmp_path / "west.gpkg")
    design = sample_strata(folder / "map.tif", tmp_path / "s", regions=tmp_path / "west.gpkg", n=40)
    assert design.outside == 60 * 50
    assert any(note.startswith("3000 of ") for note in design.notes)
    fill_in(tmp_path / "s", codes)
    found = judge(folder / "map.tif", tmp_path / "s")
    assert found.estimates.oa == 1
    assert found.estimates.areas.sum() == pytest.approx((codes[:, :40] > 0).sum() * 0.01)
    assert any(note.startswith("3000 cells of the map lie in no stratum") for note in found.notes)


def test_sizes_by_hand() -> None:
    cells = np.array([600, 300, 100])
    assert sizes_of(cells, 100, "proportional").tolist() == [60, 30, 10]
    assert sizes_of(cells, 60, "mixed").tolist() == [28, 19, 13]  # 36 18 6 and 20 20 20
    assert sizes_of(np.array([997, 2, 1]), 100, "proportional").tolist() == [97, 2, 1]


@pytest.mark.parametrize(
    ("settings", "error", "match"),
    [
        ({"regions": "halves.gpkg", "n": 5}, LabelError, "too few cells for the strata"),
        ({"n": 10_000}, LabelError, "more cells than the map has"),
        ({"n": 1}, LabelError, "n must be 2 or more"),
        ({"n": 50, "least": 1}, LabelError, "least must be 2"),
        ({"n": 50, "allocation": "best"}, LabelError, "no such allocation"),
        ({"n": 50, "allocation": "lsi", "strata": "strata.tif"}, LabelError, "of the map's own"),
        ({"n": 50, "allocation": "random", "grid": 2000.0}, LabelError, "no strata"),
        ({"n": 50, "strata": "none.tif"}, LabelError, "strata cannot be read"),
        ({"strata": "strata.tif", "users": 1.0}, LabelError, "users must lie between"),
    ],
)
def test_what_makes_no_sense_is_refused(
    settings: dict[str, Any],
    error: type[Exception],
    match: str,
    folder: Path,
    tmp_path: Path,
) -> None:
    told = {k: folder / v if k in ("regions", "strata") else v for k, v in settings.items()}
    with pytest.raises(error, match=match):
        sample_strata(folder / "map.tif", tmp_path / "out", **told)
    assert not (tmp_path / "out").exists()


def test_strata_that_are_no_codes_are_refused(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "slope.tif"
    form = {"height": 60, "width": 90, "count": 1, "dtype": "float32"}
    with rasterio.open(path, "w", driver="GTiff", crs="EPSG:3035", transform=AT, **form) as file:
        file.write(np.full((60, 90), 0.5, np.float32), 1)
    with pytest.raises(LabelError, match="holds what is not a code"):
        sample_strata(folder / "map.tif", tmp_path / "out", strata=path, n=50)


def test_the_command_draws_in_strata_and_evaluates(
    folder: Path, truth: np.ndarray, tmp_path: Path
) -> None:
    out = tmp_path / "look"
    words = ["sample", str(folder / "map.tif"), "--for", "accuracy", "--out", str(out)]
    more = ["--regions", str(folder / "halves.gpkg"), "--field", "name", "--n", "70"]
    found = CliRunner().invoke(app, [*words, *more, "--allocation", "lsi"])
    assert found.exit_code == 0, found.output
    assert "70 cells of" in found.stderr
    fill_in(out, truth)
    shown = CliRunner().invoke(app, ["evaluate", str(folder / "map.tif"), str(out)])
    assert shown.exit_code == 0, shown.output
    assert "overall accuracy" in shown.output
