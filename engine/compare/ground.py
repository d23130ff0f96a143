"""Examples and what all systems say of them: whatever a comparison is made on comes to this."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engine.compare.paired import Pairs, pairs_of
from engine.compare.systems import System
from engine.errors import MetricError

__all__ = ["Ground", "Tell", "of_examples", "require_some"]

Ints = npt.NDArray[np.int64]
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Ground:
    """Examples and what was said of them.

    Attributes
    ----------
    pairs : of which every system says something.
    drawn : what is drawn as a whole, in words.
    left : examples to which each system gives no class, by name.
    notes : what was left out or is in doubt, one line each.
    """

    pairs: Pairs
    drawn: str
    left: dict[str, int]
    notes: tuple[str, ...] = ()


def of_examples(
    systems: Sequence[System],
    truth: Ints,
    said: Ints,
    group: Ints,
    drawn: str,
    notes: Sequence[str],
    weight: npt.NDArray[np.float64] | None = None,
    stratum: Ints | None = None,
) -> Ground:
    """Of examples one by one.

    Parameters
    ----------
    systems : whose rows `said` has.
    truth, group, weight, stratum : (n,), as of `engine.compare.paired.pairs_of`.
    said : (systems, n), 0 where a system gives no class.
    drawn : what a group is, in words.
    notes : for people.

    Raises
    ------
    MetricError
        Where no example is classified by all.
    """
    both = (said > 0).all(axis=0)
    left = {system.name: int((row == 0).sum()) for system, row in zip(systems, said, strict=True)}
    require_some(int(both.sum()), len(truth), left)
    pairs = pairs_of(
        truth[both],
        said[:, both],
        group[both],
        None if weight is None else weight[both],
        None if stratum is None else stratum[both],
    )
    return Ground(pairs, f"{pairs.groups} {drawn}", left, tuple(notes))


def require_some(common: int, known: int, left: dict[str, int]) -> None:
    """Refuse to compare on nothing.

    Parameters
    ----------
    common : examples, or some of them, that all classify.
    known : labelled examples.
    left : of these without a class, by system.

    Raises
    ------
    MetricError
    """
    if not common:
        told = "; ".join(f"{name} gives {n} of them no class" for name, n in left.items() if n)
        raise MetricError(
            "there is no example that all systems classify",
            got=f"{known} labelled" + (f"; {told}" if told else ""),
            expected="one or more",
            remedy="check that systems and reference cover one place; --layer classes is not "
            "masked",
        )
