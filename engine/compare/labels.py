"""A multi-label model on chips whose pixels are labelled: figures by label."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from engine.compare.report import evaluation, write_accuracy, write_table
from engine.compare.tagging import ChipSource, load_labeller, score_patches
from engine.datasets.chips import ChipSet, open_chips, require_masks
from engine.datasets.occurrence import occurrence
from engine.datasets.splits import SPLITS
from engine.errors import MetricError
from engine.legend import LandClass
from engine.metrics import by_label, of_labels
from engine.models.card import ModelCard

__all__ = ["LabelEvaluation", "evaluate_labels"]

_AT_ONCE = 32  # chips
_COLUMNS = ("n", "positives", "found", "right", "precision", "recall", "f1", "average_precision")


@dataclass(frozen=True)
class LabelEvaluation:
    """What was found.

    Attributes
    ----------
    legend : the model's classes, in the order of all figures by label.
    figures : f1_micro, f1_macro, precision, recall, average_precision, exact, wrong; see
        `engine.metrics.of_labels`.
    labels : of each label n, positives, found, right (chips), precision, recall, f1,
        average_precision: float (label,).
    thresholds : of each label.
    patches : chips that were scored.
    unscored : chips with too little data.
    notes : what is in doubt, one line each.
    """

    legend: tuple[LandClass, ...]
    figures: dict[str, float]
    labels: dict[str, npt.NDArray[np.float64]]
    thresholds: tuple[float, ...]
    patches: int
    unscored: int
    notes: tuple[str, ...] = ()


def evaluate_labels(
    model: Path, reference: Path, *, out: str | Path | None = None
) -> LabelEvaluation:
    """Score the test chips of a set by a multi-label model; of a set without a split all chips.

    A class occurs in a chip where it covers the share that the model has learnt by.

    Parameters
    ----------
    model : folder of the model's card.
    reference : folder of a chip set.
    out : folder for ``accuracy.json`` and ``classes.csv``; by default nowhere.

    Raises
    ------
    CardError, WeightsError, LabelError, MetricError
        Where model or chips cannot be read, do not go together, or no chip has a label.
    """
    card, chips = load_labeller(model), open_chips(reference)
    where = np.flatnonzero(chips.split == SPLITS.index("test"))
    notes = []
    if not len(where):
        where = np.arange(len(chips))
        notes.append(
            "the set has no test chips: all are scored, whether they trained the model or not"
        )
    source = ChipSource(chips, card, reference.name, where)
    truth = _truth(card, chips, where, reference.name)
    if not np.isfinite(truth).any():
        raise MetricError(
            "no chip has a label to compare with",
            got=f"{reference.name}: {len(where)} chips, all of whose pixels are unknown",
            remedy="cut them with labels; or natmap tag, which needs none",
        )
    scores, _ = score_patches(card, source)
    assert card.multilabel is not None
    thresholds = card.multilabel.thresholds
    labels = by_label(truth, scores, thresholds)
    absent = [c.name for k, c in enumerate(card.legend) if not labels["positives"][k]]
    if absent:
        notes.append(f"these chips show no {', '.join(absent)}: means leave them out")
    unscored = int((~np.isfinite(scores).all(axis=1)).sum())
    if unscored:
        notes.append(f"{unscored} chips have too little data, and are not scored")
    figures = of_labels(truth, scores, thresholds)
    found = LabelEvaluation(
        card.legend, figures, labels, thresholds, len(where) - unscored, unscored, tuple(notes)
    )
    if out is not None:
        with evaluation(out) as part:
            _write(found, card, reference, part)
    return found


def _truth(
    card: ModelCard, chips: ChipSet, where: npt.NDArray[np.intp], name: str
) -> npt.NDArray[np.float32]:
    """Whether each class occurs in each chip; a few chips at a time."""
    assert card.multilabel is not None
    found = [np.zeros((0, len(card.classes)), np.float32)]
    for first in range(0, len(where), _AT_ONCE):
        _, y, seen = chips.take(where[first : first + _AT_ONCE])
        y = np.where(np.isin(y, card.ignored), np.uint8(255), y)
        require_masks(y, name, (*card.classes, *card.multilabel.others))
        found.append(occurrence(y, seen, card.classes, card.multilabel.share))
    return np.concatenate(found)


def _write(found: LabelEvaluation, card: ModelCard, reference: Path, out: Path) -> None:
    assert card.multilabel is not None
    report = {
        "figures": found.figures,
        "share": card.multilabel.share,
        "patches": found.patches,
        "unscored": found.unscored,
        "labels": {
            c.name: {"threshold": limit, **{name: found.labels[name][k] for name in _COLUMNS}}
            for k, (c, limit) in enumerate(zip(found.legend, found.thresholds, strict=True))
        },
        "notes": found.notes,
    }
    write_accuracy(out, Path(card.name), reference, report)
    write_table(
        out / "classes.csv",
        ("code", "class", "threshold", *_COLUMNS),
        zip(
            [c.code for c in found.legend],
            [c.name for c in found.legend],
            found.thresholds,
            *(found.labels[name] for name in _COLUMNS),
            strict=True,
        ),
    )
