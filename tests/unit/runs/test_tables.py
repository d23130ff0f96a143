"""Tables merge along one tree; folds over layers equal numpy on the whole of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from support.folds import (
    AREAS,
    EDGES,
    LEAF,
    LOGS,
    areas_by_numpy,
    edges_by_numpy,
    map_by_numpy,
)

from engine.errors import RunError
from engine.grid import Grid
from engine.grid.grid import quad_order
from engine.runs.fold import Fold, first_block
from engine.runs.layers import ArrayLayer, RasterLayer, fold_layers
from engine.runs.tables import Column, merge_tree

squares = st.sets(st.tuples(st.integers(-40, 40), st.integers(-40, 40)), min_size=1, max_size=60)


def text_tree(places: set[tuple[int, int]]) -> str:
    """The tree of some squares, written with brackets by its definition: halving the plane."""

    def tree(found: list[tuple[int, tuple[int, int]]], bit: int) -> str:
        if len(found) == 1:
            return str(found[0][1])
        low = [f for f in found if not f[0] >> bit & 1]
        high = [f for f in found if f[0] >> bit & 1]
        if not low or not high:
            return tree(low or high, bit - 1)
        return f"({tree(low, bit - 1)} {tree(high, bit - 1)})"

    rows, cols = np.array(sorted(places)).T
    codes = quad_order(rows, cols).tolist()
    return tree(sorted(zip(codes, zip(rows.tolist(), cols.tolist(), strict=True), strict=True)), 62)


def brackets(one: dict, other: dict) -> dict:  # type: ignore[type-arg]
    return {"text": f"({one['text']} {other['text']})"}


@settings(max_examples=60, deadline=None)
@given(squares)
def test_leaves_merge_along_the_one_tree(places: set[tuple[int, int]]) -> None:
    """Merging as they come gives the tree that halving the plane defines."""
    rows, cols = np.array(sorted(places)).T
    codes = quad_order(rows, cols)
    leaves = [
        (int(codes[i]), {"text": str((int(rows[i]), int(cols[i])))}) for i in np.argsort(codes)
    ]
    merged = merge_tree(leaves, brackets)  # type: ignore[arg-type]
    assert merged is not None
    assert merged["text"] == text_tree(places)


def test_a_few_tables_are_held_however_many_there_are() -> None:
    alive, most = 0, 0

    class Counted:
        def __init__(self) -> None:
            nonlocal alive, most
            alive += 1
            most = max(most, alive)

        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    rows, cols = np.indices((128, 128)).reshape(2, -1)
    codes = np.sort(quad_order(rows, cols)).tolist()
    leaves = ((code, {"one": Counted()}) for code in codes)
    assert merge_tree(leaves, lambda a, b: {"one": Counted()}) is not None  # type: ignore[dict-item]
    assert most < 2 * np.log2(128 * 128)


@given(st.integers(-(2**30), 2**30 - 64), st.integers(-(2**30), 2**30 - 64), st.integers(0, 5))
def test_a_square_of_squares_lies_together(row: int, col: int, bits: int) -> None:
    side = 2**bits
    row, col = row // side * side, col // side * side
    codes = quad_order(row + np.arange(side)[:, None], col + np.arange(side)[None, :]).ravel()
    assert sorted(codes - codes.min()) == list(range(side**2))


def test_the_tree_lies_where_the_lattice_does() -> None:
    """An anchor that is moved by whole tiles is the same anchor."""
    bounds = (4030.0, -9000.0, 12_000.0, -1000.0)
    near, far = (
        Grid.fit(bounds, crs="EPSG:5179", tile_size=1600, anchor=anchor)
        for anchor in ((30.0, 70.0), (30.0 + 1600 * 5, 70.0 - 1600 * 3))
    )
    assert near.bounds == far.bounds
    assert first_block(near, 2) == first_block(far, 2)
    west, _, _, north = near.bounds
    assert first_block(near, 2) == (round((70 - north) / 800), round((west - 30) / 800))


# -- in this process --------------------------------------------------------------------------


@pytest.mark.parametrize("side", [13, 64, 2048])
@pytest.mark.parametrize("at", [(0, 0), (-7, 31)])
def test_layers_equal_numpy_on_the_whole(
    monkeypatch: pytest.MonkeyPatch, side: int, at: tuple[int, int]
) -> None:
    """Seams included: blocks of 13 pixels, with a halo, cut by the raster's edges."""
    monkeypatch.setattr("engine.runs.layers._SIDE", side)
    values = map_by_numpy(101, 67)
    everywhere = np.ones(values.shape, bool)
    layers = {"map/classes": ArrayLayer(values, 100.0, -1)}
    areas = fold_layers(AREAS, layers, at=at)
    assert (areas["cells"] == areas_by_numpy(values, everywhere)).all()
    assert areas["square_km"].sum() == pytest.approx(101 * 67 / 100)
    edges = fold_layers(EDGES, layers, at=at)
    assert (edges["edges"], edges["steepest"]) == edges_by_numpy(values, everywhere)
    logs = fold_layers(LOGS, layers, at=at)
    assert logs["mean"] == pytest.approx(np.log(np.maximum(values, 1)).mean(), rel=1e-5)


def test_floats_do_not_depend_on_what_is_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    values = map_by_numpy(101, 67)
    found = set()
    for side in (8, 13, 64, 2048):
        monkeypatch.setattr("engine.runs.layers._SIDE", side)
        table = fold_layers(LOGS, {"map/classes": ArrayLayer(values, 100.0)}, at=(5, -3))
        found.add(table["total"].tobytes())
    assert len(found) == 1
    # and another order would show
    other = fold_layers(replace(LOGS, leaf=LEAF / 2), {"map/classes": ArrayLayer(values, 100.0)})
    assert other["total"].tobytes() not in found


def test_a_raster_is_folded_on_its_own_grid(tmp_path: Path) -> None:
    values = map_by_numpy(70, 90).astype(np.int32)
    path = tmp_path / "map.tif"
    corner = Affine(30.0, 0, 1234.5, 0, -30.0, 77.7)
    with rasterio.open(
        path, "w", "GTiff", 90, 70, 1, "EPSG:5179", corner, "int32", nodata=-1
    ) as file:
        file.write(values, 1)
    with rasterio.open(path) as file:
        found = fold_layers(EDGES, {"map/classes": RasterLayer(file)})
    assert (found["edges"], found["steepest"]) == edges_by_numpy(values, np.ones((70, 90), bool))


def test_layers_of_other_pixels_cover_one_ground(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.runs.layers._SIDE", 64)
    fine, coarse = map_by_numpy(120, 80), map_by_numpy(12, 8, seed=2)

    def part(block):  # type: ignore[no-untyped-def]
        wide = np.kron(block.read("coarse"), np.ones((10, 10), np.int64))
        return {"sum": np.int64((wide * block.read("fine"))[block.inside("fine")].sum())}

    fold = Fold("both", (), (Column("sum", "int64"),), part)
    layers = {"fine": ArrayLayer(fine, 10.0), "coarse": ArrayLayer(coarse, 100.0)}
    expected = (np.kron(coarse, np.ones((10, 10), np.int64)) * fine).sum()
    assert fold_layers(fold, layers)["sum"] == expected
    with pytest.raises(RunError, match="does not cover the ground"):
        fold_layers(fold, layers | {"fine": ArrayLayer(fine[1:], 10.0)})


def test_a_leaf_that_cuts_pixels_is_refused() -> None:
    with pytest.raises(RunError, match="not a whole number of pixels"):
        fold_layers(LOGS, {"map/classes": ArrayLayer(map_by_numpy(9, 9), 300.0)})


# -- what a table may be ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ((), "cannot have"),
        ((Column("a", "U5"),), "cannot have"),
        ((Column("made", "int64"),), "cannot have"),
        ((Column("a", "int64", (("class", tuple(range(200_000))),)),), "too large"),
        ((Column("a", "float32"),), "of which blocks"),
    ],
)
def test_wrong_tables_are_refused(columns: tuple[Column, ...], words: str) -> None:
    with pytest.raises(RunError, match=words):
        Fold("wrong", (), columns, lambda block: {})


@pytest.mark.parametrize(
    "table",
    [
        {"cells": np.zeros(7, np.int32)},
        {"cells": np.zeros(6, np.int64)},
        {"cells": np.zeros(7, np.int64), "more": np.int64(0)},
    ],
)
def test_a_part_of_another_form_is_refused(table: dict) -> None:  # type: ignore[type-arg]
    fold = replace(AREAS, part=lambda block: table)
    with pytest.raises(RunError, match="part of fold areas has another form"):
        fold_layers(fold, {"map/classes": ArrayLayer(map_by_numpy(9, 9), 100.0)})
