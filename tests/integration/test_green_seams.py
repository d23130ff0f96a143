"""The shipped network of green space shows no window: its map, and its logits, on an orthophoto."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from engine.infer.predict import Predictor
from engine.infer.segments import Lattice, segment_image
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


@cache
def logits(overlap: int) -> np.ndarray:
    """The town by windows that overlap by so much."""

    def read(rows: slice, cols: slice) -> tuple[np.ndarray, np.ndarray]:
        image = photo()[
            :, rows.start + REACH : rows.stop + REACH, cols.start + REACH : cols.stop + REACH
        ]
        return image, np.ones(image.shape[1:], bool)

    out = np.empty((SIZE, SIZE), np.float32)
    every = slice(0, SIZE)
    wanted = np.ones(out.shape, bool)
    lattice = Lattice(CARD.patch, overlap)
    for rows, strip, _ in segment_image(read, every, every, wanted, predictor().segment, lattice):
        out[rows] = strip
    return out


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
    chance = 1 / (1 + np.exp(-logits(CARD.overlap)))
    found = seams(chance, stride)
    # where a window begins, and where its neighbour ends
    assert np.abs(found[:, [0, CARD.overlap % stride]]).max() < 4
    # the meter would see them: windows laid edge to edge
    hard = seams(1 / (1 + np.exp(-logits(0))), CARD.patch)
    assert hard[:, 0].min() > 8


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
    inner = count == 1
    assert inner.mean() > 0.3
    assert np.abs(whole - least)[inner].max() < 1e-4 * spread
    assert (whole > least - 1e-4 * spread).all()
    assert (whole < most + 1e-4 * spread).all()
    # Attention looks at all of a window, so where two meet they differ: in a tenth of pixels of
    # the class (8 % were measured), most at their borders, where they count least.
    two = count == 2
    assert (most - least)[two].mean() < 0.5 * spread
    assert ((most > 0) != (least > 0))[two].mean() < 0.12
