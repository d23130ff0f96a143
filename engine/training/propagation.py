"""Propagate: from labels of a few cells to pseudo-labels of cells that look like them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.datasets.embedded import Embedded, open_embedded, require_one_embedding
from engine.datasets.pseudo_labels import LABELS
from engine.errors import LabelError
from engine.features.osm import OsmSource
from engine.files import whole_folder, write_whole
from engine.legend import LCZ
from engine.propagation.features import Pooled, moments_of, taken
from engine.propagation.guards import cap_pool
from engine.propagation.heads import LogisticHead
from engine.propagation.pool import standard_of
from engine.propagation.propagate import DEFAULT, NOTES, propagate
from engine.propagation.pseudo import Cells, Labels, Report
from engine.propagation.selection import Settings
from engine.propagation.tuning import CITIES, Tuned, logistic_candidates, tune
from engine.publishing.audit_page import audit_page
from engine.recipes.propagating import PropagationRecipe
from engine.runs.tables import add
from engine.training.audit_cards import APART, audit_cards
from engine.training.pseudo_table import in_one_table, write_parquet

__all__ = ["LABELS", "Made", "propagate_labels"]

_REPORT, _PAGE = "report.json", "audit.html"


@dataclass(frozen=True)
class Made:
    """What a propagation wrote.

    Attributes
    ----------
    folder : with ``pseudo-labels.parquet``, ``report.json`` and ``audit.html``.
    report : what it did.
    """

    folder: Path
    report: Report


def propagate_labels(
    recipe: PropagationRecipe,
    *,
    base: Path | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> Made:
    """Give cells of embedded cities the labels of cells that look like them.

    ``pseudo-labels.parquet`` is GeoParquet in EPSG:4326 with a row for each cell that has a class:
    `city`, `cell` (row times width plus column of its store), `code` (1 to 17), `confidence`,
    `votes` (share of the nearest labels for each class), `distance`, `energy`, `source` (label,
    pseudo, mask or osm), `model` (digest of what made the vectors).

    Parameters
    ----------
    recipe : PropagationRecipe
    base : folder of its relative paths.
    tell : hears of each step.

    Raises
    ------
    NatmapError
        Before any work, where an embedding or labels cannot be used.
    """
    base = base or Path()
    out = base / recipe.out
    _require_own(out)
    cities = []
    for city in recipe.cities:
        tell(f"reading {city.name or city.recipe}")
        cities.append(open_embedded(city, base, recipe.water))
        for note in cities[-1].notes:
            tell(f"note: {note}")
    require_one_embedding(cities)
    pool = _together(cities, recipe)
    labels = pool.labels
    labels.check(LogisticHead().classes)
    _require_proof(recipe, cities, labels)
    tuned = tune(
        labels.features, labels.codes, labels.city, logistic_candidates(), seed=recipe.seed
    )
    head = tuned.head
    assert isinstance(head, LogisticHead), "of these candidates"
    for note in tuned.notes:
        tell(f"note: {note}")
    settings = _settings(recipe)
    found = propagate(labels, pool.cells, settings, linear=head, seed=recipe.seed, tell=tell)
    report = replace(found.report, labels=pool.given)
    with whole_folder(out) as folder:
        write_parquet(in_one_table(found.table, cities), cities, folder / LABELS)
        told = _told(recipe, cities, settings, tuned, report)
        write_whole(folder / _REPORT, json.dumps(told, indent=1) + "\n")
        cards = audit_cards(recipe, base, cities, (pool.labels, pool.features), found.table)
        write_whole(
            folder / _PAGE,
            audit_page(
                f"Pseudo-labels: {recipe.name}",
                labels.counts,
                report.pseudo,
                report.undetectable,
                cards,
                [*_notes(report, tuned, cities, pool.vectors), *_terms(cities)],
            ),
        )
    return Made(out, report)


def _require_own(out: Path) -> None:
    """Refuse a folder that holds something else."""
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / LABELS).exists())):
        raise LabelError(
            "the folder of the pseudo-labels holds something else",
            got=out,
            expected="an earlier propagation's folder, an empty one, or none",
            remedy="name another folder in `out`",
        )


def _require_proof(recipe: PropagationRecipe, cities: Sequence[Embedded], labels: Labels) -> None:
    """Refuse a precision that is asked for where too few cities are left to show it."""
    teach = [city.name for k, city in enumerate(cities) if k in labels.city]
    if "precision" in recipe.model_fields_set and len(teach) < CITIES:
        raise LabelError(
            "too few cities have labels to show that pseudo-labels have a precision",
            got=f"precision: {recipe.precision:g}; {len(teach)} with labels: {', '.join(teach)}",
            expected=f"labels in {CITIES} cities or more, of which one after another is left out",
            remedy="label another city, or take preset: notes, which shows nothing",
        )


def _settings(recipe: PropagationRecipe) -> Settings:
    start = NOTES if recipe.preset == "notes" else DEFAULT
    return replace(
        start,
        precision=recipe.precision,
        k=recipe.neighbours,
        rounds=recipe.rounds,
        most=recipe.most,
        water=recipe.water,
    )


@dataclass(frozen=True)
class _Pool:
    """All cities on one scale: what is known, what is to be labelled, and the features of both.

    Attributes
    ----------
    vectors : cells that have one.
    features : of all cells, city after city, read block by block.
    labels : that take part, of each class and city no more than the recipe allows.
    given : labels that there are, those without a vector among them.
    cells : all others.
    """

    vectors: int
    features: Pooled
    labels: Labels
    given: int
    cells: Cells


def _together(cities: Sequence[Embedded], recipe: PropagationRecipe) -> _Pool:
    """The pool of all cities, which lie far apart in it."""
    own = [moments_of(city.features) for city in cities]
    means = own if recipe.center == "city" else []
    tables = [
        moments_of(city.features, table, number)
        for number, (city, table) in enumerate(zip(cities, means, strict=False))
    ]
    standard = standard_of(reduce(add, tables or own))
    features = Pooled([city.features for city in cities], standard, means)
    xy, codes, number, where, held = [], [], [], [], []
    labelled = np.zeros(len(features), bool)
    first = 0
    for k, city in enumerate(cities):
        apart = np.array([k * APART, 0.0])
        place, code = city.labelled()
        labelled[first + place] = True
        there = city.there[place]
        xy.append(city.xy + apart)
        held.append(city.held + np.tile(apart, 2))
        where.append(first + place[there])
        codes.append(code[there])
        number.append(np.full(int(there.sum()), k))
        first += len(city.rows)
    ground, side = np.concatenate(xy), cities[0].side
    code, city_of, places = map(np.concatenate, (codes, number, where))
    _require_some(code)
    kept = cap_pool(code, city_of, recipe.most, recipe.seed)
    rows = places[kept]
    labels = Labels(features[rows], code[kept], city_of[kept], ground[rows], side)
    others = np.flatnonzero(~labelled)
    water = None
    if any(city.water is not None for city in cities):
        shares = [np.zeros(len(c.rows)) if c.water is None else c.water for c in cities]
        water = np.concatenate(shares)[others]
    osm = None
    if any(city.osm is not None for city in cities):
        told = [np.zeros(len(c.rows), np.uint8) if c.osm is None else c.osm for c in cities]
        osm = np.concatenate(told)[others]
    cells = Cells(
        others,
        taken(features, others),
        ground[others],
        water,
        osm,
        held=np.concatenate(held),
        side=side,
    )
    vectors = sum(int(city.there.sum()) for city in cities)
    return _Pool(vectors, features, labels, int(labelled.sum()), cells)


def _require_some(codes: npt.NDArray[np.int64]) -> None:
    if not len(codes):
        raise LabelError(
            "no labelled cell has a vector",
            got="labels of all cities lie on cells without one",
            expected="a labelled cell with a vector, of each of two classes",
            remedy="look at the reasons of the embedding: cloud, or ground outside of its area",
        )


def _told(
    recipe: PropagationRecipe,
    cities: Sequence[Embedded],
    settings: Settings,
    tuned: Tuned,
    report: Report,
) -> dict[str, Any]:
    """The report as JSON."""
    found = {
        "schema": "natmap-propagation/1",
        "name": recipe.name,
        "preset": recipe.preset,
        "settings": asdict(settings),
        "center": recipe.center,
        "cities": [
            {
                "name": city.name,
                "cells": int(city.there.sum()),
                "labels": len(city.labelled()[1]),
                "snapshot": city.snapshot,
                "notes": list(city.notes),
                "openstreetmap": None if city.source is None else _told_of(city.source),
            }
            for city in cities
        ],
        "embedding": cities[0].made_by,
        "head": repr(tuned.head),
        "tuning": {
            "prior": repr(tuned.prior),
            "gain": tuned.gain,
            "error": tuned.error,
            "notes": list(tuned.notes),
        },
        **{k: v for k, v in asdict(report).items() if k != "detection"},
        "detection": {str(code): asdict(d) for code, d in report.detection.items()},
        "undetectable": list(report.undetectable),
        "unknown": list(report.unknown),
    }
    plain: dict[str, Any] = _without_nan(found)
    return plain


def _told_of(source: OsmSource) -> dict[str, Any]:
    """What labels of OpenStreetMap are made of, and under which terms."""
    return {"origins": [asdict(origin) for origin in source.origins], **source.facts}


def _without_nan(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, dict):
        return {str(k): _without_nan(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _notes(report: Report, tuned: Tuned, cities: Sequence[Embedded], vectors: int) -> list[str]:
    notes = [f"{vectors} cells have a vector; {report.used} of {report.labels} labels took part"]
    notes += [f"{city.name}: {note}" for city in cities for note in city.notes]
    if report.reason:
        notes.append(f"no pseudo-labels: {report.reason}")
    for name, count in report.removed.items():
        notes.append(f"{count} cells were removed by the guard of {name}")
    if report.barren:
        names = ", ".join(LCZ[code - 1].label for code in report.barren)
        notes.append(f"classes with labels and without pseudo-labels: {names}")
    if report.undetectable:
        names = ", ".join(LCZ[code - 1].label for code in report.undetectable)
        notes.append(
            f"cells of these classes would not be detected as novel if no label had them: {names}"
        )
    if report.unknown:
        names = ", ".join(LCZ[code - 1].label for code in report.unknown)
        notes.append(
            "whether cells of these classes would be detected as novel could not be measured: "
            f"{names}"
        )
    return [*notes, *tuned.notes]


def _terms(cities: Sequence[Embedded]) -> list[str]:
    """Whom to name, once each."""
    sources = [city.source for city in cities if city.source is not None]
    origins = [origin for source in sources for origin in source.origins]
    return sorted({f"cells of source osm: {o.attribution}, licence {o.licence}" for o in origins})
