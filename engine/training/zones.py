"""The task of segmenters of local climate zones: sparse labels of pixels, scores of cells."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.datasets.chips import UNKNOWN
from engine.datasets.sparse import paint_labels
from engine.datasets.splits import SPLITS
from engine.errors import CardError
from engine.models.card import ModelCard
from engine.models.registry import Measured, build, carried_over
from engine.recipes.classifying import ClassifierRecipe
from engine.training.classifying import PatchTask
from engine.training.fit import Batches
from engine.training.loop import Fitted
from engine.training.segmenters import Chips, SegmenterSettings, fit_segmenter
from engine.training.task import Listener

__all__ = ["ZoneTask"]


class ZoneTask(PatchTask):
    """A U-Net that learns from the patches of a classifier, all of their context in sight.

    Its loss is of labelled pixels alone; those of the test are scored as a classifier's, each by
    the cell in its middle. Parameters and errors as of `PatchTask`.
    """

    def __init__(self, recipe: ClassifierRecipe, base: Path, hear: Listener) -> None:
        super().__init__(recipe, base, hear)
        card = self.card
        if 2 * card.overlap > card.patch:
            raise CardError(
                "windows overlap by more than half",
                got=f"overlap: {card.overlap} px, window: {card.patch} px",
                expected=f"{card.patch // 2} px at most",
            )
        build(card)  # refuses wrong parameters before the training starts

    def _sees(self, patch: int) -> int:
        return self.recipe.context

    def _form(self) -> dict[str, Any]:
        model = self.recipe.model
        side = model.window or self._side
        overlap = min(side // 2, self._side // 2) if model.overlap is None else model.overlap
        return super()._form() | {"patch": side, "overlap": overlap}

    @property
    def _seen(self) -> int:
        return self._side

    @property
    def _side(self) -> int:
        """Of what it learns from, in pixels."""
        return self.patches.patch + 2 * self.patches.context

    def _measure(self, parameters: dict[str, Any], bands: int) -> Measured:
        return Measured(0, 0, "logit")

    def _split(self, context: int) -> dict[str, Batches]:
        return super()._split(self.patches.context)

    def _chips(self, name: str) -> Chips:
        """A split's patches with the labels of their pixels."""
        x = self.parts[name].x
        seen: npt.NDArray[np.bool_] = np.asarray((x > 0).all(axis=1))
        where = np.flatnonzero(self.patches.split == SPLITS.index(name))
        y, weights = paint_labels(self.patches, where)
        return Chips(x, np.where(seen, y, UNKNOWN).astype(np.uint8), seen, weights)

    def learn(self, hear: Listener) -> tuple[ModelCard, Fitted]:
        training = self.recipe.training
        known = SegmenterSettings.__dataclass_fields__.keys()
        fitted = fit_segmenter(
            self.card,
            self._chips("train"),
            self._chips("validation"),
            SegmenterSettings(**training.model_dump(include=set(known))),
            self.folder,
            device=training.device,
            devices=training.devices,
            start=None if self.start is None else carried_over(self.start, self.card),
            tell=hear.epoch,
            step=hear.step,
        )
        return self.card, fitted
