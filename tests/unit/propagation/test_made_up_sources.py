"""What the comparison on made-up cities takes for published heights and published codes."""

from __future__ import annotations

import numpy as np
from support.benchmark import load

truth = load("propagation/truth")
encoder = load("propagation/encoder")


def test_heights_are_wrong_by_building_as_published() -> None:
    """1.5 m plus 10 %, a tenth missing: 2,500 squares of 4 m, half of them of 20 m height."""
    built = np.kron(np.ones((50, 50), bool), np.pad(np.ones((4, 4), bool), 1))
    heights = np.where(np.arange(50) % 2, 20.0, 6.0)[None].repeat(50, 0)
    height = np.kron(heights, np.ones((6, 6))).astype(np.float32) * built
    found, there = truth.with_errors(height, built, 7)
    assert not found[~there].any()
    each, kept = (part.reshape(50, 6, 50, 6)[:, 1:5, :, 1:5] for part in (found, there))
    assert (np.ptp(each, axis=(1, 3)) == 0).all()  # a building has one height
    known = kept[:, 0, :, 0]
    assert abs(1 - known.mean() - 0.10) < 4 * (0.1 * 0.9 / 2500) ** 0.5
    for tall, sigma in ((6.0, (1.5**2 + 0.6**2) ** 0.5), (20.0, (1.5**2 + 2.0**2) ** 0.5)):
        off = (each[:, 0, :, 0] - heights)[known & (heights == tall)]
        assert abs(off.mean()) < 4 * sigma / len(off) ** 0.5
        assert abs(off.std() / sigma - 1) < 0.1
    again, _ = truth.with_errors(height, built, 7)
    np.testing.assert_array_equal(found, again)
    other, _ = truth.with_errors(height, built, 8)
    assert (found != other).any()


def test_codes_of_published_formats_lose_half_a_step_at_most() -> None:
    draw = np.random.default_rng(1)
    vectors = draw.normal(size=(64, 9, 11)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=0)
    root = np.sqrt(np.abs(vectors))
    found = encoder.quantised(vectors, "alphaearth")
    assert np.abs(np.sqrt(np.abs(found)) - root).max() <= 0.5 / 127.5 + 1e-6
    assert (np.sign(found) * np.sign(vectors) >= 0).all()
    found = encoder.quantised(vectors, "tessera")
    step = np.abs(vectors).max(0) / 127
    assert (np.abs(found - vectors) <= 0.5 * step * (1 + 1e-4)).all()
