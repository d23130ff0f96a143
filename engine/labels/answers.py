"""Answers of interpreters about sites, and the labels that stand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import shapely
from shapely.geometry.base import BaseGeometry

from engine.errors import LabelError
from engine.labels.agreement import Agreement, agree, settle

__all__ = ["NEAR", "Answer", "Answers", "Key", "Label", "PageSites", "alike", "labels_of"]

NEAR = 1e-6
"""Degrees, a tenth of a metre: other software writes other last digits."""


class Key(NamedTuple):
    """A site: the page that shows it, and its id there."""

    page: str
    id: str


@dataclass(frozen=True)
class Answer:
    """What an interpreter said of a site.

    Attributes
    ----------
    site : Key
    city : that the page is of.
    interpreter : name.
    lcz : 1 to 17.
    sure : False where the interpreter marked a doubt.
    geometry : polygon in degrees.
    """

    site: Key
    city: str
    interpreter: str
    lcz: int
    sure: bool
    geometry: BaseGeometry


class Label(NamedTuple):
    """A label that stands, of a site."""

    site: Key
    city: str
    lcz: int
    geometry: BaseGeometry


@dataclass(frozen=True)
class Answers:
    """Answers of all files.

    Attributes
    ----------
    answers : by page, site and interpreter.
    empty : features and rows without a class.
    """

    answers: tuple[Answer, ...]
    empty: int

    @property
    def votes(self) -> dict[Key, dict[str, int]]:
        """Of each site the class by interpreter."""
        found: dict[Key, dict[str, int]] = {}
        for answer in self.answers:
            found.setdefault(answer.site, {})[answer.interpreter] = answer.lcz
        return found

    def agreement(self) -> Agreement:
        """How far interpreters agree."""
        return agree(self.votes)  # type: ignore[arg-type]  # a Mapping's keys are invariant


def labels_of(found: Answers, arbiter: str | None = None) -> tuple[list[Label], dict[Key, str]]:
    """The labels that stand, in order, and the sites in dispute with what was said.

    Parameters
    ----------
    found : from `read_answers`.
    arbiter : interpreter whose answers stand against all others.

    Raises
    ------
    LabelError
        Where the arbiter answered nothing.
    """
    names = {answer.interpreter for answer in found.answers}
    if arbiter is not None and arbiter not in names:
        raise LabelError("the arbiter answered nothing", got=arbiter, expected=", ".join(names))
    unsure: dict[Any, set[str]] = {}
    for answer in found.answers:
        if not answer.sure:
            unsure.setdefault(answer.site, set()).add(answer.interpreter)
    stands = settle(found.votes, unsure, arbiter)  # type: ignore[arg-type]
    where = {answer.site: answer for answer in found.answers}
    labels = [
        Label(site, where[site].city, code, where[site].geometry)
        for site, code in stands.lcz.items()
    ]
    return labels, stands.disputed


class PageSites(NamedTuple):
    """Of a page: its stamp and city, and its sites; their ground where the page itself is known."""

    page: str
    city: str
    ids: frozenset[str]
    ground: Mapping[str, BaseGeometry]


def alike(one: BaseGeometry, other: BaseGeometry) -> bool:
    """Whether two outlines in degrees are the same, but for a tenth of a metre."""
    return bool(shapely.hausdorff_distance(one, other) <= NEAR)
