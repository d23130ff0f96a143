"""What the tests of one process share: open workers, and a mapped country.

Opening a cluster costs ten seconds of a core, most of it imports. Tests that are not about
clusters run on the workers here; those that kill workers, count them, or change their environment
open their own.
"""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import yaml

import engine
from engine.clusters.local import Local, open_local
from engine.pipeline.verbs import PRELOAD
from engine.runs.execute import Summary
from support.cache import kept, source_hash
from support.worlds import PLAIN, change_recipe, scenes_of, synthesize

_stack = ExitStack()
_found: list[Local] = []


def workers() -> Local:
    """Two workers with a thread each, open until the session ends."""
    if not _found:
        _found.append(_stack.enter_context(open_local(2, preload=PRELOAD)))
    return _found[0]


def settings_of(cluster: Local, folder: Path) -> Path:
    """A settings file by which another process joins open workers."""
    security = cluster.client.security
    tls = {
        "ca": security.tls_ca_file,
        "cert": security.tls_client_cert,
        "key": security.tls_client_key,
    }
    told = {"kind": "address", "address": cluster.client.scheduler.address, "tls": tls}
    path = folder / "cluster.yaml"
    path.write_text(yaml.safe_dump(told))
    return path


def close() -> None:
    """End the workers, if there are any."""
    _found.clear()
    _stack.close()


def run(recipe: Any, **more: Any) -> Summary:
    """`engine.run` on the shared workers."""
    return engine.run(recipe, cluster=workers(), **more)


def mapped(folder: Path) -> Path:
    """A copy of the mapped country, to be changed: recipe, truth, store and product.

    Its scenes stay where they are kept, since an item at another address is another item, and all
    of the store would be stale.
    """
    return Path(shutil.copytree(reference(), folder, dirs_exist_ok=True))


def reference() -> Path:
    """`worlds.PLAIN` mapped by the shipped network and published, made once for a state of the
    engine; to be read only."""
    return kept("mapped", f"{PLAIN} {scenes_of(PLAIN)} {source_hash('engine')}", _map)


def _map(folder: Path) -> None:
    source = scenes_of(PLAIN)
    recipe = synthesize(PLAIN, folder, model="lcz-made-up", tile=160)
    shutil.rmtree(folder / "scenes")
    imagery = yaml.safe_load(recipe.read_text())["imagery"]
    change_recipe(recipe, imagery={**imagery, "catalog": str(source / "scenes" / "catalog.json")})
    assert not run(recipe).failed
    engine.publish(recipe)
