"""Patches cut from a folder of images: squares from each image's first pixel, whole ones alone."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
import shapely
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window

from engine.errors import LabelError, first_line
from engine.grid.area import reproject
from engine.labels.rasters import read_shown, require_plain
from engine.similarity.source import NO_LABEL, Block
from engine.texture.scene_file import PIXELS_ALIKE, Kind

__all__ = ["ENDINGS", "FramePatches", "Picture", "require_rgb", "shown"]

ENDINGS = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".jp2")


class FramePatches:
    """Patches of the images of a folder; attributes as `engine.similarity.source.Patches` has them.

    Parameters
    ----------
    folder : of images, each of three bands or more of 8 or 16 bits.
    side : of a patch, in pixels.
    labels : folder of rasters of codes with the same names, pixel for pixel; None: there are none.
    bands : numbers of red, green and blue, from 1; by default those that a file calls so, else the
        first three.
    unknown : codes of the labels that say nothing, beside their nodata.

    Raises
    ------
    LabelError
        Where there are no images, one cannot be read, lacks bands, is smaller than a patch, or has
        no labels that fit.
    """

    split: npt.NDArray[np.uint8] | None = None
    at_pixels = True

    def __init__(
        self,
        folder: Path,
        side: int = 512,
        *,
        labels: Path | None = None,
        bands: Sequence[int] | None = None,
        unknown: Sequence[int] = (),
    ) -> None:
        if side < 1:
            raise LabelError("a patch has no pixels", got=side, expected="1 or more")
        self.name, self.side, self._unknown = folder.name, side, tuple(unknown)
        self.labelled = labels is not None
        files = sorted(p for p in folder.iterdir() if p.suffix.lower() in ENDINGS)
        if not files:
            raise LabelError(
                "there are no images in the folder", got=str(folder), expected=", ".join(ENDINGS)
            )
        self._files = [_Frame(path, bands) for path in files]
        kinds = {frame.kind for frame in self._files}
        if len(kinds) > 1:
            raise LabelError(
                "images have pixels of different types",
                got=", ".join(sorted(kinds)),
                expected="one type",
            )
        self.kind: Kind = "uint8" if kinds == {"uint8"} else "uint16"
        self._labels = None if labels is None else [_beside(f, labels) for f in self._files]
        self.frames = tuple(frame.path.name for frame in self._files)
        at, frame, small = [], [], []
        for number, one in enumerate(self._files):
            corners = [
                (row, col)
                for row in range(0, one.shape[0] - side + 1, side)
                for col in range(0, one.shape[1] - side + 1, side)
            ]
            at += corners
            frame += [number] * len(corners)
            small += [] if corners else [one.path.name]
        if not at:
            raise LabelError(
                "all images are smaller than a patch",
                got=f"{folder.name}: {', '.join(small[:4])}",
                expected=f"{side} x {side} px or more",
                remedy="name a smaller --side",
            )
        self.at = np.array(at, np.float64)
        self.frame = np.array(frame, np.int64)
        sizes = {frame.pixel for frame in self._files}
        self.pixel = sizes.pop() if len(sizes) == 1 else None
        self.notes = (*_notes(self._files), *([_left(small)] if small else []))

    def __len__(self) -> int:
        return len(self.frame)

    def grounds(self) -> npt.NDArray[np.int64]:
        """A number for each frame, the same for frames that show some of the same ground."""
        group = np.arange(len(self._files), dtype=np.int64)
        placed = [k for k, frame in enumerate(self._files) if frame.ground is not None]
        shapes: list[Any] = [self._files[k].ground for k in placed]
        tree = shapely.STRtree(shapes)
        for one, other in tree.query(shapes, predicate="intersects").T.tolist():
            least = min(shapes[one].area, shapes[other].area)
            # edges that touch share a sliver of rounding
            if one < other and shapes[one].intersection(shapes[other]).area > 1e-4 * least:
                mine, its = group[placed[one]], group[placed[other]]
                group[group == max(mine, its)] = min(mine, its)
        return group

    def blocks(self) -> Iterator[Block]:
        """The patches of a row of an image at a time, in order."""
        place = np.stack([self.frame, self.at[:, 0].astype(np.int64)], axis=1)
        ends = [0, *(np.flatnonzero((np.diff(place, axis=0) != 0).any(axis=1)) + 1), len(self)]
        for first, last in pairwise(ends):
            yield self.take(np.arange(first, last, dtype=np.int64))

    def take(self, rows: npt.NDArray[np.int64]) -> Block:
        """Some of them."""
        n, side = len(rows), self.side
        rgb = np.empty((n, 3, side, side), self._files[0].kind)
        valid = np.empty((n, side, side), bool)
        labels = None if self._labels is None else np.empty((n, side, side), np.uint8)
        for number in np.unique(self.frame[rows]).tolist():
            here = np.flatnonzero(self.frame[rows] == number)
            told = None if self._labels is None else self._labels[number]
            corners = self.at[rows[here]].astype(int).tolist()
            with _opened(self._files[number].path) as file:
                for k, (row, col) in zip(here, corners, strict=True):
                    window = Window(col, row, side, side)
                    rgb[k], valid[k] = self._files[number].read(file, window)
            if told is not None and labels is not None:
                with _opened(told) as file:
                    for k, (row, col) in zip(here, corners, strict=True):
                        labels[k] = _codes(file, Window(col, row, side, side), self._unknown)
        return Block(rows, rgb, valid, labels)

    def picture(self, block: Block, k: int) -> npt.NDArray[np.uint8]:
        """One of a block as it is shown: uint8 (side, side, 3); of 16 bits 2 to 98 % of it."""
        return shown(block.rgb[k])


class Picture:
    """One image as one patch: what a search is given.

    Raises
    ------
    LabelError
        Where it cannot be read or lacks bands.
    """

    def __init__(self, path: Path, bands: Sequence[int] | None = None) -> None:
        frame = _Frame(path, bands)
        with _opened(path) as file:
            self.rgb, self.valid = frame.read(file, None)
        self.name, self.pixel = path.name, frame.pixel


def shown(rgb: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Pixels as a picture: uint8 (rows, columns, 3); of 16 bits from 2 to 98 % of their values."""
    values = rgb.astype(np.float64)
    if rgb.dtype != np.uint8:
        low, high = np.percentile(values, [2, 98])
        values = 255 * np.clip((values - low) / max(high - low, 1), 0, 1)
    return np.ascontiguousarray(np.moveaxis(values.astype(np.uint8), 0, -1))


def require_rgb(file: Any, bands: Sequence[int] | None) -> list[int]:
    """Numbers of red, green and blue in a file.

    Raises
    ------
    LabelError
        Where it has fewer than three bands, or not those that are asked for.
    """
    colours = [k for k, use in enumerate(file.colorinterp, 1) if use != ColorInterp.alpha]
    if bands is not None and (len(bands) != 3 or not all(b in colours for b in bands)):
        raise LabelError(
            "an image does not have these bands",
            got=f"{Path(file.name).name}: {len(colours)} bands; asked for {list(bands)}",
            expected="three numbers: of red, green and blue, from 1",
        )
    if len(colours) < 3:
        raise LabelError(
            "an image lacks bands that make its brightness",
            got=f"{Path(file.name).name}: {len(colours)} bands",
            expected="red, green and blue",
        )
    if bands is not None:
        return list(bands)
    named = [ColorInterp.red, ColorInterp.green, ColorInterp.blue]
    uses = list(file.colorinterp)
    if all(use in uses for use in named):
        return [uses.index(use) + 1 for use in named]
    return colours[:3]


class _Frame:
    """An image's form, read from its header."""

    def __init__(self, path: Path, bands: Sequence[int] | None) -> None:
        self.path = path
        with _opened(path) as file:
            self._bands = require_rgb(file, bands)
            self.kind = str(file.dtypes[self._bands[0] - 1])
            if self.kind not in ("uint8", "uint16"):
                raise LabelError(
                    "an image has pixels of another type",
                    got=f"{path.name}: {self.kind}",
                    expected="uint8 or uint16",
                )
            self.shape = (int(file.height), int(file.width))
            self.crs, self.transform = file.crs, file.transform
            self.ground: Any = None
            self.pixel: float | None = None
            if file.crs is not None:
                box = shapely.box(*file.bounds)
                self.ground = reproject(box, file.crs.to_wkt(), "EPSG:4326")
                if file.crs.is_projected:
                    metres = file.crs.linear_units_factor[1]
                    self.pixel = float(np.sqrt(abs(file.transform.determinant))) * metres

    def read(
        self, file: Any, window: Window | None
    ) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
        """Red, green and blue (3, rows, columns), and where all three are there."""
        try:
            rgb = file.read(self._bands, window=window)
            valid = (file.read_masks(self._bands, window=window) > 0).all(axis=0)
        except RasterioError as error:
            raise LabelError(
                "an image cannot be read", got=f"{self.path.name}: {first_line(error)}"
            ) from error
        return rgb, valid


def _opened(path: Path) -> Any:
    try:
        with warnings.catch_warnings():  # a photo without a place is as good
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            return rasterio.open(path)
    except RasterioError as error:
        raise LabelError("an image cannot be read", got=first_line(error)) from error


def _beside(frame: _Frame, folder: Path) -> Path:
    """The labels of an image."""
    found = [p for e in ENDINGS if (p := folder / f"{frame.path.stem}{e}").is_file()]
    if not found:
        raise LabelError(
            "an image has no labels",
            got=frame.path.name,
            expected=f"{frame.path.stem}.tif in {folder}",
        )
    with _opened(found[0]) as file:
        require_plain(file, LabelError)
        placed = file.crs is not None and frame.crs is not None
        moved = placed and (
            file.crs != frame.crs or not file.transform.almost_equals(frame.transform, 1e-6)
        )
        if (file.height, file.width) != frame.shape or moved:
            raise LabelError(
                "labels do not lie on the pixels of their image",
                got=f"{found[0].name}: {file.height} x {file.width} px in {file.crs}",
                expected=f"{frame.shape[0]} x {frame.shape[1]} px in {frame.crs}",
                remedy="write them on the image's grid (gdalwarp -r near -te … -ts …)",
            )
    return found[0]


def _codes(file: Any, window: Window, unknown: Sequence[int]) -> npt.NDArray[np.uint8]:
    """Labels of a window, 255 where they say nothing."""
    values = read_shown(file, window).astype(np.float64)
    silent = ~np.isfinite(values)
    for code in [*unknown, *(() if file.nodata is None else (file.nodata,))]:
        silent |= values == code
    values = np.where(silent, NO_LABEL, values)
    odd = values[(values != np.round(values)) | (values < 0) | (values > NO_LABEL)]
    if len(odd):
        raise LabelError(
            "labels are not codes of classes",
            got=f"{Path(file.name).name}: {', '.join(map(str, np.unique(odd)[:4].tolist()))}",
            expected="whole numbers from 0 to 254, 255 unknown",
        )
    return values.astype(np.uint8)


def _notes(frames: Sequence[_Frame]) -> list[str]:
    sizes = [frame.pixel for frame in frames if frame.pixel is not None]
    if sizes and max(sizes) > PIXELS_ALIKE * min(sizes):
        return [
            f"images have pixels of {min(sizes):g} to {max(sizes):g} m: texture is of pixels, so "
            "scenes may be of pixel sizes"
        ]
    return []


def _left(names: Sequence[str]) -> str:
    return f"{len(names)} images are smaller than a patch: {', '.join(names[:4])}"
