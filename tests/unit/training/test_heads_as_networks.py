"""A fitted head and the network that it becomes give the same scores."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from engine.errors import CardError, WeightsError
from engine.infer.aggregate import aggregate_cells
from engine.models.card import ModelCard, load_card
from engine.models.head import NOTHING, Head, statistics
from engine.models.registry import HEAD, build, load_model, save_model
from engine.propagation.heads import ForestHead, KnnHead, LogisticHead
from engine.propagation.pool import moments, standard_of
from engine.training.head_mlp import MlpHead
from engine.training.head_networks import as_network

KNOWN = (3, 6, 8, 17)
HEADS: list[Any] = [
    LogisticHead(),
    LogisticHead(0.3, balanced=False),
    KnnHead(5),
    KnnHead(4, "cosine", "distance"),
    KnnHead(3, weighing="distance"),
    ForestHead(20),
    MlpHead(hidden=(16, 8), epochs=3, least=3),
]


def pool(count: int = 120, columns: int = 12) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, one column of which says nothing, of labelled cells and others; codes."""
    rng = np.random.default_rng(1)
    y = rng.choice(KNOWN, count)
    middle = rng.standard_normal((18, columns)) * 2 + 30
    x = (middle[y] + rng.standard_normal((count, columns))).astype(np.float32)
    x[:, 3] = 7.0
    x[40:60] = x[20:40]  # in the same place, mostly of another class
    others = (rng.standard_normal((200, columns)) * 4 + 30).astype(np.float32)
    others[:, 3] = 7.0
    return x, np.concatenate([others, x[:50]]), y


@pytest.mark.parametrize("head", HEADS, ids=lambda head: f"{head!r:.30}")
@pytest.mark.parametrize("two", [False, True])
def test_it_gives_what_the_head_gives(head: Any, two: bool) -> None:
    x, others, y = pool()
    if two:
        y = np.where(y < 7, 6, 17)
    standard = standard_of(moments(np.concatenate([x, others])))
    weights = np.random.default_rng(2).uniform(0.5, 1, len(y))
    scorer = head.fit(standard.apply(x), y, weights, 0)
    parameters, arrays = as_network(scorer, standard)
    network = Head(4, 17, **parameters)
    assert not network.load_state_dict(arrays, strict=True).missing_keys
    with torch.inference_mode():
        found = network.eval().classify(torch.from_numpy(others)).numpy()
    wanted = standard.apply(others)
    np.testing.assert_allclose(found, scorer.scores(wanted), atol=2e-6)
    assert ((found > 0).any(0) <= np.isin(np.arange(1, 18), y)).all()
    # equal votes are decided by the nearest label, as the head decides
    assert (found.argmax(1) + 1 == scorer.predict(wanted)).all()


def test_the_statistics_are_those_of_an_embedding() -> None:
    rng = np.random.default_rng(0)
    stored = rng.integers(1, 20_000, (3, 96, 64)).astype(np.uint16)
    valid = rng.random((96, 64)) > 0.05
    wanted = aggregate_cells((stored.astype(float) - 1000) / 1e4, valid, 32)
    x = (stored.astype(np.float32) - 1000) / 10_000
    x[:, ~valid] = NOTHING
    patches = x.reshape(3, 3, 32, 2, 32).transpose(1, 3, 0, 2, 4).reshape(6, 3, 32, 32)
    found = statistics(torch.from_numpy(np.ascontiguousarray(patches))).numpy()
    assert not np.isnan(wanted).any()
    np.testing.assert_allclose(found.T.reshape(wanted.shape), wanted, rtol=1e-5, atol=1e-7)
    nothing = statistics(torch.full((1, 3, 4, 4), NOTHING)).numpy()
    assert (nothing == 0).all()


def saved(folder: Any, **more: Any) -> ModelCard:
    x, _, y = pool()
    standard = standard_of(moments(x))
    parameters, arrays = as_network(LogisticHead().fit(standard.apply(x), y), standard)
    card = ModelCard(
        name="h",
        architecture=HEAD,
        parameters=parameters | more,
        bands=("B02", "B03", "B04", "B08"),
        fill=NOTHING,
        features=12,
        weights="h.safetensors",
        sha256="0" * 64,
    )
    return save_model(card, arrays, folder)


def test_a_card_of_a_head_is_read_and_checked_as_any_other(tmp_path: Any) -> None:
    card = saved(tmp_path)
    assert load_card(tmp_path) == card.model_copy(update={"folder": tmp_path})
    with torch.inference_mode():
        scores, features = load_model(card)(torch.rand(2, 4, 32, 32))
    assert features.shape == (2, 12)
    np.testing.assert_allclose(scores.sum(1), 1, rtol=1e-6)


@pytest.mark.parametrize(
    "more",
    [
        {"features": 13},
        {"columns": 99},
        {"known": 18},
        {"kind": "tree"},
        {"hidden": [3]},
        {"encoder": {}},
        {"encoder": {"architecture": "gcn", "parameters": {}, "classes": 17}},
        {"encoder": {"architecture": "head", "parameters": {}, "classes": 17}},
        {"kind": "knn", "labels": 3, "k": 4},
        {"kind": "knn", "labels": 3, "k": 2, "metric": "taxi"},
    ],
)
def test_parameters_that_go_together_with_nothing_are_refused(tmp_path: Any, more: Any) -> None:
    card = saved(tmp_path)
    with pytest.raises(CardError, match="wrong parameters"):
        build(card.model_copy(update={"parameters": card.parameters | more}))


def test_weights_of_another_head_are_refused(tmp_path: Any) -> None:
    card = saved(tmp_path)
    other = card.parameters | {"known": card.parameters["known"] - 1}
    with pytest.raises(WeightsError, match="do not fit head"):
        load_model(card.model_copy(update={"parameters": other}))
