"""A product folder into a bucket."""

from __future__ import annotations

import mimetypes
from pathlib import Path

import obstore

from engine.errors import PublishError
from engine.store.location import Bucket

__all__ = ["upload"]

_MARK = ".natmap-upload"
_LAST = ("collection.json", "report.json")
_COG = "image/tiff; application=geotiff; profile=cloud-optimized"


def upload(folder: Path, target: Bucket) -> None:
    """Copy a finished product's files to a prefix.

    A bucket has no rename: files are replaced one by one, the rasters first, the collection and
    the report last, and what the new product does not have is removed at the end. A mark that goes
    first and is removed last lets the next upload take over from one that was killed.

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
    if old and not old & {f"{prefix}report.json", prefix + _MARK}:
        raise PublishError(
            "the product's prefix holds something else",
            got=target,
            expected="a product of natmap, or nothing",
            remedy="name another prefix in `publish`",
        )
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    files.sort(key=lambda path: path.name in _LAST)
    names = {prefix + path.relative_to(folder).as_posix(): path for path in files}
    with target.errors("written"):
        obstore.put(objects, prefix + _MARK, b"natmap writes a product here\n")
        for name, path in names.items():
            kind = _COG if path.suffix == ".tif" else mimetypes.guess_type(path.name)[0]
            attributes = {"Content-Type": kind or "application/octet-stream"}
            obstore.put(objects, name, path, attributes=attributes)
        obstore.delete(objects, sorted(old - names.keys() | {prefix + _MARK}))
