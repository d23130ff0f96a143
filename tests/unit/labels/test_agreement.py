"""Agreement of interpreters, against scikit-learn and a published table; which label stands."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from engine.labels.agreement import agree, cohen, fleiss, settle

# Fleiss (1971) as it is usually shown: 10 subjects, 14 raters, 5 categories; kappa 0.210
FLEISS = [
    [0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1],
    [7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7],
]  # fmt: skip


def test_fleiss_is_the_published_example() -> None:
    assert fleiss(FLEISS) == pytest.approx(0.210, abs=5e-4)
    assert math.isnan(fleiss(np.zeros((0, 5))))
    assert math.isnan(fleiss([[3, 0], [2, 0]]))
    with pytest.raises(ValueError, match="fewer than two"):
        fleiss([[1, 0], [2, 0]])


def test_cohen_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    a = rng.integers(1, 18, 300)
    b = np.where(rng.random(300) < 0.6, a, rng.integers(1, 18, 300))
    assert cohen(a, b) == pytest.approx(cohen_kappa_score(a, b), abs=1e-12)


def test_agreement_counts_only_what_several_answered() -> None:
    votes = {
        1: {"ada": 2, "bo": 2}, 2: {"ada": 3, "bo": 2}, 3: {"ada": 17}, 4: {"bo": 6, "cy": 6},
    }  # fmt: skip
    found = agree(votes)
    assert (found.sites, found.whole) == (3, 2)
    assert found.pairs["ada", "bo"][:2] == (2, 0.5)
    assert found.pairs["bo", "cy"][0] == 1
    assert math.isnan(found.pairs["bo", "cy"][2])
    assert ("ada", "cy") not in found.pairs
    # by hand: P = 2/3; shares 3/6, 1/6, 2/6
    chance = (9 + 1 + 4) / 36
    assert found.fleiss == pytest.approx((2 / 3 - chance) / (1 - chance))


def test_most_of_the_sure_decide_a_tie_is_a_dispute_and_the_arbiter_stands() -> None:
    votes = {
        "most": {"ada": 2, "bo": 2, "cy": 3}, "tie": {"ada": 2, "bo": 3}, "one": {"ada": 17},
        "doubt": {"ada": 5, "bo": 6}, "none": {"ada": 9},
    }  # fmt: skip
    unsure = {"doubt": {"bo"}, "none": {"ada"}}
    found = settle(votes, unsure, None)
    assert found.lcz == {"most": 2, "one": 17, "doubt": 5}
    assert found.disputed == {"tie": "2 x 1, 3 x 1", "none": "nobody is sure"}
    found = settle(votes, unsure, "bo")
    assert found.lcz == {"most": 2, "tie": 3, "one": 17, "doubt": 6}
    assert set(found.disputed) == {"none"}
