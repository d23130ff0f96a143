"""Rasters of the product that is replaced, taken over where nothing that made them changed.

A nation's product is hundreds of sheets; a new date changes a few. A raster is taken over if it was
made from the same tiles, by their digests in the ledger, in the same form, and if its bytes are
still those that were written.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

import rasterio
from odc.geo.geobox import GeoBox

from engine.publishing.forms import Layer

__all__ = ["Rasters", "Stamp", "sha256_of"]

Stamp = Callable[[str, slice, slice], bytes]
"""(key of a layer, rows, columns) in the layer's own pixels -> what decides its values there."""

_FORM = 2  # raised whenever rasters are written otherwise


class Rasters:
    """What is known of a product's rasters, by the name of the file.

    Parameters
    ----------
    old : the folder that is replaced; it need not exist.
    stamp : tells what decides a part of a layer; None: nobody knows, and nothing is taken over.

    Attributes
    ----------
    found : of each raster ``made_from`` (None where nobody knows) and ``sha256``.
    """

    def __init__(self, old: Path, stamp: Stamp | None) -> None:
        self._old, self._stamp = old, stamp
        self.found: dict[str, dict[str, str | None]] = {}
        try:
            known = json.loads((old / "report.json").read_text(encoding="utf-8"))["files"]
            self._known = {str(name): dict(entry) for name, entry in known.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            self._known = {}

    def write(
        self,
        path: Path,
        layer: Layer,
        box: GeoBox,
        part: tuple[slice, slice],
        tags: Mapping[str, str],
        write: Callable[[], None],
    ) -> None:
        """Take a raster over, or write it.

        Parameters
        ----------
        path : of the new file; `layer`, `box` and `tags` decide its form, `part` (rows, columns of
            the layer) its values.
        write : writes it.
        """
        made_from = None
        if self._stamp is not None:
            form = [_FORM, rasterio.__gdal_version__, asdict(layer), str(box.crs)]
            place = [list(box.transform)[:6], list(box.shape), dict(tags)]
            told = json.dumps([*form, *place], sort_keys=True, default=str).encode()
            made_from = hashlib.sha256(told + self._stamp(layer.key, *part)).hexdigest()
        if not self._take(path, made_from):
            write()
            self.found[path.name] = {"made_from": made_from, "sha256": sha256_of(path)}

    def _take(self, path: Path, made_from: str | None) -> bool:
        known, old = self._known.get(path.name), self._old / path.name
        if made_from is None or known is None or known.get("made_from") != made_from:
            return False
        try:
            if old.is_symlink() or sha256_of(old) != known.get("sha256"):
                return False  # somebody changed it since
            _link(old, path)
        except OSError:
            path.unlink(missing_ok=True)
            return False
        self.found[path.name] = {"made_from": made_from, "sha256": known["sha256"]}
        return True


def _link(old: Path, new: Path) -> None:
    try:
        os.link(old, new)
    except OSError:  # a file system without links
        shutil.copy2(old, new)


def sha256_of(path: Path) -> str:
    """The digest of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
