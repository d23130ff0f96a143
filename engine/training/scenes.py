"""Scenes of the chips that a segmenter learns from: for their split, and for balance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.datasets.chips import ChipSet
from engine.datasets.splits import SPLITS, UNUSED
from engine.errors import LabelError
from engine.recipes.segmenting import SceneChoice, SegmenterRecipe
from engine.similarity.assigning import assign, require_alike
from engine.similarity.descriptors import Described, describe
from engine.similarity.grouping import Scenes, Settings, balance, group
from engine.similarity.source import ChipPatches
from engine.texture.nearest import RARE
from engine.texture.scene_file import KnownScenes, read_scenes

__all__ = ["assigned_scenes", "balance_chips", "learn_scenes", "scenes_of_places"]


def scenes_of_places(
    recipe: SegmenterRecipe, parts: Sequence[ChipSet], base: Path
) -> list[npt.NDArray[np.int64]]:
    """The scene of each chip of several places, found in all of them or of a file; -1 for none.

    Raises
    ------
    LabelError
        Where there are too few chips, or they are alike.
    """
    choice = recipe.scenes
    assert choice is not None
    if choice.file is not None:
        known = read_scenes(base / choice.file)
        return [assigned_scenes(known, part) for part in parts]
    described = [describe(ChipPatches(part, part.places[0])) for part in parts]
    found = group(_joined(described), _settings(choice))
    ends = np.cumsum([len(each.rows) for each in described])[:-1]
    scenes = []
    for part, each, scene in zip(parts, described, np.split(found.scene, ends), strict=True):
        told = np.full(len(part), -1, np.int64)
        told[each.rows] = scene
        scenes.append(told)
    return scenes


def balance_chips(
    recipe: SegmenterRecipe, chips: ChipSet, tell: Callable[[str], None]
) -> tuple[npt.NDArray[np.float64], dict[str, Any]]:
    """How often each chip that trains is drawn; and its scenes, for the report.

    Scenes are found in the chips that train alone.

    Raises
    ------
    LabelError
        Where there are too few chips, or they are alike.
    """
    choice = recipe.scenes
    assert choice is not None
    train = np.flatnonzero(chips.split == SPLITS.index("train"))
    try:
        found, described = _of_training(chips, train, choice)
    except LabelError as error:
        raise LabelError(
            f"chips cannot be balanced by scene: {error.what}",
            got=error.got,
            expected=error.expected,
            remedy="leave scenes out of the recipe, or label more",
        ) from error
    scene = np.full(len(chips), -1, np.int64)
    scene[described.rows] = found.scene
    for note in found.notes:
        tell(f"note: {note}")
    tell(f"{len(found.modes)} scenes of {', '.join(map(str, found.sizes.tolist()))} chips")
    report = {
        **choice.model_dump(),
        "sizes": found.sizes.tolist(),
        "in_no_scene": int((found.scene < 0).sum()),
        "chosen": asdict(found.chosen),
        "notes": list(found.notes),
    }
    return balance(scene[train]), report


def assigned_scenes(
    known: KnownScenes, chips: ChipSet, tell: Callable[[str], None] = lambda text: None
) -> npt.NDArray[np.int64]:
    """The scene of each chip by a file of scenes, -1 for none: as a map gives them to windows.

    A chip farther from its scene than any patch was that the scene was found in is in none.

    Raises
    ------
    LabelError
        Where chips cannot be described as those patches were.
    """
    patches = ChipPatches(chips, "chips")
    doubts = require_alike(known, patches)
    described = describe(patches)
    found = assign(known, described, doubts)
    for note in found.notes:
        tell(f"note: {note}")
    scene = np.full(len(chips), RARE, np.int64)
    scene[described.rows] = np.where(found.outlying, RARE, found.scene)
    return scene


def learn_scenes(
    choice: SceneChoice,
    known: KnownScenes,
    chips: ChipSet,
    scene: npt.NDArray[np.int64],
    tell: Callable[[str], None],
) -> tuple[ChipSet, npt.NDArray[np.float64] | None, dict[str, Any]]:
    """The chips that are learnt from, by the scenes of a file.

    Parameters
    ----------
    choice : which scenes, and whether chips of rare ones are drawn more often.
    known : the scenes.
    chips : of all scenes, split.
    scene : int64 (chips,), as `assigned_scenes` gives it.
    tell : hears of them.

    Returns
    -------
    The chips, those of other scenes in no split; how often each that trains is drawn, None: once;
    what the report says.

    Raises
    ------
    LabelError
        Where a scene is not there, or too few chips are of these.
    """
    known.require_numbers(choice.only, LabelError, "scenes.only")
    if choice.only:
        split = np.where(np.isin(scene, choice.only), chips.split, UNUSED).astype(np.uint8)
        chips = replace(chips, split=split)
    parts = {name: chips.split == k for k, name in enumerate(SPLITS)}
    count = {name: int(mine.sum()) for name, mine in parts.items()}
    if count["train"] < 2 or not count["validation"]:
        raise LabelError(
            "there are too few chips of these scenes",
            got=f"{count['train']} to train on, {count['validation']} to validate on",
            expected="two or more, and one or more",
            remedy="label more, or let these scenes be learnt with others",
        )
    mine = scene[parts["train"]]
    sizes = np.bincount(mine[mine >= 0], minlength=len(known)).tolist()
    tell(f"scenes of {known.path.name}: {', '.join(map(str, sizes))} chips that train")
    often = balance(mine) if choice.balance and len(np.unique(mine)) > 1 else None
    report = {
        "file": known.path.name,
        "key": known.key,
        "only": list(choice.only),
        "balance": choice.balance,
        "sizes": sizes,
        "in_no_scene": int((mine < 0).sum()),
    }
    return chips, often, report


def _of_training(
    chips: ChipSet, train: npt.NDArray[np.intp], choice: SceneChoice
) -> tuple[Scenes, Described]:
    patches = _Some(chips, train)
    described = describe(patches)
    return group(described, _settings(choice)), described


class _Some(ChipPatches):
    """Some of a set's chips, by their numbers in it."""

    def __init__(self, chips: ChipSet, rows: npt.NDArray[np.intp]) -> None:
        super().__init__(chips, "chips that train")
        self._mine = rows.astype(np.int64)

    def __len__(self) -> int:
        return len(self._mine)

    def blocks(self) -> Any:
        """All of them, a few at a time."""
        for first in range(0, len(self._mine), self._at_once):
            yield self.take(self._mine[first : first + self._at_once])


def _settings(choice: SceneChoice) -> Settings:
    return Settings(choice.by, bandwidth=choice.bandwidth, seed=choice.seed)


def _joined(parts: Sequence[Described]) -> Described:
    """Several places' chips as one table; rows count within each place."""
    codes = sorted({code for part in parts for code in part.codes})
    labels = []
    for part in parts:
        assert part.labels is not None
        mine = np.zeros((len(part.rows), len(codes)), np.int64)
        mine[:, np.searchsorted(codes, part.codes)] = part.labels
        labels.append(mine)
    return Described(
        np.concatenate([part.rows for part in parts]),
        np.concatenate([part.texture for part in parts]),
        np.concatenate(labels),
        tuple(codes),
        tuple(note for part in parts for note in part.notes),
    )
