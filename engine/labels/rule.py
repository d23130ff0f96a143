"""The decision rule for labels: from figures of a site's ground to a local climate zone.

After figure 7 of Kim et al. (2021), which adapts So2Sat's (Zhu et al. 2020): heights part the
built types, then how densely buildings stand, then pervious and impervious cover and industry
among low buildings; vegetation parts the natural types. Thresholds are those of Stewart and Oke
(2012, table 3). Each is soft: a figure near a threshold speaks for both sides, and one that is not
known for neither.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from engine.errors import LabelError
from engine.legend import LCZ

__all__ = ["Figures", "Proposal", "conflicts", "propose", "undecided"]

_HIGH, _MID, _LIGHT = 25.0, 10.0, 4.0  # metres: high-rise, mid-rise from; lightweight up to
_COMPACT, _SPARSE, _NATURAL = 0.40, 0.20, 0.10  # building share: compact from, sparse, natural
_DENSE = 0.60  # building share of lightweight buildings
_HARD = 0.20  # pervious share up to which low buildings stand on sealed ground
_CANYON = 0.37  # height over spacing, between large low-rise (.1 to .3) and the others (.3 to 1.5)
_INDUSTRY, _DUST = 0.30, 0.35  # share of industry; of pervious ground that is bare
_SHARE, _LENGTH = 0.04, 0.12  # softness: of shares, and of the logarithm of lengths
_SPACING = 0.3  # softness of the logarithm of spacing, whose own error that is
_CANDIDATE, _LEAST = 0.15, 0.35  # probability of a class that is named; of one that is proposed
_GREEN, _PLAIN = 0.6, 0.2  # NDVI above which ground is green, below which it is not


@dataclass(frozen=True)
class Figures:
    """What is known of a site's ground; None is unknown.

    Attributes
    ----------
    building, pervious, impervious, trees, scrub, low, bare, rock, water, industry : float
        Shares of the ground, 0 to 1. Impervious is sealed ground without buildings; low are low
        plants; industry is the share of industrial land.
    height, spread, tallest : float
        Mean, standard deviation and maximum of buildings' heights over built ground, m.
    spacing : mean width of the open ground between buildings, m.
    ndvi, ndwi : means of the indices, -1 to 1.
    known : share of the ground of which heights are known, 0 to 1.
    """

    building: float | None = None
    height: float | None = None
    spread: float | None = None
    tallest: float | None = None
    spacing: float | None = None
    pervious: float | None = None
    impervious: float | None = None
    trees: float | None = None
    scrub: float | None = None
    low: float | None = None
    bare: float | None = None
    rock: float | None = None
    water: float | None = None
    industry: float | None = None
    ndvi: float | None = None
    ndwi: float | None = None
    known: float | None = None

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if value is None:
                continue
            low, high = _RANGES.get(each.name, (0.0, 1.0))
            # what is summed up of rounded numbers may be off by a little
            if not (low - 1e-3 <= value <= high + 1e-3):  # NaN too
                raise LabelError(
                    f"a site's {each.name} is not possible", got=value, expected=f"{low} to {high}"
                )


_RANGES = {
    "height": (0.0, 1000.0), "spread": (0.0, 1000.0), "tallest": (0.0, 1000.0),
    "spacing": (0.0, math.inf), "ndvi": (-1.0, 1.0), "ndwi": (-1.0, 1.0),
}  # fmt: skip


@dataclass(frozen=True)
class Proposal:
    """What the rule says of a site.

    Attributes
    ----------
    lcz : 1 to 17; None where no class has a probability of 0.35, or where what would part it from
        its likes is not known: heights of built types, trees of those with plants.
    confidence : probability of the likeliest class by the soft thresholds, 0 to 1.
    candidates : classes of a probability of 0.15 and more, the likeliest first.
    reasons : one line each.
    """

    lcz: int | None
    confidence: float
    candidates: tuple[int, ...]
    reasons: tuple[str, ...]


def propose(known: Figures) -> Proposal:
    """The zone that the rule gives a site.

    Parameters
    ----------
    known : figures of the 320 m about it, or of its own ground.

    Returns
    -------
    Proposal
        The same for the same figures.
    """
    told = [each.name for each in fields(known) if getattr(known, each.name) is not None]
    if not set(told) - {"known", "spread", "tallest"}:
        return Proposal(None, 0.0, (), ("nothing is known of the ground",))
    chances = _chances(known)
    order = sorted(chances, key=lambda code: (-chances[code], code))
    best = order[0]
    named = tuple(code for code in order if chances[code] >= _CANDIDATE)
    confidence = round(chances[best], 6)
    lcz = best if confidence >= _LEAST and not _untold(known, best) else None
    return Proposal(lcz, confidence, named or (best,), tuple(_reasons(known, best)))


def _untold(f: Figures, code: int) -> bool:
    """Whether nothing is known of what parts a class from its likes: then it would be a guess."""
    if code < 10:
        return f.height is None
    if code in (11, 12, 13, 14):
        return f.trees is None
    return code in (15, 16) and f.bare is None and f.rock is None and f.impervious is None


def _chances(f: Figures) -> dict[int, float]:
    """Probability of each class; they sum to 1."""
    wet = _wet(f)
    built = _built(f) * (1 - wet)
    found = {17: wet}
    for part, weight in ((_built_types(f), built), (_natural_types(f), 1 - wet - built)):
        for code, chance in part.items():
            found[code] = found.get(code, 0.0) + weight * chance
    return found


def _wet(f: Figures) -> float:
    if f.water is not None:
        return _soft(f.water, 0.5)
    if f.ndwi is not None and f.ndvi is not None:
        # water is dark beyond green; bright roofs have an index about 0
        return _soft(f.ndwi, 0.1) * (1 - _soft(f.ndvi, 0.05))
    return 0.02


def _built(f: Figures) -> float:
    if f.building is not None:
        return _soft(f.building, _NATURAL, 0.015)
    if f.impervious is not None and f.pervious is not None:
        # what is neither is buildings
        rest = 1 - f.impervious - f.pervious - (f.water or 0.0) - (f.rock or 0.0)
        return _soft(rest, _NATURAL, 0.03)
    if f.impervious is not None:
        return 0.9 * _soft(f.impervious, 0.25)
    if f.ndvi is not None:
        return 0.8 * (1 - _soft(f.ndvi, 0.4, 0.06))
    return 0.5


def _built_types(f: Figures) -> dict[int, float]:
    compact, sparse = _compact(f), 0.1
    if f.building is not None:
        sparse = 1 - _soft(f.building, _SPARSE, 0.015)
    high, taller = _log(f.height, _HIGH, 0.15), _log(f.height, _MID, 0.55)
    middle, low = taller * (1 - high), 1 - taller
    works = _works(f)
    # industry is 5 to 15 m high
    found = {10: works * (low + middle * (1 - _log(f.height, 15.0, 0.5)))}
    rest = 1 - works
    found |= {
        1: rest * high * taller * compact,
        4: rest * high * taller * (1 - compact),
        2: middle * compact * (1 - works * (1 - _log(f.height, 15.0, 0.5))),
        5: middle * (1 - compact) * (1 - works * (1 - _log(f.height, 15.0, 0.5))),
    }
    low *= rest
    light = _light(f)
    found[7] = low * light
    low *= 1 - light
    found[9] = low * sparse
    low *= 1 - sparse
    large = _large(f)
    found[8] = low * large
    low *= 1 - large
    found[3], found[6] = low * compact, low * (1 - compact)
    total = sum(found.values())
    return {code: chance / total for code, chance in found.items()}


def _compact(f: Figures) -> float:
    """How densely buildings stand: by their share, and where it is near the threshold by how
    pervious the ground between them is and how wide."""
    score = 0.0
    if f.building is not None:
        score += (f.building - _COMPACT) / _SHARE
    if f.pervious is not None:
        score += (0.28 - f.pervious) / 0.1
    if f.spacing and f.height:
        score += 0.5 * math.log(max(f.height / f.spacing, 1e-3) / 0.6) / 0.4
    return _logistic(score)


def _light(f: Figures) -> float:
    if f.building is None:
        return 0.02
    sealed = 0.5 if f.impervious is None else 1 - _soft(f.impervious, 0.2)
    tall = 0.3 if f.height is None else 1 - _log(f.height, _LIGHT, 0.5)
    return _soft(f.building, _DENSE - 0.05) * sealed * tall


def _large(f: Figures) -> float:
    """Large low-rise: sealed ground, and much of it between buildings."""
    sealed = 0.4 if f.pervious is None else 1 - _soft(f.pervious, _HARD, 0.05)
    if f.building is not None:
        sealed *= 1 - _soft(f.building, 0.45)  # .3 to .5, and compact low-rise .4 to .7
    if f.spacing is None or not f.height:
        return 0.5 * sealed
    canyon = f.height / max(f.spacing, 0.1)
    return sealed * (1 - _logistic(math.log(max(canyon, 1e-3) / _CANYON) / _SPACING))


def _works(f: Figures) -> float:
    if f.industry is not None:
        return _soft(f.industry, _INDUSTRY)
    if f.bare is not None and f.pervious is not None and f.building is not None:
        dust = f.bare / max(f.pervious, 0.05)
        dense = _soft(f.building, _SPARSE - 0.03) * (1 - _soft(f.building, _DENSE - 0.05))
        return 0.9 * _soft(dust, _DUST, 0.05) * _soft(f.pervious, 0.3) * dense
    return 0.05


def _natural_types(f: Figures) -> dict[int, float]:
    hard = f.impervious if f.rock is None else f.rock + (f.impervious or 0.0)
    if hard is not None:
        stone = _soft(hard, 0.5)
    else:
        stone = 0.05 if f.ndvi is None else 0.5 * (1 - _soft(f.ndvi, _PLAIN))
    if f.bare is not None:
        dust = _soft(f.bare, 0.5)
    else:
        dust = 0.05 if f.ndvi is None else (1 - _soft(f.ndvi, _PLAIN)) * 0.8
    found = {15: stone, 16: (1 - stone) * dust}
    plants = (1 - stone) * (1 - dust)
    bush = 0.1 if f.scrub is None else _soft(f.scrub, 0.4)
    if f.trees is None:
        wood, some = 0.35, 0.3
    else:
        wood, some = _soft(f.trees, 0.55), _soft(f.trees, 0.11, 0.02)
    found[11] = plants * wood
    found[13] = plants * (1 - wood) * bush
    found[12] = plants * (1 - wood) * (1 - bush) * some
    found[14] = plants * (1 - wood) * (1 - bush) * (1 - some)
    return found


def _soft(value: float, threshold: float, scale: float = _SHARE) -> float:
    return _logistic((value - threshold) / scale)


def _log(value: float | None, threshold: float, unknown: float) -> float:
    """Whether a length exceeds a threshold, by its logarithm."""
    if value is None:
        return unknown
    return _logistic(math.log(max(value, 1e-3) / threshold) / _LENGTH)


def _logistic(score: float) -> float:
    return 1 / (1 + math.exp(-min(max(score, -60.0), 60.0)))


# -- words ------------------------------------------------------------------------------------


_GROWN = {
    "trees": "trees", "scrub": "scrub", "low": "low plants", "bare": "bare soil", "rock": "rock",
}  # fmt: skip


def _reasons(f: Figures, code: int) -> list[str]:
    """What spoke for a class, and what was not known."""
    said = []
    if code == 17:
        said.append(_line("water covers", f.water, "from 50%") if f.water is not None else
                    f"NDWI {f.ndwi:.2f}, NDVI {f.ndvi:.2f}")  # fmt: skip
        return said
    if code <= 10:
        if f.building is None:
            said.append("it looks built; the share of buildings is not known")
        else:
            side = "compact from 40%" if f.building >= _SPARSE else "sparse up to 20%"
            said.append(_line("buildings cover", f.building, side))
        if f.height is None:
            said.append("heights are not known")
        else:
            level = "high-rise from 25 m" if f.height >= _HIGH else (
                "mid-rise from 10 m" if f.height >= _MID else "low-rise below 10 m")  # fmt: skip
            spread = "" if f.spread is None else f" ± {f.spread:.1f}"
            said.append(f"buildings are {f.height:.1f}{spread} m high: {level}")
            if f.spacing:
                said.append(
                    f"they stand {f.spacing:.0f} m apart (height over spacing "
                    f"{f.height / f.spacing:.2f})"
                )
    elif f.building is not None:
        said.append(_line("buildings cover", f.building, "natural below 10%"))
    for name, words in (("pervious", "pervious ground"), ("impervious", "sealed open ground")):
        value = getattr(f, name)
        if value is not None:
            said.append(f"{words} {value:.0%}")
    if code <= 10 and f.pervious is None:
        said.append("pervious cover is not known")
    if f.industry is not None and (code == 10 or f.industry >= 0.1):
        said.append(_line("industry covers", f.industry, "heavy industry from 30%"))
    elif code == 10 and f.bare is not None:
        said.append(f"bare yards {f.bare:.0%}; there is no map of industry")
    if code > 10:
        for name, words in _GROWN.items():
            value = getattr(f, name)
            if value is not None and value >= 0.05:
                said.append(f"{words} {value:.0%}")
        if f.trees is None and code in (11, 12, 13, 14):
            said.append("tree cover is not known: NDVI alone does not tell A, B, C and D apart")
    if f.ndvi is not None:
        said.append(f"NDVI {f.ndvi:.2f}")
    return said


def _line(words: str, share: float, side: str) -> str:
    return f"{words} {share:.0%} ({side})"


def conflicts(f: Figures) -> tuple[str, ...]:
    """Where sources contradict each other: one line each."""
    said = []
    built = f.building or 0.0
    if f.ndvi is not None:
        if built >= 0.25 and f.ndvi > _GREEN:
            said.append(f"buildings cover {built:.0%}, but NDVI is {f.ndvi:.2f}")
        if f.water is not None and f.water >= 0.5 and f.ndvi > 0.3:
            said.append(f"water covers {f.water:.0%}, but NDVI is {f.ndvi:.2f}")
        if f.pervious is not None and f.pervious >= 0.7 and f.ndvi < _PLAIN and not f.bare:
            said.append(f"pervious ground {f.pervious:.0%}, but NDVI is {f.ndvi:.2f}")
        if f.pervious is not None and f.pervious <= 0.2 and f.ndvi > _GREEN:
            said.append(f"pervious ground {f.pervious:.0%}, but NDVI is {f.ndvi:.2f}")
        if f.building is not None and built < 0.05 and f.ndvi < _PLAIN and _wet(f) < 0.5 and (
            f.bare is None and f.rock is None
        ):  # fmt: skip
            said.append("neither buildings nor vegetation: a source may lack buildings")
    if built >= 0.2 and f.water is not None and f.water >= 0.5:
        said.append(f"buildings cover {built:.0%} and water {f.water:.0%}")
    if f.building is not None and f.pervious is not None and built + f.pervious > 1.1:
        said.append(f"buildings and pervious ground together cover {built + f.pervious:.0%}")
    if f.building is not None and f.impervious is not None and f.pervious is not None:
        whole = built + f.impervious + f.pervious + (f.water or 0.0)
        if whole < 0.75:
            said.append(f"buildings, sealed and pervious ground and water cover only {whole:.0%}")
    if f.height and f.spread and built >= _NATURAL and f.spread > 0.75 * f.height:
        said.append(f"heights differ widely: {f.height:.1f} m ± {f.spread:.1f} m")
    if f.known is not None and f.known < 0.5:
        said.append(f"heights are known for only {f.known:.0%} of the ground")
    return tuple(said)


def undecided(found: Proposal) -> str:
    """That the rule cannot decide, and between which classes; "" where it can."""
    if found.lcz is not None and found.confidence >= 0.5:
        return ""
    if not found.candidates:
        return "the rule cannot decide: nothing is known"
    *names, last = (f"{LCZ[c - 1].label} {LCZ[c - 1].title}" for c in found.candidates[:4])
    doubt = "the rule cannot decide" if found.lcz is None else "the rule is not sure"
    if not names:
        return f"{doubt}; it may be {last}"
    return f"{doubt}: it may be {', '.join(names)} or {last}"
