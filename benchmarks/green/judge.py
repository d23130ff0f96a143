"""Tables of the results: F1 pooled over pixels, means and spreads, gains with intervals."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from cities import HARD, SHIFTS, TEST

from engine.metrics import binary

HERE = Path(__file__).resolve().parent
GOALS = {"none": -1.0}  # points of F1; of every shift 5
STEPS = {"before": "before", "statistics": "statistics", "counts": "adapted"}


def f1(counts: Iterable[Any]) -> float:
    return 100 * binary(np.sum(list(counts), axis=0))["f1"]


def spread(values: list[float]) -> list[float]:
    return [round(float(np.mean(values)), 2), round(float(np.std(values)), 2)]


def interval(gains: dict[str, np.ndarray]) -> list[float]:
    """95 % of a mean gain: cities drawn anew, and of each city drawn its seeds (points)."""
    rng = np.random.default_rng(0)
    cities = [values for values in gains.values() if len(values)]
    drawn = []
    for _ in range(5000):
        some = rng.integers(len(cities), size=len(cities))
        drawn.append(np.mean([rng.choice(cities[k], len(cities[k])).mean() for k in some]))
    return [round(float(v), 2) for v in np.quantile(drawn, [0.025, 0.975])]


def judge(rows: list[dict[str, Any]]) -> None:
    """F1 pooled over pixels: means and spreads over seeds; of adaptation the gain."""
    result: dict[str, Any] = {"unseen": {}, "borders": {}, "shifts": {}}
    for row in rows:
        if row["what"] in ("threshold", "trained") and row["model"] not in result["unseen"]:
            found = [r for r in rows if (r["what"], r["model"]) == (row["what"], row["model"])]
            figures = [binary(np.sum([r["counts"][city] for city in TEST], axis=0)) for r in found]
            result["unseen"][row["model"]] = {
                "seeds": len(found),
                **{k: spread([100 * f[k] for f in figures]) for k in figures[0]},
            }
    for row in rows:
        if row["what"] == "borders" and row["model"] not in result["borders"]:
            found = [r for r in rows if (r["what"], r["model"]) == ("borders", row["model"])]
            result["borders"][row["model"]] = {
                "seeds": len(found),
                "within 2 px": spread([f1(r["counts"].values()) for r in found]),
                "beyond": spread([f1(r["beyond"].values()) for r in found]),
            }
    for shift, group in (SHIFTS | HARD).items():
        found = [r for r in rows if r["what"] == "adapted" and r["model"] in group]
        if found:
            scores = {k: np.array([f1(r[k].values()) for r in found]) for k in STEPS}
            gains = scores["counts"] - scores["before"]
            alone = [
                f1(r["counts"].values())
                for r in rows
                if r["what"] == "adversarial alone" and r["model"] in group
            ]
            result["shifts"][shift] = {
                "adaptations": len(found),
                **{name: spread(scores[k].tolist()) for k, name in STEPS.items()},
                "adversarial alone, first seed": spread(alone) if alone else None,
                "gain": round(float(gains.mean()), 2),
                "gain_95": interval({c: gains[[r["model"] == c for r in found]] for c in group}),
                "each": {
                    f"{r['model']} {r['seed']}": {
                        "agreement": round(r["agreement"], 3),
                        "own": r["own"],
                        **{name: round(float(scores[k][n]), 2) for k, name in STEPS.items()},
                    }
                    for n, r in enumerate(found)
                },
            }
    cpu = sum(r.get("cpu_seconds", 0) for r in rows) / 3600
    result["cpu_hours"] = round(cpu, 2)
    (HERE / "results.json").write_text(json.dumps(result, indent=1) + "\n")
    (HERE / "results.md").write_text(table(result))
    print(table(result))


def table(result: dict[str, Any]) -> str:
    """The figures as Markdown."""
    lines = ["| on unseen cities | precision | recall | F1 | IoU | OA |", "|--|--|--|--|--|--|"]
    for name, row in result["unseen"].items():
        cells = [
            f"{row[k][0]:.1f} +- {row[k][1]:.1f}"
            for k in ("precision", "recall", "f1", "iou", "oa")
        ]
        lines.append(f"| {name} ({row['seeds']}) | {' | '.join(cells)} |")
    lines += ["", "| F1 | within 2 px of a border of green | beyond |", "|--|--|--|"]
    for name, row in result["borders"].items():
        cells = [f"{row[k][0]:.1f} +- {row[k][1]:.1f}" for k in ("within 2 px", "beyond")]
        lines.append(f"| {name} ({row['seeds']}) | {' | '.join(cells)} |")
    lines += [
        "",
        "| shift | F1 before | with the city's statistics alone | adapted | gain | 95 % | goal | "
        "adversarial alone, first seed |",
        "|--|--|--|--|--|--|--|--|",
    ]
    for name, row in result["shifts"].items():
        low, high = row["gain_95"]
        alone = row["adversarial alone, first seed"]
        cells = [f"{row[k][0]:.1f} +- {row[k][1]:.1f}" for k in STEPS.values()]
        goal = GOALS.get(name, 5.0)
        first = f"{alone[0]:.1f}" if alone else ""
        verdict = f"{goal:+.0f} {'holds' if row['gain'] >= goal else 'missed'}"
        lines.append(
            f"| {name} ({row['adaptations']}) | {' | '.join(cells)} | {row['gain']:+.1f} | "
            f"{low:+.1f} to {high:+.1f} | {verdict} | {first} |"
        )
    lines += [
        "",
        "In brackets: seeds, or adaptations (two cities of each shift). Intervals draw cities "
        "anew, and of each city its seeds; two cities are few.",
        "",
    ]
    lines += [f"CPU hours: {result['cpu_hours']:.1f}"]
    return "\n".join(lines) + "\n"
