"""Published patch sets become patch sets of ours, to the digital number; wrong ones are refused."""

from __future__ import annotations

import pickle
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


def test_ges2_comes_without_unpickling(tmp_path: Path) -> None:
    folder = tmp_path / "sen2_img_patches"
    folder.mkdir()
    rng = np.random.default_rng(0)
    images = rng.integers(1, 9000, (12, 32, 32, 10)) / 10_000
    for number, image in enumerate(images):
        np.savez(folder / f"sen2_image_{number}.npz", image=image, label=number + 1)
    import_ges2(tmp_path, tmp_path / "patches")
    found = open_patches(tmp_path / "patches")
    assert found.y.tolist() == list(range(1, 13))  # by number, not by name
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
