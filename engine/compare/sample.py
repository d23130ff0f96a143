"""Judge a finished map by a sample drawn on it: what to look at, and what the looking tells."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio

from engine.compare.estimates import Stratified, by_strata, poststrata, stratified
from engine.compare.overlap import TRAINED, footprint_of, say_overlap, trained_stratum
from engine.compare.report import plain, write_json
from engine.compare.sample_files import (
    hash_of,
    read_sample,
    read_zones,
    require_no_sample,
    write_cells,
)
from engine.errors import MetricError
from engine.files import together
from engine.labels.design import Allocation, allocate, draw
from engine.legend import LCZ

__all__ = ["Judged", "judge", "sample"]


@dataclass(frozen=True)
class Judged:
    """Design-based estimates.

    Attributes
    ----------
    classes : codes that map or sample have, ascending; the order of all figures.
    counts : int64 (map class, reference class)
    estimates : Stratified
        Areas in km2.
    mapped : km2 of each class on the map.
    notes : of cells that lie where the model was trained, one line each.
    """

    classes: tuple[int, ...]
    counts: npt.NDArray[np.int64]
    estimates: Stratified
    mapped: npt.NDArray[np.float64]
    notes: tuple[str, ...] = ()

    @property
    def figures(self) -> dict[str, float]:
        """The single figures: cells looked at, overall accuracy, half of its 95 % interval."""
        found = self.estimates
        return {"cells": float(self.counts.sum()), "oa": found.oa, "oa_ci": found.oa_ci}

    def to_json(self) -> dict[str, Any]:
        """As JSON values; half-widths of 95 % intervals end in ``_ci``."""
        found = self.estimates
        names = ("users", "users_ci", "producers", "producers_ci", "areas", "areas_ci")
        told: dict[str, Any] = plain(
            {
                "schema": 1,
                "cells": int(self.counts.sum()),
                "classes": [LCZ[code - 1].label for code in self.classes],
                "oa": found.oa,
                "oa_ci": found.oa_ci,
                **{name: getattr(found, name) for name in names},
                "mapped": self.mapped,
                "counts": self.counts,
                "notes": self.notes,
            }
        )
        return told


def sample(
    product: str | Path,
    out: str | Path,
    *,
    standard_error: float = 0.01,
    users: float = 0.8,
    least: int = 50,
    layer: str = "map",
    seed: int = 0,
) -> Allocation:
    """Draw the cells by which a map is to be judged.

    Writes ``sample.geojson``, each cell as a square with an empty ``lcz`` for whoever looks at it
    to fill in, and ``design.json``, which knows what the map says and is better not opened before.

    Parameters
    ----------
    product : a product folder of local climate zones, or any raster of codes 1 to 17.
    out : folder; one that holds a sample is not overwritten.
    standard_error, users, least : as `engine.labels.design.allocate` takes them.
    layer : of a product folder, "map" or "classes".
    seed : int

    Raises
    ------
    MetricError, LabelError
    """
    require_no_sample(Path(out))
    map_ = read_zones(product, layer)
    found = allocate(map_.codes, standard_error, users=users, least=least)
    rows, cols = draw(map_.codes, found, seed)
    told = {
        "schema": 1,
        "cells": {str(c): int(n) for c, n in zip(found.classes, found.cells, strict=True)},
        "sizes": {str(c): int(n) for c, n in zip(found.classes, found.sizes, strict=True)},
        "seed": seed,
    }
    write_cells(Path(out), map_, rows, cols, told)
    return found


def judge(
    product: str | Path, folder: str | Path, *, layer: str = "map", out: str | Path | None = None
) -> Judged:
    """Estimate a map's accuracy and the classes' true areas from a sample that was filled in.

    Parameters
    ----------
    product : the map that the sample was drawn on.
    folder : what `sample` wrote; ``lcz`` holds 1 to 17, or 1 to 10 and A to G.
    layer : as for `sample`.
    out : folder for ``estimates.json``; by default nowhere.

    Raises
    ------
    LabelError
        Where cells are missing, empty, or hold what is not a class.
    MetricError
        Where the sample was drawn on another map.
    """
    folder = Path(folder)
    filled = read_sample(folder)
    design, reference = filled.design, filled.reference
    path = read_zones(product, layer).path
    if hash_of(path) != design["sha256"]:
        raise MetricError(
            "the sample was drawn on another map",
            got=path.name,
            expected=f"{design['map']} as it was then",
            remedy="judge that one, or draw a new sample; labels can be copied by place",
        )
    mapped = np.array(design["mapped"])
    strata = sorted(map(int, design["cells"]))
    classes = sorted(set(strata) | set(reference.tolist()))
    at = np.searchsorted(classes, mapped), np.searchsorted(classes, reference)
    counts = np.zeros((len(classes), len(classes)), np.int64)
    np.add.at(counts, at, 1)
    cells = np.array([design["cells"].get(str(c), 0) for c in classes])
    areas = cells * design["cell_km2"]
    if "strata" in design:
        estimates = _of_strata(design, cells, *at)
    else:
        sizes = np.array([design["sizes"].get(str(c), 0) for c in classes])
        estimates = stratified(counts, areas, (sizes == cells) & (cells > 0))
    notes = _overlap(Path(product), path, design.get("at"), reference == mapped)
    if outside := design.get("outside", 0):
        notes.append(f"{outside} cells of the map lie in no stratum: estimates are of the others")
    found = Judged(tuple(classes), counts, estimates, areas, tuple(notes))
    if out is not None:
        with together(Path(out)) as part:
            write_json(part / "estimates.json", found.to_json())
    return found


def _of_strata(
    design: dict[str, Any],
    cells: npt.NDArray[np.int64],
    mapped: npt.NDArray[np.int64],
    reference: npt.NDArray[np.int64],
) -> Stratified:
    """Estimates from strata that are not the map's classes; of a single one by the classes.

    Parameters
    ----------
    design : as it was written.
    cells : int64 (class,), of the map.
    mapped, reference : int64 (n,), places of classes.
    """
    k = len(cells)
    whole = np.array([each["cells"] for each in design["strata"]], np.int64)
    stratum = np.array(design["stratum"], np.int64)
    if len(whole) == 1:
        of_class = poststrata(np.bincount(mapped, minlength=k), cells)
        whole = np.bincount(of_class[of_class >= 0], cells[of_class >= 0]).astype(np.int64)
        stratum = of_class[mapped]
    counts = np.zeros((len(whole), k, k), np.int64)
    np.add.at(counts, (stratum, mapped, reference), 1)
    return by_strata(counts, whole, design["cell_km2"])


def _overlap(product: Path, path: Path, at: Any, right: npt.NDArray[np.bool_]) -> list[str]:
    """What to tell of cells that lie within the model's reach of its training.

    `at` are rows and columns of the cells, None of samples that were drawn before these were kept.
    """
    footprint, known = footprint_of(product)
    if at is None and footprint is not None:
        return ["whether judged cells trained the model is unknown: the sample kept no places"]
    with trained_stratum(path, footprint) as strata:
        if footprint is None:
            return say_overlap(None, known, None)
        each = strata[TRAINED]
        with rasterio.open(each.path) as file:
            where = each.of(file)(file.read(1))[tuple(np.array(at).T)]
    counts = np.array([[(where == k).sum(), (right & (where == k)).sum()] for k in (0, 1)])
    return say_overlap(footprint, known, counts)
