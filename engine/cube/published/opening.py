"""What lies at a place: told by its files, or by whoever names it."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from urllib.parse import urlsplit

import icechunk
import zarr

from engine.addresses import is_http, public
from engine.cube.published.arrays import open_folder, reading
from engine.cube.published.cogs import files_below, published_files, published_index
from engine.cube.published.reader import Published
from engine.cube.published.remote import open_address
from engine.cube.published.stores import published_zarr
from engine.cube.published.tiles import published_tiles
from engine.errors import CatalogError, RecipeError
from engine.recipes.embeddings import Kind

__all__ = ["name_of", "open_published", "stamp_of"]

_LOOKED = 10_000  # files of a folder, to see what it is
_NEWER = re.compile(r"uses Icechunk v(\d+) format")
_TIFF = (".tif", ".tiff")


def open_published(
    place: str | Path | Iterable[str | Path], kind: Kind | None = None, base: Path | None = None
) -> Published:
    """Published embeddings as an `EmbeddingSource`.

    Parameters
    ----------
    place : a folder (Zarr, Icechunk, TESSERA's tiles, AlphaEarth's files), the address of a Zarr
        store (http, https), AlphaEarth's index (.parquet), or its files: one or several, paths or
        addresses.
    kind : what it is; by default what its files look like.
    base : folder of relative paths.

    Raises
    ------
    RecipeError
        Where it cannot be read from there, or nothing is there.
    CatalogError, ReadError
        Where it is not what it should be.
    """
    if not isinstance(place, str | Path):
        return published_files([_located(str(p), base) for p in place], "the files named")
    text = str(place)
    if is_http(text) and text.split("?")[0].lower().endswith(_TIFF):
        return published_files([text], text)
    if is_http(text) and kind in (None, "geoemb", "alphaearth-mosaic"):
        root = open_address(text)
        return published_zarr(root, name_of(text), mosaic=kind == "alphaearth-mosaic")
    if "://" in text:
        raise RecipeError(
            "published embeddings of this form are not read from there",
            got=public(text),
            expected="a folder of this machine; of Zarr and AlphaEarth's .tiff files also an "
            "address of http or https",
            remedy="a public bucket of S3 has an address of https; else copy the part that covers "
            "the area to a folder",
        )
    path = (base or Path()) / text
    if not path.exists():
        raise RecipeError("there are no published embeddings here", got=path)
    found = kind or _kind_of(path)
    if found == "tessera-tiles":
        return published_tiles(path)
    if found == "alphaearth":
        return _alphaearth(path)
    root = _repository(path) if found == "icechunk" else open_folder(path)
    return published_zarr(root, path.name, mosaic=found == "alphaearth-mosaic")


def name_of(place: str) -> str:
    """The last part of a path or an address, without its parameters."""
    return Path(urlsplit(place).path if is_http(place) else place).name


def stamp_of(place: str | Path) -> bytes:
    """What tells that a source is another one than before: names, sizes and times of its files.

    An address is its own stamp: a web server does not say whether a file is the one of yesterday.
    """
    text = str(place)
    known = hashlib.sha256(text.encode() if is_http(text) else b"")
    path = Path(text)
    if path.is_file():
        status = path.stat()
        known.update(f"{path.name} {status.st_size} {status.st_mtime_ns}".encode())
    for parent, folders, files in os.walk(path):
        folders.sort()
        for name in sorted(files):
            file = Path(parent, name)
            status = file.lstat()
            line = f"{file.relative_to(path)} {status.st_size} {status.st_mtime_ns}\n"
            known.update(line.encode("utf-8", "surrogateescape"))
    return known.digest()


def _located(text: str, base: Path | None) -> str:
    if is_http(text):
        return text
    if "://" in text:
        raise RecipeError(
            "published embeddings are not read from there",
            got=public(text),
            expected="a path, or https",
        )
    return str((base or Path()) / text)


def _kind_of(path: Path) -> Kind:
    if path.is_file():
        return "alphaearth"
    if (path / "zarr.json").exists() or (path / ".zgroup").exists():
        return "geoemb"
    if (path / "repo").is_file() or (path / "refs").is_dir():
        return "icechunk"
    suffixes = {p.suffix.lower() for p in islice(path.rglob("*"), _LOOKED)}
    if ".npy" in suffixes:
        return "tessera-tiles"
    if suffixes & {*_TIFF, ".parquet"}:
        return "alphaearth"
    raise CatalogError(
        "published embeddings of this form are not known",
        got=path,
        expected="Zarr (zarr.json), Icechunk (repo), TESSERA's tiles (.npy) or AlphaEarth's files "
        "(.tiff, aef_index.parquet)",
    )


def _alphaearth(path: Path) -> Published:
    if path.is_file():
        known = path.suffix.lower() == ".parquet"
        return published_index(path) if known else published_files([str(path)], path.name)
    index = path / "aef_index.parquet"
    return (
        published_index(index) if index.is_file() else published_files(files_below(path), str(path))
    )


def _repository(path: Path) -> zarr.Group:
    """The root of an Icechunk repository, at the tip of its branch main."""
    try:
        repo = icechunk.Repository.open(icechunk.local_filesystem_storage(str(path.resolve())))
        store = repo.readonly_session("main").store
    except icechunk.IcechunkError as error:
        newer = _NEWER.search(str(error))
        if newer is None and not _is_newer(path):
            with reading(f"the Icechunk repository {path}"):
                raise
        raise RecipeError(
            "the repository is in a format that the installed Icechunk cannot read",
            got=f"{path}: Icechunk {icechunk.__version__}",
            expected=f"Icechunk {newer[1] if newer else 2}",
            remedy="pip install 'icechunk>=2' (it needs Python 3.12 or newer)",
        ) from error
    with reading(f"the Icechunk repository {path}"):
        return zarr.open_group(store, mode="r", zarr_format=3, use_consolidated=False)


def _is_newer(path: Path) -> bool:
    """Whether a repository is of format 2: it has a file ``repo``, which 1 does not know."""
    return (path / "repo").is_file() and int(icechunk.__version__.split(".")[0]) < 2
