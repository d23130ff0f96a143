"""What systems say of a patch set's patches: models by their scores, maps at the patches' centres.

Patches are read by chunks, so memory does not grow with the set. What a model says can be kept, by
the model's key and the set's files: a comparison that is broken off goes on where it was.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from pyproj.exceptions import CRSError

from engine.compare.cells import meaning_of, values_at
from engine.compare.systems import GRAPHS, System
from engine.datasets.patches import PatchSet
from engine.errors import CardError, MetricError
from engine.files import together
from engine.grid.moving import move_of
from engine.infer.examples import score_parts
from engine.infer.fuse import fuse
from engine.labels.rasters import require_plain
from engine.labels.sampling import SAMPLE
from engine.models.card import ModelCard
from engine.recipes.sections import Instances

__all__ = ["Scores", "at_points", "require_patches"]

_CHUNK = 1024  # patches that are read at once, as they lie in a set
_SCORES = "scores"

Codes = npt.NDArray[np.int64]


def require_patches(system: System, patches: PatchSet) -> None:
    """Refuse a model that is not fed such patches.

    Raises
    ------
    CardError
    """
    for card in system.cards:
        if card.architecture == GRAPHS:
            _require_graphs(card, patches)
            continue
        missing = [band for band in card.bands if band not in patches.bands]
        if missing:
            raise CardError(
                f"model {card.name} needs bands that the patches lack",
                got=", ".join(patches.bands),
                expected=", ".join(card.bands),
            )
        if (card.patch, card.resolution) != (patches.patch, patches.resolution):
            raise CardError(
                f"model {card.name} is fed other patches",
                got=f"{patches.patch} px of {patches.resolution:g} m",
                expected=f"{card.patch} px of {card.resolution:g} m",
            )
        if card.context > patches.context:
            raise CardError(
                f"model {card.name} looks farther beyond a patch than the set shows",
                got=f"{patches.context} px",
                expected=f"{card.context} px or more",
                remedy="cut the patches again with a larger context",
            )


def _require_graphs(card: ModelCard, patches: PatchSet) -> None:
    if patches.nodes is None:
        raise CardError(
            f"model {card.name} is fed graphs, and the patch set has none",
            remedy="cut the patches from recipes with images",
        )
    for key, value in (patches.instances or {}).items():
        made = card.parameters.get(key, Instances.model_fields[key].default)
        if made != value:
            raise CardError(
                f"model {card.name} was trained on other instances",
                got=f"{key}: {value}",
                expected=f"{key}: {made}",
            )


class Scores:
    """What systems say of patches.

    Parameters
    ----------
    patches : PatchSet
    where : positions of those that are asked about, ascending.
    source : folder of the set.
    keep : folder in which what models say is kept; None: nowhere.
    tell : hears of each system.
    """

    def __init__(
        self,
        patches: PatchSet,
        where: npt.NDArray[np.intp],
        source: Path,
        keep: Path | None,
        tell: Callable[[str], None],
    ) -> None:
        self.patches, self.where, self.keep, self.tell = patches, where, keep, tell
        self._set = _fingerprint(source, where) if keep is not None else ""

    def of(self, system: System) -> Codes:
        """The code that a system gives each patch, 0 for none: (n,).

        Raises
        ------
        MetricError, CardError, WeightsError
        """
        if system.raster is not None:
            self.tell(f"{system.name}: its map at the patches' centres")
            return self._on_map(system.raster)
        name = hashlib.sha256(f"{system.key} {self._set}".encode()).hexdigest()[:32]
        kept = None if self.keep is None else self.keep / _SCORES / f"{name}.npy"
        if kept is not None and (found := _read(kept, len(self.where))) is not None:
            self.tell(f"{system.name}: kept from before")
            return found
        self.tell(f"{system.name}: {len(self.where)} patches")
        codes = np.concatenate([np.zeros(0, np.int64), *self._classes(system)])
        if kept is not None:
            with together(kept.parent) as part:
                np.save(part / kept.name, codes.astype(np.uint8))
        return codes

    def _classes(self, system: System) -> Iterator[Codes]:
        streams = [score_parts(card, self._parts(card)) for card in system.cards]
        classes = np.array(system.cards[0].classes)
        for number, scores in enumerate(zip(*streams, strict=True)):
            if system.cards[-1].architecture == GRAPHS:
                empty = ~np.any(self._nodes(number), axis=(1, 2))
                scores[-1][empty] = np.nan
            if system.weight is not None:
                found = fuse(scores[0], scores[1], system.weight)
            else:
                found = np.mean(scores, axis=0, dtype=np.float64)
            good = np.asarray(np.isfinite(found).all(axis=1))
            best = np.where(good[:, None], found, 0).argmax(axis=1)
            yield np.where(good, classes[best], 0).astype(np.int64)

    def _chunks(self) -> list[npt.NDArray[np.intp]]:
        ends = np.flatnonzero(np.diff(self.where // _CHUNK)) + 1
        return np.split(self.where, ends)

    def _nodes(self, number: int) -> npt.NDArray[Any]:
        where = self._chunks()[number]
        first = int(where[0])
        part = np.asarray(self.patches.nodes[first : int(where[-1]) + 1])
        found: npt.NDArray[Any] = part[where - first]
        return found

    def _parts(self, card: ModelCard) -> Iterator[npt.NDArray[Any]]:
        for number, where in enumerate(self._chunks()):
            if card.architecture == GRAPHS:
                yield self._nodes(number)
            else:
                order = [self.patches.bands.index(band) for band in card.bands]
                yield self.patches.take(where, card.context)[:, order]

    def _on_map(self, raster: Path) -> Codes:
        found = np.zeros(len(self.where), np.int64)
        xy, place = self.patches.xy[self.where], self.patches.place[self.where]
        for number, own in enumerate(self.patches.places):
            here = np.flatnonzero((place == number) & np.isfinite(xy).all(axis=1))
            if len(here):
                found[here] = at_points(raster, xy[here], own.crs)
        return found


def at_points(raster: Path, xy: npt.NDArray[np.float64], crs: str) -> Codes:
    """The code of the cell that each point lies in, 0 where there is none.

    Parameters
    ----------
    raster : of codes 1 to 17.
    xy : float64 (n, 2), in `crs`.

    Raises
    ------
    MetricError
        Where the raster or the CRS cannot be used, or it holds other codes.
    """
    try:
        with rasterio.open(raster) as file:
            require_plain(file, MetricError)
            if file.crs is None:
                raise MetricError("the map does not say which CRS it is in", got=raster.name)
            try:
                move = move_of(crs, file.crs.to_wkt())
            except CRSError as error:
                raise MetricError(
                    "patches do not say in which CRS their centres are",
                    got=crs,
                    expected="a CRS, as EPSG:32633",
                    remedy="compare models alone on this set",
                ) from error
            there = xy if move is None else move.points(xy)
            good = np.asarray(np.isfinite(there).all(axis=1))
            across, down = ~file.transform * np.where(good[:, None], there, 0).T
            inside = good & (across >= 0) & (across < file.width)
            inside &= (down >= 0) & (down < file.height)
            cells = np.zeros(int(inside.sum()), SAMPLE)
            cells["row"], cells["col"] = np.floor(down[inside]), np.floor(across[inside])
            found = np.zeros(len(xy), np.int64)
            silent = (0,) if file.nodata is None else (0, file.nodata)
            found[inside] = meaning_of(silent, f"map {raster.name}")(values_at(file, cells)) + 1
            return found
    except rasterio.errors.RasterioError as error:
        raise MetricError("a map cannot be read", got=error) from error


def _fingerprint(source: Path, where: npt.NDArray[np.intp]) -> str:
    """Of a set's files and of the patches that are asked about."""
    digest = hashlib.sha256(where.astype(np.int64).tobytes())
    for path in sorted(path for path in source.rglob("*") if path.is_file()):
        told = path.stat()
        line = f"{path.relative_to(source).as_posix()} {told.st_size} {told.st_mtime_ns}\n"
        digest.update(line.encode())
    return digest.hexdigest()


def _read(path: Path, count: int) -> Codes | None:
    """What was kept; None where it is not there or not whole."""
    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    whole = found.shape == (count,) and found.dtype == np.uint8 and found.max(initial=0) <= 17
    return found.astype(np.int64) if whole else None
