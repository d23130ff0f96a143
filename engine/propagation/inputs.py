"""What comes from outside, looked at before work starts: features and the labels that go along."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import LabelError

__all__ = ["require_features", "require_labels"]


def require_features(
    features: npt.ArrayLike,
    what: str,
    columns: int | None = None,
    *,
    masked: bool = False,
    first: int = 0,
) -> npt.NDArray[Any]:
    """Features as float32 or float64 (n, columns), whole and finite.

    Parameters
    ----------
    features : (n, columns); what is neither float32 nor float64 becomes float32.
    what : they are called in errors, such as "labelled features".
    columns : that they must have; by default any number but none.
    masked : whether NaN may stand for what is missing.
    first : row of a larger table at which they begin, for errors.

    Raises
    ------
    LabelError
        Where the shape is another one, or a number is infinite or, unless `masked`, NaN.
    """
    found = np.asarray(features)
    if found.dtype not in (np.float32, np.float64):
        if found.dtype.kind not in "biuf":
            raise LabelError(f"{what} are not numbers", got=found.dtype, expected="float32")
        found = found.astype(np.float32)
    if found.ndim != 2 or found.shape[1] == 0:
        raise LabelError(
            f"{what} are not a table", got=found.shape, expected="(rows, columns), a column or more"
        )
    if columns is not None and found.shape[1] != columns:
        raise LabelError(
            f"{what} have another number of columns than those that they go with",
            got=found.shape[1],
            expected=columns,
            remedy="make both from the same embedding and the same further features",
        )
    wrong = np.isinf(found) if masked else ~np.isfinite(found)
    if wrong.any():
        rows = first + np.flatnonzero(wrong.any(1))
        raise LabelError(
            f"{what} are not finite",
            got=f"{int(wrong.sum())} values in {len(rows)} rows, the first of them row {rows[0]}",
            expected="finite numbers" + (", NaN where a source has none" if masked else ""),
            remedy="leave these rows out, or mask them before they are aggregated",
        )
    return found


def require_labels(
    codes: npt.ArrayLike, classes: Sequence[int], rows: int | None = None, *, least: int = 2
) -> npt.NDArray[np.int64]:
    """Codes as int64 (n,), each one of the classes.

    Parameters
    ----------
    codes : integers (n,)
    classes : that there are, ascending.
    rows : how many features they go with.
    least : classes that must occur.

    Raises
    ------
    LabelError
        Where there are no labels, another number of them, foreign codes, or too few classes.
    """
    found = np.asarray(codes)
    if found.ndim != 1 or (rows is not None and len(found) != rows):
        raise LabelError(
            "labels and features do not go together",
            got=f"codes {found.shape}, features of {rows} rows",
            expected="a code for each row",
        )
    if not len(found):
        raise LabelError(
            "there are no labels", got=0, expected="one or more", remedy="label cells first"
        )
    if found.dtype.kind not in "iu":
        raise LabelError("codes of labels are not integers", got=found.dtype, expected="uint8")
    there = np.unique(found)
    strange = sorted(set(there.tolist()) - set(classes))
    if strange:
        raise LabelError(
            "labels have codes that are no class",
            got=strange,
            expected=list(classes),
            remedy="recode them, or leave them out",
        )
    if len(there) < least:
        raise LabelError(
            "labels have too few classes to learn from",
            got=there.tolist(),
            expected=f"{least} or more",
            remedy="add labels of other classes, or another city",
        )
    return found.astype(np.int64)
