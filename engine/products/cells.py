"""Scores of cells from the patch around each: kernel and stages of patch classifiers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from engine.errors import CardError, RecipeError
from engine.infer.cells import score_cells
from engine.items import band_name
from engine.models.card import ModelCard
from engine.products.common import RESOURCES
from engine.recipes.sections import Device, GridChoice, ModelChoice
from engine.runs.stage import Input, Output, Stage
from engine.runs.task import TileTask
from engine.store.arrays import ArraySpec

__all__ = ["CellModel", "ScoreCells", "require_classifier", "score_stages"]


class CellModel(ModelChoice):
    """A model that scores cells, and where it runs."""

    scores: Literal["float32", "float16"] = Field("float32", description="type of stored scores")
    embedding: bool = Field(False, description="also store the penultimate features")


@dataclass(frozen=True)
class ScoreCells:
    """composite -> scores/probability, or embedding/features."""

    card: ModelCard
    order: tuple[int, ...]  # positions of the card's bands among the cube's
    device: Device
    precision: str
    group: str  # scores or embedding

    def __call__(self, task: TileTask) -> Iterator[Output]:
        # torch costs a process a second and 150 MB: the driver and readers do without
        from engine.infer.predict import get_predictor

        halo = self.card.halo
        stored = task.read("composite/bands", halo)[list(self.order)]
        seen = task.read("composite/observations", halo)
        predictor = get_predictor(self.card, self.device, self.precision)
        found = score_cells(stored, seen > 0, self.card, predictor, task.defined(self.card.cell))
        if self.group == "embedding":
            yield Output({"embedding/features": found.features})
            return
        spec = next(s for s in task.outputs if s.name == "probability")
        yield Output({"scores/probability": found.scores.astype(spec.dtype)})


def require_classifier(card: ModelCard, choice: GridChoice, bands: tuple[str, ...]) -> None:
    """Refuse a card or a grid with which cells cannot be scored.

    Raises
    ------
    CardError, RecipeError
    """
    if card.segments:
        raise CardError(
            "product lcz needs a classifier of patches",
            got=f"{card.name}: {card.architecture}",
            remedy="product: ugs is made with segmenters",
        )
    card.check_cube(bands, choice.resolution)
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
    choice: CellModel, grid: GridChoice, card: ModelCard, bands: tuple[str, ...]
) -> list[Stage]:
    """Scores of the composite's cells, and their embedding where it is asked for.

    Parameters
    ----------
    choice : the recipe's model section.
    grid : of the recipe.
    card : of a classifier of patches.
    bands : of the cube, as named there.
    """
    names = [band_name(band) for band in bands]
    order = tuple(names.index(band) for band in card.bands)
    cell, n = card.cell, round(grid.tile_metres / card.cell)
    codes = tuple(card.classes)
    patch_input = Input("composite", card.halo * card.resolution)
    patches = 256 * len(card.bands) * (card.patch + 2 * card.context) ** 2 * 4 / 1e9
    memory = 2.0 + 20 * patches + 3 * len(bands) * grid.tile**2 * 4 / 1e9

    def score(group: str) -> ScoreCells:
        return ScoreCells(card, order, choice.device, choice.precision, group)

    def spec(path: str, dtype: str, fill: float, **more: object) -> ArraySpec:
        return ArraySpec(path, dtype, cell, n, fill, **more)  # type: ignore[arg-type]

    model = {"model": card.key, "precision": choice.precision}
    stages = [
        Stage(
            "scores",
            score("scores"),
            (spec("scores/probability", choice.scores, math.nan, leading=(("class", codes),)),),
            (patch_input,),
            version=3,
            parameters=model | {"dtype": choice.scores},
            resource=RESOURCES[choice.device],
            gigabytes=memory,
        )
    ]
    if choice.embedding:
        labels = (("feature", tuple(range(card.features))),)
        stages.append(
            Stage(
                "embedding",
                score("embedding"),
                (spec("embedding/features", "float32", math.nan, leading=labels),),
                (patch_input,),
                version=3,
                parameters=model,
                resource=RESOURCES[choice.device],
                gigabytes=memory,
            )
        )
    return stages
