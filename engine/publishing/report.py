"""report.json: what the map holds, what it lacks, and what it was made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.addresses import public
from engine.legend import Reason
from engine.publishing.forms import Form
from engine.publishing.rights import Rights
from engine.runs.tables import Table

__all__ = ["SCHEMA", "build_report"]

SCHEMA = "natmap-report/1"

_DOUBTFUL = 10  # percent of dissent from which a cell is worth a look


def build_report(
    counts: Table,
    form: Form,
    cell: float,
    *,
    name: str,
    period: Sequence[object],
    recipe: Mapping[str, Any],
    software: Mapping[str, str],
    seconds: Mapping[str, float],
    throughput: Mapping[str, Any] | None,
    model: Mapping[str, Any],
    items: Sequence[str],
    rights: Rights,
    notes: Sequence[str],
    release: str,
    runs: Sequence[Mapping[str, Any]] = (),
    files: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The report as plain values, without secrets.

    Parameters
    ----------
    counts : of the finished map, as `engine.publishing.tally.count` gives them.
    form : what it consists of.
    cell : side of a cell, metres; areas are those of cells on the grid, in its projection.
    name, period, recipe, software, seconds, throughput, model, items, rights, notes, release, runs
        What the run says of itself.
    files : of each raster its digest, and that of what it was made from.

    Returns
    -------
    dict, schema `SCHEMA`. ``coverage`` is the share of the wanted cells (in the area and not
    outside the mask) that have a class; 0 where none is wanted. ``observations``, of products that
    have days, shows cloud that the scene classification missed: cells by clear days, and the
    dissent of the days.
    """
    found = counts["reason"]
    wanted = int(found.sum() - found[Reason.OUTSIDE_AREA] - found[Reason.OUTSIDE_MASK])
    square_km = cell**2 / 1e6
    report: dict[str, Any] = public(
        {
            "schema": SCHEMA,
            "name": name,
            "period": [str(day) for day in period],
            **_holds(counts, form, square_km),
            "coverage": round(float(found[Reason.DATA]) / wanted, 6) if wanted else 0.0,
            **(
                {}
                if "dissent" not in counts
                else {"observations": _observations(counts["days"], counts["dissent"])}
            ),
            "cells_by_reason": {r.name.lower(): int(found[r]) for r in Reason},
            "recipe": dict(recipe),
            "versions": dict(software),
            "seconds_by_stage": {stage: round(spent, 2) for stage, spent in seconds.items()},
            "throughput": None if throughput is None else dict(throughput),
            "model": dict(model),
            "items": list(items),
            "licences": rights.licences,
            "rights": rights.to_json(),
            "notes": list(notes),
            "release": release,
            "form": form.to_json(),
            "runs": [dict(run) for run in runs],
            "files": dict(files or {}),
        }
    )
    return report


def _holds(counts: Table, form: Form, square_km: float) -> dict[str, Any]:
    """Areas of the classes; or the area that has values, and these."""
    if form.scale is None:
        tally = counts["map"]
        return {
            "area_km2": {c.name: round(float(tally[c.code]) * square_km, 4) for c in form.legend}
        }
    known, total = int(counts["known"]), float(counts["total"])
    return {
        "area_km2": round(known * square_km, 4),
        "unit": form.scale.unit,
        "minimum": float(counts["low"]) if known else None,
        "mean": total / known if known else None,
        "maximum": float(counts["high"]) if known else None,
    }


def _observations(days: npt.NDArray[np.int64], dissent: npt.NDArray[np.int64]) -> dict[str, Any]:
    judged = dissent[:101]  # what lies above has no percentage
    cells = int(judged.sum())
    return {
        "cells_by_clear_days": {str(n): int(days[n]) for n in np.flatnonzero(days).tolist()},
        "dissent": {
            "cells": cells,
            "mean_percent": round(float(judged @ np.arange(101)) / cells, 3) if cells else None,
            f"cells_over_{_DOUBTFUL}_percent": int(judged[_DOUBTFUL + 1 :].sum()),
        },
    }
