"""The LCZ papers' comparison on made-up cities, with small networks: which system, how good.

    python benchmarks/accuracy/compare.py --work FOLDER    (about 6 CPU hours; resumable)

FOLDER is that of made_up.py, whose frozen worlds it takes: worlds 05 to 07 are the cities, with
orthophotos of 1 m and training areas; worlds 01 to 03 are the other countries that a transfer
starts from. Each system is trained three times on each of two splits of the same patches: the
sample pool, where patches of one training area lie on both sides, and the polygon pool, where
whole areas do. What is done already is not done again. Writes compare.json and compare.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).resolve().parent)]
HERE = Path(__file__).resolve().parent

from made_up import KINDS_OF_COMPOSITE, TRAIN, compose, make  # noqa: E402

from engine.datasets.patch_cutting import cut_patches  # noqa: E402
from engine.models.card import load_card  # noqa: E402
from engine.pipeline.verbs import run  # noqa: E402
from engine.products.registry import load_training  # noqa: E402
from engine.synthetic.photo import write_photos  # noqa: E402
from engine.training.fusion import weigh  # noqa: E402
from engine.training.train import train  # noqa: E402

CITIES = ("train-05", "train-06", "train-07")
ABROAD = ("train-01", "train-02", "train-03")
PATCHES = 2_000  # of each city
SEEDS = (0, 1, 2)
SPLITS = {"sample pool": "pool", "polygon pool": "group"}
EPOCHS = 15
ROWS = HERE / "compare.jsonl"  # one line a training: committed, so that any machine goes on
FIGURES = ("oa", "oa_built_rows", "oa_natural_rows", "kappa", "f1_weighted", "oa_u")

SYSTEMS: dict[str, dict[str, Any]] = {
    "forest": {"model": {"architecture": "forest"}},
    "gcn": {
        "model": {"architecture": "gcn"},
        "training": {"preset": "df4lcz-graph", "epochs": 60},
    },
    "transfer": {
        "model": {
            "architecture": "resnet-v2",
            "size": "small",
            "parameters": {"frozen": True, "dense": 256},
            "start": "compare/abroad",
            "restandardise": True,
        },
        "training": {"preset": "so2sat"},
    },
    "mscnn": {
        "model": {"architecture": "mscnn", "size": "small"},
        "training": {"preset": "mscnn"},
    },
    **{
        name: {
            "model": {"architecture": name, "size": "small"},
            "training": {"preset": "df4lcz"},
        }
        for name in ("resnet11", "resnet50", "densenet", "msmla", "resnet11-3d")
    },
}
STREAMS = ("msmla", "resnet50", "resnet11", "densenet", "resnet11-3d")
"""Those that DF4LCZ fuses with its graphs."""

PAPERS: dict[str, dict[str, list[float]]] = {
    # OA, OA_BU, OA_N, kappa x 100, weighted F1; DF4LCZ tables II, IV, V
    "sample pool": {
        "gcn": [51.93, 55.28, 47.81, 47.75, 50.66],
        "msmla": [89.53, 89.44, 89.64, 88.66, 89.51],
        "resnet50": [81.47, 81.16, 81.86, 79.92, 81.25],
        "resnet11": [89.22, 88.49, 90.11, 88.32, 89.24],
        "densenet": [83.91, 83.87, 83.97, 82.58, 83.87],
        "resnet11-3d": [92.42, 91.53, 93.50, 91.79, 92.42],
        "msmla + gcn": [91.37, 91.48, 91.22, 90.64, 91.29],
        "resnet50 + gcn": [84.54, 84.40, 84.73, 83.22, 84.12],
        "resnet11 + gcn": [91.24, 91.06, 91.46, 90.50, 91.16],
        "densenet + gcn": [86.70, 86.54, 86.89, 85.58, 86.50],
        "resnet11-3d + gcn": [93.81, 93.10, 94.68, 93.29, 93.80],
    },
    "polygon pool": {
        "msmla": [78.90, 80.69, 76.71, 77.16, 78.83],
        "resnet50": [73.52, 73.26, 73.84, 71.34, 73.27],
        "resnet11": [78.33, 77.64, 79.17, 76.55, 78.36],
        "densenet": [75.10, 75.40, 74.72, 73.06, 74.92],
        "resnet11-3d": [80.74, 80.88, 80.57, 79.16, 80.72],
        "msmla + gcn": [79.40, 81.26, 77.12, 77.69, 79.24],
        "resnet50 + gcn": [75.39, 75.40, 75.37, 73.31, 74.83],
        "resnet11 + gcn": [79.03, 79.31, 78.70, 77.30, 78.95],
        "densenet + gcn": [76.31, 77.12, 75.31, 74.33, 75.90],
        "resnet11-3d + gcn": [81.13, 81.35, 80.87, 79.58, 81.08],
    },
    # Kim et al., Seoul: another design of test, so OA and kappa only
    "Seoul": {
        "transfer": [54.42, 48.60],
        "forest": [74.27, 41.00],
        "mscnn": [83.88, 64.99],
    },
}


def say(text: str) -> None:
    print(text, flush=True)


# -- cities ------------------------------------------------------------------------------------


def photograph(work: Path) -> None:
    """Orthophotos of the cities, their composites and instances through the engine."""
    for name in CITIES:
        folder = work / name
        if not (folder / "photos" / "catalog.json").exists():
            began = time.perf_counter()
            count = write_photos(TRAIN[name].world, TRAIN[name].bounds, folder / "photos", [])
            say(f"{name}: {count} photos in {time.perf_counter() - began:.0f} s")
        recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
        recipe |= {"images": {"catalog": "photos/catalog.json"}, "store": "./store-graphs"}
        recipe["grid"]["tile"] = 800  # four blocks of ground: none is segmented twice
        (folder / "graphs.yaml").write_text(yaml.safe_dump(recipe))
        if not (folder / "instances-made").exists():
            summary = run(folder / "graphs.yaml", workers=2)
            assert not summary.failed, summary.failed
            (folder / "instances-made").touch()
            say(f"{name}: instances in {summary.seconds:.0f} s")


# -- training ----------------------------------------------------------------------------------


def recipe_of(system: str, split: str, seed: int) -> dict[str, Any]:
    """One training."""
    form = SYSTEMS[system]
    return {
        "name": system,
        "labels": [
            {
                "recipe": f"{name}/graphs.yaml",
                "areas": f"{name}/truth/training-areas.geojson",
                "place": name,
                "most": PATCHES,
            }
            for name in CITIES
        ],
        "patches": f"compare/patches-{SPLITS[split]}",
        "context": 0,
        "split": {"by": SPLITS[split], "shares": [0.7, 0.1, 0.2]},
        "model": form["model"],
        "training": {"epochs": EPOCHS, **form.get("training", {}), "seed": seed}
        | ({"precision": "bfloat16"} if system not in ("gcn", "forest") else {}),
        "out": f"compare/{SPLITS[split]}/{system}-{seed}",
    }


def abroad(work: Path) -> None:
    """The trunk that the transfer starts from, on other countries."""
    if (work / "compare" / "abroad" / "card.json").exists():
        return
    began = time.perf_counter()
    recipe = recipe_of("resnet11", "polygon pool", 0) | {
        "name": "abroad",
        "labels": [
            {
                "recipe": f"{name}/recipe.yaml",
                "raster": f"{name}/truth/truth-lcz.tif",
                "place": name,
                "most": 3_000,
            }
            for name in ABROAD
        ],
        "patches": "compare/patches-abroad",
        "split": {"by": "place", "validation": [ABROAD[-1]]},
        "model": {"architecture": "resnet-v2", "size": "small"},
        "training": {"preset": "so2sat", "epochs": EPOCHS, "precision": "bfloat16"},
        "out": "compare/abroad",
    }
    train(recipe, base=work, tell=say)
    say(f"abroad: trained in {time.perf_counter() - began:.0f} s")


def train_all(work: Path) -> None:
    """Every training and every fusion that `ROWS` does not hold yet."""
    made = {(row["split"], row["system"], row["seed"]) for row in recorded()}
    order = [
        (system, seed, split)
        for volumes in (False, True)  # they take as long as all others together: last
        for seed in SEEDS
        for system in SYSTEMS
        if (system == "resnet11-3d") == volumes
        for split in SPLITS
    ]
    for system, seed, split in order:
        pair = f"{system} + gcn"
        if (split, system, seed) not in made:
            if system == "transfer":
                abroad(work)
            began, cpu = time.perf_counter(), time.process_time()
            found = fitted(work, system, split, seed)
            record(
                split,
                system,
                seed,
                seconds=round(time.perf_counter() - began),
                cpu_seconds=round(time.process_time() - cpu),
                **found,
            )
        if system in STREAMS and (split, pair, seed) not in made:
            for needed in ("gcn", system):  # another machine may have made the rows
                fitted(work, needed, split, seed)
            weight, figures = fused(work, split, seed, system)
            record(split, pair, seed, sentinel_weight=weight, test=figures)


def recorded() -> list[dict[str, Any]]:
    return [json.loads(line) for line in ROWS.read_text().splitlines()] if ROWS.exists() else []


def record(split: str, system: str, seed: int, **found: Any) -> None:
    row = {"split": split, "system": system, "seed": seed, **found}
    with ROWS.open("a") as file:
        file.write(json.dumps(row) + "\n")
    say(f"{split}, {system}, seed {seed}: OA {row['test']['oa']:.3f}, {found.get('seconds', 0)} s")


def fitted(work: Path, system: str, split: str, seed: int) -> dict[str, Any]:
    """What the report of a training says; trains where there is none."""
    recipe = recipe_of(system, split, seed)
    folder = work / recipe["out"]
    if not (folder / "report.json").exists():
        train(recipe, base=work, tell=lambda text: None)
    report = json.loads((folder / "report.json").read_text())
    counts = {name: part["count"] for name, part in report["patches"].items()}
    return {"patches": counts, "test": {key: report["test"][key] for key in FIGURES}}


def fused(work: Path, split: str, seed: int, stream: str) -> tuple[float, dict[str, float]]:
    """A stream with the graphs of the same seed: the weight swept on validation, its figures."""
    recipe, other = recipe_of("gcn", split, seed), recipe_of(stream, split, seed)
    recipe["model"] = {**recipe["model"], "beside": f"./{other['out']}"}
    wanted = load_training(recipe)
    found = weigh(wanted, work, cut_patches(wanted, work), load_card(work / recipe["out"]))
    assert found is not None
    return found["sentinel_weight"], {key: found["fused"][key] for key in FIGURES}


# -- judging -----------------------------------------------------------------------------------


def judge(work: Path) -> None:
    """Mean and spread over the seeds, beside the papers' figures."""
    result: dict[str, Any] = {"patches": {}, "splits": {split: {} for split in SPLITS}}
    names = [n for s in SYSTEMS for n in ((s, f"{s} + gcn") if s in STREAMS else (s,))]
    for split in SPLITS:
        for name in names:
            rows = [r for r in recorded() if (r["split"], r["system"]) == (split, name)]
            if not rows:
                continue
            result["splits"][split][name] = {
                "seeds": len(rows),
                **{
                    key: [
                        round(100 * float(np.mean([row["test"][key] for row in rows])), 2),
                        round(100 * float(np.std([row["test"][key] for row in rows])), 2),
                    ]
                    for key in FIGURES
                },
            }
            if "sentinel_weight" in rows[0]:
                weights = [row["sentinel_weight"] for row in rows]
                result["splits"][split][name]["sentinel_weight"] = weights
            if "patches" in rows[0]:
                result["patches"][split] = rows[0]["patches"]
    result["papers"] = PAPERS
    (HERE / "compare.json").write_text(json.dumps(result, indent=1) + "\n")
    (HERE / "compare.md").write_text(table(result))
    print(table(result))


def table(result: dict[str, Any]) -> str:
    """The comparison as Markdown: mean +- spread over seeds, the papers' figures beside."""
    lines = []
    for split, rows in result["splits"].items():
        lines += [
            f"## {split} ({result['patches'].get(split)})",
            "",
            "| system | OA | OA built | OA natural | kappa | F1 | OAu | paper: OA, built, natural, "
            "kappa, F1 |",
            "|--|--|--|--|--|--|--|--|",
        ]
        for name, row in rows.items():
            cells = [f"{row[key][0]:.1f} +- {row[key][1]:.1f}" for key in FIGURES]
            paper = PAPERS[split].get(name)
            seoul = PAPERS["Seoul"].get(name)
            beside = (
                " ".join(f"{v:g}" for v in paper)
                if paper
                else f"Seoul: {seoul[0]:g}, kappa {seoul[1]:g}"
                if seoul
                else ""
            )
            short = "" if row["seeds"] == len(SEEDS) else f" ({row['seeds']} of {len(SEEDS)} seeds)"
            lines.append(f"| {name}{short} | {' | '.join(cells)} | {beside} |")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "what", nargs="?", default="all", choices=["worlds", "photos", "train", "judge", "all"]
    )
    parser.add_argument("--work", type=Path, default=Path("work"))
    asked = parser.parse_args()
    work = asked.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    steps = {"photos": photograph, "train": train_all, "judge": judge}
    if asked.what in ("worlds", "all"):
        make(work, (*CITIES, *ABROAD))
        compose(work, (*CITIES, *ABROAD), KINDS_OF_COMPOSITE[:1])
    for name, step in steps.items():
        if asked.what in (name, "all"):
            step(work)


if __name__ == "__main__":
    main()
