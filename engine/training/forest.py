"""Growing random forests on statistics of patches (the WUDAPT way), and keeping them as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from sklearn.ensemble import RandomForestClassifier

from engine.models.card import ModelCard
from engine.models.forest import patch_features
from engine.models.inputs import prepare_batch
from engine.models.registry import build

__all__ = ["Grown", "arrays_of", "features_of", "grow", "masks_of", "plant", "varied", "vote"]

_AT_ONCE = 2048  # patches


@dataclass(frozen=True)
class Grown:
    """A forest as arrays.

    Attributes
    ----------
    parameters : of `engine.models.forest.Forest`.
    weights : its buffers.
    """

    parameters: dict[str, Any]
    weights: dict[str, torch.Tensor]


def features_of(
    x: npt.NDArray[Any],
    card: ModelCard,
    statistics: Literal["mean", "mean-std"],
    side: int,
) -> npt.NDArray[np.float32]:
    """Features of stored patches x (n, band, y, x), as the forest works them out."""
    parts = []
    for first in range(0, len(x), _AT_ONCE):
        ready = torch.from_numpy(prepare_batch(x[first : first + _AT_ONCE], card))
        found = patch_features(
            ready, statistics, side, card.fill, masks_of(card), indices=not card.vectors
        )
        parts.append(found.numpy())
    return np.concatenate(parts)


def masks_of(card: ModelCard) -> tuple[int, ...]:
    """Of each band of a card's features, the position of its mask among them."""
    ground = card.bands[len(card.imagery) :]
    return tuple(ground.index(f"{band.partition('.')[0]}.known") for band in ground)


def varied(features: npt.NDArray[np.float32]) -> npt.NDArray[np.intp]:
    """Columns that are not the same everywhere.

    The others can split nothing, and would take the place of one that can among those that are
    drawn at a split: a feature that is unknown everywhere would change a forest. Where all are the
    same, they are all given.
    """
    low, high = features.min(axis=0, initial=np.inf), features.max(axis=0, initial=-np.inf)
    found = np.flatnonzero(low < high)
    return found if len(found) else np.arange(features.shape[1])


def plant(trees: int, balanced: bool, seed: int) -> RandomForestClassifier:
    """A forest that has not grown yet, as Earth Engine's ``smileRandomForest`` is specified."""
    return RandomForestClassifier(
        trees,
        max_features="sqrt",
        min_samples_leaf=1,
        bootstrap=True,
        max_samples=0.5,
        class_weight="balanced" if balanced else None,
        random_state=seed,
        n_jobs=-1,
    )


def grow(
    x: npt.NDArray[Any],
    y: npt.NDArray[np.uint8],
    card: ModelCard,
    weights: npt.NDArray[np.float32] | None = None,
    *,
    statistics: Literal["mean", "mean-std"] = "mean-std",
    side: int = 10,
    trees: int = 30,
    balanced: bool = False,
    seed: int = 0,
) -> Grown:
    """Grow a forest.

    Defaults follow Earth Engine's ``smileRandomForest`` as specified: square root of the features
    at a split, leaves of one, half of the samples for a tree.

    Parameters
    ----------
    x : uint16 (n, band, y, x), stored convention; or float32, published vectors
    y : codes
    card : bands and classes; a forest takes reflectance, not standardised.
    weights : float32 (n,), what each patch counts; None: all alike.
    statistics, side : see `patch_features`.
    trees : int
    balanced : weigh classes by one over their counts.
    seed : int
    """
    forest = plant(trees, balanced, seed)
    features = features_of(x, card, statistics, side)
    columns = varied(features)
    forest.fit(features[:, columns], y, weights)
    column = [card.classes.index(int(code)) for code in forest.classes_]
    shape, arrays = arrays_of(forest, column, len(card.classes), columns)
    parameters: dict[str, Any] = {**shape, "statistics": statistics, "side": side}
    if card.ranges:
        parameters["masks"] = list(masks_of(card))
    if card.vectors:
        parameters["indices"] = False
    if card.fill:
        parameters["fill"] = card.fill
    return Grown(parameters, arrays)


def arrays_of(
    forest: RandomForestClassifier,
    column: Sequence[int] | None = None,
    classes: int = 0,
    asked: npt.NDArray[np.intp] | None = None,
) -> tuple[dict[str, int], dict[str, torch.Tensor]]:
    """A forest's trees as `engine.models.forest.Trees` keeps them: its shape, and its arrays.

    Parameters
    ----------
    forest : that has grown.
    column : of each of its classes among the scores; by default its own.
    classes : number of columns, with `column`.
    asked : of each feature that it was given the position among all; None: it was given all.
    """
    grown = [tree.tree_ for tree in forest.estimators_]
    trees, nodes = len(grown), max(tree.node_count for tree in grown)
    own = list(range(len(forest.classes_))) if column is None else list(column)
    weights = {
        "feature": torch.zeros(trees, nodes, dtype=torch.int32),
        "threshold": torch.zeros(trees, nodes, dtype=torch.float64),
        "left": torch.zeros(trees, nodes, dtype=torch.int32),
        "right": torch.zeros(trees, nodes, dtype=torch.int32),
        "value": torch.zeros(trees, nodes, classes or len(own)),
    }
    for number, tree in enumerate(grown):
        n = tree.node_count
        itself = np.arange(n)
        leaf = tree.children_left < 0
        feature = tree.feature if asked is None else asked[tree.feature]
        arrays = {
            "feature": np.where(leaf, 0, feature),
            "threshold": np.where(leaf, 0.0, tree.threshold),
            "left": np.where(leaf, itself, tree.children_left),
            "right": np.where(leaf, itself, tree.children_right),
        }
        for name, values in arrays.items():
            weights[name][number, :n] = torch.from_numpy(np.ascontiguousarray(values))
        share = tree.value[:, 0] / tree.value[:, 0].sum(1, keepdims=True)
        weights["value"][number, :n, own] = torch.from_numpy(share.astype(np.float32))
    depth = max(tree.max_depth for tree in grown)
    return {"trees": trees, "nodes": nodes, "depth": depth}, weights


def vote(grown: Grown, card: ModelCard, x: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Probabilities (n, class) that a forest gives patches; it need not have been written."""
    forest = build(card.model_copy(update={"parameters": grown.parameters})).eval()
    forest.load_state_dict(grown.weights, strict=False)
    found = np.zeros((len(x), len(card.classes)), np.float32)
    with torch.inference_mode():
        for first in range(0, len(x), _AT_ONCE):
            part = torch.from_numpy(prepare_batch(x[first : first + _AT_ONCE], card))
            found[first : first + _AT_ONCE] = forest(part)[0].numpy()
    return found
