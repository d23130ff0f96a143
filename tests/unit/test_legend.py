"""Legends: both palettes in use, reasons, green space."""

from __future__ import annotations

import pytest

from engine.errors import RecipeError
from engine.legend import (
    LCZ,
    PRECEDENCE,
    REASON_COLOURS,
    REASON_TEXTS,
    UGS,
    Reason,
    parse_class,
    parse_colour,
)


def test_both_palettes_are_read() -> None:
    for c in LCZ:
        assert parse_colour(c.colour) == parse_colour(f"#{c.colour.lower()}") == c.code
    archive = {"910613": 1, "FF985E": 6, "BBBBBB": 8, "000000": 15, "FCF7B1": 16, "656BFA": 17}
    for colour, code in archive.items():
        assert parse_colour(colour) == code
    for wrong in ("123456", "", "red"):
        with pytest.raises(RecipeError, match="not a colour"):
            parse_colour(wrong)


def test_every_reason_has_a_word_a_colour_and_a_rank() -> None:
    assert set(REASON_TEXTS) == set(REASON_COLOURS) == set(Reason)
    assert len(set(REASON_COLOURS.values())) == len(Reason)
    assert set(PRECEDENCE) == set(Reason) - {Reason.DATA, Reason.NOT_COMPUTED}
    assert PRECEDENCE == (1, 9, 4, 8, 2, 3, 7, 6, 5)


def test_green_space_is_binary() -> None:
    assert [c.code for c in UGS] == [0, 1]


def test_labels_as_people_write_them() -> None:
    assert parse_class(" lcz g ") == parse_class("107") == 17
    assert parse_class("LCZ 6") == parse_class(6) == 6
