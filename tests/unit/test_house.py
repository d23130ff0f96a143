"""The house is as the documents say."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import grimp
import pytest

import engine

ROOT = Path(__file__).resolve().parents[2]


def test_the_table_of_modules_is_true() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    listed = set(re.findall(r"^\| (engine\.\w+) \|", text, re.MULTILINE))
    there = {
        f"engine.{path.stem}"
        for path in (ROOT / "engine").iterdir()
        if (path.is_dir() and (path / "__init__.py").exists())
        or (path.suffix == ".py" and path.stem != "__init__")
    }
    assert listed == there


def test_the_table_of_laws_names_tests_that_are_there() -> None:
    text = (ROOT / "docs" / "testing.md").read_text()
    there = {path: path.read_text() for path in (ROOT / "tests").rglob("test_*.py")}
    for line in text.splitlines():
        named: list[str] = []  # of the file that was named last
        for word in re.findall(r"[\w/]*test_\w+\.py|::test_\w+", line):
            if word.endswith(".py"):
                named = [code for path, code in there.items() if str(path).endswith(f"/{word}")]
                assert len(named) == 1, word
            else:
                assert any(f"def {word[2:]}(" in code for code in named), f"{word}: {line}"


_LOADING = """
import contextlib, json, sys
from engine.cli.app import main
sys.argv = ["natmap", "--help"]
with contextlib.suppress(SystemExit):
    main()
loaded = [sorted(sys.modules)]
import engine.pipeline.verbs
loaded.append(sorted(sys.modules))
print()
print(json.dumps(loaded))
"""


@pytest.fixture(scope="module")
def loaded() -> tuple[set[str], set[str]]:
    """Modules of a fresh process after `natmap --help`, and after the verbs on top of it."""
    command = [sys.executable, "-c", _LOADING]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "Usage" in told
    after_help, after_verbs = json.loads(told.splitlines()[-1])
    return set(after_help), set(after_verbs)


def test_help_is_instant_because_it_loads_nothing_heavy(loaded: tuple[set[str], set[str]]) -> None:
    assert not {"torch", "xarray", "dask", "distributed", "zarr"} & loaded[0]


def test_a_cube_needs_no_torch(loaded: tuple[set[str], set[str]]) -> None:
    assert "engine.pipeline.verbs" in loaded[1]
    assert "torch" not in loaded[1]


def test_public_verbs_are_there() -> None:
    for name in engine.__all__:
        assert callable(getattr(engine, name))


def test_no_machine_path_is_in_the_project() -> None:
    parent = str(ROOT.parent) + "/"
    for folder in ("engine", "catalogs", "tests", "benchmarks"):
        for path in (ROOT / folder).rglob("*.py"):
            assert parent not in path.read_text(), path


def test_each_package_is_pinned_once() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    names = [line.partition("==")[0].lower() for line in lines if "==" in line]
    assert len(names) == len(set(names)), sorted(n for n in names if names.count(n) > 1)


def test_imports_have_no_circle() -> None:
    graph = grimp.build_graph("engine", exclude_type_checking_imports=True)
    names = sorted(graph.modules)
    imports = {name: graph.find_modules_directly_imported_by(name) for name in names}
    TopologicalSorter(imports).prepare()  # raises CycleError with the circle


def test_files_fit_in_one_head() -> None:
    lines = {
        path.relative_to(ROOT): len(path.read_text().splitlines())
        for path in (ROOT / "engine").rglob("*.py")
    }
    assert {str(path): n for path, n in lines.items() if n > 420} == {}
    run = sum(n for path, n in lines.items() if path.parts[:2] == ("engine", "pipeline"))
    assert run <= 2500
