"""Propagate: from labels of a few cells to pseudo-labels of cells that look like them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import shapely

from engine.datasets.embedded import Embedded, open_embedded, require_one_embedding
from engine.datasets.pictures import StoredImage
from engine.datasets.pseudo_labels import LABELS
from engine.errors import LabelError
from engine.files import whole_folder, write_whole
from engine.grid.area import reproject
from engine.legend import LCZ
from engine.products.embedding import embedding_of
from engine.products.registry import load_recipe
from engine.propagation.heads import KnnHead, LogisticHead
from engine.propagation.pool import moments, standard_of
from engine.propagation.propagate import DEFAULT, NOTES, propagate
from engine.propagation.pseudo import Cells, Labels, Report
from engine.propagation.selection import Settings
from engine.propagation.tuning import Tuned, logistic_candidates, tune
from engine.publishing.audit_page import PseudoCard, audit_page
from engine.recipes.propagating import PropagationRecipe
from engine.runs.tables import add
from engine.store.location import location_of

__all__ = ["LABELS", "Made", "propagate_labels"]

_APART = 1e9  # metres between cities, so that their own guards never meet
_SHOWN = 6  # pseudo-labels of a class and city on the page
_UNSURE = 0.5  # share of votes below which a pseudo-label is to be looked at
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
        cities.append(open_embedded(city, base))
        for note in cities[-1].notes:
            tell(f"note: {note}")
    require_one_embedding(cities)
    pool, labels, cells = _together(cities)
    tuned = tune(
        labels.features, labels.codes, labels.city, logistic_candidates(), seed=recipe.seed
    )
    head = tuned.head
    assert isinstance(head, LogisticHead), "of these candidates"
    for note in tuned.notes:
        tell(f"note: {note}")
    settings = _settings(recipe)
    found = propagate(labels, cells, settings, linear=head, seed=recipe.seed, tell=tell)
    with whole_folder(out) as folder:
        table = _table(found.table, cities, labels)
        _write_parquet(table, cities, folder / LABELS)
        told = _told(recipe, cities, settings, tuned, found.report)
        write_whole(folder / _REPORT, json.dumps(told, indent=1) + "\n")
        cards = _cards(recipe, base, cities, labels, cells, found.table)
        write_whole(
            folder / _PAGE,
            audit_page(
                f"Pseudo-labels: {recipe.name}",
                labels.counts,
                found.report.pseudo,
                found.report.undetectable,
                cards,
                _notes(found.report, tuned, pool),
            ),
        )
    return Made(out, found.report)


def _require_own(out: Path) -> None:
    """Refuse a folder that holds something else."""
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / LABELS).exists())):
        raise LabelError(
            "the folder of the pseudo-labels holds something else",
            got=out,
            expected="an earlier propagation's folder, an empty one, or none",
            remedy="name another folder in `out`",
        )


def _settings(recipe: PropagationRecipe) -> Settings:
    start = NOTES if recipe.preset == "notes" else DEFAULT
    return replace(
        start,
        precision=recipe.precision,
        k=recipe.neighbours,
        rounds=recipe.rounds,
        most=recipe.most,
    )


def _together(cities: Sequence[Embedded]) -> tuple[int, Labels, Cells]:
    """Cells in the pool, and labels and cells of all cities on the pool's scale, far apart."""
    table = moments(cities[0].features)
    for city in cities[1:]:
        table = add(table, moments(city.features))
    standard = standard_of(table)
    features, xy, codes, own, where, held = [], [], [], [], [], []
    first = 0
    for number, city in enumerate(cities):
        apart = np.array([number * _APART, 0.0])
        place, code = city.labelled()
        features.append(standard.apply(city.features))
        xy.append(city.xy + apart)
        held.append(city.held + np.tile(apart, 2))
        where.append(first + place)
        codes.append(code)
        own.append(np.full(len(place), number))
        first += len(city.rows)
    whole, places = np.concatenate(features), np.concatenate(where)
    ground, side = np.concatenate(xy), cities[0].side
    labels = Labels(whole[places], np.concatenate(codes), np.concatenate(own), ground[places], side)
    ids = np.arange(len(whole), dtype=np.int64)
    return len(whole), labels, Cells(ids, whole, ground, held=np.concatenate(held), side=side)


def _owner(cities: Sequence[Embedded], ids: npt.NDArray[np.int64]) -> tuple[Any, Any]:
    """City and position among its cells of cells of the pool."""
    firsts = np.cumsum([0, *(len(city.rows) for city in cities)])
    number = np.searchsorted(firsts, ids, side="right") - 1
    return number, ids - firsts[number]


def _table(found: pa.Table, cities: Sequence[Embedded], labels: Labels) -> pa.Table:
    """Labels and pseudo-labels with their cities; `cell` is the city's own."""
    number, place = _owner(cities, found["cell"].to_numpy())
    rows = [_rows(cities, number, place, found.drop_columns("cell"))]
    for k, city in enumerate(cities):
        position, codes = city.labelled()
        n = len(codes)
        given = pa.table(
            {
                "code": pa.array(codes, pa.uint8()),
                "confidence": pa.array(np.ones(n), pa.float32()),
                "votes": pa.nulls(n, found.schema.field("votes").type),
                "distance": pa.nulls(n, pa.float64()),
                "energy": pa.nulls(n, pa.float64()),
                "source": pa.array(["label"] * n, pa.string()),
            }
        )
        rows.append(_rows(cities, np.full(n, k), position, given))
    return pa.concat_tables(rows)


def _rows(cities: Sequence[Embedded], number: Any, place: Any, more: pa.Table) -> pa.Table:
    names = [cities[k].name for k in number.tolist()]
    ids = [int(cities[k].ids[p]) for k, p in zip(number.tolist(), place.tolist(), strict=True)]
    head = {
        "city": pa.array(names, pa.string()),
        "cell": pa.array(ids, pa.int64()),
        "model": pa.array([cities[0].digest] * len(names), pa.string()),
    }
    return pa.table({**head, **{name: more[name] for name in more.column_names}})


def _write_parquet(table: pa.Table, cities: Sequence[Embedded], path: Path) -> None:
    known = {city.name: city for city in cities}
    shapes = []
    names, ids = table["city"].to_pylist(), table["cell"].to_numpy()
    for name, cell in zip(names, ids.tolist(), strict=True):
        city = known[name]
        row, col = divmod(cell, city.cells.shape[1])
        west, north = _corner(city, row, col)
        square = shapely.box(west, north - city.side, west + city.side, north)
        shapes.append(reproject(square, str(city.cells.crs), "EPSG:4326"))
    frame = geopandas.GeoDataFrame(table.to_pandas(), geometry=shapes, crs="EPSG:4326")
    frame.to_parquet(path)


def _corner(city: Embedded, row: int, col: int) -> tuple[float, float]:
    corner = city.cells.transform
    return corner.c + col * city.side, corner.f - row * city.side


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
        "cities": [
            {
                "name": city.name,
                "cells": len(city.rows),
                "labels": len(city.labelled()[1]),
                "snapshot": city.snapshot,
                "notes": list(city.notes),
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
    }
    plain: dict[str, Any] = _without_nan(found)
    return plain


def _without_nan(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, dict):
        return {str(k): _without_nan(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _notes(report: Report, tuned: Tuned, pool: int) -> list[str]:
    notes = [f"{pool} cells have a vector; {report.used} of {report.labels} labels took part"]
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
            f"cells of these classes would not be told as novel if no label had them: {names}"
        )
    return [*notes, *tuned.notes]


def _cards(
    recipe: PropagationRecipe,
    base: Path,
    cities: Sequence[Embedded],
    labels: Labels,
    cells: Cells,
    table: pa.Table,
) -> list[PseudoCard]:
    """Some pseudo-labels of each class and city, drawn by chance, with pictures."""
    rows = np.flatnonzero(np.array(table["source"].to_pylist()) == "pseudo")
    if not len(rows):
        return []
    ids, codes = table["cell"].to_numpy(), table["code"].to_numpy()
    number, place = _owner(cities, ids)
    rng = np.random.default_rng(recipe.seed)
    picked: list[int] = []
    for city in range(len(cities)):
        for code in np.unique(codes[rows]).tolist():
            mine = rows[(number[rows] == city) & (codes[rows] == code)]
            picked += rng.permutation(mine)[:_SHOWN].tolist()
    scorer = KnnHead(1).fit(labels.features, labels.codes)
    nearest = scorer.predict(cells.features[ids[picked]])
    images = [_image(entry.recipe, base) for entry in recipe.cities]
    found = []
    for row, neighbour in zip(picked, nearest.tolist(), strict=True):
        city, code = cities[number[row]], int(codes[row])
        west, north = _corner(city, *divmod(int(city.ids[place[row]]), city.cells.shape[1]))
        image, half = images[number[row]], city.side / 2
        around = west - half, north + half, 2 * city.side
        votes = float(table["votes"][row].as_py()[code - 1])
        doubts = []
        if neighbour != code:
            doubts.append(f"the nearest label is {LCZ[neighbour - 1].label}")
        if votes < _UNSURE:
            doubts.append("few of the nearest labels agree")
        found.append(
            PseudoCard(
                city.name,
                int(city.ids[place[row]]),
                code,
                float(table["confidence"][row].as_py()),
                neighbour,
                votes,
                float(table["distance"][row].as_py()),
                None if image is None else image.picture(around),
                tuple(doubts),
            )
        )
    return found


def _image(recipe: str, base: Path) -> StoredImage | None:
    path = base / recipe
    place = location_of(embedding_of(load_recipe(path)).store, path.parent)
    try:
        return StoredImage(place, "natmap embed")
    except LabelError:
        return None  # an embedding of somebody else's has no composite
