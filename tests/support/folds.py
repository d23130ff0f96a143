"""Toy folds, and their twins in numpy on whole arrays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.ndimage import uniform_filter

from engine.runs.fold import Fold
from engine.runs.stage import Input, Output, Stage
from engine.runs.tables import Block, Column, Table
from engine.runs.task import TileTask
from engine.store.arrays import ArraySpec
from support.toys import CELL, Kernel, Toy

CLASSES = 7
LEAF = 800.0
_CLASS = (("class", tuple(range(CLASSES))),)


def classes_of(values: np.ndarray) -> np.ndarray:
    return np.asarray(values % CLASSES)


# -- areas of classes: integers, no halo ------------------------------------------------------


def count_classes(block: Block) -> Table:
    values = block.read("map/classes")[block.inside("map/classes")]
    return {"cells": np.bincount(classes_of(values), minlength=CLASSES).astype(np.int64)}


def to_areas(table: Table) -> Table:
    return {"cells": table["cells"], "square_km": table["cells"] * (CELL**2 / 1e6)}


AREAS = Fold(
    "areas",
    (Input("map"),),
    (Column("cells", "int64", _CLASS),),
    count_classes,
    finish=to_areas,
    result=(
        Column("cells", "int64", _CLASS),
        Column("square_km", "float64", _CLASS, {"units": "km2"}),
    ),
)


def areas_by_numpy(values: np.ndarray, inside: np.ndarray) -> np.ndarray:
    return np.bincount(classes_of(values[inside]), minlength=CLASSES)


# -- edges between classes: a halo, a greatest value, no sum ----------------------------------


def count_edges(block: Block) -> Table:
    """Cells whose eastern or southern neighbour is of another class, and the steepest step."""
    values, inside = block.read("map/classes", 1), block.inside("map/classes")
    core = values[1:-1, 1:-1]
    steps = [np.abs(core - values[1:-1, 2:]), np.abs(core - values[2:, 1:-1])]
    kinds = classes_of(values)
    edges = [kinds[1:-1, 1:-1] != kinds[1:-1, 2:], kinds[1:-1, 1:-1] != kinds[2:, 1:-1]]
    return {
        "edges": np.int64(sum(int(edge[inside].sum()) for edge in edges)),
        "steepest": np.int64(max(int(step[inside].max(initial=0)) for step in steps)),
    }


def keep_steepest(one: Table, other: Table) -> Table:
    return {
        "edges": one["edges"] + other["edges"],
        "steepest": np.maximum(one["steepest"], other["steepest"]),
    }


EDGES = Fold(
    "edges",
    (Input("map", CELL),),
    (Column("edges", "int64"), Column("steepest", "int64")),
    count_edges,
    keep_steepest,
)


def edges_by_numpy(values: np.ndarray, inside: np.ndarray, fill: int = -1) -> tuple[int, int]:
    wide = np.pad(values, 1, constant_values=fill)
    core, kinds = wide[1:-1, 1:-1], classes_of(wide)
    others = [(slice(1, -1), slice(2, None)), (slice(2, None), slice(1, -1))]
    edges = sum(int((kinds[1:-1, 1:-1] != kinds[o])[inside].sum()) for o in others)
    return edges, max(int(np.abs(core - wide[o])[inside].max(initial=0)) for o in others)


# -- a mean of floats: rounding tells the order -----------------------------------------------


def sum_logs(block: Block) -> Table:
    values, inside = block.read("map/classes"), block.inside("map/classes")
    logs = np.log(np.where(inside, np.maximum(values, 1), 1).astype(np.float32))
    return {"total": logs.sum(), "cells": np.int64(inside.sum())}


def to_mean(table: Table) -> Table:
    return {"mean": np.float64(table["total"]) / table["cells"], "total": table["total"]}


LOGS = Fold(
    "logs",
    (Input("map"),),
    (Column("total", "float32"), Column("cells", "int64")),
    sum_logs,
    finish=to_mean,
    result=(Column("mean", "float64"), Column("total", "float32")),
    leaf=LEAF,
)


# -- a stage that reads a result --------------------------------------------------------------


def to_share(task: TileTask) -> Iterator[Output]:
    """Of each cell, how many cells of the area are of its class."""
    counts = task.read("areas/cells")
    yield Output({"share/cells": counts[classes_of(task.read("map/classes"))]})


@dataclass(frozen=True)
class FoldToy(Toy):
    """The toy with folds over its map, and perhaps a stage that reads a result."""

    folds: tuple[Fold, ...] = (AREAS, EDGES, LOGS)
    share: bool = False

    def stages(self) -> list[Stage]:
        found = super().stages()
        for fold in self.folds:
            for stage in fold.stages(self.tile * 10.0):
                found.append(wrapped(stage, self.mishaps))
        if self.share:
            spec = ArraySpec("share/cells", "int64", CELL, self.tile // 10, -1)
            inputs = (Input("map"), Input("areas", scope="area"))
            found.append(wrapped(Stage("share", to_share, (spec,), inputs), self.mishaps))
        return found


def wrapped(stage: Stage, mishaps: Sequence[Any]) -> Stage:
    from dataclasses import replace

    return replace(stage, kernel=Kernel(stage.kernel, tuple(mishaps)))


def map_by_numpy(height: int, width: int, seed: int = 1) -> np.ndarray:
    """A smooth map of whole numbers, for folds that run without a store."""
    noise = np.random.default_rng(seed).random((height, width))
    return np.asarray((uniform_filter(noise, 5) * 1e6).astype(np.int64))
