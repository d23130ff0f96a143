"""The task of multi-label models: images, or composites, and which classes occur in each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import LabelError
from engine.infer.examples import score_chips
from engine.metrics import by_label, of_labels
from engine.models.card import ModelCard
from engine.models.card_parts import MultiLabel
from engine.models.registry import measure
from engine.recipes.segmenting import SegmenterRecipe
from engine.training.loop import Fitted
from engine.training.multilabel import MIDDLE, choose_thresholds, fit_multilabel, labels_of
from engine.training.segmenting import SegmenterTask
from engine.training.task import Judged, Listener

__all__ = ["MultiLabelTask"]


class MultiLabelTask(SegmenterTask):
    """A network that says which classes occur in an image.

    It learns from the chips of a segmenter: what covers a share of a chip occurs in it. Parameters
    as of `SegmenterTask`.

    Raises
    ------
    LabelError, CardError
        As a segmenter's; and where a class occurs in every chip that trains, or in none.
    """

    def __init__(self, recipe: SegmenterRecipe, base: Path, hear: Listener) -> None:
        super().__init__(recipe, base, hear)
        self.labels = {name: labels_of(part, self.card) for name, part in self.parts.items()}
        _require_both(self.card, self.labels["train"])
        _say_unjudged(self.card, self.labels["validation"], hear.tell)

    def _form(self) -> dict[str, Any]:
        model, side, count = self.recipe.model, self.chips.side, len(self.recipe.codes)
        choice = self.recipe.occurs
        assert choice is not None
        found = measure(model.architecture, model.parameters, len(model.bands), count, side)
        return {
            "patch": side,
            "cell": side * self.chips.resolution,
            "features": found.features,
            "multilabel": MultiLabel(
                share=choice.share, thresholds=(MIDDLE,) * count, others=choice.others
            ),
        }

    def learn(self, hear: Listener) -> tuple[ModelCard, Fitted]:
        fitted = fit_multilabel(
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
        thresholds = choose_thresholds(self.card, fitted, self.parts["validation"])
        assert self.card.multilabel is not None
        told = self.card.multilabel.model_copy(update={"thresholds": thresholds})
        return self.card.model_copy(update={"multilabel": told}), fitted

    def judge(self, card: ModelCard, hear: Listener) -> Judged:
        test = self.parts["test"]
        if not len(test.x):
            return Judged(None)
        assert card.multilabel is not None
        truth, thresholds = self.labels["test"], card.multilabel.thresholds
        device = self.recipe.training.device
        scores = np.concatenate([*score_chips(card, [(test.x, test.seen)], device)])
        figures = of_labels(truth, scores, thresholds)
        each = by_label(truth, scores, thresholds)
        by_name = {
            c.name: {"threshold": limit, **{k: _plain(v[i]) for k, v in each.items()}}
            for i, (c, limit) in enumerate(zip(card.legend, thresholds, strict=True))
        }
        words = ", ".join(f"{name} {value:.3f}" for name, value in figures.items())
        return Judged(figures, f"test chips: {words}", {"labels": by_name})

    def describe(self) -> dict[str, Any]:
        def counted(name: str) -> dict[str, dict[str, int]]:
            truth = self.labels[name]
            return {
                c.name: {
                    "occurs": int((truth[:, k] == 1).sum()),
                    "absent": int((truth[:, k] == 0).sum()),
                    "unknown": int(np.isnan(truth[:, k]).sum()),
                }
                for k, c in enumerate(self.card.legend)
            }

        return {**super().describe(), "occurrence": {name: counted(name) for name in self.labels}}


def _require_both(card: ModelCard, truth: Any) -> None:
    """Refuse a label that nothing can be learnt of: what is always there, or never."""
    names = [c.name for c in card.legend]
    for value, what in ((1, "occur in no chip"), (0, "occur in every chip")):
        missing = [n for k, n in enumerate(names) if not (truth[:, k] == value).any()]
        if missing:
            assert card.multilabel is not None
            raise LabelError(
                f"classes {what} that trains: the network would learn to say so of any",
                got=f"{', '.join(missing)}; {len(truth)} chips, multilabel.share: "
                f"{card.multilabel.share:g}",
                expected="chips with each class, and chips without it",
                remedy="change multilabel.share, label other ground, or leave the class out: move "
                "its code to multilabel.others",
            )


def _say_unjudged(card: ModelCard, truth: Any, tell: Callable[[str], None]) -> None:
    """Name the labels whose threshold validation cannot choose."""
    for k, c in enumerate(card.legend):
        if not {0.0, 1.0} <= set(truth[:, k].tolist()):
            tell(
                f"note: validation shows {c.name} always or never: its threshold stays at "
                f"{MIDDLE:g}"
            )


def _plain(value: Any) -> float | None:
    return None if np.isnan(value) else float(value)
