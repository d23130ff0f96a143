"""Filters, classes, masks against brute force and the published anchors."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import RecipeError
from engine.grid import Grid, Tile
from engine.legend import LCZ, Reason, parse_class
from engine.maps.cells import (
    NO_DISSENT,
    cell_dissent,
    cell_observations,
    cell_reason,
    classify,
)
from engine.maps.filter import filter_halo, gaussian_filter, gaussian_kernel, majority_filter
from engine.maps.mask import Boundary, inside


def filtered(classes: np.ndarray, rule: str) -> np.ndarray:
    halo = filter_halo("gaussian", 100.0, rule)  # type: ignore[arg-type]
    return gaussian_filter(np.pad(classes, halo), 100.0, rule)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("code", "rule", "side", "centre"),
    [
        (1, "ee", 3, 0.2042),
        (1, "floor", 5, 0.1621),
        (5, "ee", 5, 0.0853),
        (5, "floor", 7, 0.0733),
        (8, "ee", 9, 0.0294),
        (8, "floor", 11, 0.0269),
        (11, "ee", 3, 0.3012),
        (11, "floor", 5, 0.2831),
        (17, "ee", 1, 1.0),
        (17, "floor", 1, 1.0),
    ],
)
def test_published_kernels(code: int, rule: str, side: int, centre: float) -> None:
    kernel = gaussian_kernel(code, 100.0, rule) / 2.0**40  # type: ignore[arg-type]
    assert kernel.shape == (side, side)
    assert kernel.sum() == pytest.approx(1.0, abs=1e-9)
    assert kernel[side // 2, side // 2] == pytest.approx(centre, abs=5e-5)


@pytest.mark.parametrize("rule", ["ee", "floor"])
def test_published_anchors(rule: str) -> None:
    def block(around: int, code: int, side: int) -> int:
        scene = np.full((31, 31), around, np.uint8)
        scene[15 : 15 + side, 15 : 15 + side] = code
        return int((filtered(scene, rule) == code).sum())

    ee = rule == "ee"
    assert block(6, 17, 1) == 1
    assert block(6, 8, 1) == 0
    assert block(11, 6, 1) == 0
    assert block(6, 11, 1) == 0
    assert block(6, 11, 2) == 0
    assert block(6, 11, 3) == (9 if ee else 5)
    assert block(6, 8, 3) == 0
    assert block(6, 8, 5) == (13 if ee else 9)
    for left, right in [(6, 8), (6, 11), (2, 17)]:
        scene = np.full((31, 31), left, np.uint8)
        scene[:, 15:] = right
        assert (filtered(scene, rule)[8:-8] == scene[8:-8]).all()


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from(["ee", "floor"]))
def test_the_filter_is_brute_force_in_any_chunks(seed: int, rule: str) -> None:
    rng = np.random.default_rng(seed)
    classes = rng.choice([0, 2, 5, 6, 8, 11, 14, 17], (47, 41)).astype(np.uint8)
    halo = filter_halo("gaussian", 100.0, rule)  # type: ignore[arg-type]
    whole = filtered(classes, rule)
    padded = np.pad(classes, halo)
    for y, x in [(0, 0), (13, 7), (46, 40), (20, 33)]:
        scores = {}
        for code in range(1, 18):
            kernel = gaussian_kernel(code, 100.0, rule)  # type: ignore[arg-type]
            k = len(kernel) // 2
            window = padded[y + halo - k : y + halo + k + 1, x + halo - k : x + halo + k + 1]
            scores[code] = int((kernel * (window == code)).sum())
        top = max(scores.values())
        own = int(classes[y, x])
        best = own if scores.get(own) == top else min(c for c, s in scores.items() if s == top)
        assert whole[y, x] == (best if own else 0)
    for step in (37, 10):
        for top_row in range(0, 47, step):
            for left in range(0, 41, step):
                window = padded[top_row : top_row + step + 2 * halo, left : left + step + 2 * halo]
                part = gaussian_filter(window, 100.0, rule)  # type: ignore[arg-type]
                expected = whole[top_row : top_row + step, left : left + step]
                assert (part == expected).all()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 3))
def test_majority_is_brute_force(seed: int, radius: int) -> None:
    rng = np.random.default_rng(seed)
    classes = rng.choice([0, 1, 6, 17], (14, 11)).astype(np.uint8)
    padded = np.pad(classes, radius)
    found = majority_filter(padded, radius)
    for y, x in np.ndindex(14, 11):
        window = padded[y : y + 2 * radius + 1, x : x + 2 * radius + 1]
        votes = np.bincount(window[window > 0], minlength=18)
        own = int(classes[y, x])
        best = own if votes[own] == votes.max() else int(votes.argmax())
        assert found[y, x] == (best if own else 0)


def test_class_and_confidence() -> None:
    scores = np.zeros((3, 1, 4), np.float32)
    scores[:, 0, 0] = [0.2, 0.5, 0.3]
    scores[:, 0, 1] = [0.4, 0.4, 0.2]
    scores[:, 0, 2] = np.nan
    scores[:, 0, 3] = [0.0, 0.0, 1.0]
    classes, confidence = classify(scores, (2, 6, 17))
    assert classes.tolist() == [[6, 2, 0, 17]]
    assert confidence.tolist() == [[50, 40, 255, 100]]


def test_observations_of_a_cell_are_the_median() -> None:
    pixels = np.random.default_rng(0).integers(0, 9, (30, 50)).astype(np.uint16)
    found = cell_observations(pixels, 10)
    assert found.shape == (3, 5)
    assert found[1, 2] == np.rint(np.median(pixels[10:20, 20:30]))


def test_dissent_of_a_cell_is_the_share_of_its_looks() -> None:
    rng = np.random.default_rng(1)
    seen = rng.integers(0, 5, (30, 40)).astype(np.uint16)
    seen[:10, :10] = 1
    parted = rng.integers(0, 3, seen.shape).astype(np.uint8) * (seen > 1)
    parted = np.minimum(parted, seen).astype(np.uint8)
    found = cell_dissent(parted, seen, 10)
    assert found[0, 0] == NO_DISSENT
    for r, c in np.argwhere(found != NO_DISSENT):
        cell = np.s_[10 * r : 10 * r + 10, 10 * c : 10 * c + 10]
        share = parted[cell].sum() / seen[cell][seen[cell] > 1].sum()
        assert found[r, c] == round(100 * share)
    assert (found != NO_DISSENT).sum() >= 8


def test_reasons_of_cells() -> None:
    pixels = np.zeros((10, 40), np.uint8)
    pixels[:5, 10:20] = Reason.ALL_CLOUD
    pixels[0, 10] = Reason.READ_FAILED
    pixels[:, 20:30] = Reason.ALL_CLOUD
    pixels[:, 30:] = Reason.NO_SCENE
    found = cell_reason(np.array([[0, 0, 5, 0]], np.uint8), pixels, 10)
    assert found.tolist() == [
        [Reason.TOO_FEW_VALID, Reason.READ_FAILED, Reason.DATA, Reason.NO_SCENE]
    ]


@settings(max_examples=20, deadline=None)
@given(
    st.floats(-500, 4000), st.floats(-4000, 500), st.floats(100, 2000), st.sampled_from([10, 100])
)
def test_the_mask_goes_by_cell_centre_whatever_the_tile(
    x: float, y: float, radius: float, cell: int
) -> None:
    polygons = [shapely.Point(x, y).buffer(radius), shapely.box(100, -450, 450, -100)]
    masks = []
    for tile in (1600.0, 3200.0):
        grid = Grid.fit((0, -3200, 3200, 0), crs="EPSG:5179", tile_size=tile)
        boundary = Boundary(polygons, grid)
        whole = np.zeros(grid.array_shape(cell), bool)
        for t in grid.tiles():
            window = grid.window(t, cell)
            whole[window.rows, window.cols] = inside(boundary.near(t)[0], grid, t, cell)
        masks.append(whole)
    centres = cell * (0.5 + np.arange(3200 // cell))
    xx, yy = np.meshgrid(centres, -centres)
    exact = np.zeros(xx.shape, bool)
    for polygon in polygons:
        exact |= shapely.intersects_xy(polygon, xx, yy)
    assert (masks[0] == exact).all()
    assert (masks[1] == exact).all()
    assert exact[100 // cell : 400 // cell, 100 // cell : 400 // cell].all()


def test_a_boundary_s_fingerprint_is_local() -> None:
    grid = Grid.fit((0, -3200, 3200, 0), crs="EPSG:5179", tile_size=1600)
    here, there = shapely.box(100, -500, 500, -100), shapely.box(2000, -3000, 2500, -2500)
    both, one = Boundary([here, there], grid), Boundary([here], grid)
    assert both.near(Tile(0, 0)) == one.near(Tile(0, 0))
    assert both.near(Tile(1, 1)) != one.near(Tile(1, 1))


def test_the_legend_is_whole() -> None:
    assert [c.code for c in LCZ] == list(range(1, 18))
    assert len({c.colour for c in LCZ}) == len({c.name for c in LCZ}) == 17
    for c in LCZ:
        assert parse_class(c.label) == parse_class(c.code) == c.code
    assert [parse_class(n) for n in range(101, 108)] == list(range(11, 18))
    assert parse_class("W") == 17
    for wrong in ("18", "H", "", "0"):
        with pytest.raises(RecipeError, match="unknown LCZ class"):
            parse_class(wrong)
