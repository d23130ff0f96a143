"""Patches to the scenes of an earlier set: described as those were, each to the nearest centre."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from engine.errors import LabelError
from engine.similarity.clustering import Modes
from engine.similarity.descriptors import Described, describe
from engine.similarity.grouping import Grouped
from engine.similarity.scene_files import write_scenes
from engine.similarity.scenes import SHARES, open_place, split_of
from engine.similarity.source import Patches
from engine.texture.scene_file import KnownScenes, read_scenes

__all__ = ["Assigned", "assign", "assign_scenes", "require_alike"]


@dataclass(frozen=True)
class Assigned(Grouped):
    """Patches and the scenes of an earlier set that they are in.

    Attributes
    ----------
    known : the earlier scenes.
    """

    known: KnownScenes


def assign_scenes(
    place: str | Path,
    like: str | Path,
    out: str | Path | None = None,
    *,
    labels: str | Path | None = None,
    bands: Sequence[int] | None = None,
    unknown: Sequence[int] = (),
    shares: tuple[float, float, float] = SHARES,
    seed: int = 0,
    threads: int | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> tuple[Described, Assigned]:
    """Give patches the scenes that were found in an earlier set.

    Patches are described as the earlier ones were. Each gets the scene of the nearest centre, or
    none where that is farther than the earlier call let a patch of a scene be. Patches farther from
    their centre than any earlier patch of that scene are marked as outlying.

    Parameters
    ----------
    place : a chip set, a patch set, or a folder of images, which are cut into patches of the
        earlier size.
    like : ``scenes.json`` of the earlier call.
    out : folder for the files of `natmap scenes`; by default nowhere. Its ``scenes.json`` has the
        same scenes, and serves as the earlier one does.
    labels, bands, unknown : of images, as `engine.similarity.scenes.scenes` takes them.
    shares, seed : of the split.
    threads : that describe patches; they show in no figure.
    tell : hears of each step.

    Returns
    -------
    (patches, their scenes), row by row

    Raises
    ------
    LabelError
        Where the file does not serve, or patches cannot be described as the earlier ones were.
    """
    known = read_scenes(Path(like))
    side = known.side if _is_images(Path(place)) else None
    patches = open_place(Path(place), side, labels=labels, bands=bands, unknown=unknown)
    doubts = require_alike(known, patches)
    tell(f"{len(patches)} patches of {patches.side} px from {len(patches.frames)} frames")
    described = describe(patches, threads=threads)
    found = assign(known, described, doubts)
    split, notes = split_of(patches, described.rows, found.scene, shares, seed)
    for note in (*found.notes, *notes):
        tell(f"note: {note}")
    if out is not None:
        settings = {"by": known.by, "side": known.side, "shares": list(shares), "seed": seed}
        like_it = {"source": str(known.document.get("source")), "key": known.key}
        more = {
            "like": like_it,
            "pixel": known.pixel,  # of the patches that the scenes were found in
            "notes": [*found.notes, *notes],
        }
        write_scenes(Path(out), patches, described, found, split, settings, more, codes=known.codes)
    return described, found


def require_alike(known: KnownScenes, patches: Patches) -> tuple[str, ...]:
    """Refuse patches that cannot be described as an earlier set's; gives notes.

    Raises
    ------
    LabelError
    """
    if known.by != "texture" and not patches.labelled:
        raise LabelError(
            "scenes go by labels, and the patches have none",
            got=patches.name,
            expected=f"labels of pixels: {known.path.name} goes by {known.by}",
            remedy="name --labels, or find scenes by texture: natmap scenes --by texture",
        )
    return known.require_alike(patches.name, patches.side, patches.kind, patches.pixel, LabelError)


def assign(known: KnownScenes, described: Described, doubts: Sequence[str] = ()) -> Assigned:
    """The earlier scenes of described patches.

    Parameters
    ----------
    known : the scenes.
    described : patches that `require_alike` took.
    doubts : what it noted.

    Raises
    ------
    LabelError
        Where labels have codes that the earlier ones had not.
    """
    scene, distance = known.assign(_vectors(known, described))
    notes = [*described.notes, *doubts]
    if far := int(known.outlying(scene, distance).sum()):
        notes.append(
            f"{far} of {len(scene)} patches are farther from their scene than any earlier patch"
        )
    modes = Modes(known.centres, known.far)
    return Assigned(modes, scene, distance, tuple(notes), known.radii, known.spread, known)


def _vectors(known: KnownScenes, described: Described) -> npt.NDArray[np.float64]:
    if known.by == "texture":
        return described.vectors("texture")
    assert described.labels is not None, "`require_alike` looked"
    if strange := sorted(set(described.codes) - set(known.codes)):
        raise LabelError(
            "labels have codes that the scenes do not know",
            got=", ".join(map(str, strange)),
            expected=", ".join(map(str, known.codes)),
            remedy="name them as unknown, or find scenes again: natmap scenes",
        )
    labels = np.zeros((len(described.rows), len(known.codes)), np.int64)
    labels[:, np.searchsorted(known.codes, described.codes)] = described.labels
    same = Described(described.rows, described.texture, labels, known.codes)
    return same.vectors(known.by)


def _is_images(path: Path) -> bool:
    """Whether it is a folder of images, not a set, whose patches are as they were cut."""
    return path.is_dir() and not (path / "zarr.json").is_file()
