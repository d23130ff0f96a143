"""Which patches train, validate and test: whole polygons or blocks, never two that share pixels.

Neighbouring patches share most of their pixels, and patches of one polygon share its ground: a
split by chance lets a network be tested on what it has seen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from engine.errors import LabelError

__all__ = [
    "SPLITS",
    "UNUSED",
    "Codes",
    "allot",
    "find_leaks",
    "split_by_block",
    "split_by_group",
    "split_by_pool",
]

SPLITS = ("train", "validation", "test")
UNUSED = 255
"""Of a patch that lies in two splits' ground: it is in none."""

_FEW = 20  # patches below which none is spared for a margin
_ACROSS = 5.0  # blocks along a piece that is cut
_BLOCK, _WIDE = 5.0, 13.0  # of a block and of a piece that has several, in reaches

Codes = npt.NDArray[np.uint8]


def split_by_group(
    groups: npt.NDArray[np.int64],
    lcz: npt.NDArray[np.integer[Any]],
    xy: npt.NDArray[np.float64],
    reach: float,
    shares: Sequence[float] = (0.7, 0.1, 0.2),
    seed: int = 0,
    *,
    side: float = 3200.0,
    tell: Callable[[str], None] = lambda text: None,
) -> Codes:
    """Split whole groups (polygons), those together whose patches overlap, class by class.

    Groups that hang together and hold more patches than the largest split is to have (a raster's
    labels are one such piece) are cut into blocks; of two patches that then share pixels across
    splits the one that trains is left out, or else the one that validates.

    Parameters
    ----------
    groups : int64 (n,)
    lcz : (n,), classes of patches, 0 or more.
    xy : float64 (n, 2)
        Centres of the patches in metres.
    reach : side of what the model sees of a patch, in metres.
    shares : of train, validation, test; they sum to 1.
    seed : int
    side : of a block, in metres; smaller where a piece is small.
    tell : hears of pieces that are cut.

    Returns
    -------
    uint8 (n,), positions in `SPLITS`, `UNUSED` where left out

    Raises
    ------
    LabelError
        Where the shares are none.
    """
    _require_shares(shares)
    _, group = np.unique(groups, return_inverse=True)
    first, second = _overlapping(xy, reach)
    n = int(group.max()) + 1 if len(group) else 0
    joined = coo_array((np.ones(len(first)), (group[first], group[second])), shape=(n, n))
    _, component = connected_components(joined, directed=False)
    piece, fixed, large = _cut_large(component[group], xy, reach, shares, side)
    found = allot(piece, fixed, lcz, shares, seed)
    apart = found[first] != found[second]
    # train is 0, validation 1, test 2: where two share pixels, the test keeps its own
    found[np.where(found[first] < found[second], first, second)[apart]] = UNUSED
    if large:
        left = int((found == UNUSED).sum())
        tell(
            f"{large} of the labels hang together in more than a split's share: they are cut into "
            f"blocks, and {left} patches between the splits are left out"
        )
    return found


def _cut_large(
    piece: npt.NDArray[np.intp],
    xy: npt.NDArray[np.float64],
    reach: float,
    shares: Sequence[float],
    side: float,
) -> tuple[npt.NDArray[np.intp], Codes, str]:
    """Pieces, with blocks in place of one that holds more patches than the largest split.

    Returns
    -------
    pieces (n,); the split of patches where it is given already, `UNUSED` elsewhere; the share of
    the patches that was cut, empty where nothing was.
    """
    fixed = np.full(len(piece), UNUSED, np.uint8)
    counts = np.bincount(piece)
    large = np.flatnonzero(counts > max(shares) * max(len(piece), 1))
    if not len(large) or len(piece) < _FEW:
        return piece, fixed, ""
    here = np.flatnonzero(piece == large[0])
    wide = np.ptp(xy[here], axis=0) + reach
    extent = float(np.sqrt(np.prod(wide)))
    if extent >= _WIDE * reach:
        block = max(min(side, extent / _ACROSS), _BLOCK * reach)
        place = np.floor((xy[here] - xy[here].min(axis=0)) / block).astype(np.int64)
        _, inner = np.unique(place, axis=0, return_inverse=True)
        inner = inner.reshape(-1)
    else:
        # no room for many margins: three strips, the one that trains in the middle
        along = np.argsort(np.argsort(xy[here, int(np.argmax(wide))], kind="stable"))
        ends = np.array([shares[1], shares[1] + shares[0]]) * len(here)
        inner = np.searchsorted(ends, along + 0.5)
        fixed[here] = np.array([1, 0, 2], np.uint8)[inner]
    found = piece.copy()
    found[here] = len(counts) + inner
    _, found = np.unique(found, return_inverse=True)
    return found.reshape(-1), fixed, f"{len(here) / len(piece):.0%}"


def allot(
    piece: npt.NDArray[np.intp],
    fixed: Codes,
    lcz: npt.NDArray[np.integer[Any]],
    shares: Sequence[float],
    seed: int,
) -> Codes:
    """Whole pieces to splits: rarest classes first, so that each split gets its share of them
    while there is a choice.

    Parameters
    ----------
    piece : int64 (n,), of each patch, from 0.
    fixed : (n,), the split of patches where it is given already, `UNUSED` elsewhere.
    lcz : (n,), class of each patch, 0 or more.
    shares, seed : as for `split_by_group`.
    """
    count = int(piece.max()) + 1 if len(piece) else 0
    sizes = np.zeros((count, max(18, int(lcz.max(initial=0)) + 1)))
    np.add.at(sizes, (piece, lcz), 1)
    total = sizes.sum(0)
    rarity = np.where(sizes > 0, total, np.inf).min(1)
    order = np.lexsort((np.random.default_rng(seed).random(count), rarity))
    wanted = np.outer(shares, total)
    given = np.zeros_like(wanted)
    chosen = np.full(count, UNUSED, np.uint8)
    chosen[piece] = fixed
    for k in np.flatnonzero(chosen != UNUSED):
        given[chosen[k]] += sizes[k]
    for k in order[chosen[order] == UNUSED]:
        # to the split that falls shortest of its share of the piece's classes
        lack = ((wanted - given) / np.maximum(wanted, 1e-9) * (sizes[k] > 0)).sum(1)
        split = int(np.argmax(np.where(np.array(shares) > 0, lack, -np.inf)))
        chosen[k] = split
        given[split] += sizes[k]
    found: Codes = chosen[piece]
    return found


def split_by_pool(
    lcz: npt.NDArray[np.uint8], shares: Sequence[float] = (0.7, 0.1, 0.2), seed: int = 0
) -> Codes:
    """Split patches by chance, class by class, whatever ground they share.

    What the papers call the sample pool. It flatters: a test patch may be one that was trained on,
    moved by a cell. Here to repeat their figures, not to judge a model by.
    """
    _require_shares(shares)
    rng = np.random.default_rng(seed)
    found = np.full(len(lcz), UNUSED, np.uint8)
    for code in np.unique(lcz):
        here = rng.permutation(np.flatnonzero(lcz == code))
        ends = np.round(np.cumsum(shares) * len(here)).astype(int)
        for split, part in enumerate(np.split(here, ends[:-1])):
            found[part] = split
    return found


def split_by_block(
    xy: npt.NDArray[np.float64],
    reach: float,
    side: float = 3200.0,
    shares: Sequence[float] = (0.7, 0.1, 0.2),
    seed: int = 0,
) -> Codes:
    """Split square blocks of ground; patches that reach into a block of another split are left out.

    Parameters
    ----------
    xy : float64 (n, 2)
        Centres of the patches in metres.
    reach : side of what the model sees of a patch, in metres.
    side : of a block, in metres; at least `reach`.
    shares, seed : as for `split_by_group`.

    Returns
    -------
    uint8 (n,), positions in `SPLITS`, `UNUSED` where left out
    """
    _require_shares(shares)
    if side < reach:
        raise LabelError(
            "blocks are smaller than patches", got=f"{side:g} m", expected=f"{reach:g} m or more"
        )

    def block_split(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> Codes:
        i, j = np.floor(x / side).astype(np.int64), np.floor(y / side).astype(np.int64)
        pairs, inverse = np.unique(np.stack([i, j]), axis=1, return_inverse=True)
        chance = [np.random.default_rng([seed, a % 2**32, b % 2**32]).random() for a, b in pairs.T]
        codes = np.searchsorted(np.cumsum(shares)[:-1], chance, side="right").astype(np.uint8)
        return codes[inverse.reshape(-1)]

    x, y = xy[:, 0], xy[:, 1]
    found = block_split(x, y)
    for dx in (-reach / 2, reach / 2):
        for dy in (-reach / 2, reach / 2):
            found[block_split(x + dx, y + dy) != block_split(x, y)] = UNUSED
    return found


def find_leaks(xy: npt.NDArray[np.float64], split: Codes, reach: float) -> int:
    """Pairs of patches of different splits that share pixels; 0 for an honest split."""
    used = split != UNUSED
    first, second = _overlapping(xy[used], reach)
    return int((split[used][first] != split[used][second]).sum())


def _overlapping(
    xy: npt.NDArray[np.float64], reach: float
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Pairs of patches that share ground: both centres' distances are under a side."""
    if len(xy) < 2:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    # just under: patches that touch along an edge share no pixel
    pairs = cKDTree(xy).query_pairs(reach * (1 - 1e-9), p=np.inf, output_type="ndarray")
    return pairs[:, 0].astype(np.int64), pairs[:, 1].astype(np.int64)


def _require_shares(shares: Sequence[float]) -> None:
    if len(shares) != 3 or min(shares) < 0 or abs(sum(shares) - 1) > 1e-6 or shares[0] == 0:
        raise LabelError(
            "shares of train, validation and test must sum to 1",
            got=tuple(shares),
            expected="such as 0.7, 0.1, 0.2",
        )
