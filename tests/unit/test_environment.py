"""Numbers of the environment: used as said, or refused by their name before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engine.environment import number, require_numbers
from engine.errors import RecipeError
from engine.pipeline.doctor import examine
from engine.pipeline.prepare import prepare
from engine.products.registry import load_recipe


def test_what_is_said_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NATMAP_HTTP_SECONDS", raising=False)
    assert number("NATMAP_HTTP_SECONDS") == 60
    monkeypatch.setenv("NATMAP_HTTP_SECONDS", "")
    assert number("NATMAP_HTTP_SECONDS") == 60
    monkeypatch.setenv("NATMAP_HTTP_SECONDS", "2.5")
    assert number("NATMAP_HTTP_SECONDS") == 2.5
    require_numbers()


@pytest.mark.parametrize("text", ["abc", "nan", "inf", "-1", "0", "1e400", "6O"])
@pytest.mark.parametrize("name", ["NATMAP_HTTP_SECONDS", "NATMAP_LEASE_SECONDS", "NATMAP_CORES"])
def test_what_is_no_number_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str
) -> None:
    monkeypatch.setenv(name, text)
    with pytest.raises(RecipeError, match=name):
        require_numbers()


def test_plan_and_doctor_say_it_alike(
    monkeypatch: pytest.MonkeyPatch, recipe: dict[str, Any], tmp_path: Path
) -> None:
    monkeypatch.setenv("NATMAP_VERIFIED_GB", "much")
    with pytest.raises(RecipeError, match="NATMAP_VERIFIED_GB"):
        prepare(load_recipe(recipe), tmp_path)
    found = {finding.name: finding for finding in examine()}["environment"]
    assert not found.ok
    assert "NATMAP_VERIFIED_GB" in found.text
