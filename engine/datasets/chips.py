"""Chip sets: pieces of 1 m images with the green space in them, kept in Zarr."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
import zarr

from engine.datasets.splits import SPLITS, UNUSED
from engine.errors import LabelError
from engine.files import whole_folder
from engine.models.card_parts import Ranges

__all__ = [
    "CUT",
    "UNKNOWN",
    "ChipSet",
    "Images",
    "chip_set_of",
    "import_ugset",
    "open_chips",
    "require_masks",
    "unsplit",
    "write_chips",
]

UNKNOWN = 255
"""Of a mask: nobody has said what this pixel is."""

CUT = "chips"
"""Of the folder that `natmap frames` fills: the chip set that it cut."""

Images = tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_] | None]
"""Images (n, band, side, side), and where they have data (n, side, side); None: everywhere."""

_CHUNK = 16
_IMAGES, _MASKS = ("image", "images", "img", "A"), ("label", "labels", "gt", "mask", "masks")
_FOLDERS = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
_RGB = ("B04", "B03", "B02")


@dataclass(frozen=True)
class ChipSet:
    """Labelled images of one size.

    Attributes
    ----------
    x : uint8 (n, band, side, side), pixels of images; or uint16, stored digital numbers of
        composites. A Zarr array or one in memory.
    y : uint8 (n, side, side), codes of classes (1 green, 0 not), 255 unknown.
    xy : float64 (n, 2), centres in metres of their place's CRS; NaN where nobody knows.
    place : uint16 (n,), position in `places`.
    split : uint8 (n,), positions in `splits.SPLITS`, 255 for none.
    bands : B-names
    places : tuple of str
    seen : bool (n, side, side), where x has data; None: everywhere, as in sets of older versions.
    resolution : metres of a pixel.
    ranges : of bands of features, what their stored numbers stand for.
    crs : of all places' centres; None: of several, or nobody knows.
    """

    x: Any
    y: Any
    xy: npt.NDArray[np.float64]
    place: npt.NDArray[np.uint16]
    split: npt.NDArray[np.uint8]
    bands: tuple[str, ...]
    places: tuple[str, ...]
    seen: Any = None
    resolution: float = 1.0
    ranges: Ranges = field(default_factory=dict)
    crs: str | None = None

    def __len__(self) -> int:
        return len(self.split)

    @property
    def side(self) -> int:
        """Pixels."""
        return int(self.x.shape[-1])

    def of(
        self, split: str
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8], npt.NDArray[np.bool_] | None]:
        """Images and masks of a split in memory, and where there is data; None: everywhere."""
        return self.take(np.flatnonzero(self.split == SPLITS.index(split)))

    def take(
        self, rows: npt.NDArray[np.intp]
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8], npt.NDArray[np.bool_] | None]:
        """Some chips, as `of` gives those of a split."""
        return _rows(self.x, rows), _rows(self.y, rows), self._seen(rows)

    def _seen(self, rows: npt.NDArray[np.intp]) -> npt.NDArray[np.bool_] | None:
        """Where some chips have data; None: everywhere."""
        if self.seen is None:
            return None
        seen: npt.NDArray[np.bool_] = _rows(self.seen, rows)
        return None if seen.all() else seen


def write_chips(path: str | Path, *parts: ChipSet, **attrs: object) -> None:
    """Write a chip set; one that is there is replaced when this one is whole.

    Images go part by part: of gigabytes there is no second copy in memory.

    Parameters
    ----------
    path : of the folder.
    parts : of several places, of one size and the same bands: they become one.
    attrs : kept with them.
    """
    with whole_folder(Path(path)) as folder:
        _write(zarr.open_group(str(folder), mode="w").create_group("chips"), parts, attrs)


def _write(group: Any, parts: Sequence[ChipSet], attrs: dict[str, object]) -> None:
    ends = np.cumsum([len(part) for part in parts]).tolist()
    for name in ("x", "y", "seen"):
        like = next((v for part in parts if (v := getattr(part, name)) is not None), None)
        if like is None:
            continue
        shape, few = like.shape[1:], min(_CHUNK, max(ends[-1], 1))  # chips are read one by one
        form = {"shape": (ends[-1], *shape), "chunks": (few, *shape), "dtype": like.dtype}
        array = group.create_array(name, **form)
        for end, part in zip(ends, parts, strict=True):
            values, start = getattr(part, name), end - len(part)
            # chunk by chunk: Zarr holds all that it packs at once
            for first in range(start - start % _CHUNK, end, _CHUNK):
                rows = slice(max(first, start), min(first + _CHUNK, end))
                taken = slice(rows.start - start, rows.stop - start)
                array[rows] = True if values is None else np.asarray(values[taken])
    offsets = np.cumsum([0, *[len(part.places) for part in parts[:-1]]]).astype(np.uint16)
    small = {
        "xy": np.concatenate([part.xy for part in parts]),
        "place": np.concatenate([p.place + n for p, n in zip(parts, offsets, strict=True)]),
        "split": np.concatenate([part.split for part in parts]),
    }
    for name, values in small.items():
        group.create_array(name, data=values)
    places = [name for part in parts for name in part.places]
    ranges = {band: list(span) for band, span in parts[0].ranges.items()}
    told = {
        "bands": list(parts[0].bands),
        "ranges": ranges,
        "places": places,
        "resolution": parts[0].resolution,
    }
    if len(systems := {part.crs for part in parts}) == 1:
        told["crs"] = systems.pop()
    group.attrs.update({**told, **attrs})


def chip_set_of(path: Path) -> Path | None:
    """The folder of a chip set: a path, or the one that `natmap frames` cut in it; None: none."""
    for folder in (path, path / CUT):
        if (folder / "zarr.json").is_file() and (folder / "chips" / "x").is_dir():
            return folder
    return None


def open_chips(path: str | Path) -> ChipSet:
    """Open a chip set; images stay on disk.

    Raises
    ------
    LabelError
    """
    try:
        group: Any = zarr.open_group(str(path), mode="r")["chips"]
        arrays = {name: np.asarray(group[name][:]) for name in ("xy", "place", "split")}
        bands, places = tuple(group.attrs["bands"]), tuple(group.attrs["places"])
        seen, metres = group.get("seen"), float(group.attrs.get("resolution", 1.0))
        return ChipSet(
            group["x"],
            group["y"],
            **arrays,
            bands=bands,
            places=places,
            seen=seen,
            resolution=metres,
            ranges={k: (low, high) for k, (low, high) in group.attrs.get("ranges", {}).items()},
            crs=group.attrs.get("crs"),
        )
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise LabelError("the chip set cannot be read", got=f"{path}: {error}") from error


def import_ugset(folder: str | Path) -> ChipSet:
    """UGSet, or a set laid out like it, as a chip set in memory.

    Images and masks are told by the names of their folders (``train/images``, ``train/labels`` and
    so on) and belong together by the names of their files. Masks are 0 and 255.

    Parameters
    ----------
    folder : with ``train``, ``val`` and ``test``, or at least one of them.

    Raises
    ------
    LabelError
        Where a folder, an image or its mask is missing, sizes differ, or a mask has other values.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise LabelError("there is no such folder of chips", got=str(folder))
    files: list[tuple[Path, Path]] = []
    split: list[int] = []
    for number, name in enumerate(SPLITS):
        part = _named(folder, _FOLDERS[name])
        if part is None:
            continue
        pictures, labels = _named(part, _IMAGES), _named(part, _MASKS)
        if pictures is None or labels is None:
            raise LabelError(
                "a split lacks its images or its masks",
                got=", ".join(sorted(p.name for p in part.iterdir())),
                expected=f"one of {', '.join(_IMAGES)} and one of {', '.join(_MASKS)}",
            )
        beside = {path.stem: path for path in labels.iterdir() if path.is_file()}
        for path in sorted(p for p in pictures.iterdir() if p.is_file()):
            if path.stem not in beside:
                raise LabelError("an image has no mask", got=f"{name}: {path.name}")
            files.append((path, beside[path.stem]))
            split.append(number)
    if not files:
        raise LabelError(
            "there are no splits in the folder",
            got=str(folder),
            expected="train, val and test, each with images and masks",
        )
    n = len(files)
    side = _read(files[0][0], 3).shape[1:]
    # filled in place: they are gigabytes, and a list of them stacked would be twice as many
    images, masks = np.empty((n, 3, *side), np.uint8), np.empty((n, *side), np.uint8)
    for k, (path, beside_it) in enumerate(files):
        image, mask = _read(path, 3), _binary(_read(beside_it, 1)[0], beside_it)
        if image.shape[1:] != side or mask.shape != side:
            raise LabelError(
                "images and masks are not of one size",
                got=f"{path.name}: {image.shape[1:]}, its mask {mask.shape}",
                expected=str(side),
            )
        images[k], masks[k] = image, mask
    return ChipSet(
        images,
        masks,
        np.full((n, 2), np.nan),
        np.zeros(n, np.uint16),
        np.array(split, np.uint8),
        _RGB,
        (folder.name,),
    )


def require_masks(masks: npt.NDArray[Any], name: str, codes: Sequence[int] = (0, 1)) -> None:
    """Refuse masks with other values than the classes' codes and 255.

    Raises
    ------
    LabelError
    """
    strange = sorted(set(np.unique(masks).tolist()) - {*codes, UNKNOWN})
    if strange:  # fractions among them
        told = ", ".join(map(str, codes))
        raise LabelError(
            f"labels of {name} have other values than they may",
            got=", ".join(map(str, strange[:8])),
            expected="1 green, 0 not, 255 unknown"
            if tuple(codes) == (0, 1)
            else f"{told}, or a code that is ignored; 255 unknown",
        )


def unsplit(n: int) -> npt.NDArray[np.uint8]:
    """Of chips that are in no split yet."""
    return np.full(n, UNUSED, np.uint8)


def _rows(array: Any, rows: npt.NDArray[np.intp]) -> Any:
    """Some rows, in memory; of a Zarr array no more than the chunks that hold them is read."""
    return array.oindex[rows] if isinstance(array, zarr.Array) else array[rows]


def _named(folder: Path, names: Iterable[str]) -> Path | None:
    inside = {p.name.lower(): p for p in sorted(folder.iterdir()) if p.is_dir()}
    return next((inside[name.lower()] for name in names if name.lower() in inside), None)


def _read(path: Path, bands: int) -> npt.NDArray[np.uint8]:
    try:
        with rasterio.open(path) as file:
            if file.count < bands or file.dtypes[0] != "uint8":
                raise LabelError(
                    "a file is not an 8-bit picture",
                    got=f"{path.name}: {file.count} bands of {file.dtypes[0]}",
                    expected=f"{bands} bands of uint8",
                )
            found: npt.NDArray[np.uint8] = file.read(list(range(1, bands + 1)))
            return found
    except rasterio.errors.RasterioError as error:
        raise LabelError("a picture cannot be read", got=f"{path.name}: {error}") from error


def _binary(mask: npt.NDArray[np.uint8], path: Path) -> npt.NDArray[np.uint8]:
    strange = sorted(set(np.unique(mask).tolist()) - {0, 255})
    if strange:
        raise LabelError(
            "a mask has other values than it may",
            got=f"{path.name}: {', '.join(map(str, strange[:8]))}",
            expected="0 and 255",
        )
    found: npt.NDArray[np.uint8] = (mask == 255).astype(np.uint8)
    return found
