"""Mutated input, a little of what `make mutations` does: right, or refused in natmap's words."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.mutated_files import KINDS, check_file
from support.mutated_items import Items


def test_mutated_items_are_right_or_left_out_and_change_no_other(
    data: Path, tmp_path: Path
) -> None:
    check = Items(data).check
    wrong = {seed: found for seed in range(40) if (found := check(seed, tmp_path))[1] is not None}
    assert not wrong


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_mutated_files_are_right_or_refused(kind: str, tmp_path: Path) -> None:
    seeds = range(60)
    found = {seed: check_file(kind, seed, tmp_path) for seed in seeds}
    assert not {seed: case for seed, case in found.items() if case[1] is not None}
    assert len({name for name, _ in found.values()}) > (1 if kind == "geopackage" else 30) - 1
