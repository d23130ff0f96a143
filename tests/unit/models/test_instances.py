"""Segmenters, windows clipped from them, graphs, and the fusion of streams."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from engine.errors import MetricError
from engine.infer.fuse import fuse, sweep
from engine.infer.instances import find_graphs, score_graphs
from engine.models.card import ModelCard
from engine.models.gcn import InstanceGraphs, adjacency, normalise
from engine.models.graphs import nodes_of, pack, turn
from engine.models.superpixels import SEGMENTERS, Instance, clip, instances_of, merge_small, segment
from engine.products.instances import fusion_weight
from engine.synthetic.districts import World
from engine.synthetic.photo import take_photo


@pytest.fixture(scope="module")
def town() -> np.ndarray:
    """A made-up orthophoto of 400 x 400 m."""
    image = take_photo(World(4), 2000, 2400, 400, 400)
    return np.ascontiguousarray(np.moveaxis(np.asarray(image)[:3], 0, -1)).astype(np.uint8)


@pytest.mark.parametrize("kind", SEGMENTERS)
def test_an_image_is_parted_into_instances(kind: str, town: np.ndarray) -> None:
    found = segment(town, kind)  # type: ignore[arg-type]
    assert len(found) > 10
    areas = [one.area for one in found]
    assert areas == sorted(areas, reverse=True)
    assert min(areas) >= 50
    covered = np.zeros(town.shape[:2], int)
    for one in found:
        height, width = one.mask.shape
        covered[one.top : one.top + height, one.left : one.left + width] += one.mask
        assert one.mask.any(axis=1)[[0, -1]].all()
        assert one.mask.any(axis=0)[[0, -1]].all()
    assert (covered == 1).all()  # a partition
    again = segment(town, kind)  # type: ignore[arg-type]
    assert all(
        (a.top, a.left) == (b.top, b.left) and (a.mask == b.mask).all()
        for a, b in zip(found, again, strict=True)
    )


def test_two_colours_are_two_nodes_with_exact_means_and_centres() -> None:
    rgb = np.full((320, 320, 3), (200, 40, 10), np.uint8)
    rgb[:, 120:] = (20, 90, 250)
    found = clip(segment(rgb), 0, 0, 320)
    assert len(found) == 2
    nodes = nodes_of(rgb, found)
    expected = [[20, 90, 250, 220 / 320 * 255, 127.5], [200, 40, 10, 60 / 320 * 255, 127.5]]
    np.testing.assert_allclose(nodes * 255, expected, rtol=1e-5)


def test_small_regions_join_the_neighbour_that_looks_like_them() -> None:
    rgb = np.zeros((40, 40, 3), np.uint8)
    rgb[:, 20:] = 200
    rgb[10:13, 18:22] = 190  # 12 px across the border: like the right one
    labels = np.zeros((40, 40), np.int32)
    labels[:, 20:] = 7
    labels[10:13, 18:22] = 3
    found = merge_small(labels, rgb)
    assert len(np.unique(found)) == 2
    assert found[11, 18] == found[0, 30]
    assert found[0, 0] != found[0, 30]
    alone = merge_small(np.zeros((4, 4), np.int32), np.zeros((4, 4, 3), np.uint8))
    assert (alone == 0).all()


def test_windows_are_clipped_from_one_segmentation(town: np.ndarray) -> None:
    whole = segment(town)
    for top, left in ((0, 0), (37, 80), (80, 80)):
        found = clip(whole, top, left, 320)
        assert 2 <= len(found) <= 50
        labels = np.zeros((320, 320), int)
        for number, one in enumerate(found, 1):
            height, width = one.mask.shape
            here = labels[one.top : one.top + height, one.left : one.left + width]
            assert here.shape == one.mask.shape  # inside the window
            assert not here[one.mask].any()
            here[one.mask] = number
            assert one.area >= 50
        # brute force: each instance's pixels in the window
        for number in range(1, len(found) + 1):
            mine = labels == number
            of = [o for o in whole if _covers(o, mine, top, left)]
            assert len(of) == 1


def _covers(whole: Instance, mine: np.ndarray, top: int, left: int) -> bool:
    full = np.zeros((400, 400), bool)
    height, width = whole.mask.shape
    full[whole.top : whole.top + height, whole.left : whole.left + width] = whole.mask
    return bool((full[top : top + 320, left : left + 320] == mine).all())


def test_a_window_of_one_look_gets_a_grid() -> None:
    rgb = np.full((320, 320, 3), 99, np.uint8)
    found = clip(segment(rgb), 0, 0, 320)
    assert [(one.top, one.left, one.area) for one in found[:2]] == [(0, 0, 6400), (0, 80, 6400)]
    assert len(found) == 16


def test_wrong_images_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown segmenter"):
        segment(np.zeros((9, 9, 3), np.uint8), "sam2")  # type: ignore[arg-type]
    for wrong in (np.zeros((9, 9), np.uint8), np.zeros((9, 9, 3), np.float32)):
        with pytest.raises(ValueError, match="uint8"):
            segment(wrong)  # type: ignore[arg-type]


def graphs(*sizes: int) -> list[np.ndarray]:
    """Graphs of so many nodes, none at the very corner."""
    rng = np.random.default_rng(0)
    return [rng.uniform(0.05, 0.95, (n, 5)).astype(np.float32) for n in sizes]


def test_packed_graphs_are_those_of_their_nodes_alone() -> None:
    some = graphs(3, 50, 1)
    packed = pack(some)
    assert packed.shape == (3, 50, 5)
    network = InstanceGraphs(adjacency="gaussian").eval()
    together = network(torch.from_numpy(packed).float())[0]
    for number, nodes in enumerate(some):
        x = torch.from_numpy(nodes.astype(np.float16)).float()[None]
        mask = torch.ones(1, len(nodes), dtype=torch.bool)
        weights = normalise(adjacency(x[:, :, 3:] * 320, mask, "gaussian"))
        alone = network.gcn(x, weights, mask)[0]
        torch.testing.assert_close(together[number], alone[0], rtol=1e-5, atol=1e-6)
    empty = network(torch.zeros(1, 50, 5))[0]
    torch.testing.assert_close(empty[0], network.gcn.head.bias)
    with pytest.raises(ValueError, match="at most 50"):
        pack(graphs(51))
    for wrong in ({"bands": 4}, {"adjacency": "tree"}, {"segmenter": "x"}, {"segmentation": "no"}):
        with pytest.raises(ValueError, match="must be one of"):
            InstanceGraphs(**wrong)  # type: ignore[arg-type]


def test_a_turned_window_has_a_turned_graph(town: np.ndarray) -> None:
    window = np.ascontiguousarray(town[:320, :320])
    labels = np.arange(320)[:, None] // 80 * 4 + np.arange(320)[None] // 80
    labels[:20, :30] = 16
    packed = pack([nodes_of(window, instances_of(labels.astype(np.int32)))])
    for k in range(8):
        turned, image = np.rot90(labels, k % 4), np.rot90(window, k % 4)
        if k >= 4:
            turned, image = turned[:, ::-1], image[:, ::-1]
        there = nodes_of(image, instances_of(np.ascontiguousarray(turned).astype(np.int32)))
        expected = sorted(there.astype(np.float16).tolist())
        found = turn(packed, np.array([k], np.uint8))[0]
        known = sorted(found[found[:, 3] > 0].tolist())
        np.testing.assert_allclose(known, expected, atol=1e-3)
        assert (found[len(known) :] == 0).all()


@pytest.mark.parametrize("shared", [True, False])
def test_cells_of_a_block_get_the_graphs_of_their_windows(shared: bool, town: np.ndarray) -> None:
    rgb = np.ascontiguousarray(np.pad(town, ((0, 20), (0, 20), (0, 0)), mode="reflect"))
    valid = np.ones(rgb.shape[:2], bool)
    valid[:, 330:] = False  # over a fifth of the right cells' windows
    valid[:40, :40] = False
    wanted = np.array([[True, True], [True, False]])
    slic = partial(segment, kind="slic")
    nodes, count = find_graphs(rgb, valid, wanted, slic, shared=shared)
    assert nodes.shape == (50, 5, 2, 2)
    assert (count > 0).tolist() == [[True, False], [True, False]]
    for row in (0, 1):
        here = np.s_[100 * row : 100 * row + 320, :320]
        if shared:
            found = clip(slic(rgb, valid=valid), 100 * row, 0, 320)
        else:
            found = clip(slic(rgb[here], valid=valid[here]), 0, 0, 320)
        expected = nodes_of(rgb[here], found)
        assert count[row, 0] == len(expected)
        np.testing.assert_array_equal(nodes[: len(expected), :, row, 0], expected.astype("f2"))
    assert not nodes[:, :, count == 0].any()


def test_graphs_of_cells_are_scored_in_place() -> None:
    rng = np.random.default_rng(0)
    nodes = rng.uniform(0.1, 0.9, (50, 5, 20, 33)).astype(np.float16)
    count = (rng.random((20, 33)) > 0.3).astype(np.uint8)
    network = InstanceGraphs(classes=4).eval()

    def predict(batch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        assert batch.shape == (256, 50, 5)
        with torch.inference_mode():
            logits, features = network(torch.from_numpy(batch))
        return torch.softmax(logits, 1).numpy(), features.numpy()

    found = score_graphs(nodes, count, predict, 4)
    assert np.isnan(found[:, count == 0]).all()
    for row, col in np.argwhere(count)[::40].tolist():
        with torch.inference_mode():
            one = network(torch.from_numpy(nodes[None, :, :, row, col].astype(np.float32)))[0]
        np.testing.assert_allclose(found[:, row, col], torch.softmax(one, 1)[0], atol=1e-6)


def test_fusion_has_its_ends_and_sums_to_one() -> None:
    rng = np.random.default_rng(0)
    s, g = (rng.dirichlet(np.ones(17), 40) for _ in range(2))
    np.testing.assert_allclose(fuse(s, g, 0.0), g, rtol=1e-6)
    np.testing.assert_allclose(fuse(s, g, 1.0), s, rtol=1e-6)
    np.testing.assert_allclose(fuse(s, g).sum(1), 1, rtol=1e-6)
    np.testing.assert_allclose(fuse(s, g)[0], 0.6 * s[0] + 0.4 * g[0], rtol=1e-6)
    nothing = np.zeros((40, 1), int)
    np.testing.assert_allclose(fuse(s, g, 0.3, nothing), s, rtol=1e-6)
    np.testing.assert_allclose(fuse(s, np.full_like(g, np.nan)), s, rtol=1e-6)
    with pytest.raises(ValueError, match="sentinel_weight"):
        fuse(s, g, 1.2)
    with pytest.raises(ValueError, match="differ"):
        fuse(s, g[:3])


def test_a_map_takes_the_weight_that_its_graph_card_holds() -> None:
    def card(name: str, **more: Any) -> ModelCard:
        values = {"architecture": "gcn", "bands": ("B04", "B03", "B02"), "features": 32}
        values |= {"name": name, "weights": "w.safetensors", "sha256": "0" * 64}
        return ModelCard.model_validate(values | more)

    s2, other = card("s2"), card("other", sha256="1" * 64)
    found = {"beside": "s2", "key": s2.key, "sentinel_weight": 0.75}
    graph = card("graph", fusion=found)
    assert graph.key == card("graph").key  # its scores are the same with whomever it is fused
    assert fusion_weight(None, graph, s2) == (0.75, ", as found in its training")
    assert fusion_weight(0.3, graph, s2) == (0.3, "")
    weight, why = fusion_weight(None, graph, other)
    assert weight == 0.6
    assert "25%, was found beside s2, which other is not" in why
    weight, why = fusion_weight(None, card("graph"), s2)
    assert weight == 0.6
    assert "no weight was found" in why


def test_the_weight_is_chosen_where_validation_fares_best() -> None:
    truth = np.arange(34) % 17
    sure = np.eye(17)[truth]
    blind = np.full((34, 17), 1 / 17)
    wrong = np.eye(17)[(truth + 1) % 17]
    best, found = sweep(sure, wrong, truth)
    assert best == 0.6  # all above a half are perfect: the nearest to the default
    assert found[0.0] == 0.0
    assert found[1.0] == 1.0
    assert len(found) == 21
    assert sweep(blind, sure, truth)[0] == 0.6
    assert sweep(wrong, sure, truth)[0] == 0.45
    with pytest.raises(MetricError):
        sweep(sure[:0], sure[:0], truth[:0])
