"""`natmap sample --advise`: which design of a sample errs least on a map, found by trying all.

Errors are those of shares of pixels; a pixel of a map in degrees covers less towards the poles.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from engine.compare.report import write_json, write_table
from engine.errors import LabelError
from engine.files import together
from engine.sites.allocation import frame_of
from engine.sites.designs import designs_for, places_of, simulate
from engine.sites.drawing import Ground
from engine.sites.landscape import landscape
from engine.sites.patterns import Truth, make_truths
from engine.sites.regions import RegionMap

__all__ = ["AIMS", "Advice", "Aim", "Row", "advise", "best_of"]

Aim = Literal["both", "areas", "accuracy"]
AIMS: tuple[Aim, ...] = ("both", "areas", "accuracy")

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Row:
    """What a design does under a pattern of errors.

    Attributes
    ----------
    pattern, key, title, draw : of the truth, and of the design.
    sites, places, cost : cells to look at, units that they lie in on average, and sites plus
        places at their price.
    bias, error : float (class,), of estimated shares: mean and standard deviation, of 0 to 1.
    areas : sum over classes of the root mean square error of their shares, of 0 to 2.
    oa_bias, oa_error, oa_rmse : of the overall accuracy, of 0 to 1.
    """

    pattern: str
    key: str
    title: str
    draw: str | None
    sites: int
    places: float
    cost: float
    bias: Floats
    error: Floats
    areas: float
    oa_bias: float
    oa_error: float
    oa_rmse: float


@dataclass(frozen=True)
class Advice:
    """Designs side by side.

    Attributes
    ----------
    rows : of each pattern and design.
    truths : by pattern.
    titles : of the truths' classes.
    scores : of each design's key, error for the cost beside that of a simple random sample.
    best : key of the design that is advised: of those that natmap draws, the smallest score.
    alike : keys of others that repeats cannot tell from it.
    notes : what was decided or is in doubt, one line each.
    """

    rows: tuple[Row, ...]
    truths: tuple[Truth, ...]
    titles: tuple[str, ...]
    scores: dict[str, float]
    best: str
    alike: tuple[str, ...]
    notes: tuple[str, ...]


def advise(
    place: str | Path,
    out: str | Path | None = None,
    *,
    n: int,
    regions: str | Path | None = None,
    field: str | None = None,
    grid: float | None = None,
    merge: float = 0.25,
    unit: float | None = None,
    unknown: Sequence[int] = (),
    layer: str = "map",
    tag: str | None = None,
    accuracy: float = 0.85,
    least: int = 2,
    aim: Aim = "both",
    place_cost: float = 0.0,
    repeats: int = 500,
    seed: int = 0,
    tell: Callable[[str], None] = lambda text: None,
) -> Advice:
    """Try designs of samples on a map under patterns of errors.

    Parameters
    ----------
    place, regions, field, grid, merge, unit, unknown, layer, tag
        As `engine.sites.landscape.landscape` takes them.
    out : folder for ``advice.json`` and ``advice.csv``; by default nowhere.
    n : cells to look at.
    accuracy : overall accuracy that the map is thought to have.
    least : cells of each stratum.
    aim : what the sample is to estimate: "areas", overall "accuracy", or "both".
    place_cost : what it costs to open another unit, in cells that are looked at.
    repeats : draws of each design.
    seed : int, 0 or more.
    tell : gets a line for each design.

    Raises
    ------
    LabelError, AreaError, MetricError, StoreError, PublishError
        Where map or regions cannot be used, numbers make no sense, or `n` allows no design.
    """
    _require_sense(n, accuracy, least, aim, place_cost, repeats, seed)
    found = landscape(
        place,
        regions=regions,
        field=field,
        grid=grid,
        merge=merge,
        unit=unit,
        unknown=unknown,
        layer=layer,
        tag=tag,
    )
    source = found.source
    frame = frame_of(found.by_unit, found.by_class)
    where = RegionMap(found.regions, source.transform, source.shape)
    rng = np.random.default_rng(seed)
    truths = make_truths(Ground(source, where, found.unit, frame), accuracy, rng)
    designs, notes = designs_for(frame, found.by_region, n, least)
    if not any(design.draw for design in designs):
        raise LabelError(
            "no design can be drawn with so few cells", got=f"n {n}", expected="; ".join(notes)
        )
    for truth in truths:
        if abs(truth.accuracy - accuracy) > 0.01:
            notes.append(
                f"errors of pattern {truth.pattern} leave an accuracy of {truth.accuracy:.3f}: "
                "there are not as many borders as errors"
            )
    if source.crs.is_geographic:
        notes.append("shares are of pixels, which cover less towards the poles")
    rows = []
    for truth in truths:
        for design in designs:
            tell(f"{truth.pattern}: {design.title}")
            drawn = simulate(design, frame, truth, repeats, rng)
            right = truth.shares
            bias, error = drawn.shares.mean(axis=0) - right, drawn.shares.std(axis=0)
            oa = drawn.oa - truth.accuracy
            places = places_of(design, frame)
            sites = int(design.sizes.sum())
            rows.append(
                Row(
                    truth.pattern,
                    design.key,
                    design.title,
                    design.draw,
                    sites,
                    places,
                    sites + place_cost * places,
                    bias,
                    error,
                    float(np.sqrt(((drawn.shares - right) ** 2).mean(axis=0)).sum()),
                    float(oa.mean()),
                    float(oa.std()),
                    float(np.sqrt((oa**2).mean())),
                )
            )
    scores, best, alike = best_of(rows, aim, repeats)
    advice = Advice(
        tuple(rows),
        tuple(truths),
        tuple(found.titles(truths[0].codes.tolist())),
        scores,
        best,
        alike,
        (*found.notes, *notes),
    )
    if out is not None:
        settings = {
            "map": source.name,
            "n": n,
            "accuracy": accuracy,
            "least": least,
            "aim": aim,
            "place_cost": place_cost,
            "repeats": repeats,
            "seed": seed,
            "unit_pixels": found.unit,
            "regions": len(found.by_region.region),
        }
        with together(Path(out), mark="advice.json") as part:
            _write(advice, settings, part)
    return advice


def best_of(
    rows: Sequence[Row], aim: Aim, repeats: int
) -> tuple[dict[str, float], str, tuple[str, ...]]:
    """The design with the smallest error for the cost, of those that natmap draws.

    A design's score is its error over that of a simple random sample, as geometric mean of
    patterns and of what is aimed at, times the root of the same ratio of costs: the square of an
    error falls as the cost grows. Scores within twice their Monte Carlo error of the smallest are
    alike.

    Returns
    -------
    (scores by key, key of the best, keys of others alike)
    """
    patterns = list(dict.fromkeys(row.pattern for row in rows))
    keys = list(dict.fromkeys(row.key for row in rows))
    of = {(row.pattern, row.key): row for row in rows}
    scores = {}
    for key in keys:
        logs = []
        for pattern in patterns:
            row, plain = of[pattern, key], of[pattern, "random"]
            cost = 0.5 * np.log(row.cost / plain.cost)
            if aim in ("both", "areas"):
                logs.append(cost + _log_ratio(row.areas, plain.areas))
            if aim in ("both", "accuracy"):
                logs.append(cost + _log_ratio(row.oa_rmse, plain.oa_rmse))
        scores[key] = float(np.exp(np.mean(logs)))
    can = [key for key in keys if of[patterns[0], key].draw]
    best = min(can, key=lambda key: scores[key])
    # an error of R repeats is uncertain by 1 / sqrt(2 R) of itself
    most = scores[best] * (1 + 2 / np.sqrt(2 * repeats))
    return scores, best, tuple(key for key in can if scores[key] <= most and key != best)


def _log_ratio(error: float, plain: float) -> float:
    least = 1e-12  # where a design has no error at all
    return float(np.log(max(error, least) / max(plain, least)))


def _require_sense(
    n: int, accuracy: float, least: int, aim: str, place_cost: float, repeats: int, seed: int
) -> None:
    for name, value, low in (("n", n, 2), ("least", least, 2), ("repeats", repeats, 10)):
        if value < low:
            raise LabelError(f"{name} must be {low} or more", got=value)
    if not 0 < accuracy < 1:
        raise LabelError("accuracy must lie between 0 and 1", got=accuracy)
    if aim not in AIMS:
        raise LabelError("no such aim of a sample", got=aim, expected=", ".join(AIMS))
    if not 0 <= place_cost < np.inf:
        raise LabelError("the cost of a place makes no sense", got=place_cost)
    if seed < 0:
        raise LabelError("a seed must be 0 or more", got=seed)


def _write(advice: Advice, settings: dict[str, Any], folder: Path) -> None:
    truths = {truth.pattern: truth for truth in advice.truths}
    figures = [
        {
            "pattern": row.pattern,
            "design": row.key,
            "title": row.title,
            "drawn_by": row.draw,
            "sites": row.sites,
            "places": row.places,
            "cost": row.cost,
            "areas_rmse_percent": 100 * row.areas,
            "oa_bias_percent": 100 * row.oa_bias,
            "oa_error_percent": 100 * row.oa_error,
            "oa_rmse_percent": 100 * row.oa_rmse,
        }
        for row in advice.rows
    ]
    write_json(
        folder / "advice.json",
        {
            **settings,
            "accuracies": {name: truth.accuracy for name, truth in truths.items()},
            "designs": figures,
            "scores": advice.scores,
            "best": advice.best,
            "alike": advice.alike,
            "notes": advice.notes,
        },
    )
    codes = advice.truths[0].codes.tolist()
    write_table(
        folder / "advice.csv",
        ("pattern", "design", "code", "class", "true_percent", "bias_percent", "error_percent"),
        (
            (row.pattern, row.key, code, title, 100 * share, 100 * bias, 100 * error)
            for row in advice.rows
            for code, title, share, bias, error in zip(
                codes,
                advice.titles,
                truths[row.pattern].shares.tolist(),
                row.bias.tolist(),
                row.error.tolist(),
                strict=True,
            )
        ),
    )
