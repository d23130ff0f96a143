"""What tests share: the one place from which paths of test data come."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from scenes import make_recipe

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real test data; missing in CI is a failure, elsewhere a skip."""
    path = Path(os.environ.get("NATMAP_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not path.is_dir():
        message = f"no test data at {path}; set NATMAP_TEST_DATA"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return path


@pytest.fixture
def recipe(tmp_path: Path) -> dict[str, Any]:
    """A recipe for one made-up scene."""
    return make_recipe(tmp_path)
