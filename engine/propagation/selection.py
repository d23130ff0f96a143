"""Which cells get pseudo-labels: a head decides, guards refuse, and each counts what it removed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from engine.errors import LabelError
from engine.propagation.features import blocks_of
from engine.propagation.guards import (
    HeldOut,
    Novelty,
    cap_classes,
    held_out,
    overlapping,
    threshold_for,
    touching,
)
from engine.propagation.heads import Head, KnnHead, LogisticHead
from engine.propagation.pseudo import Cells, Found, Labels, Report, empty_report
from engine.propagation.tuning import leave_out, macro_f1

__all__ = ["Selection", "Settings", "learnable"]

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

_HAIR = 1e-9  # four of five votes are .8


@dataclass(frozen=True)
class Settings:
    """How labels are propagated.

    Parameters
    ----------
    by : "linear", or "votes" of the nearest labels.
    k : nearest labels, which vote and from which distances are measured.
    confidence : least share of votes; with "linear" the target precision decides instead.
    precision : that pseudo-labels are to have on cities that were left out.
    loss : share of known cells that the novelty guard may reject.
    energy : whether the linear head's energy counts as novelty too.
    times, least : pseudo-labels of a class for each label of it, and that any class may have.
    overlap : share of a cell beyond which it may not lie on a labelled patch.
    water : share of a cell's pixels in the state water that makes it water; None: never.
    most : labels of each class and city that take part.
    rounds : how often the head learns from what it labelled.
    proved : write nothing unless it helps in cities that are left out.
    sample : cells by which that is measured.
    """

    by: Literal["linear", "votes"] = "linear"
    k: int = 5
    confidence: float = 0.8
    precision: float = 0.9
    loss: float = 0.05
    energy: bool = True
    times: float = 3.0
    least: int = 200
    overlap: float = 0.1
    water: float | None = 0.8
    most: int = 500
    rounds: int = 1
    proved: bool = True
    sample: int = 20_000

    def __post_init__(self) -> None:
        shares = (self.confidence, self.precision, self.loss, self.overlap)
        if not all(0 <= value <= 1 for value in shares) or self.loss == 1:
            raise LabelError(
                "settings of a propagation are not shares",
                got=f"confidence, precision, loss, overlap: {shares}",
                expected="0 to 1 each, the loss below 1",
            )
        if min(self.k, self.most, self.rounds, self.sample) < 1 or min(self.times, self.least) < 0:
            raise LabelError(
                "settings of a propagation are not valid counts",
                got=f"k {self.k}, most {self.most}, rounds {self.rounds}, sample {self.sample}, "
                f"times {self.times:g}, least {self.least}",
                expected="the first four 1 or more, the others 0 or more",
            )


@dataclass(frozen=True)
class Selection:
    """Which cells get pseudo-labels: of an area, or of a trial with a city left out."""

    settings: Settings
    head: LogisticHead
    knn: KnnHead
    seed: int

    def select(
        self, pool: Labels, cells: Cells, report: Report, blocked: Bools | None = None
    ) -> tuple[Found, Report]:
        """Pseudo-labels of cells, and what each guard removed.

        Cells that are `blocked` get none, and are not counted.
        """
        settings, linear = self.settings, self.settings.by == "linear"
        seen = held_out(
            pool.features, pool.codes, pool.city, self.knn, self.head if linear else None, self.seed
        )
        distance, energy, first = self._look(pool, cells)
        novelty = self._novelty(seen, pool)
        new = np.zeros(len(cells), bool)
        if novelty is not None:
            new = novelty.novel(distance, energy, first)
        near = overlapping(cells.xy, cells.side, pool.xy, pool.side, settings.overlap)
        held = touching(cells.xy, cells.side, cells.held)
        spared = np.zeros(len(cells), bool) if blocked is None else blocked
        limit = self._limit(seen, novelty)
        chosen, confidence = np.zeros(len(cells), np.int64), np.zeros(len(cells))
        for _ in range(settings.rounds):
            codes, confidence = self._ask(pool, cells, chosen, confidence)
            sure = np.zeros(len(cells), bool) if limit is None else confidence >= limit
            left = ~spared
            removed = {}
            for name, bad in (
                ("confidence", ~sure),
                ("novelty", new),
                ("labelled ground", near),
                ("held out", held),
            ):
                removed[name] = int((left & bad).sum())
                left &= ~bad
            rows = np.flatnonzero(left)
            fit = cap_classes(
                codes[rows],
                confidence[rows],
                distance[rows],
                pool.counts,
                settings.times,
                settings.least,
            )
            removed["class"] = int((~fit).sum())
            chosen = np.zeros(len(cells), np.int64)
            chosen[rows[fit]] = codes[rows[fit]]
        given = np.unique(chosen[chosen > 0]).tolist()
        votes = self._votes(pool, cells.take(np.flatnonzero(chosen)))
        return Found(chosen, confidence, votes, distance, energy), replace(
            report,
            limit=limit,
            held_out_precision=_precision(seen, novelty, limit),
            removed=removed,
            pseudo={code: int((chosen == code).sum()) for code in given},
            barren=tuple(code for code in pool.counts if code not in given),
        )

    def _look(self, pool: Labels, cells: Cells) -> tuple[Floats, Floats, Ints]:
        """Mean distance of the nearest labels; energy and class by the linear head, if asked."""
        knn = self.knn.fit(pool.features, pool.codes)
        linear = None
        if self.settings.by == "linear":
            linear = self.head.fit(pool.features, pool.codes, None, self.seed)
        n = len(cells)
        distance, energy, first = np.zeros(n), np.full(n, np.nan), np.zeros(n, np.int64)
        for part in blocks_of(cells.features):
            block = cells.features[part]
            _, _, distance[part] = knn.votes(block)
            if linear is not None:
                energy[part], first[part] = linear.energy(block), linear.predict(block)
        return distance, energy, first

    def _votes(self, pool: Labels, cells: Cells) -> npt.NDArray[np.float32]:
        """Votes of the nearest labels for cells that got a pseudo-label: a few of all."""
        votes = np.zeros((len(cells), len(self.knn.classes)), np.float32)
        if len(cells):
            scorer = self.knn.fit(pool.features, pool.codes)
            for part in blocks_of(cells.features):
                votes[part], _, _ = scorer.votes(cells.features[part])
        return votes

    def _ask(
        self, pool: Labels, cells: Cells, codes: Ints, confidence: Floats
    ) -> tuple[Ints, Floats]:
        """Codes and confidences by the head, when it has learnt of pseudo-labels too."""
        x, y, w = learnable(pool, cells, codes, confidence)
        found, sure = np.zeros(len(cells), np.int64), np.zeros(len(cells))
        if self.settings.by == "votes":
            voters = self.knn.fit(x, y, w)
            for part in blocks_of(cells.features):
                shares, found[part], _ = voters.votes(cells.features[part])
                sure[part] = shares.max(1)
            return found, sure
        scorer = self.head.fit(x, y, w, self.seed)
        for part in blocks_of(cells.features):
            scores = scorer.scores(cells.features[part])
            found[part] = np.array(self.head.classes)[scores.argmax(1)]
            sure[part] = scores.max(1)
        return found, sure

    def _novelty(self, seen: HeldOut, pool: Labels) -> Novelty | None:
        """Calibrated on labels of left-out cities; of one city, on labels left out one by one."""
        settings = self.settings
        linear = settings.by == "linear"
        # the notes take all labels; but one of a class that the others lack is novel to them
        used = seen.known if linear else np.ones(len(seen.known), bool)
        if used.any():
            energy = seen.energy[used] if linear and settings.energy else None
            predicted = seen.predicted[used] if linear else None
            return Novelty.of(seen.distance[used], energy, settings.loss, predicted)
        if len(pool) < 2:
            return None
        scorer = replace(self.knn, k=self.knn.k + 1).fit(pool.features, pool.codes)
        rows, distances, _ = scorer.index.find(pool.features, scorer.k)
        own = rows == np.arange(len(pool))[:, None]
        # duplicates may hide a label from itself: then the first, as far away as itself, is it
        own[~own.any(1), 0] = True
        others = distances[~own].reshape(len(pool), -1).mean(1)
        return Novelty.of(others, None, settings.loss)

    def _limit(self, seen: HeldOut, novelty: Novelty | None) -> float | None:
        """Least confidence; None where no confidence reaches the precision."""
        settings = self.settings
        if settings.by == "votes":
            return settings.confidence - _HAIR
        if novelty is None:
            return None
        kept = _offered(seen, novelty)
        right = seen.predicted == seen.codes
        return threshold_for(seen.confidence[kept], right[kept], settings.precision)

    def gains(self, pool: Labels, cells: Cells, tell: Callable[[str], None]) -> Floats:
        """What pseudo-labels change on each city that is left out: macro-F1 with less without."""
        rng = np.random.default_rng(self.seed)
        most = self.settings.sample
        if len(cells) > most:
            cells = cells.take(np.sort(rng.choice(len(cells), most, replace=False)))
        cells = cells.held_in_memory()
        head: Head = self.head if self.settings.by == "linear" else self.knn
        found = []
        for name, rest, _, known in leave_out(pool.codes, pool.city):
            if not known.any():
                continue
            others, judge = pool.take(np.flatnonzero(rest)), pool.take(np.flatnonzero(known))
            mine = pool.take(np.flatnonzero(~rest))
            # no cell that shares ground with what judges
            blocked = overlapping(cells.xy, cells.side, mine.xy, mine.side, 0.0)
            chosen, _ = self.select(others, cells, empty_report(), blocked)
            x, y, w = learnable(others, cells, chosen.codes, chosen.confidence)
            without = head.fit(others.features, others.codes, None, self.seed)
            figures = [
                macro_f1(judge.codes, scorer.predict(judge.features), head.classes)
                for scorer in (head.fit(x, y, w, self.seed), without)
            ]
            found.append(figures[0] - figures[1])
            tell(
                f"city {name} left out: macro-F1 {figures[1]:.3f}, with pseudo-labels "
                f"{figures[0]:.3f}"
            )
        return np.array(found)


def learnable(
    pool: Labels, cells: Cells, codes: Ints, confidence: Floats
) -> tuple[npt.NDArray[Any], Ints, Floats]:
    """Labels and pseudo-labels together, a pseudo-label with its confidence as weight."""
    rows = np.flatnonzero(codes)
    return (
        np.concatenate([pool.features, cells.features[rows]]),
        np.concatenate([pool.codes, codes[rows]]),
        np.concatenate([np.ones(len(pool)), confidence[rows]]),
    )


def _offered(seen: HeldOut, novelty: Novelty) -> Bools:
    """Left-out labels by which precision is measured: of known classes, and not novel.

    All cities together have more classes than all but one: a label whose class the others lack
    would count as an error that the whole of the labels does not make. What becomes of cells of
    classes that no label has is told apart (`engine.propagation.detection`).
    """
    return seen.known & ~novelty.novel(seen.distance, seen.energy, seen.predicted)


def _precision(seen: HeldOut, novelty: Novelty | None, limit: float | None) -> float:
    """Share of these labels that would have been kept which are right; NaN of none."""
    if limit is None or novelty is None or not len(seen.codes):
        return float("nan")
    kept = _offered(seen, novelty) & (seen.confidence >= limit)
    return float((seen.predicted == seen.codes)[kept].mean()) if kept.any() else float("nan")
