"""Under which terms a product may be used, whom to name, and what it is made of that has terms.

Nothing is invented: what neither recipe, card nor source states is said to be not stated.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engine.addresses import from_anywhere
from engine.items import Item
from engine.licences import NOT_STATED, known, stac_licence
from engine.models.card import ModelCard
from engine.recipes.sections import Publication

__all__ = ["SCIENTIFIC", "Rights", "Terms", "rights_of"]

SCIENTIFIC = "https://stac-extensions.github.io/scientific/v1.0.0/schema.json"

_NAMED = 5  # models in a line of text


@dataclass(frozen=True)
class Terms:
    """Of the product, a source or a model; None is what nobody states."""

    licence: str | None = None
    attribution: str | None = None
    citation: str | None = None

    def to_json(self) -> dict[str, str]:
        """For the report: all three, in words."""
        return {
            "licence": self.licence or NOT_STATED,
            "attribution": self.attribution or NOT_STATED,
            "citation": self.citation or NOT_STATED,
        }


@dataclass(frozen=True)
class Rights:
    """What a product says of its terms.

    Attributes
    ----------
    title : for people.
    own : of the product.
    sources : of the images, with how many have these.
    credits : statements that go with the product, whoever hands it on.
    model : of the model, with its name; None where there is none.
    models : of those that mapped cities beside it, each name once.
    """

    title: str
    own: Terms = Terms()
    sources: Sequence[tuple[Terms, int]] = ()
    credits: tuple[str, ...] = ()
    model: tuple[str, Terms] | None = None
    models: Sequence[tuple[str, Terms]] = ()

    @property
    def licence(self) -> str:
        """Of the product, in words."""
        return self.own.licence or NOT_STATED

    @property
    def licences(self) -> list[str]:
        """Of the images."""
        return sorted({terms.licence or NOT_STATED for terms, _ in self.sources})

    @property
    def statement(self) -> str:
        """All of it in a line."""
        return f"{self._terms}. Made with natmap."

    @property
    def _terms(self) -> str:
        own = [f"© {self.own.attribution}"] if self.own.attribution else []
        return ". ".join([*own, f"Licence: {self.licence}", *self.credits])

    @property
    def tags(self) -> dict[str, str]:
        """Metadata of a TIFF file."""
        found = {
            "TIFFTAG_SOFTWARE": "natmap",
            "TIFFTAG_IMAGEDESCRIPTION": self.title,
            "TIFFTAG_COPYRIGHT": self._terms,
            "licence": self.licence,
        }
        if self.own.attribution:
            found["TIFFTAG_ARTIST"] = self.own.attribution
        if self.own.citation:
            found["citation"] = self.own.citation
        return found

    def to_json(self) -> dict[str, Any]:
        """For the report."""
        model = None
        if self.model is not None:
            name, terms = self.model
            model = {"name": name, **terms.to_json()}
        return {
            "title": self.title,
            **self.own.to_json(),
            "credits": list(self.credits),
            "sources": [{**terms.to_json(), "items": n} for terms, n in self.sources],
            "model": model,
            **(
                {"models": [{"name": name, **terms.to_json()} for name, terms in self.models]}
                if self.models
                else {}
            ),
        }

    def to_stac(self) -> dict[str, Any]:
        """Fields of an item's properties, and of a collection; `license` only where it is known."""
        found: dict[str, Any] = {"title": self.title}
        if licence := stac_licence(self.own.licence):
            found["license"] = licence
        if self.own.attribution:
            roles = ["producer", "processor", *(["licensor"] if self.own.licence else [])]
            found["providers"] = [{"name": self.own.attribution, "roles": roles}]
        if self.own.citation:
            found["sci:citation"] = self.own.citation
        words = [*([self.own.attribution] if self.own.attribution else []), *self.credits]
        if words:
            found["attribution"] = ". ".join(words)
        return found

    @property
    def links(self) -> list[dict[str, str]]:
        """To the licence, where it is stated as an address."""
        if self.own.licence is None or not from_anywhere(self.own.licence):
            return []
        return [{"rel": "license", "href": self.own.licence}]


def rights_of(
    title: str,
    said: Publication | None,
    items: Iterable[Item],
    card: ModelCard | None,
    model: Mapping[str, Any],
    others: Sequence[tuple[str, ModelCard | None]] = (),
) -> Rights:
    """What a product says of its terms.

    Parameters
    ----------
    title : of the product, where the recipe has none.
    said : the recipe's section.
    items : that the map was made from.
    card : of its model, None where it is not at hand.
    model : fields of the MLM extension, for its name.
    others : names and cards of models that mapped cities beside it.
    """
    said = said or Publication()
    own = Terms(known(said.licence), said.attribution, said.citation)
    counts: Counter[Terms] = Counter()
    years: set[int] = set()
    for item in items:
        counts[Terms(known(item.licence), item.attribution, item.citation)] += 1
        if item.copernicus:
            years.add(item.solar_day.year)
    sources = sorted(counts.items(), key=lambda pair: str(pair[0]))
    made = None
    if name := model.get("mlm:name"):
        made = str(name), _terms_of(card)
    beside = list(dict.fromkeys((name, _terms_of(each)) for name, each in others))
    return Rights(
        said.title or title,
        own,
        sources,
        tuple(_credits(own, [terms for terms, _ in sources], sorted(years), made, beside)),
        made,
        beside,
    )


def _terms_of(card: ModelCard | None) -> Terms:
    return Terms() if card is None else Terms(known(card.licence), card.attribution, card.citation)


def _credits(
    own: Terms,
    sources: Iterable[Terms],
    years: Sequence[int],
    model: tuple[str, Terms] | None,
    others: Sequence[tuple[str, Terms]],
) -> Iterable[str]:
    if years:
        by = f"processed by {own.attribution}" if own.attribution else "processed with natmap"
        yield f"Contains modified Copernicus Sentinel data {_runs(years)}, {by}"
    for terms in sources:
        if not _is_sentinel_licence(terms):
            yield f"Source images: {_words(terms)}"
    if model is not None:
        yield f"Model {model[0]}: {_words(model[1])}"
    # those of one licence in one statement: a country may have hundreds
    for terms in dict.fromkeys(terms for _, terms in others):
        names = [name for name, theirs in others if theirs == terms]
        if len(names) > _NAMED:
            names = [*names[:_NAMED], f"{len(names) - _NAMED} more"]
        word = "Model" if len(names) == 1 else "Models"
        yield f"{word} {', '.join(names)}: {_words(terms)}"


def _is_sentinel_licence(terms: Terms) -> bool:
    """Whether terms say no more than the credit of Copernicus does."""
    said = (terms.licence or "").lower()
    return "copernicus sentinel" in said and terms.attribution is None


def _words(terms: Terms) -> str:
    licence = f"licence {terms.licence or NOT_STATED}"
    return f"{terms.attribution}, {licence}" if terms.attribution else licence


def _runs(years: Sequence[int]) -> str:
    """Years, those that follow one another as first to last: 2017-2019, 2021."""
    parts: list[list[int]] = []
    for year in years:
        if parts and year == parts[-1][-1] + 1:
            parts[-1].append(year)
        else:
            parts.append([year])
    return ", ".join(str(p[0]) if len(p) == 1 else f"{p[0]}-{p[-1]}" for p in parts)
