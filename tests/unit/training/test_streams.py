"""Both streams of DF4LCZ trained on a set laid out as LCZC-GES2, and the weight that is kept."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from engine.datasets.ges2 import import_ges2
from engine.models.card import load_card
from engine.training.train import train


def test_both_streams_are_trained_on_ges2_by_its_own_split(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("sen2_img_patches", "gg_nodes_refine"):
        (tmp_path / name).mkdir()
    codes = np.resize([2, 6, 14], 90)
    for k, code in enumerate(codes.tolist()):
        image = 0.02 * code + 0.02 * rng.standard_normal((32, 32, 10)) + 0.1
        np.savez(
            tmp_path / "sen2_img_patches" / f"sen2_image_{k}.npz",
            image=image.clip(0, 1),
            label=code,
        )
        x = rng.uniform(10, 310, (6, 5))
        x[:, :3] = 15 * code + rng.uniform(0, 20, (6, 3))  # of 255
        a = np.linalg.norm(x[:, None, 3:] - x[None, :, 3:], axis=2)
        label = np.eye(17)[code - 1]
        np.savez(tmp_path / "gg_nodes_refine" / f"graph_{k}.npz", x=x, a=a, y=label)
    split = {"train": list(range(60)), "validation": list(range(60, 75)), "test": [75, 76, 77]}
    (tmp_path / "split.json").write_text(json.dumps(split))
    import_ges2(tmp_path, tmp_path / "patches", tmp_path / "split.json")
    base = {"patches": "patches", "context": 0, "split": {"by": "own"}}
    small = {"branch": 4, "blocks": [8, 8, 16, 16, 16], "dense": 16}
    first = {"architecture": "mscnn", "parameters": small}
    fast = {"epochs": 2, "batch": 16}
    train({**base, "name": "s2", "model": first, "training": fast, "out": "s2"}, base=tmp_path)
    second = {"architecture": "gcn", "beside": "./s2"}
    graph = {**base, "name": "graph", "model": second, "out": "graph"}
    graph["training"] = {"preset": "df4lcz-graph", "epochs": 3, "batch": 16}
    found = train(graph, base=tmp_path)
    report = json.loads((tmp_path / "graph" / "report.json").read_text())
    assert {name: part["count"] for name, part in report["patches"].items()} == {
        "train": 60, "validation": 15, "test": 3,
    }  # fmt: skip
    card = load_card(tmp_path / "graph")
    assert card == found.card
    assert card.parameters["segmenter"] == "sam"
    assert card.fusion is not None
    assert card.fusion.sentinel_weight == report["fusion"]["sentinel_weight"]
    assert (card.fusion.beside, card.fusion.key) == ("s2", load_card(tmp_path / "s2").key)
