"""Stages of embeddings: vectors of cells, the pool of all of them, how far each lies from it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engine.errors import RecipeError
from engine.infer.aggregate import aggregate_cells
from engine.infer.cells import score_cells
from engine.infer.vectors import decode_vectors, vector_outputs
from engine.maps.cells import cell_reason
from engine.models.card import ModelCard
from engine.products.common import predictor_for
from engine.products.features import NO_FEATURES, CellFeatures, Stack
from engine.recipes.sections import Device
from engine.runs.fold import Fold
from engine.runs.stage import Input, Output
from engine.runs.tables import Block, Column, Table
from engine.runs.task import TileTask

__all__ = [
    "POOL",
    "SCALE",
    "VECTORS",
    "AggregatePixels",
    "EmbedCells",
    "MapDeparture",
    "at_cells",
    "pool_of",
    "unit_of",
]

VECTORS, SCALE = "embedding/vectors", "embedding/vectors_scale"
"""Arrays of the store; the scales are those of int8."""

POOL = "pool"
"""The fold over all vectors; it is done when all of them are."""

_LEAST_SPREAD = 1e-6
_UNIT = 1600  # metres: a whole number of them makes a tile, and of cells most sides in use


@dataclass(frozen=True)
class EmbedCells:
    """composite -> embedding/*: the features of the patch about the centre of each cell."""

    card: ModelCard
    stack: Stack  # of the card's bands
    device: Device
    precision: str
    kind: str
    ground: CellFeatures = NO_FEATURES

    def __call__(self, task: TileTask) -> Iterator[Output]:
        halo = self.card.halo
        stored = self.stack.read(task, halo)
        seen = task.read("composite/observations", halo)
        predictor = predictor_for(task, self.card, self.device, self.precision)
        found = score_cells(stored, seen > 0, self.card, predictor, task.defined(self.card.cell))
        yield _embedded(task, found.features, self.card.step, self.kind, self.ground)


@dataclass(frozen=True)
class AggregatePixels:
    """composite -> embedding/*: the statistics of the reflectance of each cell's own pixels."""

    side: int  # pixels along a cell
    kind: str
    ground: CellFeatures = NO_FEATURES

    def __call__(self, task: TileTask) -> Iterator[Output]:
        stored = task.read("composite/bands")
        seen = task.read("composite/observations") > 0
        reflectance = (stored.astype(np.float64) - 1000.0) / 10_000.0
        found = aggregate_cells(reflectance, seen, self.side)
        wanted = task.defined(task.outputs[0].resolution)
        if wanted is not None:
            found[:, ~wanted] = np.nan
        yield _embedded(task, found, self.side, self.kind, self.ground)


def _embedded(
    task: TileTask,
    vectors: npt.NDArray[np.float32],
    side: int,
    kind: str,
    ground: CellFeatures,
) -> Output:
    there = np.logical_not(np.isnan(vectors).any(axis=0)).astype(np.uint8)
    reason = cell_reason(there, task.read("composite/reason"), side)
    vectors, note = ground.beside(task, vectors, task.outputs[0].resolution)
    found = {**vector_outputs(VECTORS, kind, vectors), "embedding/reason": reason}
    return Output(found, note=note)


@dataclass(frozen=True)
class Pool:
    """Count, mean and sum of squared departures of the vectors of a block (Chan et al., 1983)."""

    scaled: bool

    def __call__(self, block: Block) -> Table:
        values = block.read(VECTORS)[:, block.inside(VECTORS)]
        scale = block.read(SCALE)[block.inside(SCALE)] if self.scaled else None
        vectors = decode_vectors(values, scale).astype(np.float64)
        vectors = vectors[:, ~np.isnan(vectors).any(axis=0)]
        count = vectors.shape[1]
        mean = vectors.sum(axis=1) / max(count, 1)
        departures = ((vectors - mean[:, None]) ** 2).sum(axis=1)
        return {"count": np.array(count, np.int64), "mean": mean, "departures": departures}


def _merge_pools(one: Table, other: Table) -> Table:
    """Count, mean and squared departures of two pools together (Chan et al., 1983, eq. 2.1)."""
    a, b = float(one["count"]), float(other["count"])
    if not a or not b:
        return other if not a else one
    apart = other["mean"] - one["mean"]
    return {
        "count": one["count"] + other["count"],
        "mean": one["mean"] + apart * (b / (a + b)),
        "departures": one["departures"] + other["departures"] + apart**2 * (a * b / (a + b)),
    }


def _finish_pool(table: Table) -> Table:
    count = max(float(table["count"]), 1.0)
    return {**table, "spread": np.sqrt(table["departures"] / count)}


@dataclass(frozen=True)
class MapDeparture:
    """embedding, pool -> map/*: how far each vector lies from those of the whole area."""

    scaled: bool

    def __call__(self, task: TileTask) -> Iterator[Output]:
        scale = task.read(SCALE) if self.scaled else None
        vectors = decode_vectors(task.read(VECTORS), scale).astype(np.float64)
        mean = task.read("pool/mean")[:, None, None]
        spread = np.maximum(task.read("pool/spread"), _LEAST_SPREAD)[:, None, None]
        departure = np.sqrt((((vectors - mean) / spread) ** 2).mean(axis=0))
        yield Output(
            {
                "map/departure": departure.astype(np.float32),
                "map/reason": task.read("embedding/reason"),
            }
        )


def pool_of(features: tuple[int | str, ...], scaled: bool, leaf: float) -> Fold:
    """Mean and spread of all vectors, merged along one tree: tiles change no bit of them."""
    dims = (("feature", features),)
    tables = (
        Column("count", "int64"),
        Column("mean", "float64", dims),
        Column("departures", "float64", dims),
    )
    return Fold(
        POOL,
        (Input("embedding"),),
        tables,
        Pool(scaled),
        _merge_pools,
        _finish_pool,
        (*tables, Column("spread", "float64", dims)),
        leaf=leaf,
    )


def at_cells(card: ModelCard, cell: float) -> ModelCard:
    """A card whose network is evaluated at the centres of other cells.

    The block is one of which whole numbers make 1,600 m, as do tiles: a cell has its place in the
    same block whatever the tile.

    Raises
    ------
    RecipeError
        Where the patch of the network has no middle in such a cell.
    """
    step = round(cell / card.resolution)
    if (card.patch - step) % 2 and step > card.patch:
        raise RecipeError(
            "the patch of the model cannot be centred in a cell",
            got=f"cells of {step} px, patches of {card.patch} px",
            expected="an even difference",
            remedy=f"set cell to {card.patch * card.resolution:g}",
        )
    block = round(unit_of(cell) / cell)
    return card.model_copy(
        update={"cell": cell, "inference_block": block if block <= card.block else 1}
    )


def unit_of(cell: float) -> float:
    """The length, in metres, of which a tile must be a multiple; a whole number of cells."""
    return math.lcm(round(1000 * cell), 1000 * _UNIT) / 1000
