"""Advice: truths with the errors that are stated, designs with the errors that theory gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import rasterio
from affine import Affine
from typer.testing import CliRunner

from engine.cli.app import app
from engine.errors import LabelError
from engine.sites.advising import advise
from engine.sites.allocation import frame_of
from engine.sites.designs import SampleDesign, designs_for, places_of, simulate
from engine.sites.drawing import Ground
from engine.sites.landscape import landscape
from engine.sites.patterns import make_truths, neighbours
from engine.sites.regions import RegionMap

AT = Affine(100, 0, 4_400_000, 0, -100, 3_000_000)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A map of 60 x 80 pixels: two common classes, one rare one, and some of none."""
    rng = np.random.default_rng(21)
    codes = np.kron(rng.choice([1, 2, 3], (12, 16), p=[0.6, 0.35, 0.05]), np.ones((5, 5), int))
    codes[-2:, -7:] = 0
    found = tmp_path_factory.mktemp("land") / "map.tif"
    form = {"height": 60, "width": 80, "count": 1, "dtype": "uint8", "nodata": 0}
    with rasterio.open(found, "w", driver="GTiff", crs="EPSG:3035", transform=AT, **form) as file:
        file.write(codes.astype(np.uint8), 1)
    return found


@pytest.fixture(scope="module")
def ground(path: Path) -> Ground:
    found = landscape(path, grid=4000.0, unit=1000)
    where = RegionMap(found.regions, found.source.transform, found.source.shape)
    return Ground(found.source, where, found.unit, frame_of(found.by_unit, found.by_class))


def test_neighbours_are_those_of_each_pixel(path: Path, ground: Ground) -> None:
    with rasterio.open(path) as file:
        codes = np.pad(file.read(1).astype(int), 1)
    found = neighbours(ground, np.array([1, 2, 3]))
    units, wanted = ground.frame.units, np.zeros_like(found)
    rows = {
        key: k
        for k, key in enumerate(zip(units.row, units.col, units.region, units.code, strict=True))
    }
    for y in range(60):
        for x in range(80):
            own = codes[y + 1, x + 1]
            if own:
                region = ground.regions.read(slice(y, y + 1), slice(x, x + 1))[0, 0]
                k = rows[y // 10, x // 10, region, own]
                for dy, dx in ((0, 1), (2, 1), (1, 0), (1, 2)):
                    other = codes[y + dy, x + dx]
                    if other not in (0, own):
                        wanted[k, other - 1] += 1
    assert np.array_equal(found, wanted)


def test_truths_have_the_errors_that_are_stated(ground: Ground) -> None:
    truths = {t.pattern: t for t in make_truths(ground, 0.9, np.random.default_rng(0))}
    units = ground.frame.units
    for truth in truths.values():
        assert np.array_equal(truth.counts.sum(axis=1), units.pixels)
        assert truth.accuracy == pytest.approx(0.9, abs=0.02)
    beside = neighbours(ground, truths["boundaries"].codes)
    own = np.arange(3)[None] == truths["boundaries"].mapped[:, None]
    assert not truths["boundaries"].counts[(beside == 0) & ~own].any()
    with_more = make_truths(ground, 0.2, np.random.default_rng(0))[0]
    # one of a pixel's neighbours at random: no more can be wrong than differ from it
    assert 1 - with_more.accuracy == pytest.approx(beside.sum() / 4 / units.pixels.sum(), abs=0.02)


def test_errors_of_designs_are_those_of_theory(ground: Ground) -> None:
    frame = ground.frame
    truth = make_truths(ground, 0.85, np.random.default_rng(1))[2]
    found = landscape(ground.source._path, grid=4000.0, unit=1000)  # type: ignore[attr-defined]
    designs, notes = designs_for(frame, found.by_region, 150)
    assert not notes
    of = {design.key: design for design in designs}
    assert {d.sizes.sum() for d in designs} == {150}
    repeats, rng = 2000, np.random.default_rng(2)
    cells = truth.counts.sum()
    for key in ("random", "map", "map-mixed", "regions", "lsi"):
        design = of[key]
        drawn = simulate(design, frame, truth, repeats, rng)
        # variance of a stratified mean without replacement (Cochran 1977, eq. 5.7)
        right = truth.counts[np.arange(len(frame.stratum)), truth.mapped]
        variance = 0.0
        for h, n in enumerate(design.sizes):
            here = design.stratum == h
            size = truth.counts[here].sum()
            p = right[here].sum() / size
            s2 = size / (size - 1) * p * (1 - p)
            variance += (size / cells) ** 2 * (1 - n / size) * s2 / n
        assert drawn.oa.std() == pytest.approx(np.sqrt(variance), rel=0.08), key
        assert abs(drawn.oa.mean() - truth.accuracy) < 5 * np.sqrt(variance / repeats), key
        away = np.abs(drawn.shares.mean(axis=0) - truth.shares)
        assert (away < 5 * drawn.shares.std(axis=0) / np.sqrt(repeats)).all(), key
    units = simulate(of["units"], frame, truth, repeats, rng)
    assert abs(units.oa.mean() - truth.accuracy) < 5 * units.oa.std() / np.sqrt(repeats)
    assert units.oa.std() > simulate(of["random"], frame, truth, repeats, rng).oa.std()
    after = simulate(of["after"], frame, truth, repeats, rng)
    plain = simulate(of["random"], frame, truth, repeats, rng)
    assert after.shares.std(axis=0)[0] < 0.8 * plain.shares.std(axis=0)[0]


def test_the_equations_as_written_leave_strata_out(ground: Ground) -> None:
    found = landscape(ground.source._path, grid=1500.0, unit=500, merge=0)  # type: ignore[attr-defined]
    where = RegionMap(found.regions, found.source.transform, found.source.shape)
    frame = frame_of(found.by_unit, found.by_class)
    truth = make_truths(
        Ground(found.source, where, found.unit, frame), 0.9, np.random.default_rng(3)
    )
    designs, _ = designs_for(frame, found.by_region, 150)
    written = next(design for design in designs if design.key == "lsi-0")
    assert (written.sizes == 0).sum() >= 3
    drawn = simulate(written, frame, truth[0], 300, np.random.default_rng(4))
    left = truth[0].counts[(written.sizes == 0)[written.stratum]].sum() / truth[0].counts.sum()
    assert drawn.shares.sum(axis=1) == pytest.approx(1 - left)


def test_places_are_those_of_draws(ground: Ground) -> None:
    frame = ground.frame
    _, place = np.unique(np.stack([frame.units.row, frame.units.col]), axis=1, return_inverse=True)
    pixels = np.repeat(np.arange(len(frame.stratum)), frame.units.pixels)
    rng = np.random.default_rng(6)
    for stratum, sizes in (
        (np.zeros(len(frame.stratum), np.int64), np.array([40])),
        (np.unique(frame.units.code, return_inverse=True)[1], np.array([20, 10, 5])),
    ):
        design = SampleDesign("a", "a", None, stratum, sizes)
        seen = []
        for _ in range(400):
            chosen = [
                rng.choice(np.flatnonzero(stratum[pixels] == h), n, replace=False)
                for h, n in enumerate(sizes)
            ]
            seen.append(len(np.unique(place.ravel()[pixels[np.concatenate(chosen)]])))
        error = np.std(seen) / np.sqrt(len(seen))
        assert abs(places_of(design, frame) - np.mean(seen)) < 5 * error


def test_advice_agrees_with_its_table(path: Path, tmp_path: Path) -> None:
    out = tmp_path / "advice"
    words = ["sample", str(path), "--advise", "--n", "150", "--grid", "4000", "--unit", "1000"]
    found = CliRunner().invoke(app, [*words, "--repeats", "200", "--out", str(out)])
    assert found.exit_code == 0, found.output
    told = json.loads((out / "advice.json").read_text())
    table = pandas.DataFrame(told["designs"])
    scores = {}
    for key, rows in table.groupby("design"):
        plain = table[table["design"] == "random"].set_index("pattern")
        mine = rows.set_index("pattern")
        ratios = [
            mine.loc[p, name]
            / plain.loc[p, name]
            * np.sqrt(mine.loc[p, "cost"] / plain.loc[p, "cost"])
            for p in mine.index
            for name in ("areas_rmse_percent", "oa_rmse_percent")
        ]
        scores[key] = float(np.exp(np.mean(np.log(ratios))))
    assert {k: pytest.approx(v, rel=2e-3) for k, v in scores.items()} == told["scores"]
    can = set(table[table["drawn_by"].notna()]["design"])
    assert told["best"] == min(can, key=lambda key: scores[key])
    title = table[table["design"] == told["best"]]["title"].iloc[0]
    assert f"smallest error for the cost: {title}" in found.stderr
    by_class = pandas.read_csv(out / "advice.csv")
    assert by_class["true_percent"].sum() == pytest.approx(100 * len(table), rel=1e-3)


def test_what_places_cost_changes_the_advice(path: Path) -> None:
    cheap, dear = (
        advise(path, n=150, grid=4000.0, unit=1000, repeats=30, place_cost=cost)
        for cost in (0.0, 50.0)
    )
    places = {row.key: row.places for row in dear.rows}
    fewest = min(places, key=lambda key: places[key])
    assert dear.scores[fewest] < cheap.scores[fewest]


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"n": 1}, "n must be 2"),
        ({"n": 100_000}, "no design can be drawn"),
        ({"n": 100, "accuracy": 1.0}, "accuracy must lie between"),
        ({"n": 100, "aim": "fun"}, "no such aim"),
        ({"n": 100, "repeats": 3}, "repeats must be 10"),
        ({"n": 100, "least": 1}, "least must be 2"),
        ({"n": 100, "place_cost": float("nan")}, "cost of a place"),
        ({"n": 100, "seed": -1}, "a seed must be"),
    ],
)
def test_what_makes_no_sense_is_refused(settings: dict[str, Any], match: str, path: Path) -> None:
    with pytest.raises(LabelError, match=match):
        advise(path, **settings)
