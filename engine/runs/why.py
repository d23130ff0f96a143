"""Why a tile is stale: what of its fingerprint is another one, and how people are told."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import numpy as np

from engine.runs.stage import Stage
from engine.store.ledger import Mark

__all__ = ["Why", "changed_settings", "difference", "words"]


class Why(IntEnum):
    """Why a tile is stale."""

    FRESH = 0
    GAP = 1  # something could not be read last time
    FAILED_BEFORE = 2
    INPUTS = 3  # what it reads is not what it was made from
    PART = 4  # items of a day, or polygons, are others
    NEW_PART = 5  # a day that the tile did not have
    SUPPORT = 6  # the area or what lies downstream asks for other cells
    SETTINGS = 7  # parameters, model, version of the code
    NEW = 8  # never made


def words(why: Why, stage: Stage) -> str:
    """A reason in a few words; settings have more to tell (`changed_settings`)."""
    return {
        Why.NEW: "new",
        Why.NEW_PART: f"new {stage.outside}",
        Why.PART: f"replaced {stage.outside}",
        Why.SUPPORT: "changed area",
        Why.INPUTS: stage.upstream,
        Why.FAILED_BEFORE: "failed before",
        Why.GAP: "gap",
    }.get(why, "")


def changed_settings(old: Any, new: Any, at: str = "") -> list[str]:
    """Names of the values that differ, dotted."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return [] if old == new else [at]
    found: list[str] = []
    for key in sorted(old.keys() | new.keys()):
        found += changed_settings(old.get(key), new.get(key), f"{at}.{key}" if at else key)
    return found


def difference(record: np.void, mark: Mark) -> Why:
    """The gravest part of a fingerprint that is another one."""
    for name, why in (
        ("settings", Why.SETTINGS),
        ("support", Why.SUPPORT),
        ("part", Why.PART),
    ):
        if int(record[name]) != getattr(mark, name):
            return why
    return Why.INPUTS
