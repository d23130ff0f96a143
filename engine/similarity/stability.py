"""Whether scenes are in the patches or in the draw: agreement of halves and of seeds.

Agreement is the adjusted Rand index (Hubert and Arabie 1985) of two clusterings of the same
patches: 1 where they are the same, about 0 where they agree by chance. Patches in no scene are one
group.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.metrics import adjusted_rand_score

from engine.similarity.clustering import (
    LEAST_BANDWIDTH,
    Modes,
    assign,
    bandwidth_of,
    draw,
    mean_shift,
)
from engine.texture.nearest import RARE

__all__ = [
    "QUANTILES",
    "STABLE",
    "Trial",
    "bandwidths",
    "choose",
    "examine",
    "try_bandwidths",
    "why_not",
]

QUANTILES = (0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3)
"""Of neighbours, whose distances are tried as bandwidths."""
STABLE = 0.9
"""Agreement of halves from which scenes are stable."""

_LARGEST, _RARE = 0.5, 0.25  # shares of patches: of one scene, and without one
_LEFT_OUT = 0.2  # share of the patches that a draw of another seed leaves out

Points = npt.NDArray[np.float64]
Fit = Callable[[Points, int], Modes]
"""Patches in order and a seed to modes."""


@dataclass(frozen=True)
class Trial:
    """What one setting gives.

    Attributes
    ----------
    setting : bandwidth of mean shift, or number of scenes.
    quantile : that the bandwidth is of; None: it was given, or there is none.
    scenes : how many.
    largest : share of the patches in the largest scene.
    rare : share of the patches in no scene.
    halves : mean agreement of two halves of the patches, drawn anew each time; `halves_least` the
        least.
    seeds : mean agreement of draws of four fifths with other seeds; `seeds_least` the least.
    """

    setting: float
    quantile: float | None
    scenes: int
    largest: float
    rare: float
    halves: float
    halves_least: float
    seeds: float
    seeds_least: float


def bandwidths(points: Points) -> list[tuple[float, float]]:
    """Quantiles and bandwidths to try, ascending; none below `LEAST_BANDWIDTH`, none twice.

    Parameters
    ----------
    points : (n, components), ascending as `engine.similarity.clustering.in_order` has them.
    """
    found: dict[float, float] = {}
    for quantile in QUANTILES:
        wide = max(bandwidth_of(points, quantile), LEAST_BANDWIDTH)
        found.setdefault(wide, quantile)
    return [(quantile, wide) for wide, quantile in sorted(found.items())]


def examine(
    points: Points,
    fit: Fit,
    setting: float,
    *,
    quantile: float | None = None,
    repeats: int = 5,
    seed: int = 0,
) -> Trial:
    """Cluster all patches, halves of them and draws of other seeds, and compare.

    Parameters
    ----------
    points : (n, components), ascending.
    fit : finds modes.
    setting, quantile : what the trial is of.
    repeats : pairs of halves, and draws of other seeds but one; 1 or more.
    seed : of the drawing.
    """
    scene, _ = assign(points, fit(points, seed))
    shares = np.bincount(scene + 1, minlength=2) / len(points)  # the first is of what has no scene
    halves = []
    for k in range(repeats):
        where = np.random.default_rng([seed, k]).permutation(len(points))
        middle = len(where) // 2
        two = (points[np.sort(part)] for part in (where[:middle], where[middle:]))
        first, second = (assign(points, fit(part, seed))[0] for part in two)
        halves.append(float(adjusted_rand_score(first, second)))
    drawn = [
        assign(points, fit(draw(points, len(points), seed + k, leave=_LEFT_OUT), seed + k))[0]
        for k in range(repeats + 1)
    ]
    seeds = [float(adjusted_rand_score(drawn[0], other)) for other in drawn[1:]]
    return Trial(
        setting,
        quantile,
        len(np.unique(scene[scene != RARE])),
        float(shares[1:].max()),
        float(shares[0]),
        float(np.mean(halves)),
        min(halves),
        float(np.mean(seeds)),
        min(seeds),
    )


def try_bandwidths(
    points: Points,
    *,
    repeats: int = 5,
    seed: int = 0,
    tell: Callable[[str], None] = lambda text: None,
) -> list[Trial]:
    """A trial of mean shift for each of `bandwidths`."""
    trials = []
    for quantile, wide in bandwidths(points):

        def fit(part: Points, seed: int, wide: float = wide) -> Modes:
            return mean_shift(part, wide)

        trials.append(examine(points, fit, wide, quantile=quantile, repeats=repeats, seed=seed))
        tell(
            f"bandwidth {wide:.3f}: {trials[-1].scenes} scenes, the largest of "
            f"{trials[-1].largest:.0%}, halves agree by {trials[-1].halves:.2f}"
        )
    return trials


def why_not(trial: Trial) -> str:
    """What is wrong with a trial's scenes, in words; empty where nothing is."""
    if trial.scenes < 2:
        return "fewer than two scenes"
    if trial.largest > _LARGEST:
        return f"one scene holds {trial.largest:.0%} of the patches"
    if trial.rare > _RARE:
        return f"{trial.rare:.0%} of the patches are in no scene"
    if trial.halves < STABLE:
        return f"halves agree by {trial.halves:.2f}"
    return ""


def choose(trials: Sequence[Trial]) -> Trial:
    """The finest that has two scenes or more, none of more than half of the patches, a quarter of
    them in no scene at most, and halves that agree by `STABLE`.

    Where there is none: of those with two scenes the most stable, less the share of patches by
    which the largest scene, or what is in none, is too large. `why_not` says what it lacks.
    """
    fine = [trial for trial in trials if not why_not(trial)]
    if fine:
        return min(fine, key=lambda trial: trial.setting)

    def worth(trial: Trial) -> tuple[float, float]:
        excess = max(trial.largest - _LARGEST, 0) + max(trial.rare - _RARE, 0)
        return trial.halves - excess, -trial.setting

    return max([t for t in trials if t.scenes > 1] or trials, key=worth)
