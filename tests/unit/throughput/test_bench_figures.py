"""Figures of rounds: ratios, intervals, and what is more than noise."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from engine.errors import MetricError, RecipeError
from engine.throughput.bench import bench
from engine.throughput.figures import compare_rounds, estimate, ratio, read_rounds


def test_an_interval_is_students_of_the_logarithms() -> None:
    values = [2.0, 3.0, 2.5, 4.0]
    found = estimate(values)
    low, high = stats.t.interval(0.95, 3, np.log(values).mean(), stats.sem(np.log(values)))
    assert found.middle == pytest.approx(stats.gmean(values))
    assert (found.low, found.high) == pytest.approx((np.exp(low), np.exp(high)))
    one = estimate([7.0])
    assert one.middle == pytest.approx(7)
    assert np.isnan(one.low)


def test_what_slows_a_whole_round_cancels_in_its_ratios() -> None:
    slow = (1.0, 3.0, 1.7)
    rounds = [{"a": 6.0 * k, "b": 2.0 * k, "c": 1.0} for k in slow]
    assert ratio(rounds, "a", "b") == pytest.approx((3, 3, 3))


def test_noise_is_a_change_in_one_of_twenty() -> None:
    rng = np.random.default_rng(0)
    alarms, found = 0, 0
    for _ in range(1000):
        old, same, more = (
            np.exp(rng.normal(np.log(level), 0.05, n)) for level, n in ((1, 4), (1, 5), (1.25, 5))
        )
        alarms += compare_rounds(same.tolist(), old.tolist())[1]
        found += compare_rounds(more.tolist(), old.tolist())[1]
    assert 0.03 < alarms / 1000 < 0.07
    assert found / 1000 > 0.95
    times, _ = compare_rounds([2.0, 2.2], [1.0, 1.1])
    assert times.middle == pytest.approx(2)
    assert not compare_rounds([2.0], [1.0])[1]  # one round says nothing of noise


@pytest.mark.parametrize("values", [[], [1.0, 0.0], [-1.0], [float("nan")]])
def test_figures_that_are_none_are_refused(values: list[float]) -> None:
    with pytest.raises(MetricError, match="not positive"):
        estimate(values)


@pytest.mark.parametrize("told", [{}, {"rounds": []}, {"rounds": [1]}, {"rounds": [{"a": "x"}]}])
def test_a_file_without_rounds_is_refused(told: dict[str, object]) -> None:
    with pytest.raises(MetricError, match="holds no rounds"):
        read_rounds(told)


def test_a_folder_with_a_store_of_somebody_s_is_left_alone(tmp_path: Path) -> None:
    """A benchmark removes stores from its work folder: never those of a person."""
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "map").write_text("a week of work")
    with pytest.raises(MetricError, match="what lies in it could be lost"):
        bench(work=tmp_path)
    assert (tmp_path / "store" / "map").read_text() == "a week of work"
    assert not (tmp_path / "natmap-bench.txt").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"what": ("speed",)}, "no such benchmark"),
        ({"what": ()}, "no such benchmark"),
        ({"what": ("scaling",), "workers": (2,)}, "two numbers of workers"),
        ({"what": ("update",), "dates": 4}, "number of dates"),
        ({"dates": 0}, "number of dates"),
        ({"rounds": 0}, "must be 1 or more"),
        ({"workers": (0,)}, "must be 1 or more"),
        ({"side": 0.1}, "side of the country"),
        ({"recipe": "map.yaml", "what": ("update",), "dates": 3}, "synthetic country alone"),
        ({"device": "gpu"}, "no such device"),
        ({"compare": "none.json"}, "cannot be read"),
        ({"compare": "text.json"}, "cannot be read"),
        ({"compare": "other.json"}, "earlier file is not a benchmark"),
        ({"compare": "empty.json"}, "holds no rounds"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_it_is(
    tmp_path: Path, change: dict[str, object], said: str
) -> None:
    (tmp_path / "text.json").write_text("no")
    (tmp_path / "other.json").write_text("[]")
    (tmp_path / "empty.json").write_text(json.dumps({"schema": 1, "rounds": []}))
    for key in ("compare", "recipe"):
        if key in change:
            change = change | {key: tmp_path / str(change[key])}
    with pytest.raises((MetricError, RecipeError), match=said):
        bench(work=tmp_path / "work", **change)  # type: ignore[arg-type]
    assert not (tmp_path / "work" / "country").exists()
