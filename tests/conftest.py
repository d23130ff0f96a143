"""What tests share: the one place from which paths of test data come, workers, a mapped country."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import durations, shared
from support.scenes import make_recipe

ROOT = Path(__file__).resolve().parent.parent

# What a shell starts in the background, or nohup, ignores these, and so would all that tests start.
for _number, _usual in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGHUP, signal.SIG_DFL),
):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _usual)


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


@pytest.fixture(autouse=True)
def hearing() -> Iterator[None]:
    """A test that leaves signals ignored would make all that later tests start ignore them."""
    asking = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in asking]
    yield
    after = [signal.getsignal(number) for number in asking]
    for number, handler in zip(asking, before, strict=True):
        signal.signal(number, handler)
    assert after == before, "the test left handlers of signals behind"


@pytest.fixture
def recipe(tmp_path: Path) -> dict[str, Any]:
    """A recipe for one made-up scene."""
    return make_recipe(tmp_path)


@pytest.fixture(scope="session")
def reference() -> Path:
    """A mapped country: recipe, scenes, truth, store and product. Read it, never write to it."""
    return shared.reference()


@pytest.fixture
def mapped(tmp_path: Path) -> Path:
    """A copy of the mapped country, to be changed."""
    return shared.mapped(tmp_path / "mapped")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files go first, so that neither process is left with one of them at the end."""
    if os.environ.get("PYTEST_XDIST_WORKER"):  # without processes the usual order reads better
        seconds = durations.by_file()
        items.sort(key=lambda item: -seconds.get(item.location[0], 0.0))


def pytest_sessionfinish() -> None:
    shared.close()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    durations.report(terminalreporter)
