"""Scores of a composite's pixels, window by window: as they are, or pooled to cells."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from engine.errors import RecipeError
from engine.grid.area import repeat
from engine.grid.grid import Tile
from engine.infer.pooling import pool_cells
from engine.infer.windows import NO_SCORE, Read
from engine.items import cube_band
from engine.legend import Reason
from engine.models.card import ModelCard
from engine.models.card_parts import Ranges
from engine.models.inputs import prepare_input
from engine.products.common import REASON_ATTRS, RESOURCES, precision_mark
from engine.products.features import GroundSource, Stack
from engine.products.product import Mask, Polygons
from engine.products.windows import PERCENT, Windowed, leading_of, require_segmenter
from engine.recipes.sections import GridChoice, ModelChoice
from engine.runs.stage import Output, Part, Stage
from engine.runs.task import TileTask
from engine.store.arrays import ArraySpec

__all__ = ["composite_window_stage", "pooled_stage", "require_zones"]


@dataclass(frozen=True)
class _OfComposite(Windowed):
    """Windows of a composite."""

    stack: Stack  # of the card's bands

    def _read(self, task: TileTask) -> Read:
        halo = self.card.patch

        def read(rows: slice, cols: slice) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
            down, across = self._part(task, rows, cols)
            stored = self.stack.read(task, halo, down)[:, :, across]
            seen = task.read("composite/observations", halo, rows=down)[:, across] > 0
            return prepare_input(stored, seen, self.card), seen

        return read


@dataclass(frozen=True)
class ScorePixels(_OfComposite):
    """composite -> scores/probability, scores/reason."""

    def __call__(self, task: TileTask) -> Iterator[Output]:
        area, boundary = task.parts[0].payload
        reason = task.read("composite/reason").copy()
        mine, within = self._places(task, area, boundary)
        # the mask explains a pixel only where nothing else does (`legend.PRECEDENCE`)
        reason[~within & (reason == Reason.DATA)] = Reason.OUTSIDE_MASK
        reason[~mine] = Reason.OUTSIDE_AREA
        wanted = mine & within
        percent, known = self._percent(task, wanted, self._read(task))
        reason[known] = Reason.DATA
        yield Output({"scores/probability": percent, "scores/reason": reason})


@dataclass(frozen=True)
class ScorePooled(_OfComposite):
    """composite -> scores/probability of cells: the mean of their pixels' probabilities."""

    def __call__(self, task: TileTask) -> Iterator[Output]:
        card = self.card
        n = task.grid.pixels(card.resolution)
        cells = task.defined(card.cell)
        wanted = np.ones((n, n), bool) if cells is None else repeat(cells, card.step)
        strips = self._strips(task, wanted, self._read(task))
        pooled = pool_cells(strips, n // card.step, card.step, len(card.classes))
        spec = next(s for s in task.outputs if s.name == "probability")
        yield Output({"scores/probability": pooled.astype(spec.dtype)})


def _stack(card: ModelCard, bands: tuple[str, ...], features: GroundSource) -> Stack:
    names = [cube_band(band) for band in bands]
    return Stack(tuple(names.index(band) for band in card.imagery), features.places(card))


def composite_window_stage(
    choice: ModelChoice,
    grid: GridChoice,
    card: ModelCard,
    bands: tuple[str, ...],
    area: Polygons,
    mask: Mask,
    features: GroundSource,
) -> Stage:
    """Scores of a composite's pixels; parameters as of `window_stages`, `bands` of the cube."""
    card.check_precision(choice.precision)
    metres, n = card.resolution, grid.tile
    stack = _stack(card, bands, features)

    def ground(tile: Tile) -> list[Part]:
        near, inner = area.near(tile)
        polygons, outer = mask.near(tile)
        return [Part(0, inner + outer, (near or (), polygons))]

    spec = partial(ArraySpec, dtype="uint8", resolution=metres, chunk=grid.chunk_pixels)
    planes = len(bands) * (n + 2 * card.patch) * 3 * card.patch
    return Stage(
        "scores",
        ScorePixels(card, choice.device, choice.precision, stack),
        (
            spec("scores/probability", fill=NO_SCORE, attrs=PERCENT, leading=leading_of(card)),
            spec("scores/reason", fill=255, outside=int(Reason.OUTSIDE_AREA), attrs=REASON_ATTRS),
        ),
        stack.inputs(card.patch * metres),
        parameters={
            "model": card.key,
            "precision": precision_mark((card,), choice.precision),
            "mask": mask.parameter,
        },
        parts=ground,
        outside="boundary or area",
        resource=RESOURCES[choice.device],
        gigabytes=1.5 + 2 * card.patch**2 * 4 * 256 / 1e9 + 6 * planes / 1e9 + 8 * n * n / 1e9,
        guess=1.0,
    )


def require_zones(
    card: ModelCard, choice: GridChoice, bands: tuple[str, ...], ground: Ranges
) -> None:
    """Refuse a segmenter, or a grid, with which cells cannot be scored.

    Raises
    ------
    CardError, RecipeError
    """
    require_segmenter(card, choice, bands, ground)
    if choice.tile % card.step:
        raise RecipeError(
            "grid.tile does not fit the model's cells",
            got=f"{choice.tile} px",
            expected=f"a multiple of {card.step} px ({card.cell:g} m)",
            remedy=f"set grid.tile to {max(round(choice.tile / card.step), 1) * card.step}",
        )


def pooled_stage(
    choice: ModelChoice,
    grid: GridChoice,
    card: ModelCard,
    bands: tuple[str, ...],
    dtype: str,
    features: GroundSource,
) -> Stage:
    """Scores of cells by a segmenter.

    Parameters
    ----------
    choice : section `model` of the recipe.
    grid : of the recipe.
    card : of a segmenter of zones.
    bands : of the cube.
    dtype : of the scores.
    features : beside the cube.
    """
    card.check_precision(choice.precision)
    stack = _stack(card, bands, features)
    cells = round(grid.tile_metres / card.cell)
    planes = len(bands) * (grid.tile + 2 * card.patch) * 3 * card.patch
    logits = len(card.classes) * card.patch * (grid.tile + 2 * card.patch) * 4
    return Stage(
        "scores",
        ScorePooled(card, choice.device, choice.precision, stack),
        (
            ArraySpec(
                "scores/probability",
                dtype,
                card.cell,
                cells,
                math.nan,
                leading=(("class", tuple(card.classes)),),
            ),
        ),
        stack.inputs(card.patch * card.resolution),
        parameters={
            "model": card.key,
            "precision": precision_mark((card,), choice.precision),
            "dtype": dtype,
        },
        resource=RESOURCES[choice.device],
        gigabytes=1.5 + 2 * card.patch**2 * 4 * 256 / 1e9 + (6 * planes + 6 * logits) / 1e9,
        guess=1.0,
    )
