"""The files of scenes: a table of patches, a manifest, a contact sheet and a page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas

from engine.datasets.splits import SPLITS
from engine.files import together
from engine.similarity.descriptors import Described
from engine.similarity.frames import FramePatches
from engine.similarity.grouping import Grouped, balance
from engine.similarity.sheet import SHOWN, Strip, draw_sheet, scenes_page
from engine.similarity.source import Patches
from engine.texture.nearest import RARE
from engine.texture.scene_file import SCHEMA, TEXTURE

__all__ = ["FILES", "write_scenes"]

FILES = ("patches.parquet", "scenes.png", "scenes.html", "scenes.json")
"""What is written; the last one says that all are there."""

_TOLD = 3  # classes of a scene that its words name


def write_scenes(
    out: Path,
    patches: Patches,
    described: Described,
    found: Grouped,
    split: npt.NDArray[np.uint8],
    settings: Mapping[str, Any],
    more: Mapping[str, Any],
    codes: tuple[int, ...] | None = None,
) -> None:
    """Write `FILES` into a folder, all or none.

    Parameters
    ----------
    out : of the folder.
    patches, described, found, split : row by row.
    settings : by which patches were described and grouped: `by` and `side` among them.
    more : what else the manifest says.
    codes : that labels of the scenes' middles are counted by; by default those of the patches.
    """
    strips = _strips(patches, described, found)
    table = _table(patches, described, found, split)
    manifest = _manifest(patches, described, found, settings, codes) | dict(more)
    title = f"{patches.name}: scenes by {settings['by']}"
    with together(out, mark=FILES[-1]) as part:
        table.to_parquet(part / FILES[0], index=False)
        draw_sheet(part / FILES[1], strips, title)
        (part / FILES[2]).write_text(scenes_page(title, strips, found), encoding="utf-8")
        (part / FILES[3]).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


def _table(
    patches: Patches, described: Described, found: Grouped, split: npt.NDArray[np.uint8]
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
            "outlying": found.outlying,
            "weight": balance(found.scene),
            "split": names[np.minimum(split, len(SPLITS))],
        }
    )


def _words(described: Described, found: Grouped, number: int) -> str:
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


def _strips(patches: Patches, described: Described, found: Grouped) -> list[Strip]:
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
    found: Grouped,
    settings: Mapping[str, Any],
    codes: tuple[int, ...] | None,
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
                "weight": float(weights[here][0]) if here.any() else None,
                "words": _words(described, found, number),
                "radius": float(found.radii[number]),
                "centre": centre.tolist(),
            }
        )
    return {
        "schema": SCHEMA,
        "source": patches.name,
        "frames": len(patches.frames),
        "patches": len(described.rows),
        "settings": dict(settings),
        "texture": dict(TEXTURE),
        "kind": patches.kind,
        "pixel": patches.pixel,
        "codes": list(described.codes if codes is None else codes),
        "far": found.modes.far if np.isfinite(found.modes.far) else None,
        "spread": found.spread,
        "in_no_scene": int((found.scene == RARE).sum()),
        "outlying": int(found.outlying.sum()),
        "scenes": each,
        "software": {name: version(name) for name in ("natmap", "numpy", "scikit-learn")},
    }
