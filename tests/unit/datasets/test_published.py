"""Published patch sets become patch sets of ours, to the digital number; wrong ones are refused."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from engine.datasets.patches import open_patches
from engine.datasets.published import import_ges2, import_so2sat
from engine.errors import LabelError


def so2sat(path: Path, n: int, seed: int, **changes: Any) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.integers(1, 9000, (n, 32, 32, 10)) / 10_000
    y = rng.integers(1, 18, n)
    values = {
        "sen1": np.zeros((n, 32, 32, 8)),
        "sen2": x,
        "label": np.eye(17)[y - 1],
        **changes,
    }
    with h5py.File(path, "w") as file:
        for name, value in values.items():
            if value is not None:
                file[name] = value
    return x, y


def test_so2sat_comes_to_the_digital_number_with_its_splits(tmp_path: Path) -> None:
    parts = {
        name: so2sat(tmp_path / f"{name}.h5", n, seed)
        for seed, (name, n) in enumerate((("training", 1500), ("validation", 7), ("testing", 9)))
    }
    import_so2sat([tmp_path / f"{name}.h5" for name in parts], tmp_path / "patches")
    found = open_patches(tmp_path / "patches")
    assert len(found) == 1516
    assert np.bincount(found.split).tolist() == [1500, 7, 9]
    x = np.concatenate([x for x, _ in parts.values()])
    np.testing.assert_array_equal(found.y, np.concatenate([y for _, y in parts.values()]))
    expected = np.moveaxis(np.rint(x * 10_000) + 1000, 3, 1)
    np.testing.assert_array_equal(found.x[:], expected)
    assert found.bands[3] == "B05"
    assert found.context == 0


def test_both_orders_of_coordinates_give_the_same_centres(tmp_path: Path) -> None:
    so2sat(tmp_path / "t.h5", 3, 0)
    gdal = [[500_000, 10, 0, 5_000_320, 0, 10]] * 3
    world = [[10, 0, 0, -10, 500_005, 5_000_315]] * 3
    centres = []
    for number, six in enumerate((gdal, world)):
        with h5py.File(tmp_path / f"geo-{number}.h5", "w") as file:
            file["tfw"] = np.array(six, float)
            file["epsg"] = np.full(3, 32633)
            file["city"] = [b"berlin", b"seoul", b"berlin"]
        out = tmp_path / f"patches-{number}"
        import_so2sat([tmp_path / "t.h5"], out, [tmp_path / f"geo-{number}.h5"])
        found = open_patches(out)
        centres.append(found.xy)
        assert [place.name for place in found.places] == ["berlin", "seoul"]
        assert found.place.tolist() == [0, 1, 0]
    np.testing.assert_array_equal(*centres)
    assert centres[0][0].tolist() == [500_160, 5_000_160]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"sen2": None}, "not laid out"),
        ({"sen2": np.zeros((3, 10, 32, 32))}, "not laid out"),
        ({"label": np.zeros((3, 10))}, "not laid out"),
        ({"label": np.ones((3, 17))}, "one-hot"),
        ({"sen2": np.full((3, 32, 32, 10), 900.0)}, "not reflectance"),
        ({"sen2": np.full((3, 32, 32, 10), np.nan)}, "not numbers"),
    ],
)
def test_files_of_another_layout_are_refused(
    tmp_path: Path, changes: dict[str, Any], text: str
) -> None:
    so2sat(tmp_path / "t.h5", 3, 0, **changes)
    with pytest.raises(LabelError, match=text):
        import_so2sat([tmp_path / "t.h5"], tmp_path / "patches")


def test_what_is_no_hdf5_or_of_other_patches_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.h5").write_text("<html>")
    with pytest.raises(LabelError, match="not HDF5"):
        import_so2sat([tmp_path / "t.h5"], tmp_path / "patches")
    so2sat(tmp_path / "t.h5", 3, 0)
    with h5py.File(tmp_path / "geo.h5", "w") as file:
        file["tfw"], file["city"] = np.zeros((2, 6)), [b"a", b"b"]
    with pytest.raises(LabelError, match="other patches"):
        import_so2sat([tmp_path / "t.h5"], tmp_path / "patches", [tmp_path / "geo.h5"])
    with pytest.raises(LabelError, match="up to three"):
        import_so2sat([], tmp_path / "patches")


def ges2(root: Path, n: int = 12) -> np.ndarray:
    """The published layout, without its graphs; patch k is of class k + 1."""
    folder = root / "sen2_img_patches"
    folder.mkdir()
    images = np.random.default_rng(0).integers(1, 9000, (n, 32, 32, 10)) / 10_000
    for number, image in enumerate(images):
        np.savez(folder / f"sen2_image_{number}.npz", image=image, label=number + 1)
    return images


def write_graph(root: Path, number: int, x: np.ndarray, code: int, **changes: Any) -> None:
    """One graph as published: an instance's mean colour and centre, distances, the label."""
    (root / "gg_nodes_refine").mkdir(exist_ok=True)
    a = np.linalg.norm(x[:, None, 3:] - x[None, :, 3:], axis=2)
    values = {"x": x, "a": a, "y": np.eye(17)[code - 1], **changes}
    np.savez(root / "gg_nodes_refine" / f"graph_{number}.npz", **values)


@pytest.mark.parametrize(("colour", "centre"), [(255, 320), (1, 320), (255, 1), (1, 1)])
def test_graphs_of_ges2_come_in_our_scale(tmp_path: Path, colour: int, centre: int) -> None:
    ges2(tmp_path)
    rng = np.random.default_rng(1)
    ours = [rng.uniform(0.02, 0.98, (k + 1, 5)) for k in range(12)]
    ours[5][0, 3] = 0.0  # a box one pixel wide at the left edge
    whole = np.array([colour] * 3 + [centre] * 2)
    for number, x in enumerate(ours):
        if number != 7:  # of that window no instance was found
            write_graph(tmp_path, number, x * whole, number + 1)
    told: list[str] = []
    import_ges2(tmp_path, tmp_path / "patches", tell=told.append)
    found = open_patches(tmp_path / "patches")
    assert found.instances == {"segmenter": "sam", "segmentation": "per_window"}
    nodes = np.asarray(found.nodes[:])
    assert nodes.shape == (12, 50, 5)
    for k, x in enumerate(ours):
        there = 0 if k == 7 else len(x)
        assert (nodes[k, :, 3] > 0).sum() == there
        np.testing.assert_allclose(nodes[k, :there], x[:there], atol=2e-3)
        assert not nodes[k, there:].any()
    assert f"colours in 0 to {colour}, centres in 0 to {centre}" in told[0]
    assert "joined to all others in 11 of 11" in told[0]


def test_graphs_of_ges2_that_are_others_are_refused(tmp_path: Path) -> None:
    ges2(tmp_path)
    good = np.random.default_rng(1).uniform(0.1, 0.9, (4, 5))

    def attempt(text: str, x: np.ndarray = good, code: int = 1, **changes: Any) -> None:
        write_graph(tmp_path, 0, x, code, **changes)
        with pytest.raises(LabelError, match=text):
            import_ges2(tmp_path, tmp_path / "patches")

    attempt("another class than its patch", code=2)
    attempt("another form", x=np.tile(good, (13, 1)))  # 52 nodes
    attempt("another form", a=np.zeros((3, 3)))
    attempt("no colours and places", x=-good)
    attempt("no colours and places", x=good * np.nan)
    attempt("colours are of no known scale(.|\n)*up to 1, or 255", x=good * 1000)
    attempt("centres of instances(.|\n)*or 320", x=good * ([200] * 3 + [1000] * 2))
    trap = np.empty((4, 5), object)
    attempt("cannot be read", x=good, a=trap)
    (tmp_path / "gg_nodes_refine" / "graph_0.npz").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(LabelError, match="cannot be read"):
        import_ges2(tmp_path, tmp_path / "patches")


def test_numbers_and_classes_of_ges2_mean_one_thing(tmp_path: Path) -> None:
    images = ges2(tmp_path)
    path = tmp_path / "sen2_img_patches" / "sen2_image_3.npz"
    for label in (3.7, 0, 18, np.nan, np.array([4, 4])):
        np.savez(path, image=images[3], label=label)
        with pytest.raises(LabelError, match="unknown class"):
            import_ges2(tmp_path, tmp_path / "patches")
    np.savez(path, image=images[3], label=4.0)
    shutil.copy(path, path.with_name("sen2_image_03.npz"))
    with pytest.raises(LabelError, match="one number"):
        import_ges2(tmp_path, tmp_path / "patches")


def test_a_split_of_ges2_is_taken_from_json(tmp_path: Path) -> None:
    ges2(tmp_path)
    path, told = tmp_path / "polygons.json", list[str]()
    path.write_text(json.dumps({"train": [0, 3, 11], "validation": [1], "test": [2, 10]}))
    import_ges2(tmp_path, tmp_path / "patches", path, told.append)
    split = open_patches(tmp_path / "patches").split
    assert [np.flatnonzero(split == k).tolist() for k in range(3)] == [[0, 3, 11], [1], [2, 10]]
    assert told == ["6 of 12 patches are in no split"]
    for wrong, text in (
        ({"train": [0], "test": [2]}, "laid out otherwise"),
        ([0, 1], "laid out otherwise"),
        ({"train": [0, 12], "validation": [], "test": []}, "no patch(.|\n)*12 patches"),
        ({"train": [0.5], "validation": [], "test": []}, "no patch"),
        ({"train": [True], "validation": [], "test": []}, "no patch"),
        ({"train": "all", "validation": [], "test": []}, "no patch"),
        ({"train": [4], "validation": [], "test": [4]}, "two splits(.|\n)*4: train and test"),
    ):
        path.write_text(json.dumps(wrong))
        with pytest.raises(LabelError, match=text):
            import_ges2(tmp_path, tmp_path / "again", path)
    path.write_bytes(pickle.dumps({"train": [0]}))
    with pytest.raises(LabelError, match="split cannot be read"):
        import_ges2(tmp_path, tmp_path / "again", path)


def test_ges2_comes_without_unpickling(tmp_path: Path) -> None:
    images = ges2(tmp_path)
    folder = tmp_path / "sen2_img_patches"
    import_ges2(tmp_path, tmp_path / "patches")
    found = open_patches(tmp_path / "patches")
    assert found.y.tolist() == list(range(1, 13))  # by number, not by name
    assert found.nodes is None
    np.testing.assert_array_equal(found.x[:], np.moveaxis(np.rint(images * 1e4) + 1000, 3, 1))

    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "sprung",))

    trap = np.empty(1, object)
    trap[0] = Trap()
    np.savez(folder / "sen2_image_3.npz", image=trap, label=4)
    with pytest.raises(LabelError, match="cannot be read"):
        import_ges2(tmp_path, tmp_path / "again")
    (folder / "sen2_image_3.npz").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(LabelError, match="cannot be read"):
        import_ges2(tmp_path, tmp_path / "again")
    assert not (tmp_path / "sprung").exists()
    with pytest.raises(LabelError, match="no patches"):
        import_ges2(folder, tmp_path / "again")
