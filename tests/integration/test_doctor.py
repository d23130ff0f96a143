"""What the doctor finds: a sound machine, and each thing that can be wrong."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import shared
from support.toys import Toy, square

from engine.catalog import documents
from engine.pipeline import doctor
from engine.pipeline.doctor import Finding, examine


def findings(target: str | None = None) -> dict[str, Finding]:
    return {finding.name: finding for finding in examine(target)}


def written(folder: Path, recipe: dict[str, Any]) -> str:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return str(path)


def test_this_machine_can_map() -> None:
    found = findings()
    for name in ("python", "gdal", "projections", "memory", "threads", "zarr", "icechunk"):
        assert found[name].ok, found[name]


@pytest.mark.parametrize(
    ("name", "variable", "value", "text"),
    [
        ("threads", "OMP_NUM_THREADS", "4096", "OMP_NUM_THREADS=4096"),
        ("projections", "PROJ_NETWORK", "ON", "unset PROJ_NETWORK"),
        ("gdal", "GDAL_HTTP_UNSAFESSL", "YES", "unset GDAL_HTTP_UNSAFESSL"),
    ],
)
def test_an_environment_that_spoils_a_run_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, variable: str, value: str, text: str
) -> None:
    monkeypatch.setenv(variable, value)
    found = findings()[name]
    assert not found.ok
    assert text in found.text


def test_a_foreign_projection_database_is_named(tmp_path: Path) -> None:
    # read when the libraries are loaded, so in a process of its own
    (tmp_path / "proj.db").write_bytes(b"no database")
    code = "from engine.pipeline.doctor import _projections; print(_projections())"
    found = subprocess.run(
        [sys.executable, "-c", code],
        env={"PROJ_DATA": str(tmp_path), "PROJ_LIB": str(tmp_path), "PATH": "/usr/bin"},
        capture_output=True,
        text=True,
    )
    assert "ok=False" in found.stdout, found.stdout + found.stderr
    assert "PROJ_DATA" in found.stdout


def test_few_open_files_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 4096))
    found = findings()["open files"]
    assert not found.ok
    assert "ulimit -n 4096" in found.text


def test_a_store_that_is_named_is_there(tmp_path: Path) -> None:
    found = findings(str(tmp_path / "typo"))["store"]
    assert not found.ok
    assert "there is no store" in found.text
    assert not (tmp_path / "typo").exists()


def test_all_that_a_recipe_needs_is_tried(recipe: dict[str, Any], tmp_path: Path) -> None:
    found = findings(written(tmp_path, recipe))
    assert [found[name].ok for name in ("recipe", "store", "model", "catalogue")] == [True] * 4
    assert "holds nothing yet" in found["store"].text
    assert "could be read" in found["catalogue"].text
    assert not list(tmp_path.glob("store*"))  # it only looked
    shared.run(recipe, base=tmp_path)
    assert "files" in findings(written(tmp_path, recipe))["store"].text


def test_what_a_recipe_cannot_have_is_named(
    recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents, "_retry", lambda: 0)  # a closed port stays closed
    wrong = json.loads(json.dumps(recipe))
    wrong["imagery"]["catalog"] = "http://127.0.0.1:9/stac"
    wrong["model"] = {"card": "nowhere.json"}
    (tmp_path / "in-the-way").write_text("a file")
    wrong["store"] = str(tmp_path / "in-the-way" / "store")
    found = findings(written(tmp_path, wrong))
    assert found["recipe"].ok
    for name in ("store", "model", "catalogue"):
        assert not found[name].ok, found[name]
    assert not findings(written(tmp_path, {"name": "x"}))["recipe"].ok


def test_a_store_of_very_many_files_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Toy(square(2)).open(tmp_path / "store")
    assert findings(str(tmp_path / "store"))["store"].ok
    monkeypatch.setattr(doctor, "MANY_CHUNKS", 0)
    found = findings(str(tmp_path / "store"))["store"]
    assert not found.ok
    assert "a bucket" in found.text


def test_the_doctor_refuses_what_a_plan_refuses(
    recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NATMAP_BOUNDARIES", raising=False)
    found = findings(written(tmp_path, {**recipe, "mask": {"boundaries": "ne-urban-areas"}}))
    for name in ("boundaries", "plan"):
        assert not found[name].ok
        assert "NATMAP_BOUNDARIES" in found[name].text
    assert found["catalogue"].ok
    # a sound model, a sound catalogue, and a cube that the model was not made for
    found = findings(written(tmp_path, {**recipe, "model": {"card": "lcz-made-up"}}))
    assert found["model"].ok
    assert not found["plan"].ok, found["plan"]
    assert findings(written(tmp_path, recipe))["plan"].ok
