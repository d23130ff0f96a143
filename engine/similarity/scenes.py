"""`natmap scenes`: patches that show the same kind of place: a table, a manifest and a sheet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import numpy.typing as npt

from engine.datasets.splits import SPLITS, UNUSED, allot
from engine.errors import LabelError
from engine.similarity.descriptors import Described, describe, require_by
from engine.similarity.frames import FramePatches
from engine.similarity.grouping import Method, Scenes, Settings, group, require_enough
from engine.similarity.scene_files import write_scenes
from engine.similarity.source import Patches, open_set
from engine.texture.nearest import RARE

__all__ = ["SHARES", "open_place", "scenes", "split_of"]

SHARES = (0.7, 0.1, 0.2)
"""Of frames that train, validate and test."""

_SIDE = 512


def scenes(
    place: str | Path,
    out: str | Path | None = None,
    *,
    by: str | None = None,
    side: int | None = None,
    labels: str | Path | None = None,
    bands: Sequence[int] | None = None,
    unknown: Sequence[int] = (),
    method: Method = "mean-shift",
    count: int | None = None,
    bandwidth: float | None = None,
    most: int = 10_000,
    repeats: int = 5,
    shares: tuple[float, float, float] = SHARES,
    seed: int = 0,
    threads: int | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> tuple[Described, Scenes]:
    """Group patches into scenes by their labels and their texture.

    Parameters
    ----------
    place : a chip set, a patch set, or a folder of images, which are cut into patches.
    out : folder for ``patches.parquet`` (a row for each patch: frame, place, histograms, scene,
        distance, outlying, weight, split), ``scenes.json``, ``scenes.png`` and ``scenes.html``; by
        default nowhere.
    by : labels, texture or both; by default both where pixels have labels.
    side : of a patch that is cut from images, in pixels; by default 512. A set has its own.
    labels, bands, unknown : of images, as `engine.similarity.frames.FramePatches` takes them.
    method, count, bandwidth, most, repeats, seed : as `engine.similarity.grouping.Settings` has
        them.
    shares : of frames that train, validate and test; they sum to 1. A set keeps its own split.
    threads : that describe patches; they show in no figure.
    tell : hears of each step.

    Returns
    -------
    (patches, their scenes), row by row

    Raises
    ------
    LabelError
        Where patches cannot be read, are too few, too small, alike or of one colour.
    """
    patches = open_place(Path(place), side, labels=labels, bands=bands, unknown=unknown)
    chosen = require_by(by, patches)
    settings = Settings(chosen, method, count, bandwidth, most, repeats, seed)
    require_enough(settings, len(patches))
    tell(f"{len(patches)} patches of {patches.side} px from {len(patches.frames)} frames")
    described = describe(patches, threads=threads)
    found = group(described, settings, tell=tell)
    split, notes = split_of(patches, described.rows, found.scene, shares, seed)
    for note in (*found.notes, *notes):
        tell(f"note: {note}")
    if out is not None:
        told = {"by": settings.by, **{k: v for k, v in asdict(settings).items() if k != "by"}}
        told |= {"side": patches.side, "shares": list(shares)}
        more = {
            "chosen": asdict(found.chosen),
            "trials": [asdict(trial) for trial in found.trials],
            "notes": [*found.notes, *notes],
        }
        write_scenes(Path(out), patches, described, found, split, told, more)
    return described, found


def open_place(
    path: Path,
    side: int | None,
    *,
    labels: str | Path | None = None,
    bands: Sequence[int] | None = None,
    unknown: Sequence[int] = (),
) -> Patches:
    """The patches of a set, or of a folder of images.

    Raises
    ------
    LabelError
    """
    if not path.is_dir():
        raise LabelError(
            "there is no such folder of patches or images",
            got=str(path),
            expected="a chip set, a patch set, or a folder of images",
        )
    found = open_set(path)
    if found is None:
        folder = None if labels is None else Path(labels)
        if folder is not None and not folder.is_dir():
            raise LabelError("there is no such folder of labels", got=str(folder))
        return FramePatches(
            path, _SIDE if side is None else side, labels=folder, bands=bands, unknown=unknown
        )
    if side is not None and side != found.side:
        raise LabelError(
            "patches of a set are as they were cut",
            got=f"{found.name}: {found.side} px; asked for {side}",
            remedy="leave side out",
        )
    if labels is not None or bands is not None or unknown:
        raise LabelError(
            "labels and bands of a set are its own",
            got=found.name,
            remedy="leave them out, or name a folder of images",
        )
    return found


def split_of(
    patches: Patches,
    rows: npt.NDArray[np.int64],
    scene: npt.NDArray[np.int64],
    shares: Sequence[float],
    seed: int,
) -> tuple[npt.NDArray[np.uint8], list[str]]:
    """Which patches train, validate and test: as a set says, or whole images, so that each split
    has its share of each scene, rare ones first; images of the same ground go together.

    Returns
    -------
    Positions in `engine.datasets.splits.SPLITS`, 255 for none (n,); and notes.

    Raises
    ------
    LabelError
        Where the shares do not sum to 1.
    """
    if len(shares) != 3 or min(shares) < 0 or abs(sum(shares) - 1) > 1e-6 or shares[0] == 0:
        raise LabelError(
            "shares of train, validation and test must sum to 1",
            got=tuple(shares),
            expected="such as 0.7, 0.1, 0.2",
        )
    if not isinstance(patches, FramePatches):
        if patches.split is not None:
            return patches.split[rows], []
        note = "the set has no split: a training makes one, with split.by: frame by scene"
        return np.full(len(rows), UNUSED, np.uint8), [note]
    ground = patches.grounds()[patches.frame[rows]]
    _, piece = np.unique(ground, return_inverse=True)
    fixed = np.full(len(rows), UNUSED, np.uint8)
    split = allot(piece.reshape(-1), fixed, scene - RARE, shares, seed)
    empty = [
        name
        for k, (name, share) in enumerate(zip(SPLITS, shares, strict=True))
        if share > 0 and not (split == k).any()
    ]
    if empty:
        return split, [
            f"images show {len(np.unique(ground))} separate grounds: no patch is left to "
            f"{' and '.join(empty)}"
        ]
    return split, []
