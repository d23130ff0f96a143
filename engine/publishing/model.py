"""The model of a product: a copy in its folder, or the address where anybody can get it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from engine.addresses import public_address
from engine.licences import known
from engine.models.card import ModelCard, verify_weights
from engine.models.footprint import FOOTPRINT
from engine.models.mlm import weights_asset, write_card

__all__ = ["FOLDER", "place_model", "why_not"]

FOLDER = "model"
"""Of the product folder, with card and weights: it can be named as `model.card`."""


def why_not(card: ModelCard) -> str | None:
    """Why a card's weights may not be handed on; None where they may."""
    if card.shareable is False:
        return "its card says that they may not be handed on"
    if card.shareable is None and known(card.licence) is None:
        return "its card states no licence"
    return None


def place_model(folder: Path, card: ModelCard, within: str = FOLDER) -> dict[str, Any] | None:
    """Put a model where the product's readers find it.

    Parameters
    ----------
    folder : the product's.
    card : with its weights beside it.
    within : folder of the product's that a copy lies in.

    Returns
    -------
    The weights as an asset, its ``href`` from the product folder itself; None where they have no
    address and may not be handed on.

    Raises
    ------
    WeightsError
        Where they are not those of the card.
    """
    asset = weights_asset(card)
    if card.address is not None:
        return asset | {"href": public_address(card.address)}
    if why_not(card):
        return None
    inside = folder / within
    inside.mkdir(parents=True)
    for name in (card.weights, *(file.name for file in card.data)):
        shutil.copyfile(card.folder / name, inside / name)
    verify_weights(card.model_copy(update={"folder": inside}))
    write_card(card, inside)
    if (card.folder / FOOTPRINT).is_file():
        shutil.copyfile(card.folder / FOOTPRINT, inside / FOOTPRINT)
    return asset | {"href": f"./{within}/{card.weights}"}
