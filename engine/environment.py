"""Numbers that natmap takes from the environment, checked where they are read."""

from __future__ import annotations

import math
import os

from engine.errors import RecipeError

__all__ = ["number", "require_numbers"]

_NUMBERS = {
    "NATMAP_HTTP_SECONDS": (60.0, 0.1, 86_400.0),  # longest time for one request
    "NATMAP_VERIFIED_GB": (20.0, 0.0, 1e6),  # of checked copies of images
    "NATMAP_LEASE_SECONDS": (60.0, 0.5, 86_400.0),  # life of a driver's right to a bucket
    "NATMAP_CORES": (1.0, 1.0, 4096.0),  # of a worker, told by whoever starts it
    "NATMAP_GPU_SHARE": (1.0, 0.01, 1.0),  # of a GPU's memory, for each worker that shares it
}
"""By name: what it is where nothing is said, the least and the most."""


def number(name: str) -> float:
    """One of these numbers.

    Raises
    ------
    RecipeError
        Where the variable holds none, or one that cannot be meant.
    """
    default, least, most = _NUMBERS[name]
    text = os.environ.get(name)
    if text is None or not text.strip():
        return default
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not least <= value <= most:
        raise RecipeError(
            f"{name} holds no number that can be used",
            got=text,
            expected=f"{least:g} to {most:g}",
            remedy=f"set it, or unset it for {default:g}",
        )
    return value


def require_numbers() -> None:
    """Refuse an environment that would end a run in its midst.

    Raises
    ------
    RecipeError
    """
    for name in _NUMBERS:
        number(name)
