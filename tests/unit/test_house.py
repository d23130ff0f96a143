"""The house is as the documents say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

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


def test_help_is_instant_because_it_loads_nothing_heavy() -> None:
    code = (
        "import sys, contextlib\n"
        "from engine.cli.app import main\n"
        "sys.argv = ['natmap', '--help']\n"
        "with contextlib.suppress(SystemExit): main()\n"
        "bad = {'torch', 'xarray', 'dask', 'distributed', 'zarr'} & set(sys.modules)\n"
        "assert not bad, bad\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_a_cube_needs_no_torch() -> None:
    code = "import sys, engine.pipeline.verbs; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_public_verbs_are_there() -> None:
    for name in engine.__all__:
        assert callable(getattr(engine, name))


def test_files_fit_in_one_head() -> None:
    long = {
        str(path.relative_to(ROOT)): count
        for path in (ROOT / "engine").rglob("*.py")
        if (count := len(path.read_text().splitlines())) > 450
    }
    assert not long


def test_no_machine_path_is_in_the_project() -> None:
    parent = str(ROOT.parent) + "/"
    for folder in ("engine", "catalogs", "tests", "benchmarks"):
        for path in (ROOT / folder).rglob("*.py"):
            assert parent not in path.read_text(), path


def test_each_package_is_pinned_once() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    names = [line.partition("==")[0].lower() for line in lines if "==" in line]
    assert len(names) == len(set(names)), sorted(n for n in names if names.count(n) > 1)
