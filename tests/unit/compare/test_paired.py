"""Figures, differences, intervals of several systems: scikit-learn and plain loops say the same."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn.metrics import accuracy_score, cohen_kappa_score, f1_score

from engine.compare import paired
from engine.compare.paired import count_rows, join_rows, mcnemar, pairs_of, rank
from engine.errors import MetricError
from engine.metrics import assess, confusion

draw = np.random.default_rng(3)
N, GROUPS = 600, 30
TRUTH = draw.integers(1, 18, N)
GROUP = draw.integers(0, GROUPS, N) * 7 + 3
SAID = np.stack(
    [np.where(draw.random(N) < share, draw.integers(1, 18, N), TRUTH) for share in (0.5, 0.4, 0.4)]
)


def test_figures_are_those_of_scikit_learn() -> None:
    for said, found in zip(SAID, rank(pairs_of(TRUTH, SAID, GROUP), repeats=2), strict=True):
        assert found.figures["oa"][0] == pytest.approx(accuracy_score(TRUTH, said))
        assert found.figures["kappa"][0] == pytest.approx(cohen_kappa_score(TRUTH, said))
        assert found.figures["f1_macro"][0] == pytest.approx(f1_score(TRUTH, said, average="macro"))
        np.testing.assert_allclose(found.f1[0], f1_score(TRUTH, said, average=None))
        built = TRUTH <= 10
        right = (said == TRUTH)[built].mean()
        assert found.figures["oa_built_rows"][0] == pytest.approx(right)
        np.testing.assert_array_equal(found.counts, confusion(TRUTH, said))


def test_intervals_are_those_of_groups_drawn_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Examples are copied as often as their group is drawn, and judged anew."""
    monkeypatch.setattr(paired, "_AT_ONCE", 7 * GROUPS)  # draws are not held all at once
    pairs, repeats = pairs_of(TRUTH, SAID, GROUP), 60
    _, group = np.unique(GROUP, return_inverse=True)
    rng = np.random.default_rng(5)
    times = rng.multinomial(GROUPS, np.full(GROUPS, 1 / GROUPS), repeats)
    drawn = []
    for row in times:
        copies = np.repeat(np.arange(N), row[group])
        tables = [assess(confusion(TRUTH[copies], said[copies])) for said in SAID]
        drawn.append([(t.kappa, t.f1_macro, t.oa_w) for t in tables])
    values = np.array(drawn)
    found = rank(pairs, 1, repeats, seed=5)
    for place, name in enumerate(("kappa", "f1_macro", "oa_w")):
        for system in range(3):
            expected = np.quantile(values[:, system, place], (0.025, 0.975))
            np.testing.assert_allclose(found[system].figures[name][1:], expected)
            less = found[system].less
            if system == 1:
                assert less is None
                continue
            assert less is not None
            expected = np.quantile(values[:, system, place] - values[:, 1, place], (0.025, 0.975))
            np.testing.assert_allclose(less.figures[name][1:], expected)


def test_what_is_hard_for_both_is_no_difference() -> None:
    """Half of the groups are hard for both: the difference is far surer than the figures."""
    hard = np.isin(GROUP, np.unique(GROUP)[: GROUPS // 2])
    first = np.where(hard, TRUTH % 17 + 1, TRUTH)
    second = first.copy()
    second[::40] = TRUTH[::40]
    _, other = rank(pairs_of(TRUTH, np.stack([first, second]), GROUP), repeats=300)
    _, low, high = other.figures["oa"]
    assert other.less is not None
    difference, less_low, less_high = other.less.figures["oa"]
    assert 0 < difference < 0.03
    assert less_high - less_low < (high - low) / 5


def test_equal_systems_differ_by_nothing() -> None:
    _, other = rank(pairs_of(TRUTH, np.stack([SAID[0], SAID[0]]), GROUP), repeats=50)
    assert other.less is not None
    assert set(other.less.figures.values()) == {(0.0, 0.0, 0.0)}
    assert (other.less.right, other.less.p) == ((0, 0), 1.0)


@pytest.mark.parametrize(
    ("first", "second", "p"),
    [
        (0, 0, 1.0),
        (0, 5, 2 / 32),  # two tails of five throws of a coin
        (1, 5, 2 * 7 / 64),
        (700, 500, float(2 * norm.sf(199 / 1200**0.5))),  # a square root of chi-squared is normal
    ],
)
def test_mcnemar(first: int, second: int, p: float) -> None:
    assert mcnemar(first, second) == pytest.approx(p)
    assert mcnemar(second, first) == pytest.approx(p)


def test_weights_count_and_strata_are_drawn_within_themselves() -> None:
    """Of two strata, 10 cells that stand for 90 each and 50 for 2: plain sums."""
    truth = np.full(60, 2)
    said = np.where(np.arange(60) % 3 == 0, 5, 2)[None]
    stratum = np.repeat([4, 9], [10, 50])
    weight = np.repeat([90.0, 2.0], [10, 50])
    [found] = rank(pairs_of(truth, said, np.arange(60), weight, stratum), repeats=400)
    right = said[0] == truth
    assert found.figures["oa"][0] == pytest.approx((right * weight).sum() / weight.sum())
    # by the formula of a stratified mean (Cochran 1977, 5.6), with n in place of n - 1
    variance = 0.0
    for code, cells in ((4, 10), (9, 50)):
        share = right[stratum == code].mean()
        part = weight[stratum == code].sum() / weight.sum()
        variance += part**2 * share * (1 - share) / cells
    width = found.figures["oa"][2] - found.figures["oa"][1]
    assert width == pytest.approx(2 * 1.96 * variance**0.5, rel=0.15)


@settings(max_examples=30, deadline=None)
@given(cuts=st.lists(st.integers(0, N), max_size=5))
def test_parts_join_to_the_whole(cuts: list[int]) -> None:
    rows = np.vstack([GROUP[None], TRUTH[None], SAID])
    parts = [count_rows(part) for part in np.split(rows, sorted(cuts), axis=1) if part.shape[1]]
    joined, whole = join_rows(parts, 3), pairs_of(TRUTH, SAID, GROUP)
    for name in ("truth", "said", "group", "count", "weight", "stratum"):
        np.testing.assert_array_equal(getattr(joined, name), getattr(whole, name))


@settings(max_examples=30, deadline=None)
@given(kinds=st.integers(1, 40), most=st.sampled_from([1, 3, 17, 10**12]), seed=st.integers(0, 9))
def test_columns_are_counted_as_by_numpy(kinds: int, most: int, seed: int) -> None:
    """Of so many systems that a column fits no number."""
    rng = np.random.default_rng(seed)
    few = rng.integers(0, most + 1, (kinds, 12))
    rows = few[:, rng.integers(0, 12, 200)]
    kept, count = count_rows(rows)
    expected, times = np.unique(rows, axis=1, return_counts=True)
    np.testing.assert_array_equal(kept, expected)
    np.testing.assert_array_equal(count, times)


def test_nothing_is_refused() -> None:
    with pytest.raises(MetricError, match="nothing to compare"):
        rank(join_rows([], 2))
