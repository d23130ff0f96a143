"""Agreement of interpreters: kappa of two and of several, and which label stands."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.legend import LCZ
from engine.metrics import confusion, several

__all__ = ["Agreement", "Settled", "agree", "cohen", "fleiss", "settle"]

Votes = Mapping[Hashable, Mapping[str, int]]
"""Of each site the class by interpreter."""


@dataclass(frozen=True)
class Agreement:
    """How far interpreters agree.

    Attributes
    ----------
    sites : sites that two interpreters or more answered.
    whole : of these, sites where all gave one class.
    fleiss : Fleiss' kappa over them; NaN where none is, or all answers are one class.
    pairs : of each two interpreters, by name: sites that both answered, share where they agree,
        Cohen's kappa.
    """

    sites: int
    whole: int
    fleiss: float
    pairs: dict[tuple[str, str], tuple[int, float, float]]


@dataclass(frozen=True)
class Settled:
    """Which label stands.

    Attributes
    ----------
    lcz : class by site.
    disputed : sites without one, and why.
    """

    lcz: dict[Any, int]
    disputed: dict[Any, str]


def cohen(first: npt.ArrayLike, second: npt.ArrayLike) -> float:
    """Cohen's kappa of two interpreters' classes (n,), 1 to 17; NaN where chance agrees wholly."""
    return several(confusion(np.asarray(first), np.asarray(second)))["kappa"]


def fleiss(counts: npt.ArrayLike) -> float:
    """Fleiss' kappa (Fleiss 1971).

    Parameters
    ----------
    counts : int (site, class), answers. Each site has two or more, and may have another number
        than the others: then agreement is the mean over sites, chance that of all answers.

    Returns
    -------
    float; NaN without sites, or where all answers are one class.
    """
    c = np.asarray(counts, np.float64)
    each = c.sum(axis=1)
    if not len(c) or not c.sum():
        return float("nan")
    if (each < 2).any():
        raise ValueError("a site has fewer than two answers")
    found = ((c**2).sum(axis=1) - each) / (each * (each - 1))
    chance = ((c.sum(axis=0) / c.sum()) ** 2).sum()
    return float((found.mean() - chance) / (1 - chance)) if chance < 1 else float("nan")


def agree(votes: Votes) -> Agreement:
    """How far interpreters agree, over the sites that several answered."""
    several_ = [given for given in votes.values() if len(given) > 1]
    counts = np.zeros((len(several_), len(LCZ)), np.int64)
    for row, given in enumerate(several_):
        for code in given.values():
            counts[row, code - 1] += 1
    names = sorted({name for given in votes.values() for name in given})
    pairs = {}
    for a, b in combinations(names, 2):
        both = [(given[a], given[b]) for given in several_ if a in given and b in given]
        if both:
            one, other = np.array(both).T
            pairs[a, b] = (len(both), float((one == other).mean()), cohen(one, other))
    whole = sum(len(set(given.values())) == 1 for given in several_)
    return Agreement(len(several_), whole, fleiss(counts), pairs)


def settle(votes: Votes, unsure: Mapping[Hashable, set[str]], arbiter: str | None) -> Settled:
    """The class of each site: the arbiter's, else what most of those say who are sure.

    Parameters
    ----------
    votes : of each site.
    unsure : of a site the interpreters who are not sure; they do not vote.
    arbiter : whose answers stand, sure or not.
    """
    lcz: dict[Any, int] = {}
    disputed: dict[Any, str] = {}
    for site, given in votes.items():
        if arbiter is not None and arbiter in given:
            lcz[site] = given[arbiter]
            continue
        sure = [code for name, code in given.items() if name not in unsure.get(site, set())]
        if not sure:
            disputed[site] = "nobody is sure"
            continue
        codes, numbers = np.unique(sure, return_counts=True)
        if (numbers == numbers.max()).sum() > 1:
            said = (f"{LCZ[c - 1].label} x {n}" for c, n in zip(codes, numbers, strict=True))
            disputed[site] = ", ".join(said)
        else:
            lcz[site] = int(codes[numbers.argmax()])
    return Settled(lcz, disputed)
