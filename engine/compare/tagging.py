"""Patches scored by a multi-label model: a table of probabilities, whatever the patches lie in."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import numpy.typing as npt
import pandas
import shapely

from engine.datasets.chips import ChipSet, chip_set_of, open_chips
from engine.datasets.ground import INVALID, Window, open_ground
from engine.datasets.splits import SPLITS
from engine.errors import CardError, LabelError
from engine.files import together
from engine.models.card import ModelCard, find_card, load_card
from engine.models.card_parts import Ranges, require_ground

__all__ = ["ChipSource", "Tagged", "load_labeller", "score_patches", "tag"]

_FORMS = (".parquet", ".csv")
_AT_ONCE = 32  # patches
_READ = 1024  # px: side of a square of patches that is read as one, a read of each being dear
_RECIPES = (".yaml", ".yml", ".json")

Block = tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]
"""Images (n, band, side, side) in the card's order of bands, and where they have data."""


@dataclass(frozen=True)
class Tagged:
    """What a multi-label model says of patches.

    Attributes
    ----------
    table : a row for each patch: patch (its number), place, split (of a chip set), x and y (centre
        in metres of the place's CRS), data (share of its pixels), p_NAME of each class (0 to 1;
        missing where more than a tenth has no data), labels (names of those that occur, by the
        model's thresholds).
    classes : names, in the order of the columns.
    occurs : patches that each class is found in.
    unscored : patches with too little data.
    """

    table: pandas.DataFrame
    classes: tuple[str, ...]
    occurs: tuple[int, ...]
    unscored: int


def tag(model: str | Path, place: str | Path, out: str | Path | None = None) -> Tagged:
    """Say which classes occur in patches: the probability of each, by a multi-label model.

    Parameters
    ----------
    model : folder of a multi-label model's card.
    place : chip set, folder that `frames` cut one into, or map recipe: then the squares of the
        model's side, from the anchor of its grid, that lie in its area by half or more.
    out : file of the table, ``.parquet`` or ``.csv``; Parquet has the squares as geometry
        (GeoParquet), unless nobody knows the CRS of chips. By default nowhere.

    Raises
    ------
    CardError
        Where the model gives one class to a patch, or one to each pixel.
    NatmapError
        Where the model or the patches cannot be read, or do not go together.
    """
    target = None if out is None else Path(out)
    if target is not None and target.suffix not in _FORMS:
        raise LabelError(
            "the table has no such format", got=target.name, expected=" or ".join(_FORMS)
        )
    card = load_labeller(model)
    source = _open(Path(place), card)
    scores, data = score_patches(card, source)
    found = _tagged(card, source, scores, data)
    if target is not None:
        with together(target.parent) as part:
            if target.suffix == ".csv":
                plain = found.table.drop(columns="geometry", errors="ignore")
                plain.to_csv(part / target.name, index=False)
            else:
                found.table.to_parquet(part / target.name, index=False)
    return found


def load_labeller(model: str | Path) -> ModelCard:
    """The card of a multi-label model.

    Raises
    ------
    CardError
        Where it is another kind of model.
    """
    card = load_card(find_card(str(model), Path()))
    if card.multilabel is None:
        gives = "a class for each pixel" if card.segments else "one class, or features, for a patch"
        raise CardError(
            "patches are tagged by a multi-label model",
            got=f"{card.name}: {card.architecture}, which gives {gives}",
            expected="a card with multilabel",
            remedy="train one: natmap init train-multilabel",
        )
    return card


class _Source(ABC):
    """Patches to score."""

    columns: dict[str, Any]  # of the table, before the scores

    @abstractmethod
    def blocks(self) -> Iterator[Block]:
        """All of them, some at a time, in order."""

    def place(self, table: pandas.DataFrame) -> pandas.DataFrame:
        """The table with where its patches lie, where that is known."""
        return table


class ChipSource(_Source):
    """Some chips of a set.

    Parameters
    ----------
    chips : ChipSet
    card : of the model.
    name : of the set, in errors.
    rows : of the chips; None: all.

    Raises
    ------
    CardError, LabelError
        Where they lack bands of the model, or have another side or resolution.
    """

    def __init__(
        self, chips: ChipSet, card: ModelCard, name: str, rows: npt.NDArray[np.intp] | None = None
    ) -> None:
        lacking = [band for band in card.bands if band not in chips.bands]
        if lacking:
            raise CardError(
                f"the chips lack bands of model {card.name}",
                got=f"{name}: {', '.join(chips.bands)}",
                expected=", ".join(card.bands),
                remedy="cut chips with these bands",
            )
        _require_pixels(card, name, chips.side, chips.resolution, chips.ranges)
        self._chips = chips
        self._half = card.patch * card.resolution / 2
        self._rows = np.arange(len(chips)) if rows is None else rows
        self._bands = [chips.bands.index(band) for band in card.bands]
        splits = np.array([*SPLITS, *[None] * (256 - len(SPLITS))], object)
        x, y = chips.xy[self._rows].T
        self.columns = {
            "patch": self._rows,
            "place": np.array(chips.places, object)[chips.place[self._rows]],
            "split": splits[chips.split[self._rows]],
            "x": x,
            "y": y,
        }

    def blocks(self) -> Iterator[Block]:
        for first in range(0, len(self._rows), _AT_ONCE):
            x, _, seen = self._chips.take(self._rows[first : first + _AT_ONCE])
            there = np.ones((len(x), *x.shape[2:]), bool) if seen is None else seen
            yield x[:, self._bands], there

    def place(self, table: pandas.DataFrame) -> pandas.DataFrame:
        (x, y), half, crs = self._chips.xy[self._rows].T, self._half, self._chips.crs
        if crs is None:
            return table
        squares = shapely.box(x - half, y - half, x + half, y + half)
        return geopandas.GeoDataFrame(table, geometry=squares, crs=crs)


class _Ground(_Source):
    """Squares of a map recipe's area."""

    def __init__(self, path: Path, card: ModelCard) -> None:
        self._ground = open_ground(path, card.bands)
        ground, self._side = self._ground, card.patch
        _require_pixels(card, ground.name, card.patch, ground.metres, ground.ranges)
        self._many = max(1, _READ // card.patch)  # patches along a square that is read as one
        windows = ground.windows(ground.area.geometry, card.patch)
        self._windows = sorted(windows, key=lambda window: (self._square_of(window), window))
        if not self._windows:
            raise LabelError(
                "no patch of the model lies in the area by half",
                got=f"{ground.name}: patches of {card.patch * card.resolution:g} m",
                expected="an area of a patch or more",
            )
        boxes = [ground.box(window, card.patch).boundingbox.bbox for window in self._windows]
        self._boxes = np.array(boxes)
        west, south, east, north = self._boxes.T
        self.columns = {
            "patch": np.arange(len(boxes)),
            "place": ground.name,
            "x": (west + east) / 2,
            "y": (south + north) / 2,
        }

    def blocks(self) -> Iterator[Block]:
        side, wide = self._side, self._side * self._many
        for (row, col), inner in groupby(self._windows, self._square_of):
            square = self._ground.read((row, col), wide)
            cuts = [
                np.s_[..., top - row : top - row + side, left - col : left - col + side]
                for top, left in inner
            ]
            yield (
                np.stack([square.bands[cut] for cut in cuts]),
                np.stack([square.valid[cut] for cut in cuts]),
            )

    def _square_of(self, window: Window) -> Window:
        """The corner of the square that a patch is read with."""
        wide = self._side * self._many
        return window[0] // wide * wide, window[1] // wide * wide

    def place(self, table: pandas.DataFrame) -> pandas.DataFrame:
        squares = shapely.box(*self._boxes.T)
        return geopandas.GeoDataFrame(table, geometry=squares, crs=self._ground.grid.crs)


def score_patches(
    card: ModelCard, source: _Source
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]]:
    """Probabilities (n, class), NaN where over a tenth has no data; and what share has (n,)."""
    from engine.infer.examples import score_chips  # torch: a second and 150 MB

    data: list[npt.NDArray[np.float64]] = []

    def parts() -> Iterator[Block]:
        for x, seen in source.blocks():
            data.append(seen.mean(axis=(1, 2)))
            yield x, seen

    found = [*score_chips(card, parts())]
    none = np.zeros((0, len(card.classes)), np.float32)
    scores, there = np.concatenate([none, *found]), np.concatenate([np.zeros(0), *data])
    scores[there < 1 - INVALID] = np.nan
    return scores, there


def _open(place: Path, card: ModelCard) -> _Source:
    folder = chip_set_of(place)
    if folder is not None:
        return ChipSource(open_chips(folder), card, place.name)
    if place.is_file() and place.suffix in _RECIPES:
        return _Ground(place, card)
    raise LabelError(
        "there are no patches to tag",
        got=str(place),
        expected="a chip set, a folder of natmap frames --cut, or a map recipe",
        remedy="natmap ingest makes a catalogue of images, for a recipe",
    )


def _require_pixels(card: ModelCard, name: str, side: int, metres: float, ranges: Ranges) -> None:
    require_ground(card.name, card.ranges, ranges)
    if side != card.patch or not math.isclose(metres, card.resolution):
        raise CardError(
            f"model {card.name} was made for other patches",
            got=f"{name}: {side} px of {metres:g} m",
            expected=f"{card.patch} px of {card.resolution:g} m",
            remedy="cut them so, or train a model on patches like these",
        )


def _tagged(
    card: ModelCard,
    source: _Source,
    scores: npt.NDArray[np.float32],
    data: npt.NDArray[np.float64],
) -> Tagged:
    assert card.multilabel is not None
    names = [c.name for c in card.legend]
    known = np.asarray(np.isfinite(scores).all(axis=1))
    limits = np.array(card.multilabel.thresholds)
    found = np.asarray(known[:, None] & (np.nan_to_num(scores) >= limits))
    told = [_joined(names, row) if k else None for row, k in zip(found, known, strict=True)]
    columns = {
        **source.columns,
        "data": data,
        **{f"p_{name}": scores[:, k] for k, name in enumerate(names)},
        "labels": told,
    }
    return Tagged(
        source.place(pandas.DataFrame(columns)),
        tuple(names),
        tuple(np.count_nonzero(found, axis=0).tolist()),
        int((~known).sum()),
    )


def _joined(names: Sequence[str], found: npt.NDArray[np.bool_]) -> str:
    return " ".join(name for name, there in zip(names, found.tolist(), strict=True) if there)
