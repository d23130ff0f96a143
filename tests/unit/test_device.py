"""The device is the worker's matter: a driver decides nothing by its own, and no product knows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from support.worlds import SMALL, synthesize

from engine.errors import RunError
from engine.infer import predict
from engine.infer.predict import get_predictor
from engine.models.card import find_card, load_card
from engine.pipeline.prepare import prepare
from engine.products.registry import load_recipe
from engine.runs.stage import Stage


@pytest.fixture
def scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The stage of a recipe's network, by the device asked for, as a driver makes it."""
    recipe = yaml.safe_load(synthesize(SMALL, tmp_path, tile=160).read_text())

    def none() -> bool:
        raise AssertionError("the driver looked for a GPU of its own")

    monkeypatch.setattr(torch.cuda, "is_available", none)

    def made(device: str) -> Stage:
        model = {"card": "lcz-made-up", "device": device}
        prepared = prepare(load_recipe(recipe | {"model": model}), tmp_path)
        return next(stage for stage in prepared.stages if stage.name == "scores")

    return made


def test_a_driver_leaves_the_device_open(scores: Any) -> None:
    stages = {device: scores(device) for device in ("auto", "cpu", "cuda")}
    assert {d: s.resource for d, s in stages.items()} == {
        "auto": "auto",
        "cpu": "cpu",
        "cuda": "gpu",
    }
    assert len({stage.fingerprint for stage in stages.values()}) == 1


def test_a_worker_chooses_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predict, "_loaded", {})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    card = load_card(find_card("lcz-made-up", Path()))
    assert get_predictor(card, "auto", "float32").device == "cpu"
    assert get_predictor(card, "cpu", "float32") is get_predictor(card, "auto", "float32")
    with pytest.raises(RunError, match="no GPU on"):
        get_predictor(card, "cuda", "float32")
