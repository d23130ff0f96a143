"""Tables of what compare.py and networks.py found: compare.md.

    python benchmarks/propagation/report.py

A figure of a seed is the mean over the unseen cities; intervals are of 90 %, by Student's t over
the seeds. Differences are taken seed by seed, of the same labels.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t as student

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from compare import AUXILIARY_SETS, COUNTS, LOG, PROPAGATED, PROPAGATED_SETS  # noqa: E402
from networks import LOG as NETWORKS  # noqa: E402
from worlds import AUXILIARY, SETS  # noqa: E402

HEADS = ("logistic", "knn", "forest", "mlp")
WAYS = ("notes", "default", "unproved")
BUILT = 10

Row = dict[str, Any]


def read(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def interval(values: list[float]) -> str:
    """Mean and its 90 % interval over seeds."""
    found = np.array(values)
    if len(found) < 2:
        return f"{found.mean():+.3f}"
    half = student.ppf(0.95, len(found) - 1) * found.std(ddof=1) / len(found) ** 0.5
    return f"{found.mean():+.3f} ({found.mean() - half:+.3f} to {found.mean() + half:+.3f})"


def mean(values: list[Any]) -> str:
    known = [v for v in values if v is not None]
    return f"{np.mean(known):.2f}" if known else "-"


def lines(header: list[str], rows: list[list[str]]) -> Iterator[str]:
    yield f"| {' | '.join(header)} |"
    yield f"|{'---|' * len(header)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def heads(rows: list[Row]) -> Iterator[str]:
    """Four heads, and what the default has more than the nearest neighbours."""
    yield "## Heads: macro-F1 on unseen cities"
    yield ""
    found = []
    for features in SETS:
        for count in COUNTS:
            here = [r["heads"] for r in rows if (r["set"], r["labels"]) == (features, count)]
            if here:
                means = [f"{np.mean([np.mean(r[name]) for r in here]):.3f}" for name in HEADS]
                less = [float(np.mean(r["logistic"]) - np.mean(r["knn"])) for r in here]
                found.append([features, str(count), str(len(here)), *means, interval(less)])
    yield from lines(["set", "labels", "seeds", *HEADS, "logistic less knn"], found)
    yield ""
    yield "Of the logistic head, what a target precision of .9 keeps of the unseen cities' test:"
    yield "coverage (seeds in which no confidence reaches it count as 0) and precision reached."
    yield ""
    found = []
    for features in SETS:
        for count in COUNTS:
            here = [r["sure"]["1"] for r in rows if (r["set"], r["labels"]) == (features, count)]
            if here:
                none = sum(r["limit"] is None for r in here)
                values = [mean([r[k] for r in here]) for k in ("coverage", "precision")]
                found.append([features, str(count), str(len(here)), *values, str(none)])
    yield from lines(["set", "labels", "seeds", "coverage", "precision", "seeds without"], found)


def propagation(rows: list[Row]) -> Iterator[str]:
    """What pseudo-labels change, and what the true classes of the same cells would."""
    yield f"## Propagation, {PROPAGATED} labels: change of macro-F1 against the same head without"
    yield ""
    found = []
    for features in PROPAGATED_SETS:
        here = [r["propagation"] for r in rows if r["set"] == features and "propagation" in r]
        for way in WAYS if here else ():
            values = [
                mean([r[way][k] for r in here]) for k in ("unseen_coverage", "unseen_precision")
            ]
            for name, kind in product(("logistic", "mlp"), ("pseudo", "true")):
                change = [
                    np.mean(r[way][f"{name}, {kind}"]) - np.mean(r["none"][name]) for r in here
                ]
                values.append(interval([float(v) for v in change]))
            found.append([features, way, str(len(here)), *values])
    heading = ["set", "way", "seeds", "coverage", "precision", "logistic", "with true classes"]
    yield from lines([*heading, "MLP", "with true classes"], found)
    yield ""
    written = [
        sum(r["propagation"]["default"]["pseudo"] > 0 for r in rows if "propagation" in r),
        sum("propagation" in r for r in rows),
    ]
    yield (
        f"The default wrote pseudo-labels in {written[0]} of {written[1]} pieces; in the others "
        "its proof by leaving out cities failed, and labels alone were used."
    )
    yield ""
    yield "Precision and count of pseudo-labels by class, all cells, over the seeds:"
    yield ""
    found = []
    for features in PROPAGATED_SETS:
        here = [r["propagation"] for r in rows if r["set"] == features and "propagation" in r]
        for way in ("notes", "unproved") if here else ():
            texts = []
            for code in range(1, 18):
                of = [v for r in here if (v := r[way]["by_class"].get(str(code)))]
                count = sum(n for n, _ in of)
                right = sum(n * share for n, share in of)
                texts.append(f"{right / count:.2f} ({count})" if count else "-")
            found.append([features, way, *texts])
    yield from lines(["set", "way", *map(str, range(1, 18))], found)


def guards(rows: list[Row]) -> Iterator[str]:
    """Each class left out of all labels."""
    yield "## Guards: a class that no label has"
    yield ""
    yield "AUROC of its cells against known ones; shares rejected where 5 % of the known cells of"
    yield "these very cities are lost; last, both guards as calibrated on left-out cities, with the"
    yield "share of known cells that is then lost."
    yield ""
    found, caught = [], {}
    for features in PROPAGATED_SETS:
        here = [r["guards"] for r in rows if r["set"] == features and "guards" in r]
        for code in sorted({int(c) for r in here for c in r}):
            of = [r[str(code)] for r in here if str(code) in r]
            values = [np.mean([r[k] for r in of]) for k in ("auroc_distance", "auroc_energy")]
            fixed = [
                float(np.mean([r[f"{way}, fixed"] for r in of]))
                for way in ("distance", "energy", "both")
            ]
            used = [np.mean([r["both"][k] for r in of]) for k in (0, 1)]
            caught[features, code] = fixed[2]
            texts = [f"{v:.2f}" for v in (*values, *fixed, *used)]
            found.append([features, str(code), str(len(of)), *texts])
    heading = ["set", "class", "seeds", "AUROC distance", "energy", "rejected by distance"]
    yield from lines([*heading, "energy", "both", "as calibrated", "known lost"], found)
    yield ""
    for features in PROPAGATED_SETS:
        mine = {code: share for (name, code), share in caught.items() if name == features}
        if mine:
            half = [code for code, share in mine.items() if share >= 0.5]
            built = [share for code, share in mine.items() if code <= BUILT]
            yield (
                f"- {features}: half or more of the cells are rejected of {len(half)} of "
                f"{len(mine)} classes ({', '.join(map(str, half)) or 'none'}); of built classes "
                f"{min(built):.0%} to {max(built):.0%}."
            )


def auxiliary(rows: list[Row]) -> Iterator[str]:
    """What another source changes."""
    yield f"## Other sources, {PROPAGATED} labels: change of mean F1 of LCZ 1 to 6, and of all"
    yield ""
    found = []
    for features in AUXILIARY_SETS:
        here = [r["auxiliary"] for r in rows if r["set"] == features and "auxiliary" in r]
        for name in AUXILIARY if here else ():
            values = []
            for head in ("logistic", "forest"):
                for place in (1, 0):
                    change = [
                        float(np.mean(r[name][head][place]) - np.mean(r["none"][head][place]))
                        for r in here
                    ]
                    values.append(interval(change))
            found.append([features, name, str(len(here)), *values])
        if here:
            none = [
                f"{np.mean([np.mean(r['none'][head][place]) for r in here]):.3f}"
                for head in ("logistic", "forest")
                for place in (1, 0)
            ]
            found.append([features, "without: the figure itself", str(len(here)), *none])
    heading = ["set", "with", "seeds", "logistic, 1 to 6", "all", "forest, 1 to 6", "all"]
    yield from lines(heading, found)
    yield ""
    yield "The oracle is all twelve numbers that the truth was made from. Heights are wrong by"
    yield "1.5 m plus 10 %, and a tenth of the buildings is missing, but for the exact ones."


def networks(rows: list[Row], others: list[Row]) -> Iterator[str]:
    """Networks of patches on the same labels, and on pseudo-labels beside them."""
    yield f"## Networks on the bands, {PROPAGATED} labels: macro-F1 on unseen cities"
    yield ""
    plain = {
        r["seed"]: r["heads"] for r in rows if (r["set"], r["labels"]) == ("bands", PROPAGATED)
    }
    if not others:
        yield "Not run."
        return
    found = []
    for network, learnt in dict.fromkeys((r["network"], r["learnt"]) for r in others):
        mine = [r for r in others if (r["network"], r["learnt"]) == (network, learnt)]
        own = {r["seed"]: float(np.mean(r["f1"])) for r in mine}
        labels = {
            r["seed"]: float(np.mean(r["f1"]))
            for r in others
            if (r["network"], r["learnt"]) == (network, "labels")
        }
        gain = np.mean([own[seed] - labels[seed] for seed in own if seed in labels])
        heads = [f"{np.mean([np.mean(plain[s][h]) for s in own if s in plain]):.3f}" for h in HEADS]
        each = ", ".join(f"{own[seed]:.3f}" for seed in sorted(own))
        row = [network, learnt, str(len(own)), f"{np.mean(list(own.values())):.3f}", each]
        found.append([*row, "" if learnt == "labels" else f"{gain:+.3f}", *heads])
    yield from lines(
        ["network", "taught by", "seeds", "macro-F1", "of each seed", "against labels alone",
         *(f"{h} head, labels" for h in HEADS)], found,
    )  # fmt: skip
    yield ""
    yield "Small sizes. A U-Net's patch has the mean of its pixels' probabilities; pseudo-labels"
    yield "are the notes' (kNN, votes of .8), and count their confidence."


def main() -> None:
    rows = read(LOG)
    seconds = sum(r["seconds"] for r in rows) + sum(r["seconds"] for r in read(NETWORKS))
    text = [
        "# Heads, propagation, guards and heights on made-up cities",
        "",
        f"Made by report.py of {len(rows)} pieces of compare.py, {seconds / 60:.0f} CPU minutes.",
        "Three labelled cities, three unseen ones, of which one is seen in another season.",
        "",
    ]
    for part in (
        heads(rows),
        propagation(rows),
        guards(rows),
        auxiliary(rows),
        networks(rows, read(NETWORKS)),
    ):
        text += [*part, ""]
    (HERE / "compare.md").write_text("\n".join(text))


if __name__ == "__main__":
    main()
