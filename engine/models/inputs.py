"""From stored numbers to what a network is fed: one function for training and inference."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from engine.accounting import spent
from engine.models.card import ModelCard
from engine.models.coding import decode_ground

__all__ = [
    "is_valid",
    "prepare_batch",
    "prepare_image",
    "prepare_input",
    "prepare_pixels",
    "seen_in",
]


def prepare_input(
    stored: npt.NDArray[Any], valid: npt.NDArray[np.bool_], card: ModelCard
) -> npt.NDArray[np.float32]:
    """Reflectance, or vectors as they are, clipped, standardised and filled as the card says.

    Features beside reflectance likewise. What is not known of one is filled as a pixel without
    imagery is: its mask tells.

    Parameters
    ----------
    stored : (..., band, y, x)
        Reflectance x 1e4 + 1000 (uint16), bands in the card's order; those of features as
        `engine.models.coding` keeps them. Or float32 of published vectors.
    valid : bool (..., y, x)
    card : ModelCard

    Returns
    -------
    float32 (..., band, y, x)
    """
    with spent("prepare"):
        x = stored.astype(np.float32)
        if not card.vectors:
            x = (x - np.float32(1000.0)) / np.float32(10_000.0)
        if card.clip is not None:
            np.clip(x, *card.clip, out=x)
        first = len(card.imagery)
        for number, band in enumerate(card.bands[first:], first):
            x[..., number, :, :] = decode_ground(stored[..., number, :, :], *card.ranges[band])
        x = _standardise(x, valid, card)
        if card.ranges:
            ground = x[..., first:, :, :]
            np.copyto(ground, np.float32(card.fill), where=np.isnan(ground))
        return x


def seen_in(stored: npt.NDArray[Any], card: ModelCard) -> npt.NDArray[np.bool_]:
    """Where stored examples (n, band, y, x) have all imagery, or published vectors, of the card."""
    return np.asarray(is_valid(stored[:, : len(card.imagery)]).all(axis=1))


def prepare_image(
    pixels: npt.NDArray[np.uint8], valid: npt.NDArray[np.bool_], card: ModelCard
) -> npt.NDArray[np.float32]:
    """8-bit pixels / 255, standardised and filled as the card says.

    Parameters
    ----------
    pixels : uint8 (..., band, y, x), bands in the card's order.
    valid : bool (..., y, x)
    card : ModelCard

    Returns
    -------
    float32 (..., band, y, x)
    """
    with spent("prepare"):
        return _standardise(pixels.astype(np.float32) / np.float32(255.0), valid, card)


def prepare_pixels(
    pixels: npt.NDArray[Any], valid: npt.NDArray[np.bool_], card: ModelCard
) -> npt.NDArray[np.float32]:
    """Chips of images (uint8) as `prepare_image`, of composites (uint16) as `prepare_input`."""
    prepare = prepare_input if pixels.dtype == np.uint16 else prepare_image
    return prepare(pixels, valid, card)


def _standardise(
    x: npt.NDArray[np.float32], valid: npt.NDArray[np.bool_], card: ModelCard
) -> npt.NDArray[np.float32]:
    if card.mean is not None and card.std is not None:
        mean, std = (np.array(v, np.float32)[:, None, None] for v in (card.mean, card.std))
        x = (x - mean) / std
    np.copyto(x, np.float32(card.fill), where=~valid[..., None, :, :])
    return x


def prepare_batch(x: npt.NDArray[Any], card: ModelCard) -> npt.NDArray[np.float32]:
    """Examples as a network is fed them.

    Parameters
    ----------
    x : uint16 (n, band, y, x), stored patches, valid where no band of imagery is 0; float32 of
        published vectors, valid where none is NaN; or, for a graph network, packed graphs
        (n, 50, 5).
    card : ModelCard

    Returns
    -------
    float32, of the same shape
    """
    if x.ndim == 3:
        return x.astype(np.float32)
    return prepare_input(x, seen_in(x, card), card)


def is_valid(x: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Which stored numbers say something: of whole ones those over 0, of floats those not NaN."""
    return np.asarray(~np.isnan(x) if x.dtype.kind == "f" else x > 0)
