"""Chip sets: which rows are read, where they have data, how their images are grouped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engine.errors import LabelError
from engine.training.chips import ChipSet, join_chips, open_chips, write_chips

SIDE = 8


def chips(n: int, places: int = 1, *, known: bool = True, seed: int = 0) -> ChipSet:
    """Each image tells its number in its first two bands."""
    x = np.zeros((n, 3, SIDE, SIDE), np.uint8)
    x[:, 0], x[:, 1] = ((np.arange(n) // k % 256)[:, None, None] for k in (1, 256))
    rng = np.random.default_rng(seed)
    return ChipSet(
        x,
        np.zeros((n, SIDE, SIDE), np.uint8),
        rng.uniform((0, 0), (9000, 3000), (n, 2)) if known else np.full((n, 2), np.nan),
        np.sort(rng.integers(0, places, n)).astype(np.uint16),
        np.where(np.arange(n) % 5 == 4, 1, 0).astype(np.uint8),
        ("B04", "B03", "B02"),
        tuple(f"place {k}" for k in range(places)),
    )


def numbers(images: np.ndarray) -> np.ndarray:
    return images[:, 0, 0, 0] + 256 * images[:, 1, 0, 0].astype(int)


def test_a_split_reads_its_own_rows_alone(tmp_path: Path) -> None:
    n = 64
    found = chips(n)
    found.split[:] = np.arange(n) // 32
    write_chips(tmp_path / "chips", found)
    for path in (tmp_path / "chips" / "chips" / "x" / "c").iterdir():
        if int(path.name) >= 2:  # 16 chips to a chunk: those of validation
            for file in (p for p in path.rglob("*") if p.is_file()):
                file.write_bytes(b"damaged")
    again = open_chips(tmp_path / "chips")
    assert numbers(again.of("train")[0]).tolist() == list(range(32))
    assert len(again.of("test")[0]) == 0
    with pytest.raises(Exception, match=r"(?s)."):
        again.of("validation")


def test_where_there_is_data_is_kept_and_older_sets_open(tmp_path: Path) -> None:
    old, new = chips(10), chips(10, seed=1)
    seen = np.ones((10, SIDE, SIDE), bool)
    seen[:5, 0] = False
    new = ChipSet(*(getattr(new, k) for k in list(ChipSet.__dataclass_fields__)[:-1]), seen=seen)
    write_chips(tmp_path / "old", old)
    assert not (tmp_path / "old" / "chips" / "seen").exists()
    assert open_chips(tmp_path / "old").of("train")[2] is None
    write_chips(tmp_path / "both", join_chips([old, new]))
    both = open_chips(tmp_path / "both")
    train = np.flatnonzero(both.split == 0)
    wanted = np.concatenate([np.ones_like(seen), seen])[train]
    found = both.of("train")[2]
    assert found is not None
    np.testing.assert_array_equal(found, wanted)
    assert both.of("validation")[2] is not None  # number 4 of the new ones
    assert both.take(np.arange(10))[2] is None  # everywhere: nothing to be said


def test_no_chip_set_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match="cannot be read"):
        open_chips(tmp_path)
