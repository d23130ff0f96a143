"""Heads and the networks that they become: candidates, features that a card can hold, arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from engine.datasets.embedded import Embedded
from engine.errors import CardError, LabelError
from engine.infer.aggregate import aggregate_names
from engine.models.card import ModelCard, find_card, load_card
from engine.models.card_parts import of_vectors
from engine.models.registry import HEAD, load_weights
from engine.models.weights import ONNX
from engine.products.vectors import at_cells
from engine.propagation.heads import KnnScorer, Linear, Scorer, Trees
from engine.propagation.pool import Standard
from engine.propagation.tuning import forest_candidates, knn_candidates, logistic_candidates
from engine.training.forest import arrays_of
from engine.training.head_mlp import MlpHead, Network

__all__ = ["CANDIDATES", "as_network", "bands_of", "encoder_of"]

CANDIDATES: dict[str, Any] = {
    "logistic": logistic_candidates,
    "knn": knn_candidates,
    "mlp": lambda: (MlpHead(),),
    "forest": forest_candidates,
}
"""By kind: heads to choose from, the usual one first."""


def encoder_of(city: Embedded) -> ModelCard | None:
    """The network that made a city's vectors; None where they are statistics of pixels.

    Raises
    ------
    CardError
        Where it has changed since, or is none that a head can hold.
    """
    recipe, made_by = city.recipe, city.made_by
    if recipe.model is None:
        if "model" in made_by:
            raise CardError(
                "the embedding was made by a model that its recipe does not name",
                got=f"{city.name}: {made_by['model']:.12}",
                remedy="run the embedding again, or name the model in its recipe",
            )
        return None
    card = load_card(find_card(recipe.model.card, city.folder))
    if at_cells(card, city.side).key != made_by.get("model"):
        raise CardError(
            "the encoder is not the one that made the embedding",
            got=f"{card.name}: {at_cells(card, city.side).key:.12}",
            expected=f"{made_by.get('model')!s:.12}",
            remedy=f"natmap embed the recipe of {city.name} again",
        )
    if city.names != tuple(map(str, range(card.features))):
        raise CardError(
            "the embedding has other features than its encoder gives",
            got=f"{len(city.names)}: {', '.join(city.names[-3:])}",
            expected=f"the {card.features} of {card.name}",
            remedy="embed without further features: a head computes its own from patches",
        )
    if card.architecture in (ONNX, HEAD, "gcn"):
        raise CardError(
            "a head cannot hold such an encoder",
            got=f"{card.name}: {card.architecture}",
            expected="a network of patches with weights as safetensors",
            remedy="natmap convert its checkpoint, where natmap knows the network",
        )
    return card


def bands_of(city: Embedded) -> tuple[str, ...]:
    """The bands whose statistics a city's features are.

    Raises
    ------
    LabelError
        Where they are something else, or of published vectors whose channels are called as bands
        of imagery are: a card with these would take reflectance.
    """
    bands = tuple(map(str, city.made_by.get("bands") or city.made_by.get("channels") or ()))
    if not bands or city.names != aggregate_names(bands):
        raise LabelError(
            "the features of the embedding are no statistics of bands",
            got=", ".join(_beyond(city.names, aggregate_names(bands))[:5]),
            expected=f"{', '.join(aggregate_names(bands)[:5])} … and no others",
            remedy="embed without features, and natmap embed the recipe again",
        )
    if "channels" in city.made_by and not of_vectors(bands):
        raise LabelError(
            f"the published vectors of {city.name} are called as bands of imagery are",
            got=", ".join(bands[:5]),
            expected="channels with names of their own, as A00",
            remedy="write them with other names of channels, and embed them again",
        )
    return bands


def _beyond(names: Sequence[str], known: Sequence[str]) -> list[str]:
    """Names that are not known ones; all where each of them is."""
    return [name for name in names if name not in known] or list(names)


def as_network(
    scorer: Scorer, standard: Standard, encoder: ModelCard | None = None
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """A fitted head as parameters and weights of `engine.models.head.Head`.

    Parameters
    ----------
    scorer : fitted to features on the pool's scale.
    standard : the scale.
    encoder : network that gives the features.
    """
    kept = standard.kept
    weights = {
        "kept": torch.from_numpy(np.flatnonzero(kept)),
        "middle": torch.from_numpy(standard.middle[kept]),
        "spread": torch.from_numpy(standard.spread[kept]),
    }
    parameters: dict[str, Any] = {"features": len(kept), "columns": int(kept.sum())}
    if isinstance(scorer, Linear):
        parameters["kind"], places = "logistic", scorer.places
        found = {"weight": scorer.weights, "offset": scorer.offsets}
        own = {name: torch.from_numpy(np.ascontiguousarray(v)) for name, v in found.items()}
    elif isinstance(scorer, KnnScorer):
        places, classes = np.unique(scorer.places, return_inverse=True)
        parameters |= {
            "kind": "knn",
            "labels": len(scorer.index),
            "k": scorer.k,
            "metric": scorer.index.metric,
            "weighing": scorer.weighing,
        }
        own = {
            "labels": torch.from_numpy(scorer.index.labels),
            "own": torch.from_numpy(classes),
            "weights": torch.from_numpy(scorer.weights),
        }
    elif isinstance(scorer, Trees):
        places = scorer.places
        shape, own = arrays_of(scorer.forest)
        parameters |= {"kind": "forest", **shape}
    else:
        assert isinstance(scorer, Network), "no head is of another kind"
        places = scorer.places
        hidden = [layer.out_features for layer in scorer.network.layers if hasattr(layer, "bias")]
        parameters |= {"kind": "mlp", "hidden": hidden[:-1]}
        own = dict(scorer.network.state_dict())
    parameters["known"] = len(places)
    weights["place"] = torch.from_numpy(np.asarray(places, np.int64))
    weights |= {f"head.{name}": values for name, values in own.items()}
    if encoder is not None:
        parameters["encoder"] = {
            "name": encoder.name,
            "sha256": encoder.sha256,
            "architecture": encoder.architecture,
            "parameters": encoder.parameters,
            "classes": len(encoder.classes),
        }
        weights |= {f"encoder.{name}": value for name, value in load_weights(encoder).items()}
    return parameters, weights
