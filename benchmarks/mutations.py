"""Mutated input at full size: items, files and whole runs, each change by a seed; it resumes.

    python benchmarks/mutations.py                    (`make mutations`; 15 minutes of a core)
    python benchmarks/mutations.py --part items --seeds 1234      one seed alone

10,000 mutated real items go through search and normal form, three at a time beside two that are
untouched;
3,000 mutated recipes, model cards, KML, GeoJSON and GeoPackage files are read; 50 mutated items go
through whole runs. Each case must end with a right result or an error of natmap's, within 10 s of a
core. The real items are those of the tests (NATMAP_TEST_DATA).

The log is the state: a line for each batch of seeds, with what failed in it. A batch is not run
again while the code is what it passed with, or is older by what no case reads: `--again` runs all.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from soak import CODE, ROOT, commit_of

sys.path.insert(0, str(ROOT / "tests"))

LOG = ROOT / "benchmarks" / "mutations.log"
PARTS = {
    "items": (3334, 100),
    "recipe": (1000, 250),
    "card": (700, 350),
    "kml": (600, 300),
    "geojson": (600, 300),
    "geopackage": (100, 100),
    "run": (50, 5),
}
"""Seeds, and how many of them are a batch; a seed of items mutates three."""
SECONDS = 10.0  # of a core, for one case; a whole run computes in workers
HANGS = 300.0  # of the clock, where others use the machine too: then the batch is stopped


def case(part: str) -> Callable[[int, Path], tuple[str, str | None]]:
    """What runs one seed of a part."""
    if part == "items":
        from support.mutated_items import Items

        return Items(_data()).check
    if part == "run":
        from support.mutated_runs import check_run, sound_country

        sound_country()  # made once, which is no case's time
        return check_run
    from support.mutated_files import check_file

    return lambda seed, folder: check_file(part, seed, folder)


def _data() -> Path:
    return Path(os.environ.get("NATMAP_TEST_DATA", ROOT.parent / "shared" / "data"))


def run(part: str, first: int, last: int) -> list[dict[str, Any]]:
    """Run seeds in this process; what failed."""
    check, failed = case(part), []
    with tempfile.TemporaryDirectory(prefix="natmap-mutations-") as folder:
        for seed in range(first, last):
            print(f"seed {seed}", file=sys.stderr, flush=True)
            faulthandler.dump_traceback_later(HANGS, exit=True)
            began, name = time.process_time(), "?"
            try:
                name, wrong = check(seed, Path(folder))
            except Exception:
                wrong = traceback.format_exc()[-1500:]
            took = time.process_time() - began
            if wrong is None and took > SECONDS:
                wrong = f"it took {took:.0f} s of a core"
            if wrong is not None:
                failed.append({"seed": seed, "mutation": ascii(name), "wrong": ascii(wrong)[:1500]})
    faulthandler.cancel_dump_traceback_later()
    return failed


def batch(part: str, first: int, last: int, commit: str) -> dict[str, Any]:
    """Run seeds in a process of their own, which may hang or die; a line of the log."""
    began = time.monotonic()
    words = [sys.executable, "-W", "ignore", __file__, "--part", part, "--seeds", f"{first}:{last}"]
    done = subprocess.run([*words, "--inner"], capture_output=True, text=True, cwd=ROOT)
    try:
        failed = json.loads(done.stdout)
    except ValueError:
        seeds = [line for line in done.stderr.splitlines() if line.startswith("seed ")]
        at = int(seeds[-1].removeprefix("seed ")) if seeds else first
        failed = [{"seed": at, "mutation": "?", "wrong": f"it hung or died: {done.stderr[-1500:]}"}]
    minutes = round((time.monotonic() - began) / 60, 1)
    place = {"part": part, "first": first, "last": last - 1, "commit": commit, "minutes": minutes}
    return {**place, "failed": failed}


def unchanged(commit: str) -> bool:
    """Whether a batch would run the same code as on a commit."""
    words = ["git", "diff", "--quiet", commit, "--", *CODE, ":(exclude)benchmarks/*"]
    return subprocess.run(words, cwd=ROOT, capture_output=True).returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--part", choices=PARTS)
    parser.add_argument("--seeds", metavar="FIRST[:LAST]", help="these alone, without the log")
    parser.add_argument("--again", action="store_true", help="also what passed")
    parser.add_argument("--log", type=Path, default=LOG)
    parser.add_argument("--inner", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.seeds:
        first, _, last = asked.seeds.partition(":")
        failed = run(asked.part or "items", int(first), int(last or int(first) + 1))
        print(json.dumps(failed) if asked.inner else json.dumps(failed, indent=2) or "nothing")
        return 0 if asked.inner else bool(failed)
    rows = asked.log.read_text().splitlines() if asked.log.exists() else []
    known = {(r["part"], r["first"]): r for r in map(json.loads, rows)}
    commit, same = commit_of(ROOT), {}
    for part, (count, size) in PARTS.items():
        for first in range(0, count, size):
            if asked.part not in (None, part):
                continue
            old = known.get((part, first))
            if old and not asked.again and not old["failed"]:
                if old["commit"] not in same:
                    same[old["commit"]] = unchanged(old["commit"])
                if same[old["commit"]]:
                    continue
            found = known[part, first] = batch(part, first, min(first + size, count), commit)
            text = "".join(json.dumps(row) + "\n" for row in known.values())
            asked.log.write_text(text)
            print(
                f"{part} {first}: {found['minutes']} min, {len(found['failed'])} failed", flush=True
            )
    failed = sum(len(row["failed"]) for row in known.values())
    cases = sum(
        (row["last"] - row["first"] + 1) * (3 if row["part"] == "items" else 1)
        for row in known.values()
    )
    print(f"{cases} cases, {failed} failed")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
