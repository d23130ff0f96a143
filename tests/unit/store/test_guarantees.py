"""What proves a bucket's promises leaves nothing in it, also where a driver was killed."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import obstore
import pytest
from obstore.store import MemoryStore

from engine.errors import StoreError
from engine.store import guarantees
from engine.store.guarantees import race_for, require_conditions
from engine.store.location import Bucket, location_of


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Bucket:
    memory = MemoryStore()
    monkeypatch.setattr(Bucket, "objects", property(lambda _: memory))
    # it takes tags as it gives them, quoted
    monkeypatch.setattr(guarantees, "version_of", lambda seen: {"e_tag": seen["e_tag"]})
    obstore.put(memory, "a/store/chunks/1", b"a chunk")
    obstore.put(memory, "a/store2.probes/1", b"of a neighbour")
    return Bucket("bucket", "a/store")


def names(bucket: Bucket) -> set[str]:
    return {o["path"] for part in obstore.list(bucket.objects) for o in part}


def test_probes_of_killed_drivers_go_with_the_next_one(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean = names(bucket)
    require_conditions(bucket)
    race_for(bucket)
    assert names(bucket) == clean

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(guarantees, "_require_one", killed)
        patch.setattr(obstore, "delete", killed)
        with pytest.raises(KeyboardInterrupt):
            require_conditions(bucket)
    assert len(names(bucket) - clean) == 1
    require_conditions(bucket)
    assert len(names(bucket) - clean) == 1  # it may be of one that is at work
    monkeypatch.setattr(guarantees, "_LONG", timedelta(0))
    require_conditions(bucket)
    assert names(bucket) == clean


@pytest.mark.parametrize("path", ["", "/", "/../x", "/a/./b", "/a//b", "/a/.."])
def test_prefixes_that_no_bucket_has_are_refused(path: str) -> None:
    with pytest.raises(StoreError, match="not a place"):
        location_of(f"s3://bucket{path}")
    assert location_of("s3://bucket/a/b.c/") == Bucket("bucket", "a/b.c")
