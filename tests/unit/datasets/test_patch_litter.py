"""A training that finds its patches whole still removes what a killed one left beside them."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from engine.datasets.patch_cutting import cut_patches
from engine.errors import LabelError
from engine.pipeline.templates import init
from engine.products.registry import load_training
from engine.recipes.classifying import ClassifierRecipe


def test_scratch_of_a_killed_training_goes_with_the_next(tmp_path: Path) -> None:
    left = tmp_path / ".natmap-smwx6qfo"
    left.mkdir()
    (left / ".owner").touch()  # nobody holds its lock
    (left / "patches").mkdir()
    recipe = load_training({**yaml.safe_load(init("train")), "labels": []})
    assert isinstance(recipe, ClassifierRecipe)
    with pytest.raises(LabelError, match="no patch set"):
        cut_patches(recipe, tmp_path)
    assert not left.exists()
