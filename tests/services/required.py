"""Whether the programs of a real service are here; where they must be, their lack is a failure."""

from __future__ import annotations

import os
import shutil

import pytest


def need(*programs: str) -> None:
    """Skip a test whose programs are not installed; fail where CI promised them."""
    missing = [name for name in programs if shutil.which(name) is None]
    if missing:
        text = f"not installed: {', '.join(missing)}; `make services` installs them"
        if os.environ.get("NATMAP_SERVICES"):
            pytest.fail(text)
        pytest.skip(text)
