"""Mutations of JSON-like documents: one change of one value, decided by a seed alone."""

from __future__ import annotations

import copy
import random
import unicodedata
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["Place", "at", "flip", "mutate", "places"]

Place = tuple[str | int, ...]
"""Keys and positions from a document's root to a value."""

_NUMBERS: tuple[Any, ...] = (
    *(0, 1, -1, -0.0, 2**63, 10**400, 1e308, -1e308, 5e-324, float("nan"), float("inf")),
    *("0", "1", "-1", "NaN", "inf", "1e308", "1,5", "1_000", " 5 ", "٣", "5.09", "0x10", "1e400"),
)
_WORDS: tuple[str, ...] = (
    *("", " ", "x", "null", "true", "false", "e\u0301", "\u202eabc", "a\0b", "\ud800", "a\nb"),
    *("\x1b[31mred", "\ufeff", "{}", "[]", "🌍", "ﬁ", "İ", "%", "%s%n", "{0}", "$HOME", "~"),
)
_PATHS = (
    *("../../../../etc/passwd", "/etc/passwd", "%2e%2e/%2e%2e/etc/passwd", "file:///etc/passwd"),
    *(
        "/dev/zero",
        "/dev/stdin",
        "/proc/self/environ",
        "s3://bucket/key.tif",
        "gs://b/k",
        "vrt://x",
    ),
    *("/vsicurl/http://127.0.0.1:9/x", "/vsizip/x.zip/a", "http://[::1/x", "http://127.0.0.1:9/x"),
    *(
        "http:///x",
        "HTTPS://EXAMPLE.invalid/A%20b.tif?sig=abc",
        "https://u:p@example.invalid/b.tif",
    ),
    *(
        "ftp://example.invalid/x",
        "data:,x",
        "//example.invalid/x",
        "C:\\x.tif",
        "a?b=c&d",
        "#",
        ".",
    ),
    *("https://example.invalid/x?file=1", "javascript:1", "a" * 300, "/".join(["a"] * 3000)),
)
_TIMES = (
    *("2023-13-01T00:00:00Z", "20230501", "2023-05-01", "2023-05-01T10:00:00+14:00", "01/05/2023"),
    *("0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "2023-05-01T23:59:60Z", "2023-W18-1", "T10"),
    *("2023-05-01T10:00:00", "2023-05-01 10:00:00Z", "2023-05-01T10:00:00.123456789Z", 1682935200),
    *("1899-12-31T23:59:59Z", "2201-01-01T00:00:00Z", "2023-02-29T00:00:00Z", "now", "2023"),
    *("2023-05-01T10:00:00z", "2023-05-01T10:00:00-99:00", "٢٠٢٣-٠٥-٠١T١٠:٠٠:٠٠Z", "", "../.."),
)
_SYSTEMS = (
    *(4326, 3857, 32633, 99_999_999, -1, 0, "4326", "EPSG:32633", "epsg:32633", "EPSG:", "IGNF:X"),
    *("urn:ogc:def:crs:EPSG::32633", "+proj=utm +zone=33", "OGC:CRS84", "local", "EPSG:5973", 5798),
)


def places(value: Any, where: Place = ()) -> Iterator[Place]:
    """Every place of a document but its root."""
    pairs: Any = value.items() if isinstance(value, dict) else ()
    if isinstance(value, list):
        pairs = enumerate(value)
    for key, inner in pairs:
        yield (*where, key)
        yield from places(inner, (*where, key))


def at(document: Any, place: Place) -> Any:
    """The value at a place; None where there is none."""
    for key in place:
        try:
            document = document[key]
        except (KeyError, IndexError, TypeError):
            return None
    return document


def mutate(
    document: Any, random_: random.Random, likely: Callable[[Place], bool] = lambda place: True
) -> tuple[Any, Place, str]:
    """A copy with one change, where that is, and what it was.

    Parameters
    ----------
    random_ : all is decided by its state.
    likely : places that most changes are made at.
    """
    changed = copy.deepcopy(document)
    every = list(places(changed))
    some = [place for place in every if likely(place)]
    place = random_.choice(some if some and random_.random() < 0.85 else every)
    holder = at(changed, place[:-1])
    what = random_.choice([*_HOLDER, *[_new] * 8])(holder, place[-1], random_)
    return changed, place, what


def flip(data: bytes, random_: random.Random) -> bytes:
    """Bytes with some of them changed, cut, or doubled."""
    found = bytearray(data)
    start = random_.randrange(len(found))
    match random_.randrange(5):
        case 0:
            found[start] ^= 1 << random_.randrange(8)
        case 1:
            del found[start : start + random_.choice([1, 10, 1000])]
        case 2:
            found[start:start] = found[start : start + 100]
        case 3:
            found[start : start + 4] = random_.randbytes(4)
        case _:
            del found[start:]
    return bytes(found)


# -- changes of a holder -----------------------------------------------------------------------


def _drop(holder: Any, key: Any, _: random.Random) -> str:
    del holder[key]
    return "dropped"


def _rename(holder: Any, key: Any, random_: random.Random) -> str:
    if isinstance(holder, list):
        holder.append(holder[key])
        return "doubled"
    new = random_.choice([key.upper(), f" {key}", f"{key}\u0301", key.replace(":", "_"), key[:-1]])
    holder[new] = holder.pop(key)
    return f"renamed {new!a}"


def _order(holder: Any, key: Any, random_: random.Random) -> str:
    if isinstance(holder, list):
        holder.reverse()
        return "reversed"
    pairs = list(holder.items())
    random_.shuffle(pairs)
    holder.clear()
    holder.update(pairs)
    return "shuffled keys"


_HOLDER = (_drop, _rename, _order)


# -- changes of a value ------------------------------------------------------------------------


def _new(holder: Any, key: Any, random_: random.Random) -> str:
    old = holder[key]
    kinds: list[Callable[[Any, random.Random], Any]] = [_any, _any]
    name = str(key).lower()
    if isinstance(old, bool):
        kinds += [_flag] * 4
    elif isinstance(old, int | float):
        kinds += [_number] * 4
    elif isinstance(old, str):
        kinds += [_word, _word]
    elif isinstance(old, list):
        kinds += [_list] * 4
    for part, more in (
        ("href", _path), ("file", _path), ("card", _path), ("store", _path), ("weights", _path),
        ("date", _time), ("time", _time), ("period", _period), ("epsg", _system), ("crs", _system),
        ("code", _system), ("coordinates", _ring), ("shape", _list), ("version", _number),
        ("baseline", _number),
    ):  # fmt: skip
        if part in name:
            kinds += [more] * 6
    new = random_.choice(kinds)(copy.deepcopy(old), random_)
    holder[key] = new
    said = ascii(new)
    return said if len(said) <= 80 else f"{said[:80]}… ({len(said)} letters)"


def _any(old: Any, random_: random.Random) -> Any:
    made: tuple[Callable[[], Any], ...] = (
        lambda: None,
        lambda: random_.choice([True, False]),
        lambda: random_.choice(_NUMBERS),
        lambda: random_.choice(_WORDS),
        list,
        dict,
        lambda: [old],
        lambda: {"value": old},
        lambda: str(old)[:1000],
        lambda: _nested(random_.choice([30, 300]), random_),
        lambda: "x" * random_.choice([1000, 300_000]),
    )
    return random_.choice(made)()


def _nested(depth: int, random_: random.Random) -> Any:
    found: Any = 0
    as_list = random_.random() < 0.5
    for _ in range(depth):
        found = [found] if as_list else {"a": found}
    return found


def _flag(old: Any, random_: random.Random) -> Any:
    return random_.choice([not old, str(old), str(old).lower(), int(old), "no", "0", None, ""])


def _number(old: Any, random_: random.Random) -> Any:
    try:
        own = [-old, old + 1, old * 1_000_000, str(old), f" {old} ", float(old), [old], old / 1000]
    except (TypeError, OverflowError, ValueError):
        own = [old]
    return random_.choice([*_NUMBERS, *own, *own])


def _word(old: str, random_: random.Random) -> Any:
    own = [
        *(
            old.upper(),
            old.lower(),
            f" {old} ",
            old[::-1],
            old * 3,
            unicodedata.normalize("NFD", old),
        ),
        *(old[:-1], old + "\u202e", old + "\0", old.encode().hex(), old.replace("_", "-")),
    ]
    return random_.choice([*_WORDS, *own])


def _list(old: Any, random_: random.Random) -> Any:
    if not isinstance(old, list):
        return [old]
    own: list[Any] = [[], old[::-1], old[:-1], old[1:], old + old, old * 200, [*old, None], [old]]
    if old:
        numbers = [-v if isinstance(v, int | float) else v for v in old]
        own += [numbers, [random_.choice(_NUMBERS), *old[1:]], [10**9] * len(old), [0] * len(old)]
    return random_.choice(own)


def _ring(old: Any, random_: random.Random) -> Any:
    """Coordinates, of whatever depth, each changed alike."""
    changes: tuple[Callable[[float, float], list[Any]], ...] = (
        lambda x, y: [y, x],
        lambda x, y: [x + 360, y],
        lambda x, y: [x - 360, y],
        lambda x, y: [-x, y],
        lambda x, y: [x, y, 5.0],
        lambda x, y: [x, y, "5"],
        lambda x, y: [str(x), str(y)],
        lambda x, y: [x],
        lambda x, y: [],
        lambda x, y: [x * 1e5, y * 1e5],
        lambda x, y: [float("nan"), y],
        lambda x, y: [x, float("inf")],
        lambda x, y: [x, 90.0],
        lambda x, y: [x, None],
        lambda x, y: [x, True],
    )
    change = random_.choice(changes)

    def inner(value: Any) -> Any:
        if isinstance(value, list) and len(value) >= 2 and not isinstance(value[0], list):
            try:
                return change(value[0], value[1])
            except TypeError:
                return value
        return [inner(v) for v in value] if isinstance(value, list) else value

    return inner(old)


def _path(old: Any, random_: random.Random) -> Any:
    return random_.choice([*_PATHS, f"./{old}", f"{old}?token=abc", f"{old}#x", f"{old}/"])


def _time(old: Any, random_: random.Random) -> Any:
    return random_.choice(_TIMES)


def _period(old: Any, random_: random.Random) -> Any:
    both = [f"{random_.choice(_TIMES)}/{random_.choice(_TIMES)}", str(old).replace("/", " ")]
    return random_.choice([*both, "..", "../2023-06-01", "2023-06-01/..", f"{old}/{old}"])


def _system(old: Any, random_: random.Random) -> Any:
    return random_.choice(_SYSTEMS)
