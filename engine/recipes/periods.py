"""Periods of a cube: several composites of one place, each of its own days."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import date
from itertools import pairwise
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from engine.items import PERIOD
from engine.recipes.base import Strict

__all__ = ["CubePeriod", "labelled", "require_apart", "spanned"]

_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")


def _day(value: Any) -> Any:
    """A day as it is written; pydantic takes seconds since 1970 and times of day, too."""
    if type(value) is date or (isinstance(value, str) and _DAY.fullmatch(value)):
        return value
    raise ValueError(f"got {value!r}, expected a day, as in 2023-03-01")


Day = Annotated[date, BeforeValidator(_day)]


class CubePeriod(Strict):
    """The days of one composite, first and last included."""

    name: str | None = Field(
        None,
        pattern=PERIOD,
        description="a letter, then letters, digits and _; by default its number, from 1",
    )
    start: Day
    end: Day

    @model_validator(mode="after")
    def _ordered(self) -> CubePeriod:
        if self.start > self.end:
            raise ValueError(f"the period ends ({self.end}) before it begins ({self.start})")
        return self

    def holds(self, day: date) -> bool:
        """Whether a solar day is one of its days."""
        return self.start <= day <= self.end

    def __str__(self) -> str:
        return f"{self.start}/{self.end}"


def labelled(periods: Sequence[CubePeriod]) -> dict[str, CubePeriod]:
    """Periods by what follows the @ of a band: the name, or the number of one without a name."""
    return {period.name or str(k): period for k, period in enumerate(periods, 1)}


def require_apart(periods: Sequence[CubePeriod]) -> None:
    """Refuse periods that share a name or a day: a day belongs to one composite."""
    names = [period.name for period in periods if period.name is not None]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"two periods are called {', '.join(twice)}")
    order = sorted(labelled(periods).items(), key=lambda pair: pair[1].start)
    for (one, first), (other, second) in pairwise(order):
        if second.start <= first.end:
            raise ValueError(f"periods {one} ({first}) and {other} ({second}) share days")


def spanned(values: Any) -> Any:
    """A recipe whose `imagery` says no period: it is from the first of `cube.periods` to the last.

    Whatever is not of the form of a recipe stays as it is, to be refused by its own field.
    """
    cube, imagery = (values.get(k) if isinstance(values, Mapping) else None for k in _SECTIONS)
    if not (isinstance(cube, Mapping) and isinstance(imagery, Mapping)):
        return values
    periods = cube.get("periods")
    if not isinstance(periods, list | tuple) or not periods or imagery.get("period") is not None:
        return values
    days = [_ends(period) for period in periods]
    if any(None in pair for pair in days):
        return values
    first, last = min(d[0] for d in days), max(d[1] for d in days)
    return {**values, "imagery": {**imagery, "period": {"first": first, "last": last}}}


_SECTIONS = ("cube", "imagery")


def _ends(period: Any) -> tuple[Any, Any]:
    """First and last day of a period as a recipe has it, as text; None where it has none."""
    found = [
        period.get(key) if isinstance(period, Mapping) else getattr(period, key, None)
        for key in ("start", "end")
    ]
    texts = [str(day) if _DAY.fullmatch(str(day)) else None for day in found]
    return texts[0], texts[1]
