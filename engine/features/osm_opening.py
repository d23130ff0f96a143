"""Opening an extract of OpenStreetMap: what its first bytes and its header say of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from engine.errors import ReadError, RecipeError, first_line, refusal_of

__all__ = ["Box", "Opened", "history", "open_extract", "refusing"]

Box = tuple[float, float, float, float]
"""West, south, east, north, in degrees."""

_MAGIC = ((b"\x1f\x8b", "osm.gz"), (b"BZh", "osm.bz2"))
_FORMS = ".osm.pbf, .osm, .osm.gz or .osm.bz2"


class Opened(NamedTuple):
    """A file of one version of each object.

    Attributes
    ----------
    osmium : the package.
    file : osmium.io.File
    box : that it says it covers; None where it does not say.
    timestamp : that its header has.
    """

    osmium: Any
    file: Any
    box: Box | None
    timestamp: datetime | None


def open_extract(path: Path) -> Opened:
    """Look at a file's form and header.

    Raises
    ------
    RecipeError
        Where osmium is not installed, there is no such file, or it is not what can be used.
    ReadError
        Where it is damaged.
    """
    osmium = _osmium()
    file = osmium.io.File(str(path.absolute()), _form_of(path))
    with refusing(path, osmium), osmium.io.Reader(file, osmium.osm.NOTHING) as reader:
        header = reader.header()
    if header.has_multiple_object_versions or ".osh" in path.name:
        raise history(path.name)
    found = header.box()
    box = None
    if found.valid():
        one, two = found.bottom_left, found.top_right
        box = one.lon, one.lat, two.lon, two.lat
    times = [_time(header.get(k, "")) for k in ("osmosis_replication_timestamp", "timestamp")]
    return Opened(osmium, file, box, next((time for time in times if time), None))


def history(name: str) -> RecipeError:
    """The refusal of a file that holds several versions of an object."""
    return RecipeError(
        "a file of OpenStreetMap holds the history of its objects",
        got=name,
        expected="one version of each object",
        remedy="take that of one day: osmium time-filter FILE 2017-06-01T00:00:00Z",
    )


@contextmanager
def refusing(path: Path, osmium: Any) -> Iterator[None]:
    """What osmium says of a damaged file, as natmap's error.

    Raises
    ------
    ReadError
    """
    try:
        yield
    except (RuntimeError, ValueError, OSError, osmium.InvalidLocationError) as error:
        if "ID twice" in str(error):
            raise history(path.name) from error
        raise refusal_of(error, ReadError) or ReadError(
            "an extract of OpenStreetMap cannot be read",
            got=f"{path.name}: {first_line(error)}",
            remedy="it may be damaged or cut short: get it again",
        ) from error


def _osmium() -> Any:
    """The package osmium, loaded where it is needed alone.

    Raises
    ------
    RecipeError
    """
    try:
        import osmium
    except ImportError as error:
        raise RecipeError(
            "reading OpenStreetMap needs a package that is not installed",
            got="no osmium",
            remedy='pip install "natmap[osm]", on workers too',
        ) from error
    return osmium


def _form_of(path: Path) -> str:
    """How osmium calls the form of a file, by its first bytes.

    Raises
    ------
    RecipeError
        Where there is no such file, or it is something else.
    """
    if not path.is_file():
        raise RecipeError("there is no such extract of OpenStreetMap", got=path)
    with path.open("rb") as file:
        head = file.read(64)
    for magic, form in _MAGIC:
        if head.startswith(magic):
            return form
    if b"OSMHeader" in head:
        return "pbf"
    if head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"<":
        return "osm"
    raise RecipeError(
        "a file is no extract of OpenStreetMap",
        got=f"{path.name}: {'empty' if not head else head[:16]!r}",
        expected=_FORMS,
    )


def _time(text: str) -> datetime | None:
    try:
        found = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
