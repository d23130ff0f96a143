"""Which classes occur in a patch, by the codes of its pixels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from engine.datasets.chips import UNKNOWN

__all__ = ["occurrence"]


def occurrence(
    codes: npt.NDArray[np.uint8],
    seen: npt.NDArray[np.bool_] | None,
    classes: Sequence[int],
    share: float,
) -> npt.NDArray[np.float32]:
    """Labels of patches: whether each class covers a share of what is seen of the patch.

    Pixels that are seen but have no label may be of any class. A class occurs where its own pixels
    are enough without them, does not where they would be too few even with them, and nobody knows
    in between.

    Parameters
    ----------
    codes : uint8 (n, y, x), of classes; 255 unknown.
    seen : bool (n, y, x), where the image has data; None: everywhere.
    classes : codes, in the order of the labels.
    share : 0 to 1; of 0 a pixel is enough.

    Returns
    -------
    float32 (n, label): 1 occurs, 0 does not, NaN unknown; all are unknown where nothing is seen.
    """
    there = np.ones(codes.shape, bool) if seen is None else seen
    pixels = np.count_nonzero(there, axis=(1, 2))
    # of 0.1 of 10 pixels one, whatever the product's last bit says
    least = np.maximum(np.ceil(share * pixels - 1e-6), 1)
    silent = np.count_nonzero(there & (codes == UNKNOWN), axis=(1, 2))
    found = np.full((len(codes), len(classes)), np.nan, np.float32)
    for k, code in enumerate(classes):
        own = np.count_nonzero(there & (codes == code), axis=(1, 2))
        found[own >= least, k] = 1
        found[own + silent < least, k] = 0
    found[pixels == 0] = np.nan
    return found
