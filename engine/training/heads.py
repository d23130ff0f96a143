"""The task of a head: embedded cities with labels to a card that maps by patches."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.spatial import cKDTree

from engine.datasets.embedded import Embedded, open_embedded, require_one_embedding
from engine.datasets.pseudo_labels import Pseudo, read_pseudo_labels
from engine.datasets.splits import UNUSED, split_by_block
from engine.errors import LabelError, RecipeError
from engine.grid.moving import move_of
from engine.legend import LCZ
from engine.metrics import assess, confusion
from engine.models.card import ModelCard
from engine.models.footprint import Footprint, Ground
from engine.models.head import NOTHING
from engine.models.registry import HEAD, load_model
from engine.products.vectors import at_cells
from engine.propagation.features import moments_of
from engine.propagation.guards import cap_pool
from engine.propagation.heads import CODES
from engine.propagation.pool import Standard, standard_of
from engine.propagation.tuning import CITIES, Tuned, tune
from engine.publishing.charts import draw_confusion
from engine.publishing.model import why_not
from engine.recipes.heads import HeadRecipe
from engine.runs.tables import add
from engine.training.head_networks import CANDIDATES, as_network, bands_of, encoder_of
from engine.training.loop import Fitted
from engine.training.task import Judged, Listener, Task

__all__ = ["HeadTask"]

_TRAIN, _TEST = 0, 2
_CELL = 100.0  # metres, of a map


class HeadTask(Task):
    """A head on the cells of embedded cities.

    Parameters
    ----------
    recipe : HeadRecipe
    base : folder of its relative paths.
    hear : hears of what is read.

    Raises
    ------
    NatmapError
        Where embeddings, labels or pseudo-labels cannot be used, before anything is fitted.
    """

    examples = "cells"
    software = ("torch", "numpy", "scikit-learn")

    tuned: Tuned | None = None
    """How the settings were chosen."""
    fitted_on: npt.NDArray[np.int64] | None = None
    """Codes of the labels that were learnt from."""

    def __init__(self, recipe: HeadRecipe, base: Path, hear: Listener) -> None:
        self.recipe, self.folder = recipe, base / recipe.out
        self.cities = []
        for entry in recipe.cities:
            hear.tell(f"reading {entry.name or entry.recipe}")
            self.cities.append(open_embedded(entry, base))
            for note in self.cities[-1].notes:
                hear.tell(f"note: {note}")
        require_one_embedding(self.cities)
        for name in recipe.split.test:
            if name not in {city.name for city in self.cities}:
                raise LabelError(
                    "no such city to test on",
                    got=name,
                    expected=", ".join(city.name for city in self.cities),
                )
        self.encoder = encoder_of(self.cities[0])
        self.card = self._card()
        reach = (self.card.patch + 2 * self.card.context) * self.card.resolution
        self.labels = [_labelled(city, recipe, k, reach) for k, city in enumerate(self.cities)]
        for city, part in zip(self.cities, self.labels, strict=True):
            # of two cells that share ground the one that tests keeps its own
            near = self._by_tests(city, part.place, reach)
            part.split[(part.split == _TRAIN) & near] = UNUSED
        pseudo = Pseudo(*(np.zeros(0, np.int64),) * 3, np.zeros(0))
        if recipe.pseudo is not None:
            pseudo = read_pseudo_labels(base / recipe.pseudo, self.cities)
            pseudo, left = self._allowed(pseudo, reach)
            hear.tell(f"{len(pseudo)} pseudo-labels train; left out: {_told(left)}")
        self.pseudo = pseudo
        codes = np.unique(self._gather("codes", _TRAIN))
        if len(codes) < 2:
            raise LabelError(
                "labels have too few classes to learn from",
                got=f"{len(self._gather('codes', _TRAIN))} labelled cells that train, of classes "
                f"{codes.tolist()}",
                expected="two classes or more",
                remedy="label cells of other classes or of another city, or look at the split",
            )
        teach = [c.name for k, c in enumerate(self.cities) if k in self._gather("city", _TRAIN)]
        if recipe.model.tune and len(teach) < CITIES:
            raise LabelError(
                "too few cities have labels for a head to be tuned on",
                got=f"{len(teach)}: {', '.join(teach)}",
                expected=f"{CITIES} or more, of which one after another is left out",
                remedy="leave model.tune out, and the usual settings are taken; or label a city",
            )

    def _card(self) -> ModelCard:
        """Without weights, and parameters that are known of a fitted head alone."""
        recipe, city = self.recipe, self.cities[0]
        wanted, encoder, form = recipe.model, self.encoder, {}
        if encoder is not None:
            kept = ("bands", "clip", "mean", "std", "fill", "patch", "context", "resolution")
            form = {name: getattr(encoder, name) for name in kept}
            form["inference_block"] = encoder.block
        else:
            pixels = city.recipe.grid.resolution
            patch = round(city.side / pixels)
            form = {"bands": bands_of(city), "fill": NOTHING, "patch": patch, "resolution": pixels}
        cell = wanted.cell or (encoder.cell if encoder else _CELL)
        step = cell / form["resolution"]
        if not math.isclose(step, round(step)):
            raise RecipeError(
                "model.cell is no whole number of pixels",
                got=f"{cell:g} m",
                expected=f"a multiple of {form['resolution']:g} m",
            )
        what = "statistics of pixels" if encoder is None else f"features of {encoder.name}"
        places = ", ".join(city.name for city in self.cities)
        # its weights go along: they may be handed on where those of the encoder may
        barred = encoder is not None and why_not(encoder) is not None
        card = ModelCard(
            name=recipe.name,
            architecture=HEAD,
            **form,
            classes=CODES,
            features=len(city.names),
            licence=wanted.licence,
            attribution=wanted.attribution or (encoder.attribution if encoder else None),
            citation=wanted.citation or (encoder.citation if encoder else None),
            shareable=False if barred else None,
            provenance=wanted.description or f"a {wanted.kind} head on {what} of {places}",
            weights=f"{recipe.name}.safetensors",
            sha256="0" * 64,
            folder=self.folder,
        )
        return card if cell == card.cell else at_cells(card, cell)

    def _allowed(self, pseudo: Pseudo, reach: float) -> tuple[Pseudo, Counter[str]]:
        """Pseudo-labels that may train: none that tests, or sees ground of what does."""
        why = np.full(len(pseudo), "", object)
        for number, (city, labels) in enumerate(zip(self.cities, self.labels, strict=True)):
            mine = np.flatnonzero(pseudo.city == number)
            place = pseudo.place[mine]
            why[mine[self._by_tests(city, place, reach)]] = "near cells that test"
            why[mine[np.isin(place, labels.place)]] = "labelled"
            why[mine[city.in_held(place)]] = "held out"
            if city.name in self.recipe.split.test:
                why[mine] = "of a city that tests"
        left = Counter(w for w in why.tolist() if w)
        if pseudo.without:
            left["without a vector"] = pseudo.without
        return pseudo.take(np.flatnonzero(why == "")), left

    def _by_tests(
        self, city: Embedded, place: npt.NDArray[np.int64], reach: float
    ) -> npt.NDArray[np.bool_]:
        """Which cells see ground of a cell that tests, of whatever city, (n,)."""
        found = np.zeros(len(place), bool)
        for other, labels in zip(self.cities, self.labels, strict=True):
            xy = other.xy[labels.place[labels.split == _TEST]]
            move = move_of(str(other.cells.crs), str(city.cells.crs))
            xy = xy if move is None else move.points(xy)
            xy = xy[np.isfinite(xy).all(axis=1)]
            if len(xy) and len(place):
                apart, _ = cKDTree(xy).query(city.xy[place], p=np.inf)
                found |= apart < reach * (1 - 1e-9)
        return found

    def _gather(self, what: str, split: int) -> npt.NDArray[Any]:
        """Of the labelled cells of a split, in the order of the cities."""
        return np.concatenate([getattr(part, what)[part.split == split] for part in self.labels])

    def _features(self, city: npt.NDArray[Any], place: npt.NDArray[Any]) -> npt.NDArray[Any]:
        found = np.empty((len(place), len(self.cities[0].names)), np.float32)
        for number, one in enumerate(self.cities):
            found[city == number] = one.features[place[city == number]]
        return found

    @property
    def size(self) -> str:
        more = f" and {len(self.pseudo)} pseudo-labels" if len(self.pseudo) else ""
        return f"{len(self._gather('codes', _TRAIN))} {self.examples}{more}"

    @cached_property
    def standard(self) -> Standard:
        """The scale of all cells of the cities that train, labelled or not."""
        cities = [city for city in self.cities if city.name not in self.recipe.split.test]
        return standard_of(reduce(add, [moments_of(city.features) for city in cities]))

    def learn(self, hear: Listener) -> tuple[ModelCard, Fitted]:
        seed = self.recipe.training.seed
        city, place, codes = (self._gather(n, _TRAIN) for n in ("city", "place", "codes"))
        some = cap_pool(codes, city, self.recipe.most, seed)
        city, place, codes = city[some], place[some], codes[some]
        x = self.standard.apply(self._features(city, place))
        candidates = CANDIDATES[self.recipe.model.kind]()
        if self.recipe.model.tune is not False:
            self.tuned = tune(x, codes, city, candidates, seed=seed)
            for note in self.tuned.notes:
                hear.tell(f"note: {note}")
            head = self.tuned.head
        else:
            head = candidates[0]
        hear.tell(f"fitting {head!r:.120}")
        more = self.pseudo
        guessed = self.standard.apply(self._features(more.city, more.place))
        scorer = head.fit(
            np.concatenate([x, guessed]),
            np.concatenate([codes, more.codes]),
            np.concatenate([np.ones(len(x)), more.weights]),
            seed,
        )
        self.fitted_on = codes
        parameters, weights = as_network(scorer, self.standard, self.encoder)
        card = self.card.model_copy(update={"parameters": parameters})
        return card, Fitted(weights, 0, ())

    def judge(self, card: ModelCard, hear: Listener) -> Judged:
        more = {"tuning": None if self.tuned is None else _tuning(self.tuned, self.cities)}
        city, place, codes = (self._gather(n, _TEST) for n in ("city", "place", "codes"))
        if not len(codes):
            return Judged(None, more=more)
        network: Any = load_model(card)
        with torch.inference_mode():
            scores = network.classify(torch.from_numpy(self._features(city, place))).numpy()
        counts = confusion(codes, np.array(card.classes)[scores.argmax(1)])
        figures = assess(counts).figures()
        draw_confusion(counts, card.folder / "confusion.png", f"{card.name}: test cells, %")
        words = (
            f"{len(codes)} test cells: accuracy {figures['oa']:.3f}, kappa {figures['kappa']:.3f}"
        )
        return Judged(figures, words, more)

    def footprint(self) -> Footprint:
        card = self.card
        places = []
        for number, (city, labels) in enumerate(zip(self.cities, self.labels, strict=True)):
            guessed = self.pseudo.place[self.pseudo.city == number]
            where = np.concatenate([labels.place[labels.split == _TRAIN], guessed])
            if len(where):
                places.append(Ground(str(city.cells.crs), city.xy[where]))
        return Footprint((card.patch + 2 * card.context) * card.resolution, tuple(places))

    def describe(self) -> dict[str, Any]:
        encoder = self.encoder
        return {
            "cities": [
                {"name": city.name, "cells": len(city.rows), "snapshot": city.snapshot}
                for city in self.cities
            ],
            "embedding": self.cities[0].made_by,
            "encoder": None if encoder is None else {"name": encoder.name, "key": encoder.key},
            "cells": {
                "train": {} if self.fitted_on is None else _counts(self.fitted_on),
                "pseudo": _counts(self.pseudo.codes),
                "test": _counts(self._gather("codes", _TEST)),
            },
        }


@dataclass(frozen=True)
class _Labelled:
    """Labelled cells of a city; `split` as `engine.datasets.splits.SPLITS` has them."""

    city: npt.NDArray[np.int64]
    place: npt.NDArray[np.int64]
    codes: npt.NDArray[np.int64]
    split: npt.NDArray[np.uint8]


def _labelled(city: Embedded, recipe: HeadRecipe, number: int, reach: float) -> _Labelled:
    """The labelled cells of a city, split; what is held out tests."""
    place, codes = city.labelled()
    choice = recipe.split
    if choice.by == "block" and len(place):
        split = split_by_block(
            city.xy[place],
            reach,
            max(choice.side, reach),
            choice.shares,
            choice.seed + 1009 * number,
        )
    else:
        split = np.full(len(place), _TEST if city.name in choice.test else _TRAIN, np.uint8)
    split[city.in_held(place)] = _TEST
    return _Labelled(np.full(len(place), number), place, codes, split)


def _tuning(tuned: Tuned, cities: Sequence[Embedded]) -> dict[str, Any]:
    """How a head's settings were chosen, and what each city said."""

    def plain(value: float) -> float | None:
        return float(value) if math.isfinite(value) else None

    return {
        "head": repr(tuned.head),
        "prior": repr(tuned.prior),
        "gain": plain(tuned.gain),
        "error": plain(tuned.error),
        "cities": [cities[number].name for number in tuned.cities],
        "macro_f1_of_prior": [plain(value) for value in tuned.figures[0]],
        "notes": list(tuned.notes),
    }


def _counts(codes: npt.NDArray[Any]) -> dict[str, int]:
    counts = np.bincount(codes.astype(np.int64), minlength=len(LCZ) + 1)
    return {str(land.code): int(counts[land.code]) for land in LCZ if counts[land.code]}


def _told(left: Counter[str]) -> str:
    return ", ".join(f"{n} {why}" for why, n in sorted(left.items())) or "none"
