"""`natmap sample`: a sample to judge a map by, or to learn from."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack

from engine.compare.sample import sample as sample_classes
from engine.errors import RecipeError
from engine.labels.design import Allocation
from engine.sites.placing import Placed, place_sites
from engine.sites.selection import Mode
from engine.sites.strata import By, Design, sample_strata

__all__ = ["Purpose", "Settings", "sample"]

Purpose = Literal["accuracy", "training"]

_OF_STRATA = ("allocation", "field", "grid", "merge", "n", "regions", "strata")


class Settings(TypedDict, total=False):
    """What `sample` may be told; what is left out has the default of the sample that is drawn."""

    allocation: By
    earlier: str | Path | None
    even: bool
    field: str | None
    grid: float | None
    layer: str
    least: int
    least_of_class: int
    least_pixels: int
    merge: float
    mode: Mode
    n: int
    per_unit: int
    regions: str | Path | None
    repeats: int
    seed: int
    spacing: float
    standard_error: float
    strata: str | Path | None
    tag: str | None
    tell: Callable[[str], None]
    unit: float | None
    unknown: Sequence[int]
    users: float


def sample(
    product: str | Path,
    out: str | Path,
    *,
    purpose: Purpose = "accuracy",
    **settings: Unpack[Settings],
) -> Allocation | Design | Placed:
    """Draw a sample on a map.

    Parameters
    ----------
    product : of "accuracy" a product folder of local climate zones or a raster of codes 1 to 17;
        of "training" any map of classes.
    out : folder; one that holds a sample is not overwritten.
    purpose : "accuracy", to judge the map by, or "training", to label where it is worth most.
    settings : as `engine.compare.sample.sample` takes them, of a sample by the map's classes and
        the wanted error; `engine.sites.strata.sample_strata`, where regions, strata, an allocation
        or a number is told; and `engine.sites.placing.place_sites`, for training.

    Raises
    ------
    RecipeError
        Where there is no such purpose, or a setting is not one of its.
    LabelError, AreaError, MetricError, StoreError, PublishError
        Where map or settings cannot be used.
    """
    told: dict[str, Any] = {name: value for name, value in settings.items() if value is not None}
    make: Callable[..., Any]
    if purpose == "training":
        make, what = place_sites, "a sample for training"
    elif purpose == "accuracy" and any(name in told for name in _OF_STRATA):
        make, what = sample_strata, "a sample for accuracy"
    elif purpose == "accuracy":
        make, what = sample_classes, "a sample for accuracy"
    else:
        raise RecipeError(
            "no such purpose of a sample", got=purpose, expected="accuracy or training"
        )
    known = inspect.signature(make).parameters
    if odd := sorted(set(told) - set(known)):
        raise RecipeError(
            f"not a setting of {what}",
            got=", ".join(odd),
            expected=", ".join(sorted(set(known) - {"product", "place", "out"})),
        )
    if purpose == "training" and "n" not in told:
        raise RecipeError("a sample for training needs its number of sites", expected="n (--n)")
    found: Allocation | Design | Placed = make(product, out, **told)
    return found
