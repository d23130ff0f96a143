"""What an error says, in its four parts, and that it came before anything was written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.errors import NatmapError

__all__ = ["refused"]


def refused(
    kind: type[NatmapError],
    call: Callable[[], Any],
    what: str,
    got: Any,
    expected: Any,
    remedy: str | None,
    *,
    unwritten: tuple[Path, ...] = (),
) -> None:
    """Assert that a call is refused in these words, and leaves these paths as they were: not there.

    `got` and `expected` may be parts of what is said, or None where nothing is.
    """
    with pytest.raises(kind) as told:
        call()
    error = told.value
    assert type(error) is kind
    assert error.what == what
    assert error.remedy == remedy
    for said, wanted in ((error.got, got), (error.expected, expected)):
        assert (said is None) == (wanted is None)
        assert str(wanted) in str(said)
    assert [path for path in unwritten if path.exists()] == []
