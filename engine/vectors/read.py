"""The one reader of vector files: what a file is follows from its content, not from its name."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyogrio
import shapely
from pyogrio.errors import DataLayerError, DataSourceError
from pyproj import CRS
from pyproj.exceptions import CRSError

from engine.errors import LabelError, NatmapError
from engine.vectors.geojson import parse_geojson
from engine.vectors.kml import parse_kml
from engine.vectors.layers import Layer, Vectors

__all__ = ["FORMS", "file_of", "files_of", "form_of", "named_layer", "read_vectors"]

FORMS = "GeoJSON, KML, KMZ, GeoPackage, FlatGeobuf or a shapefile, or a ZIP of these"

Box = tuple[float, float, float, float]
Near = Callable[[CRS], Sequence[Box] | None]
"""Boxes in a layer's CRS outside of which nothing is needed; None: all is."""

_MOST_BYTES = 200 << 20  # of a document that is parsed
_MOST_UNPACKED = 2 << 30  # of an archive
_MOST_INNER = 1000  # files of an archive
_MAGIC = {
    b"SQLite format 3\0": "GPKG",
    b"\x00\x00\x27\x0a": "ESRI Shapefile",
    b"fgb\x03": "FlatGeobuf",
    b"PK\x03\x04": "ZIP",
    b"PK\x05\x06": "ZIP",
}
_INNER = (
    ".kml", ".json", ".geojson", ".geojsonl", ".geojsons", ".ndjson", ".jsonl", ".gpkg", ".fgb",
    ".shp",
)  # fmt: skip
_APART = (
    ".zip", ".kmz", ".7z", ".gz", ".tar", ".gml", ".tab", ".mif", ".dxf", ".dgn", ".parquet",
    ".geoparquet", ".sqlite", ".gdbtable", ".topojson", ".wkt",
)  # fmt: skip
"""What an archive may hold beside, or in place of, forms that are read: it is no small print."""
_BESIDE = (".dbf", ".prj", ".cpg", ".shx")
_BROKEN = (
    DataLayerError, DataSourceError, OSError, UnicodeDecodeError, ValueError, NotImplementedError,
    RuntimeError, CRSError, shapely.errors.ShapelyError, zipfile.BadZipFile,
)  # fmt: skip


class _File(NamedTuple):
    """A file, or one inside of an archive: its name, where GDAL finds it, and its bytes."""

    name: str
    address: str
    read: Callable[[int], bytes]


def file_of(path: str | Path) -> Path:
    """The file of an address such as ``file.gpkg#layer``."""
    return _parted(Path(path))[0]


def named_layer(path: str | Path) -> str | None:
    """The layer that an address such as ``file.gpkg#layer`` names."""
    return _parted(Path(path))[1]


def files_of(path: str | Path) -> list[Path]:
    """All files that decide what an address holds: shapefiles and rasters have some beside."""
    file = file_of(path)
    beside = [Path(f"{file}{end}") for end in (".aux.xml", ".msk")]  # of rasters
    if file.suffix.lower() == ".shp":
        beside += [file.with_suffix(end) for end in (*_BESIDE, *map(str.upper, _BESIDE))]
    return [file, *(other for other in beside if other.is_file())]


def read_vectors(
    path: str | Path,
    *,
    wanted: Callable[[str], bool] = lambda name: False,
    near: Near = lambda crs: None,
    refuse: type[NatmapError] = LabelError,
    what: str = "polygon file",
) -> Vectors:
    """All layers, folders and inner files of a file, or the one that ``path#layer`` names.

    Parameters
    ----------
    path : its form is recognised by its first bytes.
    wanted : which fields are read; by default none, so that only geometries matter.
    near : where only a part is needed.
    refuse : class of the errors.
    what : the file is called in them.

    Raises
    ------
    NatmapError
        Of the class `refuse`: where there is no such file or layer, or it cannot be read.
    """
    file, layer = _parted(Path(path))
    if not file.is_file():
        raise refuse(f"there is no such {what}", got=path)
    with _refusing(file.name, refuse, what):
        found = Vectors(file.name, [])
        for inner in _opened(file, refuse):
            layers, notes = _layers(inner, wanted, near)
            found.layers += layers
            found.notes += notes
    if layer is not None:
        known = [each.name for each in found.layers]
        found.layers = [each for each in found.layers if each.name == layer]
        if not found.layers:
            raise refuse(
                f"{file.name} has no layer of that name", got=layer, expected=", ".join(known)
            )
    elif len(found.layers) > 1 and not any(each.path for each in found.layers):
        names = ", ".join(each.name for each in found.layers)
        found.notes.append(
            f"{file.name} has {len(found.layers)} layers, all are read: {names}; "
            f"one alone is {file.name}#NAME"
        )
    return found


def _parted(path: Path) -> tuple[Path, str | None]:
    """A file, and the layer of it that is named; a file whose own name has a # goes before."""
    if "#" not in path.name or path.is_file():
        return path, None
    name, _, layer = path.name.partition("#")
    return path.with_name(name) if name else path, layer


@contextmanager
def _refusing(name: str, refuse: type[NatmapError], what: str) -> Iterator[None]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # GDAL's, of names and ring directions
            yield
    except NatmapError:
        raise
    except _BROKEN as error:
        text = " ".join(str(error).split()) or type(error).__name__
        raise refuse(
            f"the {what} cannot be read", got=f"{name}: {text[:300]}", expected=FORMS
        ) from error


def _opened(path: Path, refuse: type[NatmapError]) -> Iterator[_File]:
    """The file itself, or those that an archive holds."""
    with path.open("rb") as file:
        head = file.read(16)
    if form_of(head) != "ZIP":

        def whole(most: int) -> bytes:
            with path.open("rb") as file:
                return file.read(most)

        yield _File(path.name, str(path), whole)
        return
    with zipfile.ZipFile(path) as archive:
        inside = [info for info in archive.infolist() if not info.is_dir()]
        size = sum(info.file_size for info in inside)
        if len(inside) > _MOST_INNER or size > _MOST_UNPACKED:
            raise refuse(
                "the archive is too large",
                got=f"{path.name}: {len(inside)} files, {size >> 20} MB unpacked",
                expected=f"up to {_MOST_INNER} files and {_MOST_UNPACKED >> 20} MB",
                remedy="split it",
            )
        if any(info.flag_bits & 1 for info in inside):
            raise refuse(
                "the archive is encrypted", got=path.name, remedy="write it without a password"
            )
        inside = [info for info in inside if not _is_litter(info)]
        taken = [info for info in inside if info.filename.lower().endswith(_INNER)]
        apart = [info for info in inside if info.filename.lower().endswith(_APART)]
        if apart:
            raise refuse(
                "the archive holds what is not read from inside of one",
                got=f"{path.name}: {', '.join(info.filename for info in apart[:5])}",
                expected="GeoJSON, KML, GeoPackage, FlatGeobuf or shapefiles",
                remedy="unpack it; write what is in another form as GeoPackage, or leave it out",
            )
        if not taken:
            kind = "KMZ" if path.suffix.lower() == ".kmz" else "archive"
            expected = "KML" if kind == "KMZ" else FORMS
            raise refuse(f"the {kind} holds no {expected}", got=path.name, expected=expected)
        for info in taken:

            def member(most: int, info: zipfile.ZipInfo = info) -> bytes:
                with archive.open(info) as file:
                    return file.read(most)  # what the archive says of its size may be a lie

            yield _File(info.filename, f"/vsizip/{{{path.absolute()}}}/{info.filename}", member)


def _is_litter(info: zipfile.ZipInfo) -> bool:
    """Whether a file is what macOS puts beside each file of an archive."""
    parts = Path(info.filename).parts
    return "__MACOSX" in parts or parts[-1].startswith("._")


def form_of(head: bytes) -> str:
    """What a file is by its first bytes."""
    for magic, form in _MAGIC.items():
        if head.startswith(magic):
            return form
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip(b"\x1e \t\r\n")
    if text[:1] in (b"{", b"["):
        return "GeoJSON"
    if text[:1] == b"<" or head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "KML"
    raise ValueError(f"its content is in none of the forms that are read ({FORMS})")


def _layers(
    file: _File, wanted: Callable[[str], bool], near: Near
) -> tuple[list[Layer], list[str]]:
    form = form_of(file.read(512))
    name = Path(file.name).name
    if form in ("GeoJSON", "KML"):
        text = file.read(_MOST_BYTES + 1)
        if len(text) > _MOST_BYTES:
            raise ValueError(
                f"{name} is too large: over {_MOST_BYTES >> 20} MB; write it as GeoPackage"
            )
        return (parse_geojson if form == "GeoJSON" else parse_kml)(text, name, wanted)
    if form == "ZIP":
        raise ValueError("an archive within an archive")
    found: list[Layer] = []
    others: list[str] = []
    for layer, kind in pyogrio.list_layers(file.address):
        told = _info(file.address, layer)
        if told["driver"] != form:
            raise ValueError(f"it is not a {form}, but {told['driver']}")
        if kind is None or any(word in kind for word in ("Point", "LineString")):
            others.append(f"layer {layer} of {name} is left out: {kind or 'no geometries'}")
            continue
        found.append(_layer(file.address, layer, told, wanted, near))
    return found, others


def _layer(
    address: str,
    layer: str,
    told: dict[str, Any],
    wanted: Callable[[str], bool],
    near: Near,
) -> Layer:
    crs = None if told["crs"] is None else CRS.from_user_input(told["crs"])
    if crs is not None and crs.name.startswith("Undefined "):  # GeoPackage's way to say so
        crs = None
    if crs is not None and not (crs.is_geographic or crs.is_projected):
        raise ValueError(f"layer {layer} is in {crs.name}, which is no place on Earth")
    names = tuple(str(name) for name in told["fields"])
    columns = [name for name in names if wanted(name)]
    boxes = None if crs is None else near(crs)
    seen: set[int] = set()
    shapes: list[Any] = []
    fields: dict[str, list[Any]] = {name: [] for name in columns}
    for box in [None] if boxes is None else boxes:
        meta, fids, raw, values = pyogrio.raw.read(
            address, layer=layer, columns=columns, bbox=box, return_fids=True,
            encoding=told["encoding"],
        )  # fmt: skip
        new = np.array([fid not in seen for fid in fids.tolist()], bool)
        seen.update(fids.tolist())
        shapes += shapely.from_wkb(raw[new], on_invalid="fix").tolist()
        for name, column in zip(meta["fields"], values, strict=True):
            fields[str(name)] += _plain(column[new])
    total = int(told["features"])
    if total < 0 and not shapes:  # some forms do not say, and have to be counted
        total = pyogrio.read_info(address, layer=layer, force_feature_count=True)["features"]
    return Layer(
        layer,
        shapes,
        fields,
        names,
        crs,
        partial=boxes is not None,
        total=total if total >= 0 else None,
    )


def _info(address: str, layer: str) -> dict[str, Any]:
    """What is known of a layer; where its encoding is a wrong one, as if all bytes were letters."""
    try:
        told: dict[str, Any] = pyogrio.read_info(address, layer=layer)
    except UnicodeDecodeError:
        told = pyogrio.read_info(address, layer=layer, encoding="ISO-8859-1")
    return told


def _plain(column: npt.NDArray[Any]) -> list[Any]:
    """Values as Python's own, None where there is none."""
    return [None if value != value else value for value in column.tolist()]
