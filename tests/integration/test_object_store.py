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
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
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
from moto.server import ThreadedMotoServer
from odc.geo.geobox import GeoBox
from rasterio.transform import from_origin
from services.radosgw import PROGRAMS, Gateway
from services.required import need
from support.toys import Toy, blob, read_map

import engine
from engine.clusters.local import open_local
from engine.cube.access import Access
from engine.cube.read import read_asset
from engine.errors import LockedError, PublishError, ReadError, StoreError
from engine.grid import Grid
from engine.items import Asset, Item
from engine.pipeline.doctor import examine
from engine.runs.execute import Limits, execute
from engine.store import lease
from engine.store.arrays import ArraySpec
from engine.store.place import Bucket, place_of
from engine.store.proof import race_for, require_conditions
from engine.store.repository import Store
from engine.synthetic.country import AUTUMN, Country
from engine.synthetic.districts import World
from engine.synthetic.make import synthesize

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
logging.getLogger("werkzeug").setLevel(logging.ERROR)
GRID = Grid.fit((0, 0, 6400, 3200), crs="EPSG:5179", tile_size=1600)
MAP = ArraySpec("map/classes", "uint8", 100.0, 16, 0)


@pytest.fixture(scope="module", params=["moto", "ceph"])
def service(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator:
    """A server with a bucket; yields its environment for clients."""
    if request.param == "moto":
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
        yield request.param, found
    finally:
        stop()


@pytest.fixture
def s3(service: tuple[str, dict[str, str]], monkeypatch: pytest.MonkeyPatch) -> str:
    """An address of its own for each test."""
    for name, value in service[1].items():
        monkeypatch.setenv(name, value)
    return f"s3://natmap/{uuid.uuid4().hex}/store"


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
    place = place_of(s3)
    assert place.beside("items.parquet") is None
    with place.replace("items.parquet") as path:
        path.write_bytes(b"some items")
    found = place_of(s3).beside("items.parquet")
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


def test_a_dead_driver_s_store_is_taken_over(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NATMAP_LEASE_SECONDS", "2")
    store = Store.create(s3, GRID, [MAP])
    first = holder(s3)
    time.sleep(3)  # longer than a life: its heart beats
    with pytest.raises(LockedError, match="another natmap run"), store.lock():
        pass
    first.kill()
    first.communicate()
    with pytest.raises(LockedError, match=f"process {first.pid}"), store.lock():
        pass
    time.sleep(3.5)
    with store.lock():
        root = zarr.open_group(store.reader().store, mode="r")
        assert root.attrs["natmap:epoch"] == 2


def test_a_driver_that_slept_cannot_commit(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NATMAP_LEASE_SECONDS", "2")
    store = Store.create(s3, GRID, [MAP])
    first = holder(s3)
    first.send_signal(signal.SIGSTOP)
    time.sleep(3.5)
    with store.lock():
        first.send_signal(signal.SIGCONT)
        assert first.communicate("now\n")[0] == "LockedError\n"
        store.writer()  # the one that took over still may
    found = zarr.open_group(store.reader().store, mode="r")["map/classes"]
    assert not np.asarray(found[:]).any()


def test_of_many_drivers_one_wins(service: tuple[str, dict[str, str]], s3: str) -> None:
    if service[0] == "moto":
        pytest.skip("the stand-in does not promise that conditional writes are atomic")
    Store.create(s3, GRID, [MAP])
    start, held = threading.Barrier(8), threading.Event()

    def attempt(_: int) -> bool:
        place = place_of(s3)
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


def test_conditional_writes_are_proved_by_a_race(
    service: tuple[str, dict[str, str]], s3: str
) -> None:
    place = place_of(s3)
    assert isinstance(place, Bucket)
    require_conditions(place)
    if service[0] == "ceph":
        race_for(place, racers=8, rounds=5)
        found = {finding.name: finding for finding in examine(s3)}["store"]
        assert found.ok
        assert "one won" in found.text
    left = [o["path"] for o in obstore.list(place.objects, prefix=place.prefix).collect()]
    assert not left


class Forgetful:
    """A service that takes conditions and ignores them, as some do: it passes on the rest."""

    def __init__(self, behind: str) -> None:
        outer = behind

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                heads = {
                    name: value
                    for name, value in self.headers.items()
                    if name.lower() not in ("if-none-match", "if-match", "host")
                }
                answer = requests.request(
                    self.command, outer + self.path, data=body, headers=heads, timeout=20
                )
                self.send_response(answer.status_code)
                for name in ("ETag", "Last-Modified", "Content-Type"):
                    if name in answer.headers:
                        self.send_header(name, answer.headers[name])
                length = answer.headers.get("Content-Length", str(len(answer.content)))
                self.send_header("Content-Length", length)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(answer.content)

            do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = do_any  # noqa: N815

            def log_message(self, *_: object) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


def test_a_service_that_ignores_conditions_gets_no_store(
    service: tuple[str, dict[str, str]], s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if service[0] == "ceph":
        pytest.skip("it checks the signature, which covers the host's name")
    forgetful = Forgetful(service[1]["AWS_ENDPOINT_URL"])
    try:
        monkeypatch.setenv("AWS_ENDPOINT_URL", forgetful.url)
        with pytest.raises(StoreError, match="does not keep conditional writes") as caught:
            Store.create(s3, GRID, [MAP])
        assert "late writer" in str(caught.value)
        place = place_of(s3)
        assert isinstance(place, Bucket)
        with pytest.raises(StoreError, match="8 of 8 writers at once could create"):
            race_for(place)
        found = {finding.name: finding for finding in examine(s3)}["store"]
        assert not found.ok
    finally:
        forgetful.server.shutdown()
        forgetful.server.server_close()


def test_an_expired_link_is_said(
    service: tuple[str, dict[str, str]], s3: str, tmp_path: Path
) -> None:
    if service[0] == "moto":
        pytest.skip("the stand-in takes any link")
    path = tmp_path / "a.tif"
    profile = {"driver": "GTiff", "dtype": "uint16", "count": 1, "height": 32, "width": 32}
    place = from_origin(500_000, 5_200_320, 10, 10)
    with rasterio.open(path, "w", crs="EPSG:32633", transform=place, **profile) as file:
        file.write(np.full((32, 32), 7, np.uint16), 1)
    client = boto3.client(
        "s3",
        endpoint_url=service[1]["AWS_ENDPOINT_URL"],
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
    time.sleep(2.5)
    with pytest.raises(ReadError, match="cannot be read") as caught:
        read_asset(bad, "B02", box, (0, 0), access=Access(retries=0))
    client.close()
    assert caught.value.transient
    assert "the link has expired" in str(caught.value)
    assert "Signature" not in str(caught.value)
    assert service[1]["AWS_SECRET_ACCESS_KEY"] not in str(caught.value)


def test_run_kill_resume(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver killed in mid-run; its successor makes the rest, and the map is the same."""
    script = str(ROOT / "benchmarks" / "chaos.py")
    command = [sys.executable, "-W", "ignore", script, "--drive", s3]
    monkeypatch.setenv("NATMAP_LEASE_SECONDS", "3")
    first = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert first.stdout is not None
    before = 0
    for line in first.stdout:
        before += int(line.split()[1]) if line.startswith("commit") else 0
        if before >= 30:
            os.killpg(first.pid, signal.SIGKILL)
            break
    first.communicate()
    time.sleep(4.5)
    toy = Toy(blob(2))
    store, schedule = toy.open(s3)
    left = schedule.open
    assert 0 < left <= schedule_size(toy) - 30
    with open_local(2) as cluster, store.lock():
        done = execute(schedule, store, cluster, limits=Limits(commit_tiles=16)).done
    assert done == left
    assert (read_map(store) == toy.expected()).all()


def schedule_size(toy: Toy) -> int:
    from engine.runs.schedule import Schedule
    from engine.store.ledger import Ledger

    stages = toy.stages()
    empty = Ledger(toy.grid.shape, {stage.name: stage.daily for stage in stages})
    return Schedule(stages, toy.support, empty).open


@pytest.fixture(scope="module")
def country(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small made-up country."""
    folder = tmp_path_factory.mktemp("country")
    made = Country(World(5), 3200, 3200, AUTUMN[:2])
    synthesize(made, folder, model="lcz-made-up", tile=160, name="far")
    return folder


def test_a_recipe_runs_and_publishes_in_a_bucket(s3: str, tmp_path: Path, country: Path) -> None:
    recipe = yaml.safe_load((country / "recipe.yaml").read_text())
    remote = recipe | {"store": s3, "publish": s3.replace("store", "product")}
    local = recipe | {"store": str(tmp_path / "store"), "publish": str(tmp_path / "product")}
    for wanted in (remote, local):
        assert not engine.run(wanted, base=country, workers=1).failed
        assert engine.publish(wanted, base=country, tag="v1") == (
            remote["publish"] if wanted is remote else tmp_path / "product"
        )
    assert all(not stage.stale for stage in engine.plan(remote, base=country).stages)
    far, near = engine.open_store(s3), engine.open_store(tmp_path / "store")
    for name in ("bands", "observations", "reason"):
        np.testing.assert_array_equal(far["composite"][name], near["composite"][name])
    bucket = place_of(remote["publish"])
    assert isinstance(bucket, Bucket)
    names = {o["path"] for part in obstore.list(bucket.objects, bucket.prefix + "/") for o in part}
    files = [p for p in (tmp_path / "product").rglob("*") if p.is_file()]
    assert names == {f"{bucket.prefix}/{p.relative_to(tmp_path / 'product')}" for p in files}
    got = bytes(obstore.get(bucket.objects, f"{bucket.prefix}/far.tif").bytes())
    with rasterio.MemoryFile(got) as memory, memory.open() as file:
        values = file.read(1)
    with rasterio.open(tmp_path / "product" / "far.tif") as file:
        np.testing.assert_array_equal(values, file.read(1))
    # again over itself, and never over something else
    assert engine.publish(remote, base=country) == remote["publish"]
    obstore.put(bucket.objects, f"{bucket.prefix}-other/thing.txt", b"x")
    with pytest.raises(PublishError, match="something else"):
        engine.publish(remote | {"publish": remote["publish"] + "-other"}, base=country)
    # an upload that was killed on its way has its mark, no report, and files of an earlier one
    key = f"{bucket.prefix}/report.json"
    obstore.delete(bucket.objects, key)
    obstore.put(bucket.objects, f"{bucket.prefix}/.natmap-upload", b"")
    obstore.put(bucket.objects, f"{bucket.prefix}/left.tif", b"")
    assert engine.publish(remote, base=country) == remote["publish"]
    left = {o["path"] for part in obstore.list(bucket.objects, bucket.prefix + "/") for o in part}
    assert left == names
    for secret in (os.environ["AWS_SECRET_ACCESS_KEY"], os.environ["AWS_ACCESS_KEY_ID"]):
        if len(secret) > 3:
            assert secret.encode() not in got
            for path in files:
                assert secret.encode() not in path.read_bytes()


def test_what_is_wrong_is_said(
    service: tuple[str, dict[str, str]], s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StoreError, match="without credentials") as hidden:
        place_of("s3://key:hush@bucket/store")
    assert "hush" not in str(hidden.value)
    for wrong in ("gs://bucket/store", "s3://bucket", "s3://bucket/store?sig=hush"):
        with pytest.raises(StoreError) as caught:
            place_of(wrong)
        assert "hush" not in str(caught.value)
    with pytest.raises(StoreError, match="natmap-nowhere"):
        Store.create(s3.replace("natmap", "natmap-nowhere", 1), GRID, [MAP])
    if service[0] == "ceph":  # the stand-in takes any key
        Store.create(s3, GRID, [MAP])
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret")
        with pytest.raises(StoreError, match="refuses the credentials") as caught:
            Store.open(s3)
        assert "AWS_SECRET_ACCESS_KEY" in str(caught.value)
        assert "wrong-secret" not in str(caught.value)
        with pytest.raises(StoreError, match="refuses the credentials"):
            Store.create(s3 + "2", GRID, [MAP])
