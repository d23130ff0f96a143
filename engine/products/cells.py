"""Scores of cells from the patch around each: kernel and stages of patch classifiers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from engine.errors import CardError, RecipeError
from engine.infer.cells import score_cells
from engine.infer.vectors import VectorType, vector_arrays, vector_outputs
from engine.items import cube_band
from engine.models.card import ModelCard
from engine.models.card_parts import Ranges
from engine.products.common import RESOURCES, predictor_for
from engine.products.features import GroundSource, Stack
from engine.recipes.sections import Device, GridChoice, ModelChoice
from engine.runs.stage import Output, Stage
from engine.runs.task import TileTask
from engine.store.arrays import ArraySpec

__all__ = ["CellModel", "ScoreCells", "require_classifier", "score_stages", "scores_of"]


class CellModel(ModelChoice):
    """A model that scores cells, and where it runs."""

    scores: Literal["float32", "float16"] = Field("float32", description="type of stored scores")
    embedding: VectorType = Field(
        None,
        description="also store the penultimate features: float32, float16 or int8; true: float16",
    )


@dataclass(frozen=True)
class ScoreCells:
    """composite -> scores/probability and, in the same pass, scores/embedding."""

    card: ModelCard
    stack: Stack  # of the card's bands
    device: Device
    precision: str
    embedding: VectorType = None

    def __call__(self, task: TileTask) -> Iterator[Output]:
        halo = self.card.halo
        stored = self.stack.read(task, halo)
        seen = task.read("composite/observations", halo)
        predictor = predictor_for(task, self.card, self.device, self.precision)
        found = score_cells(stored, seen > 0, self.card, predictor, task.defined(self.card.cell))
        spec = next(s for s in task.outputs if s.name == "probability")
        out = {"scores/probability": found.scores.astype(spec.dtype)}
        if self.embedding is not None:
            out |= vector_outputs("scores/embedding", self.embedding, found.features)
        yield Output(out)


def require_classifier(
    card: ModelCard,
    choice: GridChoice,
    bands: tuple[str, ...],
    ground: Ranges | None = None,
    vectors: bool = False,
) -> None:
    """Refuse a card or a grid with which cells cannot be scored.

    `bands` are a cube's, beside features of the ranges `ground`; or (`vectors`) channels of
    published embeddings.

    Raises
    ------
    CardError, RecipeError
    """
    if card.zones and vectors:
        raise CardError(
            "a segmenter of zones looks at composites of scenes",
            got=f"{card.name}: {card.architecture}, and a recipe of published vectors",
            expected="a network of patches, a forest or a head, trained on these vectors",
            remedy="give imagery in the recipe, in place of embeddings",
        )
    if card.segments:
        raise CardError(
            "product lcz needs a classifier of patches",
            got=f"{card.name}: {card.architecture}",
            remedy="products ugs and cover are made with segmenters of other classes than 1 to 17",
        )
    if card.multilabel is not None:
        raise CardError(
            "product lcz needs a model that gives one class to a patch",
            got=f"{card.name}: a multi-label model of {len(card.classes)} classes of its own",
            remedy="natmap tag scores patches, of a map recipe's area too",
        )
    if card.encodes:
        raise CardError(
            "product lcz needs a network with classes",
            got=f"{card.name}: an encoder, with features alone",
            remedy="product: embedding (or natmap embed) is made with encoders",
        )
    card.check_cube(bands, choice.resolution, ground, vectors)
    # whole inference blocks, so that no batch is cut by a tile's edge
    unit = card.block * card.step
    if choice.tile % unit:
        raise RecipeError(
            "grid.tile does not fit the model's cells",
            got=f"{choice.tile} px",
            expected=f"a multiple of {unit} px ({unit * choice.resolution:g} m)",
            remedy=f"set grid.tile to {max(round(choice.tile / unit), 1) * unit}",
        )


def score_stages(
    choice: CellModel,
    grid: GridChoice,
    card: ModelCard,
    bands: tuple[str, ...],
    ground: GroundSource,
) -> list[Stage]:
    """Scores of the composite's cells, and their embedding where it is asked for.

    Parameters
    ----------
    choice : the recipe's model section.
    grid : of the recipe.
    card : of a classifier of patches.
    bands : of the cube, as named there.
    ground : features beside it.
    """
    card.check_precision(choice.precision)
    names = [cube_band(band) for band in bands]
    stack = Stack(tuple(names.index(band) for band in card.imagery), ground.places(card))
    patches = 256 * len(card.bands) * (card.patch + 2 * card.context) ** 2 * 4 / 1e9
    memory = 2.0 + 20 * patches + 3 * len(bands) * grid.tile**2 * 4 / 1e9
    outputs, parameters = scores_of(choice, grid, card)
    return [
        Stage(
            "scores",
            ScoreCells(card, stack, choice.device, choice.precision, choice.embedding),
            outputs,
            stack.inputs(card.halo * card.resolution),
            version=3,
            parameters=parameters,
            resource=RESOURCES[choice.device],
            gigabytes=memory,
        )
    ]


def scores_of(
    choice: CellModel, grid: GridChoice, card: ModelCard
) -> tuple[tuple[ArraySpec, ...], dict[str, object]]:
    """Arrays of a stage `scores`, and what decides them beside its input."""
    cell, n = card.cell, round(grid.tile_metres / card.cell)
    codes, kind = tuple(card.classes), choice.embedding
    outputs: tuple[ArraySpec, ...] = (
        ArraySpec(
            "scores/probability", choice.scores, cell, n, math.nan, leading=(("class", codes),)
        ),
    )
    parameters: dict[str, object] = {
        "model": card.key,
        "precision": choice.precision,
        "dtype": choice.scores,
    }
    if kind is not None:
        card.check_features()
        outputs += vector_arrays("scores/embedding", kind, range(card.features), cell, n)
        # absent unless asked for: scores made before there was such a thing stay as they are
        parameters["embedding"] = kind
    return outputs, parameters
