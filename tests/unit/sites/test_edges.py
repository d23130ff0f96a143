"""Counts of pixels and edges, against a count that looks at each side of each pixel."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.sites.edges import NOWHERE, PIECE, count_block


def by_hand(
    labels: np.ndarray, classes: int, unit: int
) -> tuple[
    Counter[tuple[int, ...]], Counter[tuple[int, ...]], Counter[int], Counter[tuple[int, ...]]
]:
    """Edges of classes, edges of pieces, outlines, pixels of pieces: of a whole raster."""
    edges: Counter[tuple[int, ...]] = Counter()
    pieces: Counter[tuple[int, ...]] = Counter()
    outline: Counter[int] = Counter()
    pixels: Counter[tuple[int, ...]] = Counter()
    for (y, x), label in np.ndenumerate(labels):
        if label == NOWHERE:
            continue
        region, kind = divmod(int(label), classes)
        key = (y // unit, x // unit, region, kind)
        pixels[key] += 1
        for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0)):
            v, u = y + dy, x + dx
            inside = 0 <= v < labels.shape[0] and 0 <= u < labels.shape[1]
            other = labels[v, u] if inside else NOWHERE
            edges[region, kind] += other != label
            outline[region] += other == NOWHERE or other // classes != region
            pieces[key] += other != label or (v // unit, u // unit) != key[:2]
    return edges, pieces, outline, pixels


def count_whole(
    labels: np.ndarray, classes: int, regions: int, unit: int, cuts: tuple[list[int], list[int]]
) -> tuple[np.ndarray, np.ndarray, dict[tuple[int, ...], tuple[int, int, int]]]:
    """Count by blocks that are cut at rows and columns, with their halos."""
    ring = np.pad(labels, 1, constant_values=NOWHERE).astype(np.int32)
    edges, outline = np.zeros((regions, classes), np.int64), np.zeros(regions, np.int64)
    pieces: dict[tuple[int, ...], np.ndarray] = {}
    ys, xs = ([0, *cut, n] for cut, n in zip(cuts, labels.shape, strict=True))
    for y, v in itertools.pairwise(ys):
        for x, u in itertools.pairwise(xs):
            if v > y and u > x:
                across = (u - 1) // unit - x // unit + 1
                weights = np.full((v - y, across), 3, np.int64)
                found = count_block(
                    ring[y : v + 2, x : u + 2], classes, regions, unit, (y, x), weights
                )
                edges += found.edges
                outline += found.outline
                for piece in found.pieces:
                    key = tuple(int(piece[n]) for n in ("row", "col", "region", "kind"))
                    value = np.array([int(piece[n]) for n in ("pixels", "edges", "area")])
                    pieces[key] = pieces.get(key, np.zeros(3, np.int64)) + value
    return edges, outline, {key: tuple(map(int, value)) for key, value in pieces.items()}


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_raster_any_blocks_any_units(data: st.DataObject) -> None:
    height, width = data.draw(st.integers(1, 17)), data.draw(st.integers(1, 17))
    classes, regions = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 3))
    unit, grain = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 6))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    coarse = rng.integers(NOWHERE, classes * regions, (height // grain + 1, width // grain + 1))
    labels = np.kron(coarse, np.ones((grain, grain), int))[:height, :width]
    cuts = tuple(
        sorted(data.draw(st.lists(st.integers(1, n), max_size=3))) for n in (height, width)
    )
    edges, pieces, outline, pixels = by_hand(labels, classes, unit)
    found_edges, found_outline, found = count_whole(labels, classes, regions, unit, cuts)
    for region in range(regions):
        assert found_outline[region] == outline[region]
        for kind in range(classes):
            assert found_edges[region, kind] == edges[region, kind]
    assert found == {key: (n, pieces[key], 3 * n) for key, n in pixels.items()}


def test_the_published_anchors() -> None:
    """Section 1 of the specification: a square, a strip, a checkerboard, two halves (8 x 8)."""
    board = np.indices((8, 8)).sum(axis=0) % 2
    edges, outline, _ = count_whole(board, 2, 1, 8, ([], []))
    assert edges.tolist() == [[128, 128]]
    assert outline.tolist() == [32]
    halves = np.repeat([[0] * 4 + [1] * 4], 8, axis=0)
    edges, outline, _ = count_whole(halves, 2, 1, 8, ([3], [5]))
    assert edges.tolist() == [[24, 24]]
    assert outline.tolist() == [32]
    edges, _, _ = count_whole(np.zeros((1, 16), int), 1, 1, 16, ([], []))
    assert edges.tolist() == [[34]]


def test_weights_go_by_row_and_unit() -> None:
    ring = np.full((4, 6), NOWHERE, np.int32)
    ring[1:3, 1:5] = 0
    weights = np.array([[1, 10], [100, 1000]], np.int64)
    found = count_block(ring, 1, 1, 2, (0, 0), weights)
    assert found.pieces.dtype == PIECE
    assert found.pieces["area"].tolist() == [202, 2020]


@pytest.mark.parametrize("grain", [1, 16])
def test_a_block_without_a_class_counts_nothing(grain: int) -> None:
    ring = np.full((grain + 2, grain + 2), NOWHERE, np.int32)
    found = count_block(ring, 3, 2, 4, (8, 8), np.ones((grain, 4), np.int64))
    assert not len(found.pieces)
    assert not found.edges.any()
    assert not found.outline.any()
