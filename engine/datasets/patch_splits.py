"""Which of a recipe's patches train, validate and test, and what that leaves empty."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from engine.datasets.splits import (
    SPLITS,
    UNUSED,
    Codes,
    find_leaks,
    split_by_block,
    split_by_group,
    split_by_pool,
)
from engine.errors import LabelError
from engine.grid.moving import move_of
from engine.legend import LCZ
from engine.recipes.classifying import ClassifierSplit

__all__ = ["Labelled", "split_labelled", "what_is_empty"]

_SIDES = (3200.0, 1600.0, 800.0, 640.0, 400.0)  # of blocks that a remedy may name, in metres


@dataclass(frozen=True)
class Labelled:
    """Labelled patches, cut or not yet.

    Attributes
    ----------
    y : codes (n,)
    xy : centres (n, 2), in metres of their place's CRS.
    group : (n,), what must not be split, within its place.
    place : (n,), positions in `names`.
    names : of the places.
    own : the split that an imported set came with, (n,), UNUSED for none.
    crs : of the places' coordinates, "" where it is not known.
    pseudo : which are pseudo-labels (n,); None: none are.
    """

    y: npt.NDArray[np.uint8]
    xy: npt.NDArray[np.float64]
    group: npt.NDArray[np.int64]
    place: npt.NDArray[np.uint16]
    names: tuple[str, ...]
    own: Codes
    crs: tuple[str, ...] = ()
    pseudo: npt.NDArray[np.bool_] | None = None

    @property
    def own_labels(self) -> Labelled:
        """Those that are no pseudo-labels."""
        if self.pseudo is None or not self.pseudo.any():
            return self
        mine = ~self.pseudo
        return Labelled(
            self.y[mine], self.xy[mine], self.group[mine], self.place[mine], self.names,
            self.own[mine], self.crs,
        )  # fmt: skip


def split_labelled(
    choice: ClassifierSplit,
    labels: Labelled,
    reach: float,
    tell: Callable[[str], None] = lambda text: None,
) -> Codes:
    """The split that a recipe chooses.

    Labels are split as if there were no pseudo-labels. Pseudo-labels train or are left out: those
    of places and blocks that validate or test, and those that share ground with a patch that does.

    Parameters
    ----------
    choice : the recipe's.
    labels : of all places.
    reach : side of what the model sees of a patch, in metres.
    tell : hears of areas that are cut into blocks.

    Raises
    ------
    LabelError
    """
    mine = labels.own_labels
    if mine is labels:
        return _split_own(choice, labels, reach, tell)
    assert labels.pseudo is not None, "some are pseudo-labels"
    split = np.full(len(labels.y), UNUSED, np.uint8)
    split[~labels.pseudo] = _split_own(choice, mine, reach, tell)
    usable = labels.pseudo.copy()
    if choice.by == "place":
        held = {labels.names.index(n) for n in (*choice.validation, *choice.test)}
        usable &= ~np.isin(labels.place, list(held))
    elif choice.by == "block":
        every = replace(labels, pseudo=None)
        usable &= _split_own(choice, every, reach, lambda text: None) == SPLITS.index("train")
    for _, here, xy in _grounds(labels, reach):
        held_out = np.isin(split[here], (SPLITS.index("validation"), SPLITS.index("test")))
        if held_out.any():
            apart, _ = cKDTree(xy[held_out]).query(xy, p=np.inf)
            usable[here] &= apart >= reach - 1e-6
    split[usable] = SPLITS.index("train")
    return split


def _split_own(
    choice: ClassifierSplit, labels: Labelled, reach: float, tell: Callable[[str], None]
) -> Codes:
    if choice.by == "own":
        if not (labels.own != UNUSED).any():
            raise LabelError(
                "the patch set has no split of its own",
                got=f"{len(labels.y)} patches",
                remedy="split by: pool, or by: place",
            )
        return labels.own
    if choice.by == "pool":
        return split_by_pool(labels.y, choice.shares, choice.seed)
    if choice.by == "place":
        return _by_place(choice, labels, reach, tell)
    if not np.isfinite(labels.xy).all():
        raise LabelError(
            "patches without coordinates cannot be split so that none share ground",
            got=f"split by: {choice.by}",
            remedy="split by: own, place or pool; the last is what tests flatter a model with",
        )
    found = np.full(len(labels.y), UNUSED, np.uint8)
    for number, here, xy in _grounds(labels, reach):
        if choice.by == "group":
            pairs = np.stack([labels.place[here].astype(np.int64), labels.group[here]])
            _, group = np.unique(pairs, axis=1, return_inverse=True)
            found[here] = split_by_group(
                group.reshape(-1), labels.y[here], xy, reach, choice.shares, choice.seed,
                side=choice.side, tell=tell,
            )  # fmt: skip
        else:
            found[here] = split_by_block(
                xy, reach, choice.side, choice.shares, choice.seed + 1009 * number
            )
        leaks = find_leaks(xy, found[here], reach)
        assert leaks == 0, f"{leaks} pairs of patches leak"
    return found


def _grounds(
    labels: Labelled, reach: float
) -> list[tuple[int, npt.NDArray[np.bool_], npt.NDArray[np.float64]]]:
    """Places that share ground, as two years of one city do, together; others by themselves.

    Returns
    -------
    of each: the number of its first place, its patches (n,), their centres in that place's CRS
    """
    count = len(labels.names)
    crs = labels.crs or ("",) * count
    found: list[tuple[int, npt.NDArray[np.bool_], npt.NDArray[np.float64]]] = []
    for number in range(count):
        here = labels.place == number
        mine, first = here, number
        xy = labels.xy[here]
        for other in reversed(range(len(found))):
            start, theirs, centres = found[other]
            moved = _moved(labels.xy[mine], labels.place[mine], crs, start)
            if moved is None or not _meet(moved, centres, reach):
                continue
            both = mine | theirs
            xy = np.zeros((int(both.sum()), 2))
            xy[theirs[both]], xy[mine[both]] = centres, moved
            mine, first = both, start
            del found[other]
        found.append((first, mine, xy))
    return found


def _moved(
    xy: npt.NDArray[np.float64], place: npt.NDArray[np.uint16], crs: tuple[str, ...], to: int
) -> npt.NDArray[np.float64] | None:
    """Centres of patches of some places in the CRS of another; None where one has none."""
    out = xy.copy()
    for number in np.unique(place):
        if not crs[number] or not crs[to]:
            return None
        here, move = place == number, move_of(crs[number], crs[to])
        if move is not None:
            out[here] = move.points(xy[here])
    return out


def _meet(some: npt.NDArray[np.float64], others: npt.NDArray[np.float64], reach: float) -> bool:
    """Whether any patch of some shares ground with one of the others."""
    some = some[np.isfinite(some).all(axis=1)]
    if not len(some) or not len(others):
        return False
    apart, _ = cKDTree(others).query(some, p=np.inf, distance_upper_bound=reach)
    return bool(np.isfinite(apart).any())


def _by_place(
    choice: ClassifierSplit, labels: Labelled, reach: float, tell: Callable[[str], None]
) -> Codes:
    for name in (*choice.validation, *choice.test):
        if name not in labels.names:
            raise LabelError(
                "no such place to split by", got=name, expected=", ".join(labels.names)
            )
    codes = [2 if n in choice.test else 1 if n in choice.validation else 0 for n in labels.names]
    split: Codes = np.array(codes, np.uint8)[labels.place]
    if np.isfinite(labels.xy).all():
        leaks = sum(find_leaks(xy, split[here], reach) for _, here, xy in _grounds(labels, reach))
        if leaks:
            tell(
                f"note: places of different splits share ground ({leaks} pairs of patches): "
                "tests there flatter the model"
            )
    return split


def what_is_empty(
    choice: ClassifierSplit, labels: Labelled, split: Codes, reach: float
) -> list[str]:
    """Notes of splits without a patch and of classes that one lacks, with a remedy that works."""
    notes = _empty_splits(choice, split)
    classes = np.unique(labels.y)
    for k, name in enumerate(SPLITS):
        if (split == k).any():
            lacking = np.setdiff1d(classes, labels.y[split == k])
            if len(lacking):
                named = ", ".join(f"LCZ {LCZ[code - 1].label}" for code in lacking)
                notes.append(f"no {name} patches of {named}")
    if not notes:
        return []
    if choice.by == "place":
        return [*notes, "remedy: name other places for validation and test"]
    if choice.by in ("own", "pool"):
        return [*notes, "remedy: label more patches of these classes"]
    better = next(_better(choice, labels, reach), None)
    apart = f"draw more areas of each class, {reach:g} m or more from those of other splits"
    return [*notes, f"remedy: {apart}" + (f"; or {better}" if better else "")]


def _empty_splits(choice: ClassifierSplit, split: Codes) -> list[str]:
    wanted = [share > 0 for share in choice.shares]
    if choice.by == "place":
        wanted = [True, bool(choice.validation), bool(choice.test)]
    return [
        f"no {name} patches: the split leaves {name} empty"
        for k, name in enumerate(SPLITS)
        if wanted[k] and not (split == k).any()
    ]


def _better(choice: ClassifierSplit, labels: Labelled, reach: float) -> Iterator[str]:
    """Splits of the same labels that leave nothing empty."""
    others = [("group", choice.side), *(("block", side) for side in _SIDES if side >= reach)]
    for by, side in others:
        other = choice.model_copy(update={"by": by, "side": side})
        split = split_labelled(other, labels, reach)
        full = all((split[labels.y == c] == k).any() for c in np.unique(labels.y)
                   for k in range(3) if choice.shares[k] > 0)  # fmt: skip
        if full:
            yield f"split: {{by: {by}, side: {side:g}}}" if by == "block" else "split: {by: group}"
