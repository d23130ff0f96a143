"""Models scored on a patch set: one class for each patch, whatever kind of network gives it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array
from scipy.spatial import cKDTree

from engine.compare.cells import REPEATS, Evaluation, write_evaluation
from engine.compare.estimates import bootstrap
from engine.compare.report import evaluation
from engine.datasets.patches import PatchSet, open_patches
from engine.datasets.splits import SPLITS
from engine.errors import MetricError
from engine.grid.moving import move_of
from engine.legend import LCZ
from engine.metrics import assess
from engine.models.card import ModelCard, load_card
from engine.models.footprint import read_footprint
from engine.models.weights import ONNX

__all__ = ["evaluate_patches", "is_patch_set"]

_N = len(LCZ)


def is_patch_set(path: Path) -> bool:
    """Whether a path is the folder of a patch set."""
    return (path / "zarr.json").is_file() and (path / "patches" / "x").is_dir()


def evaluate_patches(model: Path, reference: Path, *, out: str | Path | None = None) -> Evaluation:
    """Score the test patches of a set by a model; where a set has no split, all of its patches.

    A classifier scores the patch. A segmenter of zones scores the pixels of the patch with its
    context, and the patch has the mean probability of the cell in its middle, as in a map.

    Parameters
    ----------
    model : folder of a model card.
    reference : folder of a patch set.
    out : folder of the report; by default nowhere.

    Returns
    -------
    Evaluation
        Its groups are the labels' own. `by_training` tells patches apart that see ground which
        trained the model, where the model's folder knows that ground.

    Raises
    ------
    CardError, WeightsError, LabelError, MetricError
        Where model or patches cannot be read, or do not go together.
    """
    from engine.infer.examples import score_examples  # torch: a second and 150 MB

    card, patches = load_card(model), open_patches(reference)
    context = _require_fit(card, patches)
    where = np.flatnonzero(patches.split == SPLITS.index("test"))
    notes = []
    if not len(where):
        where = np.flatnonzero(~patches.pseudo)
        notes.append("the set has no test patches: all of its labelled patches are scored")
    scores = score_examples(card, patches.take(where, context))
    broken = np.asarray(np.isnan(scores).any(axis=1))
    found = np.array(card.classes)[np.where(broken[:, None], 0, scores).argmax(axis=1)]
    known = ~broken
    pairs = (patches.y[where].astype(np.int64) - 1) * _N + found - 1
    keys = np.stack([patches.place[where].astype(np.int64), patches.group[where]])[:, known]
    _, group = np.unique(keys, axis=1, return_inverse=True)
    group = group.reshape(-1)
    table = csr_array(
        (np.ones(len(group), np.int64), (group, pairs[known])),
        shape=(int(group.max(initial=-1)) + 1, _N * _N),
    )
    counts = np.asarray(table.sum(axis=0), np.int64).reshape(_N, _N)
    seen = _trained(card, patches, where)
    right = found == patches.y[where]
    by_training = {}
    if seen is None:
        notes.append("it is not known whether these patches trained the model")
    else:
        for k in (0, 1):
            here = known & (seen == bool(k))
            if here.any():
                by_training[k] = int(here.sum()), float(right[here].mean())
        if 1 in by_training:
            notes.append(f"{by_training[1][0]} patches see ground that trained the model")
    result = Evaluation(
        assess(counts),
        counts,
        bootstrap(table, REPEATS),
        int(broken.sum()),
        table.shape[0],
        {},
        {},
        None if out is None else Path(out),
        tuple(notes),
        by_training,
    )
    if out is not None:
        with evaluation(out) as part:
            write_evaluation(result, Path(card.name), reference, part)
    return result


def _require_fit(card: ModelCard, patches: PatchSet) -> int:
    """The context to score patches with; refuses a model that they are not for."""
    wrong = None
    if card.architecture == "gcn" or card.encodes or (card.segments and not card.zones):
        wrong = f"{card.architecture} without classes of patches"
    elif card.multilabel is not None:
        wrong = "a multi-label model, which is compared with the pixels of a chip set"
    elif card.bands != patches.bands:
        wrong = f"bands {', '.join(card.bands)}"
    elif card.resolution != patches.resolution:
        wrong = f"pixels of {card.resolution:g} m"
    elif not card.zones and card.patch != patches.patch:
        wrong = f"patches of {card.patch} px"
    context = patches.context if card.zones else card.context
    side = patches.patch + 2 * context
    if card.zones and card.architecture == ONNX and card.patch != side:
        wrong = f"windows of {card.patch} px, not {side}"
    if wrong is not None:
        raise MetricError(
            "the model does not go with the patches",
            got=f"{card.name}: {wrong}",
            expected=f"patches of {patches.patch} px of {patches.resolution:g} m, bands "
            + ", ".join(patches.bands),
        )
    return context


def _trained(
    card: ModelCard, patches: PatchSet, where: npt.NDArray[np.intp]
) -> npt.NDArray[np.bool_] | None:
    """Which patches share ground with what trained the model; None where nobody knows."""
    ground = read_footprint(card.folder)
    if ground is None or not ground.whole or not np.isfinite(patches.xy[where]).all():
        return None
    out = np.zeros(len(where), bool)
    for number, place in enumerate(patches.places):
        here = patches.place[where] == number
        for one in ground.places if here.any() else ():
            if not len(one.xy):
                continue
            move = move_of(place.crs, one.crs)
            xy = patches.xy[where][here]
            apart, _ = cKDTree(one.xy).query(xy if move is None else move.points(xy), p=np.inf)
            out[here] |= apart < ground.reach
    return out
