"""Units along the curve: their probabilities are those of all random starts, one by one."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import LabelError
from engine.sites.allocation import Frame
from engine.sites.indices import Classes, Units
from engine.sites.selection import choose, inclusion, plan_units, systematic


def frame_with(strata: list[list[tuple[float, int]]]) -> Frame:
    """A frame of one region: of each class its units' indices and pixels."""
    rows = [(k, u, *unit) for k, units in enumerate(strata) for u, unit in enumerate(units)]
    code, row, lsi, pixels = (np.array(column) for column in zip(*rows, strict=True))
    nothing = np.zeros(len(code), np.int64)
    units = Units(row, nothing, nothing, code, pixels, pixels * 1.0, 4 * pixels, lsi.astype(float))
    n = len(strata)
    total = np.bincount(code, pixels, n).astype(np.int64)
    classes = Classes(
        np.zeros(n, np.int64),
        np.arange(n),
        total,
        total * 1.0,
        4 * total,
        np.ones(n),
        total / total.sum(),
    )
    return Frame(units, code, classes, np.zeros(n, np.int64))


def by_all_starts(frame: Frame, sites: np.ndarray) -> np.ndarray:
    """Expected sites of each unit, integrated over the random start of its stratum.

    What is selected changes at finitely many starts; between these it is drawn once.
    """
    plan = plan_units(frame, sites)
    found = np.zeros(len(frame.stratum))
    for k in range(len(sites)):
        mine = frame.stratum == k
        along = plan.chance[plan.order][plan.stratum[plan.order] == k]
        breaks = np.unique(np.concatenate([[0, 1], np.cumsum(along) % 1]))
        for low, high in pairwise(breaks):
            if high - low < 1e-8:  # rounding, where two breaks are one
                continue
            starts = np.full(len(sites), (low + high) / 2)
            drawn = systematic(plan, starts)
            assert drawn[mine].sum() == sites[k]
            found[mine] += (high - low) * drawn[mine]
    return found


UNITS = [
    [(9.0, 50), (1.0, 40), (2.0, 30), (2.0, 20), (1.5, 10)],
    [(1.0, 3), (1.0, 1), (4.0, 2)],
    [(3.0, 5)],
    [(1.0, 7), (1.0, 7)],
]


@pytest.mark.parametrize("sites", [[2, 1, 1, 1], [3, 2, 0, 2], [4, 3, 2, 3], [5, 6, 5, 9]])
def test_probabilities_are_those_of_all_starts(sites: list[int]) -> None:
    frame = frame_with(UNITS)
    plan = plan_units(frame, np.array(sites))
    assert by_all_starts(frame, np.array(sites)) == pytest.approx(plan.expected, abs=1e-9)
    assert np.bincount(frame.stratum, plan.expected).tolist() == pytest.approx(sites)


def test_where_a_probability_reaches_1_the_rest_is_shared_out_anew() -> None:
    # 2 of 9, 1, 2, 2, 1.5: 2 x 9 / 15.5 > 1, so the first is certain and one is left for 6.5
    found = inclusion(np.array([9, 1, 2, 2, 1.5]), 2)
    assert found.tolist() == pytest.approx([1, 1 / 6.5, 2 / 6.5, 2 / 6.5, 1.5 / 6.5])
    # one certain unit makes another certain: 3 of 10, 4, 1, 1
    assert inclusion(np.array([10.0, 4, 1, 1]), 3).tolist() == pytest.approx([1, 1, 0.5, 0.5])
    assert inclusion(np.ones(4), 4).tolist() == [1, 1, 1, 1]


@settings(max_examples=60)
@given(st.data())
def test_any_frame_has_the_probabilities_of_all_starts(data: st.DataObject) -> None:
    unit = st.tuples(st.floats(1, 20), st.integers(1, 4))
    strata = data.draw(st.lists(st.lists(unit, min_size=1, max_size=6), min_size=1, max_size=3))
    frame = frame_with(strata)
    room = np.bincount(frame.stratum, frame.units.pixels).astype(int)
    sites = np.array([data.draw(st.integers(0, int(n))) for n in room])
    plan = plan_units(frame, sites)
    assert by_all_starts(frame, sites) == pytest.approx(plan.expected, abs=1e-5)
    assert (plan.expected <= frame.units.pixels).all()


def test_totals_are_unbiased_and_counts_are_those_that_were_planned() -> None:
    # 20,000 draws; the bound is one of all units together, which right code passes
    frame, sites = frame_with(UNITS), np.array([2, 2, 1, 1])
    plan = plan_units(frame, sites)
    rng = np.random.default_rng(5)
    drawn = np.array([choose(plan, rng) for _ in range(20_000)])
    assert (np.array([np.bincount(frame.stratum, row) for row in drawn[:200]]) == sites).all()
    # areas unlike the sizes: their totals by Horvitz and Thompson
    area = np.arange(1.0, len(frame.stratum) + 1) ** 2
    totals = drawn @ (area / plan.expected)
    standard_error = totals.std() / np.sqrt(len(totals))
    assert abs(totals.mean() - area.sum()) < 4 * standard_error
    assert standard_error < 0.01 * area.sum()
    # of a stratum that draws one unit, counts are multinomial: chi-square of 1 degree of freedom
    two = frame.stratum == 3
    seen, wanted = drawn[:, two].sum(axis=0), 20_000 * plan.expected[two]
    assert ((seen - wanted) ** 2 / wanted).sum() < 24  # 1e-6
    free = (frame.stratum == 0) & (plan.chance > 0)
    seen, wanted = drawn[:, free].sum(axis=0), 20_000 * plan.expected[free]
    assert ((seen - wanted) ** 2 / wanted).sum() < 31  # 3 degrees, 1e-6


def test_top_and_quantile_draw_nothing() -> None:
    frame = frame_with([[(float(v), 5) for v in (3, 9, 1, 7, 5, 8, 2, 6, 4)]])
    top = plan_units(frame, np.array([3]), "top")
    assert frame.units.lsi[top.whole == 1].tolist() == [9, 7, 8]
    middle = plan_units(frame, np.array([3]), "quantile")
    assert sorted(frame.units.lsi[middle.whole == 1].tolist()) == [2, 5, 8]
    for plan in (top, middle):
        rng = np.random.default_rng(0)
        assert choose(plan, rng).tolist() == choose(plan, rng).tolist() == plan.whole.tolist()


def test_equal_indices_go_by_place() -> None:
    frame = frame_with([[(2.0, 1), (2.0, 1), (2.0, 1)]])
    assert plan_units(frame, np.array([1]), "top").whole.tolist() == [1, 0, 0]


def test_what_is_taken_is_not_taken_again() -> None:
    frame = frame_with([[(2.0, 2), (1.0, 1), (1.0, 4)]])
    taken = np.array([1, 1, 0])
    plan = plan_units(frame, np.array([4]), "pps", taken)
    assert plan.whole.tolist() == [1, 0, 3]
    with pytest.raises(ValueError, match="more sites than pixels"):
        plan_units(frame, np.array([6]), "pps", taken)


def test_another_selection_is_refused() -> None:
    with pytest.raises(LabelError, match="no such selection"):
        plan_units(frame_with(UNITS), np.ones(4, int), "best")  # type: ignore[arg-type]
