"""Stores and products in buckets: on Ceph's real gateway, and on a fast stand-in."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import boto3
import numpy as np
import obstore
import pytest
import rasterio
import requests
import yaml
import zarr
from botocore.config import Config
from odc.geo.geobox import GeoBox
from rasterio.transform import from_origin
from services.forgetful import Forgetful
from services.radosgw import PROGRAMS, Gateway
from services.required import need
from support import shared
from support.near import near
from support.shared import settings_of
from support.toys import Toy, blob, read_map

import engine
from engine.clusters.local import Local
from engine.cube.access import Access
from engine.cube.read import read_asset
from engine.errors import LockedError, PublishError, ReadError, StoreError
from engine.grid import Grid
from engine.items import Asset, Item
from engine.pipeline.doctor import examine
from engine.runs.execute import Limits, execute
from engine.runs.schedule import Schedule
from engine.store import lease
from engine.store.arrays import ArraySpec
from engine.store.guarantees import race_for, require_conditions
from engine.store.ledger import Ledger
from engine.store.location import Bucket, location_of
from engine.store.repository import Store

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
logging.getLogger("werkzeug").setLevel(logging.ERROR)
GRID = Grid.fit((0, 0, 6400, 3200), crs="EPSG:5179", tile_size=1600)
MAP = ArraySpec("map/classes", "uint8", 100.0, 16, 0)


def on(*servers: str) -> pytest.MarkDecorator:
    """Where a test runs, if not on Ceph, and in soak on the stand-in too."""
    return pytest.mark.parametrize("service", servers, indirect=True)


@pytest.fixture(scope="module", params=["ceph", pytest.param("moto", marks=pytest.mark.soak)])
def service(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, str]]:
    """A server with a bucket: the environment of its clients."""
    if request.param == "moto":
        from moto.server import ThreadedMotoServer  # seconds, where no test wants it

        server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        found = {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "a",
            "AWS_SECRET_ACCESS_KEY": "b",
            "AWS_REGION": "us-east-1",
        }
        stop = server.stop
    else:
        need(*PROGRAMS)
        gateway = Gateway(tmp_path_factory.mktemp("ceph"))
        found, stop = gateway.environment(), gateway.stop
    client = boto3.client(
        "s3",
        endpoint_url=found["AWS_ENDPOINT_URL"],
        aws_access_key_id=found["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=found["AWS_SECRET_ACCESS_KEY"],
        region_name="us-east-1",
    )
    client.create_bucket(Bucket="natmap")
    client.close()
    try:
        yield found
    finally:
        stop()


@pytest.fixture(scope="module")
def workers(service: dict[str, str]) -> Iterator[Local]:
    """The workers that all tests share, told of the server; they outlive drivers."""
    found = shared.workers()
    found.client.run(os.environ.update, service)
    yield found
    for name in service:
        found.client.run(os.environ.pop, name, None)


@pytest.fixture
def s3(service: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> str:
    """An address of its own for each test."""
    for name, value in service.items():
        monkeypatch.setenv(name, value)
    return f"s3://natmap/{uuid.uuid4().hex}/store"


def locked_at_last(store: Store, stack: ExitStack) -> None:
    """Hold a store as soon as the lease of another driver has run out."""
    until = time.monotonic() + 30
    while True:
        try:
            stack.enter_context(store.lock())
            return
        except LockedError:
            assert time.monotonic() < until, "the lease does not end"
            time.sleep(0.2)


def holder(address: str, seconds: float = 2.0) -> subprocess.Popen[str]:
    """A process that holds a store until it is told to commit."""
    code = """
import sys, zarr
from engine.store.repository import Store
store = Store.open(sys.argv[1])
with store.lock():
    print("held", flush=True)
    sys.stdin.readline()
    try:
        session = store.writer()
        zarr.open_group(session.store, mode="r+")["map/classes"][:16, :16] = 9
        session.commit("late")
        print("committed", flush=True)
    except Exception as error:
        print(type(error).__name__, flush=True)
"""
    found = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code, address],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "NATMAP_LEASE_SECONDS": str(seconds)},
    )
    assert found.stdout is not None
    assert found.stdout.readline() == "held\n"
    return found


@on("ceph", "moto")
def test_a_store_lives_in_a_bucket(s3: str, tmp_path: Path) -> None:
    assert not Store.exists(s3)
    with pytest.raises(StoreError, match="no store here"):
        Store.open(s3)
    store = Store.create(s3, GRID, [MAP], bands=["B02"])
    assert Store.exists(s3)
    again = Store.open(s3)
    again.require_identity(GRID, [MAP], bands=["B02"])
    assert again.identity == store.identity
    local = Store.create(tmp_path / "local", GRID, [MAP], bands=["B02"])
    assert json.dumps(local.identity) == json.dumps(again.identity)
    place = location_of(s3)
    assert place.beside("items.parquet") is None
    with place.replace("items.parquet") as path:
        path.write_bytes(b"some items")
    found = location_of(s3).beside("items.parquet")
    assert found is not None
    assert found.read_bytes() == b"some items"


def test_a_store_half_made_is_finished(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr("engine.store.repository.create_arrays", killed)
        with pytest.raises(KeyboardInterrupt):
            Store.create(s3, GRID, [MAP])
    assert not Store.exists(s3)
    assert list(Store.create(s3, GRID, [MAP]).identity["arrays"]) == [MAP.path]


def test_a_second_driver_is_refused_while_the_first_lives(s3: str) -> None:
    store = Store.create(s3, GRID, [MAP])
    with store.lock():
        with pytest.raises(LockedError, match=f"process {os.getpid()}"), Store.open(s3).lock():
            pass
        store.writer()
    with store.lock():  # free again at once
        pass


def test_a_driver_that_slept_cannot_commit(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NATMAP_LEASE_SECONDS", "2")
    store = Store.create(s3, GRID, [MAP])
    first = holder(s3)
    time.sleep(3)  # longer than a life: its heart beats
    with pytest.raises(LockedError, match=f"process {first.pid}"), store.lock():
        pass
    first.send_signal(signal.SIGSTOP)
    with ExitStack() as stack:
        locked_at_last(store, stack)
        first.send_signal(signal.SIGCONT)
        assert first.communicate("now\n")[0] == "LockedError\n"
        store.writer()  # the one that took over still may
    found = zarr.open_group(store.reader().store, mode="r")["map/classes"]
    assert not np.asarray(found[:]).any()


@on("ceph")  # the stand-in does not promise that conditional writes are atomic
def test_of_many_drivers_one_wins(s3: str) -> None:
    Store.create(s3, GRID, [MAP])
    start, held = threading.Barrier(8), threading.Event()

    def attempt(_: int) -> bool:
        place = location_of(s3)
        assert isinstance(place, Bucket)
        start.wait()
        try:
            with lease.hold(place):
                held.wait(20)
                return True
        except LockedError:
            return False

    with ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(attempt, n) for n in range(8)]
        until = time.monotonic() + 20
        while sum(job.done() for job in jobs) < 7 and time.monotonic() < until:
            time.sleep(0.05)
        held.set()
        assert sum(job.result() for job in jobs) == 1


@on("ceph")
def test_conditional_writes_are_proved_by_a_race(s3: str) -> None:
    place = location_of(s3)
    assert isinstance(place, Bucket)
    require_conditions(place)
    race_for(place, racers=8, rounds=5)
    found = {finding.name: finding for finding in examine(s3)}["store"]
    assert found.ok
    assert "one won" in found.text
    left = [o["path"] for o in obstore.list(place.objects, prefix=place.prefix).collect()]
    assert not left


@on("moto")  # Ceph checks the signature, which covers the host's name
def test_a_service_that_ignores_conditions_gets_no_store(
    service: dict[str, str], s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    forgetful = Forgetful(service["AWS_ENDPOINT_URL"])
    try:
        monkeypatch.setenv("AWS_ENDPOINT_URL", forgetful.url)
        with pytest.raises(StoreError, match="does not keep conditional writes") as caught:
            Store.create(s3, GRID, [MAP])
        assert "late writer" in str(caught.value)
        place = location_of(s3)
        assert isinstance(place, Bucket)
        with pytest.raises(StoreError, match="8 of 8 writers at once could create"):
            race_for(place)
        found = {finding.name: finding for finding in examine(s3)}["store"]
        assert not found.ok
    finally:
        forgetful.stop()


@on("ceph")  # the stand-in takes any link
def test_an_expired_link_is_said(service: dict[str, str], s3: str, tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    profile = {"driver": "GTiff", "dtype": "uint16", "count": 1, "height": 32, "width": 32}
    place = from_origin(500_000, 5_200_320, 10, 10)
    with rasterio.open(path, "w", crs="EPSG:32633", transform=place, **profile) as file:
        file.write(np.full((32, 32), 7, np.uint16), 1)
    client = boto3.client(
        "s3",
        endpoint_url=service["AWS_ENDPOINT_URL"],
        config=Config(signature_version="s3v4"),
    )
    key = s3.removeprefix("s3://natmap/") + "/a.tif"
    client.upload_file(str(path), "natmap", key)

    def link(seconds: int) -> Item:
        asked = {"Bucket": "natmap", "Key": key}
        href = client.generate_presigned_url("get_object", Params=asked, ExpiresIn=seconds)
        return Item(
            id="far",
            collection="any",
            source="own",
            datetime=datetime(2023, 5, 1, 10, tzinfo=UTC),
            bbox=(14.9, 46.8, 15.1, 47.0),
            geometry={},
            centroid_lon=15.0,
            stamp="x",
            assets={"B02": Asset(href=href)},
        )

    box = GeoBox((32, 32), place, "EPSG:32633")
    good, bad = link(600), link(1)
    assert (read_asset(good, "B02", box, (0, 0))[0] == 7).all()
    until = time.monotonic() + 20
    while requests.get(bad.assets["B02"].href, timeout=5).ok and time.monotonic() < until:
        time.sleep(0.2)
    with pytest.raises(ReadError, match="cannot be read") as caught:
        read_asset(bad, "B02", box, (0, 0), access=Access(retries=0))
    client.close()
    assert caught.value.transient
    assert "the link has expired" in str(caught.value)
    assert "Signature" not in str(caught.value)
    assert service["AWS_SECRET_ACCESS_KEY"] not in str(caught.value)


DRIVE = """
import sys
from engine.clusters.connect import open_cluster
from engine.clusters.settings import load_cluster
from engine.runs import events
from engine.runs.execute import Limits, execute
from support.toys import Toy, blob

def listen(event):
    if isinstance(event, events.Committed):
        print(event.tiles, flush=True)

store, schedule = Toy(blob(0.5), delay=0.1).open(sys.argv[1])
limits = Limits(commit_tiles=4, commit_seconds=0.3)
with store.lock(), open_cluster(load_cluster(sys.argv[2])) as cluster:
    execute(schedule, store, cluster, listeners=[listen], limits=limits)
"""


def test_run_kill_resume(
    workers: Local, s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A driver killed in mid-run: its store is taken over when its lease has run out, its successor
    makes the rest, and the map is the same."""
    toy = Toy(blob(0.5))
    monkeypatch.setenv("NATMAP_LEASE_SECONDS", "2")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "tests")]))
    first = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", DRIVE, s3, str(settings_of(workers, tmp_path))],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert first.stdout is not None
    before = 0
    for line in first.stdout:
        before += int(line)
        if before >= 8:
            store = Store.open(s3)
            first.kill()
            break
    first.communicate()
    assert first.returncode == -signal.SIGKILL
    with pytest.raises(LockedError, match=f"process {first.pid}"), store.lock():
        pass
    with ExitStack() as stack:
        locked_at_last(store, stack)
        root = zarr.open_group(store.reader().store, mode="r")
        assert root.attrs["natmap:epoch"] == 2
        left = toy.open(s3)[1].open
    assert 0 < left <= tasks(toy) - before
    store, schedule = toy.open(s3)
    with store.lock():
        assert execute(schedule, store, workers, limits=Limits(commit_tiles=16)).done == left
    assert (read_map(store) == toy.expected()).all()


def tasks(toy: Toy) -> int:
    """All that a run of an empty store has to do."""
    stages = toy.stages()
    empty = Ledger(toy.grid.shape, {stage.name: stage.daily for stage in stages})
    return Schedule(stages, toy.support, empty).open


def test_a_recipe_runs_and_publishes_in_a_bucket(workers: Local, s3: str) -> None:
    local = near()
    remote = yaml.safe_load((local / "recipe.yaml").read_text())
    remote |= {"store": s3, "publish": s3.replace("store", "product")}
    assert not engine.run(remote, base=local, cluster=workers).failed
    assert engine.publish(remote, base=local) == remote["publish"]
    assert all(not stage.stale for stage in engine.plan(remote, base=local).stages)
    one, other = engine.open_store(s3), engine.open_store(local / "store")
    for name in ("bands", "observations", "reason"):
        np.testing.assert_array_equal(one["composite"][name], other["composite"][name])
    bucket = location_of(remote["publish"])
    assert isinstance(bucket, Bucket)
    names = {o["path"] for part in obstore.list(bucket.objects, bucket.prefix + "/") for o in part}
    files = [p for p in (local / "product").rglob("*") if p.is_file()]
    assert names == {f"{bucket.prefix}/{p.relative_to(local / 'product')}" for p in files}
    name = f"{remote['name']}.tif"
    got = bytes(obstore.get(bucket.objects, f"{bucket.prefix}/{name}").bytes())
    with rasterio.MemoryFile(got) as memory, memory.open() as file:
        values = file.read(1)
    with rasterio.open(local / "product" / name) as file:
        np.testing.assert_array_equal(values, file.read(1))
    # never over something else
    obstore.put(bucket.objects, f"{bucket.prefix}-other/thing.txt", b"x")
    with pytest.raises(PublishError, match="something else"):
        engine.publish(remote | {"publish": remote["publish"] + "-other"}, base=local)
    # over itself: an upload that was killed on its way has its mark, no report, and files of an
    # earlier one
    key = f"{bucket.prefix}/report.json"
    obstore.delete(bucket.objects, key)
    left_over = f"{bucket.prefix}/left.tif"
    mark = f"{bucket.prefix}/.natmap-upload"
    obstore.put(bucket.objects, mark, json.dumps([*names, left_over]).encode())
    obstore.put(bucket.objects, left_over, b"")
    assert engine.publish(remote, base=local) == remote["publish"]
    # ... but never over an object of somebody else's, and a mark that lists nothing proves nothing
    obstore.delete(bucket.objects, key)
    for content, why in ((b"", "something else"), (b"[]", "did not write")):
        obstore.put(bucket.objects, mark, content)
        with pytest.raises(PublishError, match=why):
            engine.publish(remote, base=local)
    obstore.put(bucket.objects, mark, json.dumps([*names]).encode())
    assert engine.publish(remote, base=local) == remote["publish"]
    # ... and a whole one
    assert engine.publish(remote, base=local, tag="v1") == remote["publish"]
    left = {o["path"] for part in obstore.list(bucket.objects, bucket.prefix + "/") for o in part}
    assert left == names
    for secret in (os.environ["AWS_SECRET_ACCESS_KEY"], os.environ["AWS_ACCESS_KEY_ID"]):
        if len(secret) > 3:  # those of the stand-in are a letter
            for path in names:
                assert secret.encode() not in bytes(obstore.get(bucket.objects, path).bytes())


@on("ceph")  # the stand-in takes any key
def test_what_is_wrong_is_said(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StoreError, match="without credentials") as hidden:
        location_of("s3://key:hush@bucket/store")
    assert "hush" not in str(hidden.value)
    for wrong in ("gs://bucket/store", "s3://bucket", "s3://bucket/store?sig=hush"):
        with pytest.raises(StoreError) as caught:
            location_of(wrong)
        assert "hush" not in str(caught.value)
    with pytest.raises(StoreError, match="natmap-nowhere"):
        Store.create(s3.replace("natmap", "natmap-nowhere", 1), GRID, [MAP])
    Store.create(s3, GRID, [MAP])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret")
    with pytest.raises(StoreError, match="refuses the credentials") as caught:
        Store.open(s3)
    assert "AWS_SECRET_ACCESS_KEY" in str(caught.value)
    assert "wrong-secret" not in str(caught.value)
    with pytest.raises(StoreError, match="refuses the credentials"):
        Store.create(s3 + "2", GRID, [MAP])
