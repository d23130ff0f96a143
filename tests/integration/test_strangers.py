"""Another user of the machine gets into nothing that a run opens."""

from __future__ import annotations

import http.client
import os
import urllib.request
from contextlib import closing, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
from distributed import Scheduler
from support import shared
from support.stranger import knock

from engine.cube import gateway

ALL = {"in the clear", "without a certificate", "with another certificate"}


def refused(found: dict[str, str]) -> bool:
    return bool(found) and all(answer.startswith("refused") for answer in found.values())


def files_of(cluster: Any) -> dict[str, Path]:
    security = cluster._cluster.security
    return {"key": Path(security.tls_worker_key), "certificate": Path(security.tls_ca_file)}


def test_scheduler_workers_and_nannies_refuse_another_user() -> None:
    cluster = shared.workers()
    workers = cluster.client.scheduler_info(n_workers=-1)["workers"]
    doors = [cluster.client.scheduler.address, *workers, *(w["nanny"] for w in workers.values())]
    assert len(doors) == 5
    assert all(door.startswith("tls://") for door in doors)

    async def plain() -> Scheduler:
        return await Scheduler(host="127.0.0.1", dashboard=False, dashboard_address="127.0.0.1:0")

    # one that lets everybody in, by which the stranger is known to try in earnest
    other = cluster.client.sync(plain)
    try:
        keys = files_of(cluster)
        found = knock([*doors, other.address], files=[*map(str, keys.values())])
    finally:
        cluster.client.sync(other.close)
    assert found[other.address]["in the clear"] == "in"
    for door in doors:
        assert set(found[door]) == ALL
        assert refused(found[door]), (door, found[door])
    assert all(refused(found[str(path)]) for path in keys.values())


def test_the_key_is_told_to_no_process_and_lies_in_a_closed_folder() -> None:
    cluster = shared.workers()
    key = files_of(cluster)["key"]
    assert key.stat().st_mode & 0o777 == 0o600
    assert key.parent.stat().st_mode & 0o777 == 0o700
    secret = key.read_text().splitlines()[1]
    me = psutil.Process()
    children = me.children(recursive=True)
    assert len(children) >= 3  # workers, and what multiprocessing keeps beside them
    for process in (me, *children):
        with suppress(psutil.ZombieProcess, psutil.NoSuchProcess):  # of an earlier test, ended
            assert secret not in " ".join(process.cmdline())
            assert secret not in "".join(process.environ().values())


def test_pages_of_the_scheduler_and_the_workers_are_shut() -> None:
    cluster = shared.workers()
    link = cluster.dashboard
    assert link is not None
    port, word = urlsplit(link).port, urlsplit(link).path.split("/")[1]
    assert len(word) > 20
    own = link.replace("/status", "/info/main/workers.html")
    with urllib.request.urlopen(own) as answer:  # the user's own way in
        assert answer.status == 200
        assert b"tls://127.0.0.1" in answer.read()
    names = "/ /status /info/main/workers.html /json/counts.json /sitemap.json /eventstream /health"
    wrong = f"/{'x' * len(word)}/status /{word[:-1]}/status /{word} /{word}x/status /api/v1"
    pages = [f"GET http://127.0.0.1:{port}{path}" for path in f"{names} {wrong}".split()]
    workers = cluster.client.scheduler_info(n_workers=-1)["workers"].values()
    ports = [worker["services"]["dashboard"] for worker in workers]
    shut = ["/", "/health", "/metrics", "/info/main/workers.html"]
    pages += [f"GET http://127.0.0.1:{port}{path}" for port in ports for path in shut]
    pages += [f"POST http://127.0.0.1:{port}/api/v1/retire_workers"]
    found = knock(pages=pages)
    for page in pages:
        answer = found[page]["page"]
        # 400: a body of that length is refused without a look at the address
        assert answer.startswith(("404", "400")), (page, answer)
        assert word not in answer


def test_the_gateway_reads_nothing_of_another_user_s_request() -> None:
    here = gateway._gateway(os.getpid(), gateway._environment())
    start = f"http://127.0.0.1:{here.port}"
    wrong = ("x" * len(here.word), here.word[:-1], "")
    methods = ("GET", "HEAD", "WHY", "LEND", "PUT")
    pages = [f"{method} {start}/{word}/0/a/a.tif" for method in methods for word in wrong]
    for page, answer in knock(pages=pages).items():
        assert answer["page"].startswith("404"), (page, answer)


@pytest.mark.parametrize("length", ["-1", "1e3", "1048577", "99999999999999999999", ""])
def test_the_gateway_bounds_what_it_reads(length: str) -> None:
    here = gateway._gateway(os.getpid(), gateway._environment())
    with closing(http.client.HTTPConnection("127.0.0.1", here.port, timeout=120)) as line:
        line.putrequest("LEND", f"/{here.word}/0/a/a.tif")
        if length:
            line.putheader("Content-Length", length)
        line.endheaders()
        with line.getresponse() as answer:
            assert answer.status == 413
