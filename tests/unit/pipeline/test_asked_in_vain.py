"""What cannot be done is refused before anything runs, by a plan as by a run."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from engine.errors import RecipeError, StoreError
from engine.pipeline.doctor import examine
from engine.pipeline.verbs import run
from engine.recipes.sections import AreaChoice
from engine.runs.choice import named
from engine.store.location import Folder


def test_tiles_are_named_or_all_are_meant() -> None:
    assert named(None) is None
    assert [str(tile) for tile in named(["r0001c0002"]) or ()] == ["r0001c0002"]
    with pytest.raises(RecipeError, match="no tile is named"):
        named([])


@pytest.mark.parametrize("count", [0, -3])
def test_a_run_needs_workers(count: int) -> None:
    with pytest.raises(RecipeError, match="--workers 1 or more"):
        run({}, workers=count)


def test_a_store_is_not_made_among_other_things(tmp_path: Path) -> None:
    Folder(tmp_path / "none").require_free()
    (tmp_path / "empty").mkdir()
    Folder(tmp_path / "empty").require_free()
    (tmp_path / "file").write_text("mine")
    for place in (tmp_path, tmp_path / "file"):
        with pytest.raises(StoreError, match="holds no store"):
            Folder(place).require_free()
    found = {finding.name: finding for finding in examine(str(tmp_path))}
    assert not found["store"].ok


@pytest.mark.parametrize("path", ["~/a.gpkg", "~me/a.gpkg", "~"])
def test_only_a_shell_knows_what_a_tilde_is(path: str) -> None:
    with pytest.raises(ValidationError, match="only a shell"):
        AreaChoice(file=path)
    for sound in ("./~/a.gpkg", "a~/b.gpkg", "~a.gpkg"):
        assert AreaChoice(file=sound).file == sound
