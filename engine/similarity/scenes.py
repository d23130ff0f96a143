"""`natmap scenes`: patches that show the same kind of place: a table, a manifest and a sheet."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas

from engine.datasets.splits import SPLITS, UNUSED, allot
from engine.errors import LabelError
from engine.files import together
from engine.similarity.clustering import RARE
from engine.similarity.descriptors import Described, describe, require_by
from engine.similarity.frames import FramePatches
from engine.similarity.grouping import Method, Scenes, Settings, balance, group, require_enough
from engine.similarity.sheet import SHOWN, Strip, draw_sheet, scenes_page
from engine.similarity.source import Patches, open_set

__all__ = ["FILES", "open_place", "scenes", "split_of"]

FILES = ("patches.parquet", "scenes.png", "scenes.html", "scenes.json")
"""What is written; the last one says that all are there."""

_SCHEMA = "natmap-scenes/1"
_SIDE = 512
_TOLD = 3  # classes of a scene that its words name


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
    shares: tuple[float, float, float] = (0.7, 0.1, 0.2),
    seed: int = 0,
    threads: int | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> tuple[Described, Scenes]:
    """Group patches into scenes by their labels and their texture.

    Parameters
    ----------
    place : a chip set, a patch set, or a folder of images, which are cut into patches.
    out : folder for ``patches.parquet`` (a row for each patch: frame, place, histograms, scene,
        distance, weight, split), ``scenes.json``, ``scenes.png`` and ``scenes.html``; by default
        nowhere.
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
        strips = _strips(patches, described, found)
        table = _table(patches, described, found, split)
        told = {"by": settings.by, **{k: v for k, v in asdict(settings).items() if k != "by"}}
        told |= {"side": patches.side, "shares": list(shares)}
        manifest = _manifest(patches, described, found, told, (*found.notes, *notes))
        with together(Path(out), mark=FILES[-1]) as part:
            table.to_parquet(part / FILES[0], index=False)
            draw_sheet(part / FILES[1], strips, f"{patches.name}: scenes by {settings.by}")
            page = scenes_page(f"{patches.name}: scenes by {settings.by}", strips, found)
            (part / FILES[2]).write_text(page, encoding="utf-8")
            (part / FILES[3]).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
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


def _table(
    patches: Patches, described: Described, found: Scenes, split: npt.NDArray[np.uint8]
) -> pandas.DataFrame:
    rows = described.rows
    down, across = patches.at[rows].T
    place = (
        {"row": down.astype(np.int64), "col": across.astype(np.int64)}
        if isinstance(patches, FramePatches)
        else {"x": across, "y": -down}
    )
    names = np.array([*SPLITS, "none"], object)
    labels: dict[str, Any] = {}
    if described.labels is not None:
        labels["h_lab"] = list(described.labels / described.labels.sum(axis=1, keepdims=True))
    texture = described.texture / described.texture.sum(axis=1, keepdims=True)
    return pandas.DataFrame(
        {
            "patch": rows,
            "frame": np.array(patches.frames, object)[patches.frame[rows]],
            **place,
            **labels,
            "h_tex": list(texture),
            "scene": found.scene,
            "distance": found.distance,
            "weight": balance(found.scene),
            "split": names[np.minimum(split, len(SPLITS))],
        }
    )


def _words(described: Described, found: Scenes, number: int) -> str:
    """A scene in words."""
    here = found.scene == number
    words = [f"{int(here.sum())} patches", f"{here.mean():.1%}"]
    if described.labels is not None:
        counts = described.labels[here].sum(axis=0)
        share = counts / max(counts.sum(), 1)
        order = np.argsort(-share, kind="stable")[:_TOLD]
        told = [f"{described.codes[k]} {share[k]:.0%}" for k in order if share[k] >= 0.01]
        words.append(f"classes {', '.join(told)}")
    return " · ".join(words)


def _strips(patches: Patches, described: Described, found: Scenes) -> list[Strip]:
    """Each scene's nearest patches; of those as near by the names of their frames and places."""
    names = np.array(patches.frames, object)[patches.frame[described.rows]]
    at = patches.at[described.rows]
    _, frame = np.unique(names, return_inverse=True)
    order = np.lexsort((at[:, 1], at[:, 0], frame.reshape(-1), found.distance))
    strips = []
    for number in (*range(len(found.modes)), RARE):
        mine = order[found.scene[order] == number][:SHOWN]
        if not len(mine):
            continue
        pictures = []
        for k in mine.tolist():
            block = patches.take(described.rows[k : k + 1])
            pictures.append(patches.picture(block, 0))
        title = "in no scene" if number == RARE else f"scene {number}"
        strips.append(Strip(title, _words(described, found, number), tuple(pictures)))
    return strips


def _manifest(
    patches: Patches,
    described: Described,
    found: Scenes,
    settings: dict[str, Any],
    notes: Sequence[str],
) -> dict[str, Any]:
    weights = balance(found.scene)
    each = []
    for number, centre in enumerate(found.modes.centres):
        here = found.scene == number
        each.append(
            {
                "scene": number,
                "patches": int(here.sum()),
                "share": float(here.mean()),
                "weight": float(weights[here][0]),
                "words": _words(described, found, number),
                "centre": centre.tolist(),
            }
        )
    return {
        "schema": _SCHEMA,
        "source": patches.name,
        "frames": len(patches.frames),
        "patches": len(described.rows),
        "settings": settings,
        "codes": list(described.codes),
        "far": found.modes.far if np.isfinite(found.modes.far) else None,
        "in_no_scene": int((found.scene == RARE).sum()),
        "scenes": each,
        "chosen": asdict(found.chosen),
        "trials": [asdict(trial) for trial in found.trials],
        "notes": list(notes),
        "software": {name: version(name) for name in ("natmap", "numpy", "scikit-learn")},
    }
