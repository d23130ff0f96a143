"""Training of the second stream: a graph network's card, and its weight beside the first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from engine.datasets.patches import PatchSet
from engine.datasets.splits import SPLITS
from engine.errors import CardError, LabelError
from engine.infer.examples import score_examples
from engine.infer.fuse import fuse, sweep
from engine.metrics import assess, confusion
from engine.models.card import ModelCard, find_card, load_card
from engine.products.sources import RGB
from engine.recipes.classifying import ClassifierRecipe

__all__ = ["graph_form", "weigh"]


def graph_form(recipe: ClassifierRecipe, patches: PatchSet) -> dict[str, Any]:
    """What the card of a graph network says otherwise than that of a patch classifier.

    Raises
    ------
    LabelError
        Where the patch set has no graphs.
    """
    if patches.nodes is None:
        raise LabelError(
            "the patch set has no graphs",
            got=recipe.patches,
            expected="labels of recipes with images, run until instances",
            remedy="add images: {catalog: …} to the labels' recipes",
        )
    return {
        "parameters": {**(patches.instances or {}), **recipe.model.parameters},
        "bands": RGB,
        "clip": None,
        "mean": None,
        "std": None,
        "patch": 320,
        "resolution": 1.0,
    }


def weigh(
    recipe: ClassifierRecipe, base: Path, patches: PatchSet, card: ModelCard
) -> dict[str, Any] | None:
    """Sweep the weight of the stream beside a graph network on the validation split.

    Returns
    -------
    The weight, accuracy by weight, and figures of the test split: each stream alone, both fused.
    None where the recipe names no other stream, or there is nothing to choose by.

    Raises
    ------
    CardError
        Where the other stream gives other classes, or takes other bands.
    """
    if recipe.model.beside is None:
        return None
    other = load_card(find_card(recipe.model.beside, base))
    same = other.classes == card.classes and other.multilabel is None
    if not same or other.bands != patches.bands:
        raise CardError(
            "the stream to fuse with does not go with the patches",
            got=f"{other.name}: bands {', '.join(other.bands)}, classes {other.classes}",
            expected=f"bands {', '.join(patches.bands)}, classes {card.classes}",
        )
    codes, device = np.array(card.classes), recipe.training.device
    scores = {}
    for name in ("validation", "test"):
        where = np.flatnonzero(patches.split == SPLITS.index(name))
        empty = ~np.any(patches.nodes[:][where], axis=(1, 2))
        graphs = score_examples(card, patches.nodes[:][where], device)
        graphs[empty] = np.nan
        sentinel = score_examples(other, patches.take(where, other.context), device)
        scores[name] = sentinel, graphs, where
    sentinel, graphs, where = scores["validation"]
    if not len(where):
        return None
    weight, by_weight = sweep(sentinel, graphs, np.searchsorted(codes, patches.y[where]))
    found: dict[str, Any] = {
        "beside": other.name,
        "key": other.key,
        "sentinel_weight": weight,
        "validation_accuracy_by_weight": {f"{w:g}": round(v, 4) for w, v in by_weight.items()},
    }
    sentinel, graphs, where = scores["test"]
    if len(where):
        for name, values in (
            ("sentinel", sentinel),
            ("graphs", np.nan_to_num(graphs)),
            ("fused", fuse(sentinel, graphs, weight)),
        ):
            counts = confusion(patches.y[where], codes[values.argmax(1)])
            found[name] = assess(counts).figures()
    return found
