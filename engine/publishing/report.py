"""report.json: what the map holds, what it lacks, and what it was made from."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.legend import Reason
from engine.publishing.forms import Form

__all__ = ["SCHEMA", "Counts", "Spread", "Tally", "build_report", "redact"]

SCHEMA = "natmap-report/1"

_DOUBTFUL = 10  # percent of dissent from which a cell is worth a look

_ADDRESS = re.compile(r"([A-Za-z][\w+.-]*://)(?:[^\s/?#]*@)?([^\s?#]*)(?:\?[^\s#]*)?")


class Tally:
    """Counts of codes, gathered block by block.

    Attributes
    ----------
    counts : int64 (256,)
    """

    def __init__(self) -> None:
        self.counts = np.zeros(256, np.int64)

    def add(self, block: npt.NDArray[np.uint8]) -> None:
        """Count a block's codes."""
        self.counts += np.bincount(block.ravel(), minlength=256)


class Spread:
    """How continuous values are spread, gathered block by block.

    Parameters
    ----------
    nodata : of the values; NaN is none of them either.

    Attributes
    ----------
    count : of known values; `low` and `high` the least and the greatest, `total` their sum.
    """

    def __init__(self, nodata: float) -> None:
        self._nodata = nodata
        self.count, self.total = 0, 0.0
        self.low, self.high = math.inf, -math.inf

    def add(self, block: npt.NDArray[Any]) -> None:
        """Take a block's values."""
        known = block[(block != self._nodata) & ~np.isnan(block)]
        if known.size:
            self.count += known.size
            self.total += float(known.sum(dtype=np.float64))
            self.low = min(self.low, float(known.min()))
            self.high = max(self.high, float(known.max()))


@dataclass
class Counts:
    """What a finished map holds.

    Attributes
    ----------
    classes, reasons : of all its cells.
    dissent : of the wanted cells: percent of their observations that depart from the composite;
        None where a product has no days.
    values : of a map of continuous values; None of one of classes.
    days : wanted cells by the number of clear days that they were seen on.
    """

    classes: Tally
    reasons: Tally
    dissent: Tally | None
    values: Spread | None = None
    days: Counter[int] = field(default_factory=Counter)


def build_report(
    counts: Counts,
    form: Form,
    cell: float,
    *,
    name: str,
    period: Sequence[object],
    recipe: Mapping[str, Any],
    software: Mapping[str, str],
    seconds: Mapping[str, float],
    model: Mapping[str, Any],
    items: Sequence[str],
    licences: Sequence[str],
    notes: Sequence[str],
    release: str,
    runs: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """The report as plain values, without secrets.

    Parameters
    ----------
    counts : of the finished map.
    form : what it consists of.
    cell : side of a cell, metres; areas are those of cells on the grid, in its projection.
    name, period, recipe, software, seconds, model, items, licences, notes, release, runs
        What the run says of itself.

    Returns
    -------
    dict, schema `SCHEMA`. ``coverage`` is the share of the wanted cells (in the area and not
    outside the mask) that have a class; 0 where none is wanted. ``observations``, of products that
    have days, shows cloud that the scene classification missed: cells by clear days, and the
    dissent of the days.
    """
    found = counts.reasons.counts
    wanted = int(found.sum() - found[Reason.OUTSIDE_AREA] - found[Reason.OUTSIDE_MASK])
    square_km = cell**2 / 1e6
    report: dict[str, Any] = redact(
        {
            "schema": SCHEMA,
            "name": name,
            "period": [str(day) for day in period],
            **_holds(counts, form, square_km),
            "coverage": round(float(found[Reason.DATA]) / wanted, 6) if wanted else 0.0,
            **(
                {}
                if counts.dissent is None
                else {"observations": _observations(counts.days, counts.dissent.counts)}
            ),
            "cells_by_reason": {r.name.lower(): int(found[r]) for r in Reason},
            "recipe": dict(recipe),
            "versions": dict(software),
            "seconds_by_stage": {stage: round(spent, 2) for stage, spent in seconds.items()},
            "model": dict(model),
            "items": list(items),
            "licences": list(licences),
            "notes": list(notes),
            "release": release,
            "form": form.to_json(),
            "runs": [dict(run) for run in runs],
        }
    )
    return report


def _holds(counts: Counts, form: Form, square_km: float) -> dict[str, Any]:
    """Areas of the classes; or the area that has values, and these."""
    if counts.values is None:
        tally = counts.classes.counts
        return {
            "area_km2": {c.name: round(float(tally[c.code]) * square_km, 4) for c in form.legend}
        }
    found = counts.values
    some = found.count > 0
    return {
        "area_km2": round(found.count * square_km, 4),
        "unit": form.scale.unit if form.scale else "",
        "minimum": found.low if some else None,
        "mean": found.total / found.count if some else None,
        "maximum": found.high if some else None,
    }


def _observations(days: Mapping[int, int], dissent: npt.NDArray[np.int64]) -> dict[str, Any]:
    judged = dissent[:101]  # what lies above has no percentage
    cells = int(judged.sum())
    return {
        "cells_by_clear_days": {str(count): days[count] for count in sorted(days)},
        "dissent": {
            "cells": cells,
            "mean_percent": round(float(judged @ np.arange(101)) / cells, 3) if cells else None,
            f"cells_over_{_DOUBTFUL}_percent": int(judged[_DOUBTFUL + 1 :].sum()),
        },
    }


def redact(value: Any) -> Any:
    """Take user names, passwords and query strings (signatures, tokens) out of addresses.

    Parameters
    ----------
    value : str, or mappings and sequences of them, nested; anything else is returned as it is.
    """
    if isinstance(value, str):
        return _ADDRESS.sub(r"\1\2", value)
    if isinstance(value, Mapping):
        return {key: redact(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [redact(inner) for inner in value]
    return value
