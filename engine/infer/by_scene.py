"""Segmentation by scenes: what a window shows says whose logits it gets, or how they are blended.

A window is described as the patches were that the scenes were found in. It lies on the grid's
lattice and is looked at whole, so its scene does not depend on the tile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from engine.models.card import ModelCard
from engine.models.inputs import prepare_image
from engine.texture.lbp import UNSEEN, texture_counts
from engine.texture.nearest import squares

if TYPE_CHECKING:  # torch costs a process a second and 150 MB
    from engine.infer.predict import Predictor

__all__ = ["LOADED", "ByScene", "SceneWindows", "pixels_of"]

LOADED = 8
"""Networks that a worker holds at once; the one that was used least lately makes room."""

Strip = tuple[slice, npt.NDArray[np.float32], npt.NDArray[np.bool_]]


@dataclass(frozen=True)
class ByScene:
    """Whose card a window gets.

    Attributes
    ----------
    cards : different ones; the first has the windows that are of no scene.
    owner : position in `cards` of each scene's.
    centres : float64 (scenes, codes of texture)
    radii : float64 (scenes,), distance from the centre beyond which nothing is of the scene.
    spread : mean square of distances from the centre; it says what is near when cards are blended.
    least : weight below which a scene's card does not run; 1: one card alone does.
    rgb : positions of red, green and blue in the cards' bands.
    """

    cards: tuple[ModelCard, ...]
    owner: tuple[int, ...]
    centres: npt.NDArray[np.float64]
    radii: npt.NDArray[np.float64]
    spread: float
    least: float
    rgb: tuple[int, ...]

    def shares(
        self, pixels: npt.NDArray[np.uint8], valid: npt.NDArray[np.bool_]
    ) -> npt.NDArray[np.float32]:
        """How much each card counts in a window, float32 (cards,), sums to 1.

        With d_k the distance of the window's texture from the centre of scene k, and s2 the spread,
        scene k has the weight exp(-d_k^2 / s2) / sum_j exp(-d_j^2 / s2). Weights below `least` are
        left out, but for the largest, and the rest sum to 1. Scenes of one card add up.

        A window with more than a tenth of its pixels without data, without a texture, or farther
        from the nearest centre than any patch of that scene was, is the first card's.

        Parameters
        ----------
        pixels : uint8 (band, side, side)
        valid : bool (side, side)
        """
        first = np.zeros(len(self.cards), np.float32)
        first[0] = 1
        if valid.mean() < 1 - UNSEEN:
            return first
        counts = texture_counts(pixels[list(self.rgb)], valid)
        if not counts.any():
            return first
        apart = np.empty(len(self.centres))
        squares(counts / counts.sum(), self.centres, apart)
        near = int(apart.argmin())
        if np.sqrt(apart[near]) > self.radii[near]:
            return first
        weights = np.zeros(len(apart))
        weights[near] = 1
        if self.least < 1:
            with np.errstate(over="ignore"):  # as far as that is no weight at all
                weights = np.exp((apart[near] - apart) / self.spread)
            weights /= weights.sum()
            kept = weights >= self.least
            kept[near] = True
            weights = np.where(kept, weights, 0)
            weights /= weights.sum()
        return np.bincount(self.owner, weights, len(self.cards)).astype(np.float32)


class SceneWindows:
    """The windows of a tile: their logits by scene, and whose card made most of a pixel.

    Parameters
    ----------
    by : whose card a window gets.
    load : gives a card's network, ready.
    side : of the tile, in pixels.

    Attributes
    ----------
    made : uint8 (side, side), position of the card that has most of a pixel, the first of equal
        ones; 255: none.
    planes : that `predict` gives of a window: logits, then the shares of the cards.
    """

    def __init__(self, by: ByScene, load: Callable[[ModelCard], Predictor], side: int) -> None:
        self._by, self._load = by, load
        self._several = by.cards[0].several
        self._logits = len(by.cards[0].classes) if self._several else 1
        self.planes = self._logits + len(by.cards)
        self.made = np.full((side, side), 255, np.uint8)

    def predict(self, windows: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Planes of windows, float32 (n, planes, side, side).

        Parameters
        ----------
        windows : uint8 (n, band + 1, side, side), as `pixels_of` makes them.
        """
        shares = np.stack([self._by.shares(each[:-1], each[-1] > 0) for each in windows])
        found = np.zeros((len(windows), self.planes, *windows.shape[2:]), np.float32)
        found[:, self._logits :] = shares[:, :, None, None]
        for k, card in enumerate(self._by.cards):
            some = np.flatnonzero(shares[:, k])
            if len(some):
                prepared = prepare_image(windows[some, :-1], windows[some, -1] > 0, card)
                logits = self._load(card).segment(prepared)
                if not self._several:
                    logits = logits[:, None]
                found[some, : self._logits] += shares[some, k, None, None, None] * logits
        return found

    def parted(self, strips: Iterator[Strip]) -> Iterator[Strip]:
        """Strips of blended planes as those of logits; who made a pixel is kept in `made`."""
        for rows, planes, scored in strips:
            most = planes[self._logits :].argmax(axis=0)
            self.made[rows] = np.where(scored, most, 255)
            yield rows, planes[: self._logits] if self._several else planes[0], scored


def pixels_of(bands: npt.NDArray[np.uint8], seen: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    """Pixels of images with one plane more, which says where they have data."""
    return np.concatenate([bands, seen[None].astype(np.uint8)])
