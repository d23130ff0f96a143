"""Published sets of patches into patch sets of ours: So2Sat LCZ42 (HDF5) and LCZC-GES2 (npz).

    python -m engine.datasets.published so2sat OUT training.h5 [validation.h5 testing.h5] [--geo …]
    python -m engine.datasets.published ges2 OUT FOLDER [--split SPLIT.json]

Nothing is unpickled: LCZC-GES2's lists of splits are pickles; `engine.datasets.ges2` says how they
become the JSON that ``--split`` takes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from engine.datasets.ges2 import import_ges2
from engine.datasets.patches import BANDS, PatchSet, Place, stored_patches, write_patches
from engine.errors import LabelError, NatmapError

__all__ = ["import_ges2", "import_so2sat"]

_SIDE, _CLASSES = 32, 17


def import_so2sat(
    files: Sequence[str | Path], out: str | Path, geo: Sequence[str | Path] = ()
) -> PatchSet:
    """So2Sat LCZ42's files as one patch set.

    Parameters
    ----------
    files : of training, and of validation and testing if they are to come along, in this order:
        each with ``sen2`` (n, 32, 32, 10), reflectance, and ``label`` (n, 17), one-hot.
    out : folder of the patch set.
    geo : the files of the same order with ``epsg``, ``tfw`` and ``city``; without them patches
        have no coordinates, and one place.

    Returns
    -------
    PatchSet; patches are still on disk, in HDF5.

    Raises
    ------
    LabelError
        Where a file is of another layout, another scale, or its labels are no one-hot rows.
    """
    if not 1 <= len(files) <= 3 or (geo and len(geo) != len(files)):
        raise LabelError(
            "So2Sat comes in up to three files, and a geo file for each or for none",
            got=f"{len(files)} files, {len(geo)} geo files",
        )
    with ExitStack() as stack:
        parts = [_So2Sat(stack.enter_context(_open(path)), Path(path)) for path in files]
        places: dict[str, int] = {}
        xy, place = [], []
        for number, part in enumerate(parts):
            if not geo:
                places.setdefault("So2Sat LCZ42", 0)
                xy.append(np.full((len(part), 2), np.nan))
                place.append(np.zeros(len(part), np.uint16))
                continue
            file = stack.enter_context(_open(geo[number]))
            centres, names = _geo(file, Path(geo[number]), len(part))
            xy.append(centres)
            place.append(
                np.array([places.setdefault(name, len(places)) for name in names], np.uint16)
            )
        found = PatchSet(
            _Joined(parts),
            np.concatenate([part.classes() for part in parts]),
            np.concatenate(xy),
            np.arange(sum(map(len, parts)), dtype=np.int64),
            np.concatenate(place),
            np.concatenate([np.full(len(p), k, np.uint8) for k, p in enumerate(parts)]),
            BANDS,
            _SIDE,
            0,
            10.0,
            tuple(Place(name, "unknown", "unknown") for name in places),
        )
        write_patches(out, found)
    return found


@dataclass(frozen=True)
class _So2Sat:
    """One of the files, checked by its form."""

    file: Any
    path: Path

    def __post_init__(self) -> None:
        try:
            sen2, label = self.file["sen2"].shape, self.file["label"].shape
        except KeyError as error:
            raise LabelError(
                "the file is not laid out as So2Sat's",
                got=f"{self.path.name}: {', '.join(self.file) or 'nothing'}",
                expected="sen2 and label",
            ) from error
        if sen2[1:] != (_SIDE, _SIDE, 10) or label != (sen2[0], _CLASSES):
            raise LabelError(
                "the file is not laid out as So2Sat's",
                got=f"{self.path.name}: sen2 {sen2}, label {label}",
                expected="sen2 (n, 32, 32, 10), label (n, 17)",
            )

    def __len__(self) -> int:
        return int(self.file["sen2"].shape[0])

    def classes(self) -> npt.NDArray[np.uint8]:
        """Codes 1 to 17."""
        label = self.file["label"][:]
        if not (((label == 0) | (label == 1)).all() and (label.sum(axis=1) == 1).all()):
            raise LabelError(
                "labels are not one-hot", got=self.path.name, expected="one 1 in each row of label"
            )
        return np.asarray(label.argmax(axis=1) + 1, np.uint8)

    def stored(self, first: int, last: int) -> npt.NDArray[np.uint16]:
        """Patches in the stored convention."""
        return stored_patches(self.file["sen2"][first:last], self.path.name)


class _Joined:
    """Patches of several files, read as they are written on."""

    dtype = np.dtype(np.uint16)

    def __init__(self, parts: Sequence[_So2Sat]) -> None:
        self._parts = parts
        self._ends = np.cumsum([len(part) for part in parts])

    def __getitem__(self, here: slice) -> npt.NDArray[np.uint16]:
        first, last, _ = here.indices(int(self._ends[-1]))
        found = []
        for part, end in zip(self._parts, self._ends.tolist(), strict=True):
            start = end - len(part)
            low, high = max(first, start), min(last, end)
            if low < high:
                found.append(part.stored(low - start, high - start))
        return np.concatenate(found)


def _open(path: str | Path) -> h5py.File:
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise LabelError("the file is not HDF5", got=f"{Path(path).name}: {error}") from error


def _geo(file: Any, path: Path, count: int) -> tuple[npt.NDArray[np.float64], list[str]]:
    """Centres in metres of each patch's zone, and cities.

    Two orders of the six numbers are about: that of GDAL, (x, 10, 0, y, 0, +-10), and that of world
    files, (10, 0, 0, -10, x, y), which says the first pixel's centre. The second begins with 10.
    """
    try:
        six = np.asarray(file["tfw"][:], np.float64)
        names = [n.decode() if isinstance(n, bytes) else str(n) for n in np.ravel(file["city"][:])]
    except KeyError as error:
        raise LabelError(
            "the geo file is not laid out as So2Sat's", got=path.name, expected="tfw and city"
        ) from error
    if six.shape != (count, 6) or len(names) != count:
        raise LabelError(
            "the geo file is of other patches", got=f"{path.name}: {six.shape}", expected=count
        )
    world = np.abs(six[:, 0]) == 10
    x = np.where(world, six[:, 4] - 5, six[:, 0])
    y = np.where(world, six[:, 5] + 5, six[:, 3])  # of the top edge, whatever the sign says
    return np.stack([x + 160, y - 160], axis=1), names


def _tell(text: str) -> None:
    sys.stdout.write(text + "\n")


def main() -> None:
    """The command; errors of natmap end with exit code 2."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=["so2sat", "ges2"])
    parser.add_argument("out", type=Path)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--geo", nargs="+", type=Path, default=[])
    parser.add_argument("--split", type=Path, help="of ges2: JSON of its lists of numbers")
    asked = parser.parse_args()
    if asked.kind == "so2sat" and asked.split is not None:
        parser.error("--split goes with ges2; So2Sat's files are its split")
    if asked.kind == "ges2" and (asked.geo or len(asked.files) > 1):
        parser.error("ges2 is one folder, without --geo")
    try:
        if asked.kind == "so2sat":
            found = import_so2sat(asked.files, asked.out, asked.geo)
        else:
            found = import_ges2(asked.files[0], asked.out, asked.split, _tell)
    except NatmapError as error:
        raise SystemExit(f"natmap: {error}") from error
    counts = np.bincount(found.y, minlength=18)[1:]
    _tell(f"{len(found)} patches of {len(found.places)} places; by class {counts.tolist()}")


if __name__ == "__main__":
    main()
