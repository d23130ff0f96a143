"""Numbers of features as cubes and patch sets keep them: 65,535 steps of a range, 0 is unknown."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["decode_ground", "encode_ground"]

_STEPS = 65_534


def encode_ground(values: npt.NDArray[Any], low: float, high: float) -> npt.NDArray[np.uint16]:
    """Values as they are stored: 1 is `low`, 65,535 `high`, 0 what is unknown (NaN)."""
    unknown = np.isnan(values)
    share = (np.where(unknown, low, values).astype(np.float64) - low) / (high - low)
    found: npt.NDArray[np.uint16] = (np.rint(share * _STEPS).clip(0, _STEPS) + 1).astype(np.uint16)
    found[unknown] = 0
    return found


def decode_ground(stored: npt.NDArray[Any], low: float, high: float) -> npt.NDArray[np.float32]:
    """Values of stored numbers, NaN where they are unknown."""
    values = low + (stored.astype(np.float64) - 1) / _STEPS * (high - low)
    found: npt.NDArray[np.float32] = np.where(stored > 0, values, np.nan).astype(np.float32)
    return found
