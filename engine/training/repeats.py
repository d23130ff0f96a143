"""Accuracy by repeated splits of training areas, as WUDAPT judges a map: 25 forests, 70 to 30."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from engine.datasets.patches import PatchSet
from engine.errors import LabelError
from engine.metrics import assess, confusion
from engine.models.card import ModelCard
from engine.training.forest import features_of, plant, varied

__all__ = ["Repeats", "repeat", "split_areas"]

_LEAST = 3  # training areas of a class
_TEST = 0.3


@dataclass(frozen=True)
class Repeats:
    """Figures over the repeats.

    Attributes
    ----------
    count : of repeats.
    figures : of each figure the mean and the lower and upper quartile.
    notes : classes that are thin.
    """

    count: int
    figures: dict[str, tuple[float, float, float]]
    notes: tuple[str, ...]


def split_areas(
    areas: npt.NDArray[np.int64], lcz: npt.NDArray[np.uint8], rng: np.random.Generator
) -> npt.NDArray[np.bool_]:
    """Which areas test: 30 % of each class's, at least three where it has six.

    Parameters
    ----------
    areas : int64 (n,), ids; lcz : uint8 (n,), the class of each.

    Returns
    -------
    bool (n,)

    Raises
    ------
    LabelError
        Where a class has fewer than three areas.
    """
    few = {int(c): int((lcz == c).sum()) for c in np.unique(lcz) if (lcz == c).sum() < _LEAST}
    if few:
        raise LabelError(
            "classes with too few training areas",
            got=", ".join(f"LCZ {code}: {count}" for code, count in few.items()),
            expected=f"{_LEAST} or more of each class",
            remedy="draw more of them, or leave the class out",
        )
    test = np.zeros(len(areas), bool)
    for code in np.unique(lcz):
        here = rng.permutation(np.flatnonzero(lcz == code))
        count = max(round(_TEST * len(here)), min(_LEAST, len(here) // 2))
        test[here[:count]] = True
    return test


def repeat(
    patches: PatchSet,
    card: ModelCard,
    count: int = 25,
    *,
    statistics: Literal["mean", "mean-std"] = "mean-std",
    side: int = 10,
    trees: int = 30,
    balanced: bool = False,
    seed: int = 0,
    tell: Callable[[int], None] = lambda number: None,
) -> Repeats:
    """Grow a forest on 70 % of the training areas and test it on the others, many times.

    Parameters
    ----------
    patches : PatchSet
        `group` and `place` together name a training area.
    card : bands and classes.
    count : repeats.
    statistics, side, trees, balanced : as for `engine.training.forest.grow`.
    seed : of splits and forests.
    tell : hears of each finished repeat.

    Raises
    ------
    LabelError
        Where a class has fewer than three areas.
    """
    names, area = np.unique(
        np.stack([patches.place.astype(np.int64), patches.group]), axis=1, return_inverse=True
    )
    area = area.reshape(-1)
    lcz = np.zeros(names.shape[1], np.uint8)
    lcz[area] = patches.y
    features = features_of(patches.take(np.arange(len(patches))), card, statistics, side)
    features = features[:, varied(features)]
    rng = np.random.default_rng(seed)
    found: list[dict[str, float]] = []
    for number in range(count):
        test = split_areas(np.arange(len(lcz)), lcz, rng)[area]
        forest: Any = plant(trees, balanced, seed + number)
        forest.fit(features[~test], patches.y[~test])
        counts = confusion(patches.y[test], forest.predict(features[test]))
        found.append(assess(counts).figures())
        tell(number + 1)
    figures = {}
    for name in found[0]:
        values = np.array([one[name] for one in found])
        known = values[np.isfinite(values)]
        if len(known):
            low, high = np.quantile(known, [0.25, 0.75])
            figures[name] = float(known.mean()), float(low), float(high)
    thin = [int(c) for c in np.unique(lcz) if (lcz == c).sum() < 2 * _LEAST]
    notes = (
        (f"fewer than {2 * _LEAST} areas, so under {_LEAST} on a side: LCZ {thin}",) if thin else ()
    )
    return Repeats(count, figures, notes)
