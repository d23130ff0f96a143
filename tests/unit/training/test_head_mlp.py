"""The small network as a head."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from engine.errors import LabelError
from engine.propagation.heads import CODES
from engine.training.head_mlp import MlpHead

SMALL = MlpHead(hidden=(32, 16), least=300)


def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    y = np.repeat([3, 8, 17], 40)
    middle = rng.standard_normal((18, 10)) * 2
    return (middle[y] + rng.standard_normal((120, 10))).astype(np.float32), y


def test_it_learns_and_is_the_same_for_a_seed() -> None:
    x, y = data()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    scores = [SMALL.fit(x[::2], y[::2], None, seed).scores(x) for seed in (0, 0, 1)]
    assert (torch.rand(3) == expected).all()  # whoever else draws is not disturbed
    assert (np.array(CODES)[scores[0].argmax(1)] == y)[1::2].mean() > 0.9
    assert (scores[0] == scores[1]).all()
    assert (scores[0] != scores[2]).any()
    np.testing.assert_allclose(scores[0].sum(1), 1)
    assert (np.delete(scores[0], [2, 7, 16], axis=1) == 0).all()


def test_what_weighs_next_to_nothing_teaches_next_to_nothing() -> None:
    x, y = data()
    wrong = np.where(y == 3, 8, 3)
    weights = np.r_[np.ones(120), np.full(120, 1e-6)]
    both = SMALL.fit(np.r_[x, x], np.r_[y, wrong], weights)
    assert (both.predict(x) == y).mean() > 0.9


def test_the_published_widths() -> None:
    x, y = data()
    wide = np.pad(x, ((0, 0), (0, 374)))
    network = replace(MlpHead(), epochs=1, least=1).fit(wide, y).network
    shapes = [tuple(p.shape) for p in network.parameters() if p.ndim == 2]
    assert shapes == [(256, 384), (128, 256), (3, 128)]
    assert [m.p for m in network.modules() if isinstance(m, torch.nn.Dropout)] == [0.3, 0.3]


def test_bad_input_is_refused() -> None:
    x, y = data()
    with pytest.raises(LabelError, match="too few classes"):
        SMALL.fit(x, np.full(120, 3))
    with pytest.raises(LabelError, match="another number of columns"):
        replace(SMALL, least=1).fit(x, y).scores(x[:, :4])
