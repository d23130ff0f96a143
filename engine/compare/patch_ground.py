"""A comparison on a patch set: which patches judge, what is drawn, and who was trained on them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pyproj.exceptions import CRSError
from scipy.spatial import cKDTree

from engine.compare.ground import Ground, Tell, of_examples
from engine.compare.overlap import footprint_of
from engine.compare.scoring import Scores, require_patches
from engine.compare.systems import System
from engine.datasets.patches import PatchSet, open_patches
from engine.datasets.splits import SPLITS
from engine.errors import AreaError, LabelError, MetricError
from engine.grid.moving import move_of
from engine.models.footprint import Footprint, read_footprint

__all__ = ["groups_of", "is_patches", "of_patches", "refuse_trained"]

_BLOCK = 2000.0  # metres of ground that is drawn as a whole
_CITIES = 8  # from so many on cities are drawn as a whole

Ints = npt.NDArray[np.int64]


def is_patches(path: Path) -> bool:
    """Whether a folder holds a patch set."""
    return (path / "patches").is_dir()


def of_patches(
    systems: Sequence[System], path: Path, split: str, keep: Path | None, tell: Tell
) -> Ground:
    """Patches of a split.

    Raises
    ------
    MetricError, LabelError, CardError, WeightsError
        Where there are none, or a system cannot be judged by them.
    """
    patches = open_patches(path)
    _require_whole(patches, path)
    if split not in (*SPLITS, "all"):
        raise MetricError("no such split", got=split, expected=", ".join((*SPLITS, "all")))
    chosen = np.ones(len(patches), bool) if split == "all" else patches.split == SPLITS.index(split)
    where = np.flatnonzero(chosen & ~patches.pseudo)  # what was guessed judges nobody
    strange = (patches.y < 1) | (patches.y > 17)
    if not len(where) or strange[where].any():
        raise LabelError(
            "the patch set cannot be compared on",
            got=f"{len(where)} patches of split {split}, {int(strange[where].sum())} of no class",
            expected="one or more, each of a local climate zone",
            remedy="--split all takes patches of any split",
        )
    notes: list[str] = []
    for system in systems:
        require_patches(system, patches)
        notes += system.notes
    for system in systems:
        notes += refuse_trained(system, patches, where)
    truth = patches.y[where].astype(np.int64)
    notes += [_unknown(system, truth) for system in systems if _lacks(system, truth)]
    scores = Scores(patches, where, path, keep, tell)
    said = np.stack([scores.of(system) for system in systems])
    group, drawn = groups_of(patches, where)
    return of_examples(systems, truth, said, group, drawn, notes)


def _require_whole(patches: PatchSet, path: Path) -> None:
    """Refuse a set whose arrays do not go together."""
    n, side = len(patches), patches.patch + 2 * patches.context
    shapes = {
        "x": (n, len(patches.bands), side, side),
        "xy": (n, 2),
        **dict.fromkeys(("group", "place", "split"), (n,)),
    }
    wrong = [
        f"{name} {found}"
        for name, shape in shapes.items()
        if (found := tuple(getattr(patches, name).shape)) != shape
    ]
    if patches.nodes is not None and patches.nodes.shape[0] != n:
        wrong.append(f"nodes {patches.nodes.shape}")
    if patches.confidence is not None and patches.confidence.shape != (n,):
        wrong.append(f"confidence {patches.confidence.shape}")
    if not wrong and n and int(patches.place.max()) >= len(patches.places):
        wrong.append(f"place {int(patches.place.max())}")
    if wrong:
        raise LabelError(
            "the patch set's arrays do not go together",
            got=f"{path.name}: {', '.join(wrong)}",
            expected=f"{n} patches of {len(patches.bands)} bands and {side} px, in "
            f"{len(patches.places)} places",
        )


def _lacks(system: System, truth: Ints) -> list[int]:
    """Classes that are asked for and that a model does not know."""
    known = set(system.cards[0].classes) if system.cards else set(range(1, 18))
    return sorted(set(truth.tolist()) - known)


def _unknown(system: System, truth: Ints) -> str:
    codes = _lacks(system, truth)
    count = int(np.isin(truth, codes).sum())
    return f"{system.name} does not know LCZ {', '.join(map(str, codes))}, of {count} patches"


def groups_of(patches: PatchSet, where: npt.NDArray[np.intp]) -> tuple[Ints, str]:
    """What is drawn as a whole: a number for each patch, and words.

    Cities where there are enough; else blocks of ground; of patches without a place their training
    areas, and at last the patches themselves.
    """
    place, xy = patches.place[where].astype(np.int64), patches.xy[where]
    if len(np.unique(place)) >= _CITIES:
        return place, "cities"
    areas = np.stack([place, patches.group[where]])
    if np.isfinite(xy).all():
        blocks = np.floor(xy / _BLOCK).astype(np.int64)
        parts, words = np.stack([place, *blocks.T]), f"blocks of {_BLOCK / 1000:g} km"
    elif np.unique(areas, axis=1).shape[1] < len(where):
        parts, words = areas, "training areas"
    else:
        return np.arange(len(where)), "patches, as if each were a witness of its own"
    _, found = np.unique(parts, axis=1, return_inverse=True)
    return found.reshape(-1).astype(np.int64), words


def refuse_trained(system: System, patches: PatchSet, where: npt.NDArray[np.intp]) -> list[str]:
    """Refuse a system that was trained on the ground of patches that are to judge it.

    Returns
    -------
    What cannot be told, a line each.

    Raises
    ------
    MetricError
    """
    notes = []
    if system.path is not None:
        trained = [(f"map {system.name}", *footprint_of(system.path))]
    else:
        trained = [(f"model {c.name}", read_footprint(c.folder), True) for c in system.cards]
    for name, footprint, told in trained:
        if footprint is None:
            if told:
                notes.append(f"whether {name} was trained on these patches is unknown")
            continue
        shared, unknown = _shared(footprint, patches, where)
        if shared.any():
            raise MetricError(
                f"{name} was trained on ground of the patches that are to judge it",
                got=f"{int(shared.sum())} of {len(where)} patches within {footprint.reach:g} m",
                expected="none",
                remedy="judge by another split, or by a set of other places",
            )
        if unknown or not footprint.whole:
            notes.append(f"whether {name} was trained on some of these patches is unknown")
    return notes


def _shared(
    footprint: Footprint, patches: PatchSet, where: npt.NDArray[np.intp]
) -> tuple[npt.NDArray[np.bool_], bool]:
    """Patches that share ground with cells that were trained on, and whether some have no place."""
    shared = np.zeros(len(where), bool)
    place, xy = patches.place[where], patches.xy[where]
    known = np.isfinite(xy).all(axis=1)
    lost = not known.all()
    for number, own in enumerate(patches.places):
        here = np.flatnonzero((place == number) & known)
        for ground in footprint.places if len(here) else ():
            try:
                move = move_of(ground.crs, own.crs)
            except CRSError:  # a word, of a set from elsewhere
                lost = True
                continue
            try:
                there = ground.xy if move is None else move.points(ground.xy)
            except AreaError:
                continue
            there = there[np.isfinite(there).all(axis=1)]
            if len(there):
                near, _ = cKDTree(there).query(
                    xy[here], p=np.inf, distance_upper_bound=footprint.reach * (1 - 1e-9)
                )
                shared[here] |= np.isfinite(near)
    return shared, bool(lost)
