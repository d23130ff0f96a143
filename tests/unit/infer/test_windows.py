"""Windows on one lattice, blended: exact for convolutions, the same in every layout."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import convolve

from engine.infer.windows import Lattice, segment_image, to_percent

LATTICE = Lattice(64, 16)
rng = np.random.default_rng(0)
WORLD = rng.normal(size=(1, 600, 700)).astype(np.float32)
SEEN = rng.random((600, 700)) > 0.02
NORTH, WEST = -37, 1013  # of the world's corner in the grid's pixels
KERNEL = rng.normal(size=(3, 3)).astype(np.float32)


def read(rows: slice, cols: slice) -> tuple[np.ndarray, np.ndarray]:
    """A window of the world; beyond it there is nothing."""
    image = np.zeros((1, rows.stop - rows.start, cols.stop - cols.start), np.float32)
    valid = np.zeros(image.shape[1:], bool)
    r = np.arange(rows.start, rows.stop) - NORTH
    c = np.arange(cols.start, cols.stop) - WEST
    inside = np.ix_((r >= 0) & (r < 600), (c >= 0) & (c < 700))
    source = np.ix_(r[(r >= 0) & (r < 600)], c[(c >= 0) & (c < 700)])
    image[0][inside], valid[inside] = WORLD[0][source], SEEN[source]
    return image, valid


def smooth(windows: np.ndarray) -> np.ndarray:
    """A convolution that knows nothing beyond its window, as networks do."""
    assert 0 < windows.shape[0] <= 8
    return np.stack([convolve(w[0], KERNEL, mode="constant") for w in windows]).astype(np.float32)


def pixelwise(windows: np.ndarray) -> np.ndarray:
    return 3 * windows[:, 0] - 1


def whole(
    rows: slice,
    cols: slice,
    wanted: np.ndarray,
    predict: object,
    lattice: Lattice = LATTICE,
) -> tuple[np.ndarray, np.ndarray]:
    """All strips of a piece, put together."""
    logits = np.full(wanted.shape, np.nan, np.float32)
    scored = np.zeros(wanted.shape, bool)
    last = 0
    for part, values, good in segment_image(read, rows, cols, wanted, predict, lattice):  # type: ignore[arg-type]
        assert part.start == last
        last = part.stop
        logits[part], scored[part] = values, good
    assert last == wanted.shape[0]
    return logits, scored


def piece(top: int, left: int, height: int, width: int) -> tuple[slice, slice]:
    return slice(NORTH + top, NORTH + top + height), slice(WEST + left, WEST + left + width)


def test_blending_is_exact_where_the_network_sees_one_pixel() -> None:
    rows, cols = piece(10, 20, 300, 410)
    logits, scored = whole(rows, cols, np.ones((300, 410), bool), pixelwise)
    np.testing.assert_array_equal(scored, SEEN[10:310, 20:430])
    np.testing.assert_allclose(logits, 3 * WORLD[0, 10:310, 20:430] - 1, atol=2e-5)


def test_away_from_borders_a_convolution_is_that_of_the_whole_image() -> None:
    rows, cols = piece(10, 20, 300, 410)
    logits, _ = whole(rows, cols, np.ones((300, 410), bool), smooth)
    expected = convolve(WORLD[0], KERNEL, mode="constant")[10:310, 20:430]
    spread = float(expected.max() - expected.min())
    difference = np.abs(logits - expected)
    # only a window's outermost pixel misses neighbours, and it counts for nearly nothing
    assert float(difference.max()) < 0.02 * spread
    inner_rows, inner_cols = (
        ~np.isin(
            np.arange(s.start, s.stop) % LATTICE.stride, (0, LATTICE.side % LATTICE.stride - 1)
        )
        for s in (rows, cols)
    )
    assert float(difference[np.ix_(inner_rows, inner_cols)].max()) < 1e-5 * spread


@pytest.mark.parametrize("lattice", [Lattice(256, 64), Lattice(512, 64)])
def test_a_deeper_convolution_is_exact_inside_its_reach(lattice: Lattice) -> None:
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(a, b, 5, padding=2) for a, b in ((1, 4), (4, 4), (4, 1))]
    network = torch.nn.Sequential(layers[0], torch.nn.ReLU(), layers[1], torch.nn.ReLU(), layers[2])
    reach = 6  # px from which a pixel is decided

    def predict(windows: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            found: np.ndarray = network(torch.from_numpy(windows))[:, 0].numpy()
        return found

    rows, cols = piece(0, 0, 600, 700)
    logits, _ = whole(rows, cols, np.ones((600, 700), bool), predict, lattice)
    image = np.pad(WORLD, ((0, 0), (reach, reach), (reach, reach)))
    expected = predict(image[None])[0, reach:-reach, reach:-reach]
    difference = np.abs(logits - expected) / np.ptp(expected)
    # the weight of a window's outermost `reach` pixels, where it lacks neighbours
    assert difference.max() < 2 * np.sin(np.pi / 2 * reach / lattice.overlap) ** 2
    within = [
        (at % lattice.stride >= reach)
        & ((at - lattice.side) % lattice.stride < lattice.stride - reach)
        for at in (np.arange(rows.start, rows.stop), np.arange(cols.start, cols.stop))
    ]
    assert difference[np.ix_(*within)].max() < 1e-5
    assert np.mean(difference < 1e-5) > 0.85


@settings(max_examples=10, deadline=None)
@given(
    st.integers(0, 200), st.integers(0, 250), st.integers(20, 390), st.integers(20, 440),
    st.integers(0, 3),
)  # fmt: skip
def test_any_layout_gives_the_same_bits(
    top: int, left: int, height: int, width: int, seed: int
) -> None:
    islands = np.random.default_rng(seed).random((30, 35)) > 0.7
    wanted = np.kron(islands, np.ones((20, 20), bool))
    one, good = whole(*piece(0, 0, 600, 700), wanted, smooth)
    here = np.s_[top : top + height, left : left + width]
    other, fine = whole(*piece(top, left, height, width), wanted[here], smooth)
    np.testing.assert_array_equal(fine, good[here])
    np.testing.assert_array_equal(other[fine], one[here][fine])


def test_windows_without_data_do_not_run() -> None:
    """Where a frame covers a corner; what is scored is what it is beside windows that run."""
    rows, cols = slice(NORTH - 300, NORTH + 100), slice(WEST - 200, WEST + 150)
    ran = []

    def predict(windows: np.ndarray) -> np.ndarray:
        ran.append((windows != 0).any(axis=(1, 2, 3)))
        return smooth(windows)

    wanted = np.ones((400, 350), bool)
    logits, scored = whole(rows, cols, wanted, predict)
    assert np.concatenate(ran).all()
    corner = LATTICE.meeting(NORTH, rows.stop), LATTICE.meeting(WEST, cols.stop)
    assert np.concatenate(ran).size == len(corner[0]) * len(corner[1]) == 20
    np.testing.assert_array_equal(scored[300:, 200:], SEEN[:100, :150])
    assert scored.sum() == scored[300:, 200:].sum()
    inner, _ = whole(*piece(0, 0, 600, 700), np.ones((600, 700), bool), smooth)
    seen = SEEN[:100, :150]
    np.testing.assert_array_equal(logits[300:, 200:][seen], inner[:100, :150][seen])


def test_windows_that_nobody_wants_do_not_run() -> None:
    wanted = np.zeros((300, 300), bool)
    wanted[140:150, 140:150] = True
    ran = []

    def predict(windows: np.ndarray) -> np.ndarray:
        ran.append(int((windows != 0).any(axis=(1, 2, 3)).sum()))
        return pixelwise(windows)

    _, scored = whole(*piece(0, 0, 300, 300), wanted, predict)
    assert scored.sum() == SEEN[140:150, 140:150].sum()
    assert sum(ran) <= 4


def test_weights_of_neighbours_sum_to_one() -> None:
    total = np.zeros((64 + 3 * 48, 64 + 3 * 48))
    for i in range(4):
        for j in range(4):
            total[48 * i : 48 * i + 64, 48 * j : 48 * j + 64] += LATTICE.weights
    np.testing.assert_allclose(total[16:-16, 16:-16], 1, atol=1e-6)
    assert Lattice(64, 0).weights.min() == 1
    with pytest.raises(ValueError, match="half at most"):
        Lattice(64, 40)


def test_percent() -> None:
    logits = np.float32([[-800, 0, 0.5, 800]])
    found = to_percent(logits, np.array([[True, True, False, True]]))
    assert found.tolist() == [[0, 50, 255, 100]]
