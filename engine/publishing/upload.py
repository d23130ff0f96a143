"""A product folder into a bucket."""

from __future__ import annotations

import json
import mimetypes
from pathlib import Path
from typing import Any

import obstore

from engine.errors import PublishError
from engine.publishing.report import SCHEMA
from engine.store.location import Bucket

__all__ = ["upload"]

_MARK = ".natmap-upload"
_LAST = ("collection.json", "report.json")
_COG = "image/tiff; application=geotiff; profile=cloud-optimized"


def upload(folder: Path, target: Bucket) -> None:
    """Copy a finished product's files to a prefix.

    A bucket has no rename: files are replaced one by one, the rasters first, the collection and
    the report last, and what natmap wrote of the old product and the new one does not have is
    removed at the end. A mark that goes
    first, with a list of all that natmap wrote, and is removed last, lets the next upload take over
    from one that was killed.

    Parameters
    ----------
    folder : as `write_product` left it.
    target : Bucket

    Raises
    ------
    PublishError
        Where the prefix holds something else than a product.
    StoreError
        Where the bucket refuses.
    """
    objects, prefix = target.objects, f"{target.prefix}/"
    with target.errors("read"):
        old = {o["path"] for part in obstore.list(objects, prefix=prefix) for o in part}
    written = _written(objects, prefix, old)
    if old and written is None:
        raise PublishError(
            "the product's prefix holds something else",
            got=target,
            expected="a product of natmap, or nothing",
            remedy="name another prefix in `publish`",
        )
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    files.sort(key=lambda path: path.name in _LAST)
    names = {prefix + path.relative_to(folder).as_posix(): path for path in files}
    clash = (old - (written or set())) & names.keys()
    if clash:
        raise PublishError(
            "objects that natmap did not write have names of the product's",
            got=", ".join(sorted(clash)[:5]),
            remedy="move them away, or name another prefix in `publish`",
        )
    ours = sorted((written or set()) | names.keys())
    with target.errors("written"):
        obstore.put(objects, prefix + _MARK, json.dumps(ours).encode())
        for name, path in names.items():
            kind = _COG if path.suffix == ".tif" else mimetypes.guess_type(path.name)[0]
            attributes = {"Content-Type": kind or "application/octet-stream"}
            obstore.put(objects, name, path, attributes=attributes)
        gone = old & (written or set()) - names.keys()
        obstore.delete(objects, sorted(gone | {prefix + _MARK}))


def _written(objects: Any, prefix: str, there: set[str]) -> set[str] | None:
    """Objects that natmap wrote, by the product's report, or by the mark of an upload that was
    killed; None where there is neither."""
    if prefix + _MARK in there:
        try:
            listed = json.loads(bytes(obstore.get(objects, prefix + _MARK).bytes()))
            return {str(name) for name in listed} | {prefix + _MARK}
        except (ValueError, TypeError):  # a mark of somebody else's
            return None
    if f"{prefix}report.json" not in there:
        return None
    try:
        report = json.loads(bytes(obstore.get(objects, f"{prefix}report.json").bytes()))
        if report["schema"] != SCHEMA:
            return None
        if (listed := report.get("contents")) is not None:
            return {prefix + str(name) for name in listed}
        # of before reports listed them: what bears the product's name, and the files all have
        own = (f"{prefix}{report['name']}", f"{prefix}items/{report['name']}")
        plain = {f"{prefix}{name}" for name in ("report.json", "preview.png", "collection.json")}
        return {path for path in there if path.startswith(own)} | plain
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
