"""Scores of cells from published vectors: read and scored strip by strip, not stored."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engine.cube.published.rules import NODATA, VALID, WATER
from engine.cube.published.sheet import Method
from engine.infer.cells import score_cells
from engine.infer.vectors import VectorType, vector_outputs
from engine.legend import Reason
from engine.maps.cells import cell_reason
from engine.models.card import ModelCard
from engine.products.cells import CellModel, scores_of
from engine.products.common import REASON_ATTRS, RESOURCES, predictor_for
from engine.products.published import STRIP, PublishedSource, opened
from engine.recipes.embeddings import Kind
from engine.recipes.sections import Device, GridChoice
from engine.runs.stage import Output, Part, Stage
from engine.runs.task import TileTask
from engine.store.arrays import ArraySpec

__all__ = ["REASON", "ScorePublished", "published_score_stage"]

REASON = "scores/reason"
"""Array of the store: why cells have no scores."""

_WATER = 17  # LCZ G
_WET = 0.8  # share of a cell's pixels that the source calls water, from which it is water


@dataclass(frozen=True)
class ScorePublished:
    """Published vectors of pixels -> scores/probability, scores/reason.

    A cell of which four fifths or more are water by the source is water: such pixels have no
    vectors that could say so.
    """

    card: ModelCard
    order: tuple[int, ...]  # positions of the card's bands among the channels
    device: Device
    precision: str
    place: str
    form: Kind | None
    year: int
    method: Method
    stamp: bytes
    embedding: VectorType = None

    def __call__(self, task: TileTask) -> Iterator[Output]:
        card, halo = self.card, self.card.halo
        source = opened(self.place, self.form, self.stamp)
        predictor = predictor_for(task, card, self.device, self.precision)
        window = task.grid.tile_geobox(task.tile, card.resolution, halo)
        n = task.grid.pixels(card.resolution)
        block = card.block * card.step  # whole blocks: no batch is cut by a strip's edge
        row = len(source.channels) * window.shape[1] * 4
        strip = max(STRIP // (row * block), 1) * block
        wanted = task.defined(card.cell)
        scores, features, reasons = [], [], []
        for top in range(0, n, strip):
            bottom = min(top + strip, n)
            values, states = source.read(window[top : bottom + 2 * halo, :], self.year, self.method)
            cells = slice(top // card.step, bottom // card.step)
            found = score_cells(
                values[list(self.order)],
                states == VALID,
                card,
                predictor,
                None if wanted is None else wanted[cells],
            )
            core = states[halo : halo + bottom - top, halo : states.shape[1] - halo]
            flooded = self._flood(found.scores, core)
            if wanted is not None:
                flooded &= wanted[cells]
            scores.append(np.where(flooded, self._water, found.scores))
            features.append(found.features)
            there = (found.scored | flooded).astype(np.uint8)
            pixels = np.where(core == NODATA, Reason.NO_SCENE, Reason.DATA).astype(np.uint8)
            reasons.append(cell_reason(there, pixels, card.step))
        spec = next(s for s in task.outputs if s.name == "probability")
        out = {
            "scores/probability": np.concatenate(scores, axis=1).astype(spec.dtype),
            REASON: np.concatenate(reasons),
        }
        if self.embedding is not None:
            every = np.concatenate(features, axis=1)
            out |= vector_outputs("scores/embedding", self.embedding, every)
        yield Output(out)

    def _flood(
        self, scores: npt.NDArray[np.float32], states: npt.NDArray[np.uint8]
    ) -> npt.NDArray[np.bool_]:
        """Which cells are water by the source; none where the model has no such class."""
        rows, cols = scores.shape[1:]
        if _WATER not in self.card.classes:
            return np.zeros((rows, cols), bool)
        step = self.card.step
        wet = (states == WATER).reshape(rows, step, cols, step).mean(axis=(1, 3))
        return np.asarray(wet >= _WET)

    @property
    def _water(self) -> npt.NDArray[np.float32]:
        """Scores of a cell that is water (class, 1, 1)."""
        sure = np.array([code == _WATER for code in self.card.classes], np.float32)
        return sure[:, None, None]


def published_score_stage(
    choice: CellModel, grid: GridChoice, card: ModelCard, source: PublishedSource
) -> Stage:
    """Scores of cells of published vectors.

    Parameters
    ----------
    choice : the recipe's model section.
    grid : of the recipe.
    card : of a classifier of patches of them.
    source : of the vectors.
    """
    card.check_precision(choice.precision)
    wanted = source.wanted
    kernel = ScorePublished(
        card,
        tuple(source.channels.index(band) for band in card.bands),
        choice.device,
        choice.precision,
        source.place,
        wanted.form,
        wanted.year,
        wanted.method,
        source.stamp,
        choice.embedding,
    )
    outputs, parameters = scores_of(choice, grid, card)
    n = round(grid.tile_metres / card.cell)
    outside = int(Reason.OUTSIDE_AREA)
    reason = ArraySpec(REASON, "uint8", card.cell, n, 255, outside=outside, attrs=REASON_ATTRS)
    block = (card.block * card.step + 2 * card.halo) * (grid.tile + 2 * card.halo)
    patches = 20 * 256 * (card.patch + 2 * card.context) ** 2
    return Stage(
        "scores",
        kernel,
        (*outputs, reason),
        parameters=parameters | {"year": wanted.year, "method": wanted.method},
        parts=lambda tile: [Part(0, source.stamp)],
        outside="source",
        resource=RESOURCES[choice.device],
        gigabytes=2.0
        + (max(4 * block * len(source.channels), STRIP) * 3 + 4 * patches * len(card.bands)) / 1e9,
    )
