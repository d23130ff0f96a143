"""Tasks of classifiers: a network of patches, a network of graphs, a forest."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.datasets.patch_cutting import cut_patches
from engine.datasets.splits import SPLITS
from engine.errors import LabelError
from engine.infer.examples import score_examples
from engine.legend import LCZ
from engine.metrics import assess, confusion
from engine.models.card import Fusion, ModelCard, find_card, load_card
from engine.models.card_parts import of_vectors
from engine.models.footprint import Footprint, Ground, read_footprint
from engine.models.head import NOTHING
from engine.models.registry import Measured, carried_over, measure
from engine.publishing.charts import draw_confusion
from engine.recipes.classifying import ClassifierRecipe
from engine.training.fit import Batches, Settings, fit, ground_statistics, statistics
from engine.training.forest import Grown, grow, vote
from engine.training.fusion import graph_form, weigh
from engine.training.loop import Fitted
from engine.training.repeats import Repeats, repeat
from engine.training.task import Judged, Listener, Task, find_start

__all__ = ["ForestTask", "GraphTask", "PatchTask"]

_FOREST = {"statistics": "mean-std", "side": 10, "trees": 30, "balanced": False}


class PatchTask(Task):
    """A network that classifies patches of a composite.

    Parameters
    ----------
    recipe : ClassifierRecipe
    base : folder of its relative paths.
    hear : hears of the cutting.

    Raises
    ------
    LabelError, CardError
        Where labels, composites or the split do not serve, or the model to start from is another.
    """

    examples = "patches"
    software = ("torch", "numpy", "scikit-learn")

    def __init__(self, recipe: ClassifierRecipe, base: Path, hear: Listener) -> None:
        self.recipe, self.base = recipe, base
        self.folder = base / recipe.out
        self.patches = cut_patches(recipe, base, sees=self._sees, tell=hear.tell)
        if self.patches.bands != recipe.model.bands:
            raise LabelError(
                "the patch set has other bands than the model",
                got=", ".join(self.patches.bands),
                expected=", ".join(recipe.model.bands),
            )
        form = self._form()
        bands = form["bands"]
        self.start = find_start(recipe.model.start, base, recipe.model.architecture, bands)
        measured = self._measure(form["parameters"], len(bands))
        self.parts = self._split(measured.context)
        x = self.parts["train"].x
        if not len(x):
            raise LabelError("there are no training patches", remedy="look at the split's shares")
        self.card = self._card(x, form | measured._asdict())

    def _sees(self, patch: int) -> int:
        """Pixels beyond a patch that the network looks at: none may be shared between splits."""
        model = self.recipe.model
        found = measure(model.architecture, model.parameters, len(model.bands), len(LCZ), patch)
        return found.context

    def _form(self) -> dict[str, Any]:
        """What this kind of card says of its input."""
        model = self.recipe.model
        return {"parameters": model.parameters, "bands": model.bands}

    def _measure(self, parameters: dict[str, Any], bands: int) -> Measured:
        """Context, features and output of the network."""
        name = self.recipe.model.architecture
        return measure(name, parameters, bands, len(LCZ), self.patches.patch)

    def _split(self, context: int) -> dict[str, Batches]:
        found, weights = {}, self.patches.weights
        for k, name in enumerate(SPLITS):
            where = np.flatnonzero(self.patches.split == k)
            found[name] = Batches(
                self.patches.take(where, context),
                self.patches.y[where],
                None if weights is None else weights[where],
            )
        return found

    def _standardise(self, x: npt.NDArray[Any]) -> dict[str, Any]:
        """By what the card standardises: the patches' statistics, or those it starts with."""
        if self.start is not None and not self.recipe.model.restandardise:
            return {n: getattr(self.start, n) for n in ("clip", "mean", "std", "fill")}
        ranges = self.patches.ranges
        first = x.shape[1] - len(ranges)
        found = [statistics(x[:, :first])]
        found += [
            ground_statistics(x[:, first + k], span) for k, span in enumerate(ranges.values())
        ]
        mean, std = (tuple(v for part in each for v in part) for each in zip(*found, strict=True))
        return {"mean": mean, "std": std}

    def _card(self, x: npt.NDArray[Any], form: dict[str, Any]) -> ModelCard:
        recipe, patches = self.recipe, self.patches
        places = ", ".join(sorted({place.name for place in patches.places}))
        count = int(self.taught.sum())
        card = ModelCard(
            name=recipe.name,
            architecture=recipe.model.architecture,
            parameters={},  # until they are known
            bands=recipe.model.bands,
            ranges=dict(patches.ranges),
            encoder=patches.encoder or None,
            clip=None if of_vectors(recipe.model.bands) else (0.0, 1.0),
            mean=None,
            std=None,
            fill=0.0,
            patch=patches.patch,
            resolution=patches.resolution,
            inference_block=recipe.model.inference_block,
            classes=tuple(c.code for c in LCZ),
            features=form["features"],
            licence=recipe.model.licence,
            attribution=recipe.model.attribution,
            citation=recipe.model.citation,
            provenance=recipe.model.description
            or f"trained on {count} patches of {places}{self._guessed()}",
            weights=f"{recipe.name}.safetensors",
            sha256="0" * 64,
            folder=self.folder,
        )
        return card.model_copy(update=form | self._standardise(x))

    def _guessed(self) -> str:
        count = int((self.patches.pseudo & self.taught).sum())
        return f", {count} of them pseudo-labels" if count else ""

    @property
    def size(self) -> str:
        return f"{len(self.parts['train'].y)} {self.examples}"

    @cached_property
    def settings(self) -> Settings:
        """How it is fitted."""
        others = {"preset", "bootstraps", "final", "device", "devices"}
        chosen = self.recipe.training.model_dump(exclude=others)
        return Settings(**chosen, frozen=self.recipe.model.frozen)

    def learn(self, hear: Listener) -> tuple[ModelCard, Fitted]:
        fitted = fit(
            self.card,
            self.parts["train"],
            self.parts["validation"],
            self.settings,
            self.folder,
            device=self.recipe.training.device,
            devices=self.recipe.training.devices,
            start=None if self.start is None else carried_over(self.start, self.card),
            tell=hear.epoch,
            step=hear.step,
        )
        return self.card, fitted

    def judge(self, card: ModelCard, hear: Listener) -> Judged:
        more = self._more(card, hear)
        test = self.parts["test"]
        if not len(test.y):
            return Judged(None, more=more)
        scores = self._scores(card, test)
        counts = confusion(test.y, np.array(card.classes)[scores.argmax(1)])
        figures = assess(counts).figures()
        draw_confusion(counts, card.folder / "confusion.png", f"{card.name}: test patches, %")
        words = f"test patches: accuracy {figures['oa']:.3f}, kappa {figures['kappa']:.3f}"
        return Judged(figures, words, more)

    def _scores(self, card: ModelCard, test: Batches) -> npt.NDArray[np.float32]:
        """Probabilities that the model gives the test patches."""
        return score_examples(card, test.x, self.recipe.training.device)

    def _more(self, card: ModelCard, hear: Listener) -> dict[str, Any]:
        """What the report says beside the figures of the test."""
        return {"bootstraps": None, "fusion": None}

    @property
    def taught(self) -> npt.NDArray[np.bool_]:
        """The patches that the model has learnt from."""
        found: npt.NDArray[np.bool_] = self.patches.split == SPLITS.index("train")
        return found

    @property
    def _seen(self) -> int:
        """Side of the ground that the model has seen of each patch, in pixels."""
        return self.card.patch + 2 * self.card.context

    def footprint(self) -> Footprint | None:
        patches, card = self.patches, self.card
        trained = self.taught
        if not np.isfinite(patches.xy[trained]).all():
            return None
        places = [
            Ground(place.crs, patches.xy[trained & (patches.place == number)])
            for number, place in enumerate(patches.places)
        ]
        reach, whole = self._seen * card.resolution, True
        if self.start is not None:
            before = read_footprint(self.start.folder)
            whole = before is not None and before.whole
            places += () if before is None else before.places
        return Footprint(reach, tuple(places), whole)

    def describe(self) -> dict[str, Any]:
        def count(part: Batches) -> dict[str, Any]:
            counts = np.bincount(part.y, minlength=18)
            return {
                "count": len(part.y),
                "classes": {str(c.code): int(counts[c.code]) for c in LCZ},
                "sha256": hashlib.sha256(np.ascontiguousarray(part.x).data).hexdigest(),
            }

        patches = self.patches
        guessed = patches.pseudo & self.taught
        counts = np.bincount(patches.y[guessed], minlength=18)
        weights = patches.weights
        pseudo = (
            None
            if weights is None
            else {
                "count": int(guessed.sum()),
                "left_out": int((patches.pseudo & ~self.taught).sum()),
                "weight": round(float(weights[guessed].sum()), 3),
                "classes": {str(c.code): int(counts[c.code]) for c in LCZ},
            }
        )
        return {
            "places": [vars(place) for place in patches.places],
            "patches": {name: count(part) for name, part in self.parts.items()},
            "pseudo_labels": pseudo,
        }


class GraphTask(PatchTask):
    """A network that classifies graphs of instances, beside the patches of the same cells."""

    examples = "graphs"

    def _sees(self, patch: int) -> int:
        """None beyond a graph's window, and all that the stream beside it sees."""
        beside = self.recipe.model.beside
        return 0 if beside is None else load_card(find_card(beside, self.base)).context

    def _form(self) -> dict[str, Any]:
        return graph_form(self.recipe, self.patches)

    def _split(self, context: int) -> dict[str, Batches]:
        """Graphs of patches; windows without instances teach nothing."""
        nodes = np.asarray(self.patches.nodes[:])
        some = nodes.any(axis=(1, 2))
        found = {}
        for k, name in enumerate(SPLITS):
            where = np.flatnonzero((self.patches.split == k) & some)
            found[name] = Batches(nodes[where], self.patches.y[where])
        return found

    def _standardise(self, x: npt.NDArray[Any]) -> dict[str, Any]:
        if self.start is None or self.recipe.model.restandardise:
            return {}  # features of instances are in [0, 1] as they are
        return super()._standardise(x)

    def judge(self, card: ModelCard, hear: Listener) -> Judged:
        found = super().judge(card, hear)
        fusion = found.more["fusion"]
        if fusion is None:
            return found
        kept = Fusion(**{name: fusion[name] for name in Fusion.model_fields})
        return replace(found, fusion=kept)

    def _more(self, card: ModelCard, hear: Listener) -> dict[str, Any]:
        fusion = weigh(self.recipe, self.base, self.patches, card)
        if fusion is not None:
            hear.tell(f"fused with {fusion['beside']}: weight {fusion['sentinel_weight']:g}")
        return {"bootstraps": None, "fusion": fusion}


class ForestTask(PatchTask):
    """A random forest on statistics of patches, the WUDAPT way.

    A final one may grow on all patches once others, grown on a part of them, have been judged.
    """

    repeats: Repeats | None = None
    judged: Grown | None = None
    """The forest of the training patches, where the model is another."""

    @property
    def whole(self) -> bool:
        """Whether the model grows on all patches."""
        training = self.recipe.training
        return (training.final or ("all" if training.bootstraps else "train")) == "all"

    @property
    def taught(self) -> npt.NDArray[np.bool_]:
        return np.ones(len(self.patches), bool) if self.whole else super().taught

    @cached_property
    def choice(self) -> dict[str, Any]:
        """How it grows."""
        return {**_FOREST, **self.recipe.model.parameters}

    def _sees(self, patch: int) -> int:
        return 0

    def _measure(self, parameters: dict[str, Any], bands: int) -> Measured:
        columns = bands if of_vectors(self.recipe.model.bands) else 14 + len(self.patches.ranges)
        each = 1 if self.choice["statistics"] == "mean" else 2
        return Measured(0, each * columns, "probability")

    def _standardise(self, x: npt.NDArray[Any]) -> dict[str, Any]:
        if self.start is None or self.recipe.model.restandardise:
            # a forest takes reflectance as it is; vectors may be 0, and what is filled is not
            return {"fill": NOTHING} if of_vectors(self.recipe.model.bands) else {}
        return super()._standardise(x)

    def learn(self, hear: Listener) -> tuple[ModelCard, Fitted]:
        seed, train = self.settings.seed, self.parts["train"]
        if count := self.recipe.training.bootstraps:
            hear.tell(f"judging by {count} splits of the training areas")
            labels = self.patches.only(np.flatnonzero(~self.patches.pseudo))
            self.repeats = repeat(labels, self.card, count, seed=seed, **self.choice)
        grown = grow(train.x, train.y, self.card, train.weights, seed=seed, **self.choice)
        if self.whole:
            hear.tell(f"growing the final forest on all {len(self.patches)} patches")
            self.judged, patches = grown, self.patches
            every = patches.take(np.arange(len(patches)))
            grown = grow(every, patches.y, self.card, patches.weights, seed=seed, **self.choice)
        card = self.card.model_copy(update={"parameters": grown.parameters})
        return card, Fitted(grown.weights, 0, ())

    def judge(self, card: ModelCard, hear: Listener) -> Judged:
        found = super().judge(card, hear)
        if self.judged is None or not found.words:
            return found
        return replace(found, words=f"{found.words}, of a forest without them")

    def _scores(self, card: ModelCard, test: Batches) -> npt.NDArray[np.float32]:
        if self.judged is None:
            return super()._scores(card, test)
        return vote(self.judged, card, test.x)

    def _more(self, card: ModelCard, hear: Listener) -> dict[str, Any]:
        return {
            "bootstraps": None if self.repeats is None else asdict(self.repeats),
            "fusion": None,
            "final": {
                "grown_on": "all" if self.whole else "train",
                "count": int(self.taught.sum()),
            },
        }
