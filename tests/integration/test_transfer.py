"""Training on imported sets, and going on from a model: a frozen trunk, a fine-tuned network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from safetensors.torch import load_file

from engine.datasets.patches import open_patches
from engine.datasets.published import import_so2sat
from engine.errors import CardError, LabelError, WeightsError
from engine.infer.predict import Predictor
from engine.models.card import load_card
from engine.models.import_sen2lcz import import_sen2lcz
from engine.models.inputs import prepare_input
from engine.training.train import train

pytestmark = pytest.mark.slow
ZONES = (2, 6, 14)


def country(path: Path, n: int, seed: int, haze: float = 0.0) -> None:
    """Patches of three zones that differ by texture, under more or less haze."""
    rng = np.random.default_rng(seed)
    y = rng.choice(ZONES, n)
    x = 0.12 + 0.02 * rng.standard_normal((n, 32, 32, 10))
    x[y == 2, ::4] += 0.1
    x[y == 6, :, ::4] += 0.1
    with h5py.File(path, "w") as file:
        file["sen2"], file["label"] = np.clip(x * (1 - haze) + haze, 0, 1), np.eye(17)[y - 1]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("places")
    for number, (name, n) in enumerate((("training", 240), ("validation", 60), ("testing", 90))):
        country(folder / f"{name}.h5", n, number)
    parts = [folder / f"{name}.h5" for name in ("training", "validation", "testing")]
    import_so2sat(parts, folder / "abroad")
    country(folder / "home.h5", 480, 9, haze=0.08)
    import_so2sat([folder / "home.h5"], folder / "home")
    return folder


def recipe(name: str, patches: str, by: str, **model: Any) -> dict[str, Any]:
    return {
        "name": name,
        "patches": patches,
        "context": 0,
        "split": {"by": by},
        "model": {"architecture": "resnet-v2", **model},
        "training": {"epochs": 6, "batch": 32},
        "out": f"models/{name}",
    }


@pytest.fixture(scope="module")
def abroad(places: Path) -> Path:
    """A model of other countries."""
    wanted = recipe("abroad", "abroad", "own", parameters={"width": 4})
    found = train(wanted, base=places)
    assert found.figures is not None
    assert found.figures["oa"] > 0.95
    return places / "models" / "abroad"


def test_an_imported_set_keeps_its_own_split(places: Path, abroad: Path) -> None:
    assert load_card(abroad).mean is not None
    report = (abroad / "report.json").read_text()
    assert '"count": 240' in report
    assert '"count": 90' in report


def test_a_frozen_trunk_is_carried_over_and_two_layers_are_trained(
    places: Path, abroad: Path
) -> None:
    parameters = {"width": 4, "dense": 16, "frozen": True}
    wanted = recipe("home", "home", "pool", parameters=parameters, start=str(abroad))
    wanted["training"] |= {"rate": 0.01, "epochs": 20}
    found = train(wanted, base=places)
    assert found.figures is not None
    assert found.figures["oa"] > 0.8
    start = load_file(abroad / "abroad.safetensors")
    end = load_file(places / "models" / "home" / "home.safetensors")
    trunk = [name for name in start if name.startswith("trunk.")]
    assert len(trunk) > 20
    for name in trunk:  # batch statistics too
        assert (start[name] == end[name]).all(), name
    assert load_card(places / "models" / "home").mean == load_card(abroad).mean
    again = recipe("home-2", "home", "pool", parameters=parameters, start=str(abroad))
    again["model"]["restandardise"] = True
    train(again, base=places)
    assert load_card(places / "models" / "home-2").mean != load_card(abroad).mean


def test_sen2lcz_is_fine_tuned(places: Path, data: Path, tmp_path: Path) -> None:
    published = import_sen2lcz(data / "weights" / "sen2lcz_so2sat.hdf5", tmp_path)
    wanted = recipe("tuned", "home", "pool", architecture="sen2lcz", start=str(tmp_path))
    wanted["training"] |= {"rate": 1e-3, "epochs": 8}
    found = train(wanted, base=places)
    assert found.figures is not None
    assert found.card.output == "probability"
    assert found.card.clip == published.clip
    assert found.card.mean == published.mean
    patches = open_patches(places / "home")
    x = prepare_input(patches.x[:], np.ones((len(patches), 32, 32), bool), published)
    before = (Predictor(published, "cpu")(x)[0].argmax(1) + 1 == patches.y).mean()
    assert found.figures["oa"] > max(before + 0.2, 0.7)


def test_what_cannot_be_gone_on_from_is_said(places: Path, abroad: Path, tmp_path: Path) -> None:
    def attempt(text: str, error: type[Exception], **changes: Any) -> None:
        wanted = recipe("wrong", "home", "pool", parameters={"width": 4}, start=str(abroad))
        wanted["model"] |= changes.pop("model", {})
        with pytest.raises(error, match=text):
            train(wanted | changes | {"out": str(tmp_path / "out")}, base=places)

    attempt("other architecture", CardError, model={"architecture": "mscnn", "parameters": {}})
    attempt("other bands", LabelError, model={"bands": ("B02", "B03")})
    attempt("another network's", WeightsError, model={"parameters": {"width": 5}})
    attempt("cannot be split", LabelError, split={"by": "group"})
    attempt("names no labels", LabelError, patches="nowhere")
