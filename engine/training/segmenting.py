"""The task of segmenters: images, or composites, and a class for each of their pixels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from engine.datasets.chip_cutting import cut_chips
from engine.datasets.chips import ChipSet
from engine.datasets.splits import SPLITS
from engine.errors import CardError
from engine.metrics import binary, by_class, several
from engine.models.card import ModelCard
from engine.models.device import choose_device
from engine.models.imagenet import FIRST, read_imagenet
from engine.models.registry import carried_over, load_model
from engine.recipes.segmenting import SegmenterRecipe
from engine.texture.scene_file import read_scenes
from engine.training.fit import ground_statistics
from engine.training.loop import Fitted
from engine.training.scenes import assigned_scenes, balance_chips, learn_scenes, scenes_of_places
from engine.training.segmenters import Chips, SegmenterSettings, count_pixels, fit_segmenter
from engine.training.task import Judged, Listener, Task, find_start

__all__ = ["SegmenterTask"]

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's pictures, by red, green and blue; UGS-1m standardises by them."""


class SegmenterTask(Task):
    """A network that gives each pixel of an image its class.

    Parameters
    ----------
    recipe : SegmenterRecipe
    base : folder of its relative paths.
    hear : hears of the cutting.
    scene : scene of each chip in the recipe's file of scenes, where the caller knows it.

    Raises
    ------
    LabelError, CardError
        Where labels, images or the split do not serve, or the weights to start from are another's.
    """

    examples = "chips"

    def __init__(
        self,
        recipe: SegmenterRecipe,
        base: Path,
        hear: Listener,
        scene: npt.NDArray[np.int64] | None = None,
    ) -> None:
        self.recipe = recipe
        self.folder = base / recipe.out
        self.chips = cut_chips(
            recipe,
            base,
            scenes_of=lambda parts: scenes_of_places(recipe, parts, base),
            tell=hear.tell,
        )
        often: npt.NDArray[np.float64] | None = None
        self.scenes: dict[str, Any] | None = None
        if recipe.scenes is not None and recipe.scenes.file is not None:
            known = read_scenes(base / recipe.scenes.file)
            if scene is None:
                scene = assigned_scenes(known, self.chips, hear.tell)
            self.chips, often, self.scenes = learn_scenes(
                recipe.scenes, known, self.chips, scene, hear.tell
            )
        self.card = _card(recipe, self.chips, self.folder, self._form())
        self.start = _start(recipe, self.card, base, hear.tell)
        self.parts = {name: Chips(*self.chips.of(name)) for name in SPLITS}
        if recipe.scenes is not None and recipe.scenes.file is None and recipe.scenes.balance:
            often, self.scenes = balance_chips(recipe, self.chips, hear.tell)
        if often is not None:
            self.parts["train"] = replace(self.parts["train"], often=often)

    def _form(self) -> dict[str, Any]:
        """What this kind of card says of its output."""
        model, side = self.recipe.model, self.chips.side
        window = model.window or side
        return {
            "patch": window,
            "overlap": min(model.overlap, window // 2),
            "cell": self.chips.resolution,
            "features": 0,
        }

    @property
    def size(self) -> str:
        return f"{len(self.parts['train'].x)} chips of {self.chips.side} px"

    @cached_property
    def settings(self) -> SegmenterSettings:
        """How it is fitted."""
        others = {"preset", "device", "devices"}
        return SegmenterSettings(**self.recipe.training.model_dump(exclude=others))

    def learn(self, hear: Listener) -> tuple[ModelCard, Fitted]:
        fitted = fit_segmenter(
            self.card,
            self.parts["train"],
            self.parts["validation"],
            self.settings,
            self.folder,
            device=self.recipe.training.device,
            devices=self.recipe.training.devices,
            start=self.start,
            tell=hear.epoch,
            step=hear.step,
        )
        return self.card, fitted

    def judge(self, card: ModelCard, hear: Listener) -> Judged:
        test = self.parts["test"]
        if not len(test.x):
            return Judged(None)
        network = load_model(card, choose_device(self.recipe.training.device))
        counts = count_pixels(network, card, test)[0]
        figures = several(counts) if card.names else binary(counts)
        if card.names:
            each = by_class(counts)["iou"]
            told = zip(card.legend, each.tolist(), strict=True)
            figures |= {f"iou_{c.name}": value for c, value in told if value == value}
        words = ", ".join(f"{name} {value:.3f}" for name, value in figures.items())
        return Judged(figures, f"test chips: {words}")

    def describe(self) -> dict[str, Any]:
        return {
            "places": list(self.chips.places),
            "chips": {name: len(part.x) for name, part in self.parts.items()},
            **({} if self.scenes is None else {"scenes": self.scenes}),
        }


def _card(recipe: SegmenterRecipe, chips: ChipSet, folder: Path, form: dict[str, Any]) -> ModelCard:
    """The card before the weights are there; `form` is of its output."""
    model = recipe.model
    if chips.bands != model.bands:
        raise CardError(
            "the chips have other bands than the model",
            got=", ".join(chips.bands),
            expected=", ".join(model.bands),
        )
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD
    composite = chips.x.dtype == np.uint16
    if model.bands != ("B04", "B03", "B02") or composite:  # of what ImageNet says nothing
        x, _, seen = chips.of("train")
        first = x.shape[1] - len(chips.ranges)
        ground = [
            ground_statistics(x[:, k].astype(np.uint16), span)
            for k, span in enumerate(chips.ranges.values(), first)
        ]
        x = x[:, :first]
        part = (x - np.float32(1000)) / np.float32(10_000) if composite else x / np.float32(255)
        where = True if seen is None else seen[:, None]
        mean = tuple(round(float(v), 4) for v in part.mean((0, 2, 3), where=where))
        std = tuple(round(float(v), 4) for v in part.std((0, 2, 3), where=where))
        mean = (*mean, *(v for values, _ in ground for v in values))
        std = (*std, *(v for _, values in ground for v in values))
    learnt = set(chips.place[chips.split == SPLITS.index("train")].tolist())
    places = ", ".join(name for k, name in enumerate(chips.places) if k in learnt)
    return ModelCard(
        name=recipe.name,
        architecture=model.architecture,
        parameters=model.parameters,
        bands=model.bands,
        ranges=dict(chips.ranges),
        mean=mean,
        std=std,
        resolution=chips.resolution,
        classes=recipe.codes,
        names=recipe.named,
        ignored=recipe.silent,
        output="logit",
        licence=model.licence,
        attribution=model.attribution,
        citation=model.citation,
        provenance=model.description or f"trained on chips of {places}",
        weights=f"{recipe.name}.safetensors",
        sha256="0" * 64,
        folder=folder,
        **form,
    )


def _start(
    recipe: SegmenterRecipe, card: ModelCard, base: Path, tell: Callable[[str], None]
) -> dict[str, Tensor] | None:
    """Weights to begin with; the rest of the network stays as it is drawn."""
    model = recipe.model
    other = find_start(model.start, base, card.architecture, card.bands)
    if other is not None:
        return carried_over(other, card)
    if model.imagenet is None:
        return None
    found = read_imagenet(base / model.imagenet, card)
    if FIRST not in found:
        tell(
            f"the first layer is drawn, not ImageNet's: that one looks at B04, B03, B02, "
            f"this one at {', '.join(card.bands)}"
        )
    return found
