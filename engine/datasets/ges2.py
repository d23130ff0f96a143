"""LCZC-GES2 (DF4LCZ): Sentinel-2 patches, graphs of the images beside them, published splits.

Its lists of splits are pickles, and nothing here opens one. Where they can be trusted, this writes
what `import_ges2` reads, by any Python with NumPy:

    import json, pickle
    with open("patches_split/partition_polygons_1125.npz", "rb") as file:  # a pickle, not npz
        lists = pickle.load(file)
    with open("polygons.json", "w") as file:
        json.dump({name: [int(i) for i in numbers] for name, numbers in lists.items()}, file)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from engine.datasets.patches import BANDS, PatchSet, Place, stored_patches, write_patches
from engine.datasets.splits import SPLITS, UNUSED, Codes
from engine.errors import LabelError
from engine.models.graphs import FEATURES, pack
from engine.models.superpixels import MOST
from engine.recipes.documents import read_document, read_json

__all__ = ["import_ges2"]

_SIDE, _CLASSES = 32, 17
_WINDOW = 320  # pixels of the image beside a patch
_MOST_BYTES = 16 << 20  # of a split's file
_INSTANCES = {"segmenter": "sam", "segmentation": "per_window"}
"""How the published graphs' instances were made."""


def import_ges2(
    folder: str | Path,
    out: str | Path,
    split: str | Path | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> PatchSet:
    """LCZC-GES2 as a patch set: with its graphs where they are there, with a split where one is
    given.

    Parameters
    ----------
    folder : with ``sen2_img_patches/sen2_image_<i>.npz``, each ``image`` (32, 32, 10), reflectance,
        and ``label``, 1 to 17; and with ``gg_nodes_refine/graph_<i>.npz`` or without, each ``x``
        (nodes, 5), mean colour and centre of each instance, ``a`` (nodes, nodes) and ``y``, the
        label one-hot.
    out : folder of the patch set.
    split : JSON of three lists of numbers, ``train``, ``validation`` and ``test``; patches in none
        of them are left out. See the module for how the published ones become that.
    tell : hears what was found of the graphs, and of patches in no split.

    Raises
    ------
    LabelError
        Where there is no patch, one is of another layout or a pickle, a graph is of another patch,
        or the split names what is not there.
    """
    found = _numbered(Path(folder) / "sen2_img_patches", "sen2_image")
    if not found:
        raise LabelError(
            "there are no patches", got=f"{folder}", expected="sen2_img_patches/sen2_image_*.npz"
        )
    numbers = list(found)
    x = np.zeros((len(found), len(BANDS), _SIDE, _SIDE), np.uint16)
    y = np.zeros(len(found), np.uint8)
    for k, path in enumerate(found.values()):
        image, label = _read(path, "image", "label")
        x[k] = stored_patches(image[None], path.name)[0]
        y[k] = _code(label, path.name)
    graphs = _numbered(Path(folder) / "gg_nodes_refine", "graph")
    nodes = _graphs(graphs, numbers, y, tell) if graphs else None
    codes = np.full(len(found), UNUSED, np.uint8)
    if split is not None:
        codes = _split(Path(split), numbers)
        if left := int((codes == UNUSED).sum()):
            tell(f"{left} of {len(codes)} patches are in no split")
    patches = PatchSet(
        x,
        y,
        np.full((len(found), 2), np.nan),
        np.array(numbers, np.int64),
        np.zeros(len(found), np.uint16),
        codes,
        BANDS,
        _SIDE,
        0,
        10.0,
        (Place("LCZC-GES2", "2023-01-01/2023-06-30", "unknown"),),
        nodes,
        None if nodes is None else _INSTANCES,
    )
    write_patches(out, patches)
    return patches


def _numbered(folder: Path, stem: str) -> dict[int, Path]:
    """Files ``stem_<i>.npz`` of a folder by i, ascending."""
    named = ((re.fullmatch(rf"{stem}_(\d+)", path.stem), path) for path in folder.glob("*.npz"))
    found: dict[int, Path] = {}
    for number, path in sorted((int(match[1]), path) for match, path in named if match):
        if number in found:
            raise LabelError(
                "two files have one number",
                got=f"{found[number].name} and {path.name}",
                remedy="take the one that is not wanted out of the folder",
            )
        found[number] = path
    return found


def _read(path: Path, *names: str) -> list[npt.NDArray[Any]]:
    """Arrays of an npz file; pickles are not opened."""
    try:
        # opened here: NumPy leaves a file that is cut off open
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return [arrays[name] for name in names]
    except (OSError, KeyError, ValueError, TypeError, EOFError, BadZipFile) as error:
        raise LabelError("a file cannot be read", got=f"{path.name}: {error}") from error


def _code(label: npt.NDArray[Any], name: str) -> int:
    known = label.size == 1 and label.dtype.kind in "iuf" and 1 <= label.item() <= _CLASSES
    if not known or label.item() % 1:
        raise LabelError("unknown class", got=f"{name}: {label}", expected="1 to 17")
    return int(label.item())


def _graphs(
    graphs: Mapping[int, Path],
    numbers: Sequence[int],
    y: npt.NDArray[np.uint8],
    tell: Callable[[str], None],
) -> npt.NDArray[np.float16]:
    """Packed graphs of patches (n, 50, 5), in the scale of ours; empty where there is none."""
    found: list[npt.NDArray[np.float64]] = []
    complete = 0
    for number, code in zip(numbers, y.tolist(), strict=True):
        path = graphs.get(number)
        if path is None:
            found.append(np.zeros((0, len(FEATURES))))
            continue
        x, a, label = _read(path, "x", "a", "y")
        _require_graph(x, a, label, code, path.name)
        found.append(x.astype(np.float64))
        near = a > 0
        complete += bool((near | np.eye(len(x), dtype=bool)).all())
    every = np.concatenate(found)
    if not len(every):
        raise LabelError("the graphs have no nodes", got=f"{len(graphs)} files")
    colour = _scale(every[:, :3], 255, "colours")
    centre = _scale(every[:, 3:], _WINDOW, "centres of instances")
    smallest = 0.5 / _WINDOW  # a node whose box is one pixel wide may say 0, which means no node
    there = sum(number in graphs for number in numbers)
    tell(
        f"graphs of {there} patches of {len(numbers)}: colours in 0 to {colour:g}, centres in 0 to "
        f"{centre:g}; each node is joined to all others in {complete} of {there}"
    )
    scaled = []
    for nodes in found:
        nodes = nodes / ([colour] * 3 + [centre] * 2)
        nodes[:, 3:] = nodes[:, 3:].clip(smallest, 1 - smallest)
        scaled.append(nodes.astype(np.float32))
    return pack(scaled)


def _require_graph(
    x: npt.NDArray[Any], a: npt.NDArray[Any], label: npt.NDArray[Any], code: int, name: str
) -> None:
    n = len(x)
    if x.ndim != 2 or x.shape[1] != len(FEATURES) or a.shape != (n, n) or n > MOST:
        raise LabelError(
            "a graph has another form",
            got=f"{name}: x {x.shape}, a {a.shape}",
            expected=f"x (n, {len(FEATURES)}), a (n, n), n up to {MOST}",
        )
    if not np.isfinite(x).all() or (n and x.min() < 0):
        raise LabelError("a graph has values that are no colours and places", got=name)
    if label.size != _CLASSES or int(label.argmax()) + 1 != code:
        raise LabelError(
            "a graph is of another class than its patch",
            got=f"{name}: {label.ravel()[:_CLASSES].tolist()}",
            expected=f"one-hot of {code}",
        )


def _scale(values: npt.NDArray[np.float64], whole: int, what: str) -> float:
    """What a whole is in values: 1 or so many."""
    top = float(values.max())
    if top > whole:
        raise LabelError(f"{what} are of no known scale", got=top, expected=f"up to 1, or {whole}")
    return float(whole) if top > 1 else 1.0


def _split(path: Path, numbers: Sequence[int]) -> Codes:
    """Positions in `SPLITS` of patches."""
    try:
        told = read_json(read_document(path, _MOST_BYTES))
    except (OSError, ValueError) as error:
        raise LabelError("the split cannot be read", got=f"{path.name}: {error}") from error
    if not isinstance(told, Mapping) or set(told) != set(SPLITS):
        raise LabelError(
            "the split is laid out otherwise",
            got=", ".join(map(str, told)) if isinstance(told, Mapping) else type(told).__name__,
            expected=", ".join(SPLITS) + ", each a list of numbers of patches",
        )
    place = {number: k for k, number in enumerate(numbers)}
    found = np.full(len(numbers), UNUSED, np.uint8)
    for code, name in enumerate(SPLITS):
        for number in told[name] if isinstance(told[name], list) else [told[name]]:
            if type(number) is not int or number not in place:
                raise LabelError(
                    f"{name} names what is no patch",
                    got=number,
                    expected=f"numbers of the {len(place)} patches that are there",
                )
            if found[place[number]] not in (UNUSED, code):
                other = SPLITS[found[place[number]]]
                raise LabelError("a patch is in two splits", got=f"{number}: {other} and {name}")
            found[place[number]] = code
    return found
