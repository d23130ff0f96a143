"""Described patches into scenes, with a bandwidth that is stable; weights and splits by scene."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from engine.errors import LabelError
from engine.similarity.clustering import (
    Modes,
    assign,
    draw,
    in_order,
    k_means,
    mean_shift,
    numbered,
)
from engine.similarity.descriptors import By, Described
from engine.similarity.stability import STABLE, Trial, choose, examine, try_bandwidths, why_not
from engine.texture.nearest import RARE

__all__ = [
    "FEWEST",
    "Grouped",
    "Method",
    "Scenes",
    "Settings",
    "balance",
    "group",
    "require_enough",
]

Method = Literal["mean-shift", "kmeans"]

FEWEST = 20
"""Patches that mean shift needs: two halves with bins of five."""
_CAP = 10.0  # of a weight


@dataclass(frozen=True)
class Settings:
    """How scenes are found.

    Attributes
    ----------
    by : labels, texture or both.
    method : mean-shift finds how many scenes there are; kmeans is told.
    count : of scenes, of kmeans alone.
    bandwidth : of mean shift; None: the finest that is stable.
    most : patches that modes are found in; all are assigned.
    repeats : pairs of halves, and of seeds, that stability is measured by.
    seed : of all drawing.
    """

    by: By
    method: Method = "mean-shift"
    count: int | None = None
    bandwidth: float | None = None
    most: int = 10_000
    repeats: int = 5
    seed: int = 0


@dataclass(frozen=True)
class Grouped:
    """Patches and the scenes that they are in.

    Attributes
    ----------
    modes : middles of the scenes.
    scene : int64 (n,), of each patch, -1 where it is in none.
    distance : float64 (n,), to the nearest middle.
    notes : what is in doubt.
    radii : float64 (scenes,), distance of a scene's farthest patch from its middle, in the set that
        the scenes were found in.
    spread : mean square of the distances of patches from the middles of their scenes, in that set.
    """

    modes: Modes
    scene: npt.NDArray[np.int64]
    distance: npt.NDArray[np.float64]
    notes: tuple[str, ...]
    radii: npt.NDArray[np.float64]
    spread: float

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        """Patches of each scene (scenes,)."""
        return np.bincount(self.scene[self.scene >= 0], minlength=len(self.modes))

    @property
    def outlying(self) -> npt.NDArray[np.bool_]:
        """Which patches are farther from their middle than any was where the scenes were found."""
        return np.asarray((self.scene == RARE) | (self.distance > self.radii[self.scene]))


@dataclass(frozen=True)
class Scenes(Grouped):
    """Scenes that were found in patches, the largest first.

    Attributes
    ----------
    trials : settings that were tried; `chosen` is one of them.
    """

    trials: tuple[Trial, ...]
    chosen: Trial


def require_enough(settings: Settings, count: int) -> None:
    """Refuse settings that cannot be meant, and fewer patches than they need.

    Parameters
    ----------
    settings : Settings
    count : of patches.

    Raises
    ------
    LabelError
    """
    if settings.method not in get_args(Method):
        raise LabelError(
            "no such way to find scenes", got=settings.method, expected=", ".join(get_args(Method))
        )
    if (settings.method == "kmeans") != (settings.count is not None):
        raise LabelError(
            "kmeans is told how many scenes there are, and mean shift finds it",
            got=f"{settings.method}, {settings.count or 'no'} scenes",
            remedy="give a number with kmeans alone",
        )
    if settings.method == "kmeans" and settings.bandwidth is not None:
        raise LabelError("kmeans has no bandwidth", got=f"{settings.bandwidth:g}")
    if settings.bandwidth is not None and not 0 < settings.bandwidth < 2:
        raise LabelError(
            "the bandwidth is no distance of histograms",
            got=f"{settings.bandwidth:g}",
            expected="above 0, below 2",
        )
    if settings.repeats < 1 or settings.most < FEWEST:
        raise LabelError(
            "too few draws, or patches of a draw",
            got=f"{settings.repeats} repeats of {settings.most} patches",
            expected=f"1 or more, of {FEWEST} or more",
        )
    if settings.count is not None and settings.count < 2:
        raise LabelError("scenes are two at least", got=settings.count)
    # each half must have as many as there are scenes
    needed = FEWEST if settings.count is None else max(2 * settings.count, FEWEST)
    if count < needed:
        raise LabelError(
            "there are too few patches for scenes",
            got=f"{count} patches",
            expected=f"{needed} or more"
            + ("" if settings.count is None else f", twice the {settings.count} scenes"),
            remedy="cut smaller patches, or take more images",
        )


def group(
    described: Described, settings: Settings, *, tell: Callable[[str], None] = lambda text: None
) -> Scenes:
    """Find scenes, and the scene of each patch.

    Parameters
    ----------
    described : patches.
    settings : Settings
    tell : hears of each setting that is tried.

    Raises
    ------
    LabelError
        Where there are too few patches, or they are alike.
    """
    require_enough(settings, len(described.rows))
    points = described.vectors(settings.by)
    ordered = points[in_order(points)]
    different = 1 + int((np.diff(ordered, axis=0) != 0).any(axis=1).sum())
    if different < (settings.count or 2):
        raise LabelError(
            "patches are alike: there are no scenes to find",
            got=f"{different} different descriptions by {settings.by} of {len(points)} patches",
            expected=f"{settings.count or 2} or more",
            remedy="go by something else, or look at the images",
        )
    some = draw(ordered, settings.most, settings.seed)
    trials, chosen, modes = _tried(some, settings, tell)
    modes = numbered(points, modes)
    if not len(modes):
        raise LabelError(
            "there are no scenes at this bandwidth",
            got=f"{chosen.setting:g}",
            expected="one in which five patches or more are alike",
            remedy="a larger one, or leave it to be chosen",
        )
    scene, distance = assign(points, modes)
    notes = [*described.notes]
    if doubt := why_not(chosen):
        by_count = settings.method == "kmeans"
        what = f"{chosen.setting:g} scenes" if by_count else f"bandwidth {chosen.setting:.3f}"
        notes.append(f"scenes are doubtful: at {what} {doubt} (wanted: {STABLE:g})")
    inside = scene != RARE
    radii = np.zeros(len(modes))
    np.maximum.at(radii, scene[inside], distance[inside])
    spread = math.fsum((distance[inside] ** 2).tolist()) / int(inside.sum())
    return Scenes(modes, scene, distance, tuple(notes), radii, spread, tuple(trials), chosen)


def balance(scene: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """How often a patch is to be drawn: by 1 / sqrt(size of its scene), 1 in the largest scene and
    10 at most; patches in no scene are one.

    Parameters
    ----------
    scene : int64 (n,), -1 where a patch is in none.
    """
    _, which, sizes = np.unique(scene, return_inverse=True, return_counts=True)
    weights: npt.NDArray[np.float64] = np.sqrt(sizes.max(initial=1) / sizes)
    return np.minimum(weights, _CAP)[which.reshape(-1)]


def _tried(
    points: npt.NDArray[np.float64], settings: Settings, tell: Callable[[str], None]
) -> tuple[list[Trial], Trial, Modes]:
    """Trials, the one that is chosen, and its modes."""
    repeats, seed = settings.repeats, settings.seed
    if settings.count is not None:
        count = settings.count

        def fit(part: npt.NDArray[np.float64], seed: int) -> Modes:
            return k_means(part, count, seed)

        trial = examine(points, fit, count, repeats=repeats, seed=seed)
        return [trial], trial, fit(points, seed)
    if settings.bandwidth is not None:
        wide = settings.bandwidth
        trial = examine(
            points, lambda part, seed: mean_shift(part, wide), wide, repeats=repeats, seed=seed
        )
        return [trial], trial, mean_shift(points, wide)
    trials = try_bandwidths(points, repeats=repeats, seed=seed, tell=tell)
    chosen = choose(trials)
    return trials, chosen, mean_shift(points, chosen.setting)
