"""The shipped network of green space shows no window: its map, and its logits, on an orthophoto."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from engine.infer.predict import Predictor
from engine.infer.windows import Lattice, segment_image
from engine.metrics import seam_ratio
from engine.models.card import find_card, load_card
from engine.models.inputs import prepare_image
from engine.synthetic.country import Country
from engine.synthetic.districts import World
from engine.synthetic.photo import take_photo

pytestmark = pytest.mark.slow

CARD = load_card(find_card("ugs-made-up", Path()))
SIZE, REACH = 960, 300  # px that are mapped; photo about them


@cache
def photo() -> np.ndarray:
    """A town that no training saw, prepared; from (-REACH, -REACH) on."""
    country = Country(World(2021), 3200, 3200)
    side = SIZE + 2 * REACH
    left, _, _, top = country.bounds
    rgb = take_photo(country.world, left, top, side, side)[:3]
    return prepare_image(rgb[None], np.ones((1, side, side), bool), CARD)[0]


@cache
def predictor() -> Predictor:
    return Predictor(CARD, device="cpu")


def segmented(out: np.ndarray, at: tuple[slice, slice], overlap: int, shift: int = 0) -> None:
    """Fill in a piece of the town; windows lie so many pixels further up and left."""

    def read(rows: slice, cols: slice) -> tuple[np.ndarray, np.ndarray]:
        y, x = (slice(s.start - shift + REACH, s.stop - shift + REACH) for s in (rows, cols))
        image = photo()[:, y, x]
        return image, np.ones(image.shape[1:], bool)

    rows, cols = (slice(s.start + shift, s.stop + shift) for s in at)
    wanted = np.ones((rows.stop - rows.start, cols.stop - cols.start), bool)
    lattice = Lattice(CARD.patch, overlap)
    for part, strip, _ in segment_image(read, rows, cols, wanted, predictor().segment, lattice):
        out[at][part] = strip


@cache
def logits(overlap: int, shift: int = 0) -> np.ndarray:
    """The town in one piece, by windows that overlap by so much."""
    out = np.empty((SIZE, SIZE), np.float32)
    segmented(out, (slice(0, SIZE), slice(0, SIZE)), overlap, shift)
    return out


def chance(values: np.ndarray) -> np.ndarray:
    found: np.ndarray = 1 / (1 + np.exp(-values))
    return found


def seams(values: np.ndarray, period: int) -> np.ndarray:
    """How far the lines of each phase stand out, in deviations of all phases; (2, period)."""
    found = []
    for turned in (values, values.T):
        ratios = np.array([seam_ratio(turned, first, period) for first in range(period)])
        found.append(
            (ratios - np.median(ratios)) / (1.4826 * np.median(np.abs(ratios - np.median(ratios))))
        )
    return np.array(found)


def test_no_line_of_windows_stands_out() -> None:
    stride = CARD.patch - CARD.overlap
    found = seams(chance(logits(CARD.overlap)), stride)
    # where a window begins, and where its neighbour ends
    assert np.abs(found[:, [0, CARD.overlap % stride]]).max() < 4
    # the meter would see them: windows laid edge to edge
    hard = seams(chance(logits(0)), CARD.patch)
    assert hard[:, 0].min() > 8


@pytest.mark.parametrize("first", [480, pytest.param(0, marks=pytest.mark.soak)])
def test_no_line_of_tiles_stands_out(first: int) -> None:
    """Of a part of the town: each tile takes all of its windows, so they are five times as many."""
    tile = 160  # no multiple of the stride, nor it of a tile
    edges = range(first, SIZE, tile)
    tiled = np.full((SIZE, SIZE), np.nan, np.float32)
    for top in edges:
        for left in edges:
            segmented(tiled, (slice(top, top + tile), slice(left, left + tile)), CARD.overlap)
    tiled = tiled[first:, first:]
    np.testing.assert_array_equal(tiled, logits(CARD.overlap)[first:, first:])
    assert np.abs(seams(chance(tiled), tile)[:, 0]).max() < 4
    # it would see tiles that are brighter and darker in turn by a thirtieth of the logits' spread
    number = np.arange(SIZE - first) // tile
    board = tiled.std() / 30 * (-1.0) ** (number[:, None] + number)
    assert seams(chance(tiled + board), tile)[:, 0].min() > 4


def test_where_windows_lie_matters_no_more_at_their_borders_than_inside() -> None:
    """Attention looks at all of a window: another lattice gives other logits (6 % of pixels get
    another class, half of them with logits below 0.5), everywhere alike: no seams."""
    side, overlap = CARD.patch, CARD.overlap
    stride = side - overlap
    mine, other = logits(overlap), logits(overlap, stride // 2)
    differ = (mine > 0) != (other > 0)
    assert np.abs(mine - other).mean() < 0.3 * mine.std()
    assert 0 < differ.mean() < 0.1
    assert differ[np.abs(mine) > 1].mean() < 0.04
    inside = np.arange(SIZE) % stride >= overlap  # of the first lattice's windows
    single = inside[:, None] & inside
    assert 0.7 < differ[single].mean() / differ[~single].mean() < 1.5


def test_blended_logits_lie_between_those_of_the_windows() -> None:
    side, overlap = CARD.patch, CARD.overlap
    stride = side - overlap
    whole = logits(overlap)
    least, most = np.full(whole.shape, np.inf), np.full(whole.shape, -np.inf)
    count = np.zeros(whole.shape, int)
    for top in range(-stride, SIZE, stride):
        for left in range(-stride, SIZE, stride):
            window = photo()[
                :, top + REACH : top + REACH + side, left + REACH : left + REACH + side
            ]
            mine = predictor().segment(np.ascontiguousarray(window[None]))[0]
            to = np.s_[max(top, 0) : min(top + side, SIZE), max(left, 0) : min(left + side, SIZE)]
            of = np.s_[to[0].start - top : to[0].stop - top, to[1].start - left : to[1].stop - left]
            least[to] = np.minimum(least[to], mine[of])
            most[to] = np.maximum(most[to], mine[of])
            count[to] += 1
    spread = float(whole.std())
    assert (count == 1).mean() > 0.3  # there a window's own logits are the map's
    assert (whole > least - 1e-4 * spread).all()
    assert (whole < most + 1e-4 * spread).all()
    # Attention looks at all of a window, so where two meet they differ: in a tenth of pixels of
    # the class (8 % were measured), most at their borders, where they count least.
    two = count == 2
    assert (most - least)[two].mean() < 0.5 * spread
    assert ((most > 0) != (least > 0))[two].mean() < 0.12
