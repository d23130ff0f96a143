"""Compiled inner loops: how they are compiled, the same everywhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

__all__ = ["compiled"]

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """Compile a function of numbers and arrays; it holds no interpreter lock.

    Cached beside the source, or in the user's cache where that cannot be written.
    """
    return cast(F, numba.njit(nogil=True, cache=True, error_model="numpy")(function))
