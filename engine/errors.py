"""One tree of errors; each says what happened, what was got, what was expected, and the remedy.

::

    NatmapError
    ├── RecipeError          the recipe or the command is wrong
    ├── AreaError            the area cannot be mapped
    ├── GridError            CRS, tile and chunk do not fit together
    ├── CatalogError         the catalogue cannot be searched or its answer used
    ├── ItemError            one item cannot be used
    ├── ReadError            one asset cannot be read (``transient`` tells whether a retry may help)
    ├── CardError            a model, source or boundary card is wrong
    ├── WeightsError         weights are unsafe, damaged or of another model
    ├── StoreError           the store cannot be used
    │   ├── IdentityError    it belongs to another grid
    │   ├── LockedError      another driver is at work on it
    │   └── ChunkError       a task wrote chunks that are not its tile's own
    ├── RunError             the run cannot go on
    │   ├── DeviceError      a worker's GPU is not there, broken or too small
    │   └── SchedulerLostError  the scheduler is gone; what was committed is kept
    ├── LabelError           training areas or other labels cannot be used
    ├── MetricError          map and reference cannot be compared
    └── PublishError         the product cannot be written
"""

from __future__ import annotations

import errno
from typing import Any

from engine.addresses import public

__all__ = [
    "AreaError",
    "CardError",
    "CatalogError",
    "ChunkError",
    "DeviceError",
    "GridError",
    "IdentityError",
    "ItemError",
    "LabelError",
    "LockedError",
    "MetricError",
    "NatmapError",
    "PublishError",
    "ReadError",
    "RecipeError",
    "RunError",
    "SchedulerLostError",
    "StoreError",
    "WeightsError",
    "first_line",
    "refusal_of",
]

_REFUSALS: tuple[tuple[tuple[int, ...], tuple[str, ...], str, str], ...] = (
    (
        (errno.ENOSPC, errno.EDQUOT),
        (
            *("No space left", "os error 28)", "Disk quota exceeded", "os error 122)"),
            "unexpected pos",  # all that torch says of it
            "No usable temporary directory",
        ),
        "no room is left on a disk; what was finished is kept",
        "make room, then run the same command again",
    ),
    (
        (errno.EMFILE, errno.ENFILE),
        ("Too many open files", "os error 24)", "os error 23)"),
        "more files are open than this machine allows",
        "raise the limit (ulimit -n 4096), then run the same command again",
    ),
    (
        (errno.EACCES, errno.EPERM, errno.EROFS),
        ("Permission denied", "Read-only file system", "os error 13)", "os error 30)"),
        "a file or folder may not be read or written",
        "look at its owner and its rights, or name another place",
    ),
    (
        (errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.EBUSY, errno.EXDEV),
        (),
        "a file or folder cannot be made here",
        "name another place",
    ),
)
"""Numbers of the system, words of what passes through other languages, what it means, remedy."""


class NatmapError(Exception):
    """Base of every error that natmap raises on purpose; addresses in it hold no secrets.

    Parameters
    ----------
    what : str
        What happened, one sentence, no full stop.
    got, expected : object, optional
        Both sides of the disagreement, shown as they are.
    remedy : str, optional
        What the user can do about it.
    """

    def __init__(
        self, what: str, *, got: Any = None, expected: Any = None, remedy: str | None = None
    ) -> None:
        what, got, expected, remedy = public(what), public(got), public(expected), public(remedy)
        self.what, self.got, self.expected, self.remedy = what, got, expected, remedy
        lines = [what]
        if got is not None:
            lines.append(f"  got:      {got}")
        if expected is not None:
            lines.append(f"  expected: {expected}")
        if remedy is not None:
            lines.append(f"  remedy:   {remedy}")
        super().__init__(public("\n".join(lines)))

    def __reduce__(self) -> tuple[Any, ...]:
        # Errors travel from workers to the driver; keyword arguments need help to survive pickle.
        return _rebuild, (type(self), dict(self.__dict__))


def _rebuild(kind: type[NatmapError], state: dict[str, Any]) -> NatmapError:
    said = {name: state.pop(name) for name in ("what", "got", "expected", "remedy")}
    error = kind(said["what"], got=said["got"], expected=said["expected"], remedy=said["remedy"])
    error.__dict__.update(state)
    return error


class RecipeError(NatmapError):
    """The recipe or the command is wrong; said before anything runs."""


class AreaError(NatmapError):
    """The area cannot be mapped: empty, invalid, or unknown."""


class GridError(NatmapError):
    """CRS, origin, resolution, tile and chunk do not fit together."""


class CatalogError(NatmapError):
    """A catalogue cannot be searched, or its answer cannot be used."""


class ItemError(NatmapError):
    """One item cannot be brought into the normal form."""


class ReadError(NatmapError):
    """One asset cannot be read.

    Attributes
    ----------
    transient : bool
        True where a later try may succeed (a reset, a 503); False where it cannot (a 404, a
        damaged file, a wrong CRS).
    """

    def __init__(
        self,
        what: str,
        *,
        got: Any = None,
        expected: Any = None,
        remedy: str | None = None,
        transient: bool = False,
    ) -> None:
        super().__init__(what, got=got, expected=expected, remedy=remedy)
        self.transient = transient


class CardError(NatmapError):
    """A model, source or boundary card is wrong, or does not fit the cube."""


class WeightsError(NatmapError):
    """Weights are unsafe, damaged, or those of another model."""


class StoreError(NatmapError):
    """The store cannot be opened, read or written."""


class IdentityError(StoreError):
    """The store was made for another grid, band set or extent."""


class LockedError(StoreError):
    """Another driver is at work on the store."""


class ChunkError(StoreError):
    """A task wrote chunks that are not its tile's own; nothing of it was merged."""


class RunError(NatmapError):
    """The run cannot go on: no workers, or no worker offers what a stage needs."""


class DeviceError(RunError):
    """A worker's GPU is not there, broken, or too small for the network: no fault of the tile.

    Attributes
    ----------
    address, worker : of the worker, and its name; empty where it happened on none.
    """

    address = worker = ""


class SchedulerLostError(RunError):
    """The scheduler is gone; what was committed is kept, and a new one can go on."""


class LabelError(NatmapError):
    """Training areas or other labels that cannot be used."""


class MetricError(NatmapError):
    """Map and reference cannot be compared."""


class PublishError(NatmapError):
    """The product folder cannot be written."""


def first_line(error: BaseException) -> str:
    """What an error of somebody else's says, without the pages that some add."""
    lines = (line.strip() for line in public(str(error)).splitlines())
    return next((line for line in lines if line), type(error).__name__)


def refusal_of(error: BaseException, kind: type[NatmapError] = NatmapError) -> NatmapError | None:
    """What disk, rights or limits of this machine refused, in whichever library; None of others.

    Parameters
    ----------
    error : as it was raised; one of natmap's own has said what it has to say.
    kind : of the error that is made.
    """
    seen: BaseException | None = error
    while seen is not None and not isinstance(error, NatmapError):
        number, text = getattr(seen, "errno", None), str(seen)
        for numbers, words, what, remedy in _REFUSALS:
            if number in numbers or any(word in text for word in words):
                return kind(what, got=_told(seen, words), remedy=remedy)
        seen = seen.__cause__
    return None


def _told(error: BaseException, words: tuple[str, ...]) -> str:
    """The line of an error that says it: some libraries begin with what they were about."""
    lines = [line.strip(" |│×").removeprefix("x ") for line in public(str(error)).splitlines()]
    return next((line for line in lines if any(w in line for w in words)), first_line(error))
